"""Settings of `eval plan`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eval.config.report import PrimaryConfig
from launch.config import require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SpreadConfig:
    """Standard deviations of one picture's difference between two arms, in printed units."""

    seed: float | None = None
    """Between training seeds: training both models again."""

    prompt: float | None = None
    """Between prompts."""

    noise: float | None = None
    """Between noises of one prompt, alike for all training seeds."""

    prompt_by_seed: float | None = None
    """Between prompts, different for every training seed."""

    rest: float | None = None
    """Between single pictures, beyond all of these."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"spread.{name} must be a number from 0 on, got {value}")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Plan a study: prompts, pictures and training seeds that detect a difference."""

    difference: float
    """True difference that is to be found, in printed units: percentage points of claims that
    hold, or cosine x 100."""

    scores: Path | None = None
    """Scores of an earlier study, which tell where the variance comes from."""

    primary: PrimaryConfig | None = None
    """The comparison that is read from the scores."""

    spread: SpreadConfig = field(default_factory=SpreadConfig)
    """Standard deviations given by hand; with scores, those that replace the estimated ones.
    Without, those not given are 0."""

    power: float = 0.8
    """Share of studies that are to find the difference."""

    comparisons: int = 1
    """Comparisons that share a correction; planned for the strictest of Holm's steps."""

    prompts: list[int] = field(default_factory=lambda: [64, 256, 1024, 4096])
    """Numbers of prompts in the table."""

    images: list[int] = field(default_factory=lambda: [1, 4])
    """Numbers of pictures of a prompt from one model."""

    seeds: list[int] = field(default_factory=lambda: [1, 4, 6, 8, 12])
    """Numbers of training seeds."""

    arms: int = 2
    """Arms of the study, which cost as much as the two that are compared."""

    max_prompts: int = 10_000
    """Prompts that there are."""

    max_pictures: int | None = None
    """Pictures that may be drawn, of all arms; None sets no limit."""

    max_models: int | None = None
    """Models that may be trained, of all arms; None sets no limit."""

    model_price: float | None = None
    """Pictures that could be drawn for what training one model costs. The cheapest design has the
    lowest sum; None takes the fewest models, and of those the fewest pictures."""

    seed: int = 0
    """Seed of the draws behind the ranges."""

    def __post_init__(self) -> None:
        require_positive(self, "difference", "comparisons", "arms", "max_prompts")
        if not 0.05 < self.power < 1:
            raise ConfigError(f"power must lie between 0.05 and 1, got {self.power:g}")
        for name, least in (("prompts", 2), ("images", 1), ("seeds", 1)):
            values = getattr(self, name)
            if not values or min(values) < least:
                raise ConfigError(f"{name} must name numbers from {least} on, got {values}")
        if (self.scores is None) != (self.primary is None):
            raise ConfigError(
                "scores and primary go together: scores=DIR primary.better=ARM primary.than=ARM "
                "primary.style=STYLE primary.metric=METRIC"
            )
        if self.scores is None and not any(vars(self.spread).values()):
            raise ConfigError(
                "a plan needs to know the spread: give scores=DIR and primary, or "
                "spread.prompt=... spread.seed=... by hand"
            )
