"""The list of a tagger's tags: `selected_tags.csv`, one row an output, in the outputs' order.

    tag_id,name,category,count
    9999999,general,9,807858
    470575,1girl,0,4225150

as taggers trained on Danbooru have it. Our own taggers add a column `threshold`: the confidence
from which each tag is said.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final, NamedTuple

from launch.errors import ArtifactError

FILE_NAME: Final = "selected_tags.csv"

CATEGORIES: Final = {
    "0": "general",
    "1": "artist",
    "3": "copyright",
    "4": "character",
    "5": "meta",
    "9": "rating",
}
"""Categories by Danbooru's numbers; any other keeps the name that the list gives it."""


class TagList(NamedTuple):
    """What the outputs of a tagger stand for."""

    names: list[str]
    categories: list[str]
    counts: list[int]
    """Pictures that had the tag where the tagger was trained."""

    thresholds: list[float] | None
    """Confidence from which each tag is said; None where the list does not tell."""


def read_tag_list(path: Path, *, num_expected: int) -> TagList:
    """Read a tag list that must have one row for each output of its network.

    Raises:
        ArtifactError: It is absent, has no column `name`, has a value that is no number where one
            is due, or another number of rows.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path}: no such file; a tagger needs its tag list, one row for each of its "
            f"{num_expected:,} outputs with the columns tag_id,name,category,count. Put it beside "
            "the weights that it was published with."
        )
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        rows = list(reader)
    if "name" not in columns:
        raise ArtifactError(
            f"{path}: has the columns {', '.join(columns) or 'none'}; expected "
            "tag_id,name,category,count. Take the file that the weights were published with."
        )
    if len(rows) != num_expected:
        raise ArtifactError(
            f"{path}: lists {len(rows):,} tags, but the network has {num_expected:,} outputs; they "
            "must be of one version. Take the list that these weights were published with."
        )
    try:
        return TagList(
            names=[row["name"] for row in rows],
            categories=[_category(row.get("category") or "0") for row in rows],
            counts=[int(row.get("count") or 0) for row in rows],
            thresholds=(
                [float(row["threshold"]) for row in rows] if "threshold" in columns else None
            ),
        )
    except ValueError as error:
        raise ArtifactError(
            f"{path}: count and threshold must be numbers ({error}). Take the file that the "
            "weights were published with."
        ) from error


def _category(said: str) -> str:
    return CATEGORIES.get(said.strip(), said.strip().lower())


def tag_list_csv(tags: TagList) -> str:
    """Write a tag list as text; a tag's number is its row."""
    numbers = {name: number for number, name in CATEGORIES.items()}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    own = [] if tags.thresholds is None else ["threshold"]
    writer.writerow(["tag_id", "name", "category", "count", *own])
    for row, name in enumerate(tags.names):
        category = tags.categories[row]
        threshold = [] if tags.thresholds is None else [f"{tags.thresholds[row]:.6f}"]
        writer.writerow([row, name, numbers.get(category, category), tags.counts[row], *threshold])
    return buffer.getvalue()
