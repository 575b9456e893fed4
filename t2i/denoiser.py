"""The denoiser: a diffusers U-Net conditioned on text states, by size name.

Time enters as a scale and a bias after the second GroupNorm of every residual block, as diffusers
has it (the paper: after each GroupNorm), text by cross-attention at every level.

N tokens, D text width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import is_xformers_available
from jaxtyping import Float

from launch.errors import ConfigError, InputError
from launch.training import initial_weights

WHITENING_FLOOR = 1e-3
"""Variance, relative to the largest, below which a direction of the text is not amplified."""

Size: TypeAlias = Literal["tiny", "small", "base", "paper"]


@dataclass(frozen=True)
class Shape:
    """Widths of one size."""

    channels: tuple[int, ...]
    """Channels of each level; every level but the last halves the side."""

    layers_per_block: int
    """Residual blocks per level."""

    num_heads: int | tuple[int, ...]
    """Attention heads at every level, or of each."""

    norm_groups: int
    """Groups of every GroupNorm."""

    text_from_level: int = 0
    """First level (0 is the finest) that attends to text."""


SHAPES: dict[str, Shape] = {
    "tiny": Shape((64, 128), layers_per_block=1, num_heads=4, norm_groups=16),
    "small": Shape((128, 256, 256), layers_per_block=1, num_heads=8, norm_groups=32),
    # The larger two have heads of 64 channels: GPUs' attention kernels pad narrow ones.
    "base": Shape((192, 384, 768), layers_per_block=2, num_heads=(3, 6, 12), norm_groups=32),
    # Three stages as in the paper; its widths are not stated, these are ours.
    "paper": Shape((320, 640, 1280), layers_per_block=3, num_heads=(5, 10, 20), norm_groups=32),
}
"""What each size name means."""


def build(
    size: Size, *, latent_channels: int, latent_side: int, text_width: int, seed: int
) -> UNet2DConditionModel:
    """Make a denoiser with initial weights that are a function of (seed, shapes) alone.

    Arms of one seed therefore start from equal weights.
    """
    if size not in SHAPES:
        raise ConfigError(f"size must be one of {', '.join(SHAPES)}, got {size!r}")
    shape = SHAPES[size]
    levels = len(shape.channels)
    if latent_side % 2 ** (levels - 1):
        raise ConfigError(
            f"size {size} halves the latents {levels - 1} times, but they are {latent_side} a "
            f"side; expected a multiple of {2 ** (levels - 1)}. Choose another size or image_size."
        )
    with_text = [level >= shape.text_from_level for level in range(levels)]
    with initial_weights(seed, "init"):
        return UNet2DConditionModel(
            sample_size=latent_side,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=shape.channels,
            layers_per_block=shape.layers_per_block,
            down_block_types=tuple(
                "CrossAttnDownBlock2D" if text else "DownBlock2D" for text in with_text
            ),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if text else "UpBlock2D" for text in reversed(with_text)
            ),
            cross_attention_dim=text_width,
            # A linear layer before all attention to text; `whiten_text` gives it its start.
            encoder_hid_dim=text_width,
            encoder_hid_dim_type="text_proj",
            # diffusers reads this as the number of heads (huggingface/diffusers issue 2011).
            attention_head_dim=shape.num_heads,
            norm_num_groups=shape.norm_groups,
            resnet_time_scale_shift="scale_shift",
        )


def choose_kernels(
    denoiser: UNet2DConditionModel,
    *,
    attention: Literal["torch", "xformers"],
    checkpoint_activations: bool,
) -> None:
    """Choose how a denoiser computes; what it computes stays the same up to rounding.

    Raises:
        InputError: xformers was asked for and is absent, or there is no GPU for its kernels.
    """
    if checkpoint_activations:
        denoiser.enable_gradient_checkpointing()
    if attention == "xformers":
        if not is_xformers_available():
            raise InputError(
                "attention=xformers: xformers is not installed. Install it with "
                "`pip install 'captionmix[gpu]'`, or leave attention=torch."
            )
        if not torch.cuda.is_available():
            raise InputError(
                "attention=xformers: its kernels need a CUDA GPU and torch sees none. "
                "Leave attention=torch."
            )
        denoiser.enable_xformers_memory_efficient_attention()


@torch.no_grad()
def whiten_text(denoiser: UNet2DConditionModel, states: Float[np.ndarray, "N D"]) -> None:
    """Start the layer that reads text so that its output has no mean and unit covariance.

    Most of a text encoder's states is common to all words, the more the smaller the encoder (63% of
    the mean square of the embedded T5's). Attention that starts from random weights sees little
    else for a long time. The layer is trained on from there like any other.

    Args:
        denoiser: A new denoiser.
        states: States of many tokens of many texts, the same for every arm.

    Source: zero-phase whitening, Bell and Sejnowski 1997, doi:10.1016/S0042-6989(97)00121-1.
    """
    mean = states.mean(axis=0, dtype=np.float64)
    centred = states.astype(np.float64) - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(states))
    # Directions that hardly vary are left small: there is nothing in them but noise.
    scale = 1 / np.sqrt(values.clip(min=0) + WHITENING_FLOOR * values.max())
    whitening = (vectors * scale) @ vectors.T
    layer = denoiser.encoder_hid_proj
    layer.weight.copy_(torch.from_numpy(whitening))
    layer.bias.copy_(torch.from_numpy(-whitening @ mean))


def num_parameters(denoiser: UNet2DConditionModel) -> int:
    """Count the weights."""
    return sum(weights.numel() for weights in denoiser.parameters())
