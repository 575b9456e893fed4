"""Answers with their uncertainty: paired differences, intervals, tests, power, multiplicity.

The unit of independence is the *prompt cluster*: all rows with one `pair_id`. Pictures of one
prompt resemble each other, so intervals that take pictures for independent are too narrow. Two
arms are compared on the same prompts, noise and training seeds, row against row; rows are matched
by their keys, never by their order, and a row without its partner is an error.

Two kinds of interval:

* *given the models*: over prompts, with the trained models as they are. Student's t over the
  cluster means; a bootstrap over clusters and a sign-flip test stand beside it as checks.
* *including training seeds*: prompts and training seeds both drawn at random, from
  `MIN_SEEDS` seeds on (`two_way_interval`). Below that the differences by seed are listed, and
  not pooled.

An interval that contains zero is an answer too: *not distinguishable*. Everything here is a pure
function of its arguments; resampling is keyed by a seed.

S training seeds, P prompt clusters, N rows, B resamples, K comparisons
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from scipy import stats

from launch.errors import InputError

Array: TypeAlias = NDArray[Any]

MIN_SEEDS = 4
"""Training seeds from which on an interval may include them; with three, the variance between
seeds rests on two degrees of freedom and the interval says next to nothing."""

LEVEL = 0.95
"""Level of every interval that is printed."""

POWER = 0.8
"""Power at which the smallest detectable difference is stated."""

# Numbers of one block of resamples: small enough that a block stays in memory that is near.
_BLOCK = 1 << 21


class Verdict(Enum):
    """What may be said of a difference."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the range that its uncertainty allows."""

    estimate: float
    """Point estimate."""

    low: float
    """Lower end."""

    high: float
    """Upper end."""

    standard_error: float
    """Standard error of the estimate; NaN where it cannot be known."""

    df: float
    """Degrees of freedom behind the standard error; infinite for a bootstrap."""

    level: float = LEVEL
    """Share of repetitions in which such an interval holds the truth."""

    method: str
    """How it was made, in a few words."""

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    @property
    def is_above_zero(self) -> bool:
        """True if the whole interval lies above zero."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """True if the whole interval lies below zero."""
        return self.high < 0


class Rows(NamedTuple):
    """Scores of one arm: one entry per generated picture, in any order."""

    pair: Shaped[np.ndarray, " N"]
    """Cluster: `pair_id`."""

    prompt: Shaped[np.ndarray, " N"]
    """`prompt_id`."""

    model_seed: Int64[np.ndarray, " N"]
    """Seed of the model's training."""

    seed: Int64[np.ndarray, " N"]
    """Seed of the picture's noise."""

    value: Float[np.ndarray, " N"]
    """Score."""


class Paired(NamedTuple):
    """Differences between two arms, a mean for every training seed and cluster."""

    matrix: Float[np.ndarray, "S P"]
    """Mean difference over the cluster's prompts and noise seeds."""

    model_seeds: Int64[np.ndarray, " S"]
    """Training seeds of the rows of the matrix."""

    pairs: Shaped[np.ndarray, " P"]
    """Clusters of the columns."""

    num_pictures: int
    """Pictures of one arm that went in."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against another, on one measure."""

    given_models: Interval
    """Over prompts, conditional on the trained models."""

    with_seeds: Interval | None
    """Over prompts and training seeds, from `MIN_SEEDS` seeds on."""

    by_seed: tuple[tuple[int, float], ...]
    """Difference of every training seed."""

    bootstrap: Interval | None = None
    """Over prompts by resampling, a check of `given_models`."""

    p_value: float
    """Two-sided p of the deciding interval's test."""

    p_sign_flip: float | None = None
    """Two-sided p by flipping signs of clusters, conditional on the trained models."""

    num_prompts: int
    """Prompt clusters."""

    num_pictures: int
    """Pictures of one arm."""

    @property
    def deciding(self) -> Interval:
        """The interval that the verdict rests on: with training seeds, where there is one."""
        return self.with_seeds or self.given_models

    @property
    def difference(self) -> float:
        """Mean difference."""
        return self.given_models.estimate

    @property
    def num_seeds(self) -> int:
        """Training seeds."""
        return len(self.by_seed)

    @property
    def smallest_detectable(self) -> float:
        """The difference that this design finds with 80% power."""
        return smallest_detectable(self.deciding)

    @property
    def verdict(self) -> Verdict:
        """What the deciding interval alone allows to say."""
        if self.deciding.is_above_zero:
            return Verdict.BETTER
        if self.deciding.is_below_zero:
            return Verdict.WORSE
        return Verdict.NOT_DISTINGUISHABLE

    def verdict_at(self, p_value: float) -> Verdict:
        """What may be said once the p-value has been corrected for other comparisons."""
        if not p_value < 1 - self.deciding.level or self.difference == 0:
            return Verdict.NOT_DISTINGUISHABLE
        return Verdict.BETTER if self.difference > 0 else Verdict.WORSE


