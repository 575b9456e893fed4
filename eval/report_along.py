"""Arms that differ by a number: prompt following and CLIP similarity drawn and told against it.

Which arms lie where, the study says (`along` of `eval report`). A line per prompt style joins the
means; their intervals are given the trained models, clustered by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.config import AlongConfig
from eval.drawing import (
    ARM_COLOURS,
    ARM_MARKERS,
    MUTED,
    WIDTH,
    Drawing,
    bars,
    drawing_style,
    new_figure,
    plain_text,
    slug,
    write_drawing,
)
from eval.report_answers import Answers, Cell
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
        look: dict[str, Any] = {"color": ARM_COLOURS[i % len(ARM_COLOURS)]}
        at = x + step * (i - (len(styles) - 1) / 2)
        y = [mean.estimate for mean in means]
        panel.errorbar(at, y, yerr=bars(means), fmt="none", elinewidth=1.2, **look)
        panel.plot(at, y, marker=ARM_MARKERS[i % len(ARM_MARKERS)], markersize=4.5, **look)


def _legend(figure: Any, styles: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=ARM_COLOURS[i % len(ARM_COLOURS)], markersize=5, linewidth=1.8,
            marker=ARM_MARKERS[i % len(ARM_MARKERS)], label=f"{style} prompts",
        )
        for i, style in enumerate(styles)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)
