"""What `captioner=` names: which family of captioner, where it lies, and the digest of what it is.

One dispatch for every family, by what the folder says of itself. It reads settings alone, no
weights into memory and no torch, so that what is wrong is refused before work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NamedTuple

from launch.errors import ArtifactError
from launch.manifest import is_complete, read_manifest
from launch.run import Run
from recap.artifacts import CAPTIONER, TAGGER, VERSION

OPEN_CLIP: Final = "open_clip:"

Family = Literal["coca", "open_clip", "tagger"]


class Source(NamedTuple):
    """A captioner that was found."""

    family: Family
    spec: Path
    """As the setting names it."""


def find_captioner(spec: Path) -> Source:
    """Say which family of captioner a setting names.

    Raises:
        ArtifactError: It is a folder of something else, or there is none.
    """
    if str(spec).startswith(OPEN_CLIP):
        return Source("open_clip", spec)
    if is_complete(spec):
        match read_manifest(spec).artifact:
            case "captioner":
                return Source("coca", spec)
            case "tagger":
                return Source("tagger", spec)
            case other:
                raise ArtifactError(
                    f"{spec}: is a {other} artifact, expected a {CAPTIONER} (`python -m recap "
                    f"train`) or a {TAGGER} (`python -m recap fit-tagger`). Name one of these."
                )
    read_manifest(spec, artifact=CAPTIONER, version=VERSION)  # says what is wrong with the folder
    raise AssertionError(spec)


def note_captioner(run: Run, source: Source) -> None:
    """Note a captioner as an input of a run, by digest."""
    match source.family:
        case "coca":
            run.input("captioner", source.spec, artifact=CAPTIONER, version=VERSION)
        case "tagger":
            run.input("captioner", source.spec, artifact=TAGGER, version=VERSION)
        case "open_clip":
            from recap.captioner.starting import find_public

            run.external_input("captioner", source.spec, find_public(source.spec).digest)
