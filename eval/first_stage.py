"""Pictures as the autoencoder gives them back: what a latent model could reach at best.

Any artifact or folder that diffusers' `AutoencoderKL` loads serves; scale and shift of latents do
not matter here, since what is encoded is decoded at once.

N pictures, S pixels a side, C latent channels, h latent side
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt64
from torch import nn
from torch.nn import functional

from launch import keyed


def load_autoencoder(folder: Path) -> nn.Module:
    """Load an autoencoder, ready to use."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    model.eval().requires_grad_(False)
    return model


def reconstruct(
    model: nn.Module,
    pixels: UInt8[np.ndarray, "N S S 3"],
    *,
    batch_size: int = 64,
    jitter: float = 0.0,
    seed: int = 0,
    ids: UInt64[np.ndarray, " N"] | None = None,
    advance: Callable[[int], None] | None = None,
) -> UInt8[np.ndarray, "N S S 3"]:
    """Encode pictures to the middle of their posterior and decode that.

    Args:
        model: The autoencoder.
        pixels: Pictures.
        batch_size: Pictures per step; the last batch is padded.
        jitter: Noise added to the latents, as a share of each latent channel's spread over the
            batch: latents that a model generates are never quite where pictures lie.
        seed: Seed of that noise.
        ids: Identities of the pictures, which key their noise.
        advance: Called with the number of pictures finished.
    """
    if jitter and ids is None:
        raise ValueError("reconstruct: jitter needs `ids`, which key the noise of each picture")
    found = np.empty_like(pixels)
    for start in range(0, len(pixels), batch_size):
        here = slice(start, start + batch_size)
        images = torch.from_numpy(np.ascontiguousarray(pixels[here].transpose(0, 3, 1, 2)))
        num_real = len(images)
        images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - num_real))
        with torch.inference_mode():
            latents = model.encode(images.float() / 127.5 - 1).latent_dist.mode()
            if jitter and ids is not None:
                noise = _noise(seed, ids[here], shape=tuple(latents.shape[1:]))
                spread = latents[:num_real].std((0, 2, 3), correction=0)[:, None, None]
                latents[:num_real] += jitter * spread * torch.from_numpy(noise)
            decoded = model.decode(latents).sample
        rounded = ((decoded[:num_real] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        found[here] = rounded.permute(0, 2, 3, 1).numpy()
        if advance is not None:
            advance(num_real)
    return found


def _noise(
    seed: int, ids: UInt64[np.ndarray, " N"], *, shape: tuple[int, ...]
) -> Float32[np.ndarray, "N C h h"]:
    return keyed.normal(seed, "judge.latents", epoch=0, ids=ids, shape=shape)
