"""What `captioner=` names: which family of captioner, where it lies, and the digest of what it is.

One dispatch for every family, by what the folder says of itself: its manifest where it is an
artifact of ours, its `config.json` where it is somebody else's. Weights are not loaded, so what is
wrong is refused before work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from launch.components import COMPONENT_FILES, digest_folder, fetch
from launch.errors import ArtifactError, InputError
from launch.manifest import is_complete, read_manifest
from recap.artifacts import CAPTIONER, TAGGER, VERSION
from recap.config import CaptionConfig
from recap.vlm_source import read_config

if TYPE_CHECKING:
    from launch.run import Run

OPEN_CLIP: Final = "open_clip:"

ENDPOINT: Final = "endpoint"
"""Names the chat server that the settings describe."""

FILES: Final = COMPONENT_FILES | {".csv"}
"""Files that make a captioner what it is; a tagger's list of tags is one."""

FORMS: Final = (
    "a folder of `recap train` or `recap fit-tagger`; open_clip:NAME/TAG or open_clip:NAME@FILE; "
    "or a folder or hub id with the config.json of a transformers model that writes about "
    "pictures, or of a timm tagger with its selected_tags.csv; or the word "
    "endpoint, with endpoint.model"
)

Family = Literal["coca", "open_clip", "tagger", "timm", "transformers", "endpoint"]

TAGGERS: Final = frozenset({"tagger", "timm"})
"""Families whose texts are tags."""


class Source(NamedTuple):
    """A captioner that was found."""

    family: Family
    spec: Path
    """As the setting names it."""

    folder: Path
    """Where its files lie on this machine; of open_clip's weights the name again."""

    config: dict[str, Any]
    """Its `config.json` where it is somebody else's."""


def find_captioner(spec: Path) -> Source:
    """Say which family of captioner a setting names; a hub id is fetched.

    Raises:
        ArtifactError: It is a folder of something else.
        InputError: There is neither such a folder nor such a hub id.
    """
    if str(spec).startswith(OPEN_CLIP):
        return Source("open_clip", spec, spec, {})
    if str(spec) == ENDPOINT:
        return Source("endpoint", spec, spec, {})
    if is_complete(spec):
        made = read_manifest(spec)
        ours: dict[str, Family] = {CAPTIONER: "coca", TAGGER: "tagger"}
        if made.artifact not in ours:
            raise ArtifactError(
                f"{spec}: is a {made.artifact} artifact; expected {FORMS}. Name one of these."
            )
        return Source(ours[made.artifact], spec, spec, {})
    if _is_unfinished(spec) or not (spec.is_dir() or _may_be_hub_id(spec)):
        read_manifest(spec, artifact=CAPTIONER, version=VERSION)  # says what is wrong
    try:
        folder = fetch(spec, artifact=CAPTIONER, suffixes=FILES)
    except InputError as error:
        raise InputError(
            f"{spec}: no such folder, and no hub id that can be fetched ({error.__cause__}). Give "
            f"{FORMS}."
        ) from error
    config = read_config(folder)
    if "model_type" in config:
        return Source("transformers", spec, folder, config)
    if "architecture" in config and ("num_classes" in config or "pretrained_cfg" in config):
        return Source("timm", spec, folder, config)
    raise ArtifactError(
        f"{folder / 'config.json'}: has the keys {', '.join(sorted(config)[:12]) or '(none)'} and "
        f"tells neither model_type (transformers) nor architecture and num_classes (timm). Give "
        f"{FORMS}."
    )


def _is_unfinished(folder: Path) -> bool:
    """Say whether a folder is one that a verb of ours began to fill, or has no settings at all."""
    if not folder.is_dir():
        return False
    if (folder / "begun.json").is_file() or not (folder / "config.json").is_file():
        return True
    return str(read_config(folder).get("architecture", "")).startswith("captionmix-")


def _may_be_hub_id(spec: Path) -> bool:
    return not spec.is_absolute() and len(spec.parts) == 2 and spec.parts[0] not in {"..", "~"}


def note_captioner(run: Run, source: Source) -> None:
    """Note a captioner as an input of a run, by digest; an endpoint has its model's name."""
    match source.family:
        case "coca":
            run.input("captioner", source.spec, artifact=CAPTIONER, version=VERSION)
        case "tagger":
            run.input("captioner", source.spec, artifact=TAGGER, version=VERSION)
        case "open_clip":
            from recap.captioner.starting import find_public

            run.external_input("captioner", source.spec, find_public(source.spec).digest)
        case "timm" | "transformers":
            digest = digest_folder(source.folder, what=CAPTIONER, suffixes=FILES)
            run.external_input("captioner", source.spec, digest)


def source_digest(cfg: CaptionConfig) -> str | None:
    """Return the digest of a captioner that is no artifact of ours, as it lies here now.

    None for an artifact, an endpoint, a hub id and weights that a tag names: no hub is asked.
    """
    spec = cfg.captioner
    if str(spec).startswith(OPEN_CLIP):
        _, _, file = str(spec).partition("@")
        if not file or not Path(file).is_file():
            return None
        from recap.captioner.starting import find_public

        return find_public(spec).digest
    if not spec.is_dir() or is_complete(spec) or _is_unfinished(spec):
        return None
    return digest_folder(spec, what=CAPTIONER, suffixes=FILES)
