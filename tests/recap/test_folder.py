"""Folders of images: metadata, sidecars, and everything that can be wrong with them."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.errors import InputError
from recap.config import IngestConfig
from recap.ingest import _checked
from recap.sources.folder import open_folder
from recap.sources.source import Rejected, Row, RowError

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"


def png(width: int = 12, height: int = 12, mode: str = "RGB", **options) -> bytes:
    buffer = BytesIO()
    Image.new(mode, (width, height)).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def folder(root: Path, files: dict[str, bytes | str], **options) -> IngestConfig:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return IngestConfig(source="folder", name="f", root=root, **options)


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(cfg: IngestConfig) -> list[Row | Rejected]:
    """Read a folder as ingestion does: rows checked, bad ones as rejections."""
    found: list[Row | Rejected] = []
    for chunk in open_folder(cfg).chunks:
        for row in chunk.read():
            try:
                if isinstance(row, Row):
                    _checked(row, cfg)
                found.append(row)
            except RowError as error:
                found.append(Rejected(row.key, error.reason, error.detail))
    return found


def outcome(cfg: IngestConfig) -> dict[str, str]:
    return {row.key: row.reason if isinstance(row, Rejected) else "" for row in read(cfg)}


def test_metadata_jsonl_names_pictures_and_texts(tmp_path: Path) -> None:
    rows = jsonl({"file_name": "b.png", "text": "B"}, {"file_name": "sub/a.png", "text": "A"})
    cfg = folder(tmp_path, {"b.png": png(), "sub/a.png": png(), "metadata.jsonl": rows})
    assert [(row.key, row.alt) for row in read(cfg)] == [("b.png", "B"), ("sub/a.png", "A")]


def test_metadata_csv_names_pictures_and_texts(tmp_path: Path) -> None:
    rows = 'file_name,text\na.png,"one, two"\nb.png,"line\nbreak"\n'
    cfg = folder(tmp_path, {"a.png": png(), "b.png": png(), "metadata.csv": rows})
    assert [row.alt for row in read(cfg)] == ["one, two", "line\nbreak"]


def test_metadata_in_a_folder_below_names_pictures_beside_it(tmp_path: Path) -> None:
    rows = jsonl({"file_name": "a.png", "text": "A"})
    cfg = folder(tmp_path, {"x/a.png": png(), "x/metadata.jsonl": rows})
    assert outcome(cfg) == {"x/a.png": ""}


def test_sidecars_hold_the_texts_where_there_is_no_metadata(tmp_path: Path) -> None:
    cfg = folder(tmp_path, {"a.png": png(), "a.txt": "A\n", "x/b.PNG": png(), "x/b.txt": "B"})
    assert [(row.key, row.alt) for row in read(cfg)] == [("a.png", "A"), ("x/b.PNG", "B")]


def test_the_first_of_several_captions_is_the_alt_text_and_the_others_are_texts(
    tmp_path: Path,
) -> None:
    rows = jsonl({"file_name": "a.png", "captions": ["one", "two", "three"]})
    (row,) = read(folder(tmp_path, {"a.png": png(), "metadata.jsonl": rows}))
    assert (row.alt, row.texts) == ("one", ["two", "three"])


def test_an_alt_column_leaves_all_captions_as_texts(tmp_path: Path) -> None:
    rows = jsonl({"file_name": "a.png", "title": "T", "captions": ["one", "two"]})
    files = {"a.png": png(), "metadata.jsonl": rows}
    (row,) = read(folder(tmp_path, files, alt_column="title"))
    assert (row.alt, row.texts) == ("T", ["one", "two"])


def test_rows_are_cut_into_chunks_without_loss(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{i}.png": png() for i in range(7)}
    files |= {f"{i}.txt": str(i) for i in range(7)}
    source = open_folder(folder(tmp_path, files, pictures_per_shard=3))
    assert [len(list(chunk.read())) for chunk in source.chunks] == [3, 3, 1]


def bomb(side: int) -> bytes:
    """Give a PNG of 100 bytes that promises side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + end

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + rows


GIF = BytesIO()
Image.new("L", (12, 12)).save(
    GIF, format="GIF", save_all=True, append_images=[Image.new("L", (12, 12), 255)]
)
DEEP = BytesIO()
Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12)).save(DEEP, format="PNG")


