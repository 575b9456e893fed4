"""Images: one row per picture, in the order of the shards in which the pictures lie.

images/version 1
    index.parquet      one row per accepted picture
    rejected.parquet   one row per rejected picture: key, reason, detail
    shards/*.tar       uncompressed, in the WebDataset layout; absent where `shard` refers to the
                       source's own tars, which lie below the manifest's `source` input
    sources.parquet    only there: digest of every tar of the source
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from PIL.Image import Image

from launch import manifest as manifests
from launch.errors import ArtifactError
from launch.manifest import Manifest
from recap import pictures
from recap.artifacts.contracts import (
    IMAGES,
    STRINGS,
    VERSION,
    check_schema,
    read_table,
    schema_of,
)
from recap.claims import Claim, from_json

MAPPED_SHARDS: Final = 4
"""Shards mapped at a time: what has been read of a mapped one counts as memory of the process."""
_MAPS_LOCK: Final = threading.Lock()
"""Held while a shard takes another's place: several threads read pictures."""
SPLITS: Final = ("train", "judge", "test")
INDEX: Final = "index.parquet"
REJECTED: Final = "rejected.parquet"
SOURCES: Final = "sources.parquet"

INDEX_SCHEMA: Final = schema_of(
    "images.index",
    [
        ("sample_id", pa.string(), False),
        ("shard", pa.string(), False),
        ("key", pa.string(), False),
        ("offset", pa.int64(), False),
        ("num_bytes", pa.int64(), False),
        ("width", pa.int32(), False),
        ("height", pa.int32(), False),
        ("alt", pa.string(), False),
        ("split", pa.string(), False),
        ("claims", pa.string(), True),
        ("texts", STRINGS, True),
    ],
)
REJECTED_SCHEMA: Final = schema_of(
    "images.rejected",
    [("key", pa.string(), False), ("reason", pa.string(), False), ("detail", pa.string(), False)],
)
SOURCES_SCHEMA: Final = schema_of(
    "images.sources",
    [
        ("shard", pa.string(), False),
        ("num_bytes", pa.int64(), False),
        ("digest", pa.string(), False),
    ],
)


def make_sample_id(name: str, key: str) -> str:
    """Give the identity of the item `key` of the source `name`, wherever its files lie."""
    return manifests.digest_bytes(f"{name}\0{key}".encode())


