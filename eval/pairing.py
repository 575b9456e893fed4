"""Score rows of two arms, matched by what they are of, and the differences between them.

The unit of independence is the *prompt cluster*: all rows with one `pair_id`. Pictures of one
prompt resemble each other, so whatever takes pictures for independent is too sure of itself. Two
arms are compared on the same prompts, noise and training seeds, row against row; rows are matched
by their keys, never by their order, and a row without its partner is an error.

S training seeds, P prompt clusters, N rows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Shaped

from eval.intervals import Array
from launch.errors import InputError


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


class Matched(NamedTuple):
    """Differences between two arms, one for every picture, by training seed, prompt and noise."""

    difference: Float[np.ndarray, " N"]
    """First arm minus second."""

    row: Int64[np.ndarray, " N"]
    """Place of the picture's training seed in `model_seeds`."""

    column: Int64[np.ndarray, " N"]
    """Place of the picture's cluster in `pairs`."""

    prompt: Shaped[np.ndarray, " N"]
    """`prompt_id`."""

    seed: Int64[np.ndarray, " N"]
    """Seed of the picture's noise."""

    model_seeds: Int64[np.ndarray, " S"]
    """Training seeds that both arms have."""

    pairs: Shaped[np.ndarray, " P"]
    """Clusters."""


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
    """Subtract the rows of `other` from those of `one` and average over every cluster's pictures.

    Args:
        one: Rows of the first arm.
        other: Rows of the second.
        names: Names of the two arms, for messages.
        name_of: Turns an entry of `Rows.prompt` into the name of that prompt, for messages.

    Raises:
        InputError: As `match_rows`, or a cluster lacks pictures of a training seed.
    """
    matched = match_rows(one, other, names=names, name_of=name_of)
    seeds, pairs = matched.model_seeds, matched.pairs
    cell = matched.row * len(pairs) + matched.column
    size = len(seeds) * len(pairs)
    count = np.bincount(cell, minlength=size)
    if not count.all():
        at = int(np.argmin(count))
        prompt = matched.prompt[np.argmax(matched.column == at % len(pairs))]
        raise InputError(
            f"comparison of {names[0]} with {names[1]}: no picture of prompt {name_of(prompt)} or "
            f"of another of its pair is by training seed {seeds[at // len(pairs)]}, expected one "
            "of every training seed. Sample and score it."
        )
    total = np.bincount(cell, weights=matched.difference, minlength=size)
    return Paired(
        matrix=(total / count).reshape(len(seeds), len(pairs)),
        model_seeds=seeds,
        pairs=pairs,
        num_pictures=len(matched.difference),
    )


def match_rows(
    one: Rows,
    other: Rows,
    *,
    names: tuple[str, str] = ("one", "other"),
    name_of: Callable[[Any], object] = str,
) -> Matched:
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
    return Matched(
        difference=one.value - other.value,
        row=np.searchsorted(shared, one.model_seed),
        column=column,
        prompt=one.prompt,
        seed=one.seed,
        model_seeds=shared,
        pairs=pairs,
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
