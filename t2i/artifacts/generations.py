"""Generations: pictures in shards, and the index that says what each was drawn for.

N rows, H height, W width
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8
from PIL import Image

from launch.errors import ArtifactError
from launch.manifest import Manifest, read_manifest, write_parquet
from recap.artifacts import write_shard
from t2i.artifacts.contracts import GENERATIONS, VERSIONS, read_table, schema_of

GENERATIONS_SCHEMA = schema_of(
    GENERATIONS,
    [
        pa.field("generation_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("samples_seen", pa.int64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
    ],
)


class Member(NamedTuple):
    """Where one picture lies in its shard."""

    key: str
    offset: int
    num_bytes: int


class GenerationRow(NamedTuple):
    """One row of the index of generations."""

    generation_id: str
    prompt_id: str
    pair_id: str
    style: str
    seed: int
    samples_seen: int
    shard: str
    offset: int
    num_bytes: int
    key: str


def _png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    # Level 1: a generated picture is noise to zlib, and level 6 saves little for twice the time.
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def write_generation_shard(
    path: Path, *, keys: Sequence[str], pixels: Iterable[UInt8[np.ndarray, "H W 3"]]
) -> None:
    """Write pictures as PNG members of an uncompressed tar, whole or not at all.

    The bytes depend on keys and pixels alone: no time, owner or host is recorded.
    """
    named = zip(keys, pixels, strict=True)
    write_shard(path, ((f"{key}.png", _png(picture)) for key, picture in named))


def read_shard_members(path: Path) -> Iterator[Member]:
    """Yield where every picture of a shard lies, from the tar's own headers."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield Member(member.name.removesuffix(".png"), member.offset_data, member.size)


def write_generations_index(path: Path, rows: Iterable[GenerationRow]) -> None:
    """Write `index.parquet` of a generations artifact."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns = columns or [[] for _ in GenerationRow._fields]
    write_parquet(path, pa.table(columns, schema=GENERATIONS_SCHEMA))


@dataclass(frozen=True)
class Generations:
    """A generations artifact: `shards/*.tar` of PNG pictures and `index.parquet`.

    `manifest.recipe` names the model's `arm` and `model_seed`.
    """

    manifest: Manifest
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def arm(self) -> str:
        """Return the name of the model's arm."""
        return str(self.manifest.recipe["arm"])

    @property
    def model_seed(self) -> int:
        """Return the seed that the model was trained with."""
        return int(self.manifest.recipe["model_seed"])

    @property
    def samples_seen(self) -> list[int]:
        """Return the snapshots of the model that drew, earliest first; the last is the model."""
        return sorted(set(self.table["samples_seen"].to_pylist()))

    @cached_property
    def _places(self) -> tuple[list[str], Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        return (
            self.table["shard"].to_pylist(),
            self.table["offset"].to_numpy(),
            self.table["num_bytes"].to_numpy(),
        )

    def encoded(self, rows: Sequence[int] | Int64[np.ndarray, " N"]) -> list[bytes]:
        """Return the PNG bytes of some rows, in the order asked for."""
        shards, offsets, num_bytes = self._places
        files: dict[str, int] = {}
        pictures: list[bytes] = []
        try:
            for row in map(int, rows):
                shard = shards[row]
                if shard not in files:
                    files[shard] = os.open(self.manifest.folder / shard, os.O_RDONLY)
                picture = os.pread(files[shard], int(num_bytes[row]), int(offsets[row]))
                if len(picture) != num_bytes[row]:
                    raise ArtifactError(
                        f"{self.manifest.folder / shard}: ends at row {row} of index.parquet; "
                        "the shard was cut short, sample it again"
                    )
                pictures.append(picture)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename}: named in index.parquet, but absent") from None
        finally:
            for descriptor in files.values():
                os.close(descriptor)
        return pictures

    def pixels(self, rows: Sequence[int] | Int64[np.ndarray, " N"]) -> UInt8[np.ndarray, "N H W 3"]:
        """Return the pictures of some rows, in the order asked for; all have one size."""
        pictures = []
        for row, png in zip(rows, self.encoded(rows), strict=True):
            try:
                pictures.append(np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])))
            except (OSError, SyntaxError, ValueError) as error:
                raise ArtifactError(
                    f"{self.manifest.folder}: generation {self.table['generation_id'][int(row)]} "
                    f"cannot be read as a picture ({error}); sample it again"
                ) from error
        return np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)


def open_generations(folder: Path) -> Generations:
    """Open a generations artifact."""
    manifest = read_manifest(folder, artifact=GENERATIONS, version=VERSIONS[GENERATIONS])
    return Generations(manifest, read_table(Path(folder) / "index.parquet", GENERATIONS_SCHEMA))
