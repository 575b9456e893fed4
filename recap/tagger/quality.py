"""From which confidence a tag is said, and how good it then is: precision, recall and F1.

Thresholds are chosen on some pictures and measured on others; a threshold is best on the pictures
it was chosen on, whatever it is.

N pictures, T tags
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64


class Chosen(NamedTuple):
    """Thresholds, and what each promises on the pictures that chose it."""

    thresholds: Float64[np.ndarray, " T"]
    f1: Float64[np.ndarray, " T"]
    f1_always: Float64[np.ndarray, " T"]
    """F1 of saying the tag of every picture."""


def choose_thresholds(
    confidence: Float[np.ndarray, "N T"], has_tag: Bool[np.ndarray, "N T"]
) -> Chosen:
    """Return for every tag the threshold of the highest F1; the middle between two confidences.

    A tag that no picture has is given threshold 1 and F1 0.
    """
    num = len(confidence)
    order = np.argsort(-confidence, axis=0, kind="stable")
    ranked = np.take_along_axis(confidence.astype(np.float64), order, axis=0)
    hits = np.cumsum(np.take_along_axis(has_tag, order, axis=0), axis=0)
    said = np.arange(1, num + 1)[:, None]
    positives = has_tag.sum(axis=0)
    f1 = 2 * hits / (said + positives)
    # Pictures of one confidence are said together: only the last of them is a place to stop.
    is_end = np.vstack([ranked[1:] < ranked[:-1], np.ones((1, ranked.shape[1]), bool)])
    best = np.where(is_end, f1, -1.0).argmax(axis=0)
    columns = np.arange(ranked.shape[1])
    below = np.where(best + 1 < num, ranked[np.minimum(best + 1, num - 1), columns], 0.0)
    has_any = positives > 0
    return Chosen(
        thresholds=np.where(has_any, (ranked[best, columns] + below) / 2, 1.0),
        f1=np.where(has_any, f1[best, columns], 0.0),
        f1_always=2 * positives / (num + positives),
    )


def learned(chosen: Chosen, *, min_f1: float, min_gain: float) -> Int64[np.ndarray, " kept"]:
    """Return the tags that are good enough, and better than saying them of every picture."""
    is_good = (chosen.f1 >= min_f1) & (chosen.f1 >= chosen.f1_always + min_gain)
    return np.flatnonzero(is_good).astype(np.int64)


def measure(
    confidence: Float[np.ndarray, "N T"],
    has_tag: Bool[np.ndarray, "N T"],
    *,
    tags: Sequence[str],
    thresholds: Float64[np.ndarray, " T"],
) -> dict[str, Any]:
    """Return precision, recall and F1: of all tags together, their mean, and each."""
    said = confidence >= thresholds
    right = (said & has_tag).sum(axis=0)
    num_said, positives = said.sum(axis=0), has_tag.sum(axis=0)
    each = {
        tag: {
            **_figures(int(right[i]), said=int(num_said[i]), positives=int(positives[i])),
            "threshold": round(float(thresholds[i]), 6),
            "pictures": int(positives[i]),
        }
        for i, tag in enumerate(tags)
    }
    known = [figures for figures in each.values() if figures["pictures"]]
    return {
        "pictures": len(confidence),
        "together": _figures(
            int(right.sum()), said=int(num_said.sum()), positives=int(positives.sum())
        ),
        "mean_f1": round(sum(f["f1"] for f in known) / len(known), 6) if known else 0.0,
        "tags_per_picture": round(float(said.sum(axis=1).mean()), 6),
        "pictures_without_a_tag": int((~said.any(axis=1)).sum()),
        "tags": each,
    }


def _figures(right: int, *, said: int, positives: int) -> dict[str, float]:
    return {
        "precision": round(right / said, 6) if said else 0.0,
        "recall": round(right / positives, 6) if positives else 0.0,
        "f1": round(2 * right / (said + positives), 6) if said + positives else 0.0,
    }
