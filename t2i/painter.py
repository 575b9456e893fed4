"""One process at work for `t2i sample`: text states once per prompt, then shard after shard.

Everything here is a function of its arguments: a batch has a fixed shape and a text a padded
length that depends on that text alone, so that a picture is the same to the bit whichever others
are drawn with it.

N texts, T tokens of all texts, D text width, B batch, C latent channels, h latent height, w latent
width, H height, W width
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import diffusers
import numpy as np
import torch
import transformers
from filelock import FileLock
from jaxtyping import Float32, Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file

from launch import keyed
from launch.errors import ArtifactError
from launch.manifest import atomic_path, write_json
from launch.processes import device
from t2i.artifacts import WEIGHTS_NAME
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, Texts, length_batches
from t2i.data import padded_length
from t2i.pipeline import CaptionmixPipeline, Solver, solve, solver

T = TypeVar("T")

LENGTH_STEP = 128
"""Texts are padded to a multiple of this many tokens, or to the longest that the model takes.

Coarse on purpose: text is projected once per picture, so padding costs little, while every length
of its own costs half a batch of repeated rows.
"""


# --------------------------------------------------------------------------- text


@dataclass(frozen=True, kw_only=True)
class PromptStates:
    """The states of distinct prompts, unpadded, in a file that all processes share.

    A file, because the states of a large encoder may exceed memory.
    """

    states: Float32[np.ndarray, "T D"]
    """Memory-mapped."""

    texts: list[str]
    """In the order of the file."""

    num_tokens: Int64[np.ndarray, " N"]
    """Tokens of each text, end token included."""

    num_truncated: int
    """Texts that were longer than the model takes."""

    max_tokens: int
    """Tokens that the model takes."""

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.texts)}

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " N"]:
        return np.cumsum(self.num_tokens)

    def padded_lengths(self, texts: Sequence[str]) -> Int64[np.ndarray, " B"]:
        """Return the length to which each text is padded, a function of that text alone."""
        num_tokens = self.num_tokens[[self._row_of[text] for text in texts]]
        coarse = -(-num_tokens // LENGTH_STEP) * LENGTH_STEP
        return np.minimum(coarse, padded_length(self.max_tokens))

    def load(self, texts: Sequence[str], *, length: int, device: torch.device) -> Texts:
        """Return the states of some texts, padded with zeros."""
        embeds = np.zeros((len(texts), length, self.states.shape[1]), np.float32)
        mask = np.zeros((len(texts), length), bool)
        for place, text in enumerate(texts):
            row = self._row_of[text]
            num_tokens, end = self.num_tokens[row], self._ends[row]
            embeds[place, :num_tokens] = self.states[end - num_tokens : end]
            mask[place, :num_tokens] = True
        return Texts(torch.from_numpy(embeds).to(device), torch.from_numpy(mask).to(device))


@lru_cache(maxsize=1)
def text_states(
    folder: Path, texts: tuple[str, ...], *, states: Path, lengths: Path, batch_size: int
) -> PromptStates:
    """Encode every text once, in whichever process comes first; the others wait and read.

    Args:
        folder: Model whose text encoder and tokenizer are used.
        texts: Distinct texts.
        states: File that holds the states, or will.
        lengths: File that says how many tokens each text has and how many texts were cut.
        batch_size: Rows per step.
    """
    with FileLock(states.with_suffix(".lock")):
        if not states.is_file():
            pipeline = load(folder, denoiser=None, vae=None)
            encoder = TextEncoder.wrap(pipeline.text_encoder, pipeline.tokenizer)
            encoder.to(device())
            tokens, is_cut = encoder.tokenize(texts)
            lengths_of = {
                "num_tokens": [len(ids) for ids in tokens],
                "num_truncated": sum(is_cut),
                "max_tokens": encoder.max_tokens,
            }
            write_json(lengths, lengths_of)
            with atomic_path(states) as temporary:
                _encode(encoder, tokens, temporary, batch_size=batch_size)
    found = json.loads(lengths.read_text())
    return PromptStates(
        states=np.load(states, mmap_mode="r", allow_pickle=False),
        texts=list(texts),
        num_tokens=np.array(found["num_tokens"], np.int64),
        num_truncated=found["num_truncated"],
        max_tokens=found["max_tokens"],
    )


def _encode(
    encoder: TextEncoder, tokens: Sequence[Sequence[int]], path: Path, *, batch_size: int
) -> None:
    num_tokens = [len(ids) for ids in tokens]
    ends = np.cumsum(num_tokens)
    states = np.lib.format.open_memmap(
        path, "w+", dtype=np.float32, shape=(int(ends[-1]), encoder.width)
    )
    for rows, length in length_batches(num_tokens, batch_size=batch_size):
        batch = [tokens[row] for row in fill(rows, batch_size)]
        embeds = encoder.encode_tokens(batch, length=length).text_embeds.float().cpu().numpy()
        for row, embed in zip(rows, embeds, strict=False):
            states[ends[row] - num_tokens[row] : ends[row]] = embed[: num_tokens[row]]
    states.flush()


# --------------------------------------------------------------------------- pictures


class Painter:
    """A loaded model with its solver, holding the weights of one snapshot at a time.

    Args:
        folder: Model.
        solver_name: Solver; None takes the model's own.
        is_compiled: Compile denoiser and decoder, once for each padded length of texts.
    """

    def __init__(
        self, folder: Path, solver_name: Solver | None, *, is_compiled: bool = False
    ) -> None:
        pipeline = load(folder, text_encoder=None, tokenizer=None)
        self.device = device()
        self.latent_shape = pipeline.latent_shape
        self.scheduler = solver(solver_name, pipeline.scheduler)
        # Channels last is quicker on CPUs and GPUs.
        self.denoiser = pipeline.denoiser.to(self.device, memory_format=torch.channels_last)
        self.vae = pipeline.vae.to(self.device, memory_format=torch.channels_last)
        if is_compiled:
            for module in (self.denoiser, self.vae.decoder):
                module.compile(dynamic=False)
        self._own_weights = folder / "denoiser" / WEIGHTS_NAME
        self._weights = self._own_weights

    def use(self, weights: Path | None) -> None:
        """Put the weights of a snapshot into the denoiser; None means the model's own."""
        path = weights or self._own_weights
        if path == self._weights:
            return
        try:
            self.denoiser.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(
                f"{path}: not weights of this model's denoiser ({error}); train the model again"
            ) from error
        self._weights = path

    @torch.inference_mode()
    def paint(
        self,
        prompts: Sequence[str],
        *,
        noise: Float32[np.ndarray, "B C h w"],
        states: PromptStates,
        batch_size: int,
        num_steps: int,
        guidance_scale: float,
        on_batch: Callable[[int], object] = lambda num: None,
    ) -> list[UInt8[np.ndarray, "H W 3"]]:
        """Return one picture per prompt.

        Args:
            prompts: Texts; `states` holds them and the empty text.
            noise: Standard normal, one row per prompt.
            states: Encoded texts.
            batch_size: Rows per step; a shorter batch is filled with rows that are thrown away.
            num_steps: Solver steps.
            guidance_scale: 1 means off.
            on_batch: Called with the number of pictures that were finished.
        """
        (empty_length,) = states.padded_lengths([""])
        empty_text = states.load([""], length=int(empty_length), device=self.device)
        pictures: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        for length, rows in batches(states.padded_lengths(prompts), batch_size=batch_size):
            filled = fill(rows, batch_size)
            start = torch.from_numpy(noise[filled])
            latents = solve(
                self.denoiser,
                self.scheduler,
                start.to(self.device, memory_format=torch.channels_last),
                text=states.load([prompts[i] for i in filled], length=length, device=self.device),
                empty_text=None if guidance_scale == 1 else empty_text,
                num_steps=num_steps,
                guidance_scale=guidance_scale,
            )
            pictures.update(zip(rows, Autoencoder(self.vae).decode(latents), strict=False))
            on_batch(len(rows))
        return [pictures[row] for row in range(len(prompts))]


