"""One published number beside the one that was computed again, and the records of a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.answers_again import Key
from launch.errors import ArtifactError

EXACT = 1e-9
"""Relative deviation that rounding explains."""


class Checked(NamedTuple):
    """One published number beside the recomputed one."""

    table: str
    where: str
    column: str
    published: float
    recomputed: float
    tolerance: float
    """Deviation that counts as equal, in the number's own unit."""

    @property
    def is_equal(self) -> bool:
        """True if the two agree."""
        return abs(self.published - self.recomputed) <= self.tolerance


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the records of a table of the report, none where it has no such table."""
    if not path.is_file():
        return []  # a study of two arms has no table of pairs, one snapshot no curves
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def key_of(record: dict[str, str], arm: str, samples_seen: int) -> Key:
    """Return which scores an arm's column of a record speaks of."""
    metric = record["metric"]
    return Key(metric, record["prompt_style"], record["scoring"], record["axis"], arm, samples_seen)


def where_of(record: dict[str, str]) -> str:
    """Return what tells a record from the others of its table."""
    names = ("metric", "prompt_style", "scoring", "axis", "arm", "than", "samples_seen",
             "training_seed")  # fmt: skip
    return " ".join(f"{n}={record[n]}" for n in names if record.get(n))


def numbers_checked(
    table: str, record: dict[str, str], again: dict[str, float], *, loose: float = EXACT
) -> Iterator[Checked]:
    """Compare columns of a record; an unbounded number is published as nothing.

    Raises:
        ArtifactError: The table lacks one of the columns.
    """
    for column, value in again.items():
        if column not in record:
            raise ArtifactError(
                f"tables/{table}.csv: has no column {column}, expected one. Make the report again "
                "from its scores."
            )
        text = record[column]
        if text == "" or not np.isfinite(value):
            if text != "" or np.isfinite(value):
                yield Checked(table, where_of(record), column, float(text or "nan"), value, 0.0)
            continue
        # Differences that are all alike leave a p that is rounding alone.
        tolerance = loose * abs(value) + 1e-12 if column == "p" else EXACT * max(abs(value), 1e-12)
        yield Checked(table, where_of(record), column, float(text), float(value), tolerance)


def last_moments(scores: Iterable[Key]) -> dict[str, int]:
    """Return the last moment of each arm."""
    last: dict[str, int] = {}
    for key in scores:
        last[key.arm] = max(key.samples_seen, last.get(key.arm, 0))
    return last
