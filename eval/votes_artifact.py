"""Artifacts of the human comparison: the page with its key, and the votes joined on it.

A *preference* holds `page.html`, which raters open, and `key.parquet`, which they never see: it
says for every trial of the page which arm stands on which side. *Votes* hold `votes.parquet`, one
row for every vote with what it was cast on, so that every rating can be computed from it again.
Free of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pyarrow as pa

from eval.artifacts import read_table
from launch.manifest import Manifest, read_manifest, write_parquet

PREFERENCE = "preference"
PREFERENCE_VERSION = 1
VOTES = "votes"
VOTES_VERSION = 1

PAGE = "page.html"
KEY = "key.parquet"

Choice: TypeAlias = Literal["left", "right", "tie"]
CHOICES: tuple[Choice, ...] = ("left", "tie", "right")


class Trial(NamedTuple):
    """One comparison as the page shows it, and what lies behind it."""

    trial_id: str
    """What the page knows it by; it says nothing about arms or sides."""

    place: int
    """Position on the page, from 0."""

    question: str
    style: str
    pair_id: str
    prompt_id: str
    seed: int
    """Noise seed, the same on both sides."""

    model_seed: int
    """Training seed, the same on both sides."""

    left_arm: str
    right_arm: str
    left_generation_id: str
    right_generation_id: str
    repeat_of: str | None
    """The trial that this one repeats with sides swapped."""


_TRIAL_FIELDS = [
    pa.field("trial_id", pa.string(), nullable=False),
    pa.field("place", pa.int64(), nullable=False),
    pa.field("question", pa.string(), nullable=False),
    pa.field("style", pa.string(), nullable=False),
    pa.field("pair_id", pa.string(), nullable=False),
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("model_seed", pa.int64(), nullable=False),
    pa.field("left_arm", pa.string(), nullable=False),
    pa.field("right_arm", pa.string(), nullable=False),
    pa.field("left_generation_id", pa.string(), nullable=False),
    pa.field("right_generation_id", pa.string(), nullable=False),
    pa.field("repeat_of", pa.string(), nullable=True),
]

KEY_SCHEMA = pa.schema(
    _TRIAL_FIELDS,
    metadata={
        "captionmix.artifact": PREFERENCE,
        "captionmix.version": str(PREFERENCE_VERSION),
    },
)

VOTES_SCHEMA = pa.schema(
    [
        pa.field("rater", pa.string(), nullable=False),
        *_TRIAL_FIELDS,
        pa.field("choice", pa.string(), nullable=False),
        pa.field("milliseconds", pa.int64(), nullable=True),
    ],
    metadata={"captionmix.artifact": VOTES, "captionmix.version": str(VOTES_VERSION)},
)
"""`milliseconds` from the moment the pair was shown to the vote."""


@dataclass(frozen=True)
class Preference:
    """An opened preference: the key of a page."""

    manifest: Manifest
    table: pa.Table

    @property
    def page_digest(self) -> str:
        """Return the digest by which votes name the page."""
        return str(self.manifest.recipe["page"])

    @property
    def arms(self) -> list[str]:
        """Return the arms, in the order in which their generations were given."""
        return [str(arm) for arm in self.manifest.recipe["arms"]]

    @cached_property
    def trials(self) -> dict[str, Trial]:
        """Return the trials by their id, in the order of the page."""
        rows = (Trial(*row.values()) for row in self.table.sort_by("place").to_pylist())
        return {trial.trial_id: trial for trial in rows}


@dataclass(frozen=True)
class Votes:
    """Opened votes: one row for every vote."""

    manifest: Manifest
    table: pa.Table

    @property
    def arms(self) -> list[str]:
        """Return the arms of the page, in its order."""
        return [str(arm) for arm in self.manifest.recipe["arms"]]


def open_preference(folder: Path | str) -> Preference:
    """Open a complete preference artifact."""
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=PREFERENCE, version=PREFERENCE_VERSION)
    return Preference(manifest, read_table(folder / KEY, schema=KEY_SCHEMA))


def write_key(path: Path, trials: Iterable[Trial]) -> None:
    """Write `key.parquet`, in the order of the page."""
    rows = [trial._asdict() for trial in trials]
    write_parquet(path, pa.Table.from_pylist(rows, schema=KEY_SCHEMA))


def open_votes(folder: Path | str) -> Votes:
    """Open complete votes."""
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=VOTES, version=VOTES_VERSION)
    return Votes(manifest, read_table(folder / "votes.parquet", schema=VOTES_SCHEMA))


def votes_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make the table of votes, sorted by rater and place, which leaves no two rows tied."""
    table = pa.Table.from_pylist(list(rows), schema=VOTES_SCHEMA)
    return table.sort_by([("rater", "ascending"), ("place", "ascending")])
