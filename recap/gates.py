"""Named rules for a bad caption.

A caption that breaks a rule is quarantined with the names of all the rules it breaks, never
deleted and never replaced. A rule looks at one caption alone, except `same_text`, which looks at
the captions of one part together; a part is fixed by the image shard, so that order, processes
and resuming cannot change what it flags. What needs more than a part is measured elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from launch.errors import StoppedError
from recap.config import GateConfig
from recap.loops import is_looping

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
"""Stands where bytes are no text, as when a byte-level token breaks a letter in two."""

SMALLEST_SAMPLE: Final = 256
"""Captions that must have been written before their gated share can stop a job early."""


# What a text shows in quotation marks stands in the picture: a sign may well say "sorry".
_QUOTED: Final = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d|(?<!\w)\'[^\']*\'(?!\w)')

# The writer speaks of itself and of what it will not or cannot do. "I" alone is no refusal.
_REFUSAL: Final = re.compile(
    r"""
    \b(?:i|we)\s*(?:'m|am|are)\s+(?:sorry|unable|not\s+able|not\s+allowed)\b
    | ^\W*(?:sorry|apologies|my\s+apologies)\s*[,.!]
    | \bi\s+(?:can'?t|cannot|can\s+not|could\s+not|couldn't|won't|will\s+not|don't|do\s+not)\s+
      (?:\w+ly\s+)?(?:see|view|access|open|describe|caption|identify|determine|assist|help|provide|
      comply|fulfil|generate|create|write|tell|have\s+(?:access|enough))\b
    | \bi\s+apologi[sz]e\b
    | \bas\s+an\s+ai\b | \bi\s*(?:'m|am)\s+an?\s+(?:ai|(?:large\s+)?language\s+model)\b
    | \bno\s+(?:image|picture|photo)\s+(?:was|has\s+been|is)\s+
      (?:provided|attached|uploaded|given)\b
    | \bplease\s+(?:provide|upload|share|attach|send)\s+(?:me\s+)?(?:an?|the|your)\s+
      (?:image|picture|photo)\b
    """,
    re.VERBOSE,
)

# Words around a caption that say nothing of any picture: a chat's preamble and sign-off, a page's
# furniture, an agency's label.
_BOILERPLATE: Final = re.compile(
    r"""
    ^\W*(?:sure|certainly|of\s+course|absolutely|okay|ok)\s*[,!.]
    | \bhere(?:\s+is|'s|\s+are)\s+(?:an?|the|your|my)\s+(?:[\w-]+\s+){0,3}
      (?:caption|description|alt\s+text)\b
    | ^\W*(?:(?:image|alt|short|detailed)\s+)?(?:caption|description)\s*:
    | \b(?:let\s+me\s+know\s+if|hope\s+this\s+helps|feel\s+free\s+to)\b
    | \bimage\s+may\s+contain\b
    | \b(?:click|tap)\s+(?:here|to\s+(?:enlarge|zoom|view))\b
    | \ball\s+rights\s+reserved\b | \(c\)\s*(?:19|20)\d\d\b | \N{COPYRIGHT SIGN}
    | \broyalty[-\s]free\b
    | \bstock\s+(?:photos?|photography|images?|vectors?|illustrations?|pictures?|footage)\b
    | \b(?:free\s+shipping|add\s+to\s+(?:cart|basket)|subscribe\s+(?:to|now)|lorem\s+ipsum)\b
    | https?://|\bwww\.
    """,
    re.VERBOSE,
)

SCRIPT_FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "arabic": frozenset({"ARABIC"}),
    "cjk": frozenset(
        {
            *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO"),
            "HANGUL",
        }
    ),
    "cyrillic": frozenset({"CYRILLIC"}),
    "devanagari": frozenset({"DEVANAGARI"}),
    "greek": frozenset({"GREEK"}),
    "hebrew": frozenset({"HEBREW"}),
    "latin": frozenset({"LATIN"}),
    "thai": frozenset({"THAI"}),
}
"""Scripts that are written together, by the first word of the Unicode names of their letters."""

_WITH_BLANKS: Final = frozenset({"HANGUL"})
"""Scripts that stand beside others in a family without blanks, and have blanks themselves."""

LONGEST_PHRASE_IN_LETTERS: Final = 60
"""Letters of the longest phrase whose repetition is looked for, where letters count as words."""

_NO_SCRIPT: Final = frozenset({"MODIFIER", "COMBINING", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"})
"""First words of the names of letters that belong to no script or to any."""


_WORD: Final = re.compile(r"\w+")


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNNAMED").split(" ", 1)[0]


def share_of_other_scripts(text: str, family: str) -> float:
    """Return the share of a text's letters that another script than those of a family has.

    Letters are counted after compatibility composition (NFKC), which gives wide Latin letters, the
    micro sign and their like the script that they are read in.
    """
    scripts = [_script(c) for c in unicodedata.normalize("NFKC", text) if c.isalpha()]
    counted = [script for script in scripts if script not in _NO_SCRIPT]
    allowed = SCRIPT_FAMILIES[family]
    return sum(script not in allowed for script in counted) / len(counted) if counted else 0.0


def _is_wrong_script(text: str, limits: GateConfig) -> bool:
    if limits.script is None:
        return False
    return share_of_other_scripts(text, limits.script) > limits.max_other_script_share


def _plain(text: str) -> str:
    """Give a text as patterns expect it: lower case, straight apostrophes, nothing quoted."""
    return _QUOTED.sub('""', text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def words_of(text: str, limits: GateConfig) -> list[str]:
    """Return what counts as the words of a text.

    These are what stands between blanks. Where captions are written without blanks, it is every
    letter of their script, with the marks that it carries, and what stands between blanks and such
    letters unless it is punctuation and invisible characters alone.
    """
    if limits.words is None:
        return text.split()
    found = _apart(text, limits).split()
    return [word for word in found if not _says_nothing(word)] or found


def _apart(text: str, limits: GateConfig) -> str:
    """Set the letters of a script without blanks apart by blanks, composed as NFKC has them."""
    assert limits.script is not None
    scripts = SCRIPT_FAMILIES[limits.script] - _WITH_BLANKS
    pieces: list[str] = []
    in_letter = False
    for character in unicodedata.normalize("NFKC", text):
        if character.isalpha() and _script(character) in scripts:
            pieces.append(" ")
            in_letter = True
        elif in_letter and not _is_mark(character):
            pieces.append(" ")
            in_letter = False
        pieces.append(character)
    return "".join(pieces)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _says_nothing(word: str) -> bool:
    return all(unicodedata.category(character)[0] in "PC" for character in word)


def _is_looping(words: Sequence[str], limits: GateConfig) -> bool:
    """Say whether a phrase comes again and again; case and the marks at its end do not matter."""
    plain = [word.lower().strip(".,;:") for word in words]
    if limits.words is None:
        return is_looping(plain, max_repeats=limits.max_repeats)
    return is_looping(
        plain, max_repeats=limits.max_repeats, longest_phrase=LONGEST_PHRASE_IN_LETTERS
    )


def _lacks_words(text: str, limits: GateConfig) -> bool:
    """Say whether any of the words or phrases is missing; case and punctuation do not matter."""
    spoken = _spoken(text, limits)
    return any(_spoken(phrase, limits) not in spoken for phrase in limits.required_words)


def _spoken(text: str, limits: GateConfig) -> str:
    """Give the words of a text alone, one space before and behind each."""
    if limits.words is None:
        return f" {' '.join(_WORD.findall(text.lower()))} "
    kept = (
        c if c.isalnum() or c == "_" or _is_mark(c) else " " for c in _apart(text.lower(), limits)
    )
    return f" {' '.join(''.join(kept).split())} "


Rule = Callable[[str, list[str], str, GateConfig], bool]
"""Takes text, its words, the reason decoding stopped, and the limits; True breaks the rule."""

RULES: Final[Mapping[str, Rule]] = {
    "empty": lambda text, words, stop, limits: not words,
    "too_short": lambda text, words, stop, limits: 0 < len(words) < limits.min_words,
    "too_long": lambda text, words, stop, limits: len(words) > limits.max_words,
    "loop": lambda text, words, stop, limits: _is_looping(words, limits),
    "unfinished": lambda text, words, stop, limits: stop == "length",
    "broken_text": lambda text, words, stop, limits: (
        REPLACEMENT in text or any(ord(letter) < 32 for letter in text)
    ),
    "refusal": lambda text, words, stop, limits: bool(_REFUSAL.search(_plain(text))),
    "boilerplate": lambda text, words, stop, limits: bool(_BOILERPLATE.search(_plain(text))),
    "digits_only": lambda text, words, stop, limits: (
        bool(words) and not any(letter.isalpha() for letter in text)
    ),
    "wrong_script": lambda text, words, stop, limits: _is_wrong_script(text, limits),
    "missing_words": lambda text, words, stop, limits: bool(words) and _lacks_words(text, limits),
}
"""Every rule about one caption by its name, in the order in which flags are written."""

SAME_TEXT: Final = "same_text"
"""The rule about the captions of one part together; its flag is written last."""


class Written(NamedTuple):
    """What the rules look at in a caption."""

    text: str
    stop_reason: str
    """`end` if its writer ended it, `length` if it ran out of room."""


def broken_rules(text: str, *, stop_reason: str, limits: GateConfig) -> list[str]:
    """Return the names of the rules that a caption breaks; none means that it is accepted.

    Args:
        text: The caption.
        stop_reason: `end` if its writer ended it, `length` if it ran out of room.
        limits: Where the rules draw their lines.
    """
    words = words_of(text, limits)
    applied = RULES if limits.rules is None else [r for r in limits.rules if r in RULES]
    return [name for name in applied if RULES[name](text, words, stop_reason, limits)]


def broken_rules_of_part(part: Sequence[Written], *, limits: GateConfig) -> list[list[str]]:
    """Return the rules that each caption of a part breaks, `same_text` among them.

    Args:
        part: Every caption of the part, one per picture; their order does not matter.
        limits: Where the rules draw their lines.
    """
    flags = [broken_rules(text, stop_reason=stop, limits=limits) for text, stop in part]
    most = limits.max_pictures_per_text
    if most is None or (limits.rules is not None and SAME_TEXT not in limits.rules):
        return flags
    texts = [" ".join(written.text.lower().split()) for written in part]
    pictures = Counter(texts)
    for text, of_caption in zip(texts, flags, strict=True):
        if text and pictures[text] > most:
            of_caption.append(SAME_TEXT)
    return flags


def stop_if_too_many(
    *,
    where: str,
    num_captions: int,
    gated: Mapping[str, int],
    num_gated: int,
    limits: GateConfig,
    is_final: bool,
) -> None:
    """Stop a job that writes mostly bad captions, early when enough have been seen.

    Args:
        where: The job's folder, for the message.
        num_captions: Captions written, gated ones included.
        gated: Captions by rule; one caption may break several.
        num_gated: Captions that broke any rule.
        limits: Holds the largest share allowed.
        is_final: All captions are written; before that a small sample decides nothing.

    Raises:
        StoppedError: The gated share is above `gates.max_gated_share`.
    """
    if not num_captions or (not is_final and num_captions < SMALLEST_SAMPLE):
        return
    share = num_gated / num_captions
    if share > limits.max_gated_share:
        rules = ", ".join(f"{name} {count:,}" for name, count in gated.items() if count)
        raise StoppedError(
            f"{where}: {num_gated:,} of {num_captions:,} captions ({share:.1%}) broke a rule "
            f"({rules}); at most gates.max_gated_share={limits.max_gated_share:g} may. Look at "
            "quarantine/. Raise gates.max_gated_share and give the same command, or choose another "
            "--out with other rules or another captioner."
        )
