"""What the report stands on: every artifact behind it, what it cost and how good it is.

Walks the digests from the report's inputs back to the pictures. Folders that have moved away are
listed without their cost; nothing here decides a number of the study.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.errors import ArtifactError
from launch.manifest import RUN_LOG, Input, Manifest, is_complete, read_manifest
from launch.run_log import read_log
from launch.trace import locate

QUALITY_FILES = ("quality.json", "validation.json", "metrics.json")
"""Files in which an artifact states how good it is."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One artifact behind the report."""

    role: str
    """Part that it played where it was first met."""

    path: Path
    digest: str
    manifest: Manifest | None
    """None for what is no artifact, or is no longer there."""

    has_changed: bool = False
    """What lies at the path now is not what was read."""

    @property
    def artifact(self) -> str:
        """Kind of artifact."""
        return self.manifest.artifact if self.manifest else "external"

    @property
    def verb(self) -> str:
        """Stage and verb that made it."""
        return str(self.manifest.recipe.get("verb", "")) if self.manifest else ""

    @property
    def name(self) -> str:
        """The end of its path; a study gives every folder a name of its own."""
        return self.path.name or str(self.path)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time, memory and disk of one artifact, as far as its log tells."""

    seconds: float | None
    """Seconds of work, over every session that worked on it."""

    sessions: int
    peak_gib: float | None
    num_bytes: int
    """Bytes on disk, logs included."""

    host: str = ""
    cpus: int | None = None


def walk(inputs: Iterable[Input]) -> list[Stage]:
    """Return every artifact behind some inputs, each once, inputs before what was made of them."""
    stages: dict[str, Stage] = {}

    def visit(found: Input, made: Manifest | None) -> None:
        if found.digest in stages:
            return
        manifest, has_changed = _open(found, made)
        for deeper in manifest.inputs if manifest and not has_changed else []:
            visit(deeper, manifest)
        stages[found.digest] = Stage(
            role=found.role, path=Path(found.path), digest=found.digest,
            manifest=manifest, has_changed=has_changed,
        )  # fmt: skip

    for found in inputs:
        visit(found, None)
    return list(stages.values())


def _open(found: Input, made: Manifest | None) -> tuple[Manifest | None, bool]:
    """Return an input's manifest, and whether it is no longer what `made` was made from."""
    folder = Path(found.path) if made is None else locate(made, found)
    if folder is None or not is_complete(folder):
        return None, False
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return None, True
    return manifest, manifest.digest != found.digest


def cost_of(folder: Path) -> Cost:
    """Return what an artifact cost, from its log and its files."""
    work = read_log(folder / RUN_LOG)
    return Cost(
        seconds=work.seconds, sessions=work.sessions, peak_gib=work.peak_gib,
        num_bytes=bytes_of(folder), host=work.host, cpus=work.cpus,
    )  # fmt: skip


def bytes_of(folder: Path) -> int:
    """Return the bytes of every file below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def quality_of(folder: Path) -> dict[str, Any]:
    """Return what an artifact's own files say of its quality; empty if they say nothing."""
    for name in QUALITY_FILES:
        path = folder / name
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a result holds for, and nothing beyond."""

    lines: list[str]
    stages: list[Stage] = field(default_factory=list)


ONE_OF_EACH = {
    "captioner": "captioner",
    "tagger": "tagger",
    "autoencoder": "autoencoder",
    "text_encoder": "text encoder",
    "judge": "judge",
    "images": "image set",
}
"""Artifacts that a study has one of, and that a result is therefore conditional on."""


def conditions(stages: Iterable[Stage], *, model_seeds: int, noise_seeds: int) -> Conditions:
    """List what the study had one of, by digest, and how many seeds it had."""
    found = [s for s in stages if s.artifact in ONE_OF_EACH]
    lines = []
    for artifact, words in ONE_OF_EACH.items():
        of_kind = [s for s in found if s.artifact == artifact]
        if of_kind:
            many = len(of_kind)
            shown = ", ".join(f"{s.name} ({s.digest[:12]})" for s in of_kind)
            lines.append(
                f"{'one' if many == 1 else many} {words}{'s' if many > 1 else ''}: {shown}"
            )
    lines.append(
        f"{model_seeds} training seed{'s' if model_seeds != 1 else ''} an arm and "
        f"{noise_seeds} noise seed{'s' if noise_seeds != 1 else ''} a prompt"
    )
    return Conditions(lines=lines, stages=found)


def samplers(stages: Iterable[Stage]) -> list[str]:
    """Say how the pictures were drawn, once for each way."""
    keys = ("num_steps", "guidance_scale", "seeds_per_prompt", "seed")
    ways = []
    for stage in stages:
        if stage.artifact == "generations" and stage.manifest is not None:
            recipe = stage.manifest.recipe
            ways.append(
                ", ".join(f"{k.replace('_', ' ')} {recipe[k]}" for k in keys if k in recipe)
            )
    return list(dict.fromkeys(w for w in ways if w))
