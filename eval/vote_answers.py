"""What votes answer: ratings and differences by question, agreement of raters, use of metrics.

Everything is a pure function of the rows of `votes.parquet` (and of scores); repeats measure raters
and enter no rating. Differences are corrected over all pairs of arms and all questions together
(Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from eval.bradley_terry import Ballots
from eval.intervals import Interval
from eval.metrics import METRICS
from eval.raters import Share, alpha, metric_agreement
from eval.ratings import Pair, Ratings, rate
from eval.stats import Verdict, holm
from launch.errors import ArtifactError

BETTER_IS = {m.name: float(m.better) for m in METRICS if m.better and m.repeats is None}
"""Metrics that are compared with votes, 1 where more is better, -1 where less is; the others are
the same in another unit, or counts."""

_VALUE = {"left": 0, "tie": 1, "right": 2}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One pair of arms in one question, with what may be said of it."""

    question: str
    pair: Pair
    p_holm: float

    @property
    def verdict(self) -> Verdict:
        """Return what may be said of the first arm, given how many pairs were looked at."""
        return self.pair.difference.verdict_at(self.p_holm)


@dataclass(frozen=True, kw_only=True)
class Rater:
    """One rater over all questions."""

    name: str
    num_votes: int
    ties: Share
    lefts: Share
    """Of votes that are no ties, those for the left side: far from one half is a habit."""

    repeats: Share
    """Repeats answered as before, with the sides swapped."""

    median_seconds: float
    """Of the time to a vote; NaN where no time was kept."""


class Predicted(NamedTuple):
    """How well one metric predicts the votes on one question."""

    question: str
    metric: str
    scoring: str | None
    agreement: Interval
    num_votes: int
    num_even: int
    """Votes on pairs that the metric scores alike."""


@dataclass(frozen=True, kw_only=True)
class VoteAnswers:
    """Everything that is said of the votes."""

    arms: list[str]
    anchor: str | None
    ratings: dict[str, Ratings]
    """By question, in the order of the page."""

    findings: list[Finding]
    alphas: dict[str, dict[str, Interval]]
    """Krippendorff's alpha by question and kind, `ordinal` and `nominal`."""

    raters: list[Rater]
    predicted: list[Predicted]


def answer_votes(
    table: pa.Table,
    *,
    arms: Sequence[str],
    anchor: str | None,
    resamples: int,
    seed: int,
    scores: pa.Table | None = None,
) -> VoteAnswers:
    """Answer everything that votes can answer.

    Args:
        table: Rows of `votes.parquet`.
        arms: Arms of the page; those without votes are left out.
        anchor: Arm whose rating is 0; None sets the mean to 0.
        resamples: Resamples of alpha's bootstrap.
        seed: Its seed.
        scores: Rows of `scores.parquet` of the same pictures.
    """
    rows = table.sort_by([("place", "ascending"), ("rater", "ascending")]).to_pylist()
    first = [row for row in rows if row["repeat_of"] is None]
    seen = {row[side] for row in first for side in ("left_arm", "right_arm")}
    voted = [arm for arm in arms if arm in seen]
    questions = list(dict.fromkeys(row["question"] for row in first))
    ratings = {q: rate(_ballots(_of(first, q), voted), voted, anchor=anchor) for q in questions}
    pairs = [(q, pair) for q, found in ratings.items() for pair in found.pairs]
    corrected = holm([pair.difference.p_value for _, pair in pairs])
    return VoteAnswers(
        arms=voted,
        anchor=anchor,
        ratings=ratings,
        findings=[
            Finding(question=q, pair=pair, p_holm=float(p))
            for (q, pair), p in zip(pairs, corrected, strict=True)
        ],
        alphas={
            q: {
                kind: _alpha(_of(first, q), kind, resamples=resamples, seed=seed)
                for kind in ("ordinal", "nominal")
            }
            for q in questions
        },
        raters=[_rater(name, rows) for name in sorted({row["rater"] for row in rows})],
        predicted=[] if scores is None else _predict(first, questions, scores),
    )


def _of(rows: Sequence[Mapping[str, Any]], question: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["question"] == question]


