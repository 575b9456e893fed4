"""What the report's page says where: tables, figures, pictures and sentences put in their places.

Tables, figures and summary depend on the inputs alone; the page also tells time and disk of every
stage, which no two runs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import report_facts as facts
from eval import report_figures as figures
from eval import report_tables as tables
from eval.captions_tables import overlap as overlap_table
from eval.config import ReportConfig
from eval.drawing import Drawing
from eval.page import render
from eval.report_answers import Answers
from eval.report_inputs import Opened
from eval.report_pictures import Choice, Row, picture_rows, picture_rule, pictures_table
from eval.report_provenance import conditions, samplers
from eval.report_rows import Measure, primary_measure
from eval.report_sections import Section, Sources, added_sections
from eval.table import Table
from eval.thumbnails import PIXELATED_SIDE, Example, caption_examples
from eval.words import DIGITS, detail_of, is_share, name_of_axis, number, unit_of
from launch.manifest import Manifest, write_bytes
from recap.claims import AXES

SECTIONS = (
    ("answer", "Answer"),
    ("training", "Training"),
    ("grid", "Grid"),
    ("following", "Prompt following"),
    ("pictures", "Pictures"),
    ("captions", "Captions"),
    ("caption-quality", "Caption quality"),
    ("quality", "Instrument"),
    ("conditional", "Conditions"),
    ("scorer", "Scorer"),
    ("cost", "Cost"),
    ("provenance", "Provenance"),
)
"""Sections of the page in order: id, name."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template shows, beside the answers."""

    tables: dict[str, Table]
    drawings: dict[str, Any]
    pictures: list[Row]
    picture_rule: str
    examples: list[Example]
    is_pixelated: bool
    added: list[Section]


def make_page(opened: Opened, answers: Answers, *, cfg: ReportConfig, folder: Path) -> Page:
    """Make every table, drawing and picture; the drawings are written as they are made."""
    measure = primary_measure(cfg.primary)
    of_style = [c for c in answers.following if c.measure.style == cfg.primary.style]
    unmeasured = [axis for axis, is_read in opened.axes.items() if not is_read]
    axes_rows, caption_axes = facts.caption_axes(opened.captions)
    overlap = overlap_table(opened.captions)
    made: dict[str, Table | None] = {
        "overlap": overlap if overlap.rows else None,
        "primary": tables.tests_table(answers, resamples=cfg.resamples),
        "pairs": tables.pairs_table(answers, measure),
        "curves": tables.curves_table(answers),
        "grid": tables.cells_table(
            answers.grid, answers, name="grid", title="CLIP similarity × 100",  # noqa: RUF001
            first=("prompt style", "scored with"),
        ),
        "distances": tables.cells_table(
            answers.distances, answers, name="distances", title="CLIP cosine distance",
            first=("prompt style", "scored with"),
        ),
        "sentences": tables.cells_table(
            answers.by_sentences, answers, name="sentences",
            title="CLIP similarity × 100, mean over sentences",  # noqa: RUF001
            first=("prompt style", "scored with"),
        ) if answers.by_sentences else None,
        "following": tables.cells_table(
            answers.following, answers, name="following", title="Claims that hold, %",
            first=("prompt style", "axis"), unmeasured=unmeasured,
        ),
        "checks": tables.cells_table(
            answers.checks, answers, name="checks",
            title="Prompts, questions and words shown right, %",
            first=("prompt style", "check", "task"),
        ) if answers.checks else None,
        "captions": caption_axes,
        "lengths": facts.caption_lengths(opened.captions),
        "regularities": facts.regularities(opened.captions),
        "retrieval": facts.retrieval(opened.judge_quality),
        "recogniser": facts.recogniser(opened.judge_quality),
        "quality": facts.quality(opened.stages, autoencoder=cfg.autoencoder),
        "scorer": facts.scorer(scored_by(opened)),
    }  # fmt: skip
    labels = [_grid_label(c.measure) for c in answers.grid]
    drawings = {
        "pairs": figures.draw_pairs(answers, measure, folder),
        "curves": figures.draw_curves(answers.curves, answers.arms, folder),
        "grid": figures.draw_differences(
            answers.grid, answers, folder, name="grid", labels=labels
        ),
        "axes": figures.draw_axes(of_style, answers, folder, unmeasured=unmeasured),
        "captions": figures.draw_captions(axes_rows, folder),
    }  # fmt: skip
    pictures, side = picture_rows(opened, answers, cfg=cfg)
    made["pictures"] = pictures_table(pictures, measure=measure, primary=cfg.primary)
    added = added_sections(Sources(opened=opened, answers=answers, cfg=cfg, folder=folder))
    for section in added:
        made |= {table.name: table for table in (*section.tables, *section.folded)}
    return Page(
        tables={name: table for name, table in made.items() if table is not None},
        drawings=drawings,
        pictures=pictures,
        picture_rule=picture_rule(pictures, cfg.primary),
        examples=caption_examples(opened.captions.examples, opened.images, side=side),
        is_pixelated=side <= PIXELATED_SIDE,
        added=added,
    )


def scored_by(opened: Opened) -> list[Manifest]:
    """Return the manifests that say what scored."""
    return [opened.scores.manifest, *(judged.manifest for judged in opened.judged)]


