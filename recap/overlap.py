"""BLEU and CIDEr-D: how many words a caption shares with people's captions of the same picture.

Both work on words that somebody else has cut; `recap.words` has the plain way to cut them. What
they say depends on the references as much as on the captions: a true caption in other words scores
low.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

Words: TypeAlias = Sequence[str]
Grams: TypeAlias = Counter[tuple[str, ...]]

LONGEST = 4
"""Longest n-grams counted."""

LENGTH_SPREAD = 6.0
"""Standard deviation, in words, of CIDEr-D's penalty for another length than the reference's."""

_TINY, _SMALL = 1e-15, 1e-9
"""Keep logarithms finite where nothing matches, as the COCO caption evaluation does."""


def grams_of(words: Words) -> Grams:
    """Count all n-grams of 1 to LONGEST words."""
    return Counter(
        tuple(words[begin : begin + n])
        for n in range(1, LONGEST + 1)
        for begin in range(len(words) - n + 1)
    )


class CiderD(NamedTuple):
    """CIDEr-D of a set of captions."""

    mean: float
    each: list[float]
    """In the order of the captions."""


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> CiderD:
    """Score captions by shared n-grams, the rarer among the references the dearer.

    Args:
        captions: One caption for each picture, as words.
        references: At least one reference for each; they also say how rare an n-gram is.

    Returns:
        Scores of 0 and above; 10 is a caption equal to its one reference in a large set.

    Raises:
        ValueError: A picture has no reference, or the numbers of pictures differ.

    Source: Vedantam et al. 2015, arXiv:1411.5726, sections 3 and 5 (CIDEr-D), without stemming, as
    in the COCO caption evaluation.
    """
    _check(captions, references)
    counted = [[grams_of(words) for words in of_picture] for of_picture in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for of_picture in counted:
        frequency.update(set().union(*of_picture))
    log_num = math.log(len(references))
    each = []
    for words, of_picture in zip(captions, counted, strict=True):
        mine = _Vector.of(grams_of(words), frequency, log_num)
        scores = [_similarity(mine, _Vector.of(grams, frequency, log_num)) for grams in of_picture]
        each.append(10 * sum(scores) / len(scores))
    return CiderD(mean=float(np.mean(each)), each=each)


class _Vector(NamedTuple):
    """Weighted n-grams of one text."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    """By length of the n-gram, from 1."""

    length: int
    """Its two-word n-grams, by which the COCO evaluation compares lengths."""

    @classmethod
    def of(cls, grams: Grams, frequency: Counter[tuple[str, ...]], log_num: float) -> _Vector:
        weights = {
            gram: count * (log_num - math.log(max(1, frequency[gram])))
            for gram, count in grams.items()
        }
        squares = [0.0] * LONGEST
        for gram, weight in weights.items():
            squares[len(gram) - 1] += weight**2
        length = sum(count for gram, count in grams.items() if len(gram) == 2)
        return cls(weights, [math.sqrt(square) for square in squares], length)


def _similarity(mine: _Vector, other: _Vector) -> float:
    """Compare clipped weights for each length of n-gram, and punish another length."""
    products = [0.0] * LONGEST
    for gram, weight in mine.weights.items():
        theirs = other.weights.get(gram, 0.0)
        products[len(gram) - 1] += min(weight, theirs) * theirs
    cosines = [
        product / (a * b) if a and b else product
        for product, a, b in zip(products, mine.norms, other.norms, strict=True)
    ]
    penalty = math.exp(-((mine.length - other.length) ** 2) / (2 * LENGTH_SPREAD**2))
    return penalty * sum(cosines) / LONGEST


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Score a set of captions by the n-grams that they share with their references.

    Args:
        captions: One caption for each picture, as words.
        references: At least one reference for each.

    Returns:
        BLEU-1 to BLEU-4 of the whole set, in [0, 1].

    Raises:
        ValueError: A picture has no reference, or the numbers of pictures differ.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; the reference nearest in length
    counts for brevity, the shorter of two as near.
    """
    _check(captions, references)
    matched, written = np.zeros(LONGEST), np.zeros(LONGEST)
    caption_length, reference_length = 0, 0
    for words, of_picture in zip(captions, references, strict=True):
        most: Grams = Counter()
        for reference in of_picture:
            most |= grams_of(reference)
        for gram, count in grams_of(words).items():
            matched[len(gram) - 1] += min(count, most[gram])
        written += [max(0, len(words) - n) for n in range(LONGEST)]
        caption_length += len(words)
        lengths = [len(reference) for reference in of_picture]
        reference_length += min(lengths, key=lambda length: (abs(length - len(words)), length))
    precisions = (matched + _TINY) / (written + _SMALL)
    ratio = (caption_length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores = np.cumprod(precisions) ** (1 / np.arange(1, LONGEST + 1))
    return [float(score) * brevity for score in scores]


def _check(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(captions) != len(references) or not captions:
        raise ValueError(
            f"{len(captions)} captions and references of {len(references)} pictures; expected the "
            "same number, at least one"
        )
    if bare := [n for n, of_picture in enumerate(references) if not of_picture]:
        raise ValueError(f"picture {bare[0]} has no reference; every picture needs one")
