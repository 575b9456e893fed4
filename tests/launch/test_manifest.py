"""Complete or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import manifest as manifests
from launch.errors import ArtifactError
from launch.manifest import Input, Manifest


def made(folder: Path, *, path: str = "a", counts: dict[str, int] | None = None) -> Manifest:
    folder.mkdir(parents=True, exist_ok=True)
    manifests.write_bytes(folder / "rows.bin", b"rows")
    manifest = Manifest(
        artifact="images",
        version=1,
        recipe={"seed": 0},
        inputs=[Input(role="source", path=path, digest="0" * 32)],
        counts=counts or {"rows_in": 1, "rows_out": 1},
        rejected={},
        parts=manifests.describe_parts(folder, ["rows.bin"]),
        folder=folder,
    )
    manifests.write_manifest(folder, manifest)
    return manifest


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    written = made(tmp_path / "x")
    assert manifests.read_manifest(tmp_path / "x", artifact="images", version=1) == written


def test_the_digest_does_not_depend_on_where_inputs_lie(tmp_path: Path) -> None:
    assert made(tmp_path / "x", path="a").digest == made(tmp_path / "y", path="b").digest
    assert made(tmp_path / "x").digest != made(tmp_path / "y", counts={"rows_out": 2}).digest


def test_a_folder_without_a_manifest_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not complete"):
        manifests.read_manifest(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        manifests.read_manifest(tmp_path / "absent")


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    raw["counts"]["rows_out"] = 7
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="was edited"):
        manifests.read_manifest(tmp_path)


def test_another_kind_or_version_is_refused_by_name(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ArtifactError, match="images artifact, expected captions"):
        manifests.read_manifest(tmp_path, artifact="captions")
    with pytest.raises(ArtifactError, match="version 1"):
        manifests.read_manifest(tmp_path, artifact="images", version=2)


def test_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    manifests.write_bytes(path, b"old")

    def spoil() -> None:
        with manifests.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        spoil()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
