"""Captions from tables, and captions in the forms of other programs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.errors import ConfigError, InputError, StoppedError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import Images, open_captions, open_images
from recap.config import ExportConfig, ImportConfig, IngestConfig, ScenesConfig
from recap.exchange import (
    export_captions,
    import_captions,
    sidecar_stems,
    write_sidecars,
)
from recap.ingest import ingest


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    out = tmp_path_factory.mktemp("world") / "images"
    cfg = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=24, image_size=16),
        pictures_per_shard=10,
        num_workers=1,
    )
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return open_images(out)


def keys(images: Images) -> list[str]:
    return list(images.table["key"].to_pylist())


def bring_in(images: Images, file: Path, out: Path, **settings: Any) -> Path:
    cfg = ImportConfig(
        images=images.folder, file=file, kind="theirs", **{"name_column": "key", **settings}
    )
    run = Run(out=out, verb="recap import", config=cfg)
    try:
        import_captions(cfg, run)
    finally:
        run.close()
    return out


def table(images: Images) -> list[dict[str, str]]:
    return [{"key": key, "caption": f'picture {key}, "quoted"'} for key in keys(images)]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_a_table_of_any_form_becomes_captions(images: Images, tmp_path: Path, ending: str) -> None:
    path, rows = tmp_path / f"texts.{ending}", table(images)
    match ending:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            with path.open("w", newline="") as file:
                tab = "\t" if ending == "tsv" else ","
                writer = csv.DictWriter(file, ["key", "caption"], delimiter=tab)
                writer.writeheader()
                writer.writerows(rows)
    opened = open_captions(bring_in(images, path, tmp_path / "out"))
    assert opened.texts("theirs") == dict(
        zip(images.sample_ids, [row["caption"] for row in rows], strict=True)
    )
    assert opened.manifest.counts["matched_by_key"] == 24


def test_pictures_are_found_by_identity_and_by_file_name_without_its_ending(
    images: Images, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    names = [images.sample_ids[0], f"{keys(images)[1]}"]
    path.write_text("".join(json.dumps({"key": n, "caption": "x"}) + "\n" for n in names))
    out = bring_in(images, path, tmp_path / "out")
    assert set(open_captions(out).texts("theirs")) == set(images.sample_ids[:2])


def test_rows_that_cannot_be_used_are_counted_by_reason(images: Images, tmp_path: Path) -> None:
    rows = [
        *table(images)[:3],
        {"key": keys(images)[0], "caption": "again"},
        {"key": keys(images)[4], "caption": "  "},
        {"key": "nobody.png", "caption": "of nothing"},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = bring_in(images, path, tmp_path / "out", max_rejected_share=0.5)
    manifest = read_manifest(out)
    assert manifest.rejected == {
        "empty_text": 1,
        "no_such_picture": 1,
        "second_text_of_a_picture": 1,
    }
    assert manifest.counts["rows_in"] == manifest.counts["rows_out"] + 3
    with pytest.raises(StoppedError, match="3 of 6 rows cannot be used"):
        bring_in(images, path, tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_that_cannot_be_read_cost_no_other_row(
    images: Images, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = table(images)[:20]
    path = tmp_path / f"texts.{ending}"
    if ending == "jsonl":
        lines = [json.dumps(row).encode() for row in good]
        lines[7:7] = [lines[3][:-9], b"[" * 200_000, b'{"key": "a", "caption": "\xff"}', b"3"]
        lines += [b'{"caption": "of nothing"}', b'{"key": "b", "caption": "\\ud800"}']
        lines += [json.dumps({"key": keys(images)[21]}).encode()]
        path.write_bytes(b"\n".join(lines))
        rejected = {"bad_row": 6, "empty_text": 1}
    else:
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(["key", "caption"])
        writer.writerows([[row["key"], row["caption"]] for row in good])
        writer.writerow([keys(images)[21], "x" * 200_000])
        text = stream.getvalue().encode() + b"a,b,c\r\nd,\xff\r\ne\r\n"
        path.write_bytes(text)
        rejected = {"bad_row": 2, "empty_text": 1}
    out = bring_in(images, path, tmp_path / "out", max_rejected_share=0.5)
    assert read_manifest(out).rejected == rejected
    assert len(open_captions(out).texts("theirs")) == 20 + (ending == "csv")
    place = {"jsonl": "line 8: not JSON", "csv": "line 23: more cells than the header"}[ending]
    assert f"first bad row: {place}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("texts.xlsx", "", "expected .parquet, .csv, .tsv or .jsonl"),
        ("texts.jsonl", "{", r"no row has `key`.*line 1: not JSON"),
        ("texts.jsonl", '{"key": "a"}\n', "no row has `caption`; they have key"),
        ("texts.jsonl", "[1]\n", r"no row has `key`.*line 1: expected an object, got list"),
        ("texts.csv", "key,text\na,b\n", "no row has `caption`; they have key, text"),
        ("texts.parquet", "no parquet", "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(
    images: Images, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        bring_in(images, tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_imported_captions_are_not_called_alt(images: Images) -> None:
    with pytest.raises(ConfigError, match="alt"):
        ImportConfig(images=images.folder, file=Path("x.csv"), kind="alt")


@pytest.fixture
def captions(images: Images, tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table(images)[:20]))
    return bring_in(images, path, tmp_path / "captions")


def send_out(images: Images, captions: Path, out: Path, form: str, **settings: Any) -> Path:
    cfg = ExportConfig(images=images.folder, captions=[captions], form=form, **settings)  # type: ignore[arg-type]
    run = Run(out=out, verb="recap export", config=cfg)
    try:
        export_captions(cfg, run)
    finally:
        run.close()
    return out


def test_a_jsonl_export_comes_back_as_it_went(
    images: Images, captions: Path, tmp_path: Path
) -> None:
    out = send_out(images, captions, tmp_path / "out", "jsonl")
    again = bring_in(images, out / "captions.jsonl", tmp_path / "again", text_column="theirs")
    assert open_captions(again).texts("theirs") == open_captions(captions).texts("theirs")
    assert read_manifest(out).rejected == {"no_caption": 4}


def test_a_csv_export_has_a_column_for_every_kind(
    images: Images, captions: Path, tmp_path: Path
) -> None:
    out = send_out(images, captions, tmp_path / "out", "csv", kinds=["theirs", "alt"])
    with (out / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["alt"] for row in rows] == images.alt
    assert rows[0]["theirs"] == table(images)[0]["caption"]


def test_sidecars_are_named_as_their_pictures(
    images: Images, captions: Path, tmp_path: Path
) -> None:
    out = send_out(images, captions, tmp_path / "out", "txt")
    stem = Path(keys(images)[0]).with_suffix("")
    assert (out / "texts" / f"{stem}.txt").read_text() == table(images)[0]["caption"]


def test_a_shard_holds_each_picture_with_its_texts(
    images: Images, captions: Path, tmp_path: Path
) -> None:
    out = send_out(images, captions, tmp_path / "out", "webdataset")
    assert len(list(out.glob("*.tar"))) == 2
    with tarfile.open(out / "shard-00000.tar") as shard:
        names = shard.getnames()
        text = shard.extractfile(f"{images.sample_ids[0]}.theirs.txt")
        assert text is not None
        assert text.read().decode() == table(images)[0]["caption"]
        picture = shard.extractfile(names[0])
        assert picture is not None
        assert picture.read() == images.read(0)


def test_a_folder_is_one_that_datasets_reads(
    images: Images, captions: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset

    out = send_out(images, captions, tmp_path / "out", "datasets", kinds=["theirs"])
    found = load_dataset(
        "imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(found) == 20
    assert sorted(found["theirs"]) == sorted(row["caption"] for row in table(images)[:20])


def test_a_kind_that_is_absent_is_refused(images: Images, captions: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no caption of kind dsc; the artifacts have theirs"):
        send_out(images, captions, tmp_path / "out", "jsonl", kinds=["dsc"])


def with_keys(images: Images, names: list[str]) -> Images:
    index = images.table.schema.get_field_index("key")
    column = pa.array([*names, *keys(images)[len(names) :]])
    changed = replace(images)
    changed.__dict__["table"] = images.table.set_column(index, "key", column)  # as if just read
    return changed


def test_names_that_are_shared_or_lead_elsewhere_give_way_to_the_identity(images: Images) -> None:
    named = with_keys(images, ["a.jpg", "a.png", "../b.png", "/c.png", "d/e.jpg"])
    assert sidecar_stems(named, range(5)) == [*images.sample_ids[:4], "d/e"]


def test_a_sidecar_of_two_kinds_always_names_its_kind(tmp_path: Path) -> None:
    assert write_sidecars(tmp_path, "a", {"ssc": "x"}, is_one_kind=False) == ["texts/a.ssc.txt"]


@pytest.mark.parametrize("separator", ["\r", "\u2028", "\x85", "\x0b", "\r\n"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_text_with_odd_line_ends_comes_back_as_it_went(
    images: Images, tmp_path: Path, separator: str, form: str
) -> None:
    path = tmp_path / "texts.jsonl"
    text = f"one{separator}two"
    path.write_bytes((json.dumps({"key": keys(images)[0], "caption": text}) + "\n").encode())
    first = bring_in(images, path, tmp_path / "first")
    out = send_out(images, first, tmp_path / "out", form)
    file = out / f"captions.{form}"
    again = bring_in(images, file, tmp_path / "again", text_column="theirs")
    assert open_captions(again).texts("theirs") == {images.sample_ids[0]: text}


def test_a_table_without_rows_is_refused(images: Images, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("key,caption\n")
    with pytest.raises(InputError, match="has no rows"):
        bring_in(images, tmp_path / "texts.csv", tmp_path / "out")


@pytest.mark.parametrize("kind", ["a/b", "key", "file_name", "beschreibung-ü", ""])
def test_a_kind_that_cannot_be_a_name_is_refused(images: Images, kind: str) -> None:
    with pytest.raises(ConfigError, match="kind must be letters"):
        ImportConfig(images=images.folder, file=Path("x.csv"), kind=kind)
