"""Ingestion: rows conserved, resumable, the same however it is spread."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from launch.errors import InputError, StoppedError
from launch.manifest import Manifest, read_manifest
from launch.run import Run
from recap import artifacts
from recap import ingest as module
from recap.artifacts import make_sample_id
from recap.config import IngestConfig, ScenesConfig, SplitConfig
from recap.ingest import ingest, split_of

WORLD = IngestConfig(
    source="scenes",
    name="world",
    scenes=ScenesConfig(num_pictures=50),
    pictures_per_shard=20,
    num_workers=1,
)


def run(cfg: IngestConfig, out: Path, *, is_dry: bool = False) -> None:
    started = Run(out=out, verb="recap ingest", config=cfg, is_dry=is_dry)
    try:
        ingest(cfg, started)
    finally:
        started.close()


def made(cfg: IngestConfig, out: Path) -> Manifest:
    run(cfg, out)
    return read_manifest(out)


def photos(root: Path, num: int, **bad: bytes) -> IngestConfig:
    """Write a folder of pictures with sidecars, some of them bad."""
    root.mkdir()
    for index in range(num):
        Image.new("RGB", (20, 16), (index, 0, 0)).save(root / f"{index:03d}.png")
        (root / f"{index:03d}.txt").write_text(f"picture {index}")
    for name, data in bad.items():
        (root / f"{name}.jpg").write_bytes(data)
        (root / f"{name}.txt").write_text("a text")
    return IngestConfig(
        source="folder", name="photos", root=root, pictures_per_shard=5, num_workers=1
    )


def test_the_embedded_world_loses_no_row(tmp_path: Path) -> None:
    manifest = made(WORLD, tmp_path / "w")
    assert manifest.counts["rows_in"] == manifest.counts["rows_out"] == 50
    assert sum(manifest.counts[split] for split in artifacts.SPLITS) == 50
    assert manifest.rejected == {}
    assert [part.name for part in manifest.parts] == [
        "index.parquet",
        "rejected.parquet",
        "shards/shard-00000.tar",
        "shards/shard-00001.tar",
        "shards/shard-00002.tar",
    ]


def test_workers_cannot_change_a_byte(tmp_path: Path) -> None:
    alone = made(WORLD, tmp_path / "one")
    together = made(replace(WORLD, num_workers=2), tmp_path / "two")
    assert alone.digest == together.digest


def test_a_run_killed_between_chunks_ends_like_one_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(WORLD, tmp_path / "whole")
    work = module._work

    def die_at_the_second(job: module._Job) -> None:
        if job.index == 1:
            raise KeyboardInterrupt
        work(job)

    monkeypatch.setattr(module, "_work", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(WORLD, tmp_path / "killed")
    assert not (tmp_path / "killed" / "manifest.json").exists()

    worked_on = []

    def count(job: module._Job) -> None:
        worked_on.append(job.index)
        work(job)

    monkeypatch.setattr(module, "_work", count)
    assert made(WORLD, tmp_path / "killed").digest == whole.digest
    assert worked_on == [1, 2]


def test_a_run_killed_while_joining_ends_like_one_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(WORLD, tmp_path / "whole")
    monkeypatch.setattr("launch.manifest.write_manifest", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(WORLD, tmp_path / "killed")
    monkeypatch.undo()
    assert made(WORLD, tmp_path / "killed").digest == whole.digest
    assert not (tmp_path / "killed" / "scratch").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(WORLD, tmp_path / "dry", is_dry=True)
    assert not (tmp_path / "dry").exists()
    assert "pictures: 50" in capsys.readouterr().out


def test_a_picture_keeps_its_identity_and_split_when_its_folder_moves(tmp_path: Path) -> None:
    cfg = photos(tmp_path / "here", 6)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = made(cfg, tmp_path / "a")
    there = made(replace(cfg, root=tmp_path / "there"), tmp_path / "b")
    assert here.digest == there.digest


def test_rejections_above_the_limit_stop_the_job_with_counts_by_rule(tmp_path: Path) -> None:
    cfg = photos(tmp_path / "in", 6, broken=b"no picture", other=b"none")
    with pytest.raises(StoppedError, match=r"2 of 8 rows were rejected \(not_an_image 2\)"):
        run(cfg, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_stopped_job_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    cfg = photos(tmp_path / "in", 6, broken=b"no picture")
    with pytest.raises(StoppedError):
        run(cfg, tmp_path / "out")
    manifest = made(replace(cfg, max_rejected_share=0.5), tmp_path / "out")
    assert manifest.counts["rows_in"] == 7
    assert manifest.counts["rows_out"] == 6
    assert manifest.rejected == {"not_an_image": 1}


def test_every_rejected_row_has_a_reason(tmp_path: Path) -> None:
    cfg = photos(tmp_path / "in", 12, broken=b"no picture")
    made(cfg, tmp_path / "out")
    path = tmp_path / "out" / "rejected.parquet"
    rows = artifacts.read_table(path, artifacts.REJECTED_SCHEMA).to_pylist()
    assert [(row["key"], row["reason"]) for row in rows] == [("broken.jpg", "not_an_image")]


def test_bytes_are_kept_where_no_size_is_set(tmp_path: Path) -> None:
    cfg = photos(tmp_path / "in", 3)
    run(cfg, tmp_path / "out")
    images = artifacts.open_images(tmp_path / "out")
    assert images.read(1) == (tmp_path / "in" / "001.png").read_bytes()
    assert images.table["width"].to_pylist() == [20, 20, 20]


def test_pictures_are_stored_at_the_size_set(tmp_path: Path) -> None:
    run(replace(photos(tmp_path / "in", 3), image_size=8), tmp_path / "out")
    images = artifacts.open_images(tmp_path / "out")
    assert images.table["width"].to_pylist() == images.table["height"].to_pylist() == [8, 8, 8]
    assert images.pixels([2], size=8)[0].tolist() == np.full((8, 8, 3), (2, 0, 0)).tolist()


def test_pixels_above_the_limit_are_rejected(tmp_path: Path) -> None:
    cfg = replace(photos(tmp_path / "in", 3), max_pixels=100)
    with pytest.raises(StoppedError, match="too_many_pixels 3"):
        run(cfg, tmp_path / "out")


def test_a_source_without_a_root_is_refused(tmp_path: Path) -> None:
    for source in ("folder", "webdataset", "datasets"):
        cfg = IngestConfig(source=source, name="x")
        with pytest.raises(InputError, match="root"):
            run(cfg, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- Splits --------------------------------------------------------------------------------------

IDS = [make_sample_id("splits", str(index)) for index in range(4000)]


def test_splits_have_the_shares_set() -> None:
    counts = Counter(split_of(IDS, SplitConfig(judge=0.2, test=0.1)))
    assert abs(counts["judge"] / 4000 - 0.2) < 0.02
    assert abs(counts["test"] / 4000 - 0.1) < 0.02


@given(st.lists(st.sampled_from(IDS), unique=True, max_size=20))
def test_a_split_does_not_depend_on_the_other_pictures(ids: list[str]) -> None:
    whole = dict(zip(IDS, split_of(IDS, SplitConfig()), strict=True))
    assert split_of(ids, SplitConfig()) == [whole[sample_id] for sample_id in ids]


def test_test_pictures_stay_test_pictures_when_the_judge_gets_more() -> None:
    before = split_of(IDS, SplitConfig(judge=0.1, test=0.1))
    after = split_of(IDS, SplitConfig(judge=0.3, test=0.1))
    assert [s == "test" for s in before] == [s == "test" for s in after]


def test_splits_are_drawn_as_they_always_were() -> None:
    names = " ".join(split_of(IDS[:12], SplitConfig(judge=0.3, test=0.2)))
    expected = "test test test train judge judge train judge train train judge train"
    assert names == expected
