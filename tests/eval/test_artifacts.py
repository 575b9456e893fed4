"""Scores and caption measurements: what a reader refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from eval import artifacts
from launch.errors import ArtifactError


def columns(**changes: list[object]) -> dict[str, list[object]]:
    rows: dict[str, list[object]] = {
        "generation_id": ["b", "a"],
        "arm": ["real", "real"],
        "model_seed": [0, 0],
        "seed": [0, 0],
        "samples_seen": [64, 64],
        "pair_id": ["q", "p"],
        "prompt_id": ["y", "x"],
        "prompt_style": ["human", "human"],
        "metric": ["clip_similarity", "clip_similarity"],
        "scoring": ["prompt", "prompt"],
        "axis": [None, None],
        "value": [20.0, 30.0],
    }
    return {**rows, **changes}


def test_rows_are_sorted_whatever_their_order() -> None:
    table = artifacts.scores_table(columns())
    assert table["pair_id"].to_pylist() == ["p", "q"]
    again = {name: list(reversed(values)) for name, values in columns().items()}
    assert artifacts.scores_table(again).equals(table)


def test_a_score_given_twice_is_named() -> None:
    with pytest.raises(ArtifactError, match="generation a has 2 rows for metric clip_similarity"):
        artifacts.scores_table(columns(generation_id=["a", "a"]))


def test_the_same_metric_of_two_axes_is_not_given_twice() -> None:
    table = artifacts.scores_table(
        columns(
            generation_id=["a", "a"],
            metric=["claims_held", "claims_held"],
            scoring=[None, None],
            axis=[None, "objects"],
        )
    )
    assert table.num_rows == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ArtifactError, match="finite"):
        artifacts.scores_table(columns(value=[value, 1.0]))


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ArtifactError, match="'clip_score'"):
        artifacts.scores_table(columns(metric=["clip_score", "clip_similarity"]))


def test_a_table_without_a_promised_column_is_named(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "scores.parquet"
    pq.write_table(artifacts.scores_table(columns()).drop_columns(["seed"]), path)
    with pytest.raises(ArtifactError, match="column 'seed' is missing"):
        artifacts.read_table(path, schema=artifacts.SCORES_SCHEMA)


def test_scores_survive_writing_and_reading(tmp_path: Path) -> None:
    table = artifacts.scores_table(columns())
    artifacts.write_scores(tmp_path / "scores.parquet", table)
    read = artifacts.read_table(tmp_path / "scores.parquet", schema=artifacts.SCORES_SCHEMA)
    assert read.equals(table)
    assert read.schema.metadata[b"captionmix.artifact"] == b"scores"


def test_an_incomplete_judge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not complete"):
        artifacts.open_judge(tmp_path)


def test_precision_may_be_absent_and_counts_may_not() -> None:
    fields = {field.name: field.nullable for field in artifacts.AXES_SCHEMA}
    assert fields["precision"]
    assert not fields["tp"]
    assert isinstance(artifacts.AXES_SCHEMA, pa.Schema)


def test_artifacts_never_import_torch() -> None:
    code = "import sys, eval.artifacts, eval.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
