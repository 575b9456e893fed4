"""How well a small classifier tells the kinds of caption apart by their text alone.

What it can tell, a text-to-image model can overfit. Kinds are compared on the same pictures, each
picture wholly on one side of the split, so that content gives nothing away and chance is one over
the number of kinds.

N texts, F hashed features, K kinds
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64

from eval.intervals import ratio_interval
from launch import keyed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NUM_FEATURES = 1 << 12
MAX_PICTURES = 2000
"""Pictures read, chosen by key; more would only narrow the interval."""

MIN_PICTURES = 8
"""Fewer on either side tell nothing."""

PENALTY = 1e-3
"""Weight of half the squared length of the weights, per text."""

_WORD = re.compile(r"\w+|[^\w\s]")


def telling_apart(kinds: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return held-out accuracy over all kinds and for each pair of them.

    Args:
        kinds: Kind -> sample_id -> text; only pictures with every kind compared are used.

    Returns:
        `all` and `pairs`; each entry has the kinds, accuracy with its 95% interval over pictures,
        chance, the accuracy on each kind, and the pictures on either side. Too few pictures leave
        an entry out.
    """
    names = [name for name, texts in kinds.items() if texts]
    found = {"all": _measured(names, kinds) if len(names) > 1 else None, "pairs": []}
    pairs = [_measured(pair, kinds) for pair in itertools.combinations(names, 2)]
    return found | {"pairs": [entry for entry in pairs if entry is not None]}


def _measured(
    names: Sequence[str], kinds: Mapping[str, Mapping[str, str]]
) -> dict[str, Any] | None:
    """Fit on one half of the pictures and count on the other."""
    shared = sorted(set.intersection(*(set(kinds[name]) for name in names)))
    ids = keyed.words(shared)
    order = keyed.permutation(0, "captions.telling apart", epoch=0, ids=ids)[:MAX_PICTURES]
    chosen = [shared[int(i)] for i in order]
    is_fitted = keyed.uniform(0, "captions.halves", epoch=0, ids=ids[order]) < 0.5
    sides = [[s for s, here in zip(chosen, is_fitted, strict=True) if here is side]
             for side in (np.True_, np.False_)]  # fmt: skip
    if min(map(len, sides)) < MIN_PICTURES:
        return None
    fitted, held_out = (
        features([kinds[name][s] for s in side for name in names]) for side in sides
    )
    labels = [np.tile(np.arange(len(names)), len(side)) for side in sides]
    weights = fit(fitted, labels[0], num_kinds=len(names))
    is_right = (predict(held_out, weights) == labels[1]).reshape(-1, len(names))
    interval = ratio_interval(
        is_right.sum(1).astype(float), np.full(len(is_right), float(len(names)))
    )
    return {
        "kinds": list(names),
        "accuracy": interval.estimate,
        "interval": [interval.low, interval.high],
        "chance": 1 / len(names),
        "by_kind": {name: float(is_right[:, k].mean()) for k, name in enumerate(names)},
        "num_fitted": len(sides[0]),
        "num_held_out": len(sides[1]),
    }


def features(texts: Sequence[str]) -> csr_matrix:
    """Return hashed bags of word and character n-grams, [N, F], each row of length 1.

    Words one and two at a time, punctuation included; characters three at a time with the ends of
    the text marked, so that letter case, leading spaces and final marks show. Counts enter as
    log(1 + n). A hash of the bytes: Python's own changes from process to process.
    """
    from scipy.sparse import csr_matrix

    columns: list[int] = []
    values: list[float] = []
    starts = [0]
    for text in texts:
        words = _WORD.findall(text)
        marked = f"\x02{text}\x03"
        grams = Counter(f"w{word}" for word in words)
        grams.update(f"b{a} {b}" for a, b in itertools.pairwise(words))
        grams.update(f"c{marked[i : i + 3]}" for i in range(len(marked) - 2))
        hashed: Counter[int] = Counter()
        for gram, count in grams.items():
            hashed[zlib.crc32(gram.encode("utf-8", "surrogatepass")) % NUM_FEATURES] += count
        row = np.log1p(np.array(list(hashed.values()), np.float64))
        columns += hashed.keys()
        values += (row / max(float(np.linalg.norm(row)), 1e-12)).tolist()
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(texts), NUM_FEATURES))


def fit(
    x: csr_matrix, labels: Int64[np.ndarray, " N"], *, num_kinds: int
) -> Float[np.ndarray, "_ K"]:
    """Fit a multinomial logistic regression; the last of the F + 1 rows of weights is the bias."""
    from scipy.optimize import minimize

    num, width = x.shape
    target = np.eye(num_kinds)[labels]

    def loss(flat: Float[np.ndarray, " _"]) -> tuple[float, Float[np.ndarray, " _"]]:
        weights = flat.reshape(width + 1, num_kinds)
        logits = x @ weights[:-1] + weights[-1]
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        error = (np.exp(log_p) - target) / num
        gradient = np.vstack([x.T @ error + PENALTY * weights[:-1], error.sum(axis=0)])
        value = -(target * log_p).sum() / num + PENALTY / 2 * (weights[:-1] ** 2).sum()
        return float(value), gradient.reshape(-1)

    start = np.zeros((width + 1) * num_kinds)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    weights: Float[np.ndarray, "_ K"] = found.x.reshape(width + 1, num_kinds)
    return weights


def predict(x: csr_matrix, weights: Float[np.ndarray, "_ K"]) -> Int64[np.ndarray, " N"]:
    """Return the likeliest kind of each text."""
    kinds: Int64[np.ndarray, " N"] = np.argmax(x @ weights[:-1] + weights[-1], axis=1)
    return kinds
