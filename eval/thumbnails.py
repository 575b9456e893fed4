"""Pictures as part of a page: small, inside the file, with what is said of them.

H height, W width
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from recap.artifacts import Images

MAX_SIDE = 192
"""Larger pictures are made smaller for the page."""

PIXELATED_SIDE = 96
"""Pictures up to this side are shown with hard pixels, and stored exactly."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture in a row."""

    label: str
    uri: str
    score: str = ""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A test picture and what each kind of caption says of it."""

    sample_id: str
    uri: str | None
    texts: list[tuple[str, str]]


def data_uri(
    pixels: UInt8[np.ndarray, "H W 3"], *, max_side: int = MAX_SIDE, quality: int = 85
) -> str:
    """Return a picture as part of the page: exact if small, else at most `max_side`, as JPEG."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    if max(picture.size) <= PIXELATED_SIDE:
        picture.save(file, format="PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        picture.save(file, format="JPEG", quality=quality)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_itself(images: Images, sample_id: str, *, side: int) -> list[Shot]:
    """Return the picture that a caption or prompt speaks of, as a list of at most one."""
    try:
        row = images.row_of(sample_id)
    except KeyError:
        return []  # prompts of a list speak of no picture
    return [Shot(label="real picture", uri=data_uri(images.pixels([row], size=side)[0]))]


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
