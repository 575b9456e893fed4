"""WebDataset shards: uncompressed tars whose members of one name form a row, indexed in place.

The members of a row share everything up to the first dot of the file name: `0001.jpg`, `0001.txt`,
`0001.json`. Nothing is copied: an index row says which bytes of which tar are the picture.
A compressed tar has no random access and is refused before work begins.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from launch.errors import InputError
from recap.config import IngestConfig
from recap.pictures import SUFFIXES
from recap.sources.source import (
    Chunk,
    Columns,
    Place,
    Rejected,
    Row,
    RowError,
    Source,
    SourceFile,
    choose_columns,
    identity,
    printable,
    require_root,
)
from recap.sources.tar import Damage, members

_PICTURES: Final = frozenset(suffix[1:] for suffix in SUFFIXES)
_MAGIC: Final = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard",
}  # fmt: skip
_COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")
_MAX_TEXT_BYTES: Final = 1 << 20
"""A longer .txt or .json member is no caption."""


@dataclass
class _Group:
    """Members of one row."""

    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class TarChunk(Chunk):
    """One tar of a source."""

    path: Path
    shard: str
    columns: Columns
    key_column: str | None
    is_reference: bool

    @property
    def source_file(self) -> SourceFile | None:
        """The tar itself where rows refer to it."""
        return SourceFile(self.shard, self.path) if self.is_reference else None

    def read(self) -> Iterator[Row | Rejected]:
        """Give the rows in the order in which their first members lie in the tar."""
        with self.path.open("rb") as file:
            groups, rejected = _group(file, self.shard)
            for key, group in groups.items():
                try:
                    yield self._row(file, key, group)
                except RowError as error:
                    yield Rejected(key, error.reason, f"{self.shard}: {error.detail}")
            yield from rejected

    def _row(self, file: BinaryIO, key: str, group: _Group) -> Row:
        if group.problem is not None:
            raise RowError(*group.problem)
        pictures = [name for name in group.members if name in _PICTURES]
        if not pictures:
            raise RowError("missing_image", f"has {', '.join(group.members)}")
        if len(pictures) > 1:
            raise RowError("duplicate_name", f"two pictures: {', '.join(pictures)}")
        fields = _fields(file, group)
        alt, texts = self.columns.read(fields)
        if self.key_column is not None:
            key = str(fields.get(self.key_column) or key)
        info = group.members[pictures[0]]
        return Row(
            key=key,
            data=_read(file, info),
            alt=alt,
            texts=texts,
            suffix=f".{pictures[0]}",
            place=Place(self.shard, info.offset_data, info.size),
        )


def open_webdataset(cfg: IngestConfig) -> Source:
    """Open a folder of tar shards, or one shard.

    Raises:
        InputError: Nothing is there, a tar is compressed or damaged from its first byte, or a
            named column is absent.
    """
    root = require_root(cfg.root, source="webdataset")
    if not root.exists():
        raise InputError(f"{root}: no such file or folder; expected tar shards.")
    if root.is_file():
        paths = [root]
    else:
        paths = sorted(p for p in root.rglob("*") if p.is_file() and _is_tar(p))
    if not paths:
        raise InputError(f"{root}: no files that end in .tar; expected WebDataset shards.")
    for path in paths:
        _refuse_compressed(path)
    names = [p.name if root.is_file() else p.relative_to(root).as_posix() for p in paths]
    path, fields = next(
        ((path, found) for path in paths if (found := _available(path))), (root, ["txt"])
    )
    columns = choose_columns(
        fields,
        alt_column=cfg.alt_column,
        texts_column=cfg.texts_column,
        where=str(path),
    )
    sizes = [path.stat().st_size for path in paths]
    is_reference = cfg.image_size is None
    chunks = [
        TarChunk(
            path=path.resolve(),
            shard=name,
            columns=columns,
            key_column=cfg.key_column,
            is_reference=is_reference,
        )
        for path, name in zip(paths, names, strict=True)
    ]
    return Source(
        path=str(root.resolve()),
        digest=identity(dict(zip(names, sizes, strict=True))),
        chunks=chunks,
        plan={
            "shards": len(paths),
            "GiB of shards": round(sum(sizes) / 2**30, 3),
            "pictures are": "left where they lie" if is_reference else "resized and copied",
        },
        num_bytes=0 if is_reference else sum(sizes),
    )


def _is_tar(path: Path) -> bool:
    return path.suffix == ".tar" or path.name.endswith(_COMPRESSED)


def _refuse_compressed(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    if kind is not None or path.name.endswith(_COMPRESSED):
        raise InputError(
            f"{path}: a compressed tar ({kind or path.suffix}) has no random access and cannot be "
            "indexed in place. Decompress it first; the pictures in it are compressed anyway."
        )
    if not head.strip(b"\0"):  # no file at all, or a tar of nothing: told when its turn comes
        return
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InputError(
            f"{path}: not a tar ({error}); expected WebDataset shards. Fetch it again, or take it "
            "out of the folder."
        ) from error


def _available(path: Path) -> list[str]:
    """List the text fields of the first good row with a picture: `txt`, and keys of its JSON.

    Nothing where no row has any.
    """
    with path.open("rb") as file:
        groups, _ = _group(file, path.name)
        for group in groups.values():
            if group.problem is None and _PICTURES & set(group.members):
                try:
                    fields = list(_fields(file, group))
                except RowError:
                    continue  # rejected by name when its turn comes
                if fields:
                    return fields
    return []


def _group(file: BinaryIO, shard: str) -> tuple[dict[str, _Group], list[Rejected]]:
    """Sort members into rows, in the order of their first member.

    Returns:
        Rows by key; and what is beyond any row: repeated members and damage to the tar.
    """
    groups: dict[str, _Group] = {}
    rejected = []
    size = file.seek(0, 2)
    for info in members(file):
        if isinstance(info, Damage):
            rejected.append(Rejected(shard, info.reason, info.detail))
            continue
        if info.isdir():
            continue
        key, _, name = _split(info.name)
        group = groups.setdefault(key, _Group())
        if name in group.members:
            detail = f"{shard}: a second {printable(info.name)}"
            rejected.append(Rejected(key, "duplicate_name", detail))
            continue
        group.members[name] = info
        problem = _problem(info, size)
        group.problem = group.problem or problem
    return groups, rejected


def _split(name: str) -> tuple[str, str, str]:
    """Split a member's name at the first dot of its file name."""
    shown = printable(name)
    folder, slash, base = shown.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return f"{folder}{slash}{stem}", dot, suffix.lower()


