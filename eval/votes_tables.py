"""Tables of the votes: ratings, differences, raters, agreement with each other and with metrics.

`preference_tables(folder)` gives a report what it may show of a votes artifact.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.intervals import Interval, smallest_detectable
from eval.ratings import Estimate
from eval.report_tables import MARKS
from eval.table import Table, Value, ends
from eval.vote_answers import VoteAnswers, answer_votes
from eval.votes_artifact import open_votes
from eval.words import MINUS, NOTHING, bracket, number, p_value
from launch.errors import ArtifactError

NAMES = {
    "prompt_following": "prompt following",
    "style": "style",
    "coherence": "coherence",
}
"""Questions in words."""


class Shown(NamedTuple):
    """What a report shows of votes."""

    notes: list[str]
    shown: list[Table]
    folded: list[Table]


def preference_tables(folder: Path, *, among: Set[str]) -> Shown:
    """Return notes and tables of a votes artifact, computed from its rows.

    Args:
        folder: The votes artifact.
        among: `generation_id` of every picture that the report speaks of.

    Raises:
        ArtifactError: People voted on other pictures.
    """
    votes = open_votes(folder)
    sides = ("left_generation_id", "right_generation_id")
    others = {i for side in sides for i in votes.table[side].to_pylist()} - among
    if others:
        raise ArtifactError(
            f"{folder}: holds votes on {len(others):,} pictures that are not among the report's "
            f"generations, {min(others)} first. Name votes on the pictures of this study."
        )
    recipe = votes.manifest.recipe
    answers = answer_votes(
        votes.table,
        arms=votes.arms,
        anchor=recipe["anchor"],
        resamples=recipe["resamples"],
        seed=recipe["seed"],
    )
    return Shown(
        notes=notes(answers),
        shown=[pairs_table(answers)],
        folded=[ratings_table(answers), alpha_table(answers)],
    )


def tables_of(answers: VoteAnswers) -> list[Table]:
    """Return every table; that of metrics only where scores were given."""
    tables = [
        pairs_table(answers), ratings_table(answers), alpha_table(answers), raters_table(answers)
    ]  # fmt: skip
    return [*tables, metrics_table(answers)] if answers.predicted else tables


def pairs_table(answers: VoteAnswers) -> Table:
    """Make the table of every pair of arms in every question."""
    rows, records = [], []
    for finding in answers.findings:
        pair, found = finding.pair, finding.pair.difference
        interval, verdict = found.deciding, finding.verdict
        mark = f"{MARKS[verdict]} {number(interval.estimate, 0)}"
        detectable = smallest_detectable(interval)
        rows.append(
            [
                Value(NAMES[finding.question]),
                Value(f"{pair.first} {MINUS} {pair.second}"),
                Value(
                    mark, interval.estimate, bracket(interval, 0), verdict.value.replace(" ", "-")
                ),
                _percent(pair.share, f"{pair.num_votes:,} votes, {pair.num_ties:,} ties"),
                Value(number(detectable, 0), detectable),
                Value(p_value(finding.p_holm), finding.p_holm),
                Value(verdict.value),
            ]
        )
        records.append(
            {
                "question": finding.question, "arm": pair.first, "than": pair.second,
                **_record(found), "p_holm": finding.p_holm, "verdict": verdict.value,
                "score": pair.share, "num_votes": pair.num_votes, "num_ties": pair.num_ties,
            }
        )  # fmt: skip
    return Table(
        name="preference_pairs",
        title="Differences in Elo points, by people's votes",
        columns=["question", "pair", "difference", "score", "detectable at 80% power",
                 "p (Holm)", "verdict"],
        rows=rows,
        numeric=frozenset({2, 3, 4, 5}),
        records=records,
    )  # fmt: skip


def ratings_table(answers: VoteAnswers) -> Table:
    """Make the table of every arm's rating by question."""
    rows, records = [], []
    for question, found in answers.ratings.items():
        counts = (("vote", found.num_votes), ("prompt", found.num_prompts),
                  ("rater", found.num_raters))  # fmt: skip
        note = ", ".join(f"{num:,} {what}{'s' * (num != 1)}" for what, num in counts)
        row = [Value(NAMES[question], note=note)]
        for arm, rating in zip(found.arms, found.ratings, strict=True):
            if arm == answers.anchor:
                row.append(Value("0", 0.0, "anchor"))
            else:
                row.append(_interval(rating.deciding, 0))
            records.append(
                {
                    "question": question, "arm": arm, **_record(rating),
                    "num_votes": found.num_votes, "num_prompts": found.num_prompts,
                    "num_raters": found.num_raters,
                }
            )  # fmt: skip
        rows.append(row)
    zero = "the mean of all arms" if answers.anchor is None else answers.anchor
    return Table(
        name="preference_ratings",
        title=f"Elo ratings by people's votes; 0 is {zero}",
        columns=["question", *answers.arms],
        rows=rows,
        numeric=frozenset(range(1, len(answers.arms) + 1)),
        records=records,
    )


