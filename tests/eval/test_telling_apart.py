"""A classifier that names the kind of a caption."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from eval.telling_apart import MIN_PICTURES, NUM_FEATURES, features, fit, predict, telling_apart
from launch.manifest import digest_bytes

IDS = [digest_bytes(str(i).encode()) for i in range(120)]
WORDS = ("ring", "box", "cross", "circle")


def kind(pattern: str) -> dict[str, str]:
    return {s: pattern.format(WORDS[int(s[0], 16) % 4]) for s in IDS}


def test_habits_give_a_kind_away_and_content_does_not() -> None:
    found = telling_apart({"a": kind("a {}"), "b": kind("a {}."), "same": kind("a {}")})
    pairs = {tuple(pair["kinds"]): pair for pair in found["pairs"]}
    assert pairs["a", "b"]["accuracy"] == 1.0
    assert pairs["a", "same"]["accuracy"] == 0.5
    assert pairs["a", "same"]["chance"] == 0.5
    assert found["all"]["chance"] == 1 / 3
    assert found["all"]["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("other", [" a {}", "A {}", "a {}!", "one {}"])
def test_space_case_ending_and_opening_are_all_seen(other: str) -> None:
    (pair,) = telling_apart({"plain": kind("a {}"), "other": kind(other)})["pairs"]
    assert pair["accuracy"] == 1.0


def test_a_picture_is_on_one_side_and_in_every_kind() -> None:
    few = dict.fromkeys(IDS[:60], "a ring")
    (pair,) = telling_apart({"few": few, "many": kind("A {}.")})["pairs"]
    assert pair["num_fitted"] + pair["num_held_out"] == 60
    assert min(pair["num_fitted"], pair["num_held_out"]) >= MIN_PICTURES


def test_too_few_pictures_tell_nothing() -> None:
    few = dict.fromkeys(IDS[:10], "a ring")
    assert telling_apart({"few": few, "many": kind("A {}.")}) == {"all": None, "pairs": []}
    assert telling_apart({"alone": kind("a {}")}) == {"all": None, "pairs": []}


def test_the_interval_holds_the_accuracy() -> None:
    noisy = {s: ("a ring" if int(s[5], 16) < 12 else "A ring.") for s in IDS}
    (pair,) = telling_apart({"noisy": noisy, "plain": kind("A {}.")})["pairs"]
    low, high = pair["interval"]
    assert low < pair["accuracy"] < high


def test_features_have_length_one_and_are_hashed_by_their_bytes() -> None:
    rows = features(["A red ring.", "a", ""])
    lengths = np.sqrt(rows.multiply(rows).sum(axis=1)).A1
    np.testing.assert_allclose(lengths, [1.0, 1.0, 0.0])
    for gram in (b"wring", b"bred ring", b"c\x02A ", b"cg.\x03"):
        assert rows[0, zlib.crc32(gram) % NUM_FEATURES] > 0


def test_the_fit_is_where_the_gradient_vanishes() -> None:
    x, labels = features(["a ring", "A ring."] * 8), np.tile([0, 1], 8)
    weights = fit(x, labels, num_kinds=2)
    np.testing.assert_allclose(weights[:, 0], -weights[:, 1], atol=1e-4)
    assert predict(x, weights).tolist() == labels.tolist()
