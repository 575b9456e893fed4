"""Settings of what pictures and texts are encoded by, and of `t2i encode`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Fit a small AutoencoderKL on the training pictures."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples"})

    images: Path
    """Images artifact; the training split fits, the test split measures."""

    image_size: int = 32
    """Pixels a side; pictures are centre-cropped and resized."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 64])
    """Channels of each level; every level but the last halves the side."""

    layers_per_block: int = 1
    """Residual blocks per level."""

    latent_channels: int = 4
    """Channels of the latents."""

    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term, per latent value."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 64
    """Pictures per step."""

    lr: float = 2e-3
    """Peak learning rate."""

    seed: int = 0
    """Seed of initial weights and draws."""

    checkpoint_samples: int = 6400
    """Pictures between exact checkpoints."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "samples", "checkpoint_samples", "threads")
        require_positive(self, "latent_channels", "image_size")


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Fit the embedded default's own small T5 by its own objective: fill in masked text."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples"})

    texts: list[Path]
    """Captions artifacts whose texts are learned, equal tokens per kind."""

    kinds: list[str]
    """Kinds of text read from them."""

    width: int = 128
    """Model width."""

    num_layers: int = 3
    """Encoder layers."""

    num_heads: int = 4
    """Attention heads."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound)."""

    max_tokens: int = 96
    """Longest text in tokens."""

    samples: int
    """Texts seen in training."""

    batch_size: int = 128
    """Texts per step."""

    lr: float = 2e-3
    """Peak learning rate."""

    seed: int = 0
    """Seed of initial weights and draws."""

    checkpoint_samples: int = 12_800
    """Texts between exact checkpoints."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "samples", "checkpoint_samples", "threads")
        require_positive(self, "max_tokens", "vocab_size", "num_heads")
        if self.width % self.num_heads:
            raise ConfigError(
                f"width must be a multiple of num_heads={self.num_heads}, got {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Cache latents once per picture, or text states once per distinct caption."""

    NOT_IN_RECIPE: ClassVar = frozenset({"budget_gib"})  # what came of it is in the recipe

    images: Path
    """Images artifact; its training split is encoded."""

    autoencoder: Path | None = None
    """Autoencoder artifact, folder or hub id: latents are cached."""

    text_encoder: Path | None = None
    """Text encoder artifact, folder or hub id: text states are cached."""

    captions: list[Path] = field(default_factory=list)
    """Captions artifacts whose texts are encoded, besides the alt texts."""

    beside: list[Path] = field(default_factory=list)
    """Text states artifacts of the same encoder; texts that they hold are left out."""

    image_size: int = 32
    """Pixels a side; pictures are centre-cropped and resized."""

    flip: bool = False
    """Encode the mirrored pictures, for `augmented_latents` of `t2i train`. Mirroring makes left,
    right and displayed words wrong in captions; it hurts descriptive captions most."""

    max_tokens: int = 96
    """Longer texts are truncated, and counted."""

    precision: Literal["float32", "float16"] = "float16"
    """Stored precision of text states; latents are float32."""

    budget_gib: float = 64.0
    """If text states would take more, those of `beside` included, token ids are kept instead, and
    training encodes the text of every step."""

    batch_size: int = 64
    """Rows per step; a multiple of 8."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "image_size", "max_tokens", "threads")
        if (self.autoencoder is None) == (self.text_encoder is None):
            raise ConfigError("encode: give exactly one of autoencoder= and text_encoder=")
        if self.flip and self.autoencoder is None:
            raise ConfigError("flip: true is for pictures; texts have no mirror. Leave it out")
        if self.beside and self.text_encoder is None:
            raise ConfigError("beside is for texts; latents of other pictures have no use here")
        if self.budget_gib < 0:
            raise ConfigError(f"budget_gib must be at least 0, got {self.budget_gib:g}")
