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
from eval.distribution_artifact import DISTRIBUTION, DISTRIBUTION_VERSION, SAYS_NOTHING
from eval.report_distribution import distribution_table, open_distances, sizes_table
from eval.report_inputs import Opened
from eval.report_judged import WORDS, answers_of, counts_table, examples_table
from eval.report_rows import order_arms
from eval.table import Table
from eval.votes_artifact import VOTES, VOTES_VERSION
from eval.votes_tables import preference_tables
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


def distances(opened: Opened, cfg: ReportConfig) -> Section | None:
    """Return the section on distances between distributions."""
    if cfg.distribution is None:
        return None
    found = open_distances(cfg.distribution, generations=opened.generations)
    arms = order_arms(cfg.primary, [g.arm for g in opened.generations])
    return Section(
        id="distribution",
        name="Distributions",
        title="Distances between distributions",
        words=[
            SAYS_NOTHING,
            "FID depends on the number of pictures, which stands beside it; at infinite size that "
            "dependence is taken away. 95% intervals come from leaving out groups of prompts, the "
            "same for all arms; with fewer than four training seeds they are given the trained "
            "models. None is corrected for being many.",
        ],
        tables=[distribution_table(found, arms=arms)],
        folded=[sizes_table(found)],
    )


def people(opened: Opened, cfg: ReportConfig) -> Section | None:
    """Show what people preferred."""
    if cfg.votes is None:
        return None
    shown = {i for made in opened.generations for i in made.table["generation_id"].to_pylist()}
    found = preference_tables(cfg.votes, among=shown)
    return Section(
        id="people",
        name="People",
        title="What people prefer",
        words=found.notes,
        tables=found.shown,
        folded=found.folded,
    )


def judges(opened: Opened, cfg: ReportConfig) -> Section | None:
    """Show what yes-or-no judges answered; their scores are among the checks."""
    if not opened.judged:
        return None
    found = answers_of(opened.judged)
    return Section(
        id="judges",
        name="Judges",
        title="What the judges answered",
        words=[WORDS],
        tables=[counts_table(found)],
        folded=[examples_table(found)],
    )


INPUTS: Final[Mapping[str, tuple[str, int]]] = {
    "distribution": (DISTRIBUTION, DISTRIBUTION_VERSION),
    "votes": (VOTES, VOTES_VERSION),
}
"""Field of `ReportConfig` that may be None -> artifact and version that it names."""

ADDED: Final[Sequence[Callable[[Opened, ReportConfig], Section | None]]] = (
    judges,
    distances,
    people,
)
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
