"""Scores by questions: the answers that lie beside them. Free of torch.

`eval judge` writes a scores artifact. Beside `scores.parquet`, whose rows a report reads like any
others, it has `answers.parquet`: every question about every picture, what was answered, and how
that was read. All scores follow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from eval.artifacts import SCORES, SCORES_SCHEMA, SCORES_VERSION, read_table
from launch.manifest import write_parquet

ANSWERS_FILE: Final = "answers.parquet"

WHOLE: Final = 0
"""Number of the question about the whole prompt; those of lists begin at 1."""

LONGEST_ANSWER: Final = 500
"""Characters kept of an answer; the ledger has it whole."""

ANSWERS_SCHEMA: Final = pa.schema(
    [
        *(SCORES_SCHEMA.field(name) for name in SCORES_SCHEMA.names[:8]),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("probability", pa.float64()),
    ],
    metadata={"captionmix.artifact": SCORES, "captionmix.version": str(SCORES_VERSION)},
)
"""`number` is the question's in its prompt, 0 the whole prompt. A chat server's answers have
`answer`, its words, and `verdict`: yes, no, or the rule by which they are neither; a model that
gives probabilities has `probability`, that of yes."""

_SORT: Final = [("arm", "ascending"), ("model_seed", "ascending"), ("samples_seen", "ascending"),
                ("prompt_style", "ascending"), ("pair_id", "ascending"), ("seed", "ascending"),
                ("generation_id", "ascending"), ("number", "ascending")]  # fmt: skip


def answers_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make the table of answers from its rows, in a fixed order."""
    names = ANSWERS_SCHEMA.names
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table(columns, schema=ANSWERS_SCHEMA).sort_by(_SORT)


def write_answers(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `answers.parquet`."""
    write_parquet(path, answers_table(rows))


def read_answers(path: Path) -> pa.Table:
    """Read `answers.parquet`.

    Raises:
        ArtifactError: The file is absent, unreadable, or has other columns.
    """
    return read_table(path, schema=ANSWERS_SCHEMA)
