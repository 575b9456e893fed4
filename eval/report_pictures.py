"""Pictures of the report: which prompts are shown, and pictures as part of the page.

The rule of choice is stated beside the pictures: some prompts drawn by key, so that nobody chose
them, and the ends of the primary comparison's differences, so that failures are seen.

N pictures, H height, W width
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from launch.keyed import uniform
from recap.artifacts import Images

MAX_SIDE = 192
"""Larger pictures are made smaller for the page."""

PIXELATED_SIDE = 96
"""Pictures up to this side are shown with hard pixels, and stored exactly."""


DRAWN, GREATEST, LEAST = "drawn by key", "greatest difference", "least difference"
"""Why a prompt is shown."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt that is shown, and why."""

    pair_id: str
    reason: str
    difference: float | None
    """Difference of the primary comparison at the noise and training seed shown."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture in a row."""

    label: str
    uri: str
    score: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The same prompt and noise across arms."""

    choice: Choice
    prompt: str
    shots: list[Shot]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A test picture and what each kind of caption says of it."""

    sample_id: str
    uri: str | None
    texts: list[tuple[str, str]]


def choose(
    differences: Mapping[str, float], *, pair_ids: Sequence[str], num_pictures: int, seed: int
) -> list[Choice]:
    """Choose the prompts that are shown: half by key, a quarter each for the ends.

    Args:
        differences: Difference of the primary comparison, by pair; empty if there is none.
        pair_ids: Every pair that could be shown.
        num_pictures: How many.
        seed: Seed of the draw.

    Returns:
        The choices, drawn ones first; ties in the difference are broken by the same draw.
    """
    words = np.array(
        [int.from_bytes(blake2b(p.encode(), digest_size=8).digest(), "big") for p in pair_ids],
        np.uint64,
    )
    draws = uniform(seed, "report pictures", epoch=0, ids=words) if len(words) else np.empty(0)
    draw = dict(zip(pair_ids, draws.tolist(), strict=True))
    drawn = sorted(pair_ids, key=draw.__getitem__)
    num_extreme = min(num_pictures // 4, len(differences) // 2)
    by_difference = sorted(differences, key=lambda p: (-differences[p], draw.get(p, 0.0)))
    best = by_difference[:num_extreme]
    worst = by_difference[::-1][:num_extreme]
    extreme = {*best, *worst}
    keyed = [p for p in drawn if p not in extreme][: max(num_pictures - len(extreme), 0)]

    def made(pairs: Sequence[str], reason: str) -> list[Choice]:
        return [Choice(pair_id=p, reason=reason, difference=differences.get(p)) for p in pairs]

    return made(keyed, DRAWN) + made(best, GREATEST) + made(worst, LEAST)


def data_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return a picture as part of the page: exact if small, else made smaller, as JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    if max(picture.size) <= PIXELATED_SIDE:
        picture.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        picture.save(file, format="JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_itself(images: Images, sample_id: str, *, side: int) -> list[Shot]:
    """Return the picture that a caption or prompt speaks of, as a list of at most one."""
    try:
        row = images.row_of(sample_id)
    except KeyError:
        return []  # prompts of a list speak of no picture
    return [Shot(label="(picture)", uri=data_uri(images.pixels([row], size=side)[0]))]


def caption_examples(
    examples: Mapping[str, Sequence[Mapping[str, str]]], images: Images, *, side: int
) -> list[Example]:
    """Join the example captions of every kind on their pictures."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for kind, listed in examples.items():
        for item in listed:
            texts.setdefault(str(item["sample_id"]), []).append((kind, str(item["text"])))
    found = []
    for sample_id, said in texts.items():
        shots = picture_itself(images, sample_id, side=side)
        uri = shots[0].uri if shots else None
        found.append(Example(sample_id=sample_id, uri=uri, texts=said))
    return found
