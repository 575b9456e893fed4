"""Intervals of distances: what they reduce to, and how often they hold the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval.frechet import frechet
from eval.intervals import t_interval
from eval.jackknife import Estimate, assign_groups, intervals
from eval.mmd import FeatureSet, discrepancy, kernel_sums
from eval.two_way import two_way_interval
from launch.errors import InputError
from launch.manifest import digest_bytes

K, D, SIGMA = 20, 4, 2.0


def of_mean(values: np.ndarray) -> Estimate:
    """A mean whose groups are single values."""
    total, num = values.sum(), len(values)
    return Estimate(float(total / num), (total - values) / (num - 1))


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.random.default_rng(0).normal(size=30)
    found = intervals([of_mean(values)])
    expected = t_interval(values)
    assert (found.given_models.low, found.given_models.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert found.with_seeds is None


def test_from_four_training_seeds_on_an_interval_includes_them() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(4, 1)) + rng.normal(size=(4, 30))
    assert intervals([of_mean(row) for row in matrix[:3]]).with_seeds is None
    found = intervals([of_mean(row) for row in matrix])
    expected = two_way_interval(matrix)
    assert found.with_seeds is not None
    assert (found.with_seeds.low, found.with_seeds.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert found.given_models.half_width < found.with_seeds.half_width


def test_bias_that_depends_on_size_widens_no_interval() -> None:
    values = np.random.default_rng(2).normal(size=30)
    plain = of_mean(values)
    biased = Estimate(plain.value + 50 / 30, plain.left_out + 50 / 29)
    narrow, wide = intervals([plain]).given_models, intervals([biased]).given_models
    assert wide.half_width == pytest.approx(narrow.half_width)
    assert wide.estimate == pytest.approx(narrow.estimate + 50 / 30)


def test_groups_are_of_equal_size_and_reproducible() -> None:
    prompts = [digest_bytes(f"{i}".encode()) for i in range(103)]
    others = [digest_bytes(f"other {i}".encode()) for i in range(58)]
    found = assign_groups(prompts, [*others, *prompts[:9]], num_groups=10, seed=0)
    assert found == assign_groups(prompts[::-1], others, num_groups=10, seed=0)
    assert found != assign_groups(prompts, others, num_groups=10, seed=1)
    for clusters in (prompts, others):
        sizes = np.bincount([found[c] for c in clusters])
        assert len(sizes) == 10
        assert sizes.max() - sizes.min() <= 1


def test_with_fewer_prompts_than_groups_each_prompt_is_left_out() -> None:
    found = assign_groups(["a", "b", "c"], ["d"], num_groups=20, seed=0)
    assert sorted(found[p] for p in "abc") == [0, 1, 2]


def test_two_prompts_are_too_few() -> None:
    with pytest.raises(InputError, match="at least 3"):
        assign_groups(["a", "b"], ["c", "d"], num_groups=20, seed=0)


# --------------------------------------------------------------------------- coverage

MEANS = {"one": np.array([0.5, 0.0, 0.2, 0.0]), "other": np.array([0.2, 0.3, 0.0, 0.0])}
KEPT = {"one": 0.6, "other": 0.9}
"""How much of what a prompt asks for an arm draws."""

OWN = 0.6
"""Deviation of what pictures of one prompt do not share."""


def study(rng: np.random.Generator, *, num: int) -> dict[str, FeatureSet]:
    """Draw two seeds a prompt for two arms, and as many reference pictures without as with one."""
    content = rng.normal(size=(2 * num, D))
    prompts = np.arange(num)
    made = {
        arm: FeatureSet(
            np.repeat(KEPT[arm] * content[:num], 2, axis=0)
            + OWN * rng.normal(size=(2 * num, D))
            + MEANS[arm],
            np.repeat(prompts, 2),
            np.repeat(prompts % K, 2),
        )
        for arm in MEANS
    }
    clusters = np.arange(2 * num)
    reference = content + OWN * rng.normal(size=(2 * num, D))
    return {**made, "reference": FeatureSet(reference, clusters, clusters % num % K)}


def mmd_difference(drawn: dict[str, FeatureSet]) -> Estimate:
    real = kernel_sums(drawn["reference"], drawn["reference"], num_groups=K, sigma=SIGMA)
    one, other = (
        discrepancy(
            kernel_sums(drawn[arm], drawn[arm], num_groups=K, sigma=SIGMA),
            kernel_sums(drawn[arm], drawn["reference"], num_groups=K, sigma=SIGMA),
            real,
        )
        for arm in MEANS
    )
    return one.minus(other)


def true_mmd_difference() -> float:
    def kernel(mean: Any, variance: float, other: Any, of_other: float) -> float:
        spread = SIGMA**2 + variance + of_other
        step = np.asarray(mean) - np.asarray(other)
        return float((SIGMA**2 / spread) ** (D / 2) * np.exp(-step @ step / (2 * spread)))

    def squared(arm: str) -> float:
        own = KEPT[arm] ** 2 + OWN**2
        between = kernel(MEANS[arm], own, np.zeros(D), 1 + OWN**2)
        return kernel(MEANS[arm], own, MEANS[arm], own) - 2 * between

    return 1000 * (squared("one") - squared("other"))


def mmd_coverage(num_trials: int, *, num: int) -> float:
    rng = np.random.default_rng(0)
    truth = true_mmd_difference()
    held = []
    for _ in range(num_trials):
        interval = intervals([mmd_difference(study(rng, num=num))]).given_models
        held.append(interval.low <= truth <= interval.high)
    return float(np.mean(held))


def test_intervals_of_discrepancy_differences_hold_the_truth_as_often_as_they_say() -> None:
    # 200 trials of 95% have a standard error of 1.5 points.
    assert 0.91 <= mmd_coverage(200, num=60) <= 0.985


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num", [20, 60, 300])
def test_intervals_of_discrepancy_differences_hold_the_truth_at_every_size(num: int) -> None:
    share = mmd_coverage(2000 if num < 300 else 500, num=num)
    print(f"CMMD, {num} prompts: {100 * share:.1f}% of 95% intervals hold the truth")
    assert 0.93 <= share <= 0.985


def frechet_differences(rng: np.random.Generator, *, num: int) -> tuple[Estimate, Estimate]:
    drawn = study(rng, num=num)
    one, other = (
        frechet(
            drawn[arm].features, drawn["reference"].features,
            groups=drawn[arm].groups, reference_groups=drawn["reference"].groups, num_groups=K,
        )
        for arm in MEANS
    )  # fmt: skip
    assert one.infinity is not None
    assert other.infinity is not None
    return one.whole.minus(other.whole), one.infinity.minus(other.infinity)


def true_frechet_difference() -> float:
    def distance(arm: str) -> float:
        deviation = np.sqrt(KEPT[arm] ** 2 + OWN**2) - np.sqrt(1 + OWN**2)
        return float(MEANS[arm] @ MEANS[arm] + D * deviation**2)

    return distance("one") - distance("other")


def frechet_coverage(num_trials: int, *, num: int) -> tuple[float, float]:
    """Return how often intervals hold FID's expectation, and at infinity the distributions' own."""
    rng = np.random.default_rng(0)
    found = [frechet_differences(rng, num=num) for _ in range(num_trials)]
    mean = float(np.mean([whole.value for whole, _ in found]))
    truth = true_frechet_difference()
    covered = []
    for whole, infinity in found:
        a, b = intervals([whole]).given_models, intervals([infinity]).given_models
        covered.append((a.low <= mean <= a.high, b.low <= truth <= b.high))
    whole_share, infinity_share = np.mean(covered, axis=0).tolist()
    return whole_share, infinity_share


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num", [40, 200])
def test_intervals_of_fid_differences_hold_the_truth_at_every_size(num: int) -> None:
    whole, infinity = frechet_coverage(400, num=num)
    print(f"FID, {num} prompts: {100 * whole:.1f}%; at infinite size: {100 * infinity:.1f}%")
    assert 0.92 <= whole <= 0.99
    assert 0.92 <= infinity <= 0.99
