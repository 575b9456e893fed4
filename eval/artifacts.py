"""Artifacts of eval: the judge, the scores and the caption measurements. Free of torch.

A *judge* is what scores pictures: a CLIP and, where claims are known, a recogniser, each with its
measured quality. *Scores* hold one row per (generation, metric, scoring text, axis), raw and never
averaged, so that every published figure can be computed from them again. A *captions report* holds
the measured quality, length and regularities of captions, what gates set aside, and an estimate of
what captions invent; version 1 had neither of the last two, nor tokens, and is refused.

A *plan* lists designs of a study and what each detects.

Readers check kind, version and schema before they hand out a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval import metrics
from launch.errors import ArtifactError
from launch.manifest import Manifest, digest_file, read_manifest, write_json, write_parquet

JUDGE = "judge"
JUDGE_VERSION = 1
SCORES = "scores"
SCORES_VERSION = 1
CAPTIONS_REPORT = "captions_report"
CAPTIONS_REPORT_VERSION = 2
PLAN = "plan"
PLAN_VERSION = 1

PICTURES_ARM = "(pictures)"
"""Arm of the test pictures themselves: the highest scores that a model could hope for."""

RECONSTRUCTIONS_ARM = "(reconstructions)"
"""Arm of the test pictures through the autoencoder: the highest that these latents allow."""

PROMPT_SCORING = "prompt"
"""Value of `scoring` where the prompt itself scored the picture."""

BY_SENTENCES = "clip_similarity_sentences"
"""Metric of texts that may be longer than CLIP's context."""

METRICS = tuple(metric.name for metric in metrics.METRICS)
"""`clip_similarity` 100 cos; `clip_similarity_sentences` its mean over the sentences of the text,
written where any text of the run is cut; `clip_distance` 1 - cos in [0, 2]; `claims_held` share of
the checked claims that hold, where an abstention does not hold; `claims_total` how many were
checked; `claims_abstained` how many of them the recogniser would not judge. Of these three, `axis`
null is all measurable axes together. `geneval_correct` 1 where all that the prompt says holds in
the detector's boxes, else 0, `axis` its task; `words_exact` share of the words to be displayed that
are read exactly; `words_error_rate` their mean character error rate, in [0, 1]. Of `eval judge`:
`judge_yes` 1 where a judge says that the picture shows what the prompt asks for, else 0;
`questions_yes` share of its questions answered yes, gated by their parents, `axis` their kind;
`questions_yes_ancestors` the same gated by all ancestors; `phrases_yes` the product over the
prompt's noun phrases of the probability of yes."""


def _schema(fields: Sequence[tuple[str, pa.DataType]], *, name: str, version: int) -> pa.Schema:
    """Name the contract in the schema's own metadata, nullability in its fields."""
    nullable = {
        "scoring", "axis", "precision", "recall",
        "agreement", "margin", "estimate", "num_claims", "num_false",
    }  # fmt: skip
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


DESIGNS_SCHEMA = _schema(
    [
        ("prompts", pa.int64()),
        ("images", pa.int64()),
        ("seeds", pa.int64()),
        ("includes_seeds", pa.bool_()),
        ("detectable", pa.float64()),
        ("detectable_low", pa.float64()),
        ("detectable_high", pa.float64()),
        ("power", pa.float64()),
        ("pictures", pa.int64()),
        ("models", pa.int64()),
    ],
    name=PLAN,
    version=PLAN_VERSION,
)
"""Designs of a plan: what each detects, the range that the uncertainty of the components leaves,
its power for the difference asked for, and its cost over all arms."""