def test_every_bad_row_is_rejected_by_its_rule_and_good_ones_stay(tmp_path: Path) -> None:
    pictures = {
        "good.png": png(),
        "truncated.png": png(64, 64)[:60],
        "animated.gif": GIF.getvalue(),
        "cmyk.jpg": png(mode="CMYK", format="JPEG"),
        "deep.png": DEEP.getvalue(),
        "pixel.png": png(1, 1),
        "bomb.png": bomb(50_000),
        "text.jpg": b"I am a text",
        "empty_text.png": png(),
        "blank.png": png(),
        "null.png": png(),
        "number.png": png(),
        "twice.png": png(),
        "untold.png": png(),
    }
    rows = [
        {"file_name": name, "text": "fine"}
        for name in pictures
        if name not in {"empty_text.png", "blank.png", "null.png", "number.png", "untold.png"}
    ]
    rows += [
        {"file_name": "empty_text.png", "text": ""},
        {"file_name": "blank.png", "text": " \n"},
        {"file_name": "null.png", "text": None},
        {"file_name": "number.png", "text": 5},
        {"file_name": "gone.png", "text": "fine"},
        {"file_name": "/etc/passwd", "text": "fine"},
        {"file_name": "../secret.png", "text": "fine"},
        {"text": "no name"},
    ]
    lines = jsonl(*rows).encode()
    lines += b'{"file_name": "bytes.png", "text": "\xff\xfe"}\n{"file_name": oops\n'
    cfg = folder(tmp_path, {**pictures, "bytes.png": png(), "metadata.jsonl": lines})
    found = outcome(cfg)
    last = len(rows)
    assert found == {
        "good.png": "",
        "twice.png": "",
        "truncated.png": "truncated",
        "animated.gif": "animated",
        "cmyk.jpg": "cmyk",
        "deep.png": "sixteen_bit",
        "pixel.png": "too_small",
        "bomb.png": "too_many_pixels",
        "text.jpg": "not_an_image",
        "empty_text.png": "empty_text",
        "blank.png": "empty_text",
        "null.png": "missing_caption",
        "number.png": "not_text",
        "gone.png": "missing_image",
        "/etc/passwd": "unsafe_path",
        "../secret.png": "unsafe_path",
        "bytes.png": "not_utf8",
        "untold.png": "missing_caption",
        f"metadata.jsonl:{last}": "bad_metadata",
        f"metadata.jsonl:{last + 2}": "bad_metadata",
    }
    assert len(read(cfg)) == len(found)


def test_a_name_given_twice_counts_as_a_row_and_is_rejected(tmp_path: Path) -> None:
    rows = jsonl({"file_name": "a.png", "text": "A"}, {"file_name": "./a.png", "text": "B"})
    found = read(folder(tmp_path, {"a.png": png(), "metadata.jsonl": rows}))
    assert [getattr(row, "reason", "") for row in found] == ["", "duplicate_name"]


def test_sidecars_without_pictures_and_pictures_without_sidecars_are_rows(tmp_path: Path) -> None:
    files = {"a.png": png(), "a.jpg": png(), "b.png": png(), "c.txt": "C", "d.png": png()}
    cfg = folder(tmp_path, {**files, "a.txt": "A", "d.txt": b"\xff"})
    assert outcome(cfg) == {
        "a.jpg": "",
        "a.png": "duplicate_name",
        "b.png": "missing_caption",
        "c.txt": "missing_image",
        "d.png": "not_utf8",
    }


def test_a_sidecar_of_another_text_is_another_source(tmp_path: Path) -> None:
    digests = {
        open_folder(folder(tmp_path / text, {"a.png": png(), "a.txt": text})).digest
        for text in ("cat", "dog")
    }
    assert len(digests) == 2


def test_a_long_cell_and_half_a_letter_cost_no_other_row(tmp_path: Path) -> None:
    cells = f"file_name,text\na.png,{'x' * 200_000}\nb.png,B\n"
    cfg = folder(tmp_path / "csv", {"a.png": png(), "b.png": png(), "metadata.csv": cells})
    assert outcome(cfg) == {"a.png": "", "b.png": ""}
    rows = jsonl({"file_name": "a.png", "text": "A"}) + '{"file_name": "\\ud800", "text": "B"}\n'
    cfg = folder(tmp_path / "jsonl", {"a.png": png(), "metadata.jsonl": rows + "[" * 200_000})
    assert sorted(outcome(cfg).values()) == ["", "bad_metadata", "not_utf8"]


def test_a_csv_row_of_another_width_is_rejected(tmp_path: Path) -> None:
    rows = "file_name,text\na.png,A\nb.png\nc.png,C,more\n"
    found = outcome(folder(tmp_path, {"a.png": png(), "metadata.csv": rows}))
    assert found == {
        "a.png": "",
        "metadata.csv:3": "bad_metadata",
        "metadata.csv:4": "bad_metadata",
    }


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    cfg = folder(tmp_path, {"a.png": png(), "a.txt": b"\xef\xbb\xbfA"})
    assert [row.alt for row in read(cfg)] == ["A"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"readme.md": "x"}, {}, "no pictures found"),
        ({"a.png": png()}, {}, "1 pictures and no texts"),
        (
            {"a.png": png(), "metadata.jsonl": jsonl({"file_name": "a.png", "text": "A"})},
            {"alt_column": "titel"},
            r"no column 'titel' \(alt_column\); it has text",
        ),
        (
            {"a.png": png(), "metadata.jsonl": jsonl({"file_name": "a.png", "label": 3})},
            {},
            "no column holds texts under a known name.*it has label.*alt_column",
        ),
        (
            {"a.png": png(), "metadata.jsonl": jsonl({"name": "a.png", "text": "A"})},
            {},
            "no column `file_name`; it has name, text",
        ),
        (
            {"a.png": png(), "metadata.jsonl": "", "metadata.csv": ""},
            {},
            "both metadata.jsonl and metadata.csv",
        ),
        ({"a.png": png(), "a.txt": "A"}, {"alt_column": "text"}, "only .txt sidecars"),
    ],
)
def test_a_folder_that_the_user_can_mend_is_refused_at_once(
    tmp_path: Path, files: dict[str, bytes | str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_folder(folder(tmp_path, files, **options))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_folder(folder(tmp_path / "none", {}))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs are not here")
def test_the_thousand_photographs_are_all_found() -> None:
    cfg = IngestConfig(source="folder", name="photos", root=PHOTOS)
    rows = [row for chunk in open_folder(cfg).chunks for row in chunk.entries]
    assert len(rows) == 1000
    assert all(not isinstance(row, Rejected) and len(row.texts) == 4 for row in rows)
