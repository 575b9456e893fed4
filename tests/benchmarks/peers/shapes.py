"""What the benchmarks of stage 2 read: components in public shapes with random weights, pictures.

The autoencoder has the shape of Stable Diffusion's, the text encoder that of T5-small. Time does
not depend on weights. Pictures are scenes, and their captions are written from their claims by a
tokenizer of so few pieces that a descriptive one has the length it would have of a photograph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import accelerate
import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from transformers import T5Config, T5EncoderModel

from launch.config import build
from launch.run import Run
from recap.annotate import annotate
from recap.artifacts import open_captions
from recap.config import AnnotateConfig, IngestConfig
from recap.ingest import ingest
from t2i.fit_text_encoder import train_tokenizer

IMAGE_SIZE, LATENT_SIDE, LATENT_CHANNELS = 64, 8, 4
CHANNELS, LAYERS_PER_BLOCK, SCALING_FACTOR = (128, 256, 512, 512), 2, 0.18215
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, TEXT_FEED_FORWARD, VOCABULARY = 512, 6, 8, 2048, 32128
NUM_PIECES = 200
LONGEST = 512
"""Tokens that T5 was trained on."""

CONTEXT = 77
"""Tokens that CLIP's tokenizer, which the recipes of diffusers are written for, pads a text to."""

THREADS = 2


class World(NamedTuple):
    """Folders that a benchmark reads."""

    images: Path
    captions: Path
    autoencoder: Path
    text_encoder: Path


def make_world(folder: Path, *, num_pictures: int) -> World:
    """Write pictures, captions and both encoders."""
    world = World(*(folder / name for name in World._fields))
    scenes = {"num_pictures": num_pictures, "image_size": IMAGE_SIZE}
    split = {"judge": 0.0, "test": 0.0}
    tree: dict[str, Any] = {"source": "scenes", "name": "benchmark", "scenes": scenes}
    run_verb(
        "recap ingest",
        ingest,
        build(IngestConfig, {**tree, "split": split}, where=""),
        world.images,
    )
    corpus = AnnotateConfig(images=world.images, teacher="claims", kinds=["ssc", "dsc"])
    run_verb("recap annotate", annotate, corpus, world.captions)
    torch.manual_seed(0)
    make_autoencoder().save_pretrained(world.autoencoder)
    make_text_encoder().save_pretrained(world.text_encoder)
    texts = [text for kind in corpus.kinds for text in captions_of(world, kind)]
    tokenizer = train_tokenizer(texts, vocab_size=NUM_PIECES, max_tokens=LONGEST)
    tokenizer.save_pretrained(world.text_encoder)
    return world


def run_verb(verb: str, function: Callable[[Any, Run], None], cfg: Any, out: Path) -> Path:
    """Run a verb in this process and let go of its folder whatever happens."""
    run = Run(out=out, verb=verb, config=cfg)
    try:
        function(cfg, run)
    finally:
        run.close()
    return out


def captions_of(world: World, kind: str) -> list[str]:
    """Return the captions of one kind."""
    return list(open_captions(world.captions).texts(kind).values())


def make_autoencoder() -> AutoencoderKL:
    """Make Stable Diffusion's first stage: 8 pixels a side become one latent of 4 channels."""
    levels = len(CHANNELS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=CHANNELS,
        layers_per_block=LAYERS_PER_BLOCK,
        latent_channels=LATENT_CHANNELS,
        sample_size=IMAGE_SIZE,
        scaling_factor=SCALING_FACTOR,
    ).eval()


def make_text_encoder() -> T5EncoderModel:
    """Make T5-small's encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=TEXT_WIDTH,
            d_kv=TEXT_WIDTH // TEXT_HEADS,
            d_ff=TEXT_FEED_FORWARD,
            num_layers=TEXT_LAYERS,
            num_heads=TEXT_HEADS,
        )
    ).eval()


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def print_times(name: str, seconds: Sequence[float]) -> None:
    """Print the median and the quartiles in milliseconds."""
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    print(f"{name}_ms={1000 * median(seconds):.1f}")
    print(f"{name}_ms_quartiles={1000 * low:.1f},{1000 * high:.1f}")


def print_ground(**shapes: int) -> None:
    """Print versions, threads and sizes, without which no time means anything."""
    for package in (torch, diffusers, transformers, accelerate):
        print(f"{package.__name__}_version={package.__version__}")
    print(f"threads={torch.get_num_threads()}")
    for name, value in shapes.items():
        print(f"{name}={value}")
