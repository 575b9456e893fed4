"""What training reads: latents of pictures, and states or token ids of texts.

N rows of an index, R rows of latents, M wanted rows, C latent channels, h latent height, w latent
width, T text tokens, D text width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int32, Int64
from numpy.typing import NDArray

from launch import identities
from launch.errors import ArtifactError
from launch.manifest import Manifest, read_manifest, write_parquet
from t2i.artifacts.contracts import (
    LATENTS,
    TEXT_STATES,
    VERSIONS,
    open_table,
    read_arrays,
    schema_of,
)

LATENTS_SCHEMA = schema_of(
    LATENTS,
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ],
)

TEXT_STATES_SCHEMA = schema_of(
    TEXT_STATES,
    [
        pa.field("text_digest", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ],
)

STATES_FILE, TOKENS_FILE = "states.bin", "tokens.bin"
TOKENS = "tokens"
"""What stands in place of a precision where token ids are kept instead of states."""


@dataclass(frozen=True)
class Latents:
    """A latents artifact: `mean.npy` and `std.npy`, memory-mapped, and `index.parquet`.

    The autoencoder's posterior of every picture, unscaled; a draw is mean + std * noise.
    """

    manifest: Manifest
    ids: NDArray[Any]
    """The pictures that have latents, packed (`launch.identities`), in index order."""

    row_of_id: Int64[np.ndarray, " N"]
    """Row of each in `mean` and `std`."""

    mean: Float[np.ndarray, "R C h w"]
    std: Float[np.ndarray, "R C h w"]

    def rows(self, wanted: NDArray[Any]) -> Int64[np.ndarray, " M"]:
        """Return the rows of some pictures, given by their packed identities.

        Raises:
            ArtifactError: A picture has no latents.
        """
        place = identities.find(wanted, among=self.ids, order=np.argsort(self.ids, kind="stable"))
        if (is_absent := place < 0).any():
            (first,) = identities.unpacked(wanted[is_absent][:1])
            raise ArtifactError(
                f"{self.manifest.folder}: {int(is_absent.sum()):,} of {len(wanted):,} pictures "
                f"have no latents, {first} first; encode the images artifact that is trained on"
            )
        rows: Int64[np.ndarray, " M"] = self.row_of_id[place]
        return rows


def open_latents(folder: Path) -> Latents:
    """Open a latents artifact; nothing is read until it is used."""
    manifest = read_manifest(folder, artifact=LATENTS, version=VERSIONS[LATENTS])
    path = Path(folder) / "index.parquet"
    index = open_table(path, LATENTS_SCHEMA)
    ids, rows = read_arrays(index, "sample_id", "row", where=path)
    mean = np.load(Path(folder) / "mean.npy", mmap_mode="r", allow_pickle=False)
    std = np.load(Path(folder) / "std.npy", mmap_mode="r", allow_pickle=False)
    if mean.shape != std.shape or len(mean) != len(ids):
        raise ArtifactError(
            f"{folder}: index.parquet has {len(ids):,} rows, mean.npy the shape {mean.shape} "
            f"and std.npy {std.shape}; they must agree, encode again"
        )
    return Latents(manifest, ids, rows, mean, std)


def write_latents_index(path: Path, sample_ids: Sequence[str]) -> None:
    """Write `index.parquet` of a latents artifact: picture i of the list lies in row i."""
    columns = [list(sample_ids), list(range(len(sample_ids)))]
    write_parquet(path, pa.table(columns, schema=LATENTS_SCHEMA))


@dataclass(frozen=True)
class TextStates:
    """A text states artifact: `states.bin` or `tokens.bin`, memory-mapped, and `index.parquet`.

    One run of `num_tokens` states, or token ids, per distinct text, unpadded and found by the
    digest of the text. Token ids are kept where states would be too large.
    """

    manifest: Manifest
    digests: NDArray[Any]
    """Digest of every text, packed (`launch.identities`), ascending."""

    offsets: Int64[np.ndarray, " N"]
    """First token of every text."""

    num_tokens: Int64[np.ndarray, " N"]
    """Length of every text."""

    values: Float[np.ndarray, "T D"] | Int32[np.ndarray, " T"]
    """The states, or the token ids."""

    width: int
    """Width of a state."""

    @property
    def holds_tokens(self) -> bool:
        """Say whether token ids are kept instead of states."""
        return self.values.ndim == 1

    def find(self, wanted: NDArray[Any]) -> Int64[np.ndarray, " M"]:
        """Return the index rows of some texts, given by packed digest; -1 where there is none."""
        return identities.find(wanted, among=self.digests)


def open_text_states(folder: Path) -> TextStates:
    """Open a text states artifact; nothing is read until it is used."""
    manifest = read_manifest(folder, artifact=TEXT_STATES, version=VERSIONS[TEXT_STATES])
    path = Path(folder) / "index.parquet"
    index = open_table(path, TEXT_STATES_SCHEMA)
    metadata = index.schema_arrow.metadata or {}
    try:
        kept, width = metadata[b"dtype"].decode(), int(metadata[b"width"])
        dtype = np.dtype(np.int32 if kept == TOKENS else kept)
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path}: its metadata lacks dtype and width of the states") from None
    file = Path(folder) / (TOKENS_FILE if kept == TOKENS else STATES_FILE)
    digests, offsets, lengths = read_arrays(
        index, "text_digest", "offset", "num_tokens", where=path
    )
    num_tokens = int(lengths.sum())
    shape = (num_tokens,) if kept == TOKENS else (num_tokens, width)
    num_bytes = file.stat().st_size if file.is_file() else 0
    if num_bytes != int(np.prod(shape)) * dtype.itemsize:
        what = "token ids" if kept == TOKENS else f"states of {width} {dtype}"
        raise ArtifactError(
            f"{file}: {num_bytes:,} bytes, but index.parquet speaks of {num_tokens:,} {what}; "
            "encode again"
        )
    values = np.memmap(file, dtype, "r", shape=shape) if num_tokens else np.zeros(shape, dtype)
    return TextStates(manifest, digests, offsets, lengths, values, width)


def write_text_states_index(
    path: Path,
    *,
    digests: Sequence[str],
    offsets: Sequence[int],
    num_tokens: Sequence[int],
    width: int,
    dtype: str,
) -> None:
    """Write `index.parquet` of a text states artifact, sorted by digest.

    Args:
        path: The file.
        digests: Of each text.
        offsets: First token of each text.
        num_tokens: Length of each text.
        width: Width of a state.
        dtype: Of the states, or TOKENS where token ids are kept instead.
    """
    order = sorted(range(len(digests)), key=digests.__getitem__)
    columns = [
        [digests[i] for i in order],
        [int(offsets[i]) for i in order],
        [int(num_tokens[i]) for i in order],
    ]
    metadata = {
        **TEXT_STATES_SCHEMA.metadata,
        b"dtype": dtype.encode(),
        b"width": str(width).encode(),
    }
    write_parquet(path, pa.table(columns, schema=TEXT_STATES_SCHEMA.with_metadata(metadata)))
