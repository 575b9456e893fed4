"""Settings of `eval distribution`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eval.config.score import refuse_plain_gelu
from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DistributionConfig:
    """FID and unbiased CMMD between generations and pictures, with intervals.

    Features come from exactly one of `judge`, `clip_model` and `inception_weights`.
    """

    generations: list[Path]
    """Generations artifacts, one per arm and seed; their last snapshots are measured."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    images: Path
    """Images artifact with the reference pictures."""

    split: str = "test"
    """Split of `images` that is the reference; `all` takes every picture."""

    styles: list[str] = field(default_factory=list)
    """Prompt styles measured, each by itself; empty takes all that were drawn."""

    judge: Path | None = None
    """Judge artifact, whose CLIP gives the features."""

    clip_model: str | None = None
    """CLIP that gives the features: a name in open_clip or a folder in its form."""

    clip_weights: str | None = None
    """Tag of `clip_model` in open_clip, or a local safetensors file."""

    clip_precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the CLIP."""

    inception_weights: Path | None = None
    """Local safetensors file of Inception-v3, FID's own or torchvision's; gives no CMMD."""

    features: Path | None = None
    """An earlier artifact of this verb; features that it has already are copied from it."""

    groups: int = 20
    """Groups of prompts that intervals leave out in turn; with fewer prompts, each is one."""

    batch_size: int = 256
    """Pictures per step; a multiple of 8, part of the recipe."""

    seed: int = 0
    """Seed of the dealing of prompts into groups."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        if not self.generations:
            raise ConfigError("generations must name at least one folder: generations=[DIR, ...]")
        refuse_plain_gelu(self.clip_model, self.clip_weights)
        if self.groups < 3:
            raise ConfigError(f"groups must be at least 3, got {self.groups}; 20 is usual")
        given = [n for n in ("judge", "clip_model", "inception_weights") if getattr(self, n)]
        if len(given) != 1:
            raise ConfigError(
                "features come from one of judge, clip_model and inception_weights; got "
                f"{' and '.join(given) or 'none of them'}"
            )
