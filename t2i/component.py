"""Pretrained components: where one lies, an artifact, a folder or a hub id, and what it is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from launch.errors import ArtifactError, InputError
from launch.manifest import digest_bytes, digest_file, is_complete, read_manifest

COMPONENT_FILES = {".json", ".safetensors", ".model", ".txt", ".jinja"}
"""Files that make a component what it is: settings, weights, vocabulary and chat template."""


class Component(NamedTuple):
    """A pretrained component and the digest of what it is."""

    source: str
    """Folder, or hub id."""

    digest: str
    """Of the artifact, or of the files of a folder."""


def locate(source: str | Path, *, artifact: str) -> Component:
    """Find a component: an artifact of ours, any folder, or a hub id.

    A hub id is fetched once, through the hub's own cache, so that its bytes can be digested.
    """
    folder = Path(source)
    if is_complete(folder):
        return Component(str(source), read_manifest(folder, artifact=artifact).digest)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            found = snapshot_download(
                str(source), allow_patterns=[f"*{suffix}" for suffix in sorted(COMPONENT_FILES)]
            )
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise InputError(
                f"{source}: neither a folder nor a hub id that can be fetched ({error}). "
                f"Give an {artifact} artifact, a folder in the Hugging Face format, or a hub id."
            ) from error
        folder = Path(found)
    files = sorted(p for p in folder.rglob("*") if p.suffix in COMPONENT_FILES)
    if not any(p.suffix == ".safetensors" for p in files):
        raise ArtifactError(f"{source}: holds no safetensors file; expected an {artifact}.")
    lines = [f"{p.relative_to(folder)} {digest_file(p)}" for p in files]
    return Component(str(source), digest_bytes("\n".join(lines).encode()))
