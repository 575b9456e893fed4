"""The interval over training seeds and prompts, against the simpler ones that it contains."""

from __future__ import annotations

import numpy as np
import pytest

from eval.intervals import NO_SPREAD, t_interval
from eval.two_way import two_way_interval, two_way_p
from launch.errors import InputError


def test_the_two_way_interval_contains_the_one_over_seed_means() -> None:
    generator = np.random.default_rng(7)
    for _ in range(20):
        matrix = generator.normal(size=(5, 1)) + generator.normal(size=(5, 30))
        two_way = two_way_interval(matrix)
        seeds = t_interval(matrix.mean(axis=1))
        assert two_way.low <= seeds.low + 1e-12
        assert two_way.high >= seeds.high - 1e-12


def test_without_seed_effects_the_two_way_interval_is_the_one_over_prompts() -> None:
    prompts = np.random.default_rng(8).normal(size=100)
    two_way = two_way_interval(np.tile(prompts, (4, 1)))
    assert two_way.low == pytest.approx(t_interval(prompts).low)


def test_the_two_way_p_is_where_the_interval_touches_zero() -> None:
    generator = np.random.default_rng(9)
    matrix = 0.2 + 0.1 * generator.normal(size=(4, 1)) + generator.normal(size=(4, 60))
    p = two_way_p(matrix)
    assert two_way_interval(matrix, level=1 - p).low == pytest.approx(0, abs=1e-9)


def test_differences_that_are_all_alike_have_no_interval_and_the_p_of_swapped_signs() -> None:
    alike = np.full((6, 30), 0.1)
    found = two_way_interval(alike)
    assert (found.low, found.high, found.method) == (-np.inf, np.inf, NO_SPREAD)
    assert two_way_p(alike) == 2**-5  # the fewer units are the six seeds
    assert two_way_p(np.full((6, 3), 0.1)) == 2**-2
    assert two_way_p(np.zeros((6, 30))) == 1


def test_of_many_matrices_only_those_without_spread_are_bounded() -> None:
    varied = 0.3 + np.random.default_rng(1).normal(size=(4, 20))
    p = two_way_p(np.stack([varied, np.full((4, 20), 7.0)]))
    assert p[0] == two_way_p(varied)
    assert p[1] == 2**-3


def test_a_variance_that_is_estimated_as_zero_is_not_taken_for_zero() -> None:
    matrix = 1 + np.tile([[1.0, -1.0], [-1.0, 1.0]], (2, 10))  # what varies is rest alone
    assert two_way_interval(matrix).low == -np.inf
    assert two_way_p(matrix) == 2**-3


def test_one_seed_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"1 training seeds and 9 prompts.*Train another seed"):
        two_way_interval(np.zeros((1, 9)))
