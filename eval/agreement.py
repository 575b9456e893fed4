"""What a caption says, sentence by sentence, and how far further samples of its captioner agree.

A captioner that sees a thing says it again when it writes again; what it makes up changes from
sample to sample. Agreement needs no truth and no other model.

Source: Manakul et al. 2023, "SelfCheckGPT", arXiv:2303.08896, section 5.3: there a smoothed n-gram
model of the samples gives a sentence's mean log-probability. Here it is the share of samples that
hold each content word and each run of two or three neighbouring content words, which needs no
smoothing, stays within [0, 1], and sees which noun an adjective stands before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

# A sentence ends at . ; ! or ? before a blank, and no two clauses that a comma and one of these
# words join are one. A quotation mark may stand behind the full stop.
_CUT: Final = re.compile(
    r"""(?<=[.;!?])["'\u201d\u2019]?\s+ | ,\s+(?=(?:and|but|while|with|plus)\b)""", re.VERBOSE
)

_WORD: Final = re.compile(r"\w+")

LONGEST_RUN: Final = 3
"""Content words of the longest run that samples are asked for."""

_LISTED: Final = """
a an the this that these those it its they them their there here he she his her of in on at to by
for from with and or but as is are was were be been being has have had can could may might will
would do does did so very also too which who whom whose what where when while than then into onto
over all some any no not picture image photo photograph shows show showing seen see depicts
depicting
"""
FUNCTION_WORDS: Final = frozenset(_LISTED.split())
"""Words that say nothing of a picture's content, or only that it is a picture."""


def sentences(text: str) -> list[str]:
    """Return the sentences and joined clauses of a text that hold a word.

    Cut at `.`, `;`, `!` or `?` before a blank, and at a comma before and, but, while, with or plus.
    """
    return [part.strip() for part in _CUT.split(text) if _WORD.search(part)]


def content_words(text: str) -> list[str]:
    """Return the words of a text in lower case, in order, without function words."""
    return [w for w in _WORD.findall(text.lower()) if w not in FUNCTION_WORDS]


def content_grams(text: str) -> set[tuple[str, ...]]:
    """Return the runs of one to three neighbouring content words of a text.

    A run does not reach across a cut between sentences.
    """
    grams: set[tuple[str, ...]] = set()
    for part in sentences(text):
        words = content_words(part)
        for length in range(1, LONGEST_RUN + 1):
            grams.update(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    return grams


def agreement(sentence: str, samples: Sequence[set[tuple[str, ...]]]) -> float:
    """Return the mean share of samples that hold each run of content words of a sentence.

    Args:
        sentence: What is checked.
        samples: `content_grams` of each further sample about the same picture.

    Returns:
        In [0, 1]; NaN without samples or without content words.
    """
    grams = content_grams(sentence)
    if not grams or not samples:
        return float("nan")
    return float(np.mean([[gram in sample for sample in samples] for gram in grams]))
