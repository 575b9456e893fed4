"""A table of a page: what is shown, rounded, and what its CSV holds, at full precision."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.intervals import Interval
from eval.words import MINUS, NOTHING, number


@dataclass(frozen=True)
class Value:
    """One cell of a shown table."""

    text: str
    """What is shown."""

    sort: float | str | None = None
    """What the column is sorted by; None sorts by the text."""

    note: str = ""
    """Smaller text behind it."""

    look: str = ""
    """CSS class."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: shown columns and rows, and the records of its CSV."""

    name: str
    """File name without suffix."""

    title: str
    """What it holds, shown as its caption."""

    columns: list[str]
    rows: list[list[Value]]
    numeric: frozenset[int] = frozenset()
    """Columns that are set flush right."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the CSV, one per number where it has uncertainty."""

    def csv(self) -> bytes:
        """Return the CSV: full precision, empty where there is nothing."""
        out = io.StringIO()
        names = list(dict.fromkeys(key for record in self.records for key in record))
        writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
        writer.writeheader()
        for record in self.records:
            writer.writerow({key: _exact(value) for key, value in record.items()})
        return out.getvalue().encode()

    @property
    def data_uri(self) -> str:
        """Return the CSV as a link that works without a network."""
        return "data:text/csv;base64," + base64.b64encode(self.csv()).decode()


def _exact(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return repr(float(value)) if np.isfinite(value) else ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        # Spreadsheets run such a cell as a formula; captions come from anywhere.
        return "'" + value
    return value


def ends(interval: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """Return an interval's ends as two columns."""
    if interval is None:
        return {f"{prefix}low": None, f"{prefix}high": None}
    return {f"{prefix}low": interval.low, f"{prefix}high": interval.high}


def facts_table(
    facts: Mapping[str, Mapping[str, Any]], *, name: str, title: str, first: str
) -> Table:
    """Make a table of nested facts, one row per number or text."""
    rows, records = [], []
    for owner, nested in facts.items():
        for key, value in flatten(nested):
            rows.append([Value(owner), Value(key), Value(shown_fact(value))])
            records.append({first: owner, "quantity": key, "value": value})
    return Table(
        name=name, title=title, columns=[first, "quantity", "value"], rows=rows, records=records
    )


def matrix_table(
    facts: Mapping[str, Mapping[str, Any]], *, name: str, title: str, first: str
) -> Table:
    """Make a table of like facts about several owners: a row per fact, a column per owner."""
    leaves = {owner: dict(flatten(nested)) for owner, nested in facts.items()}
    quantities = list(dict.fromkeys(key for found in leaves.values() for key in found))
    return Table(
        name=name,
        title=title,
        columns=["quantity", *leaves],
        rows=[
            [Value(q), *(Value(shown_fact(found.get(q))) for found in leaves.values())]
            for q in quantities
        ],
        records=[
            {first: owner, "quantity": key, "value": value}
            for owner, found in leaves.items()
            for key, value in found.items()
        ],
    )


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested JSON with readable names; lists of plain values stay whole."""
    if isinstance(value, Mapping):
        found = []
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            found += flatten(inner, f"{prefix}, {name}" if prefix else name)
        return found
    if isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
        found = []
        for i, inner in enumerate(value):
            found += flatten(inner, f"{prefix} {i + 1}")
        return found
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(shown_fact(v) for v in value))]
    return [(prefix, value)]


def shown_fact(value: Any) -> str:
    """Show one value of a JSON file in few digits."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if np.isinf(value):
            return number(value, 0)
        case float():
            return f"{value:.4g}".replace("-", MINUS)
        case other:
            return str(other)
