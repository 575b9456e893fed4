"""The Frechet distance: closed forms, other people's computations, and its dependence on size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from eval.frechet import Moments, covariance_factor, frechet, frechet_distance

D = 6


def moments(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """Give known moments to a set of any size."""
    return Moments(1001, mean, covariance * 1000)


def rotated(values: np.ndarray, seed: int) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return np.asarray(q * values @ q.T)


def features(seed: int, *, num: int, width: int = D, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(seed // 100).normal(size=(width, width))
    return np.asarray(rng.normal(size=(num, width)) @ mixing + shift, np.float32)


def dealt(num: int, num_groups: int) -> np.ndarray:
    return np.arange(num) % num_groups


def test_gaussians_with_one_set_of_axes_have_the_distance_of_their_deviations() -> None:
    a, b = np.linspace(0.5, 3, D), np.linspace(4, 0.1, D)
    step = np.arange(D) / 10
    expected = (step**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(moments(step, rotated(a, 1)), moments(0 * step, rotated(b, 1)))
    assert found == pytest.approx(expected, rel=1e-9)


def test_gaussians_in_one_dimension_differ_by_mean_and_deviation() -> None:
    one, other = moments(np.array([3.0]), np.array([[4.0]])), moments(np.zeros(1), np.eye(1))
    assert frechet_distance(one, other) == pytest.approx(9 + 1, rel=1e-12)


def test_the_distance_is_that_of_a_matrix_square_root() -> None:
    a, b = rotated(np.linspace(0.5, 3, D), 1), rotated(np.linspace(4, 0.1, D), 2)
    expected = np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    found = frechet_distance(moments(np.zeros(D), a), moments(np.zeros(D), b))
    assert found == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments(np.zeros(D), b), moments(np.zeros(D), a)) == pytest.approx(
        found, rel=1e-12
    )


@pytest.mark.slow  # importing torchmetrics takes longer than all other tests here
def test_the_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = D

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    one, other = features(100, num=80), features(201, num=50, shift=0.4)
    peer = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    peer.update(torch.from_numpy(one).double(), real=False)
    peer.update(torch.from_numpy(other).double(), real=True)
    found = frechet_distance(Moments.of(one), Moments.of(other))
    assert found == pytest.approx(float(peer.compute()), rel=1e-6)


@pytest.mark.parametrize("num", [3, D, 200])
def test_a_set_has_no_distance_from_itself(num: int) -> None:
    one = Moments.of(features(1, num=num))
    assert abs(frechet_distance(one, one)) < 1e-7 * np.trace(one.covariance)


@pytest.mark.parametrize(("num", "num_other"), [(5, 7), (5, 400), (40, 41), (41, 12)])
def test_fewer_pictures_than_features_are_measured_exactly(num: int, num_other: int) -> None:
    one, other = features(1, num=num, width=40), features(102, num=num_other, width=40, shift=0.2)
    # Without any D x D matrix: the singular values of the pictures' own products.
    a, b = (
        (x - x.mean(0)).astype(np.float64) / np.sqrt(len(x) - 1)
        for x in (one.astype(np.float64), other.astype(np.float64))
    )
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    step = one.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)
    expected = step @ step + (a**2).sum() + (b**2).sum() - 2 * overlap
    found = frechet_distance(Moments.of(one), Moments.of(other))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [0, 2, D])
def test_a_factor_of_a_covariance_of_any_rank_gives_it_back(rank: int) -> None:
    values = np.array([3.0, 2, 1, 0.5, 0.2, 0.1]) * (np.arange(D) < rank)
    covariance = rotated(values, 3)
    factor = covariance_factor(covariance)
    assert np.allclose(factor @ factor.T, covariance, atol=1e-12)


def test_moments_of_blocks_add_up_and_are_taken_away_again() -> None:
    x = features(5, num=101, shift=1000)  # far from zero, where sums of squares lose their digits
    whole, part, rest = (Moments.of(v, block=16) for v in (x, x[:30], x[30:]))
    exact = x.astype(np.float64)
    assert np.allclose(whole.mean, exact.mean(0), rtol=1e-12)
    assert np.allclose(whole.covariance, np.cov(exact.T), rtol=1e-9)
    for made, expected in ((part + rest, whole), (whole - part, rest)):
        assert made.num == expected.num
        assert np.allclose(made.mean, expected.mean, rtol=1e-12)
        assert np.allclose(made.covariance, expected.covariance, rtol=1e-8)
    assert (whole - whole).num == 0


def test_identical_gaussians_in_64_dimensions_have_the_known_distances() -> None:
    rng = np.random.default_rng(0)
    for num, known in ((200, 11.3), (5000, 0.45)):
        found = [
            frechet_distance(*(Moments.of(rng.normal(size=(num, 64))) for _ in range(2)))
            for _ in range(4)
        ]
        assert np.mean(found) == pytest.approx(known, rel=0.05)


def grown(one: np.ndarray, other: np.ndarray, num_groups: int = 20) -> Any:
    return frechet(
        one, other,
        groups=dealt(len(one), num_groups), reference_groups=dealt(len(other), num_groups),
        num_groups=num_groups,
    )  # fmt: skip


def test_at_infinite_size_identical_distributions_have_no_distance() -> None:
    rng = np.random.default_rng(1)
    found = [
        grown(rng.normal(size=(400, 16)), rng.normal(size=(600, 16)), num_groups=8)
        for _ in range(8)
    ]
    whole = np.array([f.whole.value for f in found])
    infinity = np.array([f.infinity.value for f in found])
    # 2 d / n for the means and d (d + 1) / (4 n) for the covariances of each set, to first order.
    first_order = (16 + 16 * 17 / 4) * (1 / 400 + 1 / 600)
    assert whole.mean() == pytest.approx(first_order, rel=0.1)
    assert abs(infinity.mean()) < 0.1 * first_order


def test_at_infinite_size_the_distance_is_that_of_the_distributions() -> None:
    rng = np.random.default_rng(2)
    scale = np.linspace(0.5, 1.5, 16)
    expected = 16 * 0.2**2 + ((scale - 1) ** 2).sum()
    found = [
        grown(rng.normal(size=(600, 16)) * scale + 0.2, rng.normal(size=(600, 16)), num_groups=8)
        for _ in range(8)
    ]
    infinity = np.array([f.infinity.value for f in found])
    error = infinity.std(ddof=1) / np.sqrt(len(infinity))
    assert abs(infinity.mean() - expected) < 4 * error
    assert np.mean([f.whole.value for f in found]) - expected > 6 * error


def test_every_size_is_the_mean_of_its_parts() -> None:
    one, other = features(1, num=80), features(102, num=120, shift=0.1)
    found = grown(one, other, num_groups=8)
    assert [(p.num_parts, p.num, p.num_reference) for p in found.points] == [
        (1, 80, 120), (2, 40, 60), (4, 20, 30)
    ]  # fmt: skip
    for point in found.points:
        parts = [
            frechet_distance(
                Moments.of(one[dealt(80, 8) % point.num_parts == part]),
                Moments.of(other[dealt(120, 8) % point.num_parts == part]),
            )
            for part in range(point.num_parts)
        ]
        assert point.value == pytest.approx(np.mean(parts), rel=1e-9)


def test_without_a_group_the_distance_is_that_of_the_other_pictures() -> None:
    one, other = features(1, num=80), features(102, num=120, shift=0.1)
    found = grown(one, other, num_groups=10)
    for group in (0, 7):
        a, b = one[dealt(80, 10) != group], other[dealt(120, 10) != group]
        rest = frechet_distance(Moments.of(a), Moments.of(b))
        assert found.whole.left_out[group] == pytest.approx(rest, rel=1e-9)
        sizes, values = [], []
        for p in (1, 2, 4):
            masks = [
                [(dealt(n, 10) % p == part) & (dealt(n, 10) != group) for n in (80, 120)]
                for part in range(p)
            ]
            values.append(
                np.mean(
                    [frechet_distance(Moments.of(one[m]), Moments.of(other[r])) for m, r in masks]
                )
            )
            sizes.append(np.mean([1 / m.sum() for m, _ in masks]))
        line = np.polyfit(sizes, values, 1)
        assert found.infinity is not None
        assert found.infinity.left_out[group] == pytest.approx(line[1], rel=1e-6)


@pytest.mark.parametrize(("num", "num_fitted"), [(30, 0), (44, 1), (84, 2), (160, 3)])
def test_parts_with_fewer_pictures_than_features_are_shown_and_not_extrapolated(
    num: int, num_fitted: int
) -> None:
    rng = np.random.default_rng(3)
    found = grown(rng.normal(size=(num, 40)), rng.normal(size=(400, 40)))
    assert [p.is_fitted for p in found.points] == [i < num_fitted for i in range(3)]
    assert (found.infinity is None) == (num_fitted < 2)
    assert np.isfinite(found.whole.left_out).all()


def test_a_reference_too_small_to_be_cut_is_measured_whole() -> None:
    rng = np.random.default_rng(4)
    found = frechet(
        rng.normal(size=(40, 3)), rng.normal(size=(4, 3)),
        groups=dealt(40, 20), reference_groups=np.array([0, 4, 8, 12]), num_groups=20,
    )  # fmt: skip
    assert [p.num_parts for p in found.points] == [1]
    assert np.isfinite(found.whole.left_out).all()
