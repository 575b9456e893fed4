"""Show: a manifest in words, rows as they are, and nothing that data could make of a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from launch.errors import ArtifactError
from launch.manifest import Manifest, write_json
from launch.show import show

MakeArtifact = Callable[..., Manifest]


@pytest.fixture
def folder(tmp_path: Path, make_artifact: MakeArtifact) -> Path:
    images = make_artifact(tmp_path / "images", files={"a.tar": b"a"})
    table = pa.table({"sample_id": ["0" * 32] * 5, "text": ["[bold]a\x1b[31mdog[/oops]"] * 5})
    make_artifact(
        tmp_path / "captions",
        "captions",
        inputs={"images": images},
        tables={"rejected.parquet": table.slice(0, 0), "index.parquet": table},
        counts={"rows_in": 1_500, "rows_out": 1_493},
        rejected={"repeats": 7},
        config={"seed": 3, "kinds": ["ssc"]},
        recipe={"verb": "recap caption", "seed": 3},
        commit="4f2a" * 10,
        dirty=True,
        packages={"torch": "2.15.0"},
    )
    return tmp_path / "captions"


def test_what_an_artifact_is_stands_first_and_the_rest_follows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(folder) == 0
    out = capsys.readouterr().out
    for text in (
        "captions, version 1", "python -m recap captions", "4f2a4f2a4f2a, with changes", "torch 2.15.0",
        "1,493", "repeats", '["ssc"]', "recap caption", "rejected.parquet", str(folder.parent / "images"),
    ):  # fmt: skip
        assert text in " ".join(out.split()), text
    assert "index.parquet, row 2 of 5" in out
    assert "row 3" not in out


def test_text_from_data_is_shown_as_it_is_and_does_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(folder)
    out = capsys.readouterr().out
    assert "[bold]a\\x1b[31mdog[/oops]" in out
    assert "\x1b" not in out


def test_a_study_is_shown_by_its_steps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"caption": "../captions", "report": "../report"}
    write_json(folder.parent / "study" / "plan.json", {"name": "s", "steps": steps})
    assert show(folder.parent / "study") == 0
    out = capsys.readouterr().out
    assert "1 of 2 steps complete" in out
    assert "not yet" in out


def test_a_models_validations_are_shown_as_a_table(
    tmp_path: Path, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = b'[{"loss": 0.61234, "samples_seen": 6400, "stderr": 0.004, "strata": [0.9, 0.25]}]'
    make_artifact(tmp_path / "model", "model", files={"validation.json": rows})
    show(tmp_path / "model")
    words = capsys.readouterr().out.split("stderr")[-1].split()
    assert [word for word in words if word[0].isdigit()] == [
        "6400", "0.6123", "0.0040", "0.9000", "0.2500"
    ]  # fmt: skip


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        show(tmp_path)
