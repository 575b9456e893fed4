"""Checks of an interval that assume no distribution: bootstrap and sign flips.

Every draw is keyed by a seed and a purpose, so the same arguments give the same answer.

S training seeds, P prompt clusters, B resamples
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from eval.intervals import LEVEL, Array, Interval, is_spread, without_spread

# Numbers of one block of resamples: small enough that a block stays in memory that is near.
_BLOCK = 1 << 21

# The same for the bootstrap, whose indices are wider: 1.5 times as fast as with blocks of 2^21.
_BOOTSTRAP_BLOCK = 1 << 17


def bootstrap_interval(
    values: Float[np.ndarray, " P"],
    *,
    resamples: int,
    seed: int,
    level: float = LEVEL,
    method: Literal["percentile", "bca"] = "bca",
) -> Interval:
    """Return a bootstrap interval of the mean, resampling clusters.

    Source: Efron 1987, "Better bootstrap confidence intervals", for `bca`; the acceleration of a
    mean has a closed form, so no jackknife is run. Too few clusters make it too narrow: below
    about 20 trust the t interval. Clusters that are all alike have an unbounded one.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    error = values.std() / np.sqrt(len(values))
    if not is_spread(error, largest=np.abs(values).max()):
        return without_spread(mean, df=np.inf, level=level)
    means = np.concatenate(list(_resampled_means(values, resamples=resamples, seed=seed)))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    spread = values - mean
    if method == "bca":
        below = (np.sum(means < mean) + np.sum(means == mean) / 2) / resamples
        z0 = special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
        acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
        z = z0 + special.ndtri(tails)
        tails = special.ndtr(z0 + z / (1 - acceleration * z))
    low, high = np.quantile(means, tails)
    return Interval(
        estimate=mean, low=float(low), high=float(high),
        standard_error=float(means.std(ddof=1)), df=np.inf, level=level,
        method=f"{method} bootstrap over clusters, {resamples:,} resamples",
    )  # fmt: skip


def _resampled_means(values: Array, *, resamples: int, seed: int) -> Iterator[Array]:
    generator = generator_of(seed, "bootstrap")
    block = max(1, _BOOTSTRAP_BLOCK // len(values))
    for start in range(0, resamples, block):
        size = (min(block, resamples - start), len(values))
        yield values[generator.integers(0, len(values), size)].mean(axis=1)


def sign_flip_p(values: Float[np.ndarray, " P"], *, resamples: int, seed: int) -> float:
    """Return the two-sided p of the permutation test that swaps the two arms unit by unit.

    Units are prompt clusters, which takes the trained models as given, or training seeds, which
    takes the prompts as given.

    All sign patterns are tried where there are no more of them than `resamples`; otherwise
    `resamples` random ones, and the observed pattern counts as one of them, so p is never 0.
    """
    values = np.asarray(values, np.float64)
    observed = abs(values.sum()) * (1 - 1e-12)  # equal sums differ by rounding
    if 2 ** min(len(values), 62) <= resamples:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ values) >= observed))
    generator = generator_of(seed, "sign flip")
    reached, block = 0, max(1, _BLOCK // len(values))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        num_bytes = -(-len(values) // 8)
        bits = np.frombuffer(generator.bytes(count * num_bytes), np.uint8).reshape(count, -1)
        flips = np.unpackbits(bits, axis=1, count=len(values))
        sums = 2 * (flips.astype(np.float64) @ values) - values.sum()
        reached += int(np.sum(np.abs(sums) >= observed))
    return (reached + 1) / (resamples + 1)


def generator_of(seed: int, stream: str) -> np.random.Generator:
    """Return a generator keyed by a seed and the purpose of its draws."""
    from launch.keyed import stream_key

    key = stream_key(seed, stream).astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=int(key[0]) | int(key[1]) << 32))
