"""A folder of images with `metadata.jsonl` or `metadata.csv`, or with .txt sidecars.

A metadata file is as `datasets` reads it: it names pictures by `file_name`, relative to its own
folder, and may lie in any folder below the root. Without one, the text of `cat.jpg` is `cat.txt`.
A picture that no text belongs to and a text that no picture belongs to are rows too, and are
rejected as such.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from launch.errors import InputError
from launch.manifest import canonical_json, digest_bytes, digest_file
from recap.config import IngestConfig
from recap.pictures import SUFFIXES
from recap.sources.source import (
    LONGEST_CELL,
    Chunk,
    Columns,
    Rejected,
    Row,
    RowError,
    Source,
    check_text,
    choose_columns,
    identity,
    printable,
    require_root,
)

METADATA: Final = ("metadata.jsonl", "metadata.csv")
"""Names of metadata files."""


class _Entry(NamedTuple):
    """A row as planned; its picture is read later, in a worker."""

    key: str
    alt: str
    texts: list[str] | None


@dataclass(frozen=True, kw_only=True)
class FolderChunk(Chunk):
    """Some consecutive rows of a folder."""

    root: Path
    entries: list[_Entry | Rejected]

    def read(self) -> Iterator[Row | Rejected]:
        """Read the pictures' files."""
        for entry in self.entries:
            if isinstance(entry, Rejected):
                yield entry
                continue
            try:
                data = (self.root / entry.key).read_bytes()
            except OSError as error:
                reason = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable"
                yield Rejected(entry.key, reason, type(error).__name__)
                continue
            suffix = PurePosixPath(entry.key).suffix.lower()
            yield Row(key=entry.key, data=data, alt=entry.alt, texts=entry.texts, suffix=suffix)


class _Files(NamedTuple):
    """What lies below a root, as paths relative to it in sorted order, with sizes."""

    pictures: dict[str, int]
    sidecars: dict[str, int]
    metadata: list[str]


def open_folder(cfg: IngestConfig) -> Source:
    """Open a folder of images.

    Raises:
        InputError: The folder is absent or has no pictures or texts, or a named column is absent.
    """
    root = require_root(cfg.root, source="folder")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder of images.")
    files = _list(root)
    if not files.pictures:
        raise InputError(
            f"{root}: no pictures found; expected files that end in {', '.join(SUFFIXES)}."
        )
    if files.metadata:
        entries = _from_metadata(root, files, cfg)
    elif files.sidecars:
        if cfg.alt_column or cfg.texts_column:
            raise InputError(
                f"{root}: alt_column and texts_column name columns of a metadata file, and there "
                f"is none ({' or '.join(METADATA)}), only .txt sidecars. Leave them out."
            )
        entries = _from_sidecars(root, files)
    else:
        raise InputError(
            f"{root}: {len(files.pictures):,} pictures and no texts; expected {METADATA[0]} or "
            f"{METADATA[1]} with `file_name` and a text column, or a .txt file beside each picture."
        )
    per_shard = cfg.pictures_per_shard
    chunks = [
        FolderChunk(root=root, entries=entries[start : start + per_shard])
        for start in range(0, len(entries), per_shard)
    ]
    texts = {name: digest_file(root / name) for name in files.metadata}
    return Source(
        path=str(root.resolve()),
        digest=identity([files.pictures, _digest_texts(entries) if not texts else "", texts]),
        chunks=chunks,
        plan={
            "pictures": len(files.pictures),
            "texts": ", ".join(files.metadata[:3]) or f"{len(files.sidecars):,} .txt sidecars",
        },
        num_bytes=_output_bytes(cfg, list(files.pictures.values())),
    )


def _digest_texts(entries: Sequence[_Entry | Rejected]) -> str:
    """Digest what sidecars say: a text may change and keep its length."""
    said = [[e.key, e.alt if isinstance(e, _Entry) else e.reason] for e in entries]
    return digest_bytes(canonical_json(said))


def _output_bytes(cfg: IngestConfig, sizes: list[int]) -> int:
    if cfg.image_size is None:
        return sum(sizes) + 2560 * len(sizes)
    return len(sizes) * (2 * cfg.image_size**2 + 2560)


def _list(root: Path) -> _Files:
    pictures, sidecars, metadata = {}, {}, []
    for folder, folders, names in os.walk(root):
        # Sorted: directory order differs between file systems.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            suffix = path.suffix.lower()
            if name in METADATA:
                metadata.append(key)
            elif name.startswith("."):
                continue
            elif suffix in SUFFIXES and path.is_file():
                pictures[printable(key)] = path.stat().st_size
            elif suffix == ".txt":
                sidecars[printable(key)] = path.stat().st_size
    return _Files(dict(sorted(pictures.items())), dict(sorted(sidecars.items())), sorted(metadata))


