"""Scores by sentences: the mean of each sentence's own, and all of a text counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval import clip, clip_load
from eval.clip_sentences import sentence_features, similarity_by_sentences
from eval.kept_features import KeptFeatures


@pytest.fixture(scope="module")
def scorer(small_judge: Path) -> clip.ClipScorer:
    return clip_load.load_clip(small_judge / "clip", prefix="a ")


@pytest.fixture(scope="module")
def kept(scorer: clip.ClipScorer) -> KeptFeatures:
    return KeptFeatures(None, scorer, batch_size=8, threads=1)


@pytest.fixture(scope="module")
def pictures(scorer: clip.ClipScorer) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    return scorer.picture_features(pixels, batch_size=8)


LONG = "A red circle. " * 12 + "Two blue rings; a large square."


def scores(pictures: np.ndarray, texts: list[str], kept: KeptFeatures) -> np.ndarray:
    return similarity_by_sentences(pictures, sentence_features(texts, kept=kept).means)


def test_the_score_is_the_mean_of_the_sentences_own(
    scorer: clip.ClipScorer, kept: KeptFeatures, pictures: np.ndarray
) -> None:
    texts = ["A red circle. Two blue rings; a large square.", "A ring."]
    said = [["A red circle.", "Two blue rings;", "a large square."], ["A ring."]]
    expected = [
        clip.similarity(
            np.repeat(pictures[i : i + 1], len(of_text), axis=0),
            scorer.text_features(of_text, batch_size=8).features,
        ).mean()
        for i, of_text in enumerate(said)
    ]
    np.testing.assert_allclose(scores(pictures, texts, kept), expected, atol=1e-4)


def test_a_text_of_one_sentence_scores_as_a_whole(
    scorer: clip.ClipScorer, kept: KeptFeatures, pictures: np.ndarray
) -> None:
    texts = ["a red circle on grey", "..."]  # the second has no word, and is one sentence
    whole = clip.similarity(pictures, scorer.text_features(texts, batch_size=8).features)
    np.testing.assert_allclose(scores(pictures, texts, kept), whole, atol=1e-4)


def test_what_lies_beyond_the_context_counts(
    scorer: clip.ClipScorer, kept: KeptFeatures, pictures: np.ndarray
) -> None:
    other = LONG.replace("a large square", "three small triangles")
    assert scorer.num_truncated([LONG, other]) == 2
    whole = scorer.text_features([LONG, other], batch_size=8).features
    np.testing.assert_allclose(whole[0], whole[1], atol=1e-6)  # the end is cut away
    one, two = scores(pictures[[0, 0]], [LONG, other], kept)
    assert abs(one - two) > 1e-3


def test_sentences_that_are_too_long_are_counted(kept: KeptFeatures) -> None:
    found = sentence_features(["a red ring. " + "red " * 40], kept=kept)
    assert (found.num_sentences, found.num_truncated) == (2, 1)
    assert found.describe()["truncation_rate"] == 0.5
