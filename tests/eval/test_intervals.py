"""Intervals of means and shares: parity with scipy and limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.intervals import NO_SPREAD, ratio_interval, smallest_detectable, t_interval, t_p


def test_the_t_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=40)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = t_interval(values)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert t_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


@pytest.mark.parametrize("value", [5.0, -0.1, 1e-6])
def test_values_without_spread_have_no_interval_and_the_p_of_swapped_signs(value: float) -> None:
    alike = np.full(12, value)
    found = t_interval(alike)
    assert (found.low, found.high, found.method) == (-np.inf, np.inf, NO_SPREAD)
    assert found.estimate == pytest.approx(value)
    assert t_p(alike) == 2**-11
    assert smallest_detectable(found) == np.inf
    # Rounding is no spread: 0.1 added up and divided is not 0.1.
    assert t_p(alike * (1 + 1e-14 * np.arange(12))) == 2**-11
    assert t_p(alike * (1 + 1e-3 * np.arange(12))) < 2**-11


def test_values_that_are_all_zero_are_no_evidence() -> None:
    assert t_p(np.zeros(12)) == 1
    assert t_interval(np.zeros(12)).high == np.inf


def test_the_ratio_interval_treats_the_picture_as_the_unit() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(200) < 0.8  # a caption is right or wrong as a whole
    four = ratio_interval(right * 4.0, np.full(200, 4.0))
    one = ratio_interval(right * 1.0, np.ones(200))
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    assert one.standard_error == pytest.approx(right.std(ddof=1) / np.sqrt(200))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_a_ratio_and_its_interval_stay_between_zero_and_one(counts: list[tuple[int, int]]) -> None:
    top = np.array([min(a, b) for a, b in counts], float)
    bottom = np.array([b for _, b in counts], float)
    interval = ratio_interval(top, bottom)
    if bottom.any():
        assert 0 <= interval.low <= interval.estimate + 1e-12
        assert interval.estimate - 1e-12 <= interval.high <= 1
    else:
        assert np.isnan(interval.estimate)


def test_the_smallest_detectable_difference_is_found_with_the_stated_power() -> None:
    interval = t_interval(np.random.default_rng(0).normal(size=40))
    shift = smallest_detectable(interval) / interval.standard_error
    critical = stats.t.ppf(0.975, interval.df)
    power = stats.nct.sf(critical, interval.df, shift)
    assert power == pytest.approx(0.8, abs=0.01)
