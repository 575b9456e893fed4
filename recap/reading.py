"""Pictures read ahead of whoever looks at them, in groups of one size.

Threads do it: Pillow decodes and resizes without Python's lock, and a shard is mapped into memory
once for all of them.

G pictures of a group, H height and width of a picture
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from recap.artifacts import Images

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
) -> Iterator[PixelGroup]:
    """Yield pictures in the order of `rows`.

    Args:
        images: Opened images.
        rows: Which pictures.
        image_size: Pixels a side; pictures are centre-cropped and resized.
        group_size: Pictures of a group.
        num_workers: Threads.
    """

    def read(here: Int64[np.ndarray, "G"]) -> PixelGroup:
        filling = np.repeat(here[-1:], group_size - len(here))
        pixels = images.pixels(np.concatenate([here, filling]), size=image_size)
        return PixelGroup(pixels, [images.sample_ids[row] for row in here])

    ahead: deque[Future[PixelGroup]] = deque()
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
