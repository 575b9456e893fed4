"""Shards of pictures: uncompressed tars that have the same bytes wherever they are written."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from launch import manifest as manifests


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
