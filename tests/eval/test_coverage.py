"""Intervals and corrected tests hold what they say, in 2,000 simulated studies each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval.intervals import Interval, t_interval, t_p
from eval.resampling import bootstrap_interval
from eval.stats import holm
from eval.two_way import two_way_interval, two_way_p

TRIALS = 2000
TRUTH = 1.5

SEED_EFFECTS = [(0.1, 1.0, 0.7, 0.7), (0.3, 1.0, 0.3, 0.5), (1.0, 1.0, 0.5, 0.5)]
"""Standard deviations of training seed, prompt, both together, noise."""


def studies(
    *, seeds: int, prompts: int, images: int = 1, sd: tuple[float, float, float, float]
) -> np.ndarray:
    """Draw differences [trial, S, P, G] with effects of training seed, prompt, both, and noise."""
    generator = np.random.default_rng(11)
    shapes = [(seeds, 1, 1), (1, prompts, 1), (seeds, prompts, 1), (seeds, prompts, images)]
    parts = (
        s * generator.normal(size=(TRIALS, *shape)) for s, shape in zip(sd, shapes, strict=True)
    )
    return TRUTH + sum(parts)


def holds(interval: Interval, truth: float = TRUTH) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("seeds", [4, 8])
@pytest.mark.parametrize("sd", SEED_EFFECTS, ids=str)
def test_intervals_with_training_seeds_cover_new_models_on_new_prompts(
    seeds: int, sd: tuple[float, float, float, float]
) -> None:
    matrices = studies(seeds=seeds, prompts=60, images=2, sd=sd).mean(axis=-1)
    held = two_way_p(matrices - TRUTH) >= 0.05
    assert 0.93 <= np.mean(held) <= 0.97
    assert [holds(two_way_interval(m)) for m in matrices[:50]] == held[:50].tolist()


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_given_the_models_cover_what_these_models_do_on_new_prompts(seeds: int) -> None:
    differences = studies(seeds=seeds, prompts=60, images=2, sd=(0.0, 1.0, 0.5, 0.5))
    models = 0.5 * np.random.default_rng(3).normal(size=(TRIALS, seeds, 1, 1))
    intervals = [t_interval(d.mean(axis=(0, 2))) for d in differences + models]
    of_these = [holds(i, TRUTH + m.mean()) for i, m in zip(intervals, models, strict=True)]
    assert 0.93 <= np.mean(of_these) <= 0.97
    new_models = [holds(i) for i in intervals]
    assert np.mean(new_models) < 0.75, "this interval says nothing of training again"


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_intervals_cover_the_truth(method: str) -> None:
    held = [
        holds(bootstrap_interval(d.mean(axis=(0, 2)), resamples=400, seed=i, method=method))  # type: ignore[arg-type]
        for i, d in enumerate(studies(seeds=1, prompts=100, sd=(0.0, 1.0, 0.0, 1.0)))
    ]
    assert 0.93 <= np.mean(held) <= 0.97


def test_taking_pictures_for_independent_is_too_sure_of_itself() -> None:
    sd = (0.0, 1.0, 0.0, 1.0)
    pictures, clusters = np.array(
        [
            (holds(t_interval(d.ravel())), holds(t_interval(d.mean(axis=(0, 2)))))
            for d in studies(seeds=1, prompts=60, images=4, sd=sd)
        ]
    ).mean(axis=0)
    assert pictures < 0.85
    assert 0.93 <= clusters <= 0.97


def test_taking_pictures_of_several_models_for_independent_is_worse() -> None:
    held = [
        holds(t_interval(d.ravel()))
        for d in studies(seeds=4, prompts=60, images=2, sd=(0.3, 1.0, 0.3, 0.5))
    ]
    assert np.mean(held) < 0.6


@pytest.mark.parametrize("seeds", [1, 4])
def test_ten_null_axes_rarely_raise_a_false_alarm_after_correction(seeds: int) -> None:
    generator = np.random.default_rng(5)
    axes = generator.normal(size=(TRIALS, 10, seeds, 40))
    axes += 0.7 * generator.normal(size=(TRIALS, 10, 1, 40))
    if seeds > 1:
        p = two_way_p(axes + 0.1 * generator.normal(size=(TRIALS, 10, seeds, 1)))
    else:
        p = ttest_1samp(axes[:, :, 0], 0, axis=-1).pvalue
        np.testing.assert_allclose(p[:20], [[t_p(values) for values in s] for s in axes[:20, :, 0]])
    assert np.mean([holm(of_study).min() < 0.05 for of_study in p]) <= 0.06
    assert np.mean(p.min(axis=1) < 0.05) > 0.25, "without a correction alarms are common"
