"""Tables of the report's answers: means, differences, curves and what the headline rests on."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from eval.intervals import Interval
from eval.metrics import PRINTED
from eval.report_answers import Answers, Cell, Difference
from eval.report_rows import BEYOND, CHECKS, Measure
from eval.stats import Comparison, Verdict
from eval.table import Table, Value, ends
from eval.words import (
    CEILING_NAMES,
    DIGITS,
    MINUS,
    NOTHING,
    bracket,
    detail_of,
    name_of,
    name_of_axis,
    number,
    p_value,
    plus_minus,
    tasks_words,
    unit_of,
)

MARKS = {Verdict.BETTER: "▲", Verdict.WORSE: "▼", Verdict.NOT_DISTINGUISHABLE: "="}
"""A sign for each verdict, so that none is told by colour alone."""


def record_of_measure(measure: Measure) -> dict[str, Any]:
    """Return the columns that say what was measured."""
    return {
        "metric": measure.metric,
        "prompt_style": measure.style,
        "scoring": measure.scoring,
        "axis": measure.axis,
    }


def record_of_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return the columns of one comparison."""
    return {
        "difference": comparison.difference,
        **ends(comparison.given_models),
        **ends(comparison.with_seeds, "with_seeds_"),
        "p": comparison.p_value,
        "smallest_detectable": comparison.smallest_detectable,
        "num_prompts": comparison.num_prompts,
        "num_pictures": comparison.num_pictures,
        "num_training_seeds": comparison.num_seeds,
    }


def shown_difference(d: Difference, digits: int, *, is_ranked: bool) -> Value:
    """Show a difference, its interval and what may be said of it."""
    interval = d.comparison.deciding
    text = number(interval.estimate, digits)
    note = bracket(interval, digits)
    if not is_ranked:
        return Value(text, interval.estimate, note)
    look = d.verdict.value.replace(" ", "-")
    return Value(f"{MARKS[d.verdict]} {text}", interval.estimate, note, look)


def shown_mean(interval: Interval | None, digits: int) -> Value:
    """Show a mean and half of its interval."""
    if interval is None:
        return Value(NOTHING, -np.inf)
    text = number(interval.estimate, digits)
    return Value(text, interval.estimate, plus_minus(interval, digits))


def cells_table(
    cells: Sequence[Cell],
    answers: Answers,
    *,
    name: str,
    title: str,
    first: Sequence[str],
    unmeasured: Sequence[str] = (),
) -> Table:
    """Make the table of a list of measures: means of every arm, differences, ceilings.

    Args:
        cells: The measures, those of one prompt style together.
        answers: Whose arms and ceilings make the columns.
        name: File name without suffix.
        title: Caption.
        first: Columns that name a measure.
        unmeasured: Axes that every prompt style gets a row for which says so.
    """
    arms, others = answers.arms, answers.arms[1:]
    is_compared = any(c.differences for c in cells)
    sizes = {c.num_prompts for c in cells}
    columns = [*first, *(["prompts"] if len(sizes) > 1 else []), *arms]
    columns += [f"{arm} {MINUS} {arms[0]}" for arm in others] if is_compared else []
    columns += [CEILING_NAMES.get(ceiling, ceiling) for ceiling in answers.ceilings]
    rows = []
    for i, cell in enumerate(cells):
        digits = DIGITS[cell.measure.metric]
        tasks = {c.measure.axis for c in cells if c.measure[:2] == cell.measure[:2]}
        row = [_label(cell.measure, column, tasks=tasks) for column in first]
        if len(sizes) > 1:
            row.append(Value(f"{cell.num_prompts:,}", cell.num_prompts))
        row += [shown_mean(cell.means.get(arm), digits) for arm in arms]
        found = {d.arm: d for d in cell.differences}
        for arm in others if is_compared else []:
            d = found.get(arm)
            is_ranked = answers.withheld is None
            row.append(
                Value(NOTHING, -np.inf)
                if d is None
                else shown_difference(d, digits, is_ranked=is_ranked)
            )
        for arm in answers.ceilings:
            mean = cell.means.get(arm)
            row.append(Value(shown_mean(mean, digits).text, mean.estimate if mean else -np.inf))
        rows.append(row)
        is_last = i + 1 == len(cells) or cells[i + 1].measure.style != cell.measure.style
        for axis in unmeasured if is_last else ():
            label = [_label(cell.measure._replace(axis=axis), column) for column in first]
            label[-1] = Value(label[-1].text, note="not measurable")
            rows.append(label + [Value(NOTHING, -np.inf)] * (len(columns) - len(label)))
    return Table(
        name=name,
        title=f"{title}, {min(sizes):,} prompts" if len(sizes) == 1 else title,
        columns=columns,
        rows=rows,
        numeric=frozenset(range(len(first), len(columns))),
        records=cell_records(cells, answers),
    )


