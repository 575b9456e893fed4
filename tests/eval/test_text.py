"""Displayed words: what a prompt wants shown, how far a reading is from it, and OCR itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from eval.text import (
    bundled_models,
    compare,
    displayed_words,
    edit_distance,
    error_rate,
    load_reader,
)
from launch.errors import ConfigError
from recap.claims import Claim

words = st.text("abc", max_size=6)


@given(a=words)
def test_a_text_has_no_distance_to_itself_and_its_length_to_nothing(a: str) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, "") == edit_distance("", a) == len(a)


@given(a=words, b=words, c=words)
def test_the_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) is (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(a=words, b=words, prefix=words, suffix=words)
def test_what_two_texts_share_at_their_ends_costs_nothing(
    a: str, b: str, prefix: str, suffix: str
) -> None:
    assert edit_distance(prefix + a + suffix, prefix + b + suffix) == edit_distance(a, b)


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("sunday", "saturday", 3), ("ab", "ba", 2)]
)
def test_known_distances(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == distance


@given(a=words.filter(bool), lines=st.lists(words, max_size=4))
def test_the_error_rate_is_that_of_the_nearest_run_of_lines(a: str, lines: list[str]) -> None:
    runs = ["".join(lines[i:j]) for i in range(len(lines)) for j in range(i, len(lines) + 1)]
    nearest = min((edit_distance(a, run) for run in ["", *runs]), default=len(a))
    assert error_rate(a, lines) == nearest / len(a)


def test_words_may_be_broken_into_lines() -> None:
    found = compare(["deeplearning"], ["welcome", "DEEP", "Learning"])
    assert (found.exact, found.error_rate) == (1.0, 0.0)


def test_words_added_in_a_line_are_mistakes() -> None:
    found = compare(["stop"], ["stop it"])
    assert (found.exact, found.error_rate) == (0.0, 0.5)


def test_several_words_are_averaged() -> None:
    found = compare(["stop", "go"], ["st0p"])
    assert found.exact == 0.0
    assert found.error_rate == (1 / 4 + 1) / 2


def test_nothing_read_is_all_wrong() -> None:
    assert compare(["stop"], []) == (0.0, 1.0)
    assert compare(["stop"], ["", "  "]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ('a sign that says "STOP"', ["stop"]),
        ("a sign that says “Go now”, and “wait”", ["gonow", "wait"]),
        ("a storefront with 'Hello World' written on it", ["helloworld"]),
        ("a sign reading «oui», „ja“ and ‘one’", ["oui", "ja", "one"]),  # noqa: RUF001
        ("a shirt with 'It's me' on it", ["it'sme"]),
        ("the dogs' bowls and the cat's tail", []),
        ('the word "stop" on a "STOP" sign', ["stop"]),
        ("a dog", []),
    ],
)
def test_quoted_words_are_those_to_be_shown(prompt: str, expected: list[str]) -> None:
    assert displayed_words(prompt) == expected


def test_words_of_claims_are_shown_too_and_none_twice() -> None:
    claims = [Claim(object="sign", text="Stop"), Claim(object="label", text="50 %")]
    assert displayed_words('a sign saying "STOP"', claims) == ["stop", "50%"]


def drawn(lines: list[str]) -> np.ndarray:
    picture = Image.new("RGB", (220, 60 * len(lines)), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(lines):
        draw.text((12, 60 * i + 10), line, fill=(200, 0, 0), font=ImageFont.load_default(size=32))
    return np.asarray(picture)


def test_words_in_a_picture_are_read_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rapidocr")
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("OCR reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    reader = load_reader()
    assert compare(["helloworld"], reader.read(drawn(["Hello", "World"]))) == (1.0, 0.0)
    assert reader.read(np.full((64, 64, 3), 255, np.uint8)) == []
    assert capfd.readouterr().err == ""  # a picture without words is nothing to warn of
    facts = reader.describe()
    assert set(facts["weights"]) == {"Det", "Cls", "Rec"}
    assert facts["architecture"].startswith("rapidocr ")


def test_a_package_without_models_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x_det_small.onnx").touch()
    with pytest.raises(ConfigError, match=r"0 models \*_cls_\*.onnx, expected one"):
        bundled_models(tmp_path)


def test_ocr_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ConfigError, match=r"install captionmix\[ocr\]"):
        load_reader()
