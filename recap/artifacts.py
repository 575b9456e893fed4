"""The folders of stage 1: images and captions, their schemas, readers and writers. Free of torch.

images/version 1
    index.parquet      one row per accepted picture, in the order of the shards
    rejected.parquet   one row per rejected picture: key, reason, detail
    shards/*.tar       uncompressed, in the WebDataset layout; absent where `shard` refers to the
                       source's own tars, which lie below the manifest's `source` input
    sources.parquet    only there: digest of every tar of the source
captions/version 1
    parts/part-*.parquet        accepted captions, one part per image shard
    quarantine/part-*.parquet   gated captions, the same schema, `flags` holding the rules; absent
                                where no rules were applied
captioner/version 1: config.json, model.safetensors, tokenizer.json
tagger/version 1: config.json, model.safetensors, selected_tags.csv (tags, and the confidence from
    which each is said), quality.json
text_encoder/version 1: what stage 2 reads texts with, in the layout of transformers; a captioner's
    text tower can be one
"""

from __future__ import annotations

import mmap
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from PIL.Image import Image

from launch import manifest as manifests
from launch.errors import ArtifactError
from launch.manifest import Manifest
from recap import pictures
from recap.claims import Claim, from_json

IMAGES: Final = "images"
CAPTIONS: Final = "captions"
CAPTIONER: Final = "captioner"
TAGGER: Final = "tagger"
TEXT_ENCODER: Final = "text_encoder"
VERSION: Final = 1
"""Version of all five contracts."""

MAPPED_SHARDS: Final = 4
"""Shards mapped at a time: what has been read of a mapped one counts as memory of the process."""

_MAPS_LOCK: Final = threading.Lock()
"""Held while a shard takes another's place: several threads read pictures."""

SPLITS: Final = ("train", "judge", "test")
INDEX: Final = "index.parquet"
REJECTED: Final = "rejected.parquet"
SOURCES: Final = "sources.parquet"


def make_sample_id(name: str, key: str) -> str:
    """Give the identity of the item `key` of the source `name`, wherever its files lie."""
    return manifests.digest_bytes(f"{name}\0{key}".encode())


def _schema(name: str, fields: Iterable[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    """Make a schema that carries its contract; the third of each triple says "may be null"."""
    metadata = {"captionmix.artifact": name, "captionmix.version": str(VERSION)}
    return pa.schema([pa.field(n, t, nullable=null) for n, t, null in fields], metadata=metadata)


_STRINGS: Final = pa.list_(pa.field("element", pa.string(), nullable=False))

INDEX_SCHEMA: Final = _schema(
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
        ("texts", _STRINGS, True),
    ],
)
REJECTED_SCHEMA: Final = _schema(
    "images.rejected",
    [("key", pa.string(), False), ("reason", pa.string(), False), ("detail", pa.string(), False)],
)
SOURCES_SCHEMA: Final = _schema(
    "images.sources",
    [
        ("shard", pa.string(), False),
        ("num_bytes", pa.int64(), False),
        ("digest", pa.string(), False),
    ],
)
CAPTIONS_SCHEMA: Final = _schema(
    "captions",
    [
        ("sample_id", pa.string(), False),
        ("kind", pa.string(), False),
        ("text", pa.string(), False),
        ("num_tokens", pa.int32(), True),
        ("stop_reason", pa.string(), True),
        ("mean_logprob", pa.float32(), True),
        ("flags", _STRINGS, False),
    ],
)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a parquet file that must have a schema of this module.

    Raises:
        ArtifactError: It is absent or has other columns or another version.
    """
    check_schema(path, schema)
    return pq.read_table(path)


def check_schema(path: Path, schema: pa.Schema) -> None:
    """Read the foot of a parquet file that must have a schema of this module.

    Raises:
        ArtifactError: It is absent or has other columns or another version.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; the folder is not complete. Make it again.")
    stored = pq.read_schema(path)
    found = stored.remove_metadata()
    metadata = {k: v for k, v in (stored.metadata or {}).items() if k in schema.metadata}
    if not found.equals(schema.remove_metadata()) or metadata != schema.metadata:
        raise ArtifactError(
            f"{path}: has columns {', '.join(found.names)} of {metadata or 'no contract'}, "
            f"expected {', '.join(schema.names)} of {schema.metadata}. Make the folder again."
        )


# --- Images --------------------------------------------------------------------------------------


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
        return np.flatnonzero(np.array(self._shard_of, dtype=object) == shard).astype(np.int64)

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


class TarPlace(NamedTuple):
    """Where a member's bytes lie in a shard."""

    offset: int
    num_bytes: int


class ShardWriter:
    """An uncompressed tar with the same bytes for the same members: no times, no owners."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> ShardWriter:
        """Begin the tar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Pad the tar as the format asks and close it."""
        self._file.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))
        self._file.close()

    def add(self, name: str, data: bytes) -> TarPlace:
        """Append one member and say where its bytes lie."""
        self._file.write(_tar_header(name, len(data)))
        place = TarPlace(offset=self._file.tell(), num_bytes=len(data))
        self._file.write(data)
        self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return place


def _tar_header(name: str, num_bytes: int) -> bytes:
    """Give the header of a USTAR member: mode 644, owner 0, time 0.

    `tarfile` gives the same bytes six times more slowly, which would be a tenth of ingestion.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"a member's name has at most 100 characters, got {name!r}")
    zero = "0000000\0"
    header = bytearray(tarfile.BLOCKSIZE)
    header[: len(encoded)] = encoded
    header[100:148] = f"0000644\0{zero}{zero}{num_bytes:011o}\0{0:011o}\0".encode()
    header[148:156] = b" " * 8  # the checksum is taken with blanks in its own place
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> list[TarPlace]:
    """Write a shard whole or not at all, and say where each member's bytes lie."""
    with manifests.atomic_path(path) as temporary, ShardWriter(temporary) as shard:
        return [shard.add(name, data) for name, data in members]


