"""CLIP similarity by the sentences of a text, for texts that do not fit the model's context.

A text that is cut is scored by its beginning alone, and what it says later counts for nothing. Its
sentences fit, so the mean of their similarities speaks of all of it. It is another number than the
similarity of the whole text, of a short one too: it stands apart, and is written for every text of
a run or for none, so that no mean rests on long texts here and on short ones there.

N pairs, M distinct texts, S distinct sentences, D feature width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from eval.agreement import sentences
from eval.kept_features import KeptFeatures

FORMULA = "mean over the sentences of the text of 100 * cos(picture, sentence)"


class SentenceFeatures(NamedTuple):
    """Mean of the features of every text's sentences, each of length 1 before the mean."""

    means: Float64[np.ndarray, "M D"]
    num_sentences: int
    """Distinct sentences."""

    num_truncated: int
    """Distinct sentences that are themselves longer than the context."""

    def describe(self) -> dict[str, Any]:
        """Return what a score by sentences depends on besides the scorer, for a recipe."""
        return {
            "formula": FORMULA,
            "cut": "at . ; ! or ? before a blank; at a comma before and, but, while, with, plus",
            "truncation_rate": self.num_truncated / self.num_sentences,
        }


def sentence_features(texts: Sequence[str], *, kept: KeptFeatures) -> SentenceFeatures:
    """Return the mean feature of each text's sentences.

    Args:
        texts: Distinct texts; one without a word is a sentence of its own.
        kept: Encodes them, with the prefix before each.
    """
    of_text = [sentences(text) or [text] for text in texts]
    distinct = sorted({sentence for said in of_text for sentence in said})
    row_of = {sentence: row for row, sentence in enumerate(distinct)}
    features = kept.texts(distinct).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = np.array([row_of[sentence] for said in of_text for sentence in said])
    starts = np.cumsum([0, *(len(said) for said in of_text)])
    sums = np.add.reduceat(features[rows], starts[:-1])
    return SentenceFeatures(
        means=sums / np.diff(starts)[:, None],
        num_sentences=len(distinct),
        num_truncated=kept.clip.num_truncated(distinct),
    )


def similarity_by_sentences(
    pictures: Float32[np.ndarray, "N D"], means: Float64[np.ndarray, "N D"]
) -> Float64[np.ndarray, " N"]:
    """Return the mean over sentences of 100 x the cosine.

    Args:
        pictures: Features of pictures.
        means: Mean of the sentences' features of length 1, which are not of length 1 themselves.
    """
    pictures = pictures.astype(np.float64)
    lengths = np.linalg.norm(pictures, axis=1)
    found: Float64[np.ndarray, " N"] = 100 * (pictures * means).sum(axis=1) / lengths
    return found