def _problem(info: tarfile.TarInfo, size: int) -> tuple[str, str] | None:
    path = PurePosixPath(info.name)
    shown = printable(info.name)
    if path.is_absolute() or ".." in path.parts or "\\" in info.name:
        return "unsafe_path", f"member {shown!r} leaves the folder"
    if not info.isreg() or info.issparse():
        return "not_a_file", f"member {shown!r} is a link, a device or sparse"
    if info.offset_data + info.size > size:
        return "truncated", f"member {shown!r} ends after the tar"
    return None


def _read(file: BinaryIO, info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    return file.read(info.size)


def _fields(file: BinaryIO, group: _Group) -> dict[str, Any]:
    """Read the texts of a row: `txt` from its .txt, other fields from its .json.

    Raises:
        RowError: A text member is too long, or the JSON cannot be read.
    """
    fields: dict[str, Any] = {}
    for name in ("txt", "json"):
        info = group.members.get(name)
        if info is None:
            continue
        if info.size > _MAX_TEXT_BYTES:
            raise RowError("not_text", f".{name} of {info.size:,} bytes")
        data = _read(file, info)
        if name == "txt":
            fields["txt"] = data
            continue
        try:
            loaded = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RowError("bad_metadata", f"JSON: {error}") from error
        if isinstance(loaded, dict):
            fields |= {key: value for key, value in loaded.items() if key != "txt"}
    return fields
