"""Figures of the report, as SVG and PNG files and as SVG inside the page.

Drawn once with named colours. Inside the page the colours become CSS variables, so that the same
drawing serves light and dark; in the files they stay as drawn. Arms differ by marker as well as by
colour. Nothing of a drawing depends on time or machine, so equal numbers give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.report_answers import MINUS, Answers, Cell, Curve, Measure, name_of, unit_of
from eval.stats import Interval
from launch.manifest import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, ZERO = "#22262b", "#646b75", "#e3e6ea", "#9aa1ab"
ARM_COLOURS = ("#6f7680", "#1f6fb2", "#c4501b", "#1d8464", "#7a4fa3", "#96741d")
"""The reference arm is grey; the others are told apart by people with any colour vision."""

ARM_MARKERS = ("o", "s", "^", "D", "v", "P")
CSS_OF = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ZERO: "--zero"} | {
    colour: f"--arm-{i}" for i, colour in enumerate(ARM_COLOURS)
}
"""CSS variable that stands for each colour inside the page."""

AXIS_NAMES = {
    "objects": "objects and background",
    "number_place": "number and place",
    "colour_size": "colour and size",
    "words": "displayed words",
    "all": "all axes",
}
"""Axes of claims in words."""

_WIDTH = 8.6


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that has been written: its name, its words and its form for the page."""

    name: str
    """File name without suffix."""

    alt: str
    """What it shows, for readers who do not see it."""

    svg: str
    """SVG element for the page."""

    files: tuple[str, ...]
    """Its files below the report's folder."""


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw in the report's own style while inside."""
    import matplotlib as mpl

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": RULE,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
        "svg.hashsalt": "captionmix",
        "axes.unicode_minus": True,
        "figure.dpi": 100,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(
    rows: int, columns: int, *, size: tuple[float, float], **options: Any
) -> tuple[Any, Any]:
    """Return a figure that no display or global state knows of, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def write_drawing(figure: Figure, folder: Path, name: str, *, alt: str) -> Drawing:
    """Write a figure below a folder as SVG and PNG, and return it for the page."""
    png, svg = io.BytesIO(), io.BytesIO()
    # The layout is found once; each `savefig` would find it again, at most of the cost.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(png, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    no_clock = {"Date": None, "Creator": "captionmix", "Title": name}
    figure.savefig(svg, format="svg", transparent=True, metadata=no_clock)
    files = (f"figures/{name}.svg", f"figures/{name}.png")
    for file, data in zip(files, (svg, png), strict=True):
        write_bytes(folder / file, data.getvalue())
    inline = _inline(svg.getvalue().decode(), name=name, alt=alt)
    return Drawing(name=name, alt=alt, files=files, svg=inline)


def _inline(svg: str, *, name: str, alt: str) -> str:
    """Make a file's SVG fit for a page: no header, own ids, colours from CSS, a spoken name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Ids of several drawings in one page must not meet.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', svg)
    for colour, variable in CSS_OF.items():
        svg = svg.replace(colour, f"var({variable})")
    # Text takes the page's font; its size stays.
    svg = re.sub(r"font-family:[^;\"]*;?", "", svg)
    svg = re.sub(r"(font:[^;\"]*?\d(?:\.\d+)?px) [^;\"]*", r"\1 var(--sans)", svg)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    svg = re.sub(
        r"<svg [^>]*>",
        f'<svg class="figure" role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" '
        f'style="max-width:{float(width) * 1.7:.0f}px" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    return re.sub(r">\s+<", "><", svg).strip()


def look_of(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker of an arm."""
    i = list(arms).index(arm)
    return ARM_COLOURS[i % len(ARM_COLOURS)], ARM_MARKERS[i % len(ARM_MARKERS)]


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
    figure.legend(
        handles=handles, loc="outside upper left", ncols=max(1, min(6, len(handles))),
        fontsize=8.5, handlelength=1.6, columnspacing=1.6, borderaxespad=0.2,
    )  # fmt: skip


def _ends(intervals: Sequence[Interval]) -> Any:
    """Return lengths of error bars; an unbounded interval is drawn without one."""
    ends = [(i.estimate - i.low, i.high - i.estimate) for i in intervals]
    return np.nan_to_num(np.array(ends, float).T.reshape(2, -1), nan=0.0, posinf=0.0)


def plain_text(text: str) -> str:
    """Keep a name from being read as mathematics."""
    return text.replace("$", r"\$")


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


# --------------------------------------------------------------------------- figures


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
    width = _WIDTH if columns > 1 else 5.0
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
        low, high = ([getattr(p.mean, end) for p in points] for end in ("low", "high"))
        if np.isfinite(low + high).all():
            panel.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
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
        figure, axes = new_figure(1, 1, size=(_WIDTH, height))
        panel = axes[0, 0]
        panel.axvline(0, color=ZERO, linewidth=1.2)
        for i, cell in enumerate(cells):
            for d in cell.differences:
                k = others.index(d.arm)
                colour, marker = look_of(d.arm, answers.arms)
                interval = d.comparison.deciding
                y = i + (k - (len(others) - 1) / 2) * step
                panel.errorbar(
                    [interval.estimate], [y], xerr=_ends([interval]), color=colour, marker=marker,
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
        figure, axes = new_figure(1, 1, size=(_WIDTH, 0.65 + 0.36 * len(pairs)))
        panel = axes[0, 0]
        panel.axvline(0, color=ZERO, linewidth=1.2)
        for i, d in enumerate(pairs):
            colour, marker = look_of(d.arm, answers.arms)
            interval = d.comparison.deciding
            panel.errorbar(
                [interval.estimate], [i], xerr=_ends([interval]), color=colour, marker=marker,
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
        figure, axes = new_figure(1, 1, size=(_WIDTH, 2.9))
        panel = axes[0, 0]
        for i, cell in enumerate(cells):
            for k, arm in enumerate(arms):
                if arm not in cell.means:
                    continue
                colour, marker = look_of(arm, arms)
                mean = cell.means[arm]
                panel.errorbar(
                    [i + (k - (len(arms) - 1) / 2) * step], [mean.estimate], yerr=_ends([mean]),
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
        panel.set_xticks(
            range(len(names)), [plain_text(n.replace(" and ", "\nand ")) for n in names]
        )
        panel.tick_params(axis="x", labelcolor=INK)
        panel.set_xlim(-0.5, len(names) - 0.5)
        panel.set_ylabel("claims that hold, %")
        panel.grid(visible=False, axis="x")
        panel.spines["bottom"].set_visible(False)
        _legend(figure, arms, of=arms, lines=dict(zip(answers.ceilings, ("-", ":"), strict=False)))
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
        size = (_WIDTH, 0.55 + lines * (0.45 + 0.24 * len(axes_names)))
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
                            [interval.estimate], [y + shift], xerr=_ends([interval]), color=colour,
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


def slug(text: str) -> str:
    """Turn a name into one that is safe in a file name and in an id, distinct names staying so."""
    from launch.manifest import digest_bytes

    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")
    return plain if plain == text else f"{plain or 'x'}-{digest_bytes(text.encode())[:6]}"