def drawings_of(page: Page) -> list[Drawing]:
    """Return every figure that was drawn."""
    found = [drawing for section in page.added for drawing in section.drawings]
    for drawing in page.drawings.values():
        found += drawing if isinstance(drawing, list) else [drawing]
    return [d for d in found if d is not None]


def _grid_label(measure: Measure) -> str:
    own = measure.scoring == measure.style
    return f"{measure.style} prompt, {'itself' if own else f'{measure.scoring} caption'}"


def render_page(
    opened: Opened, answers: Answers, page: Page, *, cfg: ReportConfig, folder: Path
) -> bytes:
    """Write `cost.csv`, and return the page."""
    costs = facts.costs_of(opened.stages)
    cost = facts.cost_table(costs)
    write_bytes(folder / "cost.csv", cost.csv())
    curve_styles = list(dict.fromkeys(c.measure.style for c in answers.curves))
    empty = Table(name="none", title="", columns=[], rows=[])
    model_seeds = max((t.comparison.num_seeds for t in answers.tests), default=1)
    return render(
        "report.html.j2",
        study=cfg.study,
        question=cfg.question,
        is_control=cfg.control,
        answers=answers,
        sections=_navigation(page.added),
        added=page.added,
        arms=facts.arms_table(opened.stages, answers.arms),
        tests=page.tables["primary"],
        pairs=page.tables.get("pairs"),
        curves=page.tables.get("curves", empty),
        grid=page.tables["grid"],
        distances=page.tables["distances"],
        sentences=page.tables.get("sentences"),
        following=page.tables["following"],
        checks=page.tables.get("checks"),
        checked={c.measure.metric for c in answers.checks},
        judged=bool(opened.judged),
        is_detected=bool(opened.axes) and set(opened.axes).isdisjoint(AXES),
        figures=page.drawings,
        curve_prompts=_range([c.num_prompts for c in answers.curves]),
        curve_styles=curve_styles,
        model_seeds=model_seeds,
        measurable=_axes_state(opened, answers),
        pictures=_shown_rows(page.pictures, answers),
        picture_rule=page.picture_rule,
        picture_class="pixelated" if page.is_pixelated else "smooth",
        examples=page.examples,
        caption_axes=page.tables["captions"],
        caption_lengths=page.tables["lengths"],
        overlap=page.tables.get("overlap"),
        regularities=page.tables["regularities"],
        retrieval=page.tables["retrieval"],
        recogniser=page.tables["recogniser"],
        quality=page.tables["quality"],
        scorer=page.tables["scorer"],
        scorer_words=facts.scorer_words(scored_by(opened)),
        shown=page.tables["pictures"],
        difference_unit=unit_of(primary_measure(cfg.primary)),
        unit="%" if is_share(primary_measure(cfg.primary)) else "",
        score_words=detail_of(primary_measure(cfg.primary)),
        conditions=_conditions(opened, answers),
        cost=cost,
        cost_words=facts.cost_words(costs),
        provenance=facts.provenance(opened.stages),
    )


def _navigation(added: Sequence[Section]) -> list[tuple[str, str]]:
    """Put added sections before those on the instrument."""
    names = [(s.id, s.name) for s in added]
    at = [id_ for id_, _ in SECTIONS].index("quality")
    return [*SECTIONS[:at], *names, *SECTIONS[at:]]


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    low, high = min(numbers), max(numbers)
    return f"{low:,} prompts" if low == high else f"{low:,} to {high:,} prompts"


def _axes_state(opened: Opened, answers: Answers) -> list[tuple[str, str]]:
    """Say for every axis whether it can be measured, and how well the recogniser reads it."""
    spoken = {c.measure.axis for c in answers.following}
    read = opened.judge_quality.get("recogniser", {}).get("reconstructions", {})
    states = []
    for axis, is_read in opened.axes.items():
        accuracy = read.get(axis, {}).get("accuracy")
        how = (
            "" if accuracy is None else f" (read right in {100 * accuracy:.1f}% of reconstructions)"
        )
        if not is_read:
            limit = opened.judge_quality.get("min_accuracy")
            below = "" if limit is None else f"; the limit is {100 * limit:.0f}%"
            states.append((name_of_axis(axis), f"not measurable{how}{below}"))
        elif axis not in spoken:
            states.append((name_of_axis(axis), f"no prompt speaks of it{how}"))
        else:
            states.append((name_of_axis(axis), f"measured{how}"))
    return states


def _shown_rows(rows: Sequence[Row], answers: Answers) -> list[dict[str, Any]]:
    digits = DIGITS[primary_measure(answers.primary).metric]
    return [
        {
            "prompt": row.prompt,
            "shots": row.shots,
            "choice": {
                "reason": row.choice.reason,
                "difference": row.choice.difference,
                "difference_text": _difference_text(row.choice, digits),
            },
        }
        for row in rows
    ]


def _difference_text(choice: Choice, digits: int) -> str:
    return "" if choice.difference is None else number(choice.difference, digits)


def _conditions(opened: Opened, answers: Answers) -> list[str]:
    model_seeds = max((t.comparison.num_seeds for t in answers.tests), default=1)
    noise = {s for g in opened.generations for s in g.table["seed"].unique().to_pylist()}
    found = conditions(opened.stages, model_seeds=model_seeds, noise_seeds=len(noise))
    prompts = len(opened.prompts.pair_ids)
    lines = [*found.lines, f"{prompts:,} test pictures that the prompts speak of"]
    return lines + [f"pictures drawn with: {way}" for way in samplers(opened.stages)]
