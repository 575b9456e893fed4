"""Pictures read ahead in groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap.artifacts import Images
from recap.pictures import Square
from recap.reading import PixelGroup, pixel_groups

IDS = [f"{n:032x}" for n in range(64)]


def few_pictures() -> Images:
    """Give pictures whose every value is their row number; the last cannot be read."""

    def pixels(rows: Sequence[int], *, size: int, square: Square) -> np.ndarray:
        if 63 in list(rows):
            raise OSError("the disk is gone")
        return np.stack([np.full((size, size, 3), row, np.uint8) for row in rows])

    images: Images = create_autospec(Images, instance=True, sample_ids=IDS)
    images.pixels.side_effect = pixels  # type: ignore[attr-defined]
    return images


def read(rows: np.ndarray, **settings: Any) -> list[PixelGroup]:
    given_settings = {"image_size": 2, "group_size": 8, "num_workers": 1, **settings}
    return list(pixel_groups(few_pictures(), rows, **given_settings))


@given(num=st.integers(0, 60), num_workers=st.integers(1, 4))
def test_every_row_comes_once_in_order_and_every_group_has_one_size(
    num: int, num_workers: int
) -> None:
    rows = np.arange(num)[::-1]
    groups = read(rows, num_workers=num_workers)
    assert [i for group in groups for i in group.sample_ids] == [IDS[row] for row in rows]
    seen = [group.pixels[: len(group.sample_ids), 0, 0, 0] for group in groups]
    assert [int(value) for values in seen for value in values] == rows.tolist()
    assert {len(group.pixels) for group in groups} <= {8}


def test_the_last_group_is_filled_up_with_its_last_picture() -> None:
    (group,) = read(np.array([3, 5]))
    assert group.pixels[:, 0, 0, 0].tolist() == [3, 5, 5, 5, 5, 5, 5, 5]


def test_an_error_of_a_thread_reaches_whoever_reads() -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        read(np.arange(64), num_workers=2)