# --------------------------------------------------------------------------- pairing


def cluster_means(rows: Rows) -> Float[np.ndarray, " P"]:
    """Return the mean of every cluster over its pictures and training seeds, ordered by cluster."""
    _, code = np.unique(rows.pair, return_inverse=True)
    return np.asarray(np.bincount(code, weights=rows.value) / np.bincount(code))


def pair_rows(
    one: Rows,
    other: Rows,
    *,
    names: tuple[str, str] = ("one", "other"),
    name_of: Callable[[Any], object] = str,
) -> Paired:
    """Subtract the rows of `other` from those of `one`, matched by prompt, noise and training seed.

    Training seeds that only one of the two has are left out; within the seeds that both have,
    every row needs its partner.

    Args:
        one: Rows of the first arm.
        other: Rows of the second.
        names: Names of the two arms, for messages.
        name_of: Turns an entry of `Rows.prompt` into the name of that prompt, for messages.

    Raises:
        InputError: No training seed in common, a key twice, or a row without partner.
    """
    shared = np.intersect1d(one.model_seed, other.model_seed)
    if not len(shared):
        raise InputError(
            f"comparison of {names[0]} with {names[1]}: no training seed in common "
            f"({_listed(one.model_seed)} against {_listed(other.model_seed)}). "
            "Train both with the same seeds."
        )
    one, other = (_select(r, np.isin(r.model_seed, shared)) for r in (one, other))
    first, second = _keys(one, other)
    one, first = _in_order(one, first, name=names[0], name_of=name_of)
    other, second = _in_order(other, second, name=names[1], name_of=name_of)
    if len(first) != len(second) or not np.array_equal(first, second):
        lonely_one, lonely_other = np.setdiff1d(first, second), np.setdiff1d(second, first)
        rows, key, keys, name = (
            (one, lonely_one[0], first, names[1])
            if len(lonely_one)
            else (other, lonely_other[0], second, names[0])
        )
        at = int(np.searchsorted(keys, key))
        raise InputError(
            f"comparison of {names[0]} with {names[1]}: {len(lonely_one) + len(lonely_other):,} "
            f"rows have no partner; arm {name} lacks prompt {name_of(rows.prompt[at])}, noise seed "
            f"{rows.seed[at]}, training seed {rows.model_seed[at]}. Sample and score it again."
        )
    pairs, column = np.unique(one.pair, return_inverse=True)
    row = np.searchsorted(shared, one.model_seed)
    cell = row * len(pairs) + column
    size = len(shared) * len(pairs)
    count = np.bincount(cell, minlength=size)
    if not count.all():
        at = int(np.argmin(count))
        raise InputError(
            f"comparison of {names[0]} with {names[1]}: prompt cluster {pairs[at % len(pairs)]} "
            f"has no picture of training seed {shared[at // len(pairs)]}. Sample and score it."
        )
    total = np.bincount(cell, weights=one.value - other.value, minlength=size)
    return Paired(
        matrix=(total / count).reshape(len(shared), len(pairs)),
        model_seeds=shared,
        pairs=pairs,
        num_pictures=len(one.value),
    )


