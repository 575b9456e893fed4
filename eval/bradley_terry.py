"""The model of Bradley and Terry: strengths of arms from pairwise votes, a tie one half.

With ties the likelihood is a quasi-likelihood, and its maximum is right as soon as the expected
scores are (Papke and Wooldridge 1996). Strengths are log-odds with mean 0; what they are worth is
said in `eval.ratings`.

N votes, K arms, G arms of one group

Source: Bradley and Terry 1952; Ford 1957 for when a finite strength exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from launch.errors import InputError

Array: TypeAlias = NDArray[Any]


class Ballots(NamedTuple):
    """Votes as numbers: one entry per vote, in any order."""

    first: Int64[np.ndarray, " N"]
    """Number of one arm."""

    second: Int64[np.ndarray, " N"]
    """Number of the other."""

    score: Float[np.ndarray, " N"]
    """1 where `first` was preferred, 0 where `second` was, 0.5 for a tie."""

    prompt: Shaped[np.ndarray, " N"]
    """Cluster: what the prompt speaks of."""

    rater: Shaped[np.ndarray, " N"]
    """Cluster: who voted."""


class Moves(NamedTuple):
    """What each vote did to each strength."""

    moved: Float[np.ndarray, "N K"]
    """How much it moved it."""

    bearing: Float[np.ndarray, "N K"]
    """The same for a residual of 1: 0 where no answer could have moved it."""


def fit(ballots: Ballots, num_arms: int) -> Float[np.ndarray, " K"]:
    """Return the log-odds strengths that maximise the quasi-likelihood, with mean 0.

    The votes must allow finite ones: see `separated`. Newton's method; the likelihood is concave,
    and halving a step that does not raise it makes it sure.
    """
    wins = np.zeros((num_arms, num_arms))  # [K, K], score of row against column
    np.add.at(wins, (ballots.first, ballots.second), ballots.score)
    np.add.at(wins, (ballots.second, ballots.first), 1 - ballots.score)
    games = wins + wins.T

    def likelihood(strength: Array) -> float:
        gaps = strength[:, None] - strength[None, :]
        return float(-(wins * np.logaddexp(0, -gaps)).sum())

    strength = np.zeros(num_arms)
    for _ in range(100):
        expected = _expected(strength)
        slope = (wins - games * expected).sum(axis=1)
        step = np.linalg.pinv(_laplacian(games * expected * (1 - expected)), hermitian=True) @ slope
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
        size, before = 1.0, likelihood(strength)
        while likelihood(strength + size * step) < before - 1e-12 * abs(before) and size > 1e-6:
            size /= 2
        strength = strength + size * step
        strength -= strength.mean()
    return strength


def influences(ballots: Ballots, strength: Float[np.ndarray, " K"]) -> Moves:
    """Return how much each vote moved each strength: inverse information times residual."""
    num_arms = len(strength)
    expected = 1 / (1 + np.exp(strength[ballots.second] - strength[ballots.first]))
    weight = np.zeros((num_arms, num_arms))
    np.add.at(weight, (ballots.first, ballots.second), expected * (1 - expected))
    inverse = np.linalg.pinv(_laplacian(weight + weight.T), hermitian=True)  # [K, K]
    residual = (ballots.score - expected)[:, None]
    bearing = inverse[ballots.first] - inverse[ballots.second]
    return Moves(moved=residual * bearing, bearing=bearing)


def separated(ballots: Ballots, num_arms: int) -> list[Int64[np.ndarray, " G"]]:
    """Return the groups of arms within which finite ratings exist, the worst group first.

    Two arms are in one group if each has scored against the other, directly or along a chain
    (Ford 1957). Between groups every vote went the same way.
    """
    scored = np.zeros((num_arms, num_arms), bool)
    scored[ballots.first[ballots.score > 0], ballots.second[ballots.score > 0]] = True
    scored[ballots.second[ballots.score < 1], ballots.first[ballots.score < 1]] = True
    _, label = connected_components(scored, directed=True, connection="strong")
    # An arm of a better group reaches all worse ones; within a group all reach the same.
    reach = np.linalg.matrix_power(scored.astype(float) + np.eye(num_arms), num_arms) > 0
    order = sorted(set(label.tolist()), key=lambda g: reach[np.flatnonzero(label == g)[0]].sum())
    return [np.flatnonzero(label == group) for group in order]


def _expected(strength: Array) -> Array:
    return 1 / (1 + np.exp(strength[None, :] - strength[:, None]))


def _laplacian(weight: Array) -> Array:
    weight = weight - np.diag(np.diag(weight))
    return np.diag(weight.sum(axis=1)) - weight


def refuse_unlinked(ballots: Ballots, arms: Sequence[str]) -> None:
    """Refuse votes in which no chain of comparisons links two arms.

    Raises:
        InputError: It names the two.
    """
    linked = np.zeros((len(arms), len(arms)), bool)
    linked[ballots.first, ballots.second] = True
    num, label = connected_components(linked, directed=False)
    if num > 1:
        one, other = arms[0], arms[int(np.flatnonzero(label != label[0])[0])]
        raise InputError(
            f"votes: no chain of votes links arm {one} with arm {other}, so nothing can be said of "
            "their difference. Collect votes on both, or leave one out of the page's pairs."
        )
