"""Artifacts of eval: the judge, the scores and the caption measurements. Free of torch.

A *judge* is what scores pictures: a CLIP and, where claims are known, a recogniser, each with its
measured quality. *Scores* hold one row per (generation, metric, scoring text, axis), raw and never
averaged, so that every published figure can be computed from them again. A *captions report* holds
the measured quality, length and regularities of captions.

Readers check kind, version and schema before they hand out a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from launch.errors import ArtifactError
from launch.manifest import Manifest, read_manifest, write_json, write_parquet

JUDGE = "judge"
JUDGE_VERSION = 1
SCORES = "scores"
SCORES_VERSION = 1
CAPTIONS_REPORT = "captions_report"
CAPTIONS_REPORT_VERSION = 1

PICTURES_ARM = "(pictures)"
"""Arm of the test pictures themselves: the highest scores that a model could hope for."""

RECONSTRUCTIONS_ARM = "(reconstructions)"
"""Arm of the test pictures through the autoencoder: the highest that these latents allow."""

PROMPT_SCORING = "prompt"
"""Value of `scoring` where the prompt itself scored the picture."""

METRICS = (
    "clip_similarity",
    "clip_distance",
    "claims_held",
    "claims_total",
    "claims_abstained",
)
"""`clip_similarity` 100 cos; `clip_distance` 1 - cos in [0, 2]; `claims_held` share of the
checked claims that hold, where an abstention does not hold; `claims_total` how many were checked;
`claims_abstained` how many of them the recogniser would not judge. Of the last three, `axis` null
is all measurable axes together."""


def _schema(fields: Sequence[tuple[str, pa.DataType]], *, name: str, version: int) -> pa.Schema:
    """Name the contract in the schema's own metadata, nullability in its fields."""
    nullable = {"scoring", "axis", "precision", "recall"}
    return pa.schema(
        [pa.field(key, kind, nullable=key in nullable) for key, kind in fields],
        metadata={"captionmix.artifact": name, "captionmix.version": str(version)},
    )


SCORES_SCHEMA = _schema(
    [
        ("generation_id", pa.string()),
        ("arm", pa.string()),
        ("model_seed", pa.int64()),
        ("seed", pa.int64()),
        ("samples_seen", pa.int64()),
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt_style", pa.string()),
        ("metric", pa.string()),
        ("scoring", pa.string()),
        ("axis", pa.string()),
        ("value", pa.float64()),
    ],
    name=SCORES,
    version=SCORES_VERSION,
)
"""`model_seed` and `seed` are -1 and `samples_seen` 0 for the two ceilings."""

SCORES_SORT = [
    ("arm", "ascending"),
    ("model_seed", "ascending"),
    ("samples_seen", "ascending"),
    ("prompt_style", "ascending"),
    ("pair_id", "ascending"),
    ("seed", "ascending"),
    ("generation_id", "ascending"),
    ("metric", "ascending"),
    ("scoring", "ascending"),
    ("axis", "ascending"),
]
"""Order of the rows of `scores.parquet`; it leaves no two rows tied."""

