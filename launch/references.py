"""What `<name>` means in the settings of a step: another step's folder, a loop value, or a value of
the study.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from launch.config import Tree
from launch.errors import ConfigError

_REFERENCE = re.compile(r"<[^<>]+>")
_LOOP_VALUE = re.compile(r"<([\w.]+)>")


class Made(Protocol):
    """A run of a step that may be read."""

    @property
    def name(self) -> str:
        """Step and loop values."""

    @property
    def folder(self) -> Path:
        """Where its artifact goes."""

    @property
    def point(self) -> Mapping[str, str]:
        """Loop variable -> name of its value."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What names mean in one step, at one point of its loops."""

    step: str
    """Name of the step, for messages."""

    point: Mapping[str, Any]
    """Loop variable -> its value."""

    values: Tree
    """Values of the study."""

    arms: Mapping[str, Tree]
    """Arms by name."""

    made: Mapping[str, Sequence[Made]]
    """Steps that come before, with their runs."""

    folders: set[Path] = field(default_factory=set)
    """Folders that were named so far."""

    def resolve(self, value: Any) -> Any:
        """Return a setting with every name replaced by what it means.

        Raises:
            ConfigError: It names nothing.
        """
        if isinstance(value, Mapping):
            # A study takes back a setting of its base by giving nothing for it.
            return {k: self.resolve(v) for k, v in value.items() if v is not None}
        if isinstance(value, list):
            flat: list[Any] = []
            for item in value:
                found = self.resolve(item)
                spread = isinstance(item, str) and item.endswith(".*>")
                flat += found if spread else [found]
            return flat
        if not isinstance(value, str):
            return value
        if not _REFERENCE.fullmatch(value):
            return _LOOP_VALUE.sub(self._within, value)
        name = value[1:-1]
        if name in self.point:
            return self.point[name]
        head = name.split(".")[0]
        if head in self.point:
            below = self.arms[self.point["arm"]] if head == "arm" else self.point[head]
            return lookup({head: below}, name, self.step)
        group = self._group(name)
        if group is None:
            return lookup(self.values, name, self.step)
        chosen = _chosen(name, group, self.point)
        self.folders.update(run.folder for run in chosen)
        paths = [str(run.folder) for run in chosen]
        return paths if name.endswith(".*") else paths[0]

    def priced(self, value: Any) -> Any:
        """Return a setting as far as a step's cost depends on it.

        Loop values stay as they are written, and of other steps only how many are read counts.
        """
        if isinstance(value, Mapping):
            return {k: self.priced(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.priced(v) for v in value]
        if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
            return value
        name = value[1:-1]
        if name.split(".")[0] in self.point:
            return value
        group = self._group(name)
        if group is None:
            return lookup(self.values, name, self.step)
        return [value, len(_chosen(name, group, self.point))]

    def _group(self, name: str) -> Sequence[Made] | None:
        return self.made.get(name.removesuffix(".*").split("[")[0])

    def _within(self, found: re.Match[str]) -> str:
        """Return a loop value that stands inside a text; anything else stays as it is written."""
        name = found.group(1)
        head = name.split(".")[0]
        if head not in self.point:
            return found.group()
        return str(lookup({head: self.point[head]}, name, self.step))


def references(value: Any) -> set[str]:
    """Return the names between angle brackets anywhere in a tree."""
    if isinstance(value, Mapping):
        return set().union(*(references(v) for v in value.values()), set())
    if isinstance(value, list):
        return set().union(*(references(v) for v in value), set())
    if isinstance(value, str) and value.startswith("<") and value.endswith(">"):
        return {value[1:-1]}
    return set()


def lookup(values: Mapping[str, Any], name: str, step: str) -> Any:
    """Return the value that a dotted name means.

    Raises:
        ConfigError: There is none, or it is yet to be given.
    """
    found: Any = values
    for key in name.split("."):
        if not isinstance(found, Mapping) or key not in found:
            raise ConfigError(
                f"steps.{step}: <{name}> is no step, loop variable or value of the study. "
                f"If it is yours to give, add {name}=VALUE to the command."
            )
        found = found[key]
    if found is None:
        raise ConfigError(f"{name} is not set; add {name}=VALUE to the command.")
    return found


def short(value: Any) -> str:
    """Return a loop value as a name: the value, or the first one of a mapping."""
    return str(next(iter(value.values())) if isinstance(value, Mapping) else value)


def _chosen(name: str, group: Sequence[Made], point: Mapping[str, Any]) -> list[Made]:
    """Return the runs that `<step>`, `<step.*>` or `<step[a,b]>` means at a loop point."""
    if name.endswith(".*"):
        return list(group)
    if "[" in name:
        found = [i for i in group if i.name == name]
    elif len(group) == 1:
        found = list(group)
    else:  # the run of the same arm and seed; it may repeat over fewer things
        here = {key: short(value) for key, value in point.items()}
        found = [i for i in group if i.point.items() <= here.items()]
    if not found:
        raise ConfigError(f"<{name}> names no run; there are {', '.join(i.name for i in group)}")
    return found
