"""Describing a scene wrongly on purpose, at known rates: what a worse captioner would have said.

Two kinds of mistake, the two that captioners make. An omission leaves a statement unsaid; a
hallucination says something else of the same sort in its place ("blue" for "red"). Which ones are
made is decided statement by statement, with keyed numbers that are compared with the rate, so the
mistakes of a lower rate are among those of a higher one, and nothing else of a text's claims moves.

Left whole: the first thing's being there, because a description speaks of something, and numbers,
which may be wrong but are never unsaid, because English has no noun without a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from launch import keyed
from recap.claims import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    OBJECTS,
    QUADRANTS,
    SIZES,
    TEXTURES,
    Claim,
)

MAX_CLAIMS: Final = 4
"""Claims of a scene: two groups, a sign, the background."""
NUMBERS: Final = (1, 2, 3)
"""Of like objects in a scene."""
LINES: Final = ("top", "bottom", "left", "right")
"""Where two like objects stand."""

ATTRIBUTES: Final = ("object", "count", "colour", "size", "texture", "position", "text")
_STREAM: Final = "mistakes"
_NUM_DRAWS: Final = 2 + len(ATTRIBUTES)
"""Numbers of one statement: is it left out, is it wrong, and what stands there then, one for each
letter of a text at most."""


class Mistaken(NamedTuple):
    """What is said of one scene, and how far it is from the truth."""

    claims: list[Claim]
    num_statements: int
    """Statements that the truth makes and that may be mistaken."""

    num_omitted: int
    num_wrong: int


def mistake(
    claims: Sequence[Sequence[Claim]],
    *,
    sample_ids: Sequence[str],
    omission: float,
    hallucination: float,
    seed: int,
) -> list[Mistaken]:
    """Leave out and falsify statements about each scene.

    Args:
        claims: The whole truth about each scene, main subject first.
        sample_ids: Identities of the pictures.
        omission: Probability of leaving out a statement; with a thing go all statements about it.
        hallucination: Probability that a statement which is made is false.
        seed: Seed of the mistakes.
    """
    numbers = keyed.uniform(
        seed,
        _STREAM,
        epoch=0,
        ids=keyed.words(sample_ids),
        count=MAX_CLAIMS * len(ATTRIBUTES) * _NUM_DRAWS,
    ).reshape(len(sample_ids), MAX_CLAIMS, len(ATTRIBUTES), _NUM_DRAWS)
    return [
        _one(truth, draws, omission=omission, hallucination=hallucination)
        for truth, draws in zip(claims, numbers.tolist(), strict=True)
    ]


def _one(
    truth: Sequence[Claim],
    draws: list[list[list[float]]],
    *,
    omission: float,
    hallucination: float,
) -> Mistaken:
    said: list[Claim] = []
    num_statements = num_omitted = num_wrong = 0
    for index, (claim, of_claim) in enumerate(zip(truth, draws, strict=False)):
        stated = [name for name in ATTRIBUTES if getattr(claim, name) is not None]
        if claim.object not in OBJECTS:
            stated.remove("object")  # a sign and a background are never taken for something else
        num_statements += len(stated)
        # Of a background nothing is left without its colour, of a sign nothing without its text.
        of_thing = {"background": "colour", "sign": "text"}.get(claim.object, "object")
        if index and of_claim[ATTRIBUTES.index(of_thing)][0] < omission:
            num_omitted += len(stated)
            continue
        changed: dict[str, str | int | None] = {}
        for name in stated:
            omit, wrong, *which = of_claim[ATTRIBUTES.index(name)]
            if omit < omission and name not in {"count", of_thing}:
                changed[name] = None
                num_omitted += 1
            elif wrong < hallucination:
                changed[name] = _another(claim, name, which)
                num_wrong += 1
        said.append(replace(claim, **changed))  # type: ignore[arg-type]
    return Mistaken(said, num_statements, num_omitted, num_wrong)


def _another(claim: Claim, name: str, which: Sequence[float]) -> str | int:
    """Return another value of the same sort, each equally likely."""
    value = getattr(claim, name)
    options: Sequence[str | int]
    match name:
        case "object":
            options = OBJECTS
        case "count":
            options = NUMBERS
        case "colour":
            options = BACKGROUNDS if claim.object == "background" else COLOURS
        case "size":
            options = SIZES
        case "texture":
            options = TEXTURES
        case "position":
            options = QUADRANTS if value in QUADRANTS else LINES
        case "text":
            letters = [
                _pick([x for x in LETTERS if x != y], u) for y, u in zip(value, which, strict=False)
            ]
            return "".join(map(str, letters))
        case _:
            raise AssertionError(name)
    return _pick([option for option in options if option != value], which[0])


def _pick(options: Sequence[str | int], u: float) -> str | int:
    return options[int(u * len(options))]
