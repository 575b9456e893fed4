"""What a text says, said again as a person would ask for it: the same claims in other words.

The embedded world's language writes the wishes; here is seen to it that they ask for neither more
nor less than the text they take the place of. Both speak of the embedded world alone: what the
reader of claims does not understand is not said again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from launch import keyed
from recap.claims import OBJECTS, read
from recap.sources.scenes import language

ATTEMPTS: Final = 8
"""Phrasings that are tried before a text is given up."""

_STREAM: Final = "wishes"


def wish_for(text: str, *, sample_id: str, seed: int) -> str | None:
    """Write what a person would ask for who wants just what a text says.

    Args:
        text: In any style of the embedded world.
        sample_id: Identity of the picture that it speaks of.
        seed: Seed of the phrasing.

    Returns:
        The first phrasing that is read back as the same claims, in whatever order; None where none
        is, or where the text names nothing to ask for.
    """
    said = read(text)
    has_object = any(claim.object in OBJECTS for claim in said)
    if not has_object or any(claim.object == "sign" and not claim.text for claim in said):
        return None
    ids = keyed.words([sample_id])
    for attempt in range(ATTEMPTS):
        numbers = keyed.uniform(seed, _STREAM, epoch=attempt, ids=ids, count=language.NUM_DRAWS)
        wish = language.wish_again(said, language.Draws(numbers[0].tolist()))
        if Counter(read(wish)) == Counter(said):
            return wish
    return None
