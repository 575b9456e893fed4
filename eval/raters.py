"""How far raters agree: with each other, with themselves, and with automatic metrics.

Agreement between raters is Krippendorff's alpha, which takes any number of raters, votes that are
missing, and values in order (one arm, tie, the other arm). Agreement with oneself is the share of
repeats answered alike although the sides were swapped. Agreement with a metric is the share of
votes other than ties in which the picture that the metric scores higher was preferred.

U units (what is voted on), V values, R raters, P prompt clusters, B resamples
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray

from eval.intervals import LEVEL, Interval, ratio_interval, wilson_interval
from eval.resampling import generator_of

Array: TypeAlias = NDArray[Any]
Metric: TypeAlias = Literal["nominal", "ordinal", "interval"]


# --------------------------------------------------------------------------- with each other


def coincidences(
    unit: Int64[np.ndarray, " N"], value: Int64[np.ndarray, " N"], *, num_values: int
) -> Float[np.ndarray, "U V V"]:
    """Return the coincidence matrix of every unit; one with fewer than two votes is all zero.

    Args:
        unit: Number of what each vote is about.
        value: Number of each vote's value, in its order.
        num_values: How many values there are.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D.
    """
    counts = np.zeros((int(unit.max(initial=-1)) + 1, num_values))  # [U, V]
    np.add.at(counts, (unit, value), 1)
    votes = counts.sum(axis=1)
    pairs = counts[:, :, None] * counts[:, None, :]  # [U, V, V]
    pairs -= counts[:, :, None] * np.eye(num_values)  # a vote makes no pair with itself
    return pairs / np.maximum(votes - 1, 1)[:, None, None]


def alpha_of(
    coincidence: Float[np.ndarray, "*B V V"], *, metric: Metric
) -> Float[np.ndarray, "*B"]:
    """Return Krippendorff's alpha of summed coincidence matrices.

    1 is agreement, 0 what chance would give, below 0 is disagreement. NaN where nobody voted twice
    on anything or all votes are alike, so that there is nothing to agree on.
    """
    margin = coincidence.sum(axis=-1)  # [..., V]
    num = margin.sum(axis=-1)
    apart = _apart(margin, metric)  # [..., V, V]
    observed = (coincidence * apart).sum(axis=(-2, -1))
    expected = (margin[..., :, None] * margin[..., None, :] * apart).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (num - 1) * observed / expected
    return np.where(expected > 0, alpha, np.nan)


def _apart(margin: Array, metric: Metric) -> Array:
    """Return the squared distance of every two values."""
    num_values = margin.shape[-1]
    places = np.arange(num_values)
    match metric:
        case "nominal":
            return np.broadcast_to(1.0 - np.eye(num_values), (*margin.shape, num_values))
        case "interval":
            apart = (places[:, None] - places[None, :]).astype(float) ** 2
            return np.broadcast_to(apart, (*margin.shape, num_values))
        case "ordinal":
            # Votes at or between two values, those at the ends counted half.
            middle = margin.cumsum(axis=-1) - margin / 2
            apart_ordinal: Array = (middle[..., :, None] - middle[..., None, :]) ** 2
            return apart_ordinal


def alpha(
    unit: Int64[np.ndarray, " N"],
    value: Int64[np.ndarray, " N"],
    cluster: Shaped[np.ndarray, " N"],
    *,
    num_values: int,
    metric: Metric,
    resamples: int,
    seed: int,
) -> Interval:
    """Return alpha with a percentile bootstrap over clusters of units.

    Args:
        unit: Number of what each vote is about.
        value: Number of each vote's value, in its order.
        cluster: Prompt of each vote's unit; units of one prompt are drawn together.
        num_values: How many values there are.
        metric: What values' distance is.
        resamples: Resamples.
        seed: Seed of the resampling.
    """
    by_unit = coincidences(unit, value, num_values=num_values)
    _, first = np.unique(unit, return_index=True)
    _, code = np.unique(cluster[first], return_inverse=True)
    by_cluster = np.zeros((int(code.max(initial=-1)) + 1, num_values, num_values))
    np.add.at(by_cluster, code, by_unit[unit[first]])
    estimate = float(alpha_of(by_unit.sum(axis=0), metric=metric))
    num = len(by_cluster)
    method = f"percentile bootstrap over prompts, {resamples:,} resamples"
    if num < 2 or np.isnan(estimate):
        return Interval(
            estimate=estimate, low=-np.inf, high=np.inf, standard_error=np.nan, df=0.0,
            method=method,
        )  # fmt: skip
    drawn = generator_of(seed, "bootstrap of alpha").integers(0, num, (resamples, num))
    counts = np.apply_along_axis(np.bincount, 1, drawn, minlength=num)  # [B, P]
    sums = (counts @ by_cluster.reshape(num, -1)).reshape(resamples, num_values, num_values)
    alphas = alpha_of(sums, metric=metric)
    alphas = alphas[~np.isnan(alphas)]
    low, high = np.quantile(alphas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(
        estimate=estimate, low=float(low), high=float(high),
        standard_error=float(alphas.std(ddof=1)) if len(alphas) > 1 else np.nan, df=np.inf,
        method=method,
    )  # fmt: skip


# --------------------------------------------------------------------------- with oneself


class Share(NamedTuple):
    """A share of votes with Wilson's 95% interval."""

    count: int
    num: int

    @property
    def value(self) -> float:
        """Return the share; NaN of nothing."""
        return self.count / self.num if self.num else float("nan")

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends of its interval."""
        return wilson_interval(self.count, self.num)


# --------------------------------------------------------------------------- with metrics


def metric_agreement(
    preferred: Float[np.ndarray, " N"],
    difference: Float[np.ndarray, " N"],
    prompt: Shaped[np.ndarray, " N"],
) -> Interval:
    """Return the share of votes that a metric's difference predicts, clustered by prompt.

    A pair that the metric scores alike counts one half, as a guess would, so that chance is one
    half whatever the metric.

    Args:
        preferred: 1 where the left picture was preferred, -1 where the right one; no ties.
        difference: Score of the left picture less that of the right one.
        prompt: Cluster of each vote.
    """
    is_right = (np.sign(difference) * preferred + 1) / 2
    _, code = np.unique(prompt, return_inverse=True)
    total: Callable[[Array], Array] = lambda w: np.bincount(code, weights=w)  # noqa: E731
    return ratio_interval(total(is_right), total(np.ones(len(code))))
