"""CLIP scores of `eval score` and of torchmetrics' CLIPScore over the same weights.

Random weights in the shape of ViT-B/32, float32 on two threads, pictures of 224 px, so that neither
resizes them, and texts that fill the 77 tokens, so that reading no further than the end token saves
nothing. Loading is not timed.

- `ours`: features of pictures and texts and their cosines, by the functions of `eval/clip.py` that
  `eval score` calls: every picture and every text once for a run.
- `theirs`: one CLIPScore a cell of the grid, updated batch by batch, as its documentation shows.

`speedup_over_torchmetrics` is the grid of a study: pictures of three arms from two seeds of noise,
scored with three captions. `single_use_speedup` is one pass over distinct pairs, where nothing can
be used twice. `max_abs_difference` is that of the cosines of such pairs.

torchmetrics 1.9 expects features as tensors and is given a model that returns them so
(`peers/clip.py`); the arithmetic is transformers' own.

Alternating repetitions, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import tempfile
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
from torchmetrics.multimodal import CLIPScore

from eval.clip import ClipScorer, similarity
from eval.clip_load import load_clip
from launch.processes import set_threads

MODEL, SIDE, CONTEXT = "ViT-B-32", 224, 77
NUM_ARMS, NUM_SEEDS, NUM_CAPTIONS = 3, 2, 3
NUM_PAIRS, BATCH, THREADS = 8, 8, 2
REPETITIONS = 3
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
    times: dict[str, list[float]] = {}
    for _ in range(REPETITIONS):
        for kind, work in (
            ("ours_grid", lambda: ours.grid(pictures, texts)),
            ("theirs_grid", lambda: theirs.grid(pictures, texts)),
            ("ours_single", lambda: ours.pairs(*one_pass)),
            ("theirs_single", lambda: theirs.pairs(*one_pass)),
            ("ours_pictures", lambda: ours.pictures(pictures)),
            ("ours_texts", lambda: ours.texts(texts)),
        ):
            times.setdefault(kind, []).append(seconds_of(work))

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
    print(f"share_of_pictures={took['ours_pictures'] / took['ours_grid']:.3f}")
    print(f"speedup_over_torchmetrics={took['theirs_grid'] / took['ours_grid']:.3f}")
    print(f"single_use_speedup={took['theirs_single'] / took['ours_single']:.3f}")
    print(f"max_abs_difference={difference:.2e}")


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
