"""The answer for a terminal: the headline, the means of every arm, the path of the page.

`summary.txt` of a report holds the text without a path, so that it is the same wherever the
report lies; `summarise` reads it back and adds where to look.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.manifest import read_manifest

if TYPE_CHECKING:
    from eval.report_answers import Answers, Cell

SUMMARY = "summary.txt"
PAGE = "report.html"
_WIDTH = 100


def summarise(folder: Path) -> str:
    """Return the summary of a complete report, with the path of its page.

    Raises:
        ArtifactError: The folder is no complete report.
    """
    read_manifest(folder, artifact="report")
    text = (folder / SUMMARY).read_text(encoding="utf-8")
    return f"{text}\nreport: {folder / PAGE}\n"


def summary_text(answers: Answers, *, study: str) -> str:
    """Return headline, caveats, and arms by prompt style, as plain text."""
    from eval.answers_again import JUDGED
    from eval.report_rows import CHECKS

    lines = [f"{study}: {answers.headline}"]
    blocks = [textwrap.fill(lines[0], _WIDTH)]
    blocks += [textwrap.fill(c, _WIDTH, initial_indent="  ", subsequent_indent="  ")
               for c in answers.caveats]  # fmt: skip
    overall = [c for c in answers.following if c.measure.axis is None]
    axes = [
        c
        for c in answers.following
        if c.measure.axis is not None and c.measure.style == answers.primary.style
    ]
    own = [c for c in answers.grid if c.measure.scoring == c.measure.style]
    judged: dict[str, list[Cell]] = {}
    for cell in answers.checks:
        if cell.measure.metric in JUDGED and cell.measure.axis is None:
            judged.setdefault(cell.measure.metric, []).append(cell)
    for title, cells, first in (
        *((f"{m}: {CHECKS[m]}, %", cells, "style") for m, cells in judged.items()),
        ("claims that hold, %", overall, "style"),
        (f"by axis, {answers.primary.style} prompts, %", axes, "axis"),
        ("CLIP similarity x 100 with the prompt itself", own, "style"),
    ):
        if cells:
            blocks.append(_table(title, cells, answers, first=first))
    blocks.append(f"Everything else is in {PAGE}, beside this summary.")
    return "\n\n".join(blocks) + "\n"


def _table(title: str, cells: Sequence[Cell], answers: Answers, *, first: str) -> str:
    from eval.words import AXIS_NAMES, DIGITS, number, plus_minus

    columns = [
        arm
        for arm in (*answers.arms, *answers.ceilings)
        if any(cell.means.get(arm) is not None for cell in cells)
    ]
    rows = [[title, *columns]]
    for cell in cells:
        digits = DIGITS[cell.measure.metric]
        label = (
            f"  {cell.measure.style} prompts"
            if first == "style"
            else f"  {AXIS_NAMES.get(cell.measure.axis or '', cell.measure.axis)}"
        )
        means = []
        for arm in columns:
            mean = cell.means.get(arm)
            if mean is None:
                means.append("")
            else:
                spread = plus_minus(mean, digits)
                means.append(f"{number(mean.estimate, digits)} {spread}".rstrip())
        rows.append([label, *means])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            value.ljust(width) if i == 0 else value.rjust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
