"""A text that has lost its thread: the same phrase over and over.

Read by the gates of captions and by the rules of rewritten prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LONGEST_PHRASE: Final = 12
"""Words of the longest phrase whose repetition is looked for."""


def is_looping(
    words: Sequence[str], *, max_repeats: int, longest_phrase: int = LONGEST_PHRASE
) -> bool:
    """Say whether a phrase of up to `longest_phrase` words comes `max_repeats` times in a row."""
    for length in range(1, min(longest_phrase, len(words) // max_repeats) + 1):
        run = 0  # words in a row that equal the one a phrase earlier
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= length * (max_repeats - 1):
                return True
    return False
