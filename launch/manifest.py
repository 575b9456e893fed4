"""Completeness: `manifest.json`, digests, and writing that never leaves a half file.

A folder is complete exactly when its manifest exists. The manifest's *digested* part (artifact,
version, recipe, input digests, counts, rejections, parts) says what the folder is; who made it,
where and with which packages stands beside it, outside the digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
SCRATCH = "scratch"
"""Folder, below an unfinished artifact's, of what only the work needs: checkpoints, locks, notes.

It is removed after the manifest is written, so that a kill in between costs no work.
"""
RUN_LOG = "run.log.jsonl"
"""Times, host, progress and cost, one JSON object a line; outside every digest."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What an artifact was made from."""

    role: str
    """Part it played, for example `images`."""

    path: str
    """Where it lay; not digested, since a folder may move."""

    digest: str
    """Digest of that artifact, or of external bytes."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One payload file."""

    name: str
    """Path below the folder."""

    digest: str
    """BLAKE2b-128 of its bytes."""

    num_bytes: int
    """Its size."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a complete folder holds and how it came to be."""

    artifact: str
    """Kind of artifact."""

    version: int
    """Version of its contract."""

    recipe: dict[str, Any]
    """Every setting that shapes the payload."""

    inputs: list[Input]
    """What it was made from."""

    counts: dict[str, int]
    """Rows, by name; `rows_in` and `rows_out` where rows are conserved."""

    rejected: dict[str, int]
    """Rejected rows by rule."""

    parts: list[Part]
    """Payload files."""

    command: str = ""
    """Command line that made it."""

    commit: str | None = None
    """Commit of the code, if it lay in a git checkout."""

    dirty: bool | None = None
    """Whether that checkout had changes."""

    packages: dict[str, str] = field(default_factory=dict)
    """Versions of what shapes numbers."""

    config: dict[str, Any] = field(default_factory=dict)
    """Resolved configuration, paths included."""

    folder: Path = field(default=Path("."), compare=False)
    """Where it was read from."""

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of the digested part, the same wherever the folder or its inputs lie."""
        core = {
            "artifact": self.artifact,
            "version": self.version,
            "recipe": self.recipe,
            "inputs": sorted([i.role, i.digest] for i in self.inputs),
            "counts": self.counts,
            "rejected": self.rejected,
            "parts": sorted([p.name, p.digest] for p in self.parts),
        }
        return digest_bytes(canonical_json(core))

    @property
    def num_bytes(self) -> int:
        """Bytes of the payload."""
        return sum(p.num_bytes for p in self.parts)


def canonical_json(value: Any) -> bytes:
    """Return the one JSON spelling of `value`: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def digest_bytes(data: bytes) -> str:
    """Return BLAKE2b-128 of bytes as 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path) -> str:
    """Return BLAKE2b-128 of a file as 32 hexadecimal digits, reading it in blocks."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success flush it and rename it to `path`.

    On any error the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; artifacts are as readable as the user's other files.
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a parquet file whole or not at all; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_complete(folder: Path) -> bool:
    """Say whether the folder's manifest exists, which is the only sign of completeness."""
    return (folder / MANIFEST).is_file()


def read_manifest(
    folder: Path, *, artifact: str | None = None, version: int | None = None
) -> Manifest:
    """Return the manifest of a complete folder.

    Raises:
        ArtifactError: The folder is absent, incomplete, or of another kind or version.
    """
    path = folder / MANIFEST
    what = f"a complete {artifact or 'artifact'} folder"
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; expected {what}. Check the path.")
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: no {MANIFEST}, so it is not complete; expected {what}. "
            "Run the command that makes it again: it resumes."
        )
    try:
        raw = json.loads(path.read_text())
        digest = raw.pop("digest")
        manifest = Manifest(
            **{
                **raw,
                "inputs": [Input(**i) for i in raw["inputs"]],
                "parts": [Part(**p) for p in raw["parts"]],
                "folder": folder,
            }
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not a manifest of captionmix ({error}). Delete the folder and make it again."
        ) from error
    if manifest.digest != digest:
        raise ArtifactError(
            f"{path}: says digest {digest}, but its content has {manifest.digest}; it was edited. "
            "Delete the folder and make it again."
        )
    if artifact is not None and manifest.artifact != artifact:
        raise ArtifactError(f"{folder}: is a {manifest.artifact} artifact, expected {artifact}.")
    if version is not None and manifest.version != version:
        raise ArtifactError(
            f"{folder}: {manifest.artifact} version {manifest.version}, this captionmix reads "
            f"version {version}. Make it again with this version."
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the folder complete. Everything else must be in place."""
    raw = asdict(manifest)
    del raw["folder"]
    write_json(folder / MANIFEST, {**raw, "digest": manifest.digest})


def describe_parts(folder: Path, names: list[str]) -> list[Part]:
    """Return name, digest and size of payload files, sorted by name."""
    return [
        Part(name=n, digest=digest_file(folder / n), num_bytes=(folder / n).stat().st_size)
        for n in sorted(names)
    ]


def refuse_changed_parts(manifest: Manifest, *, names: Collection[str] | None = None) -> None:
    """Refuse a folder in which a part is gone or no longer the bytes that its manifest names.

    Args:
        manifest: Manifest of the folder.
        names: Parts that will be read; None looks at all.

    Raises:
        ArtifactError: Naming the first such part.
    """
    for part in manifest.parts:
        if names is not None and part.name not in names:
            continue
        path = manifest.folder / part.name
        found = digest_file(path) if path.is_file() else None
        if found != part.digest:
            now = "is gone" if found is None else f"has changed (digest {found})"
            raise ArtifactError(
                f"{path}: {now}, expected the file that the manifest names (digest "
                f"{part.digest}). Restore it, or delete the folder and make it again."
            )


def free_gib(path: Path) -> float:
    """Return the free space, in GiB, of the disk that `path` lies or will lie on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30
