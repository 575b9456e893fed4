"""GenEval's rules: which of a prompt's claims hold among the boxes that a detector found.

Every claim names a class. A claim without a number asks for one object at least, a claim with a
number for exactly so many; it may also say a colour, and a place relative to another claim's
object. Only the most confident boxes of a class are asked for colour and place, as many as the
claim speaks of, so a second dog of another colour counts against no picture. Detecting and naming
colours are left to others: `eval.detect` and `eval.colours`.

Source: Ghosh et al. 2023, arXiv:2310.11513, and its `evaluation/evaluate_images.py`. What differs:
verdicts are kept apart for every statement, where the original has one for the picture; a picture
is correct exactly when all of them hold, which is the original's verdict.

K boxes of one picture, H height, W width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from eval.config import DetectorConfig
from eval.verdicts import Verdict
from launch.errors import ConfigError
from recap.claims import Claim

TASKS: Final = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The benchmark's tasks, whose means its score weighs alike."""

AXES: Final = ("object", "count", "colour", "position", "binding")
"""What a claim may say. `binding` is colour where the prompt gives colours to several objects."""

RELATIONS: Final = ("left of", "right of", "above", "below")

COLOURS: Final = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
"""Colours that the benchmark tells apart."""

COCO_NAMES: Final = {
    "computer keyboard": "keyboard",
    "computer mouse": "mouse",
    "tv remote": "remote",
}
"""GenEval's names of classes that COCO calls otherwise."""

FORMULA = (
    "statements of the prompt's claims that hold in the boxes / statements checked; "
    "geneval_correct: 1 where all hold, else 0; its score is the mean of the tasks' means"
)


class Detections(NamedTuple):
    """What a detector found in one picture."""

    boxes: Float[np.ndarray, "K 4"]
    """Left, top, right and bottom in pixels of the picture."""

    scores: Float[np.ndarray, " K"]
    """Confidence in [0, 1]."""

    labels: list[str]
    """Class of each box."""

    masks: Bool[np.ndarray, "K H W"] | None = None
    """Pixels of each object, from detectors that outline them."""


class Thing(NamedTuple):
    """One object that counts."""

    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "H W"] | None = None


ColoursOf = Callable[[Sequence[Thing], str], list[str]]
"""Names the colour of each of some objects of a class."""


def judge(
    claims: Sequence[Claim],
    found: Detections,
    *,
    labels: Mapping[str, str],
    rules: DetectorConfig,
    colours_of: ColoursOf,
) -> list[Verdict]:
    """Check every statement of a prompt's claims against the boxes of a picture.

    Where an object is not there, all that is said of it fails. Claims of displayed text are left
    to OCR.

    Args:
        claims: What the prompt says, checked by `check_claims`.
        found: What the detector found in the picture.
        labels: The detector's label of every class that the claims name.
        rules: Thresholds.
        colours_of: Names colours; asked only where a claim says one and the object is there.
    """
    is_counting = any(claim.count is not None for claim in claims)
    min_score = rules.min_score_counting if is_counting else rules.min_score
    colour_axis = "binding" if task_of(claims) == "color_attr" else "colour"
    things = [
        kept(found, labels.get(claim.object, claim.object), min_score=min_score, rules=rules)
        for claim in claims
    ]
    # A claim's own objects: the most confident ones, or none where there are too few.
    own = [
        of_class[: claim.count or 1] if len(of_class) >= (claim.count or 1) else []
        for claim, of_class in zip(claims, things, strict=True)
    ]
    verdicts = []
    for index, claim in enumerate(claims):
        if claim.text is not None:
            continue
        said = [("object", "object", bool(things[index]))]
        if claim.count is not None:
            said.append(("count", "count", len(things[index]) == claim.count))
        if claim.colour is not None:
            colours = colours_of(own[index], claim.object) if own[index] else []
            said.append((colour_axis, "colour", set(colours) == {claim.colour}))
        if claim.position is not None:
            assert claim.of is not None, "check_claims sees to it"
            targets = own[claim.of]
            is_there = bool(own[index] and targets) and all(
                claim.position in relations(thing.box, target.box, min_offset=rules.min_offset)
                for thing in own[index]
                for target in targets
            )
            said.append(("position", "position", is_there))
        verdicts += [Verdict(index, axis, name, is_held) for axis, name, is_held in said]
    return verdicts


