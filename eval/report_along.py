"""Arms that differ by a number: prompt following and CLIP similarity drawn and told against it.

Which arms lie where, the study says (`along` of `eval report`). A line per prompt style joins the
means, or where arms share a number, the mean of theirs; intervals are given the trained models,
clustered by prompt. What was highest is told with everything that cannot be told from it.

A arms
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.config import AlongConfig
from eval.drawing import (
    MUTED,
    WIDTH,
    Drawing,
    bars,
    drawing_style,
    look_of,
    new_figure,
    plain_text,
    slug,
    write_drawing,
)
from eval.report_answers import Answers, Cell
from eval.report_rows import ScoreTable
from eval.stats import Verdict, compare, holm
from eval.table import Table, Value, ends
from eval.words import DIGITS, bracket, number

PANELS = {"claims_held": "claims that hold, %", "clip_similarity": "CLIP, the prompt itself"}
"""What is drawn, and its title."""


def cells_along(answers: Answers) -> list[Cell]:
    """Return what is drawn against a number: per style all claims, and CLIP with the prompt."""
    following = [c for c in answers.following if c.measure.axis is None]
    own = [c for c in answers.grid if c.measure.scoring == c.measure.style]
    return following + own


def along_table(answers: Answers, along: AlongConfig, *, place: int) -> Table:
    """Make the table of one number: a row for each arm, a column for each style and measure.

    Args:
        answers: The means.
        along: The number, and the arms that have it.
        place: Which of the study's numbers it is, from 0.
    """
    cells = cells_along(answers)
    arms = _arms(answers, along)
    rows, records = [], []
    for arm in arms:
        row = [Value(f"{along.arms[arm]:g}", along.arms[arm]), Value(arm)]
        for cell in cells:
            mean, digits = cell.means[arm], DIGITS[cell.measure.metric]
            row.append(Value(number(mean.estimate, digits), mean.estimate, bracket(mean, digits)))
            records.append(
                {
                    "number": along.arms[arm], "arm": arm, "metric": cell.measure.metric,
                    "prompt_style": cell.measure.style, "mean": mean.estimate, **ends(mean),
                }
            )  # fmt: skip
        rows.append(row)
    columns = [f"{PANELS[c.measure.metric]}, {c.measure.style} prompts" for c in cells]
    return Table(
        name=f"along-{place}",
        title=along.title,
        columns=[along.title, "arm", *columns],
        rows=rows,
        numeric=frozenset({0, *range(2, 2 + len(columns))}),
        records=records,
    )


def draw_along(answers: Answers, along: AlongConfig, folder: Path, *, place: int) -> Drawing:
    """Draw every style against the number, a panel for each measure.

    Args:
        answers: The means.
        along: The number, and the arms that have it.
        folder: Folder of the report.
        place: Which of the study's numbers it is, from 0.
    """
    cells = cells_along(answers)
    panels = [m for m in PANELS if any(c.measure.metric == m for c in cells)]
    styles = list(dict.fromkeys(c.measure.style for c in cells))
    with drawing_style():
        figure, axes = new_figure(1, len(panels), size=(WIDTH, 3.1))
        for panel, metric in zip(axes.flat, panels, strict=True):
            here = [c for c in cells if c.measure.metric == metric]
            _draw_panel(panel, here, answers, along, styles=styles)
            panel.set_title(plain_text(PANELS[metric]))
        figure.supxlabel(plain_text(along.title), fontsize=8.5, color=MUTED)
        _legend(figure, styles)
        alt = f"{' and '.join(PANELS[m] for m in panels)} against {along.title}, a line for each "
        alt += f"prompt style: {', '.join(styles)}"
        return write_drawing(figure, folder, f"along-{place}-{slug(along.title)}", alt=alt)


def highest(table: ScoreTable, answers: Answers, along: AlongConfig) -> list[str]:
    """Say for each prompt style which arm is highest, and which cannot be told from it.

    The highest is compared with each other arm; p is corrected (Holm) over these comparisons of one
    style, and not for having looked for the highest, which makes it look higher than it is.
    """
    cells = [c for c in cells_along(answers) if c.measure.metric == "claims_held"]
    return [
        _highest_in(table, cell, arms)
        for cell in cells or cells_along(answers)
        if len(arms := _arms(answers, along)) > 2
    ]


def _highest_in(table: ScoreTable, cell: Cell, arms: Sequence[str]) -> str:
    best = max(arms, key=lambda arm: cell.means[arm].estimate)
    others = [arm for arm in arms if arm != best]
    found = [(arm, table.paired(cell.measure, best, arm)) for arm in others]
    compared = [(arm, compare(paired)) for arm, paired in found if paired is not None]
    adjusted = holm([c.p_value for _, c in compared])
    verdicts = [c.verdict_at(float(p)) for (_, c), p in zip(compared, adjusted, strict=True)]
    near = [a for (a, _), v in zip(compared, verdicts, strict=True) if v is not Verdict.BETTER]
    far = [a for (a, _), v in zip(compared, verdicts, strict=True) if v is Verdict.BETTER]
    mean, digits = cell.means[best], DIGITS[cell.measure.metric]
    lower = f"; lower than it: {', '.join(far)}" if far else ""
    return (
        f"{cell.measure.style} prompts: {best} is highest, {number(mean.estimate, digits)} "
        f"{bracket(mean, digits)}; not distinguishable from it: {', '.join(near) or 'none'}{lower}."
    )


def _arms(answers: Answers, along: AlongConfig) -> list[str]:
    return sorted((a for a in answers.arms if a in along.arms), key=lambda a: along.arms[a])


def _draw_panel(
    panel: Any,
    cells: Sequence[Cell],
    answers: Answers,
    along: AlongConfig,
    *,
    styles: Sequence[str],
) -> None:
    arms = _arms(answers, along)
    x = np.array([along.arms[arm] for arm in arms])
    # Styles lie side by side where they would cover each other.
    step = 0.012 * float(np.ptp(x))
    for cell in cells:
        i = styles.index(cell.measure.style)
        means = [cell.means[arm] for arm in arms]
        colour, marker = look_of(cell.measure.style, styles)
        shift = step * (i - (len(styles) - 1) / 2)
        y = np.array([mean.estimate for mean in means])
        panel.errorbar(
            x + shift, y, yerr=bars(means), fmt=marker, markersize=4.5, elinewidth=1.2, color=colour
        )
        places = np.unique(x)
        panel.plot(places + shift, [y[x == place].mean() for place in places], color=colour)


def _legend(figure: Any, styles: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=colour, marker=marker, markersize=5, linewidth=1.8,
            label=f"{style} prompts",
        )
        for style in styles
        for colour, marker in [look_of(style, styles)]
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8.5)
