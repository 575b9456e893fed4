"""What an artifact is and how it was made, for a person to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launch.manifest import Manifest, is_complete, read_manifest
from launch.trace import Step, printable, read_steps

NUM_ROWS = 3
"""Rows shown of the first table."""

CURVE = "validation.json"
"""File in which a model's folder lists the validations of its training."""

_MAX_TEXT = 200


def show(folder: Path) -> int:
    """Print an artifact's manifest and its first rows, or a study's steps.

    Args:
        folder: An artifact's folder or a study's.

    Returns:
        0.

    Raises:
        ArtifactError: The folder is neither, or is incomplete.
    """
    steps = read_steps(folder)
    if steps is not None:
        _show_study(folder, steps)
        return 0
    made = read_manifest(folder)
    _show_facts(made)
    _show_settings(made)
    if made.inputs:
        _print(
            "inputs", ("role", "digest", "path"), ([i.role, i.digest, i.path] for i in made.inputs)
        )
    _show_counts(made)
    _show_parts(made)
    _show_curve(made)
    _show_rows(made)
    return 0


def _show_study(folder: Path, steps: Sequence[Step]) -> None:
    rows = []
    for step in steps:
        state = "not yet"
        if is_complete(step.folder):
            made = read_manifest(step.folder)
            state = f"{made.artifact} {made.digest[:12]}"
        rows.append([step.name, state, str(step.folder)])
    num_done = sum(row[1] != "not yet" for row in rows)
    title = f"{folder}: {num_done} of {len(rows)} steps complete"
    _print(title, ("step", "artifact", "folder"), rows)


def _show_facts(made: Manifest) -> None:
    commit = "not in a git checkout" if made.commit is None else made.commit[:12]
    if made.dirty:
        commit += ", with changes that are not committed"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(made.packages.items()))
    rows = [
        ["artifact", f"{made.artifact}, version {made.version}"],
        ["digest", made.digest],
        ["made by", made.command],
        ["commit", commit],
        ["packages", versions],
        ["payload", f"{len(made.parts):,} parts, {made.num_bytes / 2**20:,.1f} MiB"],
    ]
    _print(str(made.folder), ("", ""), rows)


def _show_settings(made: Manifest) -> None:
    settings = [[name, _text(value)] for name, value in sorted(made.config.items())]
    extra = [
        [name, _text(value)]
        for name, value in sorted(made.recipe.items())
        if name not in made.config
    ]
    if settings or extra:
        _print("settings", ("name", "value"), settings + extra)


def _show_counts(made: Manifest) -> None:
    rows = [[name, f"{count:,}", ""] for name, count in made.counts.items()]
    rows += [["rejected", f"{count:,}", rule] for rule, count in made.rejected.items()]
    if rows:
        _print("counts", ("count", "number", "rule"), rows)


def _show_parts(made: Manifest) -> None:
    num_shown = 8
    rows = [[p.name, f"{p.num_bytes:,}", p.digest] for p in made.parts[:num_shown]]
    if len(made.parts) > num_shown:
        rows.append([f"and {len(made.parts) - num_shown:,} more", "", ""])
    _print("parts", ("part", "bytes", "digest"), rows)


def _show_curve(made: Manifest) -> None:
    """Print the validations of a training, one row each, where an artifact lists them."""
    if CURVE not in {part.name for part in made.parts}:
        return
    rows = json.loads((made.folder / CURVE).read_text())
    if not isinstance(rows, list) or not rows:
        return  # another artifact's validation is no list of moments
    names = sorted(rows[0], key=lambda name: (name != "samples_seen", name))
    cells = [[_number(row.get(name)) for name in names] for row in rows]
    _print(CURVE, names, cells)


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_number, value))
    return f"{value:.4f}" if isinstance(value, float) else _text(value)


def _show_rows(made: Manifest) -> None:
    """Print the first rows of the artifact's first table, the index if there is one."""
    tables = sorted(
        (part.name for part in made.parts if part.name.endswith(".parquet")),
        key=lambda name: (name != "index.parquet", name),
    )
    for name in tables:
        num_rows, rows = _first_rows(made.folder / name)
        for number, row in enumerate(rows):
            cells = [[column, _text(value)] for column, value in row.items()]
            _print(f"{name}, row {number} of {num_rows:,}", ("column", "value"), cells)
        if rows:
            return


def _first_rows(path: Path) -> tuple[int, list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    first = next(file.iter_batches(batch_size=NUM_ROWS), None)
    return file.metadata.num_rows, [] if first is None else first.to_pylist()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _print(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose cells are text and never markup or control characters."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE,
        show_header=any(head),
        pad_edge=False,
    )
    for number, name in enumerate(head):
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # Nothing is cut where there is no terminal: output is then read by other programs.
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(table)
