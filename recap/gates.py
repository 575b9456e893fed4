"""Named rules for a bad caption.

A caption that breaks a rule is quarantined with the names of all the rules it breaks, never
deleted and never replaced. A rule looks at one caption alone; what can only be seen on many
captions together is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from launch.errors import StoppedError
from recap.config import GateConfig

LONGEST_PHRASE: Final = 12
"""Words of the longest phrase whose repetition is looked for."""

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
"""Stands where bytes are no text, as when a byte-level token breaks a letter in two."""

SMALLEST_SAMPLE: Final = 256
"""Captions that must have been written before their gated share can stop a job early."""


def is_looping(words: list[str], *, max_repeats: int) -> bool:
    """Say whether a phrase of up to twelve words comes `max_repeats` times in a row."""
    for length in range(1, min(LONGEST_PHRASE, len(words) // max_repeats) + 1):
        run = 0  # words in a row that equal the one a phrase earlier
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= length * (max_repeats - 1):
                return True
    return False


Rule = Callable[[str, list[str], str, GateConfig], bool]
"""Takes text, its words, the reason decoding stopped, and the limits; True breaks the rule."""

RULES: Final[Mapping[str, Rule]] = {
    "empty": lambda text, words, stop, limits: not words,
    "too_short": lambda text, words, stop, limits: 0 < len(words) < limits.min_words,
    "too_long": lambda text, words, stop, limits: len(words) > limits.max_words,
    "loop": lambda text, words, stop, limits: is_looping(
        [word.lower().strip(".,;:") for word in words], max_repeats=limits.max_repeats
    ),
    "unfinished": lambda text, words, stop, limits: stop == "length",
    "broken_text": lambda text, words, stop, limits: (
        REPLACEMENT in text or any(ord(letter) < 32 for letter in text)
    ),
}
"""Every rule by its name, in the order in which flags are written."""


def broken_rules(text: str, *, stop_reason: str, limits: GateConfig) -> list[str]:
    """Return the names of the rules that a caption breaks; none means that it is accepted.

    Args:
        text: The caption.
        stop_reason: `end` if its writer ended it, `length` if it ran out of room.
        limits: Where the rules draw their lines.
    """
    words = text.split()
    applied = RULES if limits.rules is None else limits.rules
    return [name for name in applied if RULES[name](text, words, stop_reason, limits)]


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
            "quarantine/, train the captioner longer, or widen the rules."
        )
