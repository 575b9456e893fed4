"""Captions per second of cached decoding against a loop over open_clip's own forward pass.

Both write captions of 76 tokens with `coca_ViT-B-32` (random weights; time does not depend on
them). The loop encodes the picture once (for beams once per beam, as open_clip 3.3.0 does) and then
runs the whole forward pass over the growing prefix. For batches of 64 it is timed at eight prefix
lengths and integrated. The floor is the time that reading the weights, or doing the arithmetic,
whichever is longer, takes at the rates that this machine reaches in the same run.

A decoder is made ready before it is timed, as a job does once for all its pictures.

Alternating repetitions, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import open_clip
import torch
from torch import nn

from recap.captioner.coca import SpecialTokens
from recap.captioner.decode import Decoder
from recap.config import DecodeConfig

ARCHITECTURE = "coca_ViT-B-32"
SPECIAL = SpecialTokens(pad=0, start=49406, end=49407)
NUM_TOKENS = 76
"""Start token included: every caption is made to fill the context."""

BEAMS, BEAM_BATCH, BEAM_TOKENS = 6, 4, 30
PREFIXES = (1, 11, 22, 33, 44, 54, 65, 75)
REPETITIONS = 3
HAS_BF16 = torch.cuda.is_available() or any(
    flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16")
)


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE).eval().to(device)
    found: dict[str, float] = {}
    for name, batch_size in (("greedy_b8", 8), ("greedy_b64", 64)):
        pictures = torch.randn(batch_size, 3, 224, 224, device=device)
        config = length_config(NUM_TOKENS)
        ours_once = partial(
            cached, model, pictures, config, prepared(model, config, num=batch_size)
        )
        ours_once()
        ours = [
            alternate(
                ours_once,
                partial(uncached, model, pictures, NUM_TOKENS, is_integrated=batch_size == 64),
            )
            for _ in range(REPETITIONS)
        ]
        note(found, name, ours, num=batch_size)
        floor = step_floor(model, rows=batch_size) * (NUM_TOKENS - 1)
        found[f"{name}_share_of_floor"] = floor / median(mine for mine, _ in ours)
    pictures = torch.randn(BEAM_BATCH, 3, 224, 224, device=device)
    config = length_config(BEAM_TOKENS, num_beams=BEAMS)
    ours_once = partial(cached, model, pictures, config, prepared(model, config, num=BEAM_BATCH))
    ours_once()
    beams = [
        alternate(
            ours_once,
            partial(uncached, model, pictures, BEAM_TOKENS, num_beams=BEAMS),
        )
        for _ in range(REPETITIONS)
    ]
    note(found, "beam", beams, num=BEAM_BATCH)
    floor = step_floor(model, rows=BEAM_BATCH * BEAMS) * (BEAM_TOKENS - 1)
    found["beam_share_of_floor"] = floor / median(mine for mine, _ in beams)
    if HAS_BF16:
        pictures = torch.randn(64, 3, 224, 224, device=device)
        config = length_config(NUM_TOKENS)
        full = cached(model, pictures, config, prepared(model, config, num=64))
        half_model = copy.deepcopy(model).to(torch.bfloat16)
        decoder = prepared(half_model, config, num=64)
        ours_once = partial(cached, half_model, pictures.bfloat16(), config, decoder)
        half = ours_once()
        mine = median(timed(ours_once) for _ in range(REPETITIONS))
        found["greedy_b64_bf16_per_s"] = 64 / mine
        found["greedy_b64_bf16_speedup"] = 64 / found["greedy_b64_uncached_per_s"] / mine
        same = [a == b for x, y in zip(full, half, strict=True) for a, b in zip(x, y, strict=False)]
        found["bf16_equal_tokens"] = sum(same) / len(same)
    for key, value in found.items():
        print(f"{key}={value:.3f}")


def note(found: dict[str, float], name: str, times: list[tuple[float, float]], *, num: int) -> None:
    mine, theirs = median(m for m, _ in times), median(t for _, t in times)
    found[f"{name}_per_s"] = num / mine
    found[f"{name}_uncached_per_s"] = num / theirs
    found[f"{name}_speedup"] = theirs / mine


def alternate(
    ours: Callable[[], object], theirs: Callable[[], float | None]
) -> tuple[float, float]:
    """Time both; a peer that integrates says its own time."""
    mine, said = timed(ours), None

    def run() -> None:
        nonlocal said
        said = theirs()

    theirs_s = timed(run)
    return mine, theirs_s if said is None else said


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def length_config(num_tokens: int, *, num_beams: int | None = None) -> DecodeConfig:
    """Return settings under which every caption has as many tokens."""
    length = num_tokens - 1
    return DecodeConfig(
        method="greedy" if num_beams is None else "beam",
        num_beams=num_beams or 1,
        min_tokens=length - 1,
        max_tokens=length,
    )


def prepared(model: nn.Module, config: DecodeConfig, *, num: int) -> Decoder:
    """Make a decoder ready, as a job does once; its weights are packed at its first use."""
    return Decoder(model.text, model.text_decoder, special=SPECIAL, config=config, num_slots=num)


@torch.inference_mode()
def cached(
    model: nn.Module, pictures: torch.Tensor, config: DecodeConfig, decoder: Decoder
) -> list[list[int]]:
    _, tokens = model._encode_image(pictures)
    sample_ids = [f"{n:032x}" for n in range(len(pictures))]
    written = decoder.write_batch(tokens, sample_ids=sample_ids, seed=0)
    assert all(len(caption.tokens) >= config.max_tokens - 1 for caption in written)
    return [caption.tokens for caption in written]


@torch.inference_mode()
def uncached(
    model: nn.Module,
    pictures: torch.Tensor,
    num_tokens: int,
    *,
    num_beams: int = 1,
    is_integrated: bool = False,
) -> float | None:
    """Run open_clip's forward pass over every prefix, or over some and integrate."""
    latent, embs = model._encode_image(pictures.repeat_interleave(num_beams, 0))
    encoding = timed(lambda: model._encode_image(pictures)) if is_integrated else 0.0
    tokens = torch.full((len(latent), num_tokens), 320, device=pictures.device)
    tokens[:, 0] = SPECIAL.start

    def step(length: int) -> None:
        logits = model(
            None,
            tokens[:, :length],
            image_latent=latent,
            image_embs=embs,
            output_labels=False,
        )["logits"]
        tokens[:, min(length, num_tokens - 1)] = logits[:, -1].argmax(dim=-1)

    if not is_integrated:
        for length in range(1, num_tokens):
            step(length)
        return None
    times = [timed(partial(step, length)) for length in PREFIXES]
    every = np.interp(np.arange(1, num_tokens), PREFIXES, times)
    return encoding + float(every.sum())


