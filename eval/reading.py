"""What a small scene shows: four quadrants and a background, as read or as claimed.

A reading leaves open what its reader was not sure of. `layouts` goes the other way, from the true
claims of a picture to the pictures that they may describe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

from recap.claims import QUADRANTS, Claim

UNREAD: Final = "?"
"""Stands for what the recogniser would not say."""

EMPTY: Final = "empty"

SIGN: Final = "sign"

BACKGROUND: Final = "background"

REGIONS: Final = {
    **{name: frozenset({index}) for index, name in enumerate(QUADRANTS)},
    "top": frozenset({0, 1}),
    "bottom": frozenset({2, 3}),
    "left": frozenset({0, 2}),
    "right": frozenset({1, 3}),
}
"""Quadrants of every place that a claim may name."""


@dataclass(frozen=True)
class Cell:
    """What one quadrant shows. `UNREAD` is not known, None does not apply."""

    object: str = EMPTY
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Reading:
    """What a picture shows: its quadrants, row by row, and its background."""

    cells: tuple[Cell, Cell, Cell, Cell]
    background: str = UNREAD


def layouts(claims: Sequence[Claim]) -> list[Reading]:
    """Return every picture of the world that true claims may describe.

    A group of three has no place in its claim, so up to four pictures fit.

    Args:
        claims: The truth of one picture: every group, the sign and the background.
    """
    background = next((c.colour for c in claims if c.object == BACKGROUND), None) or UNREAD
    groups = [claim for claim in claims if claim.object != BACKGROUND]
    places = [_places(claim) for claim in groups]
    found = []
    for choice in product(*places):
        taken = [i for cells in choice for i in cells]
        if len(set(taken)) < len(taken):
            continue
        cells = [Cell()] * len(QUADRANTS)
        for claim, chosen in zip(groups, choice, strict=True):
            for i in chosen:
                cells[i] = Cell(
                    object=claim.object,
                    colour=claim.colour,
                    size=claim.size,
                    texture=claim.texture,
                    text=claim.text,
                )
        found.append(Reading(cells=(cells[0], cells[1], cells[2], cells[3]), background=background))
    return list(dict.fromkeys(found))


def _places(claim: Claim) -> list[tuple[int, ...]]:
    count = 1 if claim.object == SIGN else (claim.count or 1)
    region = REGIONS[claim.position] if claim.position else frozenset(range(len(QUADRANTS)))
    return list(combinations(sorted(region), count))
