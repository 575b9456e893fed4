"""Settings of `recap fit-tagger`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TaggerSizeConfig:
    """Size of a tagger fitted from scratch."""

    image_size: int = 32
    """Pixels a side that it sees."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of each level; every level halves the side."""

    width: int = 256
    """Features from which every tag is read."""

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "width")
        if not self.channels or min(self.channels) < 8 or any(c % 8 for c in self.channels):
            raise ConfigError(f"model.channels must be multiples of 8, got {self.channels}")
        if self.image_size % 2 ** len(self.channels):
            raise ConfigError(
                f"model.image_size must be a multiple of {2 ** len(self.channels)} for "
                f"{len(self.channels)} levels, got {self.image_size}"
            )


@dataclass(frozen=True, kw_only=True)
class FitTaggerConfig:
    """Fit a small tagger on the words of annotated pictures."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples", "log_samples"})

    images: Path
    """Images artifact; only annotated pictures of its training split are read."""

    captions: list[Path]
    """Captions artifacts with the annotated texts."""

    kinds: list[str]
    """Kinds whose words become tags; a picture's tags are the words of all of them."""

    phrase_words: int = 1
    """Words of the longest tag; 2 makes tags such as `red circle` of neighbours, too."""

    min_share: float = 0.005
    """Share of the pictures whose texts must have a word before it is a tag."""

    max_share: float = 0.95
    """Words in the texts of more pictures than this say nothing and are no tags."""

    max_tags: int = 512
    """Most tags, the frequent ones first."""

    held_out_pictures: int = 2000
    """Annotated pictures kept out of the fit, at most a quarter: one half chooses thresholds, the
    other measures."""

    min_f1: float = 0.6
    """Tags with less than this on the half that chooses are dropped."""

    min_gain: float = 0.05
    """How much better in F1 a tag must be than saying it of every picture."""

    model: TaggerSizeConfig = field(default_factory=TaggerSizeConfig)
    """Size of the network."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 64
    """Pictures per step, a multiple of 8."""

    lr: float = 2e-3
    """Peak learning rate."""

    warmup_samples: int = 2560
    """Pictures over which the rate rises from zero (at most a quarter of all); afterwards it falls
    as a cosine."""

    weight_decay: float = 0.05
    """AdamW weight decay of matrices."""

    ema_decay: float = 0.99
    """Share of the old weight average kept at each step; less in the first steps."""

    checkpoint_samples: int = 12_800
    """Pictures between exact checkpoints."""

    log_samples: int = 2560
    """Pictures between log lines."""

    seed: int = 0
    """Seed of initial weights, of the order, and of which pictures are held out."""

    threads: int = 1
    """CPU threads; part of the recipe because arithmetic depends on it."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(
            self, "phrase_words", "max_tags", "samples", "checkpoint_samples", "log_samples",
            "threads",
        )  # fmt: skip
        require_share(self, "min_share", "max_share", "min_f1", "min_gain")
        if self.held_out_pictures < 16:
            raise ConfigError(
                f"held_out_pictures must be at least 16, got {self.held_out_pictures}"
            )
        if not self.captions or not self.kinds:
            raise ConfigError(
                "captions and kinds: name at least one captions artifact with annotated texts and "
                f"one kind of it, got {len(self.captions)} and {self.kinds}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay:g}")
