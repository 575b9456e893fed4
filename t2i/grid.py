"""Pictures that a model in training draws for fixed prompts from fixed noise.

Two rows: the held-out pictures as the autoencoder gives them back, which is the best that a model
could draw, and below each what the denoiser draws for its prompt. Noise is that of `t2i sample`
with seed 0, so a column goes on as this prompt's generation.

B pictures, C latent channels, h latent height, w latent width, H height, W width of the grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from jaxtyping import Float, UInt8
from torch import Tensor

from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, Texts
from t2i.painter import fill, noise_of
from t2i.pipeline import solve

NUM_STEPS = 12
"""Solver steps, as `t2i sample` has them by default."""

GUIDANCE_SCALE = 3.0
"""Classifier-free guidance weight, likewise."""

SEED = 0
"""Seed of the noise, whatever the seed of the training."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything about the pictures but the denoiser."""

    real: UInt8[np.ndarray, "n H W 3"]
    """Held-out pictures as they come back from their latents."""

    noise: Float[Tensor, "B C h w"]
    """One row for each picture, repeated to a multiple of 8."""

    text: Texts
    empty_text: Texts
    scheduler: SchedulerMixin
    autoencoder: Autoencoder

    @torch.no_grad()
    def draw(self, denoiser: UNet2DConditionModel) -> UInt8[np.ndarray, "H W 3"]:
        """Draw both rows side by side."""
        latents = solve(
            denoiser,
            self.scheduler,
            self.noise,
            text=self.text,
            empty_text=self.empty_text,
            num_steps=NUM_STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        drawn = self.autoencoder.decode(latents)[: len(self.real)]
        rows = np.stack([self.real, drawn])  # [2, n, H, W, 3]
        return np.concatenate(np.concatenate(rows, axis=1), axis=1)


def make_grid(
    prompts: Sequence[str],
    *,
    pair_ids: Sequence[str],
    latents: Float[Tensor, "n C h w"],
    text_encoder: TextEncoder,
    autoencoder: Autoencoder,
    scheduler: SchedulerMixin,
    device: torch.device,
) -> Grid:
    """Encode prompts and draw their noise; autoencoder and text encoder are on `device`.

    Args:
        prompts: Prompts of the columns.
        pair_ids: Their pairs, which key the noise.
        latents: Scaled latents of the pairs' pictures.
        text_encoder: Encodes as in training.
        autoencoder: Its pictures are shown.
        scheduler: Solver of what the denoiser learns.
        device: Where the denoiser is.
    """

    def encode(texts: Sequence[str]) -> Texts:
        text = text_encoder.encode(texts)
        return Texts(text.text_embeds.float(), text.text_mask)

    size = -(-len(prompts) // 8) * 8
    noise = noise_of(fill(pair_ids, size), [SEED] * size, shape=tuple(latents.shape[1:]))
    return Grid(
        real=autoencoder.decode(latents.to(device)),
        noise=torch.from_numpy(noise).to(device, memory_format=torch.channels_last),
        text=encode(fill(prompts, size)),
        empty_text=encode([""]),
        scheduler=scheduler,
        autoencoder=autoencoder,
    )