def _label(measure: Measure, column: str, *, tasks: Set[str | None] = frozenset()) -> Value:
    match column:
        case "prompt style":
            return Value(measure.style)
        case "scored with":
            own = measure.scoring == measure.style
            return Value(measure.scoring or "", note="itself" if own else "")
        case "change":
            style, base = measure.style.split(BEYOND)
            return Value(f"{base} \N{RIGHTWARDS ARROW} {style}")
        case "measure":
            return Value(PRINTED[measure.metric].title)
        case "check":
            return Value(CHECKS[measure.metric])
        case "task":
            if measure.metric == "geneval_correct" and measure.axis is None:
                name, note = tasks_words({task for task in tasks if task is not None})
                return Value(name, note=note)
            return Value(measure.axis or "")
        case _:
            return Value(name_of_axis(measure.axis))


def cell_records(cells: Sequence[Cell], answers: Answers) -> list[dict[str, Any]]:
    """Return a record for every mean and every difference of some measures."""
    records = []
    for cell in cells:
        what = record_of_measure(cell.measure)
        for arm, mean in cell.means.items():
            records.append(
                {
                    **what, "arm": arm, "than": None, "mean": mean.estimate, "difference": None,
                    **ends(mean), "num_prompts": cell.num_prompts,
                }
            )  # fmt: skip
        for d in cell.differences:
            verdict = "withheld" if answers.withheld else d.verdict.value
            records.append(
                {
                    **what, "arm": d.arm, "than": d.than, "mean": None,
                    **record_of_comparison(d.comparison), "p_holm": d.p_holm, "verdict": verdict,
                }
            )  # fmt: skip
    return records


def _floor(comparison: Comparison, resamples: int) -> str:
    """Say that a p is the least that so many draws can show."""
    p = comparison.p_sign_flip
    return f"; the least that {resamples:,} draws can show" if p == 1 / (resamples + 1) else ""