def task_of(claims: Sequence[Claim]) -> str:
    """Return the task of the benchmark that a prompt with these claims belongs to.

    A number makes it counting, a place position; colours of several objects are `color_attr`.
    """
    num_coloured = sum(claim.colour is not None for claim in claims)
    if any(claim.position is not None for claim in claims):
        return "position"
    if any(claim.count is not None for claim in claims):
        return "counting"
    if num_coloured:
        return "color_attr" if num_coloured > 1 else "colors"
    return "single_object" if len(claims) == 1 else "two_object"


def kept(found: Detections, label: str, *, min_score: float, rules: DetectorConfig) -> list[Thing]:
    """Return the boxes of a class that count, the most confident first.

    In this order: confidence above the threshold, at most `max_objects`, and none that overlaps a
    more confident one by `max_overlap` (1 keeps all).
    """
    rows = [k for k, name in enumerate(found.labels) if name == label]
    rows = [k for k in rows if found.scores[k] > min_score]
    rows.sort(key=lambda k: -found.scores[k])
    chosen: list[int] = []
    for k in rows[: rules.max_objects]:
        if rules.max_overlap == 1 or all(
            overlap(found.boxes[k], found.boxes[other]) < rules.max_overlap for other in chosen
        ):
            chosen.append(k)
    return [
        Thing(tuple(found.boxes[k].tolist()), None if found.masks is None else found.masks[k])
        for k in chosen
    ]


def overlap(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    """Return intersection over union of two boxes, whose last pixels are part of them."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low + 1, 0)))
    union = sum(float(np.prod(np.maximum(box[2:] - box[:2] + 1, 0))) for box in (a, b)) - shared
    return shared / union if union else 0.0


def relations(
    box: Sequence[float], target: Sequence[float], *, min_offset: float
) -> frozenset[str]:
    """Return where a box lies relative to another: none, one or two of `RELATIONS`.

    From each component of the distance between the centres, `min_offset` of both boxes' sizes
    along it is taken off. What is left must exceed half of the whole distance to be a relation.
    """
    (left, top, right, bottom), (left_b, top_b, right_b, bottom_b) = box, target
    offset = np.array([left + right - left_b - right_b, top + bottom - top_b - bottom_b]) / 2
    sizes = np.abs([right - left + right_b - left_b, bottom - top + bottom_b - top_b])
    beyond = np.maximum(np.abs(offset) - min_offset * sizes, 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():  # a thousandth of a pixel: the boxes lie on each other
        return frozenset()
    x, y = beyond / np.linalg.norm(offset)
    is_said = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return frozenset(name for name, said in zip(RELATIONS, is_said, strict=True) if said)


def label_of(name: str, labels: Sequence[str]) -> str | None:
    """Return the detector's label for a class, by GenEval's name or COCO's; None without one."""
    return next((label for label in (name, COCO_NAMES.get(name)) if label in labels), None)


def check_claims(claims: Sequence[Claim], *, labels: Sequence[str], where: str) -> None:
    """Refuse claims that these rules cannot check, or that the detector has no class for.

    Raises:
        ConfigError: Naming the prompt, and what it says.
    """
    for index, claim in enumerate(claims):
        if claim.text is not None:
            continue
        if label_of(claim.object, labels) is None:
            known = ", ".join(labels[:5])
            raise ConfigError(
                f"{where}: speaks of {claim.object!r}, which is none of the detector's "
                f"{len(labels)} labels ({known}, ...); give `detector.labels` that name it, a "
                "detector that knows it, or prompts of its classes"
            )
        unknown = [name for name in ("size", "texture") if getattr(claim, name) is not None]
        if unknown:
            raise ConfigError(
                f"{where}: says {unknown[0]} {getattr(claim, unknown[0])!r} of {claim.object!r}, "
                f"which boxes cannot show; GenEval's rules know {', '.join(AXES[1:4])}"
            )
        if claim.count is not None and claim.count < 1:
            raise ConfigError(
                f"{where}: says {claim.count} of {claim.object!r}; expected 1 or more"
            )
        if claim.colour is not None and claim.colour not in COLOURS:
            raise ConfigError(
                f"{where}: says colour {claim.colour!r}, which is no candidate; those are "
                f"{', '.join(COLOURS)}"
            )
        is_related = claim.of is not None and claim.of != index and 0 <= claim.of < len(claims)
        if claim.position is not None and not (claim.position in RELATIONS and is_related):
            raise ConfigError(
                f"{where}: says position {claim.position!r} of claim {claim.of}; expected one of "
                f"{', '.join(RELATIONS)}, and `of` the index of another of its {len(claims)} claims"
            )
