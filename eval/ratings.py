"""Ratings of arms from pairwise votes, on the Elo scale, with honest intervals.

The model is that of Bradley and Terry: an arm rated d points above another is expected to score
1 / (1 + 10^(-d / 400)) against it, where a preference scores 1 and *a tie one half*. Ties as half
wins make a rating a statement about the expected score, whatever the share of ties; a model with a
parameter for ties (Davidson 1970) would rate the same arms further apart the more ties there are.

Votes on one prompt resemble each other, and so do votes of one rater. Two kinds of interval:

* *given these raters*: over prompts, with the raters as they are. Sandwich variance clustered by
  prompt, Student's t.
* *including raters*: prompts and raters both drawn at random, from `MIN_RATERS` raters on.
  Sandwich variance clustered by both. Below that the interval speaks of these raters alone.

An arm that beat all others in every vote has no finite rating. It is rated infinite, the other end
of the interval is bounded by how many prompts said so, and nothing is fitted to make it finite.

N votes, K arms, G clusters

Source: Bradley and Terry 1952; Cameron, Gelbach and Miller 2011, "Robust inference with multiway
clustering"; Elo 1978 for the scale; Ford 1957 for when a finite rating exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import stdtrit

from eval.bradley_terry import Ballots, Moves, fit, influences, refuse_unlinked, separated
from eval.intervals import (
    LEVEL,
    Interval,
    is_spread,
    smallest_flip_p,
    wilson_interval,
    without_spread,
)
from eval.stats import Verdict
from eval.two_way import TINY
from launch.errors import InputError

Array: TypeAlias = NDArray[Any]

ELO = 400 / np.log(10)
"""Points of one unit of log-odds."""

MIN_RATERS = 4
"""Raters from which on an interval may include them: those whose votes bear on the difference."""

NO_BEARING = 1e-9
"""Share of the largest weight of a vote below which its weight is rounding alone."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A rating or a difference of two, in Elo points, with its uncertainty."""

    given_raters: Interval
    """Over prompts, the raters as they are."""

    with_raters: Interval | None
    """Over prompts and raters; None below `MIN_RATERS` raters or where the estimate is infinite."""

    p_value: float
    """Two-sided, of the hypothesis that it is zero; agrees with the deciding interval."""

    @property
    def deciding(self) -> Interval:
        """Return the interval that a verdict rests on."""
        return self.given_raters if self.with_raters is None else self.with_raters

    def verdict_at(self, p_corrected: float) -> Verdict:
        """Return what may be said, given p corrected for how many differences were looked at."""
        if not p_corrected < 1 - LEVEL:
            return Verdict.NOT_DISTINGUISHABLE
        return Verdict.BETTER if self.deciding.estimate > 0 else Verdict.WORSE


ANCHORED = Estimate(
    given_raters=Interval(
        estimate=0.0, low=0.0, high=0.0, standard_error=0.0, df=0.0, method="0 by definition"
    ),
    with_raters=None,
    p_value=1.0,
)
"""Rating of the arm that all others are rated against."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms: how much higher the first is rated."""

    first: str
    second: str
    difference: Estimate
    share: float
    """Score of the first in direct votes, ties half; NaN without any."""

    num_votes: int
    """Direct votes, repeats left out."""

    num_ties: int
    """Ties among them."""


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """All arms of one question."""

    arms: list[str]
    ratings: list[Estimate]
    """In the order of `arms`, against the anchor."""

    pairs: list[Pair]
    """Every pair of arms that votes link."""

    num_votes: int
    num_prompts: int
    num_raters: int


