"""Prompts and what became of their rewrites: tables, reader and writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from launch.manifest import Manifest, read_manifest, write_parquet
from t2i.artifacts.contracts import PROMPTS, VERSIONS, read_table, schema_of

PROMPTS_SCHEMA = schema_of(
    PROMPTS,
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("claims", pa.string(), nullable=True),
        pa.field("category", pa.string(), nullable=True),
        pa.field("questions", pa.string(), nullable=True),
    ],
)

ITEMS_SCHEMA = schema_of(
    PROMPTS,
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=True),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("rejected", pa.string(), nullable=True),
    ],
)
"""Where every item of a prompt list stood, and by which rule it became no prompt."""

NOTES_SCHEMA = schema_of(
    PROMPTS,
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=True),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
)
"""What a prompt list holds that cannot be used as it is, though its prompt can."""

REWRITES_SCHEMA = schema_of(
    PROMPTS,
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("original", pa.string(), nullable=False),
        pa.field("rewrite", pa.string(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field(
            "rules", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False
        ),
    ],
)


class Prompt(NamedTuple):
    """One row of a prompt table."""

    prompt_id: str
    prompt: str
    style: str
    pair_id: str
    claims: str | None
    """JSON of what the prompt text says, never more; None where no claims are known. A rewritten
    prompt of a list has those of the original, which its pictures are judged by."""

    category: str | None = None
    """Part of its list that it belongs to, by the list's own name."""

    questions: str | None = None
    """JSON of the questions that a picture of it is asked (`t2i.questions`)."""


@dataclass(frozen=True)
class Prompts:
    """A prompts artifact: `prompts.parquet`.

    Rows with one `pair_id` speak of the same picture in different styles. Of a public list there
    are also `items.parquet` and `notes.parquet`: where each item stood, and what was wrong with it.
    """

    manifest: Manifest
    table: pa.Table

    @property
    def styles(self) -> list[str]:
        """Return the styles, in the order in which they first appear."""
        return list(dict.fromkeys(self.table["style"].to_pylist()))

    @property
    def pair_ids(self) -> list[str]:
        """Return the pairs, each once, in the order of the table: a shorter choice nests."""
        return list(dict.fromkeys(self.table["pair_id"].to_pylist()))

    @cached_property
    def rows(self) -> list[Prompt]:
        """Return every row."""
        columns = (self.table[name].to_pylist() for name in Prompt._fields)
        return [Prompt(*row) for row in zip(*columns, strict=True)]

    @property
    def rewritten_from(self) -> dict[str, str]:
        """Return, for each style that rewrites another, that other one."""
        recipe = self.manifest.recipe
        found = dict(recipe.get("rewritten_before", {}))
        if recipe.get("verb") == "t2i upsample":
            found[recipe["name"]] = recipe["style"]
        if recipe.get("verb") == "t2i prompt-list":
            first, *others = self.styles
            found |= dict.fromkeys(others, first)
        return {style: of for style, of in found.items() if {style, of} <= set(self.styles)}

    def original_of(self, style: str) -> str:
        """Return the style in which somebody asked for what `style` says in other words."""
        of = self.rewritten_from
        while style in of:
            style = of[style]
        return style

    def asked_for(self) -> dict[str, str]:
        """Return by `prompt_id` what somebody asked for: of a rewrite, the original's words."""
        texts = {(row.pair_id, row.style): row.prompt for row in self.rows}
        original = {style: self.original_of(style) for style in self.styles}
        return {
            row.prompt_id: texts.get((row.pair_id, original[row.style]), row.prompt)
            for row in self.rows
        }

    def texts(self, style: str) -> dict[str, str]:
        """Return the prompts of one style by `pair_id`."""
        return {row.pair_id: row.prompt for row in self.rows if row.style == style}


def open_prompts(folder: Path) -> Prompts:
    """Open a prompts artifact."""
    manifest = read_manifest(folder, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    return Prompts(manifest, read_table(Path(folder) / "prompts.parquet", PROMPTS_SCHEMA))


def write_prompts(path: Path, rows: Sequence[Prompt]) -> None:
    """Write `prompts.parquet`."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Prompt._fields]
    write_parquet(path, pa.table(columns, schema=PROMPTS_SCHEMA))


class Attempt(NamedTuple):
    """One text that a rewriter gave for a prompt."""

    pair_id: str
    original: str
    rewrite: str
    attempt: int
    """Counted from 1."""

    rules: tuple[str, ...]
    """Rules that it breaks; none means that it was taken."""


def write_attempts(path: Path, rows: Sequence[Attempt]) -> None:
    """Write `rewrites.parquet`, which lies beside the prompts that `t2i upsample` makes."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Attempt._fields]
    write_parquet(path, pa.table(columns, schema=REWRITES_SCHEMA))


def read_attempts(path: Path) -> list[Attempt]:
    """Read `rewrites.parquet`."""
    table = read_table(path, REWRITES_SCHEMA)
    columns = (table[name].to_pylist() for name in Attempt._fields)
    return [
        Attempt(pair_id, original, rewrite, attempt, tuple(rules))
        for pair_id, original, rewrite, attempt, rules in zip(*columns, strict=True)
    ]