@lru_cache(maxsize=1)
def load_painter(
    folder: Path, digest: str, solver_name: Solver | None, *, is_compiled: bool
) -> Painter:
    """Load a model once per process; `digest` tells it from another that lay in the folder."""
    return Painter(folder, solver_name, is_compiled=is_compiled)


def load(folder: Path, **absent: None) -> CaptionmixPipeline:
    """Load a model without the components named, from this machine and safetensors only."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    was_shown = [logger.is_progress_bar_enabled() for logger in loggers]
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        return CaptionmixPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **absent
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: a component of the model cannot be loaded ({error}); train it again"
        ) from error
    finally:
        for logger, was in zip(loggers, was_shown, strict=True):
            if was:
                logger.enable_progress_bar()


def noise_of(
    pair_ids: Sequence[str], seeds: Sequence[int], *, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "B C h w"]:
    """Return the noise of each picture, a function of its seed and pair alone."""
    ids = keyed.words(pair_ids)
    noise = np.empty((len(ids), *shape), np.float32)
    for seed in np.unique(seeds):
        here = np.asarray(seeds) == seed
        noise[here] = keyed.normal(int(seed), "noise-sample", epoch=0, ids=ids[here], shape=shape)
    return noise


def batches(
    lengths: Int64[np.ndarray, " N"], *, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield each padded length with the rows of one batch that have it."""
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length).tolist()
        for start in range(0, len(rows), batch_size):
            yield int(length), rows[start : start + batch_size]


def fill(rows: Sequence[T], size: int) -> list[T]:
    """Return rows repeated until they fill a batch, whose shape must not depend on their number."""
    return list(islice(cycle(rows), size))