AXES_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("axis", pa.string()),
        ("annotated", pa.bool_()),
        ("precision", pa.float64()),
        ("recall", pa.float64()),
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
        ("num_pictures", pa.int64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""Precision is null where nothing was said, recall where nothing was there to say. Axis `all`
pools the others."""

CLAIMS_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("sample_id", pa.string()),
        ("annotated", pa.bool_()),
        ("axis", pa.string()),
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""The rows that `axes.parquet` sums: one per caption and axis."""

LENGTHS_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("sample_id", pa.string()),
        ("annotated", pa.bool_()),
        ("num_words", pa.int64()),
        ("num_characters", pa.int64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)


@dataclass(frozen=True)
class Judge:
    """An opened judge: where its two parts lie and how good they are."""

    manifest: Manifest
    folder: Path
    quality: dict[str, Any]

    @property
    def clip_folder(self) -> Path:
        """Folder of the CLIP, in the form that open_clip itself loads as `local-dir:`."""
        return self.folder / "clip"

    @property
    def recogniser_folder(self) -> Path | None:
        """Folder of the recogniser, or None where no claims were known."""
        folder = self.folder / "recogniser"
        return folder if (folder / "config.json").is_file() else None

    @property
    def measurable(self) -> dict[str, bool]:
        """Whether each axis is read well enough on reconstructions; empty without recogniser."""
        return {axis: bool(value) for axis, value in self.quality.get("measurable", {}).items()}


@dataclass(frozen=True)
class Scores:
    """Opened scores: one row per (generation, metric, scoring, axis)."""

    manifest: Manifest
    table: pa.Table


@dataclass(frozen=True)
class CaptionsReport:
    """Opened caption measurements."""

    manifest: Manifest
    axes: pa.Table
    lengths: pa.Table
    claims: pa.Table
    regularities: dict[str, Any]
    examples: dict[str, Any]


def open_judge(folder: Path | str) -> Judge:
    """Open a complete judge.

    Raises:
        ArtifactError: The folder is no complete judge, or its `quality.json` is missing.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=JUDGE, version=JUDGE_VERSION)
    return Judge(manifest=manifest, folder=folder, quality=_read_json(folder / "quality.json"))


def write_quality(folder: Path, quality: dict[str, Any]) -> None:
    """Write how good a judge is."""
    write_json(folder / "quality.json", quality)


def open_scores(folder: Path | str) -> Scores:
    """Open complete scores and check their schema and that no row occurs twice."""
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=SCORES, version=SCORES_VERSION)
    path = folder / "scores.parquet"
    table = check_scores(read_table(path, schema=SCORES_SCHEMA), where=str(path))
    return Scores(manifest=manifest, table=table)


def open_captions_report(folder: Path | str) -> CaptionsReport:
    """Open complete caption measurements."""
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=CAPTIONS_REPORT, version=CAPTIONS_REPORT_VERSION)
    return CaptionsReport(
        manifest=manifest,
        axes=read_table(folder / "axes.parquet", schema=AXES_SCHEMA),
        lengths=read_table(folder / "lengths.parquet", schema=LENGTHS_SCHEMA),
        claims=read_table(folder / "claims.parquet", schema=CLAIMS_SCHEMA),
        regularities=_read_json(folder / "regularities.json"),
        examples=_read_json(folder / "examples.json"),
    )


def scores_table(columns: dict[str, Sequence[Any]]) -> pa.Table:
    """Make a table of score rows from columns, in the order of `SCORES_SORT`.

    Raises:
        ArtifactError: A column is missing, a metric has no such name, or a value is not finite.
    """
    table = pa.table(columns, schema=SCORES_SCHEMA)
    return check_scores(table.sort_by(SCORES_SORT), where="scores")


def check_scores(table: pa.Table, *, where: str) -> pa.Table:
    """Return the sorted table if no row occurs twice and every value is finite.

    Raises:
        ArtifactError: Naming the first row that breaks the rule.
    """
    import pyarrow.compute as pc

    unknown = sorted(set(pc.unique(table["metric"]).to_pylist()) - set(METRICS))
    if unknown:
        raise ArtifactError(f"{where}: unknown metric {unknown[0]!r}; known: {', '.join(METRICS)}")
    finite = pc.is_finite(table["value"])
    if table.num_rows and not pc.all(finite).as_py():
        row = table.filter(pc.invert(finite)).slice(0, 1).to_pylist()[0]
        raise ArtifactError(
            f"{where}: `value` of generation {row['generation_id']}, metric {row['metric']} is "
            f"{row['value']}; every score needs a finite number. Score the generations again."
        )
    key = ["generation_id", "metric", "scoring", "axis"]
    counted = table.group_by(key).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted["count_all"], 1))
    if twice.num_rows:
        row = twice.slice(0, 1).to_pylist()[0]
        raise ArtifactError(
            f"{where}: generation {row['generation_id']} has {row['count_all']} rows for metric "
            f"{row['metric']}, scoring {row['scoring']}, axis {row['axis']}; expected one. "
            "Score the generations again into an empty folder."
        )
    return table


def write_scores(path: Path, table: pa.Table) -> None:
    """Write score rows, sorted and checked."""
    write_parquet(
        path, check_scores(table.cast(SCORES_SCHEMA).sort_by(SCORES_SORT), where=str(path))
    )


def write_captions_report(
    folder: Path,
    *,
    axes: pa.Table,
    lengths: pa.Table,
    claims: pa.Table,
    regularities: dict[str, Any],
    examples: dict[str, Any],
) -> list[str]:
    """Write the payload of a captions report and return its file names."""
    write_parquet(folder / "axes.parquet", axes.cast(AXES_SCHEMA))
    write_parquet(folder / "lengths.parquet", lengths.cast(LENGTHS_SCHEMA))
    write_parquet(folder / "claims.parquet", claims.cast(CLAIMS_SCHEMA))
    write_json(folder / "regularities.json", regularities)
    write_json(folder / "examples.json", examples)
    return [
        "axes.parquet",
        "claims.parquet",
        "examples.json",
        "lengths.parquet",
        "regularities.json",
    ]


def read_table(path: Path, *, schema: pa.Schema) -> pa.Table:
    """Read a parquet file that must have this schema.

    Raises:
        ArtifactError: The file is absent, unreadable, or has other columns.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path}: cannot be read as parquet ({error}). Make it again."
        ) from error
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ArtifactError(
            f"{path}: column {missing[0]!r} is missing; expected {', '.join(schema.names)}. "
            "Make the artifact again with this version of captionmix."
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ArtifactError(
            f"{path}: a column has another type than promised ({error})."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of an artifact."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as JSON ({error}). Make it again.") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value
