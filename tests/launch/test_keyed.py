"""Keyed draws: known answers, independence of order and of company, and distributions."""

from __future__ import annotations

import time
from inspect import unwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from launch import keyed
from launch.errors import InputError

# Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

distinct_ids = st.lists(
    st.integers(min_value=0, max_value=2**64 - 1), min_size=1, max_size=40, unique=True
).map(lambda numbers: np.array(numbers, dtype=np.uint64))


def some_ids(num: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, num, dtype=np.uint64)


def hex_words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    found = keyed.philox4x32(hex_words(counter)[None], hex_words(key))
    assert found.dtype == np.uint32
    assert found.tolist() == [hex_words(answer).tolist()]


def test_philox_treats_every_row_alone() -> None:
    rows = np.stack([hex_words(counter) for counter, _, _ in KNOWN_ANSWERS])
    key = hex_words(KNOWN_ANSWERS[2][1])
    together = keyed.philox4x32(rows, key)
    alone = np.concatenate([keyed.philox4x32(row[None], key) for row in rows])
    assert np.array_equal(together, alone)


def test_draws_never_change_between_versions() -> None:
    # Results that were published with these draws depend on them.
    ids = keyed.words(["00112233445566778899aabbccddeeff", "f" * 32])
    assert [hex(x) for x in ids] == ["0x11223344556677", "0xffffffffffffffff"]
    assert GOLDEN["key"] == keyed.stream_key(7, "noise").tolist()
    assert GOLDEN["uniform"] == keyed.uniform(7, "caption", epoch=3, ids=ids).tolist()
    assert GOLDEN["integers"] == keyed.integers(7, "crop", epoch=3, ids=ids, high=1000).tolist()
    noise = keyed.normal(7, "noise", epoch=3, ids=ids, shape=(3,))
    np.testing.assert_array_almost_equal_nulp(noise, np.array(GOLDEN["normal"], np.float32))


def test_a_draw_is_the_counter_that_the_design_names() -> None:
    ids = keyed.words(["0011223344556677" + "0" * 16])
    counter = np.array([[0, 5, 0x44556677, 0x00112233]], dtype=np.uint32)  # block, epoch, id
    word = keyed.philox4x32(counter, keyed.stream_key(1, "caption"))[0]
    whole = (int(word[0]) >> 5) * 2**26 + (int(word[1]) >> 6)
    assert keyed.uniform(1, "caption", epoch=5, ids=ids)[0] == whole / 2**53


