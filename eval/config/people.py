"""Settings of what people see and say: `eval preference` and `eval votes`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from launch.config import require_positive
from launch.errors import ConfigError

Question: TypeAlias = Literal["prompt_following", "style", "coherence"]
"""What a rater is asked of a pair of pictures."""


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Write one HTML page on which people compare blinded pairs of pictures, and its key."""

    generations: list[Path]
    """Generations artifacts of the arms that are compared."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    title: str = "Which picture?"
    """Heading of the page, which raters see: no arm may be named in it."""

    styles: list[str]
    """Prompt styles; every chosen pair is shown in each of them."""

    pairs: list[list[str]] = field(default_factory=list)
    """Pairs of arms that are compared, [[ONE, OTHER], ...]; empty compares every pair."""

    questions: list[Question] = field(
        default_factory=lambda: ["style", "coherence", "prompt_following"]
    )
    """Asked one after the other, each about every pair. The prompt is shown for
    `prompt_following` alone, which therefore comes last."""

    num_prompts: int = 24
    """Prompts shown, drawn by key among those that all arms have drawn pictures for."""

    repeats: float = 0.1
    """Share of the comparisons asked a second time with sides swapped, at most 0.5."""

    max_side: int = 512
    """Larger pictures are made smaller for the page; pixels a side."""

    seed: int = 0
    """Seed of what is drawn: prompts, training and noise seeds, order and sides."""

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "max_side")
        for name in ("generations", "styles", "questions"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one: {name}=[..., ...]")
        for name in ("styles", "questions"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"{name} names one twice: {', '.join(getattr(self, name))}")
        if not 0 <= self.repeats <= 0.5:
            raise ConfigError(f"repeats must lie in [0, 0.5], got {self.repeats:g}")
        if "prompt_following" in self.questions[:-1]:
            raise ConfigError(
                "questions: prompt_following must come last, since it shows the prompt that the "
                f"others hide, got {', '.join(self.questions)}"
            )
        for pair in self.pairs:
            if len(set(pair)) != 2:
                raise ConfigError(f"pairs: a pair is two different arms, got {pair}")


@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """Read raters' votes on a preference page: ratings, agreement, and what metrics predict."""

    preference: Path
    """Preference artifact of the page that was voted on."""

    votes: list[Path]
    """Files of votes as the page gives them, one JSON object a line."""

    scores: Path | None = None
    """Scores artifact of the same pictures; each metric is then compared with the votes."""

    anchor: str | None = None
    """Arm whose rating is 0; None sets the mean of all arms to 0."""

    resamples: int = 2000
    """Bootstrap resamples of the raters' agreement."""

    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_positive(self, "resamples")
        if not self.votes:
            raise ConfigError("votes must name at least one file: votes=[FILE, ...]")
