"""What every step trained on, written down so that pairing can be proved.

One row per step. `shared_hash` covers what arms of one seed must have in common: sample ids,
epochs, random keys, timestep draws, the dropout mask and, where there are several to choose from,
the latents chosen. `caption_hash` covers the texts that were drawn, before dropout. `tensor_hash`,
every `TENSOR_INTERVAL` steps, covers the corrupted latents and the noise themselves. A step's row
depends on the step alone, never on rank, arm name or resume.

While a run lasts its rows are JSON lines; rows of steps after the last checkpoint are dropped on
resume, and the finished table is `ledger.parquet` in the model folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import pyarrow as pa

from launch.errors import ArtifactError
from launch.keyed import stream_key
from launch.manifest import atomic_path, write_parquet

if TYPE_CHECKING:
    from t2i.data import Draw

TENSOR_INTERVAL = 50
"""Steps between hashes of the tensors themselves."""

STREAMS = ("order", "caption", "dropout", "latent", "timestep", "noise")
"""One stream of keyed randomness per purpose."""

AUGMENTATION = "augmentation"
"""The stream that is drawn from only where a picture has several latents."""

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("samples_seen", pa.int64(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("shared_hash", pa.string(), nullable=False),
        pa.field("caption_hash", pa.string(), nullable=False),
        pa.field("kinds", pa.string(), nullable=False),
        pa.field("num_dropped", pa.int64(), nullable=False),
        pa.field("tensor_hash", pa.string(), nullable=True),
    ],
    metadata={"artifact": "ledger", "version": "1"},
)


class Row(NamedTuple):
    """One step."""

    step: int
    """Counted from 1."""

    samples_seen: int
    """Pictures seen after this step."""

    epoch: int
    """Epoch of the step's first picture, counted from 0."""

    shared_hash: str
    """Of everything that arms of a seed share."""

    caption_hash: str
    """Of the texts drawn."""

    kinds: str
    """JSON: how many pictures drew each kind."""

    num_dropped: int
    """Pictures trained without text in this step."""

    tensor_hash: str | None
    """Of corrupted latents and noise, in some steps."""


def row_of(draw: Draw, *, kinds: Sequence[str], seed: int, tensor_hash: str | None) -> Row:
    """Give the row of one global batch."""
    keys = b"".join(stream_key(seed, stream).tobytes() for stream in STREAMS)
    shared = [
        keys,
        draw.ids.tobytes(),
        draw.epochs.tobytes(),
        draw.uniform.tobytes(),
        draw.is_dropped.tobytes(),
    ]
    if draw.entries is not None:
        shared += [stream_key(seed, AUGMENTATION).tobytes(), draw.entries.tobytes()]
    counts = np.bincount(draw.kinds, minlength=len(kinds)).tolist()
    return Row(
        step=draw.step,
        samples_seen=draw.step * len(draw.ids),
        epoch=int(draw.epochs[0]),
        shared_hash=_hash(*shared),
        caption_hash=_hash(draw.text_digests.tobytes()),
        kinds=json.dumps(dict(zip(kinds, counts, strict=True))),
        num_dropped=int(draw.is_dropped.sum()),
        tensor_hash=tensor_hash,
    )


def hash_tensors(*arrays: np.ndarray) -> str:
    """Hash the bytes of some arrays."""
    return _hash(*(np.ascontiguousarray(array).tobytes() for array in arrays))


def _hash(*pieces: bytes) -> str:
    state = blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


class Ledger:
    """The rows of a run in progress; a context manager.

    Args:
        path: JSON lines file; created, or cut back to what the checkpoint knows.
        resume_step: Steps that the checkpoint holds; later rows are dropped.
        is_main: Write; other ranks pass False and everything here does nothing.
    """

    def __init__(self, path: Path, *, resume_step: int, is_main: bool = True) -> None:
        self._path = path
        self._file: TextIO | None = None
        if not is_main:
            return
        kept = _read_rows(path)[:resume_step] if path.exists() else []
        if [row.step for row in kept] != list(range(1, resume_step + 1)):
            raise ArtifactError(
                f"{path}: holds {len(kept):,} whole rows, but the checkpoint is of step "
                f"{resume_step:,}; the ledger was cut. Delete the run's folder and train again."
            )
        with atomic_path(path) as temporary:
            temporary.write_text("".join(_line(row) for row in kept))
        self._file = path.open("a")

    def add(self, row: Row) -> None:
        """Write down one step."""
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()

    def sync(self) -> None:
        """Force the rows to disk; called before a checkpoint that relies on them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write_table(self, path: Path) -> None:
        """Write the finished table."""
        rows = _read_rows(self._path)
        columns = [list(column) for column in zip(*rows, strict=True)]
        write_parquet(path, pa.table(columns or [[] for _ in LEDGER_SCHEMA], schema=LEDGER_SCHEMA))


def _line(row: Row) -> str:
    return json.dumps(list(row)) + "\n"


def _read_rows(path: Path) -> list[Row]:
    """Read the whole rows; a line cut by a kill ends the reading."""
    rows: list[Row] = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        rows.append(Row(*json.loads(line)))
    return rows
