"""The page of `eval captions`: what was measured, shown. Nothing here computes a new number.

The page is payload and digested, so it holds no time and no path.
"""

from __future__ import annotations

from pathlib import Path

from eval import captions_tables as tables
from eval import report_facts as facts
from eval import report_figures as figures
from eval.artifacts import CaptionsReport
from eval.captions_figures import draw_calibration
from eval.captions_summary import carried_words, not_carried_words, partly_known
from eval.page import render
from eval.thumbnails import MAX_SIDE, PIXELATED_SIDE, caption_examples
from launch.manifest import write_bytes
from recap.artifacts import Images

CAPTIONS_PAGE = "captions.html"

SECTIONS = (
    ("measured", "What was measured"),
    ("overlap", "Prompts seen in training"),
    ("truth", "Is it true"),
    ("hallucination", "Hallucination"),
    ("length", "Length"),
    ("regularities", "Regularities"),
    ("telling-apart", "Which kind is it"),
    ("gates", "Gates"),
    ("captions", "Captions"),
)
"""Sections of the page in order: id, name."""


def write_page(folder: Path, report: CaptionsReport, *, images: Images, split: str) -> list[str]:
    """Write the page and its figures; return the names of the files.

    Args:
        folder: Folder of the report.
        report: What was measured.
        images: The pictures that the captions speak of.
        split: Which of them were measured.
    """
    axes_rows, _ = facts.caption_axes(report)
    drawings = {
        "captions": figures.draw_captions(axes_rows, folder),
        "calibration": draw_calibration(report.hallucination, folder),
    }
    kinds = report.hallucination.get("kinds", {})
    side = _side(report, images)
    html = render(
        "captions.html.j2",
        sections=SECTIONS,
        split=split,
        source=str(images.manifest.recipe.get("name", "pictures")),
        num_pictures=len(images.rows(None if split == "all" else split)),
        kinds=list(report.regularities),
        missing={kind: found["num_missing"] for kind, found in report.regularities.items()},
        figures=drawings,
        overlap=tables.overlap(report),
        side_by_side=tables.side_by_side(axes_rows),
        has_truth=bool(axes_rows),
        partly_known=partly_known(report),
        correlations=tables.correlations(report.hallucination),
        calibration=tables.calibration(report.hallucination),
        signals=tables.signals(report.hallucination),
        judge=report.hallucination.get("judge"),
        carried=[
            (kind, carried_words(found["carried_over"]))
            for kind, found in kinds.items()
            if found["carried_over"] is not None and found["carried_over"]["estimate"] is not None
        ],
        not_carried=[
            (kind, not_carried_words(found["not_carried"]))
            for kind, found in kinds.items()
            if found.get("not_carried")
        ],
        lengths=facts.caption_lengths(report),
        truncation=tables.truncation(report),
        regularities=facts.regularities(report),
        telling_apart=tables.telling_apart(report.telling_apart),
        gates=tables.gates(report.gates),
        gated=report.gates.get("captions", []),
        examples=caption_examples(report.examples, images, side=side),
        picture_class="pixelated" if side <= PIXELATED_SIDE else "smooth",
    )
    write_bytes(folder / CAPTIONS_PAGE, html)
    drawn = [file for drawing in drawings.values() if drawing for file in drawing.files]
    return [CAPTIONS_PAGE, *drawn]


def _side(report: CaptionsReport, images: Images) -> int:
    """Return a side at which no picture shown is made larger than it is."""
    shown = {item["sample_id"] for listed in report.examples.values() for item in listed}
    rows = [images.row_of(sample_id) for sample_id in shown]
    sides = [images.table[n][row].as_py() for row in rows for n in ("width", "height")]
    return int(min([MAX_SIDE, *sides]))
