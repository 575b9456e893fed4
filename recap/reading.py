"""Pictures read ahead of whoever looks at them, in groups of one size or each in its own.

Threads do it: Pillow decodes and resizes without Python's lock, and a shard is mapped into memory
once for all of them.

G pictures of a group, H height and width of a picture
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from recap.artifacts import Images
from recap.pictures import MIDDLE, Square

T = TypeVar("T")

GROUPS_AHEAD = 2
"""Groups that each thread may be ahead."""


class PixelGroup(NamedTuple):
    """Pictures that are looked at together."""

    pixels: UInt8[np.ndarray, "G H H 3"]
    """Always as many; the last group is filled up with its last picture."""

    sample_ids: Sequence[str]
    """Of the real ones, which come first."""


def pixel_groups(
    images: Images,
    rows: Int64[np.ndarray, "N"],
    *,
    image_size: int,
    group_size: int,
    num_workers: int,
    square: Square = MIDDLE,
) -> Iterator[PixelGroup]:
    """Yield pictures in the order of `rows`.

    Args:
        images: Opened images.
        rows: Which pictures.
        image_size: Pixels a side.
        group_size: Pictures of a group.
        num_workers: Threads.
        square: How a picture becomes square.
    """

    def read(here: Int64[np.ndarray, "G"]) -> PixelGroup:
        filling = np.repeat(here[-1:], group_size - len(here))
        pixels = images.pixels(np.concatenate([here, filling]), size=image_size, square=square)
        return PixelGroup(pixels, [images.sample_ids[row] for row in here])

    return _ahead(read, rows, group_size=group_size, num_workers=num_workers)


class PictureGroup(NamedTuple):
    """Pictures in their own shapes."""

    pictures: Sequence[Image.Image]
    sample_ids: Sequence[str]


def picture_groups(
    images: Images,
    rows: Int64[np.ndarray, "N"],
    *,
    longest_px: int | None,
    group_size: int,
    num_workers: int,
) -> Iterator[PictureGroup]:
    """Yield whole pictures in the order of `rows`.

    Args:
        images: Opened images.
        rows: Which pictures.
        longest_px: Longer side at most; None leaves pictures as they are.
        group_size: Pictures of a group, the last one's aside.
        num_workers: Threads.
    """

    def read(here: Int64[np.ndarray, "G"]) -> PictureGroup:
        pictures = [images.picture(int(row)) for row in here]
        if longest_px is not None:
            for picture in pictures:
                # The gap lets Pillow first average whole blocks: several times faster and as good.
                size = (longest_px, longest_px)
                picture.thumbnail(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        return PictureGroup(pictures, [images.sample_ids[row] for row in here])

    return _ahead(read, rows, group_size=group_size, num_workers=num_workers)


def _ahead(
    read: Callable[[Int64[np.ndarray, "G"]], T],
    rows: Int64[np.ndarray, "N"],
    *,
    group_size: int,
    num_workers: int,
) -> Iterator[T]:
    """Yield groups in order, some of them read before they are asked for."""
    ahead: deque[Future[T]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for begin in range(0, len(rows), group_size):
                ahead.append(pool.submit(read, rows[begin : begin + group_size]))
                if len(ahead) > GROUPS_AHEAD * num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
