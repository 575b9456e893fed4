"""Intervals of statistics of whole sets of pictures, by leaving out groups of prompts.

A distance between distributions has no value per picture, so its interval comes from repeating it.
The bootstrap is wrong for that here: a resample holds pictures twice, which makes means and
covariances vary more and pairs of equal pictures look near, and the repeated distances lie above
the one that they are to judge. Leaving groups out repeats no picture. Each left-out set is smaller
by the same share, so bias that depends on size is the same in all of them and does not widen the
interval.

The unit is the prompt: pictures of one prompt, over prompt styles, noise seeds, training seeds and
arms, and the reference picture that it speaks of, are in one group, and all distances of a run use
the same groups. Differences between arms are therefore paired, group by group.

What an interval covers is the statistic's expectation at this number of pictures.

S training seeds, K groups
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from eval.intervals import Interval, t_interval
from eval.stats import MIN_SEEDS
from eval.two_way import two_way_interval
from launch import keyed
from launch.errors import InputError
from launch.manifest import digest_bytes


class Estimate(NamedTuple):
    """A statistic of all pictures, and without each group."""

    value: float
    left_out: Float64[np.ndarray, " K"]

    @property
    def pseudo_values(self) -> Float64[np.ndarray, " K"]:
        """One number per group whose mean has the spread of the statistic.

        Source: Tukey 1958; for groups, Shao and Tu 1995, "The Jackknife and Bootstrap", 2.3.
        """
        k = len(self.left_out)
        return k * self.value - (k - 1) * self.left_out

    def minus(self, other: Estimate) -> Estimate:
        """Return the difference of two statistics that left out the same groups."""
        return Estimate(self.value - other.value, self.left_out - other.left_out)


class Intervals(NamedTuple):
    """Both kinds of interval of one statistic, a mean over training seeds."""

    given_models: Interval
    with_seeds: Interval | None
    """Including training seeds, from `MIN_SEEDS` on."""


def intervals(by_seed: Sequence[Estimate]) -> Intervals:
    """Return the intervals of a statistic, given its estimates by training seed."""
    value = float(np.mean([estimate.value for estimate in by_seed]))
    matrix = np.stack([estimate.pseudo_values for estimate in by_seed])
    num_groups = matrix.shape[1]
    method = f"jackknife over {num_groups} groups of prompts"
    given = _centred(t_interval(matrix.mean(axis=0)), value, method)
    with_seeds = None
    if len(by_seed) >= MIN_SEEDS:
        with_seeds = _centred(two_way_interval(matrix), value, f"{method} and training seeds")
    return Intervals(given, with_seeds)


def _centred(interval: Interval, value: float, method: str) -> Interval:
    """Put an interval around the statistic itself: pseudo-values centre where bias is removed."""
    half = interval.half_width
    told = method if np.isfinite(half) else f"{method}: {interval.method}"
    return replace(interval, estimate=value, low=value - half, high=value + half, method=told)


def assign_groups(
    prompts: Collection[str], others: Collection[str], *, num_groups: int, seed: int
) -> dict[str, int]:
    """Deal clusters into groups of equal size.

    Args:
        prompts: Clusters with generated pictures.
        others: Clusters of reference pictures that no prompt speaks of.
        num_groups: Groups wanted; with fewer prompts, each is a group.
        seed: Seed of the shuffling, which depends on a cluster's name and on no other cluster.

    Raises:
        InputError: Fewer than three prompts.
    """
    num = min(num_groups, len(set(prompts)))
    if num < 3:
        raise InputError(
            f"groups of prompts: {len(set(prompts))} prompts are too few to leave one out; "
            "an interval needs at least 3, and 20 or more to be of use."
        )
    group: dict[str, int] = {}
    for clusters in (sorted(set(prompts)), sorted(set(others) - set(prompts))):
        ids = keyed.words([digest_bytes(cluster.encode()) for cluster in clusters])
        draws = keyed.uniform(seed, "distribution.groups", epoch=0, ids=ids)
        for rank, at in enumerate(np.argsort(draws, kind="stable").tolist()):
            group[clusters[at]] = rank % num
    return group
