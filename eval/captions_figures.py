"""Figure of the caption page: what an estimate of hallucination is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eval.drawing import (
    ARM_COLOURS,
    ZERO,
    Drawing,
    drawing_style,
    new_figure,
    plain_text,
    write_drawing,
)
from eval.hallucination import best_set


def draw_calibration(hallucination: Mapping[str, Any], folder: Path) -> Drawing | None:
    """Draw mean truth over mean held-out estimate, a panel per kind whose known truth varies.

    Args:
        hallucination: `hallucination.json` of a captions report.
        folder: Folder of the report.
    """
    known = {
        kind: found["known"]["sets"]
        for kind, found in hallucination.get("kinds", {}).items()
        if found["known"] is not None and _varies(found["known"]["sets"])
    }
    if not known:
        return None
    columns = min(3, len(known))
    lines = -(-len(known) // columns)
    ends = [
        value
        for sets in known.values()
        for b in sets[best_set(sets) or ""]["calibration"]
        for value in (b["mean_estimate"], b["interval"][1])
    ]
    top = min(1.0, 1.05 * max(ends)) or 1.0
    with drawing_style():
        size = (2.9 * columns + 0.6, 2.7 * lines)
        figure, panels = new_figure(lines, columns, size=size, sharex=True, sharey=True)
        for panel, (kind, sets) in zip(panels.flat, known.items(), strict=False):
            name = best_set(sets) or ""
            bins = sets[name]["calibration"]
            x = np.array([b["mean_estimate"] for b in bins])
            y = np.array([b["mean_truth"] for b in bins])
            low, high = np.clip(np.array([b["interval"] for b in bins]).T, 0, 1)
            panel.plot([0, top], [0, top], color=ZERO, linestyle="--", linewidth=1)
            panel.errorbar(
                x, y, yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)], linestyle="",
                color=ARM_COLOURS[1], marker="o", markersize=4.5, linewidth=1.2,
            )  # fmt: skip
            panel.set_title(plain_text(f"{kind}, from {name}"))
            panel.set_xlim(0, top)
            panel.set_ylim(0, top)
        for panel in panels.flat[len(known) :]:
            panel.set_visible(False)
        for panel in panels[-1]:
            panel.set_xlabel("estimated share of false claims")
        for panel in panels[:, 0]:
            panel.set_ylabel("true share")
        alt = "True share of false claims over the held-out estimate, in bins of equally many"
        return write_drawing(figure, folder, "calibration", alt=alt)


def _varies(sets: Mapping[str, Any]) -> bool:
    return any(of_set["correlation"]["pearson"] is not None for of_set in sets.values())
