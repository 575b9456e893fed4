"""Parity: the cosines of open_clip and of torchmetrics, and where torchmetrics goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from eval import clip, clip_load

pytest.importorskip("torchmetrics")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from peers.clip import (
    add_small_model,
    model_of_transformers,
    processor_of_transformers,
    save_random,
)
from torchmetrics.multimodal import CLIPScore

NAME = "parity-tiny"
END = 49407
TEXTS = [
    "a red circle at the top left",
    "Two blue rings on a grey background, and a sign that says OPEN.",
    "it's a dog",
    "ein Fuchs springt über den Zaun",
    "three small striped triangles and a large white square; behind them a lake, 12 boats",
]
LONG = [
    " ".join(f"{word} {place}" for word in ("dog", "boat", "sign", "lamp") for place in places)
    for places in (
        ["on the left", "near a tree", "under a cloud", "by the road", "in the snow", "at night"],
        ["on the right", "near a lake", "over a hill", "by the sea", "in the rain", "at noon"],
    )
]
"""Texts of more than 77 tokens, so that both a cut and its place matter."""


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> clip.ClipScorer:
    folder = tmp_path_factory.mktemp("parity")
    add_small_model(NAME, folder)
    return clip_load.load_clip(NAME, weights=save_random(NAME, folder, spread=4.0))


@pytest.fixture(scope="module")
def theirs(scorer: clip.ClipScorer) -> Any:
    peer = model_of_transformers(scorer.model, NAME)
    processor = processor_of_transformers(image_size=32)

    def score(images: np.ndarray, texts: list[str]) -> CLIPScore:
        metric = CLIPScore(model_name_or_path=lambda: (peer, processor))
        with torch.no_grad():
            metric.update([torch.from_numpy(image) for image in to_channels(images)], texts)
        return metric

    return score


def mean(metric: CLIPScore) -> float:
    """Return the mean as it is before torchmetrics replaces what lies below zero."""
    return float(metric.score / metric.n_samples)


def to_channels(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def pictures(num: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (num, 2, 2, 3), np.uint8)  # as unlike as pictures are
    return colours.repeat(16, axis=1).repeat(16, axis=2)


def ours(scorer: clip.ClipScorer, images: np.ndarray, texts: list[str]) -> np.ndarray:
    return clip.similarity(scorer.picture_features(images), scorer.text_features(texts).features)


def whole_forward(scorer: clip.ClipScorer, images: np.ndarray, texts: list[str]) -> np.ndarray:
    untouched = open_clip.create_model(NAME).eval()  # what `load_clip` opens has our attention
    untouched.load_state_dict(scorer.model.state_dict())
    tokens = open_clip.get_tokenizer(NAME)(texts)
    with torch.inference_mode():
        image, text, _ = untouched(scorer.preprocess(images), tokens)
    return (image * text).sum(-1).double().numpy() * 100


def test_cosines_by_name_are_those_of_open_clips_own_forward(scorer: clip.ClipScorer) -> None:
    images = pictures(len(TEXTS))
    expected = whole_forward(scorer, images, TEXTS)
    assert np.ptp(expected) > 1  # the pairs are told apart
    np.testing.assert_allclose(ours(scorer, images, TEXTS) / 100, expected / 100, atol=1e-5)


def test_a_cut_text_scores_as_with_open_clips_own_cut(scorer: clip.ClipScorer) -> None:
    assert (scorer.tokenise(LONG).num_tokens > 77).all()
    images = pictures(2)
    expected = whole_forward(scorer, images, LONG)
    np.testing.assert_allclose(ours(scorer, images, LONG) / 100, expected / 100, atol=1e-5)


def test_the_vocabularies_give_equal_tokens(scorer: clip.ClipScorer) -> None:
    tokenizer = processor_of_transformers(image_size=32).tokenizer
    tokens = scorer.tokenise(TEXTS)
    for text, ids, num in zip(TEXTS, tokens.ids, tokens.num_tokens, strict=True):
        assert tokenizer(text).input_ids == ids[:num].tolist()


def test_cosines_of_texts_that_fit_are_those_of_torchmetrics(
    scorer: clip.ClipScorer, theirs: Any
) -> None:
    images, texts = pictures(10), TEXTS * 2
    values = ours(scorer, images, texts)
    for i, value in enumerate(values):
        found = mean(theirs(images[i : i + 1], texts[i : i + 1]))
        assert value / 100 == pytest.approx(found / 100, abs=1e-5)
    assert values.mean() / 100 == pytest.approx(mean(theirs(images, texts)) / 100, abs=1e-5)


@pytest.mark.filterwarnings("ignore:Encountered caption longer than:UserWarning")
def test_torchmetrics_loses_the_end_of_a_long_text_and_ours_does_not(
    scorer: clip.ClipScorer, theirs: Any
) -> None:
    """It cuts the tokens at 77, the end token among them, and then reads the first token."""
    images = pictures(1)
    assert scorer.tokenise(LONG).ids[:, -1].tolist() == [END, END]
    first, second = (ours(scorer, images, [text])[0] for text in LONG)
    assert abs(first - second) > 0.1  # two texts, two scores
    one, other = (mean(theirs(images, [text])) for text in LONG)
    assert one == pytest.approx(other, abs=1e-4)  # whatever the text says
    assert abs(one - whole_forward(scorer, images, LONG[:1])[0]) > 0.1


def test_torchmetrics_gives_zero_where_a_mean_is_below_it_and_ours_does_not(
    scorer: clip.ClipScorer, theirs: Any
) -> None:
    images = pictures(40)
    values = ours(scorer, images, TEXTS[:1] * 40)
    below = np.flatnonzero(values < 0)
    assert len(below)
    metric = theirs(images[below], TEXTS[:1] * len(below))
    assert float(metric.compute()) == 0
    assert values[below].mean() == pytest.approx(mean(metric), abs=1e-3)
    assert values[below].mean() < -0.1


def test_a_scorer_by_name_says_all_that_its_scores_depend_on(tmp_path: Path) -> None:
    add_small_model("parity-named", tmp_path)
    weights = save_random("parity-named", tmp_path)
    named = clip_load.load_clip(
        "parity-named", weights=weights, prefix="A photo depicts ", precision="bfloat16"
    ).describe()
    assert named["architecture"] == "open_clip parity-named"
    assert (named["prefix"], named["precision"]) == ("A photo depicts ", "bfloat16")
    assert named["context_length"] == 77
    assert named["preprocessing"]["size_px"] == 32
    assert named["preprocessing"]["interpolation"] == "bicubic"
    save_random("parity-named", tmp_path, spread=1.001)  # the same file name, other weights
    other = clip_load.load_clip("parity-named", weights=weights).describe()
    assert other["weights"] != named["weights"]
