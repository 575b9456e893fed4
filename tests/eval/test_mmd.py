"""The unbiased discrepancy: a double loop, a closed form, and pictures that resemble each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from eval import mmd
from eval.mmd import FeatureSet, discrepancy, kernel_sums

K = 5


def feature_set(features: np.ndarray, clusters: Any) -> FeatureSet:
    clusters = np.asarray(clusters, np.int64)
    return FeatureSet(features, clusters, clusters % K)


def estimate(one: FeatureSet, other: FeatureSet, **settings: Any) -> Any:
    return discrepancy(
        kernel_sums(one, one, num_groups=K, **settings),
        kernel_sums(one, other, num_groups=K, **settings),
        kernel_sums(other, other, num_groups=K, **settings),
    )


def by_loops(
    one: FeatureSet, other: FeatureSet, *, sigma: float, is_left_out: Callable[[int], bool]
) -> float:
    def mean(a: FeatureSet, b: FeatureSet) -> float:
        found = []
        for x, cluster, group in zip(*a, strict=True):
            for y, other_cluster, other_group in zip(*b, strict=True):
                if cluster != other_cluster and not is_left_out(group) | is_left_out(other_group):
                    distance = sum((float(p) - float(q)) ** 2 for p, q in zip(x, y, strict=True))
                    found.append(np.exp(-distance / (2 * sigma**2)))
        return float(np.mean(found))

    return 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))


@pytest.fixture(scope="module")
def sets() -> tuple[FeatureSet, FeatureSet]:
    """Three pictures of each of 10 prompts; of a reference of 14, eight are the prompts' own."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) + 0.3, rng.normal(size=(14, 4))
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    return (
        feature_set(x.astype(np.float32), np.arange(30) % 10),
        feature_set(y.astype(np.float32), np.arange(14) + 2),
    )


@pytest.mark.parametrize("sigma", [10.0, 0.7])
def test_the_discrepancy_is_that_of_a_double_loop(
    sets: tuple[FeatureSet, FeatureSet], sigma: float
) -> None:
    found = estimate(*sets, sigma=sigma)
    expected = by_loops(*sets, sigma=sigma, is_left_out=lambda group: False)
    assert found.value == pytest.approx(expected, rel=1e-6)
    for left in range(K):
        expected = by_loops(*sets, sigma=sigma, is_left_out=lambda g, out=left: bool(g == out))
        assert found.left_out[left] == pytest.approx(expected, rel=1e-6)


def test_blocks_change_no_discrepancy(
    sets: tuple[FeatureSet, FeatureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = estimate(*sets)
    for block in (1, 7, 13):
        monkeypatch.setattr(mmd, "BLOCK", block)
        found = estimate(*sets)
        assert found.value == pytest.approx(expected.value, rel=1e-9)
        assert found.left_out == pytest.approx(expected.left_out, rel=1e-9)


def test_a_set_has_no_discrepancy_from_itself(sets: tuple[FeatureSet, FeatureSet]) -> None:
    one, _ = sets
    again = FeatureSet(one.features.copy(), one.clusters, one.groups)
    assert abs(estimate(one, again).value) < 1e-9


def expected_kernel(
    mean: np.ndarray, covariance: np.ndarray, other: np.ndarray, of_other: np.ndarray, sigma: float
) -> float:
    """Integrate the kernel over two Gaussians: it is a Gaussian of their difference."""
    spread = sigma**2 * np.eye(len(mean)) + covariance + of_other
    step = mean - other
    scale = np.sqrt(sigma ** (2 * len(mean)) / np.linalg.det(spread))
    return float(scale * np.exp(-step @ np.linalg.solve(spread, step) / 2))


def test_the_discrepancy_of_gaussians_is_unbiased_although_pictures_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(1)
    num, d, sigma = 15, 3, 1.5
    shift = np.array([0.4, 0.0, -0.2])
    own, shared = 0.5, 1.0
    found, without_diagonal = [], []
    for _ in range(150):
        content = rng.normal(size=(num, d)) * shared
        x = np.repeat(content, 2, axis=0) + own * rng.normal(size=(2 * num, d)) + shift
        y = content + own * rng.normal(size=(num, d))  # the picture that the prompt speaks of
        prompts = np.arange(num)
        found.append(
            estimate(
                feature_set(x, np.repeat(prompts, 2)), feature_set(y, prompts), sigma=sigma
            ).value
        )
        without_diagonal.append(
            estimate(
                feature_set(x, np.arange(2 * num)),
                feature_set(y, np.arange(num) + 2 * num),
                sigma=sigma,
            ).value
        )
    covariance = (own**2 + shared**2) * np.eye(d)
    zero = np.zeros(d)
    within = expected_kernel(zero, covariance, zero, covariance, sigma)
    between = expected_kernel(shift, covariance, zero, covariance, sigma)
    expected = 1000 * (2 * within - 2 * between)
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 4 * error
    # Leaving out no more than the diagonal takes the likeness of one prompt for that of arms.
    assert abs(np.mean(without_diagonal) - expected) > 5 * error
