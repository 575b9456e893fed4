"""Settings of `recap ingest`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_positive, require_share
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """The embedded world: drawn from a seed, with its truth known."""

    num_pictures: int = 50_000
    """Pictures drawn, all splits together."""

    seed: int = 0
    """Seed of the world; another seed is another world of the same kind."""

    image_size: int = 32
    """Width and height of a picture, in pixels."""

    def __post_init__(self) -> None:
        if self.num_pictures < 16:
            raise ConfigError(f"scenes.num_pictures must be at least 16, got {self.num_pictures}")
        if self.image_size < 16 or self.image_size % 2:
            raise ConfigError(f"scenes.image_size must be even, 16 or more, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Shares of the pictures, fixed by `sample_id`; what is left is the training split."""

    judge: float = 0.15
    """Share kept for fitting judges; never trained on by a captioner or image model."""

    test: float = 0.05
    """Share kept for prompts and for measuring captioners."""

    def __post_init__(self) -> None:
        if min(self.judge, self.test) < 0 or self.judge + self.test >= 1:
            raise ConfigError(
                f"split.judge + split.test must lie in [0, 1), got {self.judge:g} + {self.test:g}"
            )


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn any source of pictures into an images artifact."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_rejected_share", "num_workers"})

    source: Literal["scenes", "folder", "webdataset", "datasets"]
    """Where pictures come from."""

    name: str
    """Name of the source; with an item's key it makes the `sample_id`, wherever the files lie."""

    root: Path | None = None
    """Folder of images, folder or file of tar shards, or what `datasets.load_dataset` loads."""

    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Only read when `source` is `scenes`."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Shares of the judge and test pictures."""

    alt_column: str | None = None
    """Column, JSON key or sidecar field that holds the alt text; found by name when absent."""

    texts_column: str | None = None
    """Column with further people's texts of a picture (a list); its first entry is the alt text
    when `alt_column` is absent."""

    key_column: str | None = None
    """Column or JSON key that names a row; the file name, tar key or row number when absent."""

    image_size: int | None = None
    """Store pictures centre-cropped and resized to this many pixels; None keeps the bytes."""

    pictures_per_shard: int = 4096
    """Pictures in one shard and index part; also the unit of captioning work."""

    max_pixels: int = 64_000_000
    """Pictures larger than this are rejected before they are decoded."""

    max_rejected_share: float = 0.1
    """Share of rejected rows above which the job stops."""

    num_workers: int = 2
    """Worker processes; cannot change a byte of the result."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures_per_shard", "max_pixels", "num_workers")
        if self.image_size is not None:
            require_positive(self, "image_size")
        require_share(self, "max_rejected_share")
