"""The way back: from an artifact through what it was made from, to the pictures.

Every link is checked: the digest that a manifest recorded for an input must be the digest of the
folder that lies there now.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from launch.errors import ArtifactError
from launch.manifest import Input, Manifest, is_complete, read_manifest

PLAN = "plan.json"
"""File of a study's folder that says which folder holds which step."""

_ROW_COUNTS = ("rows_out", "rows", "samples_seen")
_SHORT = 12


@dataclass(frozen=True, kw_only=True)
class Step:
    """One folder of a study."""

    name: str
    """Step and loop values, for example `train[dsc,0]`."""

    folder: Path
    """Where its artifact lies."""

    @property
    def group(self) -> str:
        """Return the step's name without loop values."""
        return self.name.partition("[")[0]


def read_steps(folder: Path) -> list[Step] | None:
    """Return the steps of a study's folder, or None when it is not the folder of a study.

    Raises:
        ArtifactError: The plan cannot be read.
    """
    path = folder / PLAN
    if not path.is_file():
        return None
    try:
        steps = dict(json.loads(path.read_text())["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not the plan of a study ({error!r}). Start the study's command again: "
            "it writes the plan anew and keeps what is complete."
        ) from error
    # A link to the study's folder is followed first: `..` is meant from where it leads.
    base = folder.resolve() if folder.is_symlink() else folder
    places = {name: Path(os.path.normpath(base / where)) for name, where in steps.items()}
    return [Step(name=name, folder=place) for name, place in places.items()]


def locate(made: Manifest, source: Input) -> Path | None:
    """Return where an input's artifact lies now, or None when it is no artifact or is gone.

    Manifests hold paths as they were typed. If there is nothing now, the input is looked for beside
    the folder that was made from it, since studies keep all folders side by side.
    """
    typed = Path(source.path)
    places = [typed, made.folder.resolve().parent / typed.name]
    found = [place for place in places if is_complete(place)]
    for place in found:
        if _digest(place) == source.digest:
            return place
    return found[0] if found else None


def _digest(folder: Path) -> str | None:
    try:
        return read_manifest(folder).digest
    except ArtifactError:
        return None


def trace(folder: Path) -> int:
    """Print what an artifact was made from, as a tree down to external inputs.

    Args:
        folder: An artifact's folder, or a study's, whose final artifacts are then traced.

    Returns:
        0, or 1 when a link is broken.

    Raises:
        ArtifactError: The folder is no complete artifact.
    """
    steps = read_steps(folder)
    starts = [folder] if steps is None else _final([step.folder for step in steps])
    if not starts:
        raise ArtifactError(
            f"{folder}: the study has no complete artifact yet. Start the study's command again."
        )
    tree = _Tree()
    for start in starts:
        tree.add(read_manifest(start), role="", depth=0)
    print("\n".join(tree.lines))
    if tree.num_broken:
        print(f"\n{tree.num_broken} broken: what lies there now is not what was read.")
    return 1 if tree.num_broken else 0


def _final(folders: list[Path]) -> list[Path]:
    """Return the complete artifacts that no other one was made from."""
    manifests = [read_manifest(f) for f in folders if is_complete(f)]
    used = {source.digest for made in manifests for source in made.inputs}
    return [made.folder for made in manifests if made.digest not in used]


class _Tree:
    """The lines of a tree; an artifact that came before is named and not unfolded again."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.num_broken = 0
        self._seen: set[str] = set()

    def add(self, made: Manifest, *, role: str, depth: int) -> None:
        is_old = made.digest in self._seen
        self._seen.add(made.digest)
        words = [
            f"{role}: {made.artifact}" if role else made.artifact,
            made.digest[:_SHORT],
            printable(str(made.folder)),
            *([shown_rows(made)] if shown_rows(made) else []),
            *(["(see above)"] if is_old else []),
        ]
        self._write(depth, words)
        if is_old:
            return
        for source in made.inputs:
            self._add_input(made, source, depth=depth + 1)

    def _add_input(self, made: Manifest, source: Input, *, depth: int) -> None:
        place = locate(made, source)
        words = [source.role, source.digest[:_SHORT], printable(source.path)]
        if place is None and Path(source.path).is_dir() and _may_be_artifact(source):
            self._break(depth, words, "no manifest there now")
        elif place is None:
            self._write(depth, [*words, "(external)"])
        elif (present := _digest(place)) != source.digest:
            now = present[:_SHORT] if present else "unreadable"
            self._break(depth, words, f"it is {now} now")
        else:
            self.add(read_manifest(place), role=source.role, depth=depth)

    def _break(self, depth: int, words: list[str], reason: str) -> None:
        self.num_broken += 1
        self._write(depth, [*words, f"BROKEN: {reason}"])

    def _write(self, depth: int, words: list[str]) -> None:
        self.lines.append("  " * depth + "  ".join(words))


def _may_be_artifact(source: Input) -> bool:
    """Say whether a folder without a manifest was an artifact: they keep their log beside it."""
    from launch.manifest import RUN_LOG

    return (Path(source.path) / RUN_LOG).is_file()


def shown_rows(made: Manifest) -> str:
    """Write how many rows an artifact holds, by the count that says so best."""
    name = next((n for n in _ROW_COUNTS if n in made.counts), None)
    name = name or next(iter(made.counts), None)
    if name is None:
        return ""
    label = "rows" if name in {"rows_out", "rows"} else name
    return f"{made.counts[name]:,} {label}"


def printable(text: str) -> str:
    """Write text from data so that it cannot move the cursor, colour or hide anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
