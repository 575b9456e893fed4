"""Pixels of a scene: anti-aliased shapes placed by masks that are computed once per size.

Each picture varies in where exactly an object stands within its quadrant, in the exact colours and
in the shading of the background, by keyed draws. Sizes are given at 32 pixels and scale.

N pictures, S side in pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from launch import keyed
from recap.sources.scenes.world import Scene

REFERENCE_SIDE: Final = 32
"""Side in pixels for which the sizes below are given."""
OBJECT_SIDES: Final = {"small": 8.0, "large": 14.0}
"""Side of an object in pixels."""
JITTER: Final = {"small": 2.0, "large": 1.0, "sign": 1.0}
"""Greatest shift of an object from the middle of its quadrant, in pixels."""
COLOUR_JITTER: Final = 12.0
"""Greatest change of each colour channel, of 255."""
SHADING: Final = 14.0
"""Greatest change of the background from the middle to a corner, of 255."""

RGB: Final = {
    "red": (222, 40, 40), "green": (40, 170, 60), "blue": (50, 85, 235),
    "yellow": (243, 222, 50), "purple": (150, 50, 200), "white": (242, 242, 242),
    "grey": (128, 128, 128), "black": (22, 22, 22), "brown": (120, 74, 38),
    "pink": (246, 165, 190),
}  # fmt: skip
_STRIPE: Final = 0.3
"""Brightness of a stripe beside the object's colour."""
_PLATE: Final = np.array([236.0, 214.0, 170.0], dtype=np.float32)
_INK: Final = np.array([20.0, 20.0, 30.0], dtype=np.float32)
_SUPER: Final = 8
"""Samples a side of each pixel from which coverage is averaged."""
_STREAM: Final = "scene.pixels"
# Per picture: 2 numbers of shading, 3 for the colour of the background and of each of two groups,
# one for the shift in each quadrant.
_NUM_DRAWS: Final = 15

