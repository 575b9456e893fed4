"""The interval over training seeds and prompts, against the simpler ones that it contains."""

from __future__ import annotations

import numpy as np
import pytest

from eval.intervals import t_interval
from eval.two_way import two_way_interval, two_way_p


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
