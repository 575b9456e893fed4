"""Answers with their uncertainty: how much two arms differ, and what may be said of it.

Two kinds of interval:

* *given the models*: over prompts, with the trained models as they are. Student's t over the
  cluster means; a bootstrap over clusters and a sign-flip test stand beside it as checks.
* *including training seeds*: prompts and training seeds both drawn at random, from
  `MIN_SEEDS` seeds on (`two_way_interval`). Below that the differences by seed are listed, and
  not pooled. Swapping the two arms of training seeds instead takes the prompts as given and has
  few patterns to try: it stands beside the interval from two seeds on, and decides nothing.

An interval that contains zero is an answer too: *not distinguishable*. Everything here is a pure
function of its arguments; resampling is keyed by a seed.

K comparisons
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float

from eval.intervals import Interval, smallest_detectable, smallest_flip_p, t_interval, t_p
from eval.pairing import Paired
from eval.resampling import bootstrap_interval, sign_flip_p
from eval.two_way import two_way_interval, two_way_p

MIN_SEEDS = 4
"""Training seeds from which on an interval may include them; with three, the variance between
seeds rests on two degrees of freedom and the interval says next to nothing."""

SEED_PATTERNS = 1 << 12
"""Sign patterns of training seeds that are tried: all of them up to 12 seeds."""


class Verdict(Enum):
    """What may be said of a difference."""

    BETTER = "better"
    WORSE = "worse"
    NOT_DISTINGUISHABLE = "not distinguishable"


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

    p_seed_flip: float | None = None
    """Two-sided p by flipping signs of training seeds, conditional on the prompts; no smaller than
    `seed_flip_resolution`. None with a single seed."""

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
    def seed_flip_resolution(self) -> float:
        """The smallest p that swapping the arms of so many training seeds can give."""
        return smallest_flip_p(self.num_seeds)

    @property
    def smallest_detectable(self) -> float:
        """The difference that this design finds with 80% power."""
        return smallest_detectable(self.deciding)

    @property
    def verdict(self) -> Verdict:
        """What this comparison alone allows to say, uncorrected.

        It is what the deciding interval says; where that cannot be computed, what swapping signs
        does.
        """
        return self.verdict_at(self.p_value)

    def verdict_at(self, p_value: float) -> Verdict:
        """What may be said once the p-value has been corrected for other comparisons."""
        if not p_value < 1 - self.deciding.level or self.difference == 0:
            return Verdict.NOT_DISTINGUISHABLE
        return Verdict.BETTER if self.difference > 0 else Verdict.WORSE


def compare(paired: Paired, *, resamples: int = 0, seed: int = 0) -> Comparison:
    """Answer how much one arm differs from the other, and how sure that is.

    Args:
        paired: Differences by training seed and cluster, from `pair_rows`.
        resamples: Resamples of the bootstrap and of the sign-flip test; 0 leaves both out.
        seed: Seed of the resampling.
    """
    matrix = paired.matrix
    clusters, seeds = matrix.mean(axis=0), matrix.mean(axis=1)
    has_seeds = matrix.shape[0] >= MIN_SEEDS and matrix.shape[1] > 1
    return Comparison(
        given_models=t_interval(clusters),
        with_seeds=two_way_interval(matrix) if has_seeds else None,
        by_seed=tuple((int(s), float(d)) for s, d in zip(paired.model_seeds, seeds, strict=True)),
        bootstrap=(
            bootstrap_interval(clusters, resamples=resamples, seed=seed)
            if resamples and len(clusters) > 1
            else None
        ),
        p_value=float(two_way_p(matrix)) if has_seeds else t_p(clusters),
        p_sign_flip=(sign_flip_p(clusters, resamples=resamples, seed=seed) if resamples else None),
        p_seed_flip=(
            sign_flip_p(seeds, resamples=SEED_PATTERNS, seed=seed) if len(seeds) > 1 else None
        ),
        num_prompts=matrix.shape[1],
        num_pictures=paired.num_pictures,
    )


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