def _listed(seeds: Array) -> str:
    return ", ".join(str(s) for s in np.unique(seeds)) or "none"


def _select(rows: Rows, where: Array) -> Rows:
    return Rows(*(column[where] for column in rows))


def _keys(one: Rows, other: Rows) -> tuple[Array, Array]:
    """Number the keys (training seed, prompt, noise seed) of both alike."""
    key = np.zeros(len(one.value) + len(other.value), np.int64)
    for a, b in ((one.model_seed, other.model_seed), (one.prompt, other.prompt),
                 (one.seed, other.seed)):  # fmt: skip
        values, code = np.unique(np.concatenate([a, b]), return_inverse=True)
        key = key * max(len(values), 1) + code
    return key[: len(one.value)], key[len(one.value) :]


def _in_order(
    rows: Rows, key: Array, *, name: str, name_of: Callable[[Any], object]
) -> tuple[Rows, Array]:
    order = np.argsort(key, kind="stable")
    rows, key = _select(rows, order), key[order]
    twice = np.flatnonzero(key[1:] == key[:-1])
    if len(twice):
        at = int(twice[0])
        raise InputError(
            f"arm {name}: two rows for prompt {name_of(rows.prompt[at])}, noise seed "
            f"{rows.seed[at]}, training seed {rows.model_seed[at]}; expected one. Score it again."
        )
    return rows, key


# --------------------------------------------------------------------------- intervals


