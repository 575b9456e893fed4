"""Named rules for a rewritten prompt: nothing of the original is lost, the length fits, no loops.

What a prompt says is told by claims where the reader of claims understands both texts, and by
words elsewhere: every content word, number and quoted word of the original must come again. What a
rewrite adds is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from recap.claims import Claim, compare, read
from recap.loops import is_looping
from recap.words import quotations
from t2i.config import RewriteLimits

_WORD: Final = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)?")

_COUNTING: Final = "two three four five six seven eight nine ten eleven twelve"
NUMBERS: Final = {name: str(n) for n, name in enumerate(_COUNTING.split(), start=2)}
"""Numbers spelled out; "two" and "2" are the same. A single thing needs no number."""

_GRAMMAR: Final = """
    a an the this that these those there here it its is are was were be been being has have had do
    does of in on at to from for with within by as and or but so also plus while which who
    whose i me my we our you your he his she her they their some any one single can could will would
    should please
"""
_ASKING: Final = """
    draw make show create generate want need give picture pictures image images photo photos
    photograph scene
"""
FUNCTION_WORDS: Final = frozenset(f"{_GRAMMAR} {_ASKING}".split())
"""Words that may go: grammar, and the words in which a picture is asked for. Prepositions that tell
one place from another (under, above, behind, left, ...) are not among them, nor is what denies."""

_PREAMBLE: Final = re.compile(
    r"^\W*(?:sure|certainly|of\s+course|absolutely|okay|here\s+(?:is|are)|here's)\b"
    r"|^\W*(?:rewritten|revised|new)?\s*(?:prompt|request|description)\s*:",
    re.IGNORECASE,
)


def broken_rules(
    rewrite: str, *, original: str, claims: Sequence[Claim] | None, limits: RewriteLimits
) -> list[str]:
    """Return the names of the rules that a rewrite breaks; none means that it is taken.

    Args:
        rewrite: The new text.
        original: The prompt.
        claims: What the original says, where claims are known.
        limits: Length window and loops.
    """
    words = rewrite.split()
    if not words:
        return ["empty"]
    broken = {
        "too_short": len(words) < limits.min_words,
        "too_long": len(words) > limits.max_words,
        "loop": is_looping(
            [word.lower().strip(".,;:") for word in words], max_repeats=limits.max_repeats
        ),
        "preamble": bool(_PREAMBLE.search(rewrite)) and not _PREAMBLE.search(original),
    }
    names = [name for name, is_broken in broken.items() if is_broken]
    return names + losses(rewrite, original=original, claims=claims)


def losses(rewrite: str, *, original: str, claims: Sequence[Claim] | None) -> list[str]:
    """Return the names of the rules about what a rewrite has lost of its original.

    Quotations must be the same: a picture that shows words that nobody asked for is another one.
    """
    said = list(claims or ())
    # Claims of a benchmark are not in the words that the reader knows; then words decide.
    if said and list(_read(original)) == said and (again := _read(rewrite)):
        is_lost = any(found.false_negative for found in compare(again, said).values())
        shown = {claim.text.casefold() for claim in said if claim.text is not None}
        names = ["lost_claims"] if is_lost else []
    else:
        shown = set()
        names = [name for name, of in _KEPT.items() if of(original) - of(rewrite)]
    added = _quoted(rewrite) - _quoted(original)
    return names + (["added_quoted"] if any(q.casefold() not in shown for q in added) else [])


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Claim, ...]:
    """Read a text once, however many others it is compared with."""
    return tuple(read(text))


def _numbers(text: str) -> set[str]:
    spelled = (NUMBERS.get(word.lower(), word) for word in _WORD.findall(text))
    return {word for word in spelled if word[0].isdigit()}


def _content_words(text: str) -> set[str]:
    words = (word.lower().replace("\u2019", "'") for word in _WORD.findall(text))
    return {
        _singular(word.removesuffix("'s"))
        for word in words
        if word not in FUNCTION_WORDS and word not in NUMBERS and not word[0].isdigit()
    }


def _singular(word: str) -> str:
    """Give a word without its plural ending, roughly: both texts are cut the same way."""
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _quoted(text: str) -> set[str]:
    return set(quotations(text))


_KEPT: Final[Mapping[str, Callable[[str], set[str]]]] = {
    "lost_quoted": _quoted,
    "lost_numbers": _numbers,
    "lost_words": _content_words,
}
"""What must come again, by the rule that is broken where it does not."""
