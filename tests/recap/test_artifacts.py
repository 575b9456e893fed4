"""Images and captions: schemas, readers, writers."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch.errors import ArtifactError
from launch.manifest import write_parquet
from launch.run import Run
from recap import artifacts, pictures
from recap.artifacts import CaptionRow, ShardWriter, write_caption_part, write_shard
from recap.config import IngestConfig, ScenesConfig
from recap.ingest import ingest
from recap.sources.scenes import draw, world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "images"
    cfg = IngestConfig(
        source="scenes",
        name="world",
        scenes=ScenesConfig(num_pictures=60),
        pictures_per_shard=25,
        num_workers=1,
    )
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return out


def captions(folder: Path, *parts: list[CaptionRow]) -> Path:
    run = Run(out=folder, verb="recap annotate", config=None)
    names = [artifacts.caption_part_name(index) for index in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        write_caption_part(folder / name, rows)
    run.finish(artifact="captions", counts={"rows_out": 1}, parts=names)
    return folder


# --- Images --------------------------------------------------------------------------------------


def test_importing_the_readers_never_imports_torch() -> None:
    code = "import recap.artifacts, recap.claims, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_index_has_the_columns_of_its_contract(folder: Path) -> None:
    schema = pq.read_schema(folder / "index.parquet")
    assert [f"{field.name}: {field.type}" for field in schema] == [
        "sample_id: string",
        "shard: string",
        "key: string",
        "offset: int64",
        "num_bytes: int64",
        "width: int32",
        "height: int32",
        "alt: string",
        "split: string",
        "claims: string",
        "texts: list<element: string not null>",
    ]
    assert schema.metadata[b"captionmix.artifact"] == b"images.index"
    assert schema.metadata[b"captionmix.version"] == b"1"


def test_pictures_read_back_are_the_pictures_drawn(folder: Path) -> None:
    images = artifacts.open_images(folder)
    scenes = world.compose(0, images.sample_ids)
    drawn = draw.render(scenes, seed=0, sample_ids=images.sample_ids)
    assert np.array_equal(images.pixels(images.rows(), size=32), drawn)
    assert images.claims == [scene.claims for scene in scenes]


def test_pixels_come_in_the_order_asked_for(folder: Path) -> None:
    images = artifacts.open_images(folder)
    rows = np.array([40, 3, 17])
    assert np.array_equal(
        images.pixels(rows, size=32), images.pixels(images.rows(), size=32)[[40, 3, 17]]
    )


def test_pixels_are_resized_to_what_is_asked(folder: Path) -> None:
    assert artifacts.open_images(folder).pixels([0, 1], size=24).shape == (2, 24, 24, 3)


def test_every_row_belongs_to_one_split_and_one_shard(folder: Path) -> None:
    images = artifacts.open_images(folder)
    by_split = np.concatenate([images.rows(split) for split in artifacts.SPLITS])
    by_shard = np.concatenate([images.shard_rows(shard) for shard in images.shards])
    assert sorted(by_split) == sorted(by_shard) == list(range(60))
    assert len(images.shards) == 3


def test_a_row_is_found_by_its_identity(folder: Path) -> None:
    images = artifacts.open_images(folder)
    assert [images.row_of(sample_id) for sample_id in images.sample_ids] == list(range(60))
    with pytest.raises(KeyError):
        images.row_of("0" * 32)


def test_identity_depends_on_source_and_key_alone() -> None:
    assert artifacts.make_sample_id("world", "0/00000001") == "f4e9e987383b8d87fbe4c8cdc5a02fda"
    assert artifacts.make_sample_id("a", "bc") != artifacts.make_sample_id("ab", "c")


def test_open_images_travel_to_another_process(folder: Path) -> None:
    images = artifacts.open_images(folder)
    before = images.pixels([0], size=32)
    assert np.array_equal(pickle.loads(pickle.dumps(images)).pixels([0], size=32), before)


def test_a_shard_that_changed_is_an_error_that_names_it(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = copy / "shards" / "shard-00000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ArtifactError, match=r"shard-00000\.tar.*changed"):
        artifacts.open_images(copy).pixels([0], size=32)
    shard.unlink()
    with pytest.raises(ArtifactError, match="no such shard"):
        artifacts.open_images(copy).read(0)


def test_a_table_of_another_contract_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(path, pq.read_table(folder / "rejected.parquet"))
    with pytest.raises(ArtifactError, match="columns key, reason, detail"):
        artifacts.read_table(path, artifacts.INDEX_SCHEMA)


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        artifacts.open_images(tmp_path)


# --- Shards --------------------------------------------------------------------------------------


def test_a_shard_is_what_tarfile_writes_and_reads(tmp_path: Path) -> None:
    members = [("a.png", b"12345"), ("a.txt", b""), ("b" * 96 + ".png", bytes(1024))]
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    places = write_shard(ours, members)
    with tarfile.open(theirs, "w", format=tarfile.USTAR_FORMAT) as tar:
        from io import BytesIO

        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    assert ours.read_bytes() == theirs.read_bytes()
    raw = ours.read_bytes()
    for (_, data), place in zip(members, places, strict=True):
        assert raw[place.offset : place.offset + place.num_bytes] == data


def test_a_shard_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def members():
        yield "a.png", b"1"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_shard(tmp_path / "a.tar", members())
    assert list(tmp_path.iterdir()) == []


def test_a_name_too_long_for_the_format_is_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar") as shard, pytest.raises(ValueError, match="100"):
        shard.add("x" * 101, b"")


def test_the_webdataset_layout_pairs_each_picture_with_its_text(folder: Path) -> None:
    images = artifacts.open_images(folder)
    with tarfile.open(folder / images.shards[0]) as tar:
        names = tar.getnames()
        text = tar.extractfile(names[1])
        assert text is not None
        assert text.read().decode() == images.alt[0]
    assert names[:2] == [f"{images.sample_ids[0]}.png", f"{images.sample_ids[0]}.txt"]
    assert len(names) == 50


# --- Captions ------------------------------------------------------------------------------------


def test_captions_read_back_are_those_written(tmp_path: Path) -> None:
    one = CaptionRow(
        sample_id="0" * 32,
        kind="dsc",
        text="a ring",
        num_tokens=4,
        stop_reason="end",
        mean_logprob=-0.5,
    )
    two = CaptionRow(sample_id="1" * 32, kind="ssc", text="é", flags=())
    opened = artifacts.open_captions(captions(tmp_path / "c", [one], [two]))
    assert opened.kinds == ["dsc", "ssc"]
    assert opened.texts("dsc") == {"0" * 32: "a ring"}
    assert opened.table.to_pylist()[0] == {
        "sample_id": "0" * 32,
        "kind": "dsc",
        "text": "a ring",
        "num_tokens": 4,
        "stop_reason": "end",
        "mean_logprob": -0.5,
        "flags": [],
    }
    assert opened.quarantined().num_rows == 0


def test_a_kind_that_is_absent_is_named_with_those_present(tmp_path: Path) -> None:
    row = CaptionRow(sample_id="0" * 32, kind="dsc", text="a")
    opened = artifacts.open_captions(captions(tmp_path / "c", [row]))
    with pytest.raises(ArtifactError, match="'ssc', it has dsc"):
        opened.texts("ssc")


def test_two_captions_of_one_kind_for_one_picture_are_refused(tmp_path: Path) -> None:
    row = CaptionRow(sample_id="0" * 32, kind="dsc", text="a")
    opened = artifacts.open_captions(captions(tmp_path / "c", [row, row]))
    with pytest.raises(ArtifactError, match="two captions"):
        opened.texts("dsc")


def test_equal_captions_give_equal_bytes(tmp_path: Path) -> None:
    row = CaptionRow(sample_id="0" * 32, kind="dsc", text="a")
    for name in ("a", "b"):
        write_caption_part(tmp_path / name, [row])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_png_stored_in_shards_is_read_without_loss(folder: Path) -> None:
    images = artifacts.open_images(folder)
    assert pictures.decode(images.read(0)).size == (32, 32)


def test_only_a_few_shards_are_mapped_and_threads_may_share_them(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from launch.run import Run
    from recap.artifacts import MAPPED_SHARDS, open_images
    from recap.config import IngestConfig, ScenesConfig
    from recap.ingest import ingest

    cfg = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=64, image_size=16),
        pictures_per_shard=4,
        num_workers=1,
    )
    ingest(cfg, Run(out=tmp_path / "images", verb="recap ingest", config=cfg))
    images = open_images(tmp_path / "images")
    alone = [images.read(row) for row in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(images.read, range(64))) == alone
    assert len(images._maps) <= MAPPED_SHARDS
