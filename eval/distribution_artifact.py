"""The artifact of `eval distribution`: its tables, reader and writer. Free of torch.

`distances.parquet` holds one row per arm, training seed, prompt style and metric, and
`differences.parquet` one per pair of arms; `model_seed` null is the mean over training seeds.
`sizes.parquet` tells how FID depends on the number of pictures, `left_out.parquet` every statistic
without each group of prompts, from which all intervals follow. `features/*.safetensors` and
`pictures.parquet` keep the features, so that another statistic needs no network. `summary.txt` is
for a terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from eval.artifacts import read_table
from launch.manifest import Manifest, read_manifest, write_parquet

DISTRIBUTION = "distribution"
DISTRIBUTION_VERSION = 1

METRICS = ("fid", "fid_infinity", "cmmd")
"""FID of all pictures, what it would be of infinitely many, and the unbiased CMMD."""

SUMMARY = "summary.txt"

SAYS_NOTHING = (
    "These distances compare sets of pictures and say nothing about prompt following: pictures "
    "shuffled among their prompts would have the same."
)


def _schema(fields: Sequence[tuple[str, pa.DataType]], *, nullable: Sequence[str]) -> pa.Schema:
    """Name the contract in the schema's own metadata, nullability in its fields."""
    return pa.schema(
        [pa.field(name, kind, nullable=name in nullable) for name, kind in fields],
        metadata={
            "captionmix.artifact": DISTRIBUTION,
            "captionmix.version": str(DISTRIBUTION_VERSION),
        },
    )


_NUMBERS = [
    ("model_seed", pa.int64()),
    ("style", pa.string()),
    ("metric", pa.string()),
    ("n", pa.int64()),
    ("n_reference", pa.int64()),
    ("num_prompts", pa.int64()),
    ("value", pa.float64()),
    ("low", pa.float64()),
    ("high", pa.float64()),
    ("standard_error", pa.float64()),
    ("method", pa.string()),
    ("with_seeds_low", pa.float64()),
    ("with_seeds_high", pa.float64()),
]
_MAY_BE_NULL = ("model_seed", "with_seeds_low", "with_seeds_high")

DISTANCES_SCHEMA = _schema([("arm", pa.string()), *_NUMBERS], nullable=_MAY_BE_NULL)
"""`n` counts the pictures of one model. `low` and `high` are given the trained models; the interval
that includes training seeds is there from four seeds on."""

DIFFERENCES_SCHEMA = _schema(
    [("arm", pa.string()), ("than", pa.string()), *_NUMBERS], nullable=_MAY_BE_NULL
)
"""`value` is that of `arm` less that of `than`; below zero, `arm` lies nearer to the reference."""

SIZES_SCHEMA = _schema(
    [
        ("arm", pa.string()),
        ("model_seed", pa.int64()),
        ("style", pa.string()),
        ("num_parts", pa.int64()),
        ("n", pa.float64()),
        ("n_reference", pa.float64()),
        ("fid", pa.float64()),
        ("is_fitted", pa.bool_()),
    ],
    nullable=(),
)
"""FID, a mean over `num_parts` parts of `n` pictures each (a harmonic mean)."""

LEFT_OUT_SCHEMA = _schema(
    [
        ("arm", pa.string()),
        ("model_seed", pa.int64()),
        ("style", pa.string()),
        ("metric", pa.string()),
        ("group", pa.int64()),
        ("value", pa.float64()),
    ],
    nullable=(),
)

PICTURES_SCHEMA = _schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("picture_id", pa.string()),
        ("pair_id", pa.string()),
        ("group", pa.int64()),
        ("arm", pa.string()),
        ("model_seed", pa.int64()),
        ("style", pa.string()),
        ("seed", pa.int64()),
    ],
    nullable=("arm", "model_seed", "style", "seed"),
)
"""Whose feature every row of `file` is; `arm` is null for reference pictures."""

TABLES = {
    "distances": DISTANCES_SCHEMA,
    "differences": DIFFERENCES_SCHEMA,
    "sizes": SIZES_SCHEMA,
    "left_out": LEFT_OUT_SCHEMA,
    "pictures": PICTURES_SCHEMA,
}


@dataclass(frozen=True)
class Distribution:
    """Opened distances between distributions."""

    manifest: Manifest
    distances: pa.Table
    differences: pa.Table
    sizes: pa.Table
    left_out: pa.Table
    pictures: pa.Table


def open_distribution(folder: Path | str) -> Distribution:
    """Open complete distances between distributions."""
    folder = Path(folder)
    manifest = read_manifest(folder, artifact=DISTRIBUTION, version=DISTRIBUTION_VERSION)
    tables = {
        name: read_table(folder / f"{name}.parquet", schema=schema)
        for name, schema in TABLES.items()
    }
    return Distribution(manifest=manifest, **tables)


def write_tables(
    folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, pictures: pa.Table
) -> list[str]:
    """Write every table, and return the file names.

    Args:
        folder: Folder of the artifact.
        rows: Rows of the tables of numbers, by table.
        pictures: Whose feature every row of a file is.
    """
    tables = {name: pa.Table.from_pylist(rows[name], schema=TABLES[name]) for name in rows}
    for name, table in (*tables.items(), ("pictures", pictures)):
        write_parquet(folder / f"{name}.parquet", table)
    return [f"{name}.parquet" for name in TABLES]
