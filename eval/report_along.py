"""Arms that differ by a number: prompt following and CLIP similarity drawn and told against it.

Which arms lie where, the study says (`along` of `eval report`), or the measured captions do. A line
per prompt style joins the means; arms that share a number are loose points about the mean of
theirs. Intervals include training seeds from four an arm on, and are given the trained models with
fewer. What was highest is told with everything that cannot be told from it.

A arms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.artifacts import CaptionsReport
from eval.config import AlongConfig
from eval.drawing import (
    ARM_COLOURS,
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
from eval.intervals import Interval
from eval.report_answers import Answers
from eval.report_facts import caption_axes
from eval.report_pooled import Pooled, pooled
from eval.report_rows import Measure, ScoreTable
from eval.seed_noise import mean_of
from eval.stats import MIN_SEEDS, Verdict, compare, holm
from eval.table import Table, Value, ends
from eval.words import DIGITS, bracket, number
from launch.errors import InputError

PANELS = {"claims_held": "claims that hold, %", "clip_similarity": "CLIP, the prompt itself"}
"""What is drawn, and its title."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measure against a number."""

    measure: Measure
    x: Mapping[str, float]
    """Arm -> its number, lowest first."""

    given: Mapping[str, Interval]
    """Arm -> mean, given the trained models."""

    means: Mapping[str, Interval]
    """Arm -> mean, with training seeds where there are enough of them."""

    pooled: Pooled | None
    """Means over arms that share a number, where all numbers have several."""

    @property
    def arms(self) -> list[str]:
        """Arms, lowest number first."""
        return list(self.x)


def with_numbers(along: AlongConfig, captions: CaptionsReport) -> AlongConfig:
    """Return what is drawn against, with numbers in it where the measured captions have them.

    Raises:
        InputError: A kind was not measured.
    """
    if along.measured is None:
        return along
    drawn, _ = caption_axes(captions)
    place = 2 if along.measured == "precision" else 3
    found: dict[str, float] = {
        row[0]: 100 * row[place].estimate for row in drawn if row[1] == "all"
    }  # fmt: skip
    absent = [kind for kind in along.kinds if not np.isfinite(found.get(kind, np.nan))]
    if absent:
        raise InputError(
            f"along: {along.title!r} takes {along.measured} of {absent[0]!r} from "
            f"{captions.manifest.folder}, which measured {', '.join(found) or 'nothing'} on "
            "pictures that are not annotated. Measure it with eval captions, or leave it out."
        )
    return AlongConfig(title=along.title, arms={kind: found[kind] for kind in along.kinds})


def lines_along(table: ScoreTable, answers: Answers, along: AlongConfig) -> list[Line]:
    """Return what is drawn against a number: per style all claims, and CLIP with the prompt.

    Args:
        table: The score rows.
        answers: What the report says of them.
        along: The number, and the arms that have it.
    """
    following = [c for c in answers.following if c.measure.axis is None]
    own = [c for c in answers.grid if c.measure.scoring == c.measure.style]
    listed = sorted((a for a in answers.arms if a in along.arms), key=lambda a: along.arms[a])
    lines = []
    for cell in following + own:
        of = {a: rows for a in listed if (rows := table.rows(cell.measure, a)) is not None}
        given = {a: cell.means[a] for a in of}
        means = {a: mean_of(rows, arm=a) for a, rows in of.items()}
        x = {a: along.arms[a] for a in of}
        estimates = {a: mean.estimate for a, mean in means.items()}
        over_arms = pooled(cell.measure, estimates, x, title=along.title)
        lines.append(
            Line(measure=cell.measure, x=x, given=given, means=means, pooled=over_arms)
        )  # fmt: skip
    return lines


def basis_of(lines: Sequence[Line]) -> str:
    """Say what the intervals are over."""
    has_seeds = {m is not line.given[a] and m != line.given[a] for line in lines
                 for a, m in line.means.items()}  # fmt: skip
    if has_seeds == {True}:
        return "Means with 95% intervals over prompts and training seeds."
    if True in has_seeds:
        return (
            f"Means with 95% intervals, over prompts and training seeds for arms of {MIN_SEEDS} "
            "seeds or more, and over prompts, given the trained models, for the others."
        )
    return "Means with 95% intervals over prompts, given the trained models."


def along_table(lines: Sequence[Line], along: AlongConfig, *, place: int) -> Table:
    """Make the table of one number: a row for each arm, a column for each style and measure.

    Args:
        lines: What is drawn.
        along: The number.
        place: Which of the study's numbers it is, from 0.
    """
    arms = list(dict.fromkeys(arm for line in lines for arm in line.arms))
    rows, records = [], []
    for arm in arms:
        row = [Value(f"{along.arms[arm]:g}", along.arms[arm]), Value(arm)]
        for line in lines:
            if arm not in line.x:
                row.append(Value("", -np.inf))
                continue
            mean, given, digits = line.means[arm], line.given[arm], DIGITS[line.measure.metric]
            row.append(Value(number(mean.estimate, digits), mean.estimate, bracket(mean, digits)))
            with_seeds = mean if mean != given else None
            records.append(
                {
                    "number": along.arms[arm], "arm": arm, "metric": line.measure.metric,
                    "prompt_style": line.measure.style, "mean": given.estimate, **ends(given),
                    **ends(with_seeds, "with_seeds_"),
                }
            )  # fmt: skip
        rows.append(row)
    columns = [f"{PANELS[line.measure.metric]}, {line.measure.style} prompts" for line in lines]
    return Table(
        name=f"along-{place}",
        title=along.title,
        columns=[along.title, "arm", *columns],
        rows=rows,
        numeric=frozenset({0, *range(2, 2 + len(columns))}),
        records=records,
    )