def alpha_table(answers: VoteAnswers) -> Table:
    """Make the table of how far raters agree with each other."""
    rows, records = [], []
    for question, kinds in answers.alphas.items():
        rows.append(
            [Value(NAMES[question]), *(_interval(kinds[k], 2) for k in ("ordinal", "nominal"))]
        )
        records += [
            {"question": question, "metric": kind, "alpha": found.estimate, **ends(found)}
            for kind, found in kinds.items()
        ]
    return Table(
        name="preference_alpha",
        title="Agreement of raters with each other, Krippendorff's alpha: 1 is full, 0 is chance",
        columns=["question", "ordinal", "nominal"],
        rows=rows,
        numeric=frozenset({1, 2}),
        records=records,
    )


def raters_table(answers: VoteAnswers) -> Table:
    """Make the table of every rater's habits."""
    rows, records = [], []
    for rater in answers.raters:
        shares = {"repeats": rater.repeats, "lefts": rater.lefts, "ties": rater.ties}
        cells = []
        record: dict[str, object] = {"rater": rater.name, "num_votes": rater.num_votes}
        for name, share in shares.items():
            low, high = share.ends
            cells.append(
                _percent(share.value, f"[{100 * low:.0f}, {100 * high:.0f}] of {share.num}")
                if share.num
                else Value(NOTHING, -np.inf)
            )
            record |= {name: share.value, f"{name}_low": low, f"{name}_high": high,
                       f"{name}_of": share.num}  # fmt: skip
        rows.append(
            [Value(rater.name), Value(f"{rater.num_votes:,}", rater.num_votes), *cells,
             Value(number(rater.median_seconds, 1), rater.median_seconds)]
        )  # fmt: skip
        records.append({**record, "median_seconds": rater.median_seconds})
    return Table(
        name="raters",
        title="Raters: repeats answered alike, left among decided votes, ties",
        columns=["rater", "votes", "repeats alike", "left", "ties", "median seconds"],
        rows=rows,
        numeric=frozenset(range(1, 6)),
        records=records,
    )


def metrics_table(answers: VoteAnswers) -> Table:
    """Make the table of how well metrics predict votes."""
    rows, records = [], []
    for found in answers.predicted:
        interval = found.agreement
        beyond = "above chance" if interval.low > 0.5 else (
            "below chance" if interval.high < 0.5 else "not distinguishable from chance"
        )  # fmt: skip
        rows.append(
            [
                Value(NAMES[found.question]),
                Value(found.metric.replace("_", " "), note=found.scoring or ""),
                _percent(
                    interval.estimate,
                    f"[{number(100 * interval.low, 0)}, {number(100 * interval.high, 0)}]",
                ),
                Value(f"{found.num_votes:,}", found.num_votes, f"{found.num_even:,} even"),
                Value(beyond),
            ]
        )
        records.append(
            {
                "question": found.question, "metric": found.metric, "scoring": found.scoring,
                "agreement": interval.estimate, **ends(interval), "num_votes": found.num_votes,
                "num_even": found.num_even, "verdict": beyond,
            }
        )  # fmt: skip
    return Table(
        name="preference_metrics",
        title="Votes that a metric's difference predicts, %; chance is 50",
        columns=["question", "metric", "agreement", "votes", "verdict"],
        rows=rows,
        numeric=frozenset({2, 3}),
        records=records,
    )


def _record(found: Estimate) -> dict[str, float | None]:
    return {
        "elo": found.given_raters.estimate, **ends(found.given_raters),
        **ends(found.with_raters, "with_raters_"), "p": found.p_value,
    }  # fmt: skip


def _interval(interval: Interval, digits: int) -> Value:
    if np.isnan(interval.estimate):
        return Value(NOTHING, -np.inf)
    return Value(number(interval.estimate, digits), interval.estimate, bracket(interval, digits))


def _percent(share: float, note: str) -> Value:
    return Value(NOTHING, -np.inf) if np.isnan(share) else Value(f"{100 * share:.0f}%", share, note)


def as_text(tables: Sequence[Table]) -> str:
    """Return tables for a terminal, their cells padded to columns."""
    blocks = []
    for table in tables:
        cells = [table.columns] + [
            [f"{v.text} {v.note}".strip() for v in row] for row in table.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        blocks.append("\n".join([table.title, *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks) + "\n"


def notes(answers: VoteAnswers) -> list[str]:
    """Return what a reader must know beside the tables."""
    raters = {found.num_raters for found in answers.ratings.values()}
    has_raters = all(f.pair.difference.with_raters is not None for f in answers.findings)
    basis = (
        "Intervals are over prompts and raters."
        if has_raters
        else "Intervals of some pairs are over prompts alone: they speak of the raters who voted "
        f"({', '.join(map(str, sorted(raters)))}), not of raters in general."
    )
    lines = [
        f"{basis} They take the trained models as given; p is corrected over all pairs and "
        "questions (Holm); intervals are not. Ties count one half; repeats enter no rating.",
    ]
    if any(np.isinf(f.pair.difference.given_raters.estimate) for f in answers.findings):
        lines.append(
            "∞ stands where every vote between two arms went one way: no finite rating exists, and "
            "the end that is given rests on the number of prompts."
        )
    return lines
