"""Anything that `datasets` loads: a hub id, a local folder of parquet, or a saved arrow folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from launch.errors import InputError
from launch.manifest import digest_bytes
from recap.config import IngestConfig
from recap.pictures import SUFFIXES
from recap.sources.source import (
    Chunk,
    Columns,
    Rejected,
    Row,
    RowError,
    Source,
    choose_columns,
    identity,
    require_root,
)

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_STATE: Final = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})
"""Files of `datasets` that tell how rows were come by, and hold none."""

_END_BYTES: Final = 1 << 16

_ARROW: Final = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class DatasetChunk(Chunk):
    """Some consecutive rows of one split; the rows stay in their memory-mapped files."""

    rows: Dataset
    split: str
    start: int
    image_column: str
    key_column: str | None
    columns: Columns

    def read(self) -> Iterator[Row | Rejected]:
        """Give the rows; pictures are read as bytes, not decoded."""
        for index, row in enumerate(self.rows, start=self.start):
            key = f"{self.split}/{index:09d}"
            if self.key_column is not None:
                key = str(row[self.key_column])
            try:
                yield self._row(key, row)
            except RowError as error:
                yield Rejected(key, error.reason, error.detail)

    def _row(self, key: str, row: dict[str, Any]) -> Row:
        picture = row[self.image_column]
        if picture is None:
            raise RowError("missing_image", f"column {self.image_column} is null")
        data, path = picture.get("bytes"), picture.get("path")
        if data is None:
            if path is None or not Path(path).is_file():
                raise RowError("missing_image", f"no bytes, and no file at {path}")
            data = Path(path).read_bytes()
        alt, texts = self.columns.read(row)
        suffix = PurePosixPath(path or "").suffix.lower()
        suffix = suffix if suffix in SUFFIXES else ".img"
        return Row(key=key, data=data, alt=alt, texts=texts, suffix=suffix)


def open_dataset(cfg: IngestConfig) -> Source:
    """Open what `datasets` loads.

    Raises:
        InputError: It cannot be loaded, has no column of pictures, or lacks a named column.
    """
    root = require_root(cfg.root, source="datasets")
    loaded = _load(root)
    chunks = []
    shapes = []
    for split, rows in loaded.items():
        image_column = _image_column(rows, where=f"{root}, split {split}")
        names = [name for name in rows.column_names if name != image_column]
        where = f"{root}, split {split}"
        columns = choose_columns(
            names, alt_column=cfg.alt_column, texts_column=cfg.texts_column, where=where
        )
        if cfg.key_column is not None and cfg.key_column not in names:
            raise InputError(
                f"{where}: no column {cfg.key_column!r} (key_column); it has {', '.join(names)}."
            )
        # Without decoding, a damaged picture is ours to reject and not an error in the loader.
        from datasets import Image

        kept = {image_column, columns.alt, columns.texts, cfg.key_column}
        rows = rows.cast_column(image_column, Image(decode=False))
        rows = rows.select_columns([str(name) for name in rows.column_names if name in kept])
        shapes.append([str(split), len(rows), sorted(loaded[split].column_names)])
        for start in range(0, len(rows), cfg.pictures_per_shard):
            stop = min(start + cfg.pictures_per_shard, len(rows))
            chunks.append(
                DatasetChunk(
                    rows=rows.select(range(start, stop)),
                    split=str(split),
                    start=start,
                    image_column=image_column,
                    key_column=cfg.key_column,
                    columns=columns,
                )
            )
    num_rows = sum(shape[1] for shape in shapes)
    if not num_rows:
        raise InputError(f"{root}: the data set has no rows.")
    num_bytes = sum(rows.dataset_size or 0 for rows in loaded.values())
    return Source(
        path=str(root.resolve() if root.exists() else root),
        digest=identity(["datasets", shapes, _content(root, loaded)]),
        chunks=chunks,
        plan={"rows": num_rows, "splits": ", ".join(map(str, loaded))},
        num_bytes=num_bytes + 2560 * num_rows,
    )


def _content(root: Path, loaded: DatasetDict) -> list[list[object]]:
    """Return names and sizes of the data set's files, and of all but pictures both ends' digest.

    The whole may be terabytes. A parquet file's end has the sizes and bounds of all its columns, an
    arrow file's beginning its first rows. Of a hub's data set they are the files of its cache,
    whose names differ from machine to machine.
    """
    if root.is_dir():
        files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name not in _STATE]
        return [[p.relative_to(root).as_posix(), *_ends(p)] for p in files]
    cached = [Path(file["filename"]) for rows in loaded.values() for file in rows.cache_files]
    return [_ends(path) for path in cached]


def _ends(path: Path) -> list[object]:
    size = path.stat().st_size
    if path.suffix.lower() in SUFFIXES:  # a million small files would take longer than their rows
        return [size]
    with path.open("rb") as file:
        head = file.read(_END_BYTES)
        file.seek(max(size - _END_BYTES, 0))
        return [size, digest_bytes(head + file.read())]


def _load(root: Path) -> DatasetDict:
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    try:
        is_arrow = any((root / name).is_file() for name in _ARROW)
        loaded = load_from_disk(str(root)) if is_arrow else load_dataset(str(root))
    # `datasets` raises errors of many kinds, its own and of what it builds on.
    except Exception as error:
        raise InputError(
            f"{root}: `datasets` cannot load it ({type(error).__name__}: {error}). Expected a hub "
            "id, a folder of parquet files, or a folder written by save_to_disk."
        ) from error
    return DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded


def _image_column(rows: Dataset, *, where: str) -> str:
    from datasets import Image

    names = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    if not names:
        # Parquet written elsewhere holds pictures as {bytes, path} without saying so.
        names = [
            name
            for name, feature in rows.features.items()
            if isinstance(feature, dict) and set(feature) == {"bytes", "path"}
        ]
    if len(names) != 1:
        found = ", ".join(f"{name} ({kind})" for name, kind in rows.features.items())
        raise InputError(
            f"{where}: expected one column of pictures, found {len(names)}; it has {found[:500]}."
        )
    return str(names[0])
