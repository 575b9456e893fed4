"""Captions: the texts of pictures by kind, and those that a gate held back.

captions/version 1
    parts/part-*.parquet        accepted captions, one part per image shard
    quarantine/part-*.parquet   gated captions, the same schema, `flags` holding the rules; absent
                                where no rules were applied
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from launch import manifest as manifests
from launch.errors import ArtifactError
from launch.manifest import Manifest
from recap.artifacts.contracts import (
    CAPTIONS,
    STRINGS,
    VERSION,
    check_schema,
    read_table,
    schema_of,
)

CAPTIONS_SCHEMA: Final = schema_of(
    "captions",
    [
        ("sample_id", pa.string(), False),
        ("kind", pa.string(), False),
        ("text", pa.string(), False),
        ("num_tokens", pa.int32(), True),
        ("stop_reason", pa.string(), True),
        ("mean_logprob", pa.float32(), True),
        ("flags", STRINGS, False),
    ],
)


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
