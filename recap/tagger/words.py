"""Tags out of people's texts: which words say something of a picture, and who has which.

A word is a tag when enough texts have it and not nearly all, and when it is not of a closed class:
articles, pronouns, prepositions, conjunctions and auxiliaries say how a sentence is built and not
what is seen. What stands in quotation marks is the picture's own and no word of the language. A
plural counts as its singular where the texts have both.

N pictures, T tags
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool

CLOSED_CLASS: Final = frozenset(
    """
    a an the this that these those some any each every either neither no all both another other such
    i you he she it we they me him her us them my your his its our their mine yours hers ours theirs
    who whom whose which what myself itself themselves one's there here
    about above across after against along amid among around as at before behind below beneath
    beside besides between beyond by despite down during except for from in inside into like near of
    off on onto opposite out outside over past per since than through throughout till to toward
    towards under underneath until up upon via with within without
    and or but nor so yet if because although though while whereas when where whether how why
    am is are was were be been being do does did done doing have has had having
    can could may might must shall should will would ought
    not also too very just only even then thus again ever never quite rather
    """.split()  # noqa: SIM905 - a list of quoted words is read by nobody
)
"""English words that build sentences."""

_QUOTED: Final = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d')
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*|[^\w\s]|\d+")
_BREAK: Final = ""
"""Stands where a phrase may not go on: at a mark, a number, or a word of the closed class."""


class Vocabulary(NamedTuple):
    """The tags of a tagger, most frequent first."""

    tags: list[str]
    counts: list[int]
    """Pictures whose texts have each."""

    left_out: dict[str, int]
    """Words and phrases that are no tags, by reason."""


class TagFinder:
    """Finds the words and phrases of texts.

    Args:
        texts: All texts; they decide which plurals have a singular.
        phrase_words: Words of the longest phrase.
    """

    def __init__(self, texts: Iterable[str], *, phrase_words: int) -> None:
        self._longest = phrase_words
        known = {word for text in texts for word in _tokens(text)}
        self._singular = {
            word: stem
            for word in known
            for stem in (word.removesuffix("es"), word.removesuffix("s"))
            if len(stem) >= 3 and stem != word and stem in known
        }

    def __call__(self, texts: Iterable[str]) -> set[str]:
        """Return the words and phrases that any of a picture's texts has."""
        found: set[str] = set()
        for text in texts:
            words = [self._singular.get(word, word) for word in _tokens(text)]
            for length in range(1, self._longest + 1):
                for begin in range(len(words) - length + 1):
                    phrase = words[begin : begin + length]
                    if _BREAK not in phrase:
                        found.add(" ".join(phrase))
        return found


def _tokens(text: str) -> list[str]:
    """Return the words of a text that may be tags, breaks between those that do not touch."""
    plain = _QUOTED.sub(" . ", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower()
    return [
        word if word[0].isalpha() and word not in CLOSED_CLASS else _BREAK
        for word in _TOKEN.findall(plain)
    ]


def choose_vocabulary(
    found: Sequence[set[str]], *, min_share: float, max_share: float, max_tags: int
) -> Vocabulary:
    """Return the words that neither few nor nearly all pictures have, most frequent first.

    Args:
        found: Words and phrases of each picture.
        min_share: Share of the pictures that must have a word.
        max_share: Share of the pictures that may have it.
        max_tags: Tags at most.
    """
    counts = Counter(word for of_picture in found for word in of_picture)
    num = len(found)
    rare = sum(count < min_share * num for count in counts.values())
    common = sum(count > max_share * num for count in counts.values())
    kept = {w: c for w, c in counts.items() if min_share * num <= c <= max_share * num}
    # By name where counts are equal: a set has no order of its own.
    ordered = sorted(kept, key=lambda word: (-kept[word], word))
    return Vocabulary(
        tags=ordered[:max_tags],
        counts=[kept[word] for word in ordered[:max_tags]],
        left_out={
            "too_rare": rare,
            "too_common": common,
            "beyond_max_tags": len(ordered[max_tags:]),
        },
    )


def label_table(found: Sequence[set[str]], tags: Sequence[str]) -> Bool[np.ndarray, "N T"]:
    """Return which picture has which tag."""
    place = {tag: i for i, tag in enumerate(tags)}
    table = np.zeros((len(found), len(tags)), dtype=bool)
    for row, of_picture in enumerate(found):
        table[row, [place[word] for word in of_picture if word in place]] = True
    return table
