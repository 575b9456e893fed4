"""Intervals of a mean, a ratio and a share over independent units, and what such a design finds.

A unit is a prompt cluster, a picture or whatever else was drawn independently; which of them, the
caller says by what it hands in. Pure functions of their arguments.

P units
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import special

Array: TypeAlias = NDArray[Any]

LEVEL = 0.95
"""Level of every interval that is printed."""

POWER = 0.8
"""Power at which the smallest detectable difference is stated."""


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
    """Standard error of the estimate; NaN where it cannot be known, 0 where nothing was seen to
    vary, which leaves the interval unbounded."""

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


NO_SPREAD = "no interval: values without spread tell nothing of their variance"
"""Method of an interval that is unbounded because nothing was seen to vary."""

_ROUNDING = 1e-9
"""Standard error, as a share of the largest value, below which it is rounding alone."""


def is_spread(
    standard_error: Float[np.ndarray, "*K"] | float, *, largest: Float[np.ndarray, "*K"] | float
) -> Bool[np.ndarray, "*K"]:
    """Say whether values vary by more than rounding, so that their variance can be known.

    Args:
        standard_error: Standard error of their mean.
        largest: The largest of them without its sign.
    """
    return np.asarray(standard_error > _ROUNDING * np.asarray(largest))


def without_spread(estimate: float, *, df: float, level: float = LEVEL) -> Interval:
    """Return the interval of values that are all alike: unbounded, with a standard error of 0."""
    return Interval(
        estimate=estimate, low=-np.inf, high=np.inf, standard_error=0.0, df=df, level=level,
        method=NO_SPREAD,
    )  # fmt: skip


def smallest_flip_p(num: int) -> float:
    """Return the smallest two-sided p that flipping the signs of so many units can give.

    Of the 2^num patterns the observed one and its mirror image always reach what was observed.
    """
    return min(1.0, 2.0 ** (1 - num))


def t_interval(values: Float[np.ndarray, " P"], *, level: float = LEVEL) -> Interval:
    """Return Student's interval of the mean of independent values, one per cluster.

    With a single value, or values that are all alike, nothing is known of the spread, and the
    interval is unbounded.
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
    if not is_spread(error, largest=np.abs(values).max()):
        return without_spread(mean, df=float(n - 1), level=level)
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    return Interval(
        estimate=mean, low=mean - half, high=mean + half, standard_error=error,
        df=float(n - 1), level=level, method="t over clusters",
    )  # fmt: skip


def t_p(values: Float[np.ndarray, " P"]) -> float:
    """Return the two-sided p of Student's test that the mean of the clusters is zero.

    Clusters that are all alike leave that test nothing to divide by. They get the p of swapping
    signs cluster by cluster, which needs no variance: 2^(1 - P), or 1 if all are zero.
    """
    interval = t_interval(values)
    if not interval.df:
        return 1.0
    if interval.standard_error == 0:
        return smallest_flip_p(len(values)) if interval.estimate else 1.0
    statistic = abs(interval.estimate) / interval.standard_error
    return float(2 * special.stdtr(interval.df, -statistic))


def smallest_detectable(interval: Interval, *, power: float = POWER) -> float:
    """Return the true difference that a design as precise as this one would find with this power.

    Source: Bloom 1995, "Minimum detectable effects".
    """
    if not interval.df:
        return np.inf
    return (
        interval.half_width + float(special.stdtrit(interval.df, power)) * interval.standard_error
    )


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
    quantile = float(special.stdtrit(max(n - 1, 1), (1 + level) / 2))
    residual = top - ratio * bottom
    error = float(np.sqrt(n / max(n - 1, 1) * (residual**2).sum()) / bottom.sum())
    if 0 < ratio < 1 and n > 1:
        logit, step = np.log(ratio / (1 - ratio)), quantile * error / (ratio * (1 - ratio))
        low, high = (1 / (1 + np.exp(-(logit + s * step))) for s in (-1, 1))
    else:
        z2 = float(special.ndtri((1 + level) / 2)) ** 2
        low, high = (ratio * n / (n + z2), (ratio * n + z2) / (n + z2))
    return Interval(
        estimate=ratio, low=float(low), high=float(high), standard_error=error,
        df=float(n - 1), level=level, method="ratio over pictures",
    )  # fmt: skip


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
