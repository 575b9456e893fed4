"""Which of a prompt's claims hold in a picture as it was read.

Claims are checked exactly as they are said and never more: objects beyond those claimed do not
count against a picture. The attributes of a claim must hold on the same objects, so claims and
objects are matched as favourably as they can be, no object twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

from eval.reading import BACKGROUND, REGIONS, SIGN, UNREAD, Cell, Reading
from recap.claims import AXES, OBJECTS, Claim

AXIS_OF: Final = {
    "object": "objects",
    "background": "objects",
    "count": "number_place",
    "position": "number_place",
    "colour": "colour_size",
    "size": "colour_size",
    "texture": "colour_size",
    "text": "words",
}
"""Axis of every statement that a claim makes."""

ATTRIBUTES: Final = ("count", "position", "colour", "size", "texture", "text")


class Verdict(NamedTuple):
    """Whether one statement of one claim holds; None where the reading is not sure."""

    claim: int
    """Place of the claim in the prompt's list."""

    axis: str
    name: str
    """`object`, `background` or the attribute."""

    is_held: bool | None


def knows(claims: Sequence[Claim]) -> bool:
    """Say whether claims speak of the embedded world alone; a reading says nothing of another."""
    return all(
        claim.object in {*OBJECTS, SIGN, BACKGROUND}
        and claim.position in {None, *REGIONS}
        and claim.of is None
        for claim in claims
    )


def verdicts(claims: Sequence[Claim], reading: Reading) -> list[Verdict]:
    """Check every statement of a prompt's claims against a reading.

    A claimed group is matched with quadrants that show its kind; of all ways to match, no quadrant
    used twice, the one under which most statements hold is taken. A claim that finds no quadrant
    fails in all that it says, unless an unread quadrant could be what it speaks of.
    """
    return [
        Verdict(claim=index, axis=AXIS_OF[name], name=name, is_held=is_held)
        for index, found in enumerate(_best(tuple(claims), reading))
        for name, is_held in found
    ]


def holds(claim: Claim, reading: Reading, *, axis: str) -> bool | None:
    """Say whether all that one claim says on one axis holds; None where unread or unsaid."""
    found = [v.is_held for v in verdicts([claim], reading) if v.axis == axis]
    if False in found:
        return False
    return None if None in found or not found else True


class Tally(NamedTuple):
    """Statements of a prompt on one axis."""

    total: int = 0
    held: int = 0
    abstained: int = 0


def tally(found: Sequence[Verdict], *, axes: Sequence[str] = AXES) -> dict[str, Tally]:
    """Count verdicts by axis; axes on which nothing was said are left out."""
    counts: dict[str, list[int]] = {}
    for verdict in found:
        count = counts.setdefault(verdict.axis, [0, 0, 0])
        count[0] += 1
        count[1] += verdict.is_held is True
        count[2] += verdict.is_held is None
    return {axis: Tally(*counts[axis]) for axis in axes if axis in counts}


_Found = tuple[tuple[str, bool | None], ...]


@lru_cache(maxsize=65536)
def _best(claims: tuple[Claim, ...], reading: Reading) -> tuple[_Found, ...]:
    """Match claims with disjoint sets of quadrants so that most statements hold."""
    options = [_options(claim, reading) for claim in claims]

    @cache
    def search(index: int, used: frozenset[int]) -> tuple[int, int, tuple[_Found, ...]]:
        """Return statements held, statements not refuted, and what was found, from `index` on."""
        if index == len(claims):
            return 0, 0, ()
        best: tuple[int, int, tuple[_Found, ...]] | None = None
        for cells, found in options[index]:
            if cells & used:
                continue
            held, open_, rest = search(index + 1, used | cells)
            held += sum(is_held is True for _, is_held in found)
            open_ += sum(is_held is not False for _, is_held in found)
            if best is None or (held, open_) > best[:2]:
                best = (held, open_, (found, *rest))
        assert best is not None, "the option that uses no quadrant is always open"
        return best

    return search(0, frozenset())[2]


def _options(claim: Claim, reading: Reading) -> list[tuple[frozenset[int], _Found]]:
    """Return the sets of quadrants that a claim may speak of, and what holds for each."""
    if claim.object == BACKGROUND:
        if claim.colour is None:
            return [(frozenset(), ())]
        is_held = None if reading.background == UNREAD else claim.colour == reading.background
        return [(frozenset(), ((BACKGROUND, is_held),))]
    cells = reading.cells
    of_kind = [i for i, cell in enumerate(cells) if cell.object == claim.object]
    sets: list[frozenset[int]] = []
    if claim.object == SIGN:
        sets += [frozenset({i}) for i in of_kind]
    else:
        # Those that are exactly as said, then each colour's, then all of the kind.
        sets.append(frozenset(i for i in of_kind if _is_as_said(claim, cells[i])))
        for colour in dict.fromkeys(cells[i].colour for i in of_kind):
            sets.append(frozenset(i for i in of_kind if cells[i].colour == colour))
        sets.append(frozenset(of_kind))
    options = [(chosen, _check(claim, reading, chosen)) for chosen in dict.fromkeys(sets) if chosen]
    return [*options, (frozenset(), _check_absent(claim, reading))]


def _is_as_said(claim: Claim, cell: Cell) -> bool:
    return all(
        getattr(claim, name) in (None, getattr(cell, name))
        for name in ("colour", "size", "texture")
    )


def _check_absent(claim: Claim, reading: Reading) -> _Found:
    """Nothing is left to match: false, unless an unread quadrant may show it."""
    is_known = claim.object in OBJECTS or claim.object == SIGN
    is_open = not is_known or any(cell.object == UNREAD for cell in reading.cells)
    value = None if is_open else False
    said = [name for name in ATTRIBUTES if getattr(claim, name) is not None]
    return tuple((name, value) for name in ("object", *said))


def _check(claim: Claim, reading: Reading, chosen: frozenset[int]) -> _Found:
    found: list[tuple[str, bool | None]] = [("object", True)]
    cells = [reading.cells[i] for i in sorted(chosen)]
    if claim.count is not None:
        missing = claim.count - len(cells)
        num_unread = sum(cell.object == UNREAD for cell in reading.cells)
        is_open = 0 < missing <= num_unread
        found.append(("count", None if is_open else missing == 0))
    if claim.position is not None:
        region = REGIONS.get(claim.position)
        found.append(("position", None if region is None else chosen <= region))
    for name in ("colour", "size", "texture", "text"):
        wanted = getattr(claim, name)
        if wanted is not None:
            found.append((name, _majority([getattr(cell, name) for cell in cells], wanted)))
    return tuple(found)


def _majority(values: Sequence[str | None], wanted: str) -> bool | None:
    """Say whether more than half of the objects have a value; None where unread ones decide."""
    num_right = sum(value == wanted for value in values)
    num_unread = sum(value == UNREAD for value in values)
    if 2 * num_right > len(values):
        return True
    return None if 2 * (num_right + num_unread) > len(values) else False
