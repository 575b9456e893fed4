"""Settings of `recap import` and `recap export`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_share
from recap.config.kinds import refuse_odd_kind


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a captions artifact of texts that lie in a table."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_rejected_share"})

    images: Path
    """Images artifact that the texts speak of."""

    file: Path
    """Table: .parquet, .csv, .tsv or .jsonl."""

    kind: str
    """Kind that the captions are stored under."""

    name_column: str = "file_name"
    """Column that names the picture: its sample_id, its key in the source, its file name, or that
    without its ending."""

    text_column: str = "caption"
    """Column that holds the text."""

    max_rejected_share: float = 0.1
    """Share of rows that name no picture, several, or have no text, above which the job stops."""

    def __post_init__(self) -> None:
        require_share(self, "max_rejected_share")
        refuse_odd_kind(self.kind)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write captions in a form that another program reads."""

    images: Path
    """Images artifact that the captions speak of."""

    captions: list[Path]
    """Captions artifacts."""

    form: Literal["jsonl", "csv", "txt", "webdataset", "datasets"]
    """One table; one .txt beside each picture's name; tar shards with pictures; or a folder that
    `datasets.load_dataset("imagefolder", data_dir=...)` reads."""

    kinds: list[str] = field(default_factory=list)
    """Kinds written; `alt` may be one of them; empty takes all of the artifacts."""