def draw_along(
    lines: Sequence[Line], along: AlongConfig, folder: Path, *, place: int, is_joined: bool = True
) -> Drawing:
    """Draw every style against the number, a panel for each measure.

    Args:
        lines: What is drawn.
        along: The number.
        folder: Folder of the report.
        place: Which of the study's numbers it is, from 0.
        is_joined: Join the means; measured numbers, of which every arm has its own, are not.
    """
    panels = [m for m in PANELS if any(line.measure.metric == m for line in lines)]
    styles = list(dict.fromkeys(line.measure.style for line in lines))
    with drawing_style():
        height = 3.1 + 0.17 * max(0, len(styles) - 4)
        figure, axes = new_figure(1, len(panels), size=(WIDTH, height))
        for panel, metric in zip(axes.flat, panels, strict=True):
            here = [line for line in lines if line.measure.metric == metric]
            _draw_panel(panel, here, styles=styles, is_joined=is_joined)
            panel.set_title(plain_text(PANELS[metric]))
        figure.supxlabel(plain_text(along.title), fontsize=8.5, color=MUTED)
        _legend(figure, styles)
        alt = f"{' and '.join(PANELS[m] for m in panels)} against {along.title}, a line for each "
        alt += f"prompt style: {', '.join(styles)}"
        return write_drawing(figure, folder, f"along-{place}-{slug(along.title)}", alt=alt)


def told(table: ScoreTable, lines: Sequence[Line], along: AlongConfig) -> list[str]:
    """Say for each prompt style which arm is highest, and which cannot be told from it.

    The highest is compared with each other arm; p is corrected (Holm) over these comparisons of one
    style, and not for having looked for the highest, which makes it look higher than it is. Of arms
    that share numbers the largest number is compared with the smallest instead.
    """
    claims = [line for line in lines if line.measure.metric == "claims_held"] or lines
    return [
        line.pooled.sentence if line.pooled is not None else _highest_in(table, line, along)
        for line in claims
        if len(line.x) > 2
    ]


def _highest_in(table: ScoreTable, line: Line, along: AlongConfig) -> str:
    best = max(line.arms, key=lambda arm: line.means[arm].estimate)
    others = [arm for arm in line.arms if arm != best]
    found = [(arm, table.paired(line.measure, best, arm)) for arm in others]
    compared = [(arm, compare(paired)) for arm, paired in found if paired is not None]
    adjusted = holm([c.p_value for _, c in compared])
    verdicts = [c.verdict_at(float(p)) for (_, c), p in zip(compared, adjusted, strict=True)]
    near = [a for (a, _), v in zip(compared, verdicts, strict=True) if v is not Verdict.BETTER]
    far = [a for (a, _), v in zip(compared, verdicts, strict=True) if v is Verdict.BETTER]
    mean, digits = line.means[best], DIGITS[line.measure.metric]
    lower = f"; lower than it: {', '.join(far)}" if far else ""
    return (
        f"{along.title}, {line.measure.style} prompts: {best} is highest, "
        f"{number(mean.estimate, digits)} {bracket(mean, digits)}; not distinguishable from it: "
        f"{', '.join(near) or 'none'}{lower}."
    )


def _draw_panel(
    panel: Any, lines: Sequence[Line], *, styles: Sequence[str], is_joined: bool = True
) -> None:
    places = np.array([x for line in lines for x in line.x.values()])
    # Styles lie side by side where they would cover each other, within the same room however many.
    room = 0.036 * float(np.ptp(places))
    for line in lines:
        i = styles.index(line.measure.style)
        colour, marker = look_of(line.measure.style, styles)
        shift = room * (i / max(len(styles) - 1, 1) - 0.5) if len(styles) > 1 else 0.0
        x = np.array(list(line.x.values())) + shift
        y = np.array([mean.estimate for mean in line.means.values()])
        look = {"fmt": marker, "markersize": 4.5, "elinewidth": 1.2, "color": colour}
        if line.pooled is None:
            panel.errorbar(x, y, yerr=bars(list(line.means.values())), **look)
        else:
            panel.scatter(x, y, s=9, facecolors="none", edgecolors=colour, linewidths=0.9)
            over = list(line.pooled.means.values())
            x = np.array(list(line.pooled.means)) + shift
            y = np.array([mean.estimate for mean in over])
            panel.errorbar(x, y, yerr=bars(over), **look)
        if is_joined:
            at = np.unique(x)
            over_x = [y[x == place].mean() for place in at]
            panel.plot(at, over_x, color=colour, linestyle=_stroke(i))


def _stroke(place: int) -> str:
    """Return the line of a style: broken where its colour comes again."""
    return "-" if place < len(ARM_COLOURS) else "--"


def _legend(figure: Any, styles: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=colour, marker=marker, markersize=5, linewidth=1.8,
            linestyle=_stroke(styles.index(style)),
            label=f"{style} prompts",
        )
        for style in styles
        for colour, marker in [look_of(style, styles)]
    ]  # fmt: skip
    # In inches, at the legend's size of type.
    widest = max(0.5 + 0.085 * len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), int(WIDTH / widest)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=8.5)
