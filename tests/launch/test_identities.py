from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import keyed
from launch.errors import InputError
from launch.identities import find, heads_of, is_repeated, packed, unpacked

identity = st.binary(min_size=16, max_size=16).map(bytes.hex)
alike = st.tuples(st.sampled_from(["0" * 16, "f" * 16]), st.binary(min_size=8, max_size=8)).map(
    lambda halves: halves[0] + halves[1].hex()
)


@given(st.lists(identity), st.booleans())
def test_packing_can_be_undone(names: list[str], in_capitals: bool) -> None:
    given_ = [name.upper() for name in names] if in_capitals else names
    assert unpacked(packed(given_)) == names


@given(st.lists(identity, min_size=1))
def test_packed_identities_sort_as_their_digits_do(names: list[str]) -> None:
    assert unpacked(np.sort(packed(names))) == sorted(names)


@given(st.lists(identity))
def test_the_keys_of_draws_are_those_of_the_digits(names: list[str]) -> None:
    assert np.array_equal(heads_of(packed(names)), keyed.words(names))


@given(st.lists(identity | alike, unique=True), st.lists(identity | alike))
def test_what_is_there_is_found_and_nothing_else(there: list[str], others: list[str]) -> None:
    names = sorted(there)
    wanted = [*others, *names]
    expected = [names.index(name) if name in names else -1 for name in wanted]
    assert find(packed(wanted), among=packed(names)).tolist() == expected
    order = np.argsort(packed(there), kind="stable")
    unsorted = [there.index(name) if name in there else -1 for name in wanted]
    assert find(packed(wanted), among=packed(there), order=order).tolist() == unsorted


@given(st.lists(identity, max_size=6), st.integers(0, 6))
def test_blocks_and_slices_of_a_column_are_packed_as_one(names: list[str], cut: int) -> None:
    column = pa.chunked_array([names[:cut], names[cut:]], pa.string())
    assert np.array_equal(packed(column), packed(names))
    assert np.array_equal(packed(pa.array(names, pa.string())[cut:]), packed(names[cut:]))


@given(st.lists(st.integers(0, 5)))
def test_a_value_is_repeated_from_its_second_place_on(values: list[int]) -> None:
    expected = [value in values[:i] for i, value in enumerate(values)]
    assert is_repeated(np.array(values, np.int64)).tolist() == expected


@pytest.mark.parametrize("wrong", ["ab", "g" * 32, "0" * 31 + " ", "a" * 33, "\u00e9" * 16])
def test_what_is_no_identity_is_named(wrong: str) -> None:
    with pytest.raises(InputError, match=f"identity '{wrong}', expected 32 hexadecimal digits"):
        packed(["0" * 32, wrong])