def rate(ballots: Ballots, arms: Sequence[str], *, anchor: str | None = None) -> Ratings:
    """Rate arms from votes.

    Args:
        ballots: Votes; the numbers of arms count along `arms`.
        arms: Names.
        anchor: Arm whose rating is 0; None sets the mean of all arms to 0.

    Raises:
        InputError: An arm has no votes, no chain of votes links two arms, or the anchor is no arm.
    """
    if anchor is not None and anchor not in arms:
        raise InputError(
            f"anchor: {anchor!r} is no arm of these votes; expected one of {', '.join(arms)}"
        )
    refuse_unlinked(ballots, arms)
    groups = separated(ballots, len(arms))
    moves = Moves(*(np.zeros((len(ballots.score), len(arms))) for _ in Moves._fields))
    strength = np.full(len(arms), np.nan)
    for members in groups:
        inside = np.isin(ballots.first, members) & np.isin(ballots.second, members)
        here = Ballots(*(column[inside] for column in ballots))
        number = np.zeros(len(arms), np.int64)
        number[members] = np.arange(len(members))
        here = here._replace(first=number[here.first], second=number[here.second])
        strength[members] = fit(here, len(members))
        for whole, part in zip(moves, influences(here, strength[members]), strict=True):
            whole[np.ix_(inside, members)] = part
    rank = np.empty(len(arms), np.int64)  # of each arm's group, the best last
    for place, members in enumerate(groups):
        rank[members] = place

    def estimate(i: int, j: int) -> Estimate:
        if rank[i] != rank[j]:
            return _unbounded(ballots, i, j, is_better=bool(rank[i] > rank[j]))
        weights = np.zeros(len(arms))
        weights[i] += 1
        weights[j] -= 1
        return _contrast(ballots, strength, weights, moves)

    pairs = []
    for i, j in itertools.combinations(range(len(arms)), 2):
        score = _direct(ballots, i, j)
        pairs.append(
            Pair(
                first=arms[i],
                second=arms[j],
                difference=estimate(i, j),
                share=float(score.mean()) if len(score) else np.nan,
                num_votes=len(score),
                num_ties=int((score == 0.5).sum()),
            )
        )
    if anchor is None:
        ratings = [_against_mean(ballots, strength, i, moves, rank=rank) for i in range(len(arms))]
    else:
        at = arms.index(anchor)
        ratings = [ANCHORED if i == at else estimate(i, at) for i in range(len(arms))]
    return Ratings(
        arms=list(arms),
        ratings=ratings,
        pairs=pairs,
        num_votes=len(ballots.score),
        num_prompts=len(np.unique(ballots.prompt)),
        num_raters=len(np.unique(ballots.rater)),
    )


# --------------------------------------------------------------------------- uncertainty


class _Spread(NamedTuple):
    """Variances of one contrast, and the clusters behind them."""

    prompt: float
    """Clustered by prompt."""

    rater: float
    """Clustered by rater."""

    rest: float
    """What both of these hold: the variance of single votes."""

    num_prompts: int
    num_raters: int

    def half_prompt(self, level: float) -> float:
        return _t(level, self.num_prompts - 1) * float(np.sqrt(self.prompt))

    def half_both(self, level: float) -> float:
        """Return the half-width with prompts and raters random.

        The t quantiles of raters and prompts are averaged as in `eval.two_way.two_way_interval`. It
        is never narrower than the interval over either alone, since a second source of chance
        makes nothing surer.
        """
        t_rater, t_prompt = _t(level, self.num_raters - 1), _t(level, self.num_prompts - 1)
        over_prompts = max(self.prompt - self.rest, 0.0)
        variance = max(self.rater + over_prompts, TINY)
        both = (t_rater * self.rater + t_prompt * over_prompts) / float(np.sqrt(variance))
        return max(both, self.half_prompt(level))

    @property
    def variance(self) -> float:
        return max(self.rater + self.prompt - self.rest, self.rater, self.prompt)


def _t(level: float, df: int) -> float:
    return float(stdtrit(df, (1 + level) / 2))


def _spread(prompt: Array, rater: Array, moved: Array) -> _Spread:
    """Return the variances of a sum of influences, [N], of votes by prompt and by rater.

    Cameron, Gelbach and Miller add the variances clustered by prompt and by rater and subtract that
    of their cells, for what was counted twice. The squares of cells hold the effects of prompts and
    raters too; with few raters that subtracts too much. Here the part counted twice is the residual
    variance of a two-way analysis of variance, which in a balanced design is exact.
    """
    prompts, prompt = np.unique(prompt, return_inverse=True)
    raters, rater = np.unique(rater, return_inverse=True)
    num_prompts, num_raters = len(prompts), len(raters)
    cells, cell = np.unique(prompt * num_raters + rater, return_inverse=True)
    prompt_of, rater_of = np.divmod(cells, num_raters)
    by_prompt, by_rater, by_cell = (np.bincount(code, moved) for code in (prompt, rater, cell))
    df = len(cells) - num_prompts - num_raters + 1
    squares = (by_cell**2).sum()
    squares -= (by_prompt**2 / np.bincount(prompt_of)).sum()
    squares -= (by_rater**2 / np.bincount(rater_of)).sum()

    def clustered(sums: Array) -> float:
        num = len(sums)
        return float((sums**2).sum() * num / (num - 1)) if num > 1 else np.nan

    return _Spread(
        prompt=clustered(by_prompt),
        rater=clustered(by_rater),
        # Where no prompt has two raters nothing is known of it, and nothing is subtracted.
        rest=max(float(squares), 0.0) * len(cells) / df if df > 0 else 0.0,
        num_prompts=num_prompts,
        num_raters=num_raters,
    )