def tests_table(answers: Answers, *, resamples: int) -> Table:
    """Make the table of what the headline rests on, with the checks of its interval."""
    columns = ["quantity"]
    shown: dict[str, list[Value]] = {}
    records = []
    for test in answers.tests:
        c, digits = test.comparison, DIGITS[test.measure.metric]
        unit = unit_of(test.measure)
        columns.append(f"{name_of(test.measure)}: {detail_of(test.measure)}")
        by_seed = ", ".join(f"seed {s}: {number(d, digits)}" for s, d in c.by_seed)
        quantities = {
            f"difference {answers.primary.better} {MINUS} {answers.primary.than}": Value(
                number(c.difference, digits), note=unit
            ),
            "95% interval given the trained models": Value(
                bracket(c.given_models, digits), note=c.given_models.method
            ),
            "the same by resampling prompts": Value(
                bracket(c.bootstrap, digits) if c.bootstrap else NOTHING,
                note=c.bootstrap.method if c.bootstrap else "",
            ),
            "95% interval including training seeds": Value(
                bracket(c.with_seeds, digits) if c.with_seeds else NOTHING,
                note=c.with_seeds.method if c.with_seeds else "needs four training seeds an arm",
            ),
            "difference by training seed": Value(by_seed),
            "p by swapping the arms prompt by prompt": Value(
                p_value(c.p_sign_flip), note=f"given the trained models{_floor(c, resamples)}"
            ),
            "p by swapping the arms seed by seed": Value(
                p_value(c.p_seed_flip),
                note=f"given the prompts; {c.num_seeds} seeds allow none below "
                f"{p_value(c.seed_flip_resolution)}",
            ),
            "smallest difference this design finds": Value(
                number(c.smallest_detectable, digits), note=f"{unit}, with 80% power"
            ),
            "prompts, pictures of each arm": Value(f"{c.num_prompts:,}, {c.num_pictures:,}"),
        }
        for quantity, value in quantities.items():
            shown.setdefault(quantity, []).append(value)
        what = {
            **record_of_measure(test.measure),
            "arm": answers.primary.better,
            "than": answers.primary.than,
        }
        records.append(
            {
                **what,
                **record_of_comparison(c),
                **ends(c.bootstrap, "bootstrap_"),
                "p_sign_flip": c.p_sign_flip,
                "p_seed_flip": c.p_seed_flip,
                "verdict": "withheld" if answers.withheld else c.verdict.value,
                "outcome": answers.outcome,
            }
        )
        records += [{**what, "training_seed": s, "difference": d} for s, d in c.by_seed]
    return Table(
        name="primary",
        title="What the first sentence rests on",
        columns=columns,
        rows=[[Value(quantity), *values] for quantity, values in shown.items()],
        records=records,
    )


def pairs_table(answers: Answers, measure: Measure) -> Table | None:
    """Make the table of every pair of arms on the primary measure; None with two arms."""
    if len(answers.arms) < 3 or not answers.pairs:
        return None
    digits = DIGITS[measure.metric]
    rows, records = [], []
    for d in answers.pairs:
        is_primary = {d.arm, d.than} == {answers.primary.better, answers.primary.than}
        rows.append(
            [
                Value(f"{d.arm} against {d.than}", note="primary" if is_primary else ""),
                shown_difference(d, digits, is_ranked=answers.withheld is None),
                Value(
                    number(d.comparison.smallest_detectable, digits),
                    d.comparison.smallest_detectable,
                ),
                Value(p_value(d.p_holm), d.p_holm, "uncorrected" if is_primary else ""),
            ]
        )
        records.append(
            {
                **record_of_measure(measure), "arm": d.arm, "than": d.than,
                **record_of_comparison(d.comparison), "p_holm": d.p_holm,
                "verdict": "withheld" if answers.withheld else d.verdict.value,
            }
        )  # fmt: skip
    return Table(
        name="pairs",
        title=f"Every pair of arms in {name_of(measure)}: {detail_of(measure)}",
        columns=["pair", "difference", "detectable at 80% power", "p, corrected"],
        rows=rows,
        numeric=frozenset({1, 2, 3}),
        records=records,
    )


def curves_table(answers: Answers) -> Table | None:
    """Make the table behind the curves."""
    if not answers.curves:
        return None
    rows, records = [], []
    for curve in answers.curves:
        digits = DIGITS[curve.measure.metric]
        scored = curve.measure.scoring or "claims"
        for point in curve.points:
            rows.append(
                [
                    Value(curve.measure.style), Value(scored), Value(point.arm),
                    Value(f"{point.samples_seen:,}", point.samples_seen),
                    shown_mean(point.mean, digits),
                ]
            )  # fmt: skip
            what = {**record_of_measure(curve.measure), "arm": point.arm,
                    "samples_seen": point.samples_seen}  # fmt: skip
            records.append(
                {
                    **what, "training_seed": None, "mean": point.mean.estimate,
                    **ends(point.mean), "num_prompts": curve.num_prompts,
                }
            )  # fmt: skip
            if len(point.by_seed) > 1:
                records += [{**what, "training_seed": s, "mean": m} for s, m in point.by_seed]
    return Table(
        name="curves",
        title="Scores behind the curves, on the prompts that every snapshot was sampled for",
        columns=["prompt style", "scored with", "arm", "pictures seen", "mean"],
        rows=rows,
        numeric=frozenset({3, 4}),
        records=records,
    )