@given(ids=distinct_ids, data=st.data(), epoch=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_order_and_company_change_no_draw(ids: np.ndarray, data: st.DataObject, epoch: int) -> None:
    chosen = data.draw(st.permutations(range(len(ids))))[: data.draw(st.integers(1, len(ids)))]
    rows = np.array(chosen)
    for draw in (
        lambda x: keyed.uniform(3, "a", epoch=epoch, ids=x),
        lambda x: keyed.uniform(3, "a", epoch=epoch, ids=x, count=3),
        lambda x: keyed.normal(3, "a", epoch=epoch, ids=x, shape=(2, 3)),
        lambda x: keyed.integers(3, "a", epoch=epoch, ids=x, high=17),
    ):
        assert np.array_equal(draw(ids)[rows], draw(ids[rows]))


@given(ids=distinct_ids, data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_sequence_of_a_subset_is_that_of_the_whole(
    ids: np.ndarray, data: st.DataObject
) -> None:
    subset = data.draw(st.permutations(range(len(ids))))[: data.draw(st.integers(1, len(ids)))]
    some = ids[np.array(subset)]
    whole_sequence = ids[keyed.permutation(0, "order", epoch=1, ids=ids)]
    sequence = some[keyed.permutation(0, "order", epoch=1, ids=some)]
    assert sequence.tolist() == [x for x in whole_sequence.tolist() if x in set(some.tolist())]


def test_large_draws_equal_the_same_draws_in_pieces() -> None:
    ids = some_ids(300)
    whole = keyed.normal(0, "noise", epoch=2, ids=ids, shape=(4, 32, 32))
    pieces = [
        keyed.normal(0, "noise", epoch=2, ids=ids[i : i + 7], shape=(4, 32, 32))
        for i in range(0, 300, 7)
    ]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    ids = some_ids(9)
    long = keyed.uniform(0, "a", epoch=0, ids=ids, count=7)
    assert np.array_equal(long[:, :4], keyed.uniform(0, "a", epoch=0, ids=ids, count=4))
    assert np.array_equal(long[:, 0], keyed.uniform(0, "a", epoch=0, ids=ids))
    wide = keyed.normal(0, "a", epoch=0, ids=ids, shape=(10,))
    assert np.array_equal(wide[:, :3], keyed.normal(0, "a", epoch=0, ids=ids, shape=(3,)))


def test_one_epoch_per_id_equals_one_call_per_epoch() -> None:
    ids = some_ids(5)
    epochs = np.array([4, 0, 4, 2, 1])
    found = keyed.normal(0, "a", epoch=epochs, ids=ids, shape=(3,))
    for row, epoch in enumerate(epochs):
        alone = keyed.normal(0, "a", epoch=int(epoch), ids=ids[row : row + 1], shape=(3,))
        assert np.array_equal(found[row], alone[0])


@pytest.mark.parametrize("change", [{"seed": 1}, {"stream": "b"}, {"epoch": 1}])
def test_seed_stream_and_epoch_give_independent_draws(change: dict[str, object]) -> None:
    ids = some_ids(20_000)

    def draw(seed: int = 0, stream: str = "a", epoch: int = 0) -> np.ndarray:
        return keyed.uniform(seed, stream, epoch=epoch, ids=ids)

    assert abs(stats.spearmanr(draw(), draw(**change)).statistic) < 0.03  # type: ignore[arg-type]


def test_seed_and_stream_cannot_be_mistaken_for_each_other() -> None:
    keys = {tuple(keyed.stream_key(s, t).tolist()) for s in range(12) for t in ("1", "11", "a")}
    assert len(keys) == 36


def test_uniform_draws_are_uniform_and_below_one() -> None:
    draws = keyed.uniform(0, "a", epoch=0, ids=some_ids(20_000), count=3)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.01


def test_neighbouring_ids_give_independent_draws() -> None:
    draws = keyed.uniform(0, "a", epoch=0, ids=np.arange(20_000, dtype=np.uint64))
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03


def test_normal_draws_are_normal_and_uncorrelated() -> None:
    draws = keyed.normal(0, "noise", epoch=0, ids=some_ids(5000), shape=(2, 4))
    assert draws.shape == (5000, 2, 4)
    assert draws.dtype == np.float32
    flat = draws.reshape(5000, 8).astype(np.float64)
    assert stats.kstest(flat.ravel(), "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(flat.T) - np.eye(8)).max() < 0.06


def test_integers_cover_their_range_evenly() -> None:
    draws = keyed.integers(0, "a", epoch=0, ids=some_ids(20_000), high=7)
    assert stats.chisquare(np.bincount(draws, minlength=7)).pvalue > 0.01


def test_permutations_of_two_epochs_differ_and_hold_every_row() -> None:
    ids = some_ids(500)
    first, second = (keyed.permutation(0, "order", epoch=e, ids=ids) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(500))
    assert abs(stats.spearmanr(first, second).statistic) < 0.15


def test_thresholding_one_uniform_nests_the_draws_of_mixing_ratios() -> None:
    draws = keyed.uniform(0, "caption", epoch=0, ids=some_ids(2000))
    assert set(np.flatnonzero(draws < 0.65)) < set(np.flatnonzero(draws < 0.95))


def test_nothing_drawn_for_nobody() -> None:
    none = keyed.words([])
    assert keyed.uniform(0, "a", epoch=0, ids=none).shape == (0,)
    assert keyed.normal(0, "a", epoch=0, ids=none, shape=(4, 8, 8)).shape == (0, 4, 8, 8)
    assert keyed.permutation(0, "a", epoch=0, ids=none).shape == (0,)


@pytest.mark.parametrize("wrong", ["4f2a", "g" * 32, " " * 32, "a" * 31 + "\n" + "a", "-1" * 16])
def test_anything_but_32_hexadecimal_digits_is_no_sample_id(wrong: str) -> None:
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        keyed.words(["0" * 32, wrong])


def test_ids_that_are_not_words_are_refused() -> None:
    with pytest.raises(InputError, match="uint64"):
        unwrap(keyed.uniform)(0, "a", epoch=0, ids=np.arange(3))
    with pytest.raises(InputError, match="epoch"):
        keyed.uniform(0, "a", epoch=-1, ids=some_ids(3))
    with pytest.raises(InputError, match="one per id"):
        keyed.uniform(0, "a", epoch=np.zeros(2, dtype=np.int64), ids=some_ids(3))
    with pytest.raises(InputError, match="stream"):
        keyed.uniform(0, "", epoch=0, ids=some_ids(3))


def test_noise_for_a_batch_costs_little() -> None:
    ids = some_ids(64)
    times = []
    for epoch in range(20):
        start = time.perf_counter()
        keyed.normal(0, "noise", epoch=epoch, ids=ids, shape=(4, 8, 8))
        times.append(time.perf_counter() - start)
    # About 1 ms on one core of a 2020s server; the limit allows for a busy machine.
    assert min(times) < 0.01


GOLDEN = {
    "key": [2915025980, 3633177732],
    "uniform": [0.5066965027464901, 0.5027171082769977],
    "integers": [773, 15],
    "normal": [
        [1.1944310665130615, -0.5401749610900879, -0.3063298165798187],
        [-1.9809664487838745, 0.5377188920974731, 0.5668658018112183],
    ],
}
