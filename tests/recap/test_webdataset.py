"""WebDataset shards: indexed in place, never copied, never trusted."""

from __future__ import annotations

import gzip
import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from launch.errors import InputError, StoppedError
from launch.manifest import digest_file, read_manifest
from launch.run import Run
from recap import artifacts
from recap.config import IngestConfig
from recap.ingest import ingest
from recap.sources.source import Rejected
from recap.sources.webdataset import open_webdataset

WEB = Path(__file__).parents[3] / "shared" / "data" / "web"


def jpeg(shade: int = 0) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (20, 20), (shade, 0, 0)).save(buffer, format="JPEG")
    return buffer.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, BytesIO(data))
    return path


def rows(first: int, num: int) -> list[tuple[str, bytes]]:
    members = []
    for index in range(first, first + num):
        members.append((f"{index:05d}.jpg", jpeg(index)))
        members.append((f"{index:05d}.txt", f"text {index}".encode()))
        members.append((f"{index:05d}.json", json.dumps({"title": f"title {index}"}).encode()))
    return members


def config(root: Path, **options) -> IngestConfig:
    return IngestConfig(source="webdataset", name="web", root=root, num_workers=1, **options)


def run(cfg: IngestConfig, out: Path) -> artifacts.Images:
    started = Run(out=out, verb="recap ingest", config=cfg)
    try:
        ingest(cfg, started)
    finally:
        started.close()
    return artifacts.open_images(out)


def outcome(cfg: IngestConfig) -> list[tuple[str, str]]:
    found = [row for chunk in open_webdataset(cfg).chunks for row in chunk.read()]
    return [(row.key, row.reason if isinstance(row, Rejected) else "") for row in found]


def test_shards_are_indexed_where_they_lie(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "b.tar", rows(10, 3))
    path = tar(tmp_path / "in" / "sub" / "a.tar", rows(0, 4))
    before = digest_file(path)
    images = run(config(tmp_path / "in"), tmp_path / "out")
    assert images.shards == ["b.tar", "sub/a.tar"]
    assert [images.read(row) for row in range(7)] == [jpeg(i) for i in (10, 11, 12, 0, 1, 2, 3)]
    assert images.alt[0] == "text 10"
    assert images.pixels([3], size=20).shape == (1, 20, 20, 3)
    assert digest_file(path) == before
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_the_digests_of_the_shards_are_kept(tmp_path: Path) -> None:
    path = tar(tmp_path / "in" / "a.tar", rows(0, 2))
    run(config(tmp_path / "in"), tmp_path / "out")
    table = artifacts.read_table(tmp_path / "out" / "sources.parquet", artifacts.SOURCES_SCHEMA)
    assert table.to_pylist() == [
        {"shard": "a.tar", "num_bytes": path.stat().st_size, "digest": digest_file(path)}
    ]


def test_one_shard_can_be_the_source(tmp_path: Path) -> None:
    path = tar(tmp_path / "in" / "a.tar", rows(0, 2))
    assert run(config(path), tmp_path / "out").read(1) == jpeg(1)


def test_an_index_does_not_depend_on_where_the_shards_lie(tmp_path: Path) -> None:
    for name in ("here", "there"):
        tar(tmp_path / name / "a.tar", rows(0, 2))
        run(config(tmp_path / name), tmp_path / f"out-{name}")
    digests = {read_manifest(tmp_path / f"out-{name}").digest for name in ("here", "there")}
    assert len(digests) == 1


def test_shards_with_a_size_set_are_copied(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "a.tar", rows(0, 2))
    images = run(config(tmp_path / "in", image_size=8), tmp_path / "out")
    assert images.shards == ["shards/shard-00000.tar"]
    assert images.pixels([0], size=8).shape == (1, 8, 8, 3)