def t_interval(values: Float[np.ndarray, " P"], *, level: float = LEVEL) -> Interval:
    """Return Student's interval of the mean of independent values, one per cluster.

    With a single value nothing is known of the spread, and the interval is unbounded.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return Interval(
            estimate=mean, low=-np.inf, high=np.inf, standard_error=np.nan, df=0.0,
            level=level, method="t over clusters",
        )  # fmt: skip
    error = float(values.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(
        estimate=mean, low=mean - half, high=mean + half, standard_error=error,
        df=float(n - 1), level=level, method="t over clusters",
    )  # fmt: skip


def two_way_interval(matrix: Float[np.ndarray, "S P"], *, level: float = LEVEL) -> Interval:
    """Return an interval of the mean where both training seeds and prompts were drawn at random.

    The model is difference = mean + seed + prompt + rest, all three random. The variance of the
    mean is (MS_S + MS_P - MS_E) / (S P), of the mean squares of seeds, prompts and rest. Each part
    gets the t quantile of its own degrees of freedom, as in the methods that combine intervals of
    variance components (Howe 1974, Graybill and Wang 1980, Zou and Donner 2008):

        half^2 = (t_S^2 MS_S + max(0, t_P^2 MS_P - t_S t_P MS_E)) / (S P)

    It is never narrower than the t interval over the seeds' own means. The factor of the last
    term is ours: over seeds 4 to 16, prompts 30 to 500 and effects from none to dominant, 95%
    intervals covered the truth in 93.9 to 96.9% of 20,000 simulated studies. A pooled df after
    Satterthwaite covered in 93.5 to 98.7% there, a t interval over the seeds' means, which takes
    the prompts as given, in as little as 0% (no seed effect) to 95%.

    Raises:
        InputError: Fewer than two seeds or two clusters.
    """
    if min(matrix.shape) < 2:
        raise InputError(
            f"two-way interval: needs at least 2 training seeds and 2 prompts, got {matrix.shape}"
        )
    mean, error = float(matrix.mean()), _two_way_error(matrix)
    half = _two_way_half(matrix, level=level)
    return Interval(
        estimate=mean, low=mean - half, high=mean + half, standard_error=error,
        df=float(matrix.shape[0] - 1), level=level, method="two-way over seeds and prompts",
    )  # fmt: skip


def _mean_squares(matrix: Array) -> tuple[float, float, float]:
    num_seeds, num_prompts = matrix.shape
    mean = matrix.mean()
    by_seed, by_prompt = matrix.mean(axis=1), matrix.mean(axis=0)
    rest = matrix - by_seed[:, None] - by_prompt[None, :] + mean
    return (
        float(num_prompts * ((by_seed - mean) ** 2).sum() / (num_seeds - 1)),
        float(num_seeds * ((by_prompt - mean) ** 2).sum() / (num_prompts - 1)),
        float((rest**2).sum() / ((num_seeds - 1) * (num_prompts - 1))),
    )


def _two_way_error(matrix: Array) -> float:
    seeds, prompts, rest = _mean_squares(matrix)
    return float(np.sqrt((seeds + max(prompts - rest, 0.0)) / matrix.size))


def _two_way_half(matrix: Array, *, level: float) -> float:
    num_seeds, num_prompts = matrix.shape
    seeds, prompts, rest = _mean_squares(matrix)
    t_seeds = float(stats.t.ppf((1 + level) / 2, num_seeds - 1))
    t_prompts = float(stats.t.ppf((1 + level) / 2, num_prompts - 1))
    square = t_seeds**2 * seeds + max(0.0, t_prompts**2 * prompts - t_seeds * t_prompts * rest)
    return float(np.sqrt(square / matrix.size))


def two_way_p(matrix: Float[np.ndarray, "S P"]) -> float:
    """Return the p at which the two-way interval would just touch zero."""
    mean = abs(float(matrix.mean()))
    low, high = 0.0, 1.0
    # The half-width falls from infinity to zero as p goes from 0 to 1; 60 halvings reach 1e-18.
    for _ in range(60):
        middle = (low + high) / 2
        if _two_way_half(matrix, level=1 - middle) >= mean:  # equal where nothing varies: p is 1
            low = middle
        else:
            high = middle
    return high


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
    about 20 trust the t interval.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    means = np.concatenate(list(_resampled_means(values, resamples=resamples, seed=seed)))
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    spread = values - mean
    if method == "bca" and spread.any():
        below = (np.sum(means < mean) + np.sum(means == mean) / 2) / resamples
        z0 = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
        acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
        z = z0 + stats.norm.ppf(tails)
        tails = stats.norm.cdf(z0 + z / (1 - acceleration * z))
    low, high = np.quantile(means, tails)
    return Interval(
        estimate=mean, low=float(low), high=float(high),
        standard_error=float(means.std(ddof=1)), df=np.inf, level=level,
        method=f"{method} bootstrap over clusters, {resamples:,} resamples",
    )  # fmt: skip


def generator_of(seed: int, stream: str) -> np.random.Generator:
    """Return a generator keyed by a seed and the purpose of its draws."""
    from launch.keyed import stream_key

    key = stream_key(seed, stream).astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=int(key[0]) | int(key[1]) << 32))


def _resampled_means(values: Array, *, resamples: int, seed: int) -> Iterator[Array]:
    generator = generator_of(seed, "bootstrap")
    block = max(1, _BLOCK // len(values))
    for start in range(0, resamples, block):
        size = (min(block, resamples - start), len(values))
        yield values[generator.integers(0, len(values), size)].mean(axis=1)


def ratio_interval(
    numerator: Float[np.ndarray, " P"],
    denominator: Float[np.ndarray, " P"],
    *,
    level: float = LEVEL,
) -> Interval:
    """Return an interval of a ratio of sums within [0, 1], such as precision over pictures.

    Claims of one picture are not independent, so the picture is the unit. Variance by
    linearisation (Cochran 1977, "Sampling Techniques", 3rd ed., section 6.3), on the logit scale
    so that the interval stays inside; a ratio of exactly 0 or 1, where that scale ends, takes
    Wilson's limits with one observation per picture.
    """
    keep = np.asarray(denominator) > 0
    top = np.asarray(numerator, np.float64)[keep]
    bottom = np.asarray(denominator, np.float64)[keep]
    n = len(top)
    if not n:
        return Interval(
            estimate=np.nan, low=np.nan, high=np.nan, standard_error=np.nan, df=0.0,
            level=level, method="ratio over pictures",
        )  # fmt: skip
    ratio = float(top.sum() / bottom.sum())
    quantile = float(stats.t.ppf((1 + level) / 2, max(n - 1, 1)))
    residual = top - ratio * bottom
    error = float(np.sqrt(n / max(n - 1, 1) * (residual**2).sum()) / bottom.sum())
    if 0 < ratio < 1 and n > 1:
        logit, step = np.log(ratio / (1 - ratio)), quantile * error / (ratio * (1 - ratio))
        low, high = (1 / (1 + np.exp(-(logit + s * step))) for s in (-1, 1))
    else:
        z2 = float(stats.norm.ppf((1 + level) / 2)) ** 2
        low, high = (ratio * n / (n + z2), (ratio * n + z2) / (n + z2))
    return Interval(
        estimate=ratio, low=float(low), high=float(high), standard_error=error,
        df=float(n - 1), level=level, method="ratio over pictures",
    )  # fmt: skip


# --------------------------------------------------------------------------- tests and power


def wilson_interval(successes: float, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% interval of a share.

    Source: Wilson 1927.
    """
    if num == 0:
        return 0.0, 1.0
    share = successes / num
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def t_p(values: Float[np.ndarray, " P"]) -> float:
    """Return the two-sided p of Student's test that the mean of the clusters is zero."""
    interval = t_interval(values)
    if not interval.df:
        return 1.0
    if interval.standard_error == 0:
        return float(interval.estimate == 0)
    statistic = abs(interval.estimate) / interval.standard_error
    return float(2 * stats.t.sf(statistic, interval.df))


