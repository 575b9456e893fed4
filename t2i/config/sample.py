"""Settings of `t2i sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Write the images that a model generates for a prompt table."""

    NOT_IN_RECIPE: ClassVar = frozenset({"num_workers"})

    model: Path
    """Model artifact."""

    prompts: Path
    """Prompts artifact."""

    styles: list[str] = field(default_factory=list)
    """Prompt styles; empty takes all."""

    solver: Literal["flow-euler", "ddim", "dpm-solver++"] | None = None
    """Solver; None takes the one saved with the model."""

    num_steps: int = 12
    """Solver steps, each one evaluation of the denoiser."""

    guidance_scale: float = 3.0
    """Classifier-free guidance weight; 1 means off."""

    seeds_per_prompt: int = 1
    """Images per prompt; noise is keyed by (seed, pair_id), so arms and styles share it."""

    curve_styles: list[str] = field(default_factory=list)
    """Styles also sampled from the earlier snapshots, for curves over training."""

    curve_pairs: int = 128
    """Pairs sampled from the earlier snapshots."""

    batch_size: int = 64
    """Images per step; a multiple of 8, part of the recipe."""

    images_per_shard: int = 512
    """Images in one shard, which is also the unit of work; rounded up to whole batches."""

    seed: int = 0
    """Seed of the noise; further images of a prompt count upwards from it."""

    num_workers: int = 1
    """Worker processes; cannot change a byte of the result."""

    threads: int = 1
    """CPU threads of each worker; part of the recipe."""

    compile: bool = False
    """Compile denoiser and decoder with torch.compile: a start of minutes, then quicker steps."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(
            self, "num_steps", "seeds_per_prompt", "images_per_shard", "num_workers", "threads"
        )
        if self.curve_pairs < 0 or self.seed < 0:
            raise ConfigError(
                f"curve_pairs and seed must not be negative, got {self.curve_pairs} and {self.seed}"
            )