# --- Metadata ------------------------------------------------------------------------------------


class _Line(NamedTuple):
    where: str
    row: dict[str, Any] | None
    problem: str


def _from_metadata(root: Path, files: _Files, cfg: IngestConfig) -> list[_Entry | Rejected]:
    entries: list[_Entry | Rejected] = []
    seen: set[str] = set()
    folders = [PurePosixPath(name).parent for name in files.metadata]
    for name, folder in zip(files.metadata, folders, strict=True):
        if folders.count(folder) > 1:
            raise InputError(
                f"{root / folder}: has both {' and '.join(METADATA)}; expected one. Remove one."
            )
        lines, columns = _read_lines(root / name)
        if "file_name" not in columns:
            raise InputError(
                f"{root / name}: no column `file_name`; it has {', '.join(columns) or 'none'}."
            )
        chosen = choose_columns(
            [c for c in columns if c != "file_name"],
            alt_column=cfg.alt_column,
            texts_column=cfg.texts_column,
            where=str(root / name),
        )
        for line in lines:
            entry = _entry(line, f"{name}:{line.where}", folder, chosen)
            if entry.key in seen:
                entry = Rejected(entry.key, "duplicate_name", f"again in {name}:{line.where}")
            elif isinstance(entry, _Entry) or entry.reason != "bad_metadata":
                seen.add(entry.key)
            entries.append(entry)
    unnamed = [key for key in files.pictures if key not in seen]
    entries += [Rejected(key, "missing_caption", "no metadata names it") for key in unnamed]
    return entries


def _entry(line: _Line, where: str, folder: PurePosixPath, columns: Columns) -> _Entry | Rejected:
    if line.row is None:
        return Rejected(where, "bad_metadata", line.problem)
    name = line.row.get("file_name")
    if not isinstance(name, str) or not name:
        return Rejected(where, "bad_metadata", "`file_name` is missing or not text")
    path = PurePosixPath(name)
    shown = printable(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return Rejected(shown, "unsafe_path", f"{where}: leaves the folder of images")
    if shown != name:
        return Rejected(shown, "not_utf8", f"{where}: `file_name`")
    key = (folder / path).as_posix()
    try:
        alt, texts = columns.read(line.row)
    except RowError as error:
        return Rejected(key, error.reason, f"{where}: {error.detail}")
    return _Entry(key, alt, texts)


def _read_lines(path: Path) -> tuple[list[_Line], list[str]]:
    """Read all rows of a metadata file and the columns that occur, in order of appearance."""
    # Bytes that are not UTF-8 become lone surrogates, by which their rows are known later.
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if path.suffix == ".csv":
        return _read_csv(path, text)
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            lines.append(_Line(str(number), None, f"not JSON: {error}"))
            continue
        if isinstance(row, dict):
            lines.append(_Line(str(number), row, ""))
        else:
            lines.append(_Line(str(number), None, f"expected an object, got {type(row).__name__}"))
    return lines, list(dict.fromkeys(c for line in lines for c in line.row or ()))


def _read_csv(path: Path, text: str) -> tuple[list[_Line], list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    lines = []
    try:
        columns = list(reader.fieldnames or ())
        for row in reader:
            where = str(reader.line_num)
            if None in row or None in row.values():
                lines.append(_Line(where, None, "another number of cells than the header"))
            else:
                lines.append(_Line(where, row, ""))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: not CSV: {error}. Mend that line, or take it out."
        ) from error
    return lines, columns


# --- Sidecars ------------------------------------------------------------------------------------


def _from_sidecars(root: Path, files: _Files) -> list[_Entry | Rejected]:
    entries: list[_Entry | Rejected] = []
    texts = {name.removesuffix(PurePosixPath(name).suffix): name for name in files.sidecars}
    taken: dict[str, str] = {}
    for key in files.pictures:
        stem = key.removesuffix(PurePosixPath(key).suffix)
        if stem not in texts:
            entries.append(Rejected(key, "missing_caption", "no .txt of this name"))
        elif stem in taken:
            detail = f"{taken[stem]} has the same .txt"
            entries.append(Rejected(key, "duplicate_name", detail))
        else:
            taken[stem] = key
            try:
                alt = check_text((root / texts[stem]).read_bytes())
                entries.append(_Entry(key, alt.rstrip("\r\n"), None))
            except RowError as error:
                entries.append(Rejected(key, error.reason, error.detail))
            except OSError as error:
                entries.append(Rejected(key, "missing_caption", type(error).__name__))
    for stem, name in texts.items():
        if stem not in taken:
            entries.append(Rejected(name, "missing_image", "no picture of this name"))
    return entries