def sign_flip_p(values: Float[np.ndarray, " P"], *, resamples: int, seed: int) -> float:
    """Return the two-sided p of the permutation test that swaps the two arms cluster by cluster.

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


def holm(p_values: Sequence[float] | Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Return p-values corrected so that the chance of any false alarm stays below the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def smallest_detectable(interval: Interval, *, power: float = POWER) -> float:
    """Return the true difference that a design as precise as this one would find with this power.

    Source: Bloom 1995, "Minimum detectable effects".
    """
    if not interval.df:
        return np.inf
    return interval.half_width + float(stats.t.ppf(power, interval.df)) * interval.standard_error


# --------------------------------------------------------------------------- the whole answer


def compare(paired: Paired, *, resamples: int = 0, seed: int = 0) -> Comparison:
    """Answer how much one arm differs from the other, and how sure that is.

    Args:
        paired: Differences by training seed and cluster, from `pair_rows`.
        resamples: Resamples of the bootstrap and of the sign-flip test; 0 leaves both out.
        seed: Seed of the resampling.
    """
    matrix = paired.matrix
    clusters = matrix.mean(axis=0)
    has_seeds = matrix.shape[0] >= MIN_SEEDS and matrix.shape[1] > 1
    return Comparison(
        given_models=t_interval(clusters),
        with_seeds=two_way_interval(matrix) if has_seeds else None,
        by_seed=tuple(
            (int(s), float(d)) for s, d in zip(paired.model_seeds, matrix.mean(axis=1), strict=True)
        ),
        bootstrap=(
            bootstrap_interval(clusters, resamples=resamples, seed=seed)
            if resamples and len(clusters) > 1
            else None
        ),
        p_value=two_way_p(matrix) if has_seeds else t_p(clusters),
        p_sign_flip=(sign_flip_p(clusters, resamples=resamples, seed=seed) if resamples else None),
        num_prompts=matrix.shape[1],
        num_pictures=paired.num_pictures,
    )
