"""What a text must keep of another that it was made from: quoted words, numbers and names.

A name is a word with a capital that does not begin a sentence; where a text is written like a
heading, with capitals nearly everywhere, capitals say nothing and no name is looked for. The rules
are blind to languages that write nouns or nothing with capitals.
"""

from __future__ import annotations

import re
from typing import Final

from recap.words import quotations, words_of

RULES: Final = ("lost_quoted", "lost_numbers", "lost_names")
"""Names of the rules, in the order in which flags are written."""

SHORTEST_HEADING: Final = 5
"""Words from which a text with capitals everywhere is a heading; fewer may well be a name."""

_WORD: Final = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}]\w+)*")
_NUMBER: Final = re.compile(r"\d+(?:[.,:/]\d+)*")
_GROUPED: Final = re.compile(r",(?=\d{3}(?!\d))")
# Before the first word of a sentence; quotation marks and brackets that open are cut off first.
_OPENING: Final = " \t\"'([{\u201c\u201e\u2018\u00ab"
_ENDED: Final = re.compile(r"(?:^|[.!?:;|/\n\u2013\u2014]|\s-)$")
# An initial or a title such as Dr. or St. ends no sentence.
_SHORTENED: Final = re.compile(r"\b[A-Z]\w{0,2}\.$")


def is_heading(text: str) -> bool:
    """Tell whether a text has capitals wherever a heading has them."""
    words = [word for word in _WORD.findall(text) if word[0].isalpha()]
    long = [word for word in words if len(word) > 3]
    return len(words) >= SHORTEST_HEADING and all(word[0].isupper() for word in long)


def names_in(text: str) -> list[str]:
    """Return the words of a text that its capitals make names, in lower case and in order."""
    if is_heading(text):
        return []
    found = []
    for match in _WORD.finditer(text):
        word, before = match[0], text[: match.start()].rstrip(_OPENING)
        begins = bool(_ENDED.search(before)) and not _SHORTENED.search(before)
        if not begins and word != "I" and any(letter.isupper() for letter in word):
            found += [_bare(w) for w in words_of(word)]
    return found


def numbers_in(text: str) -> list[str]:
    """Return the numbers that a text writes with digits; 1,000 is 1000."""
    return [_GROUPED.sub("", number) for number in _NUMBER.findall(text)]


def lost(original: str, text: str) -> list[str]:
    """Return the names of the rules that a text breaks against the one it was made from."""
    words = words_of(text)
    spoken, numbers = f" {' '.join(words)} ", set(numbers_in(text))
    bare = {_bare(word) for word in words}
    quoted = [" ".join(words_of(quotation)) for quotation in quotations(original)]
    is_lost = {
        "lost_quoted": any(f" {said} " not in spoken for said in quoted if said),
        "lost_numbers": any(number not in numbers for number in numbers_in(original)),
        "lost_names": any(name not in bare for name in names_in(original)),
    }
    return [rule for rule in RULES if is_lost[rule]]


def _bare(word: str) -> str:
    return word.removesuffix("'s")
