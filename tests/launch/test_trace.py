"""Trace: every link from an artifact back to what came from outside, each one checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.errors import ArtifactError
from launch.manifest import Input, Manifest, write_json
from launch.trace import trace

MakeArtifact = Callable[..., Manifest]


@pytest.fixture
def chain(tmp_path: Path, make_artifact: MakeArtifact) -> Path:
    """Pictures -> captions -> report, which also reads the pictures."""
    source = Input(role="source", path="https://example.org/photos", digest="ab" * 16)
    images = make_artifact(tmp_path / "images", inputs={"source": source}, files={"a.tar": b"a"})
    captions = make_artifact(
        tmp_path / "captions",
        "captions",
        inputs={"images": images},
        counts={"rows_in": 3, "rows_out": 2},
        rejected={"empty": 1},
    )
    make_artifact(
        tmp_path / "report", "report", inputs={"captions": captions, "pictures": images}, counts={}
    )
    return tmp_path


def test_the_chain_leads_from_the_report_to_the_pictures(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(chain / "report") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [(len(line) - len(line.lstrip())) // 2 for line in lines] == [0, 1, 2, 3, 1]
    assert lines[0].startswith("report  ")
    assert lines[1].startswith("  captions: captions  ")
    assert lines[1].endswith("2 rows")
    assert lines[2].startswith("    images: images  ")
    assert lines[3] == "      source  abababababab  https://example.org/photos  (external)"
    assert lines[4].startswith("  pictures: images  ")
    assert lines[4].endswith("(see above)")


def test_a_link_to_other_content_is_broken(
    chain: Path, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(chain / "images", files={"a.tar": b"other"})
    assert trace(chain / "report") == 1
    assert capsys.readouterr().out.count("BROKEN: it is ") == 2


def test_a_store_that_moved_as_a_whole_is_still_followed(
    chain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "elsewhere"
    new.mkdir()
    for name in ("images", "captions", "report"):
        shutil.move(chain / name, new / name)
    assert trace(new / "report") == 0
    assert "BROKEN" not in capsys.readouterr().out


def test_an_input_whose_manifest_is_gone_is_broken(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.manifest import RUN_LOG

    (chain / "images" / "manifest.json").unlink()
    (chain / "images" / RUN_LOG).write_text("")
    assert trace(chain / "report") == 1
    assert "no manifest there now" in capsys.readouterr().out


def test_a_study_is_traced_from_what_nothing_else_reads(
    chain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {name: f"../{name}" for name in ("images", "captions", "report")}
    write_json(
        chain / "study" / "plan.json", {"name": "s", "steps": {**steps, "later": "../later"}}
    )
    assert trace(chain / "study") == 0
    assert capsys.readouterr().out.startswith("report  ")


def test_a_study_without_a_complete_artifact_has_nothing_to_trace(tmp_path: Path) -> None:
    write_json(tmp_path / "plan.json", {"name": "s", "steps": {"images": "images"}})
    with pytest.raises(ArtifactError, match="no complete artifact yet"):
        trace(tmp_path)


def test_text_from_data_cannot_move_the_cursor(
    tmp_path: Path, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Input(role="source", path="a\x1b[2Jb", digest="ab" * 16)
    make_artifact(tmp_path / "images", inputs={"source": source})
    trace(tmp_path / "images")
    assert "a\\x1b[2Jb" in capsys.readouterr().out
