"""A pretrained component that a setting names: found, fetched if it must be, and digested.

It is an artifact of ours, a folder in the Hugging Face format, or a hub id. Only files that make it
what it is are looked at: settings, weights in safetensors, vocabulary, chat template. A hub id is
fetched once, through the hub's own cache, so that its bytes can be digested.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from launch.errors import ArtifactError, InputError
from launch.manifest import digest_bytes, digest_file, is_complete, read_manifest

COMPONENT_FILES = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja"})
"""Files that make a component what it is."""


class Component(NamedTuple):
    """A pretrained component and the digest of what it is."""

    source: str
    """Folder, or hub id."""

    digest: str
    """Of the artifact, or of the files of a folder."""


def locate(source: str | Path, *, artifact: str) -> Component:
    """Find a component: an artifact of ours, any folder, or a hub id."""
    folder = Path(source)
    if is_complete(folder):
        return Component(str(source), read_manifest(folder, artifact=artifact).digest)
    return Component(str(source), digest_folder(fetch(source, artifact=artifact), what=artifact))


def fetch(
    source: str | Path, *, artifact: str, suffixes: Collection[str] = COMPONENT_FILES
) -> Path:
    """Return the folder that a setting names, fetching a hub id's files if they are not here yet.

    Args:
        source: Folder or hub id.
        artifact: What it should be, for messages.
        suffixes: Endings of the files that are fetched.

    Raises:
        InputError: It is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        found = snapshot_download(
            str(source), allow_patterns=[f"*{suffix}" for suffix in sorted(suffixes)]
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"{source}: neither a folder nor a hub id that can be fetched ({error}). "
            f"Give an {artifact} artifact, a folder in the Hugging Face format, or a hub id."
        ) from error
    return Path(found)


def digest_folder(folder: Path, *, what: str, suffixes: Collection[str] = COMPONENT_FILES) -> str:
    """Digest the files that make a component what it is.

    Raises:
        ArtifactError: It has no weights in safetensors.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix in suffixes)
    if not any(p.suffix == ".safetensors" for p in files):
        raise ArtifactError(f"{folder}: holds no safetensors file; expected an {what}.")
    lines = [f"{p.relative_to(folder)} {digest_file(p)}" for p in files]
    return digest_bytes("\n".join(lines).encode())


def refuse_unloaded(folder: str | Path, missing: Collection[str], *, what: str) -> None:
    """Refuse a model for which transformers invented weights that its folder lacks.

    Raises:
        ArtifactError: A weight was not there.
    """
    if missing:
        raise ArtifactError(
            f"{folder}: has no weights for {min(missing)} ({len(missing)} in all), which would be "
            f"random numbers; expected a whole {what}. Give the folder or file of one, as "
            "`save_pretrained` writes it."
        )