TOKENS_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("sample_id", pa.string()),
        ("annotated", pa.bool_()),
        ("encoder", pa.string()),
        ("num_tokens", pa.int64()),
        ("max_tokens", pa.int64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""Length of every caption for every text encoder; longer than `max_tokens` is cut."""

SENTENCES_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("sample_id", pa.string()),
        ("sentence", pa.int64()),
        ("text", pa.string()),
        ("num_content_words", pa.int64()),
        ("agreement", pa.float64()),
        ("margin", pa.float64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""Signals of invention, one row per sentence; null where there are no samples or no judge."""

ESTIMATES_SCHEMA = _schema(
    [
        ("kind", pa.string()),
        ("sample_id", pa.string()),
        ("agreement", pa.float64()),
        ("margin", pa.float64()),
        ("num_claims", pa.int64()),
        ("num_false", pa.int64()),
        ("estimate", pa.float64()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""One row per caption: its signals, what is known of its claims, and its estimated share of false
claims, held out where the truth is known and else carried over from another report."""

OVERLAP_SCHEMA = _schema(
    [
        ("list", pa.string()),
        ("style", pa.string()),
        ("prompt_id", pa.string()),
        ("kind", pa.string()),
        ("num_captions", pa.int64()),
        ("num_words", pa.int64()),
        ("num_runs", pa.int64()),
        ("num_found", pa.int64()),
        ("is_exact", pa.bool_()),
    ],
    name=CAPTIONS_REPORT,
    version=CAPTIONS_REPORT_VERSION,
)
"""What of each prompt stands in the training captions of each kind; see `eval.overlap`."""

OVERLAP_FILE = "overlap.parquet"
"""There where prompts were given."""


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


@dataclass(frozen=True, kw_only=True)
class CaptionsReport:
    """Caption measurements, as opened or about to be written."""

    axes: pa.Table
    claims: pa.Table
    lengths: pa.Table
    regularities: dict[str, Any]
    examples: dict[str, Any]
    tokens: pa.Table = field(default_factory=TOKENS_SCHEMA.empty_table)
    sentences: pa.Table = field(default_factory=SENTENCES_SCHEMA.empty_table)
    estimates: pa.Table = field(default_factory=ESTIMATES_SCHEMA.empty_table)
    overlap: pa.Table = field(default_factory=OVERLAP_SCHEMA.empty_table)
    gates: dict[str, Any] = field(default_factory=dict)
    telling_apart: dict[str, Any] = field(default_factory=dict)
    hallucination: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
    """None while the folder is being made."""


CAPTIONS_TABLES = {
    "axes": AXES_SCHEMA,
    "claims": CLAIMS_SCHEMA,
    "estimates": ESTIMATES_SCHEMA,
    "lengths": LENGTHS_SCHEMA,
    "sentences": SENTENCES_SCHEMA,
    "tokens": TOKENS_SCHEMA,
}
CAPTIONS_FACTS = ("examples", "gates", "hallucination", "regularities", "telling_apart")
"""What a captions report holds: tables as parquet, facts as JSON objects."""


def open_judge(folder: Path | str) -> Judge:
    """Open a complete judge.

    Raises:
        ArtifactError: The folder is no complete judge, or a file of it has changed since.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=JUDGE, version=JUDGE_VERSION)
    # A judge is a few megabytes, and scores are those of the judge that their manifest names.
    for part in manifest.parts:
        path = folder / part.name
        if not path.is_file() or digest_file(path) != part.digest:
            raise ArtifactError(
                f"{path}: is {'not what' if path.is_file() else 'missing, though'} the manifest "
                f"names (digest {part.digest[:12]}); a changed judge is another judge. Restore "
                "the file, or fit the judge again into an empty folder."
            )
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
    tables = {
        name: read_table(folder / f"{name}.parquet", schema=schema)
        for name, schema in CAPTIONS_TABLES.items()
    }
    if any(part.name == OVERLAP_FILE for part in manifest.parts):
        tables["overlap"] = read_table(folder / OVERLAP_FILE, schema=OVERLAP_SCHEMA)
    facts = {name: _read_json(folder / f"{name}.json") for name in CAPTIONS_FACTS}
    return CaptionsReport(manifest=manifest, **tables, **facts)


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


def write_captions_report(folder: Path, report: CaptionsReport) -> list[str]:
    """Write the tables and facts of a captions report and return their file names."""
    for name, schema in CAPTIONS_TABLES.items():
        write_parquet(folder / f"{name}.parquet", getattr(report, name).cast(schema))
    for name in CAPTIONS_FACTS:
        write_json(folder / f"{name}.json", getattr(report, name))
    names = [f"{n}.parquet" for n in CAPTIONS_TABLES] + [f"{n}.json" for n in CAPTIONS_FACTS]
    if report.overlap.num_rows:
        write_parquet(folder / OVERLAP_FILE, report.overlap.cast(OVERLAP_SCHEMA))
        names.append(OVERLAP_FILE)
    return sorted(names)


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