def step_floor(model: nn.Module, *, rows: int) -> float:
    """Return the seconds that one step needs at least, at rates measured here."""
    sizes = [
        read_in_a_step(name, parameter, is_lower=part is model.text)
        for part in (model.text, model.text_decoder)
        for name, parameter in part.named_parameters()
        if parameter.ndim == 2 and "embedding" not in name
    ]
    weight = model.text_decoder.text_projection
    num_bytes, flop = sum(sizes) * weight.element_size(), 2 * rows * sum(sizes)
    return max(num_bytes / read_rate(weight.device), flop / multiply_rate(rows, weight))


def read_in_a_step(name: str, weight: torch.Tensor, *, is_lower: bool) -> int:
    """Return how many values of a weight a step reads."""
    if is_lower and name == "text_projection":
        return 0  # [CLS]'s, which is left out
    if name.startswith("cross_attn") and name.endswith("in_proj_weight"):
        return weight.numel() // 3  # keys and values are computed once a picture
    return weight.numel()


def read_rate(device: torch.device) -> float:
    """Return bytes read a second from memory, far more of them than fit a cache."""
    many = torch.ones(1 << 28, dtype=torch.uint8, device=device).view(torch.float32)
    return many.numel() * 4 / median(timed(many.sum) for _ in range(5))


def multiply_rate(rows: int, weight: torch.Tensor) -> float:
    """Return FLOP a second of a large product, as many rows or more."""
    size = 2048
    a = torch.randn(max(rows, 1024), size, dtype=weight.dtype, device=weight.device)
    b = torch.randn(size, size, dtype=weight.dtype, device=weight.device)
    return 2 * a.shape[0] * size * size / median(timed(lambda: a @ b) for _ in range(5))


if __name__ == "__main__":
    main()