def _ballots(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Ballots:
    number = {arm: i for i, arm in enumerate(arms)}
    return Ballots(
        first=np.array([number[row["left_arm"]] for row in rows], np.int64),
        second=np.array([number[row["right_arm"]] for row in rows], np.int64),
        score=np.array([1 - _VALUE[row["choice"]] / 2 for row in rows]),
        prompt=np.array([row["pair_id"] for row in rows]),
        rater=np.array([row["rater"] for row in rows]),
    )


def _alpha(rows: Sequence[Mapping[str, Any]], kind: Any, *, resamples: int, seed: int) -> Interval:
    """Return alpha of one question, sides turned so that values are arms and not places."""
    values = [
        _VALUE[row["choice"]] if row["left_arm"] < row["right_arm"] else 2 - _VALUE[row["choice"]]
        for row in rows
    ]
    _, unit = np.unique([row["trial_id"] for row in rows], return_inverse=True)
    return alpha(
        unit.astype(np.int64), np.array(values, np.int64),
        np.array([row["pair_id"] for row in rows]),
        num_values=3, metric=kind, resamples=resamples, seed=seed,
    )  # fmt: skip


def _rater(name: str, rows: Sequence[Mapping[str, Any]]) -> Rater:
    own = [row for row in rows if row["rater"] == name]
    choice = {row["trial_id"]: row["choice"] for row in own}
    turned = {"left": "right", "right": "left", "tie": "tie"}
    again = [row for row in own if row["repeat_of"] in choice]
    decided = [row["choice"] for row in own if row["choice"] != "tie"]
    times = [row["milliseconds"] / 1000 for row in own if row["milliseconds"] is not None]
    return Rater(
        name=name,
        num_votes=len(own),
        ties=Share(len(own) - len(decided), len(own)),
        lefts=Share(decided.count("left"), len(decided)),
        repeats=Share(
            sum(row["choice"] == turned[choice[row["repeat_of"]]] for row in again), len(again)
        ),
        median_seconds=float(np.median(times)) if times else float("nan"),
    )


# --------------------------------------------------------------------------- metrics


def _predict(
    rows: Sequence[Mapping[str, Any]], questions: Sequence[str], scores: pa.Table
) -> list[Predicted]:
    """Compare every metric's differences with the votes.

    Raises:
        ArtifactError: A picture that was voted on has no score.
    """
    values: dict[tuple[str, str | None], dict[str, float]] = {}
    names = ("generation_id", "metric", "scoring", "axis", "value")
    for generation, metric, scoring, axis, value in zip(
        *(scores[name].to_pylist() for name in names), strict=True
    ):
        # GenEval's axis is the prompt's task, of which it has one; other axes are parts of a whole.
        if metric in BETTER_IS and (axis is None or metric == "geneval_correct"):
            values.setdefault((metric, scoring), {})[generation] = BETTER_IS[metric] * value
    found = []
    for question in questions:
        decided = [row for row in _of(rows, question) if row["choice"] != "tie"]
        for (metric, scoring), value_of in values.items():
            where = f"metric {metric}" + (f", scoring {scoring}" if scoring else "")
            kept, differences = [], []
            for row in decided:
                left, right = (value_of.get(row[f"{s}_generation_id"]) for s in ("left", "right"))
                if left is None or right is None:
                    if left is right and not metric.startswith("clip_similarity"):
                        continue  # a prompt that says nothing of the kind has no such score
                    raise ArtifactError(
                        f"scores: {where}: no score of a picture that {row['rater']!r} voted on, "
                        f"trial {row['trial_id']}; a metric is compared on the very pictures. Name "
                        "the scores of these generations."
                    )
                kept.append(row)
                differences.append(left - right)
            if not kept:
                continue
            difference = np.array(differences)
            found.append(
                Predicted(
                    question=question,
                    metric=metric,
                    scoring=scoring,
                    agreement=metric_agreement(
                        np.array([1.0 if row["choice"] == "left" else -1.0 for row in kept]),
                        difference,
                        np.array([row["pair_id"] for row in kept]),
                    ),
                    num_votes=len(kept),
                    num_even=int((difference == 0).sum()),
                )
            )
    return found
