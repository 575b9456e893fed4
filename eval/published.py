"""The score rows behind a report's figures: small enough to lie beside them.

A report keeps the rows that its figures rest on, so that each can be computed again when the
scores and pictures are long gone. CLIP distances are left out: they follow from the similarities.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from eval.artifacts import PROMPT_SCORING, read_table
from eval.metrics import COMPLEMENT
from eval.report_rows import Measure
from launch.manifest import write_parquet

ROWS: Final = "rows.parquet"
"""File of a report."""

ROWS_SCHEMA: Final = pa.schema(
    [
        pa.field("metric", pa.string(), nullable=False),
        pa.field("prompt_style", pa.string(), nullable=False),
        pa.field("scoring", pa.string()),
        pa.field("axis", pa.string()),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("model_seed", pa.int64(), nullable=False),
        pa.field("samples_seen", pa.int64(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ],
    metadata={"captionmix.artifact": "report", "captionmix.version": "1"},
)
"""As in `scores.parquet`, without the name of the picture. `claims_held` is a share in [0, 1],
`clip_similarity` 100 x cosine."""


def published_rows(scores: pa.Table, measures: Collection[Measure]) -> pa.Table:
    """Return the rows of some measures, sorted so that like values lie together.

    Args:
        scores: Table of a scores artifact.
        measures: What the report publishes. A scoring text that is the prompt itself goes by the
            prompt's style, as it does there.
    """
    own = pc.equal(scores["scoring"], PROMPT_SCORING)
    scoring = pc.if_else(own, scores["prompt_style"], scores["scoring"])
    table = scores.set_column(scores.schema.get_field_index("scoring"), "scoring", scoring)
    keep = None
    for measure in measures:
        where = pc.equal(table["metric"], COMPLEMENT.get(measure.metric, measure.metric))
        where = pc.and_(where, pc.equal(table["prompt_style"], measure.style))
        for name in ("scoring", "axis"):
            wanted = getattr(measure, name)
            same = pc.is_null(table[name]) if wanted is None else pc.equal(table[name], wanted)
            where = pc.and_(where, pc.fill_null(same, False))
        keep = where if keep is None else pc.or_(keep, where)
    chosen = table.slice(0, 0) if keep is None else table.filter(keep)
    # The prompt as scoring text may have been stored under both of its names.
    key = [name for name in ROWS_SCHEMA.names if name != "value"]
    chosen = chosen.select(ROWS_SCHEMA.names).group_by(key, use_threads=False)
    chosen = chosen.aggregate([("value", "first")]).rename_columns(ROWS_SCHEMA.names)
    return chosen.cast(ROWS_SCHEMA).sort_by([(name, "ascending") for name in key])


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write the rows."""
    write_parquet(path, rows.cast(ROWS_SCHEMA))


def read_rows(path: Path) -> pa.Table:
    """Read rows that a report has kept, or the table of a scores artifact.

    Raises:
        ArtifactError: The file is absent, unreadable, or has other columns.
    """
    return read_table(path, schema=ROWS_SCHEMA)
