"""Bootstrap and sign flips: parity with scipy, and the same draws for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from eval import resampling
from eval.intervals import t_p
from eval.resampling import bootstrap_interval, sign_flip_p


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_agrees_with_scipy(method: str) -> None:
    values = np.random.default_rng(1).gamma(0.7, size=60)
    ours = bootstrap_interval(values, resamples=20_000, seed=0, method=method)  # type: ignore[arg-type]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method.replace("bca", "BCa"),
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.02 * values.std())


def test_the_same_seed_gives_the_same_bootstrap() -> None:
    values = np.random.default_rng(2).normal(size=30)
    first, second, other = (bootstrap_interval(values, resamples=300, seed=s) for s in (1, 1, 2))
    assert first == second
    assert first != other


def test_blocks_do_not_change_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=16)
    whole = bootstrap_interval(values, resamples=64, seed=1)
    monkeypatch.setattr(resampling, "_BOOTSTRAP_BLOCK", 64)
    assert bootstrap_interval(values, resamples=64, seed=1) == whole


def test_few_clusters_are_permuted_exactly() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert sign_flip_p(values, resamples=1000, seed=0) == 2 / 32
    theirs = stats.permutation_test(
        (values, np.zeros(5)), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True,
    )  # fmt: skip
    assert theirs.pvalue == 2 / 32


def test_random_sign_flips_agree_with_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.15, 1, size=150)
    flipped = sign_flip_p(values, resamples=8000, seed=0)
    assert flipped == pytest.approx(t_p(values), abs=0.015)
    assert sign_flip_p(np.ones(100), resamples=100, seed=0) == 1 / 101
