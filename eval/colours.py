"""Tells the colour of an object by CLIP, as GenEval does.

Each object is cropped to its box; where the detector outlines it, everything else becomes grey.
The colour whose texts lie nearest to the crop is the object's: a text's feature is the mean over
three templates with the object's name in them.

Source: Ghosh et al. 2023, arXiv:2310.11513, `evaluation/evaluate_images.py`. What differs: the CLIP
is the one that scores, where the original has OpenAI's ViT-L/14.

H height, W width, D feature width, M candidates
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from eval.clip import ClipScorer
from eval.geneval import COLOURS, Thing

TEMPLATES: Final = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)

BACKGROUND: Final = 0x99
"""Grey of what is not the object."""


class ColourNamer:
    """Names the colours of objects; holds the features of every class's texts."""

    def __init__(self, clip: ClipScorer, names: Iterable[str]) -> None:
        self.clip = replace(clip, prefix="")
        self._texts = {name: self._text_features(name) for name in sorted(set(names))}

    def _text_features(self, name: str) -> Float32[np.ndarray, "M D"]:
        texts = [t.format(colour=colour, name=name) for colour in COLOURS for t in TEMPLATES]
        features = self.clip.text_features(texts, batch_size=len(texts)).features
        mean = features.reshape(len(COLOURS), len(TEMPLATES), -1).mean(axis=1)
        normalised: Float32[np.ndarray, "M D"] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return normalised

    def name(
        self, picture: UInt8[np.ndarray, "H W 3"], things: Sequence[Thing], name: str
    ) -> list[str]:
        """Return the colour of each object of a class.

        Every crop is a batch of its own: a colour must not depend on what else was there.
        """
        crops = [crop(picture, thing) for thing in things]
        features = [self.clip.picture_features(c[None], batch_size=1)[0] for c in crops]
        return [COLOURS[int((self._texts[name] @ feature).argmax())] for feature in features]

    def describe(self) -> dict[str, Any]:
        """Return everything that a colour depends on, for a recipe."""
        return {
            "candidates": list(COLOURS),
            "templates": list(TEMPLATES),
            "background": f"#{BACKGROUND:02x}{BACKGROUND:02x}{BACKGROUND:02x} outside a mask; "
            "a box without one is cropped as it is",
            "clip": self.clip.weights_digest,
            "formula": "argmax over colours of cos(crop, normalised mean over templates)",
        }


def crop(picture: UInt8[np.ndarray, "H W 3"], thing: Thing) -> UInt8[np.ndarray, "h w 3"]:
    """Return the picture of one object alone, one pixel large at least."""
    if thing.mask is not None:
        picture = np.where(thing.mask[..., None], picture, np.uint8(BACKGROUND))
    height, width = picture.shape[:2]
    left, top, right, bottom = (round(edge) for edge in thing.box)
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return picture[top : max(min(bottom, height), top + 1), left : max(min(right, width), left + 1)]