# --- Captions ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CaptionRow:
    """One text of one picture, as it is stored."""

    sample_id: str
    """The picture."""

    kind: str
    """Who wrote it and in which style."""

    text: str
    """The caption."""

    num_tokens: int | None = None
    """Its length in tokens of the captioner that wrote it."""

    stop_reason: str | None = None
    """Why decoding ended: `end` or `length`."""

    mean_logprob: float | None = None
    """Mean log-probability of its tokens, nats."""

    flags: tuple[str, ...] = ()
    """Rules that quarantined it; empty where accepted."""


def caption_part_name(index: int, *, is_quarantine: bool = False) -> str:
    """Name the part that holds the captions of image shard number `index`."""
    return f"{'quarantine' if is_quarantine else 'parts'}/part-{index:05d}.parquet"


def write_caption_part(path: Path, rows: Iterable[CaptionRow]) -> None:
    """Write one part of accepted or quarantined captions, whole or not at all."""
    columns: dict[str, list[Any]] = {name: [] for name in CAPTIONS_SCHEMA.names}
    for row in rows:
        for name, values in columns.items():
            value = getattr(row, name)
            values.append(list(value) if name == "flags" else value)
    manifests.write_parquet(path, pa.table(columns, schema=CAPTIONS_SCHEMA))


@dataclass(frozen=True, kw_only=True)
class Captions:
    """An open captions artifact; its parts are read when first asked for."""

    manifest: Manifest
    """What the folder is and what it was made from."""

    folder: Path
    """Folder of the artifact."""

    @cached_property
    def table(self) -> pa.Table:
        """Accepted captions of all parts, CAPTIONS_SCHEMA."""
        return _read_parts(self.folder, self.manifest, "parts/")

    @cached_property
    def kinds(self) -> list[str]:
        """Kinds that have at least one accepted caption, sorted."""
        found: set[str] = set()
        for path in self._parts:
            for block in pq.ParquetFile(path).iter_batches(columns=["kind"]):
                found.update(block["kind"].unique().to_pylist())
        return sorted(found)

    def scan(self, kind: str) -> Iterator[pa.RecordBatch]:
        """Yield `sample_id` and `text` of the accepted captions of a kind, block by block."""
        for path in self._parts:
            columns = ["sample_id", "text", "kind"]
            for block in pq.ParquetFile(path).iter_batches(columns=columns):
                yield block.filter(pc.equal(block["kind"], kind)).select(["sample_id", "text"])

    @property
    def _parts(self) -> list[Path]:
        return _part_files(self.folder, self.manifest, "parts/")

    def texts(self, kind: str) -> dict[str, str]:
        """Give the accepted text of each picture, by sample_id.

        Raises:
            ArtifactError: The artifact has no caption of this kind.
        """
        found = self._by_kind.get(kind)
        if found is None:
            raise ArtifactError(
                f"{self.folder}: has no captions of kind {kind!r}, it has {', '.join(self.kinds)}."
            )
        return dict(found)

    @cached_property
    def _by_kind(self) -> Mapping[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        columns = [self.table[name].to_pylist() for name in ("kind", "sample_id", "text")]
        for kind, sample_id, text in zip(*columns, strict=True):
            texts = found.setdefault(kind, {})
            if sample_id in texts:
                raise ArtifactError(
                    f"{self.folder}: picture {sample_id} has two captions of kind {kind!r}; "
                    "expected one. Make the folder again."
                )
            texts[sample_id] = text
        return found

    def quarantined(self) -> pa.Table:
        """Give the gated captions of all parts, CAPTIONS_SCHEMA."""
        return _read_parts(self.folder, self.manifest, "quarantine/")


def open_captions(folder: Path) -> Captions:
    """Open a complete captions artifact.

    Raises:
        ArtifactError: The folder is absent, incomplete or something else.
    """
    folder = Path(folder)
    manifest = manifests.read_manifest(folder, artifact=CAPTIONS, version=VERSION)
    for path in _part_files(folder, manifest, "parts/"):
        check_schema(path, CAPTIONS_SCHEMA)
    return Captions(manifest=manifest, folder=folder)


def _part_files(folder: Path, manifest: Manifest, prefix: str) -> list[Path]:
    return [
        folder / name for name in sorted(p.name for p in manifest.parts) if name.startswith(prefix)
    ]


def _read_parts(folder: Path, manifest: Manifest, prefix: str) -> pa.Table:
    tables = [read_table(path, CAPTIONS_SCHEMA) for path in _part_files(folder, manifest, prefix)]
    return pa.concat_tables(tables) if tables else CAPTIONS_SCHEMA.empty_table()
