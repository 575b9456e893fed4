"""Pictures as the autoencoder gives them back: what a latent model could reach at best.

N pictures, S pixels a side
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8, UInt64

from launch import keyed
from launch.processes import sent
from t2i.autoencoder import Autoencoder


def reconstruct(
    autoencoder: Autoencoder,
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
        autoencoder: The autoencoder.
        pixels: Pictures.
        batch_size: Pictures per step; the last batch is filled up with its last picture.
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
        num_real = len(pixels[here])
        filled = np.pad(
            pixels[here], [(0, batch_size - num_real), (0, 0), (0, 0), (0, 0)], mode="edge"
        )
        latents = autoencoder.scale(autoencoder.encode(filled).mean)
        if jitter and ids is not None:
            noise = keyed.normal(
                seed, "judge.latents", epoch=0, ids=ids[here], shape=tuple(latents.shape[1:])
            )
            spread = latents[:num_real].std((0, 2, 3), correction=0)[:, None, None]
            latents[:num_real] += jitter * spread * sent(torch.from_numpy(noise), latents.device)
        found[here] = autoencoder.decode(latents)[:num_real]
        if advance is not None:
            advance(num_real)
    return found