def test_texts_may_come_from_the_json(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", rows(0, 1))
    (chunk,) = open_webdataset(config(tmp_path, alt_column="title")).chunks
    assert [row.alt for row in chunk.read()] == ["title 0"]


def test_a_key_column_names_the_rows(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", rows(0, 2))
    assert outcome(config(tmp_path, key_column="title")) == [("title 0", ""), ("title 1", "")]


def test_bad_members_are_rejected_by_their_rules(tmp_path: Path) -> None:
    good = rows(0, 1)
    tar(
        tmp_path / "a.tar",
        [
            *good,
            ("/abs.jpg", jpeg()),
            ("/abs.txt", b"x"),
            ("../up.jpg", jpeg()),
            ("../up.txt", b"x"),
            ("a/../../up.jpg", jpeg()),
            ("lonely.jpg", jpeg()),
            ("silent.txt", b"x"),
            ("bytes.jpg", jpeg()),
            ("bytes.txt", b"\xff"),
            ("blank.jpg", jpeg()),
            ("blank.txt", b"  "),
            ("two.jpg", jpeg()),
            ("two.png", jpeg()),
            ("two.txt", b"x"),
            ("odd.jpg", jpeg()),
            ("odd.json", b"{"),
            *good[:1],
        ],
    )
    assert outcome(config(tmp_path)) == [
        ("00000", ""),
        ("/abs", "unsafe_path"),
        ("../up", "unsafe_path"),
        ("a/../../up", "unsafe_path"),
        ("lonely", "missing_caption"),
        ("silent", "missing_image"),
        ("bytes", "not_utf8"),
        ("blank", "empty_text"),
        ("two", "duplicate_name"),
        ("odd", "bad_metadata"),
        ("00000", "duplicate_name"),
    ]


BLOCK = tarfile.BLOCKSIZE
MEMBER = 2 * BLOCK
"""Header and data of a small member."""


@pytest.mark.parametrize(
    ("place", "patch", "reason", "lost"),
    [
        (4, b"\xff" * BLOCK, "damaged_shard", {4}),
        (4, b"\xff" * (BLOCK // 2), "damaged_shard", {4}),
        (4, b"\xff" * (3 * MEMBER), "damaged_shard", {4}),
        (4, bytes(3 * MEMBER + BLOCK), "damaged_shard", {4}),
        (4, None, "truncated_shard", {4, 5, 6, 7}),
    ],
    ids=["a header", "half a header", "a row", "a hole", "cut before a header"],
)
def test_behind_damage_a_tar_is_read_on_and_the_damage_is_told(
    tmp_path: Path, place: int, patch: bytes | None, reason: str, lost: set[int]
) -> None:
    path = tar(tmp_path / "in" / "a.tar", rows(0, 8))
    assert max(len(jpeg(i)) for i in range(8)) > BLOCK  # a picture has two blocks
    with tarfile.open(path) as whole:
        at = next(m.offset for m in whole if m.name == f"{place:05d}.jpg")
    data = path.read_bytes()
    cut = data[:at] if patch is None else data[:at] + patch + data[at + len(patch) :]
    path.write_bytes(cut)
    found = outcome(config(tmp_path / "in"))
    good = [key for key, why in found if not why]
    assert good == [f"{i:05d}" for i in range(8) if i not in lost]
    assert found.count(("a.tar", reason)) == 1
    # What is left of a damaged row is rejected under its own name.
    assert {key for key, why in found if why} <= {"a.tar", *(f"{i:05d}" for i in lost)}


def test_joined_tars_are_read_to_the_end(tmp_path: Path) -> None:
    one = tar(tmp_path / "a.tar", rows(0, 3)).read_bytes()
    two = tar(tmp_path / "b.tar", rows(3, 2)).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "joined.tar").write_bytes(one + two)
    images = run(config(tmp_path / "in"), tmp_path / "out")
    assert images.alt == [f"text {i}" for i in range(5)]
    assert images.manifest.rejected == {}
    assert images.read(4) == jpeg(4)


def test_shards_without_rows_cost_no_other_shard(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "a.tar", [])
    (tmp_path / "in" / "b.tar").write_bytes(b"")
    members = [(n, d) for n, d in rows(0, 2) if not n.endswith(".txt")]
    tar(tmp_path / "in" / "c.tar", members)
    images = run(
        config(tmp_path / "in", alt_column="title", max_rejected_share=0.5), tmp_path / "out"
    )
    assert images.manifest.rejected == {"truncated_shard": 1}
    assert len(images) == 2


def test_a_damaged_row_takes_no_name_from_a_good_one(tmp_path: Path) -> None:
    members = [("a/1.jpg", b"no picture"), ("a/1.txt", b"one"), ("a/1.json", b'{"key": "x"}')]
    members += [("b/1.jpg", jpeg()), ("b/1.txt", b"two"), ("b/1.json", b'{"key": "x"}')]
    members += [("c/1.jpg", jpeg()), ("c/1.txt", b"two"), ("c/1.json", b'{"key": "\\ud800"}')]
    members += [("d/1.jpg", jpeg()), ("d/1.json", b"[" * 300_000)]
    tar(tmp_path / "in" / "a.tar", members)
    cfg = config(tmp_path / "in", key_column="key", max_rejected_share=0.9)
    images = run(cfg, tmp_path / "out")
    assert images.alt == ["two"]
    assert images.manifest.rejected == {"bad_metadata": 1, "not_an_image": 1, "not_utf8": 1}


def test_links_in_a_tar_are_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            out.addfile(info)
    assert outcome(config(tmp_path)) == [("link", "not_a_file"), ("hard", "not_a_file")]


def test_a_name_in_two_shards_is_rejected_the_second_time(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "a.tar", rows(0, 3))
    tar(tmp_path / "in" / "b.tar", rows(2, 3))
    images = run(config(tmp_path / "in", max_rejected_share=0.5), tmp_path / "out")
    assert len(images) == 5
    assert images.manifest.rejected == {"duplicate_name": 1}
    assert images.manifest.counts["rows_in"] == 6


def test_a_truncated_tar_is_told_and_what_is_whole_is_kept(tmp_path: Path) -> None:
    path = tar(tmp_path / "in" / "a.tar", rows(0, 3))
    with tarfile.open(path) as opened:
        last = opened.getmembers()[6]
    path.write_bytes(path.read_bytes()[: last.offset_data + 100])
    images = run(config(tmp_path / "in", max_rejected_share=0.6), tmp_path / "out")
    assert len(images) == 2
    assert images.manifest.rejected.keys() <= {"truncated", "truncated_shard"}
    with pytest.raises(StoppedError):
        run(config(tmp_path / "in"), tmp_path / "other")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar"])
def test_a_compressed_tar_is_refused_by_name(tmp_path: Path, name: str) -> None:
    plain = tar(tmp_path / "plain.tar", rows(0, 1)).read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(gzip.compress(plain))
    with pytest.raises(InputError, match=rf"{name}.*gzip.*Decompress"):
        open_webdataset(config(tmp_path / "in"))


def test_what_the_user_can_mend_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_webdataset(config(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no files that end in \.tar"):
        open_webdataset(config(tmp_path))
    tar(tmp_path / "a.tar", rows(0, 1))
    with pytest.raises(InputError, match=r"no column 'alt'.*txt, title"):
        open_webdataset(config(tmp_path, alt_column="alt"))
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="not a tar"):
        open_webdataset(config(tmp_path))


@pytest.mark.skipif(not WEB.is_dir(), reason="the shard is not here")
def test_the_shard_of_the_web_gives_32_rows_and_stays_as_it_is(tmp_path: Path) -> None:
    shard = next(WEB.glob("*.tar"))
    before = digest_file(shard)
    images = run(replace(config(WEB)), tmp_path / "out")
    assert len(images) == images.manifest.counts["rows_in"] == 32
    assert images.pixels(images.rows()[:4], size=32).shape == (4, 32, 32, 3)
    assert digest_file(shard) == before
