"""How figures look and are written: SVG and PNG files, and SVG inside the page.

Drawn once with named colours. Inside the page the colours become CSS variables, so that the same
drawing serves light and dark; in the files they stay as drawn. Nothing of a drawing depends on
time or machine, so equal numbers give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.intervals import Interval
from launch.manifest import digest_bytes, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE, ZERO = "#22262b", "#646b75", "#e3e6ea", "#9aa1ab"

ARM_COLOURS = ("#6f7680", "#1f6fb2", "#c4501b", "#1d8464", "#7a4fa3", "#96741d")
"""The reference arm is grey; the others are told apart by people with any colour vision."""

ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")

CSS_OF = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ZERO: "--zero"} | {
    colour: f"--arm-{i}" for i, colour in enumerate(ARM_COLOURS)
}
"""CSS variable that stands for each colour inside the page."""

WIDTH = 8.6
"""Width of a figure in inches; the page scales it."""

NARROW = 4.6
"""Width of a figure that a phone shows whole."""


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
    look = "figure wide" if float(width) > 80 * NARROW else "figure"
    svg = re.sub(
        r"<svg [^>]*>",
        f'<svg class="{look}" role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" '
        f'style="max-width:{float(width) * 1.7:.0f}px" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    return re.sub(r">\s+<", "><", svg).strip()


def look_of(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    """Return colour and marker of an arm; of up to twelve arms each has a marker of its own."""
    i = list(arms).index(arm)
    return ARM_COLOURS[i % len(ARM_COLOURS)], ARM_MARKERS[i % len(ARM_MARKERS)]


def bars(intervals: Sequence[Interval]) -> Any:
    """Return lengths of error bars; an unbounded interval is drawn without one."""
    ends = [(i.estimate - i.low, i.high - i.estimate) for i in intervals]
    return np.nan_to_num(np.array(ends, float).T.reshape(2, -1), nan=0.0, posinf=0.0)


def plain_text(text: str) -> str:
    """Keep a name from being read as mathematics."""
    return text.replace("$", r"\$")


def slug(text: str) -> str:
    """Turn a name into one that is safe in a file name and in an id, distinct names staying so."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")
    return plain if plain == text else f"{plain or 'x'}-{digest_bytes(text.encode())[:6]}"
