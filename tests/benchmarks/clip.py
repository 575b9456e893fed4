"""CLIP scores of `eval score` and of torchmetrics' CLIPScore over the same weights.

Random weights in the shape of ViT-B/32, float32 on two threads, pictures of 224 px, so that neither
resizes them, and texts that fill the 77 tokens, so that reading no further than the end token saves
nothing. Loading is not timed.

- `ours`: features of pictures and texts and their cosines, by the functions of `eval/clip.py` that
  `eval score` calls: every picture and every text once for a run.
- `theirs`: one CLIPScore a cell of the grid, updated batch by batch, as its documentation shows.

`speedup_over_torchmetrics` is the grid of a study: pictures of three arms from two seeds of noise,
scored with three captions. `single_use_speedup` is one pass over distinct pairs, where nothing can
be used twice; it is timed batch by batch, because a machine that others use changes its speed
within a pass. `max_abs_difference` is that of the cosines of such pairs. `share_of_floor` compares
such a batch with the time that its multiplications alone would take at the rate of one large
product, which is timed in the same turn.

torchmetrics 1.9 expects features as tensors and is given a model that returns them so
(`peers/clip.py`); the arithmetic is transformers' own.

Alternating repetitions, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import open_clip
import torch
import torchmetrics
import transformers
from peers.clip import model_of_transformers, processor_of_transformers, save_random
from peers.shapes import seconds_of
from torch import nn
from torchmetrics.multimodal import CLIPScore

from eval.clip import ClipScorer, similarity
from eval.clip_load import load_clip
from launch.processes import set_threads

MODEL, SIDE, CONTEXT = "ViT-B-32", 224, 77
NUM_ARMS, NUM_SEEDS, NUM_CAPTIONS = 3, 2, 3
NUM_PAIRS, BATCH, THREADS = 8, 8, 2
REPETITIONS = 3
SINGLE_TURNS = 5
"""Turns in which each batch of distinct pairs is scored by both sides."""

PRODUCT = (1024, 2048, 2048)
"""Rows, inner and outer width of the product whose rate the floor takes."""
WORDS = [
    "red",
    "blue",
    "green",
    "dog",
    "cat",
    "boat",
    "tree",
    "house",
    "sign",
    "lamp",
    "road",
    "lake",
    "near",
    "left",
    "right",
    "small",
]


def main() -> None:
    set_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        scorer = load_clip(MODEL, weights=save_random(MODEL, Path(name)))
    peer = model_of_transformers(scorer.model, MODEL)
    processor = processor_of_transformers(image_size=SIDE)
    rng = np.random.default_rng(0)
    shape = (NUM_ARMS * NUM_SEEDS, NUM_PAIRS, SIDE, SIDE, 3)
    pictures = rng.integers(0, 256, shape, np.uint8)
    texts = [[text_of(rng) for _ in range(NUM_PAIRS)] for _ in range(NUM_CAPTIONS)]
    assert (scorer.tokenise(texts[0]).num_tokens == CONTEXT).all()
    one_pass = (pictures[:NUM_CAPTIONS], texts)  # every picture and every text in one pair

    ours, theirs = Ours(scorer), Theirs(peer, processor)
    found = ours.pairs(*one_pass)
    expected = [theirs.cosine(p, t) for p, t in zip(*one_pass, strict=True)]
    difference = np.abs(found / 100 - np.array(expected)).max()
    rows, weight = torch.randn(PRODUCT[:2]), torch.randn(PRODUCT[1:])
    times: dict[str, list[float]] = {}

    def alternate(works: dict[str, Callable[[], object]]) -> None:
        for kind, work in works.items():
            times.setdefault(kind, []).append(seconds_of(work))

    for turn in range(SINGLE_TURNS * NUM_CAPTIONS):
        batch = slice(turn % NUM_CAPTIONS, turn % NUM_CAPTIONS + 1)
        one_batch = (one_pass[0][batch], texts[batch])
        alternate(
            {
                "ours_single": partial(ours.pairs, *one_batch),
                "theirs_single": partial(theirs.pairs, *one_batch),
                "ours_pictures": partial(ours.pictures, one_batch[0]),
                "ours_texts": partial(ours.texts, one_batch[1]),
                "product": lambda: rows @ weight,
            }
        )
    for _ in range(REPETITIONS):
        alternate(
            {
                "ours_grid": lambda: ours.grid(pictures, texts),
                "theirs_grid": lambda: theirs.grid(pictures, texts),
            }
        )

    for package in (torch, open_clip, transformers, torchmetrics):
        print(f"{package.__name__}_version={package.__version__}")
    print(f"threads={torch.get_num_threads()}")
    print(f"pairs={NUM_PAIRS}")
    print(f"batch_size={BATCH}")
    took = {}
    for kind, seconds in times.items():
        low, _, high = quantiles(seconds, n=4)
        took[kind] = median(seconds)
        print(f"{kind}_ms={1000 * took[kind]:.0f}")
        print(f"{kind}_ms_quartiles={1000 * low:.0f},{1000 * high:.0f}")
    floor = NUM_PAIRS * flop_of_pair(scorer.model) / (2 * prod(PRODUCT)) * took["product"]
    print(f"flop_of_pair={flop_of_pair(scorer.model):.3e}")
    print(f"floor_single_ms={1000 * floor:.0f}")
    print(f"share_of_floor={floor / took['ours_single']:.3f}")
    print(f"speedup_over_torchmetrics={took['theirs_grid'] / took['ours_grid']:.3f}")
    print(f"single_use_speedup={took['theirs_single'] / took['ours_single']:.3f}")
    print(f"max_abs_difference={difference:.2e}")


def flop_of_pair(model: nn.Module) -> int:
    """Count the multiplications and additions of a picture and a text that fills the context."""
    patches = model.visual.grid_size[0] * model.visual.grid_size[1]
    flop = 2 * patches * model.visual.conv1.weight.numel()
    for tower, num_tokens in (
        (model.visual.transformer, patches + 1),
        (model.transformer, CONTEXT),
    ):
        weights = sum(weight.numel() for weight in tower.parameters() if weight.ndim == 2)
        flop += 2 * num_tokens * weights
        flop += 4 * num_tokens**2 * tower.width * tower.layers  # who attends to whom, and to what
    return int(flop)


def text_of(rng: np.random.Generator) -> str:
    """Draw a text that fills the context, of words that are one token each."""
    return " ".join(rng.choice(WORDS, CONTEXT - 2))


class Ours:
    """What `eval score` calls."""

    def __init__(self, scorer: ClipScorer) -> None:
        self.scorer = scorer

    def pictures(self, sets: np.ndarray) -> list[np.ndarray]:
        """Return the features of every set of pictures."""
        return [self.scorer.picture_features(pixels, batch_size=BATCH) for pixels in sets]

    def texts(self, captions: list[list[str]]) -> list[np.ndarray]:
        """Return the features of every list of texts."""
        flat = [text for texts in captions for text in texts]
        features = self.scorer.text_features(flat, batch_size=BATCH).features
        return np.split(features, np.cumsum([len(texts) for texts in captions])[:-1])

    def grid(self, sets: np.ndarray, captions: list[list[str]]) -> np.ndarray:
        """Score every set with every list of texts."""
        pictures, texts = self.pictures(sets), self.texts(captions)
        return np.array([[similarity(p, t) for t in texts] for p in pictures])

    def pairs(self, sets: np.ndarray, captions: list[list[str]]) -> np.ndarray:
        """Score every set with a list of its own."""
        found = zip(self.pictures(sets), self.texts(captions), strict=True)
        return np.array([similarity(p, t) for p, t in found])


class Theirs:
    """torchmetrics, one metric a cell."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.metric = CLIPScore(model_name_or_path=lambda: (model, processor))

    def cell(self, pixels: np.ndarray, texts: list[str]) -> float:
        """Return the mean score of a set with a list of texts."""
        self.metric.reset()
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        for start in range(0, len(texts), BATCH):
            end = start + BATCH
            self.metric.update(images[start:end], texts[start:end])
        return float(self.metric.compute())

    def grid(self, sets: np.ndarray, captions: list[list[str]]) -> list[list[float]]:
        """Score every set with every list of texts."""
        return [[self.cell(pixels, texts) for texts in captions] for pixels in sets]

    def pairs(self, sets: np.ndarray, captions: list[list[str]]) -> list[float]:
        """Score every set with a list of its own."""
        return [self.cell(pixels, texts) for pixels, texts in zip(sets, captions, strict=True)]

    def cosine(self, pixels: np.ndarray, texts: list[str]) -> list[float]:
        """Return the cosine of each pair, before a mean below zero is replaced."""
        found = []
        for picture, text in zip(pixels, texts, strict=True):
            self.cell(picture[None], [text])
            found.append(float(self.metric.score / self.metric.n_samples) / 100)
        return found


if __name__ == "__main__":
    main()
