"""The page that shows what a captioner says beside what it saw."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recap.captioner.page import write_page
from recap.captioner.validation import HeldOut, figures

RETRIEVAL = {"image_to_text": 0.5, "text_to_image": 0.25, "chance": 0.125, "num_pictures": 2}
FOUND: dict[str, Any] = {
    "num_pictures": 2,
    "alt": {"captioning_loss": 1.5, "retrieval_at_1": RETRIEVAL},
    "alt_before": {"captioning_loss": 2.5, "retrieval_at_1": {**RETRIEVAL, "image_to_text": 0.75}},
    "curve": [{"samples_seen": 8, "captioning_loss": 3.25}, {"samples_seen": 16}],
    "written": {
        "examples": [
            {"sample_id": "a" * 32, "text": "<script>alert(1)</script>"},
            {"sample_id": "b" * 32, "text": "a red box"},
        ]
    },
}
HELD_OUT = HeldOut(
    sample_ids=["a" * 32, "b" * 32],
    pixels=torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3),
    alt=["dogs & cats", None],
    captions=None,
    claims=[None, None],
)


@pytest.fixture
def html(tmp_path: Path) -> str:
    return (tmp_path / write_page(tmp_path, FOUND, HELD_OUT, kind="ssc")).read_text()


def test_each_sample_stands_beside_its_picture(html: str) -> None:
    shown = re.findall(r"data:image/png;base64,([\w+/=]+)", html)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in shown]
    np.testing.assert_array_equal(np.stack(pictures), HELD_OUT.pixels.numpy())
    assert html.index(shown[1]) < html.index("a red box")


def test_texts_from_data_and_models_are_escaped(html: str) -> None:
    assert "<script>" not in html
    assert "dogs &amp; cats" in html


def test_the_page_needs_nothing_from_elsewhere(html: str) -> None:
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", html)


def test_the_page_says_what_a_fine_tune_did_to_the_towers(html: str) -> None:
    assert "by picture 0.750 before -&gt; 0.500 after" in html


def test_the_page_says_of_how_many_pictures_the_truth_is_known(html: str, tmp_path: Path) -> None:
    assert "the truth" not in html
    for known, is_told in ((1, True), (2, False)):
        written = {**FOUND["written"], "num_captions": 2, "num_with_claims": known}
        write_page(tmp_path, {**FOUND, "written": written}, HELD_OUT, kind="ssc")
        page = (tmp_path / "validation.html").read_text()
        assert ("the truth of 1 of them" in page) is is_told


def test_every_point_of_the_curve_has_a_row(html: str) -> None:
    assert re.search(r"<td>8</td>\s*<td>3.2500</td>", html)
    assert "<td>16</td>" in html


def test_a_world_without_test_pictures_has_a_page(tmp_path: Path) -> None:
    nothing = HeldOut([], torch.zeros(0, 4, 4, 3, dtype=torch.uint8), [], None, [])
    write_page(tmp_path, {"num_pictures": 0}, nothing, kind="alt")
    assert "0 pictures" in (tmp_path / "validation.html").read_text()


def test_a_fine_tune_has_the_retrieval_of_alt_text_beside_its_own() -> None:
    own = {"captioning_loss": 0.5, "retrieval_at_1": {**RETRIEVAL, "image_to_text": 0.875}}
    found = figures({**FOUND, "captions": own})
    assert (found["retrieval_at_1"], found["alt_retrieval_at_1"]) == (0.875, 0.5)
    assert "alt_retrieval_at_1" not in figures(FOUND)


def test_what_is_not_known_is_left_out_of_the_curve() -> None:
    assert figures({"num_pictures": 0}) == {}
    assert set(figures(FOUND)) == {"captioning_loss", "retrieval_at_1"}