_GLYPHS: Final = {
    "C": ("01110", "10001", "10000", "10000", "10000", "10001", "01110"),
    "E": ("11111", "10000", "10000", "11110", "10000", "10000", "11111"),
    "H": ("10001", "10001", "10001", "11111", "10001", "10001", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "T": ("11111", "00100", "00100", "00100", "00100", "00100", "00100"),
    "V": ("10001", "10001", "10001", "10001", "01010", "01010", "00100"),
    "X": ("10001", "01010", "01010", "00100", "01010", "01010", "10001"),
    "Z": ("11111", "00001", "00010", "00100", "01000", "10000", "11111"),
}


class _Stamp(NamedTuple):
    """What an object or sign does to its quadrant; the same in all four."""

    top: int
    bottom: int
    left: int
    right: int
    covered: NDArray[np.float32]
    """Share of each pixel that it covers, [h,w,1]."""
    paint: NDArray[np.float32]

    def window(self, quadrant: int, side: int) -> tuple[slice, slice]:
        """Give the rows and columns of the picture that it touches."""
        y, x = side // 2 * (quadrant // 2), side // 2 * (quadrant % 2)
        return slice(y + self.top, y + self.bottom), slice(x + self.left, x + self.right)


@lru_cache(maxsize=4096)
def _mask(kind: str, size: str, shift: tuple[int, int], side: int) -> _Stamp:
    """Give the pixels of a quadrant that an object covers, and how bright it is where striped.

    The paint is a brightness [h,w,1], to be multiplied with the object's colour.
    """
    y, x = _grid(side)
    y, x = y - 8.0 - shift[0], x - 8.0 - shift[1]
    half = OBJECT_SIDES[size] / 2
    radius = np.hypot(x, y)
    longer, shorter = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    match kind:
        case "circle":
            inside = radius <= half
        case "square":
            inside = longer <= half * 0.9
        case "triangle":
            inside = (y >= -half) & (y <= half * 0.9) & (abs(x) <= (y + half) * 0.525)
        case "cross":
            inside = (shorter <= half * 0.34) & (longer <= half)
        case "ring":
            inside = (radius <= half) & (radius >= half * 0.52)
        case _:
            raise AssertionError(kind)
    width = 1.0 if size == "small" else 2.0
    dark = np.broadcast_to(np.floor((y + half) / width) % 2 == 1, inside.shape)
    return _stamp(inside, 1.0 - (1.0 - _STRIPE) * _coverage(dark)[..., None])


@lru_cache(maxsize=8192)
def _sign(text: str, shift: tuple[int, int], side: int) -> _Stamp:
    """Give the pixels of a quadrant that a sign covers; the paint is its colours [h,w,3]."""
    plate = np.zeros((11, 15), dtype=bool)
    left = (15 - (6 * len(text) - 1)) // 2
    for index, letter in enumerate(text):
        rows = np.array([[bit == "1" for bit in row] for row in _GLYPHS[letter]])
        plate[2:9, left + 6 * index : left + 6 * index + 5] = rows
    y, x = _grid(side)
    # Whole pixels, or thin letters would blur.
    y, x = np.floor(y - 2.0 - shift[0]).astype(int), np.floor(x - max(shift[1], 0)).astype(int)
    inside = (y >= 0) & (y < 11) & (x >= 0) & (x < 15)
    ink = _coverage(inside & plate[np.clip(y, 0, 10), np.clip(x, 0, 14)])[..., None]
    return _stamp(inside, _PLATE * (1 - ink) + _INK * ink)


def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the places of a quadrant's samples, [S/2*8,1] and [1,S/2*8], in reference pixels."""
    line = (np.arange(side // 2 * _SUPER) + 0.5) / _SUPER / (side / REFERENCE_SIDE)
    return line[:, None], line[None, :]


def _coverage(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give the share of each pixel's samples that lie inside."""
    side = inside.shape[0] // _SUPER
    blocks = inside.reshape(side, _SUPER, side, _SUPER)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _stamp(inside: NDArray[np.bool_], paint: NDArray[np.float32]) -> _Stamp:
    covered = _coverage(inside)
    y, x = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    top, bottom, left, right = int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1
    window = slice(top, bottom), slice(left, right)
    return _Stamp(top, bottom, left, right, covered[window][..., None], paint[window])


@lru_cache(maxsize=8)
def _ramps(side: int) -> NDArray[np.float32]:
    """Give a vertical and a horizontal ramp from -0.5 to 0.5, [2,S,S,1]."""
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    vertical = np.repeat(ramp[:, None], side, axis=1)
    return np.stack([vertical, vertical.T])[..., None]


def render(
    scenes: Sequence[Scene], *, seed: int, sample_ids: Sequence[str], size: int = REFERENCE_SIDE
) -> UInt8[np.ndarray, "N S S 3"]:
    """Draw pictures.

    Args:
        scenes: What each picture shows.
        seed: Seed of the world.
        sample_ids: Identities of the pictures; with the seed they fix colours, shading and shifts.
        size: Side in pixels, even.
    """
    ids = keyed.words(sample_ids)
    draws = keyed.uniform(seed, _STREAM, epoch=0, ids=ids, count=_NUM_DRAWS) * 2 - 1  # [-1, 1)
    pictures = np.empty((len(scenes), size, size, 3), dtype=np.uint8)
    for picture, scene, row in zip(pictures, scenes, draws.astype(np.float32), strict=True):
        picture[:] = _picture(scene, row, size)
    return pictures


def _picture(scene: Scene, u: Float[np.ndarray, "15"], side: int) -> NDArray[np.float32]:
    ramps = _ramps(side)
    shade = ramps[0] * (u[0] * SHADING) + ramps[1] * (u[1] * SHADING)
    canvas = shade + _tint(scene.background, u[2:5] * 0.6)
    for index, group in enumerate(scene.groups):
        colour = _tint(group.colour, u[5 + 3 * index : 8 + 3 * index])
        for quadrant in group.quadrants:
            shift = _shift(u, quadrant, JITTER[group.size])
            stamp = _mask(group.kind, group.size, shift, side)
            part = canvas[stamp.window(quadrant, side)]
            paint = colour * stamp.paint if group.texture == "striped" else colour
            part += stamp.covered * (paint - part)
    if scene.sign is not None and scene.sign_quadrant is not None:
        stamp = _sign(scene.sign, _shift(u, scene.sign_quadrant, JITTER["sign"]), side)
        part = canvas[stamp.window(scene.sign_quadrant, side)]
        part += stamp.covered * (stamp.paint - part)
    return np.asarray(np.clip(np.rint(canvas), 0, 255))


def _tint(name: str, u: Float[np.ndarray, "3"]) -> NDArray[np.float32]:
    return np.asarray(np.array(RGB[name]) + u * COLOUR_JITTER, dtype=np.float32)


def _shift(u: Float[np.ndarray, "15"], quadrant: int, most: float) -> tuple[int, int]:
    """Give whole pixels of the reference by which an object stands off the middle."""
    steps = int(2 * most + 1)
    cell = min(int((float(u[11 + quadrant]) + 1) / 2 * steps * steps), steps * steps - 1)
    return cell // steps - int(most), cell % steps - int(most)