@dataclass(frozen=True, kw_only=True)
class Images:
    """An open images artifact. Rows are numbered as in `table`.

    The index is read and shards are mapped when first asked for.

    N rows asked for, S side in pixels
    """

    manifest: Manifest
    """What the folder is and what it was made from."""

    folder: Path
    """Folder of the artifact."""

    _maps: dict[str, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        """Number of pictures."""
        return int(pq.read_metadata(self.folder / INDEX).num_rows)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when sent to another process."""
        kept = ("manifest", "folder")
        return {**{name: getattr(self, name) for name in kept}, "_maps": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state as it was sent."""
        self.__dict__.update(state)

    @cached_property
    def table(self) -> pa.Table:
        """The whole index, INDEX_SCHEMA."""
        return read_table(self.folder / INDEX, INDEX_SCHEMA)

    def scan(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Yield some columns of the index block by block, which keeps none of it in memory."""
        file = pq.ParquetFile(self.folder / INDEX)
        yield from file.iter_batches(columns=list(columns))

    @cached_property
    def sample_ids(self) -> list[str]:
        """Identity of each row."""
        return self._column("sample_id")

    @cached_property
    def alt(self) -> list[str]:
        """Alt text of each row."""
        return self._column("alt")

    @cached_property
    def split(self) -> list[str]:
        """Split of each row, one of SPLITS."""
        return self._column("split")

    @cached_property
    def texts(self) -> list[list[str] | None]:
        """Further people's texts of each row, the alt text not among them."""
        return self._column("texts")

    @cached_property
    def claims(self) -> list[list[Claim] | None]:
        """What is true of each row, where that is known."""
        return [None if text is None else from_json(text) for text in self._column("claims")]

    @cached_property
    def shards(self) -> list[str]:
        """Shards in the order of their rows; also the parts of captioning work."""
        return list(dict.fromkeys(self._shard_of))

    @cached_property
    def _shard_of(self) -> list[str]:
        return self._column("shard")

    @cached_property
    def _offsets(self) -> list[tuple[int, int]]:
        return list(zip(self._column("offset"), self._column("num_bytes"), strict=True))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self.sample_ids)}

    def _column(self, name: str) -> list[Any]:
        return list(self.table[name].to_pylist())

    def rows(self, split: str | None = None) -> Int64[np.ndarray, "N"]:
        """Give the numbers of all rows of a split, or of all rows, ascending."""
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        return np.flatnonzero(np.array(self.split, dtype=object) == split).astype(np.int64)

    def shard_rows(self, shard: str) -> Int64[np.ndarray, "N"]:
        """Give the numbers of a shard's rows, ascending."""
        return self._rows_of.get(shard, np.empty(0, dtype=np.int64))

    @cached_property
    def _rows_of(self) -> dict[str, Int64[np.ndarray, "N"]]:
        """Rows by shard, in one pass whatever the number of shards."""
        codes = self.table["shard"].combine_chunks().dictionary_encode()
        numbers = codes.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(numbers, kind="stable").astype(np.int64)
        ends = np.cumsum(np.bincount(numbers, minlength=len(codes.dictionary)))
        starts = [0, *ends[:-1]]
        found = zip(codes.dictionary.to_pylist(), starts, ends, strict=False)
        return {shard: order[start:end] for shard, start, end in found}

    def row_of(self, sample_id: str) -> int:
        """Give the row number of a picture.

        Raises:
            KeyError: The artifact has no such picture.
        """
        return self._row_of[sample_id]

    def read(self, row: int) -> bytes:
        """Give the stored bytes of a picture."""
        offset, num_bytes = self._offsets[row]
        return self._map(self._shard_of[row])[offset : offset + num_bytes]

    def pixels(
        self,
        rows: Sequence[int] | Int64[np.ndarray, "N"],
        *,
        size: int,
        square: pictures.Square = pictures.MIDDLE,
    ) -> UInt8[np.ndarray, "N S S 3"]:
        """Decode pictures, made square (centre-cropped, if nothing else is said), in RGB.

        Raises:
            ArtifactError: A picture that was readable at ingestion no longer is.
        """
        out = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        for place, row in enumerate(rows):
            try:
                out[place] = pictures.pixels(
                    self.read(int(row)), size=size, max_pixels=pictures.NO_LIMIT, square=square
                )
            except pictures.PictureError as error:
                raise self._changed(int(row), error) from error
        return out

    def picture(self, row: int) -> Image:
        """Decode a picture in its own shape, in RGB.

        Raises:
            ArtifactError: It was readable at ingestion and no longer is.
        """
        try:
            return pictures.decode(self.read(int(row)), max_pixels=pictures.NO_LIMIT)
        except pictures.PictureError as error:
            raise self._changed(int(row), error) from error

    def _changed(self, row: int, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{self._path(self._shard_of[row])}: picture {self.sample_ids[row]} at byte "
            f"{self._offsets[row][0]} was readable when it was ingested and is now "
            f"refused ({error}); the shard has changed. Ingest the source again."
        )

    def _path(self, shard: str) -> Path:
        """Find a shard: below the folder, or where the source's own tars lie."""
        if self.is_reference:
            source = next(i for i in self.manifest.inputs if i.role == "source")
            root = Path(source.path)
            return root if root.is_file() else root / shard
        return self.folder / shard

    @property
    def is_reference(self) -> bool:
        """True where the shards are the source's own and nothing was copied."""
        return self.manifest.recipe.get("storage") == "reference"

    def _map(self, shard: str) -> mmap.mmap:
        found = self._maps.get(shard)
        if found is None:
            path = self._path(shard)
            if not path.is_file():
                raise ArtifactError(
                    f"{path}: no such shard; {self.folder} refers to it. Put it back, or ingest "
                    "the source from where it lies now."
                )
            with path.open("rb") as file:
                found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with _MAPS_LOCK:
                while len(self._maps) >= MAPPED_SHARDS:
                    # Not closed: another thread may be reading in it. It goes with its last user.
                    del self._maps[next(iter(self._maps))]
                self._maps[shard] = found
        return found


def open_images(folder: Path) -> Images:
    """Open a complete images artifact.

    Raises:
        ArtifactError: The folder is absent, incomplete or something else.
    """
    folder = Path(folder)
    manifest = manifests.read_manifest(folder, artifact=IMAGES, version=VERSION)
    check_schema(folder / INDEX, INDEX_SCHEMA)
    return Images(manifest=manifest, folder=folder)
