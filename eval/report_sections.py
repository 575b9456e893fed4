"""Sections that a study may or may not have: each a function, and a line in `ADDED`.

To add one that rests on scores alone: write a function that returns a `Section`, or None where the
report has nothing of the kind, and put it in `ADDED`. One that reads an artifact of its own also
needs a field `NAME: Path | None = None` of `ReportConfig` and its artifact's name in `INPUTS`. The
page, its navigation, the CSV files and the manifest follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eval.config import ReportConfig
from eval.distribution_artifact import DISTRIBUTION, DISTRIBUTION_VERSION, SAYS_NOTHING
from eval.drawing import Drawing
from eval.report_along import (
    along_table,
    basis_of,
    draw_along,
    lines_along,
    told,
    with_numbers,
)
from eval.report_answers import Answers
from eval.report_distribution import distribution_table, open_distances, sizes_table
from eval.report_figures import draw_seeds
from eval.report_inputs import Opened
from eval.report_judged import WORDS, answers_of, counts_table, examples_table
from eval.report_pooled import pooled_table
from eval.report_rows import order_arms, primary_measure
from eval.report_tables import cells_table
from eval.seed_noise import seed_noise_of, seed_noise_table
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

    drawings: Sequence[Drawing] = ()


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a section may be made of."""

    opened: Opened
    answers: Answers
    cfg: ReportConfig

    folder: Path
    """Folder of the report, for figures."""


def along(of: Sources) -> Section | None:
    """Draw the scores against the numbers by which arms differ."""
    if not of.cfg.along:
        return None
    words, drawings, shown, folded, every = [], [], [], [], []
    for place, named in enumerate(of.cfg.along):
        number = with_numbers(named, of.opened.captions)
        lines = lines_along(of.opened.table, of.answers, number)
        is_measured = named.measured is not None
        drawings.append(
            draw_along(lines, number, of.folder, place=place, is_joined=not is_measured)
        )  # fmt: skip
        folded.append(along_table(lines, number, place=place))
        every += lines
        if is_measured:  # the same arms once more, by what their captions came to be
            continue
        if of.answers.withheld is None:  # which is highest would be a ranking
            words += told(of.opened.table, lines, number)
        over_arms = [line.pooled for line in lines if line.pooled is not None]
        if over_arms:
            shown.append(pooled_table(over_arms, place=place))
    basis = basis_of(every)
    if words:
        basis += (
            " The highest was looked for, so it looks higher than it is; it is compared with each "
            "other arm, corrected over the comparisons of one prompt style."
        )
    if shown:
        basis += (
            " Where several arms share a number, their mean has Student's interval over the arms, "
            "the prompts taken as given; largest and smallest number are compared by Welch's, "
            "without correction for the other comparisons of this report."
        )
    return Section(
        id="along",
        name="By number",
        title="Scores against what the arms differ by",
        words=[*words, basis],
        tables=shown,
        drawings=drawings,
        folded=folded,
    )


def changes(of: Sources) -> Section | None:
    """Tell what prompts of another style change for each arm."""
    if not of.answers.changes:
        return None
    return Section(
        id="changes",
        name="Other words",
        title="What other words for the same wish change",
        words=[
            "A change is told picture by picture: same model, same test picture and same number "
            "of the noise, prompts of two styles. Similarity is with the text of the first style. "
            "Claims are those of each prompt: of a prompt that asks for less, fewer. "
            "Beside it stands how much more an arm changes than the reference arm does, corrected "
            "with all other comparisons of this report.",
        ],
        tables=[
            cells_table(
                of.answers.changes, of.answers, name="changes",
                title="Change in claims that hold (%) and in CLIP similarity",
                first=("change", "measure"),
            )
        ],
    )  # fmt: skip


def training_seeds(of: Sources) -> Section | None:
    """Tell how much training an arm again with another seed changes its score."""
    found = seed_noise_of(of.opened.table, primary_measure(of.cfg.primary), of.answers.arms)
    if not found:
        return None
    return Section(
        id="seeds",
        name="Seeds",
        title="What training seeds alone do",
        words=[
            "Models of one arm differ in nothing but the seed of their training. Two of them, "
            "compared as if they had seen other captions, are called different by an interval over "
            "prompts in the share of cases below; with none of it, that share would be 5%.",
        ],
        drawings=[draw_seeds(found, primary_measure(of.cfg.primary), of.folder)],
        tables=[seed_noise_table(found, primary_measure(of.cfg.primary))],
    )


def distances(of: Sources) -> Section | None:
    """Return the section on distances between distributions."""
    opened, cfg = of.opened, of.cfg
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


def people(of: Sources) -> Section | None:
    """Show what people preferred."""
    opened, cfg = of.opened, of.cfg
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


def judges(of: Sources) -> Section | None:
    """Show what yes-or-no judges answered; their scores are among the checks."""
    if not of.opened.judged:
        return None
    found = answers_of(of.opened.judged)
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

ADDED: Final[Sequence[Callable[[Sources], Section | None]]] = (
    along,
    changes,
    training_seeds,
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


def added_sections(of: Sources) -> list[Section]:
    """Return the sections for which there is something to show."""
    made = (make(of) for make in ADDED)
    return [section for section in made if section is not None]
