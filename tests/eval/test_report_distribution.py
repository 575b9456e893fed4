"""The report's table of distances: every number of the artifact, and none of other pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eval.distribution_artifact import (
    PICTURES_SCHEMA,
    TABLES,
    Distribution,
    open_distribution,
    write_tables,
)
from eval.report_distribution import distribution_table, open_distances, sizes_table
from eval.words import MINUS, NOTHING
from launch.errors import ArtifactError
from launch.manifest import Input, Manifest, describe_parts, write_manifest
from t2i.artifacts import GENERATIONS_SCHEMA, Generations


def row(metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {
        "model_seed": None, "style": "human", "metric": metric, "n": 1024, "n_reference": 2544,
        "num_prompts": 256, "value": value, "low": value - 0.5, "high": value + 1,
        "standard_error": 0.3, "method": "jackknife over 20 groups of prompts",
        "with_seeds_low": None, "with_seeds_high": None, **more,
    }  # fmt: skip


ROWS: dict[str, list[dict[str, Any]]] = {
    "distances": [
        row("fid", 12.0, arm="real"),
        row("fid", 10.0, arm="dsc"),
        row("fid", 99.0, arm="dsc", model_seed=0),
        row("cmmd", 0.25, arm="real"),
        row("cmmd", 0.75, arm="dsc", with_seeds_low=0.5, with_seeds_high=1.0),
    ],
    "differences": [row("fid", -2.0, arm="dsc", than="real")],
    "sizes": [
        {
            "arm": "real",
            "model_seed": 0,
            "style": "human",
            "num_parts": 4,
            "n": 256.0,
            "n_reference": 636.0,
            "fid": 15.5,
            "is_fitted": is_fitted,
        }
        for is_fitted in (True, False)
    ],
    "left_out": [],
}


def manifest(folder: Path, digests: list[str], parts: list[str]) -> Manifest:
    return Manifest(
        artifact="distribution", version=1, counts={}, rejected={},
        recipe={"scorer": {"features": {"architecture": "open_clip ViT-B-32"}}},
        inputs=[Input(role="generations", path=f"runs/{d}", digest=d) for d in digests],
        parts=describe_parts(folder, parts), folder=folder,
    )  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> Distribution:
    parts = write_tables(tmp_path, ROWS, pictures=PICTURES_SCHEMA.empty_table())
    write_manifest(tmp_path, manifest(tmp_path, [of("a").manifest.digest], parts))
    return open_distribution(tmp_path)


def of(arm: str) -> Generations:
    made = Manifest(
        artifact="generations", version=1, recipe={"arm": arm}, inputs=[], counts={},
        rejected={}, parts=[], folder=Path("runs") / arm,
    )  # fmt: skip
    return Generations(made, GENERATIONS_SCHEMA.empty_table())


def texts(found: Distribution, arms: list[str]) -> list[list[str]]:
    return [
        [f"{v.text} {v.note}".strip() for v in r] for r in distribution_table(found, arms=arms).rows
    ]


def test_every_arm_and_difference_stands_with_its_interval_and_size(found: Distribution) -> None:
    table = distribution_table(found, arms=["real", "dsc"])
    assert "2,544 real pictures" in table.title
    assert "open_clip ViT-B-32" in table.title
    assert table.columns == [
        "prompt style",
        "distance",
        "pictures",
        "real",
        "dsc",
        f"dsc {MINUS} real",
    ]
    fid, cmmd = texts(found, ["real", "dsc"])
    assert fid == [
        "human",
        "FID",
        "1,024",
        "12 [11.5, 13]",
        "10 [9.5, 11]",
        f"{MINUS}2 [{MINUS}2.5, {MINUS}1]",
    ]
    assert cmmd[3:] == [f"0.25 [{MINUS}0.25, 1.25]", "0.75 [0.5, 1]", NOTHING]


@pytest.mark.parametrize(
    ("role", "said"),
    [("judge", "features of the judge's CLIP;"), (None, "a CLIP in a folder, weights 0123abcd;")],
)
def test_a_clip_in_a_folder_is_the_judges_only_where_it_was_the_judges(
    found: Distribution, role: str | None, said: str
) -> None:
    told = {"scorer": {"features": {"architecture": {"embed_dim": 64}, "weights": "0123abcd4567"}}}
    inputs = [] if role is None else [Input(role=role, path="runs/judge", digest="0" * 32)]
    other = replace(found, manifest=replace(found.manifest, recipe=told, inputs=inputs))
    assert said in distribution_table(other, arms=["real", "dsc"]).title


def test_a_difference_turns_with_the_order_of_the_arms(found: Distribution) -> None:
    assert texts(found, ["dsc", "real"])[0][-1] == "2 [1, 2.5]"


def test_the_csv_holds_every_row(found: Distribution) -> None:
    records = distribution_table(found, arms=["real", "dsc"]).records
    assert len(records) == len(ROWS["distances"]) + len(ROWS["differences"])
    assert [r["value"] for r in records] == [12.0, 10.0, 99.0, 0.25, 0.75, -2.0]


def test_sizes_that_no_line_goes_through_are_marked(found: Distribution) -> None:
    table = sizes_table(found)
    assert [v.text for v in table.rows[0]] == ["human", "real", "0", "4", "256", "636", "15.5"]
    assert [r[-1].note for r in table.rows] == ["", "fewer pictures than features"]


def test_distances_of_other_pictures_are_refused(found: Distribution) -> None:
    folder = found.manifest.folder
    assert open_distances(folder, generations=[of("a")]).distances.num_rows == 5
    with pytest.raises(ArtifactError, match=r"runs/b.*was not measured"):
        open_distances(folder, generations=[of("a"), of("b")])
    with pytest.raises(ArtifactError, match="is not of this report"):
        open_distances(folder, generations=[])


def test_an_artifact_whose_table_lacks_a_column_is_refused(found: Distribution) -> None:
    import pyarrow.parquet as pq

    path = found.manifest.folder / "distances.parquet"
    pq.write_table(pa.table({"arm": ["real"]}), path)
    with pytest.raises(ArtifactError, match="column 'model_seed' is missing"):
        open_distribution(found.manifest.folder)
    assert set(TABLES) == {*ROWS, "pictures"}
