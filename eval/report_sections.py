"""Sections that a study may or may not have: each a function, and a line in `ADDED`.

To add one: give `ReportConfig` a field `NAME: Path | None = None`, name its artifact in `INPUTS`,
write a function that returns a `Section`, or None where the report has nothing of the kind, and
put it in `ADDED`. The page, its navigation, the CSV files and the manifest follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eval.config import ReportConfig
from eval.report_inputs import Opened
from eval.table import Table
from launch.run import Run


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page: sentences, then tables."""

    id: str
    """Its anchor."""

    name: str
    """Its name in the navigation."""

    title: str
    words: Sequence[str]
    """Paragraphs, shown as text: what the tables say and what they do not."""

    tables: Sequence[Table] = ()
    folded: Sequence[Table] = field(default=())
    """Tables that are shown when asked for."""


INPUTS: Final[Mapping[str, tuple[str, int]]] = {}
"""Field of `ReportConfig` that may be None -> artifact and version that it names."""

ADDED: Final[Sequence[Callable[[Opened, ReportConfig], Section | None]]] = ()
"""Functions that make the sections, in the order of the page."""


def open_added(cfg: ReportConfig, run: Run) -> None:
    """Name the artifacts of added sections as inputs, so that they are part of the digest."""
    for name, (artifact, version) in INPUTS.items():
        folder = getattr(cfg, name)
        if folder is not None:
            run.input(name, folder, artifact=artifact, version=version)


def added_sections(opened: Opened, cfg: ReportConfig) -> list[Section]:
    """Return the sections for which there is something to show."""
    made = (make(opened, cfg) for make in ADDED)
    return [section for section in made if section is not None]
