"""Settings of `eval fit-judge`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClipSizeConfig:
    """Size of a CLIP judge fitted from scratch."""

    width: int = 96
    """Width of both towers."""

    image_layers: int = 3
    """Layers of the image tower."""

    text_layers: int = 3
    """Layers of the text tower."""

    num_heads: int = 4
    """Attention heads."""

    patch_size: int = 8
    """Pixels a side of one image token."""

    embed_dim: int = 64
    """Length of the shared feature."""

    context_length: int = 77
    """Longest text in tokens; longer ones are cut before the end token, and counted."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound)."""


@dataclass(frozen=True, kw_only=True)
class FitJudgeConfig:
    """Fit the CLIP judge and, where claims are known, the recogniser."""

    images: Path
    """Images artifact; the judge split fits, the test split measures."""

    captions: list[Path]
    """Captions artifacts with the texts of the judge and test pictures, written by people or
    from claims, never by a captioner."""

    kinds: list[str]
    """Kinds of text read from them."""

    autoencoder: Path
    """Autoencoder artifact: the recogniser is trained on its reconstructions."""

    image_size: int = 32
    """Pixels a side."""

    clip: ClipSizeConfig = field(default_factory=ClipSizeConfig)
    """Size of the CLIP judge."""

    clip_samples: int
    """Pairs seen by the CLIP judge."""

    recogniser_samples: int = 0
    """Pictures seen by the recogniser; 0 where no claims are known."""

    batch_size: int = 256
    """Pairs per step."""

    lr: float = 1e-3
    """Peak learning rate."""

    min_accuracy: float = 0.7
    """Axes read less accurately than this on reconstructions are printed as not measurable."""

    seed: int = 0
    """Seed of initial weights and draws."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "image_size", "clip_samples", "threads")
        if self.recogniser_samples < 0 or not 0 <= self.min_accuracy <= 1:
            raise ConfigError(
                "recogniser_samples must be at least 0 and min_accuracy lie in [0, 1], got "
                f"{self.recogniser_samples} and {self.min_accuracy:g}"
            )
