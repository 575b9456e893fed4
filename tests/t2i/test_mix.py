from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import keyed
from launch.errors import ConfigError
from t2i.mix import choose_kinds, kind_order

IDS = np.arange(20_000, dtype=np.uint64)
UNIFORM = keyed.uniform(0, "caption", epoch=0, ids=IDS)


def test_alt_lies_last_and_the_others_keep_their_order() -> None:
    assert kind_order({"alt": 0.1, "dsc": 0.5, "ssc": 0.4}) == ("dsc", "ssc", "alt")


def test_shares_are_realised() -> None:
    counts = np.bincount(choose_kinds(UNIFORM, {"alt": 0.05, "ssc": 0.15, "dsc": 0.8}))
    np.testing.assert_allclose(counts / len(IDS), [0.15, 0.8, 0.05], atol=0.01)


@given(st.floats(0, 1), st.floats(0, 1))
def test_draws_of_different_ratios_nest(a: float, b: float) -> None:
    low, high = sorted((a, b))
    fewer = choose_kinds(UNIFORM, {"alt": 1 - low, "dsc": low}) == 0
    more = choose_kinds(UNIFORM, {"alt": 1 - high, "dsc": high}) == 0
    assert not (fewer & ~more).any()


def test_names_do_not_change_a_draw() -> None:
    first = choose_kinds(UNIFORM, {"dsc": 0.7, "alt": 0.3})
    second = choose_kinds(UNIFORM, {"other": 0.7, "alt": 0.3})
    assert (first == second).all()


def test_a_kind_of_share_zero_is_never_drawn() -> None:
    edges = np.array([0.0, 0.5, np.nextafter(1, 0)])
    assert choose_kinds(edges, {"dsc": 1.0, "alt": 0.0}).tolist() == [0, 0, 0]
    assert choose_kinds(edges, {"dsc": 0.0, "alt": 1.0}).tolist() == [1, 1, 1]


def test_thirds_leave_no_gap_below_one() -> None:
    mix = {"a": 1 / 3, "b": 1 / 3, "alt": 1 / 3}
    assert choose_kinds(np.array([np.nextafter(1, 0)]), mix).tolist() == [2]


@pytest.mark.parametrize("mix", [{}, {"alt": 0.9}, {"alt": 1.2, "dsc": -0.2}])
def test_a_mix_that_is_no_distribution_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        choose_kinds(UNIFORM, mix)
