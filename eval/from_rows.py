"""The answer of a study from its score rows and its YAML alone, without any artifact.

What the rows do not hold is not known here: whether the judge could be told from chance, caption
quality, distances between distributions, votes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eval.config import AlongConfig, PrimaryConfig
from eval.published import read_rows
from eval.report_along import along_table, lines_along
from eval.report_answers import Answers, answer
from eval.report_pooled import pooled_table
from eval.report_rows import ScoreTable, order_arms, primary_measure
from eval.report_tables import tests_table
from eval.seed_noise import seed_noise_of, seed_noise_table
from eval.summary import SUMMARY, summary_text
from eval.table import Table
from launch.config import Tree, build
from launch.manifest import write_bytes
from recap.claims import AXES


class FromRows(NamedTuple):
    """What rows and study say."""

    table: ScoreTable
    answers: Answers
    along: list[AlongConfig]
    """Without numbers that are measured on captions, which the rows do not hold."""

    study: str


def answer_rows(rows: Path, study: Tree, *, resamples: int) -> FromRows:
    """Compute what a report says of these rows.

    Args:
        rows: `rows.parquet` of a report.
        study: Its configuration, resolved or as it was written.
        resamples: Resamples of the headline's bootstrap and permutation test.
    """
    table = ScoreTable(read_rows(rows))
    primary = build(PrimaryConfig, study["primary"], where="primary")
    settings = study["steps"]["report"]["set"]
    answers = answer(
        table,
        arms=order_arms(primary, [arm for arm in study["arms"] if arm in table.arms]),
        primary=primary,
        axes=AXES,
        is_control=bool(settings.get("control", False)),
        withheld=None,
        is_public_clip=_is_public_clip(study["steps"]),
        changes=settings.get("changes") or {},
        resamples=resamples,
        seed=0,
    )
    named = [build(AlongConfig, along, where="along") for along in settings.get("along") or []]
    return FromRows(
        table=table,
        answers=answers,
        along=[along for along in named if along.measured is None],
        study=str(study["name"]),
    )


def _is_public_clip(steps: Tree) -> bool:
    """Say whether a study's CLIP scores are those of a public CLIP, which its rows do not tell."""
    score = (steps.get("score") or {}).get("set") or {}
    return bool(score) and ("judge" not in score or score.get("clip_model") is not None)


def write_answers(found: FromRows, folder: Path, *, resamples: int) -> list[str]:
    """Write summary and tables as a report does, and return their names below the folder."""
    table, answers = found.table, found.answers
    tables: list[Table] = [tests_table(answers, resamples=resamples)] if answers.tests else []
    measure = primary_measure(answers.primary)
    noise = seed_noise_of(table, measure, answers.arms)
    if noise:
        tables.append(seed_noise_table(noise, measure))
    for place, along in enumerate(found.along):
        lines = lines_along(table, answers, along)
        tables.append(along_table(lines, along, place=place))
        over_arms = [line.pooled for line in lines if line.pooled is not None]
        if over_arms:
            tables.append(pooled_table(over_arms, place=place))
    for made in tables:
        write_bytes(folder / "tables" / f"{made.name}.csv", made.csv())
    # Without the line on the page, which is not made here.
    text = summary_text(answers, study=found.study).rpartition("\n\n")[0] + "\n"
    write_bytes(folder / SUMMARY, text.encode())
    return [*(f"tables/{made.name}.csv" for made in tables), SUMMARY]
