"""Tables of the report: what the page shows, rounded, and what the CSV holds, at full precision."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.report_answers import (
    DIGITS,
    MINUS,
    Answers,
    Cell,
    Difference,
    Measure,
    bracket,
    detail_of,
    name_of,
    number,
    plus_minus,
    unit_of,
)
from eval.report_figures import AXIS_NAMES
from eval.stats import Comparison, Interval, Verdict

MARKS = {Verdict.BETTER: "▲", Verdict.WORSE: "▼", Verdict.NOT_DISTINGUISHABLE: "="}
"""A sign for each verdict, so that none is told by colour alone."""


NOTHING = "\N{EN DASH}"
"""Shown where there is no value."""


@dataclass(frozen=True)
class Value:
    """One cell of a shown table."""

    text: str
    """What is shown."""

    sort: float | str | None = None
    """What the column is sorted by; None sorts by the text."""

    note: str = ""
    """Smaller text behind it."""

    look: str = ""
    """CSS class."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: shown columns and rows, and the records of its CSV."""

    name: str
    """File name without suffix."""

    title: str
    """What it holds, shown as its caption."""

    columns: list[str]
    rows: list[list[Value]]
    numeric: frozenset[int] = frozenset()
    """Columns that are set flush right."""

    records: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the CSV, one per number where it has uncertainty."""

    def csv(self) -> bytes:
        """Return the CSV: full precision, empty where there is nothing."""
        out = io.StringIO()
        names = list(dict.fromkeys(key for record in self.records for key in record))
        writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
        writer.writeheader()
        for record in self.records:
            writer.writerow({key: _exact(value) for key, value in record.items()})
        return out.getvalue().encode()

    @property
    def data_uri(self) -> str:
        """Return the CSV as a link that works without a network."""
        return "data:text/csv;base64," + base64.b64encode(self.csv()).decode()


def _exact(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return repr(float(value)) if np.isfinite(value) else ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        # Spreadsheets run such a cell as a formula; captions come from anywhere.
        return "'" + value
    return value


def name_of_axis(axis: str | None) -> str:
    """Name an axis of claims in words."""
    return AXIS_NAMES.get(axis or "all", axis or "all")


def ends(interval: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """Return an interval's ends as two columns."""
    if interval is None:
        return {f"{prefix}low": None, f"{prefix}high": None}
    return {f"{prefix}low": interval.low, f"{prefix}high": interval.high}


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
    columns += answers.ceilings
    rows = []
    for i, cell in enumerate(cells):
        digits = DIGITS[cell.measure.metric]
        row = [_label(cell.measure, column) for column in first]
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


def _label(measure: Measure, column: str) -> Value:
    match column:
        case "prompt style":
            return Value(measure.style)
        case "scored with":
            own = measure.scoring == measure.style
            return Value(measure.scoring or "", note="itself" if own else "")
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


def tests_table(answers: Answers) -> Table:
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
                p_value(c.p_sign_flip), note="given the trained models"
            ),
            "smallest difference this design finds": Value(
                number(c.smallest_detectable, digits), note="with 80% power"
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


def p_value(p: float | None) -> str:
    """Show a p-value; none is ever shown as zero."""
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 0.0001 else number(p, 4)


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
        columns=["pair", "difference", "detectable at 80% power", "p (Holm)"],
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


def facts_table(
    facts: Mapping[str, Mapping[str, Any]], *, name: str, title: str, first: str
) -> Table:
    """Make a table of nested facts, one row per number or text."""
    rows, records = [], []
    for owner, nested in facts.items():
        for key, value in flatten(nested):
            rows.append([Value(owner), Value(key), Value(shown_fact(value))])
            records.append({first: owner, "quantity": key, "value": value})
    return Table(
        name=name, title=title, columns=[first, "quantity", "value"], rows=rows, records=records
    )


def matrix_table(
    facts: Mapping[str, Mapping[str, Any]], *, name: str, title: str, first: str
) -> Table:
    """Make a table of like facts about several owners: a row per fact, a column per owner."""
    leaves = {owner: dict(flatten(nested)) for owner, nested in facts.items()}
    quantities = list(dict.fromkeys(key for found in leaves.values() for key in found))
    return Table(
        name=name,
        title=title,
        columns=["quantity", *leaves],
        rows=[
            [Value(q), *(Value(shown_fact(found.get(q))) for found in leaves.values())]
            for q in quantities
        ],
        records=[
            {first: owner, "quantity": key, "value": value}
            for owner, found in leaves.items()
            for key, value in found.items()
        ],
    )


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the leaves of nested JSON with readable names; lists of plain values stay whole."""
    if isinstance(value, Mapping):
        found = []
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            found += flatten(inner, f"{prefix}, {name}" if prefix else name)
        return found
    if isinstance(value, list | tuple) and any(isinstance(v, Mapping | list) for v in value):
        found = []
        for i, inner in enumerate(value):
            found += flatten(inner, f"{prefix} {i + 1}")
        return found
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(shown_fact(v) for v in value))]
    return [(prefix, value)]


def shown_fact(value: Any) -> str:
    """Show one value of a JSON file in few digits."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}".replace("-", MINUS)
        case other:
            return str(other)
