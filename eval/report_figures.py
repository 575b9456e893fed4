"""Figures of the report: curves, differences, axes of claims, captions.

Arms differ by marker as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.drawing import (
    ARM_COLOURS,
    INK,
    MUTED,
    NARROW,
    RULE,
    WIDTH,
    ZERO,
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
from eval.report_answers import Answers, Cell, Curve
from eval.report_rows import Measure
from eval.seed_noise import SeedNoise
from eval.words import AXIS_NAMES, CEILING_NAMES, MINUS, name_of, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _legend(
    figure: Figure,
    arms: Sequence[str],
    *,
    of: Sequence[str],
    lines: Mapping[str, str] | None = None,
) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for arm in arms:
        colour, marker = look_of(arm, of)
        handles.append(
            Line2D([], [], color=colour, marker=marker, markersize=5, linewidth=1.8, label=arm)
        )
    for name, line in (lines or {}).items():
        handles.append(Line2D([], [], color=ZERO, linestyle=line, linewidth=1.3, label=name))
    # In inches, at the legend's size of type; names that do not fit one line take columns.
    widths = [0.5 + 0.075 * len(handle.get_label()) for handle in handles]
    room = figure.get_figwidth()
    columns = len(handles) if sum(widths) <= room else int(room / max(widths))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=max(1, columns),
        fontsize=8.5, handlelength=1.6, columnspacing=1.6, borderaxespad=0.2,
    )  # fmt: skip


def _samples(value: float | np.integer, _: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def panel_title(measure: Measure) -> str:
    """Name one panel of a figure."""
    if measure.metric == "claims_held":
        return "claims that hold, %"
    if measure.scoring == measure.style:
        return "CLIP, the prompt itself"
    return f"CLIP, {measure.scoring} caption"


def draw_curves(curves: Sequence[Curve], arms: Sequence[str], folder: Path) -> list[Drawing]:
    """Draw score against training progress: a figure per prompt style, a panel per scoring text."""
    drawings = []
    for style in dict.fromkeys(c.measure.style for c in curves):
        chosen = [c for c in curves if c.measure.style == style]
        chosen.sort(key=lambda c: (c.measure.metric, c.measure.scoring != style))
        name = f"curves-{slug(style)}"
        alt = (
            f"Score against pictures seen in training, {style} prompts, one line per arm: "
            + "; ".join(panel_title(c.measure) for c in chosen)
        )
        drawings.append(_draw_curves(chosen, arms, folder, name=name, alt=alt))
    return drawings


def _draw_curves(
    chosen: Sequence[Curve], arms: Sequence[str], folder: Path, *, name: str, alt: str
) -> Drawing:
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    width = WIDTH if columns > 1 else 5.0
    with drawing_style():
        figure, axes = new_figure(rows, columns, size=(width, 2.35 * rows + 0.35), sharex=True)
        for i, (panel, curve) in enumerate(zip(axes.flat, chosen, strict=False)):
            _draw_curve(panel, curve, arms)
            # The lowest panel of each column bears the labels, wherever the last row ends.
            panel.tick_params(labelbottom=i + columns >= len(chosen))
        for panel in axes.flat[len(chosen) :]:
            panel.set_visible(False)
        figure.supxlabel("pictures seen in training", fontsize=8.5, color=MUTED)
        _legend(figure, arms, of=arms)
        return write_drawing(figure, folder, name, alt=alt)


def _draw_curve(panel: Axes, curve: Curve, arms: Sequence[str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    for arm in arms:
        points = curve.of(arm)
        if not points:
            continue
        colour, marker = look_of(arm, arms)
        x = [p.samples_seen for p in points]
        y = [p.mean.estimate for p in points]
        low, high = (np.array([getattr(p.mean, end) for p in points]) for end in ("low", "high"))
        is_known = np.isfinite(low) & np.isfinite(high)
        panel.fill_between(  # a moment without an interval has no band
            x, np.where(is_known, low, y), np.where(is_known, high, y), where=is_known,
            color=colour, alpha=0.13, linewidth=0,
        )  # fmt: skip
        seeds = {s for p in points for s, _ in p.by_seed}
        for seed in sorted(seeds) if len(seeds) > 1 else []:
            line = [dict(p.by_seed).get(seed, np.nan) for p in points]
            panel.plot(x, line, color=colour, alpha=0.4, linewidth=0.8)
        panel.plot(x, y, color=colour, marker=marker, markersize=4.5)
    panel.set_title(plain_text(panel_title(curve.measure)))
    moments = sorted({p.samples_seen for p in curve.points})
    panel.xaxis.set_major_formatter(FuncFormatter(_samples))
    panel.xaxis.set_major_locator(FixedLocator(moments) if len(moments) <= 5 else MaxNLocator(4))
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.set_xlim(left=0)
    panel.grid(visible=False, axis="x")


def draw_seeds(found: Sequence[SeedNoise], measure: Measure, folder: Path) -> Drawing:
    """Draw the mean of every training seed, and how far two further models would lie apart.

    Args:
        found: The spread of each arm.
        measure: What is measured.
        folder: Folder of the report.
    """
    arms = [noise.arm for noise in found]
    with drawing_style():
        figure, axes = new_figure(1, 1, size=(NARROW, 1.3 + 0.5 * len(arms)))
        panel = axes.flat[0]
        for row, noise in enumerate(found):
            colour, marker = look_of(noise.arm, arms)
            values = [mean for _, mean in noise.by_seed]
            middle, half = float(np.mean(values)), noise.between_two / 2
            panel.barh(row, 2 * half, left=middle - half, height=0.5, color=RULE, zorder=1)
            panel.vlines(middle, row - 0.25, row + 0.25, color=MUTED, linewidth=1.2, zorder=2)
            panel.scatter(values, [row] * len(values), color=colour, marker=marker, s=22, zorder=3)
        panel.set_yticks(range(len(arms)), [plain_text(arm) for arm in arms])
        panel.set_ylim(len(arms) - 0.4, -0.6)
        panel.margins(x=0.05)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(f"{name_of(measure)}, {measure.style} prompts, {unit_of(measure)}")
        panel.set_title(
            "A point is a training seed; two further\nmodels lie a bar apart or more in 5%"
        )
        alt = f"Mean {name_of(measure)} of each training seed of {', '.join(arms)}"
        return write_drawing(figure, folder, "seeds", alt=alt)


def draw_differences(
    cells: Sequence[Cell], answers: Answers, folder: Path, *, name: str, labels: Sequence[str]
) -> Drawing | None:
    """Draw every difference to the reference arm with its interval, one line per measure."""
    others = answers.arms[1:]
    if not cells or not any(c.differences for c in cells):
        return None
    reference = answers.arms[0]
    unit = unit_of(cells[0].measure)
    alt = f"Differences to arm {reference} in {unit} with 95% intervals, by " + ", ".join(labels)
    step = 0.62 / max(len(others), 1)
    with drawing_style():
        height = 0.75 + len(cells) * max(0.26, 0.17 * len(others) + 0.1)
        figure, axes = new_figure(1, 1, size=(NARROW, height))
        panel = axes[0, 0]
        panel.axvline(0, color=ZERO, linewidth=1.2)
        for i, cell in enumerate(cells):
            for d in cell.differences:
                k = others.index(d.arm)
                colour, marker = look_of(d.arm, answers.arms)
                interval = d.comparison.deciding
                y = i + (k - (len(others) - 1) / 2) * step
                panel.errorbar(
                    [interval.estimate], [y], xerr=bars([interval]), color=colour, marker=marker,
                    markersize=5, linewidth=1.6, capsize=0,
                )  # fmt: skip
        for i in range(1, len(cells)):
            if cells[i].measure.style != cells[i - 1].measure.style:
                panel.axhline(i - 0.5, color=ZERO, linewidth=0.8)
        panel.set_yticks(range(len(cells)), [plain_text(text) for text in labels])
        panel.tick_params(axis="y", labelcolor=INK)
        panel.set_ylim(len(cells) - 0.5, -0.5)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
        panel.set_xlabel(plain_text(f"difference to {reference}, {unit}"))
        _legend(figure, others, of=answers.arms)
        return write_drawing(figure, folder, name, alt=alt)


def draw_pairs(answers: Answers, measure: Measure, folder: Path) -> Drawing | None:
    """Draw every pair of arms on the primary measure, single training seeds as open marks."""
    pairs = answers.pairs
    if not pairs:
        return None
    unit = unit_of(measure)
    alt = f"Differences in {name_of(measure)} in {unit} with 95% intervals: " + ", ".join(
        f"{d.arm} against {d.than}" for d in pairs
    )
    with drawing_style():
        figure, axes = new_figure(1, 1, size=(NARROW, 0.65 + 0.36 * len(pairs)))
        panel = axes[0, 0]
        panel.axvline(0, color=ZERO, linewidth=1.2)
        for i, d in enumerate(pairs):
            colour, marker = look_of(d.arm, answers.arms)
            interval = d.comparison.deciding
            panel.errorbar(
                [interval.estimate], [i], xerr=bars([interval]), color=colour, marker=marker,
                markersize=6, linewidth=1.8,
            )  # fmt: skip
            if d.comparison.num_seeds > 1:
                values = [value for _, value in d.comparison.by_seed]
                panel.plot(
                    values, [i - 0.26] * len(values), linestyle="", marker=marker, markersize=4,
                    markerfacecolor="none", markeredgecolor=colour, markeredgewidth=0.9,
                )  # fmt: skip
        names = [plain_text(f"{d.arm} {MINUS} {d.than}") for d in pairs]
        panel.set_yticks(range(len(pairs)), names)
        panel.tick_params(axis="y", labelcolor=INK)
        panel.set_ylim(len(pairs) - 0.5, -0.6)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
        panel.set_xlabel(f"difference, {unit}")
        return write_drawing(figure, folder, "pairs", alt=alt)


def draw_axes(
    cells: Sequence[Cell], answers: Answers, folder: Path, *, unmeasured: Sequence[str] = ()
) -> Drawing | None:
    """Draw prompt following by axis: every arm, what real pictures reach, and what is not known."""
    if not cells:
        return None
    arms = answers.arms
    step = 0.6 / max(len(arms), 1)
    style = cells[0].measure.style
    alt = f"Share of claims of {style} prompts that hold, by axis and arm, with ceilings"
    with drawing_style():
        figure, axes = new_figure(1, 1, size=(NARROW, 2.9))
        panel = axes[0, 0]
        for i, cell in enumerate(cells):
            for k, arm in enumerate(arms):
                if arm not in cell.means:
                    continue
                colour, marker = look_of(arm, arms)
                mean = cell.means[arm]
                panel.errorbar(
                    [i + (k - (len(arms) - 1) / 2) * step], [mean.estimate], yerr=bars([mean]),
                    color=colour, marker=marker, markersize=5.5, linewidth=1.6,
                )  # fmt: skip
            for ceiling, line in zip(answers.ceilings, ("-", ":"), strict=False):
                if ceiling in cell.means:
                    panel.hlines(
                        cell.means[ceiling].estimate, i - 0.42, i + 0.42,
                        color=ZERO, linewidth=1.3, linestyle=line,
                    )  # fmt: skip
        names = [AXIS_NAMES.get(c.measure.axis or "all", c.measure.axis or "all") for c in cells]
        names += [AXIS_NAMES.get(axis, axis) for axis in unmeasured]
        for i in range(len(cells), len(names)):
            panel.text(
                i, 0.5, "not\nmeasurable", ha="center", va="center", color=MUTED,
                transform=panel.get_xaxis_transform(),
            )  # fmt: skip
        names = [n.replace(" and ", " and\n").replace("displayed ", "displayed\n") for n in names]
        panel.set_xticks(range(len(names)), [plain_text(n) for n in names])
        panel.tick_params(axis="x", labelcolor=INK)
        panel.set_xlim(-0.5, len(names) - 0.5)
        panel.set_ylabel("claims that hold, %")
        panel.grid(visible=False, axis="x")
        panel.spines["bottom"].set_visible(False)
        names = [CEILING_NAMES.get(c, c) for c in answers.ceilings]
        ceilings = dict(zip(names, ("-", ":"), strict=False))
        _legend(figure, arms, of=arms, lines=ceilings)
        return write_drawing(figure, folder, "axes", alt=alt)


def draw_captions(
    rows: Sequence[tuple[str, str, Interval, Interval]], folder: Path
) -> Drawing | None:
    """Draw precision and recall of captions.

    Args:
        rows: (kind, axis, precision, recall), of pictures that no captioner was fitted on.
        folder: Folder of the report.
    """
    from matplotlib.lines import Line2D

    kinds = list(dict.fromkeys(kind for kind, *_ in rows))
    axes_names = [a for a in AXIS_NAMES if any(row[1] == a for row in rows)]
    if not kinds:
        return None
    filled, hollow = ARM_COLOURS[1], ARM_COLOURS[2]
    columns = min(4, len(kinds))
    lines = -(-len(kinds) // columns)
    with drawing_style():
        size = (WIDTH, 0.55 + lines * (0.45 + 0.24 * len(axes_names)))
        figure, panels = new_figure(lines, columns, size=size, sharex=True, sharey=True)
        for panel, kind in zip(panels.flat, kinds, strict=False):
            for _, axis, precision, recall in (r for r in rows if r[0] == kind):
                y = axes_names.index(axis)
                for shift, interval, colour, marker in (
                    (-0.13, precision, filled, "o"),
                    (0.13, recall, hollow, "D"),
                ):
                    if np.isfinite(interval.estimate):
                        panel.errorbar(
                            [interval.estimate], [y + shift], xerr=bars([interval]), color=colour,
                            marker=marker, markersize=4.5, linewidth=1.5,
                        )  # fmt: skip
            panel.set_title(plain_text(kind))
            panel.set_xlim(-0.02, 1.02)
            panel.set_xticks([0, 0.5, 1])
            panel.grid(visible=False, axis="y")
            panel.spines["left"].set_visible(False)
        for panel in panels.flat[len(kinds) :]:
            panel.set_visible(False)
        for panel in panels[:, 0]:
            panel.set_yticks(range(len(axes_names)), [AXIS_NAMES[a] for a in axes_names])
            panel.tick_params(axis="y", labelcolor=INK)
            panel.set_ylim(len(axes_names) - 0.5, -0.5)
        figure.legend(
            handles=[
                Line2D([], [], color=filled, marker="o", linestyle="", label="precision"),
                Line2D([], [], color=hollow, marker="D", linestyle="", label="recall"),
            ],
            loc="outside upper left", ncols=2, fontsize=8.5, borderaxespad=0.2,
        )  # fmt: skip
        alt = "Precision and recall of what captions claim, by kind and axis, with 95% intervals"
        return write_drawing(figure, folder, "captions", alt=alt)
