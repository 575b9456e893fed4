"""Lists of one prompt a line or row: plain text, CSV, TSV and JSON lines.

Rows are numbered from 1 without the header, so that row 7 of a table and line 7 of a plain text are
one pair. TSV has no quoting: a quotation mark is part of the prompt.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2i.config import ListConfig
from t2i.lists.item import Item, PromptList, complaint, lines_of, read_text, refuse_twice


def read_lines(cfg: ListConfig) -> PromptList:
    """Read one prompt a line."""
    items = [
        Item(key=str(number), prompt=line, line=number)
        for number, line in enumerate(lines_of(read_text(cfg.path)), start=1)
    ]
    return PromptList(path=cfg.path, items=items, is_by_number=True)


class Row(NamedTuple):
    """One row of a table."""

    line: int
    """Line where it begins."""

    values: Mapping[str, Any] | None
    """By column; None for a blank line."""


def read_table(cfg: ListConfig) -> PromptList:
    """Read one prompt a row from CSV, TSV or JSON lines.

    Raises:
        InputError: A row is malformed, lacks a column, or has the key of another.
    """
    rows: Mapping[str, Callable[[Path], Iterator[Row]]] = {
        "csv": csv_rows,
        "tsv": tsv_rows,
        "jsonl": json_rows,
    }
    items = []
    for number, row in enumerate(rows[cfg.format](cfg.path), start=1):
        key = prompt = category = None
        if row.values is not None:
            prompt = _text(cfg, row, cfg.prompt_column)
            if cfg.category_column is not None:
                category = _text(cfg, row, cfg.category_column).strip() or None
            if cfg.key_column is not None:
                key = _text(cfg, row, cfg.key_column).strip()
        if cfg.key_column is not None and row.values is None:
            key = f"line {row.line}"
        elif cfg.key_column is not None and not key:
            raise complaint(
                cfg.path, row.line, found=f"no {cfg.key_column}", expected="a key in every row"
            )
        items.append(
            Item(
                key=key or str(number),
                prompt=prompt or "",
                line=row.line,
                category=category,
            )
        )
    refuse_twice(items, path=cfg.path)
    return PromptList(path=cfg.path, items=items, is_by_number=cfg.key_column is None)


def _text(cfg: ListConfig, row: Row, column: str) -> str:
    """Return the text of a cell; a whole number is one."""
    assert row.values is not None, "blank rows have no cells"
    if column not in row.values:
        raise complaint(
            cfg.path,
            row.line,
            found=f"the columns {', '.join(row.values)}",
            expected=f"the column {column!r}, as the settings name it",
        )
    value = row.values[column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise complaint(
            cfg.path, row.line, found=f"{column}: {json.dumps(value)[:80]}", expected="a text there"
        )
    return value


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file behind its header."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    begin = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise complaint(path, begin, found=str(error), expected="a row of CSV") from error
        if header is None:
            header = _header(path, cells)
        else:
            yield _row(path, header, cells, line=begin)
        begin = reader.line_num + 1


def tsv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a TSV file behind its header."""
    header: list[str] | None = None
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if header is None:
            header = _header(path, line.split("\t"))
        else:
            yield _row(path, header, line.split("\t") if line else [], line=number)


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names) or not any(names):
        raise complaint(path, 1, found=f"the header {names}", expected="distinct column names")
    return names


def _row(path: Path, header: Sequence[str], cells: Sequence[str], *, line: int) -> Row:
    if not cells or (len(cells) == 1 < len(header) and not cells[0].strip()):
        return Row(line, None)
    if len(cells) != len(header):
        raise complaint(
            path,
            line,
            found=f"{len(cells)} cells",
            expected=f"{len(header)}, as in the header: {', '.join(header)}",
        )
    return Row(line, dict(zip(header, cells, strict=True)))


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file of JSON lines."""
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if not line.strip():
            yield Row(number, None)
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise complaint(path, number, found=str(error), expected="one JSON object") from error
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise complaint(path, number, found=f"a JSON {kind}", expected="one JSON object")
        yield Row(number, value)
