"""Tables of texts from elsewhere: CSV, TSV, JSON lines and parquet, joined with pictures by name.

A row that cannot be read or used is counted by reason, and costs no other row.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import pyarrow.parquet as pq

from launch.errors import InputError
from recap.artifacts import Images
from recap.config import ImportConfig
from recap.sources.source import LONGEST_CELL, printable

NAMES: Final = ("sample_id", "key", "file_name", "stem")
"""What may name a picture, the surest first: identity, key in its source, file name, that without
its ending."""


class Rows(NamedTuple):
    """What a table says."""

    rows: list[tuple[str | None, object]]
    """What names the picture, and its text; no name where the row cannot be read."""

    first_bad: str
    """Where the first such row stands and what is wrong with it; empty where all can be read."""


class Joined(NamedTuple):
    """A table joined with pictures."""

    texts: dict[str, str]
    """By sample_id."""

    rejected: Counter[str]
    """Rows of the table that are not used, by reason."""

    matched_by: Counter[str]
    """Used rows by what named their picture, one of NAMES."""


def read_rows(path: Path, cfg: ImportConfig) -> Rows:
    """Read what names the picture, and its text, of every row.

    Raises:
        InputError: The file is of no known form, cannot be read, or no row has both columns.
    """
    columns = (cfg.name_column, cfg.text_column)
    try:
        match path.suffix.lower():
            case ".parquet":
                has = pq.read_schema(path).names
                kept = [name for name in columns if name in has]
                read = _numbered(pq.read_table(path, columns=kept).to_pylist(), "row")
            case ".csv" | ".tsv":
                has, read = _read_csv(path, "\t" if path.suffix.lower() == ".tsv" else ",")
            case ".jsonl" | ".ndjson":
                has, read = _read_lines(path)
            case other:
                raise InputError(
                    f"{path}: a file that ends in {other!r} is not read; expected .parquet, .csv, "
                    ".tsv or .jsonl."
                )
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    if not read:
        raise InputError(f"{path}: has no rows; expected one for each caption.")
    if absent := [name for name in columns if name not in has]:
        first = next((f" ({where}: {row})" for where, row in read if isinstance(row, str)), "")
        raise InputError(
            f"{path}: no row has `{absent[0]}`; they have {', '.join(map(str, has)) or 'nothing'}"
            f"{first}. Give name_column= and text_column=."
        )
    rows: list[tuple[str | None, object]] = []
    first_bad = ""
    for where, row in read:
        problem = row if isinstance(row, str) else _problem(row, columns)
        if isinstance(row, str) or problem:
            rows.append((None, None))
            first_bad = first_bad or f"{where}: {problem}"
        else:
            rows.append((str(row[cfg.name_column]), row.get(cfg.text_column)))
    return Rows(rows, first_bad)


_Read = list[tuple[str, "dict[Any, Any] | str"]]
"""Rows by where they stand; of one that cannot be read, what is wrong with it."""


def _numbered(rows: Sequence[dict[Any, Any]], word: str) -> _Read:
    return [(f"{word} {number}", row) for number, row in enumerate(rows, start=1)]


def _read_csv(path: Path, delimiter: str) -> tuple[list[str], _Read]:
    csv.field_size_limit(LONGEST_CELL)
    # Bytes that are not UTF-8 become halves of letters, by which their rows are known later.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        read: _Read = []
        for row in reader:
            said = "more cells than the header" if None in row else row
            read.append((f"line {reader.line_num}", said))
        return list(reader.fieldnames or ()), read


def _read_lines(path: Path) -> tuple[list[str], _Read]:
    read: _Read = []
    # Only a line feed ends a line: texts may hold the other separators of Unicode.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            row = f"not JSON ({error})"
        else:
            if not isinstance(row, dict):
                row = f"expected an object, got {type(row).__name__}"
        read.append((f"line {number}", row))
    return list(dict.fromkeys(c for _, row in read if isinstance(row, dict) for c in row)), read


def _problem(row: Mapping[Any, Any], columns: tuple[str, str]) -> str:
    """Say why a row cannot be used, before its picture is looked for; nothing if it may."""
    name, text = (row.get(column) for column in columns)
    if name is None:
        return f"no `{columns[0]}`"
    for value in (str(name), text):
        if isinstance(value, str) and printable(value) != value:
            return "not UTF-8"
    return ""


def join(rows: Sequence[tuple[str | None, object]], images: Images) -> Joined:
    """Find the picture of every row; rows that name none, or several, are counted by reason."""
    finders = _finders(images)
    texts: dict[str, str] = {}
    rejected, matched_by = Counter[str](), Counter[str]()
    for name, text in rows:
        how = next((how for how in NAMES if name in finders[how]), None)
        sample_id = None if how is None or name is None else finders[how][name]
        if name is None:
            rejected["bad_row"] += 1
        elif not isinstance(text, str) or not text.strip():
            rejected["empty_text"] += 1
        elif how is None:
            rejected["no_such_picture"] += 1
        elif sample_id is None:
            rejected["names_several_pictures"] += 1
        elif sample_id in texts:
            rejected["second_text_of_a_picture"] += 1
        else:
            texts[sample_id] = text
            matched_by[how] += 1
    return Joined(texts, rejected, matched_by)


def _finders(images: Images) -> dict[str, dict[str, str | None]]:
    """Return name -> sample_id for every way of naming; None where a name means several."""
    keys = images.table["key"].to_pylist()
    ways: dict[str, Callable[[str, str], str]] = {
        "sample_id": lambda sample_id, key: sample_id,
        "key": lambda sample_id, key: key,
        "file_name": lambda sample_id, key: PurePosixPath(key).name,
        "stem": lambda sample_id, key: PurePosixPath(key).stem,
    }
    found: dict[str, dict[str, str | None]] = {}
    for how, name_of in ways.items():
        names: dict[str, str | None] = {}
        for sample_id, key in zip(images.sample_ids, keys, strict=True):
            name = name_of(sample_id, key)
            names[name] = None if name in names else sample_id
        found[how] = names
    return found