def _contrast(ballots: Ballots, strength: Array, weights: Array, moves: Moves) -> Estimate:
    """Return the weighted sum of strengths, in Elo points, with its intervals.

    Only votes that bear on it are counted, so that prompts and raters who say nothing of these arms
    add no degrees of freedom.
    """
    is_used = weights != 0
    value = float(strength[is_used] @ weights[is_used]) * ELO
    moved, bearing = (move[:, is_used] @ weights[is_used] * ELO for move in moves)
    bears = np.abs(bearing) > NO_BEARING * np.abs(bearing).max()
    spread = _spread(ballots.prompt[bears], ballots.rater[bears], moved[bears])
    if spread.num_prompts < 2:
        nothing = _interval(value, np.inf, np.nan, df=0.0, method="one prompt")
        return Estimate(given_raters=nothing, with_raters=None, p_value=1.0)
    df = float(spread.num_prompts - 1)
    error = float(np.sqrt(spread.prompt))
    if is_spread(error, largest=abs(value)):
        given = _interval(
            value, spread.half_prompt(LEVEL), error, df=df, method="sandwich, clustered by prompt"
        )
        p_value = _p(value, spread.half_prompt)
    else:  # every prompt says the same, which tells nothing of how far prompts differ
        given = without_spread(value, df=df)
        p_value = smallest_flip_p(spread.num_prompts) if value else 1.0
    error = float(np.sqrt(spread.variance))
    if spread.num_raters < MIN_RATERS or not is_spread(error, largest=abs(value)):
        return Estimate(given_raters=given, with_raters=None, p_value=p_value)
    both = _interval(
        value, spread.half_both(LEVEL), error, df=min(float(spread.num_raters - 1), df),
        method="sandwich, clustered by prompt and rater",
    )  # fmt: skip
    return Estimate(given_raters=given, with_raters=both, p_value=_p(value, spread.half_both))


def _interval(value: float, half: float, error: float, *, df: float, method: str) -> Interval:
    return Interval(
        estimate=value, low=value - half, high=value + half, standard_error=float(error), df=df,
        method=method,
    )  # fmt: skip


def _p(value: float, half: Callable[[float], float]) -> float:
    """Return the p at which an interval would just touch zero."""
    if value == 0:
        return 1.0
    low, high = -35.0, 0.0  # of log p: the half-width falls as p grows
    for _ in range(28):
        middle = (low + high) / 2
        if half(1 - np.exp(middle)) > abs(value):
            low = middle
        else:
            high = middle
    return float(np.exp(high))


def _against_mean(
    ballots: Ballots, strength: Array, arm: int, moves: Moves, *, rank: Array
) -> Estimate:
    """Return a strength less the mean of all, which exists only where no arm is separated."""
    if len(set(rank.tolist())) == 1:
        weights = np.full(len(strength), -1 / len(strength))
        weights[arm] += 1
        return _contrast(ballots, strength, weights, moves)
    # Against a mean of infinities nothing but the ends has a place.
    ends = {int(rank.min()): -np.inf, int(rank.max()): np.inf}
    value = ends.get(int(rank[arm]), np.nan)
    unbounded = Interval(
        estimate=value, low=-np.inf, high=np.inf, standard_error=np.nan, df=0.0,
        method="separated: no finite rating",
    )  # fmt: skip
    return Estimate(given_raters=unbounded, with_raters=None, p_value=1.0)


def _direct(ballots: Ballots, i: int, j: int) -> Float[np.ndarray, " M"]:
    """Return the scores of arm `i` in its direct votes against `j`."""
    forth = (ballots.first == i) & (ballots.second == j)
    back = (ballots.first == j) & (ballots.second == i)
    return np.concatenate([ballots.score[forth], 1 - ballots.score[back]])


def _unbounded(ballots: Ballots, i: int, j: int, *, is_better: bool) -> Estimate:
    """Return the difference of two arms between which every vote went one way.

    Its finite end is Wilson's limit of a share of 1 with one observation per prompt, and its p that
    of the sign-flip test over prompts: 2^(1 - prompts). Both need direct votes; a chain of others'
    votes bounds nothing.
    """
    where = ((ballots.first == i) & (ballots.second == j)) | (
        (ballots.first == j) & (ballots.second == i)
    )
    num = len(np.unique(ballots.prompt[where]))
    least, p_value = -np.inf, 1.0
    if num:
        share = wilson_interval(num, num)[0]
        least = float(np.log(share / (1 - share)) * ELO)
        p_value = 2.0 ** (1 - num)
    sign = 1.0 if is_better else -1.0
    low, high = sorted((sign * least, sign * np.inf))
    interval = Interval(
        estimate=sign * np.inf, low=low, high=high, standard_error=np.nan, df=0.0,
        method="separated: every vote went one way; Wilson over prompts",
    )  # fmt: skip
    return Estimate(given_raters=interval, with_raters=None, p_value=p_value)
