"""The same prompt and noise across arms: which prompts are shown, and their pictures.

The rule of choice is stated beside the pictures: some prompts drawn by key, so that nobody chose
them, and the ends of the primary comparison's differences, so that failures are seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from eval.config import PrimaryConfig, ReportConfig
from eval.report_answers import Answers
from eval.report_inputs import Opened
from eval.report_rows import Measure, ScoreTable, primary_measure
from eval.table import Table
from eval.thumbnails import PIXELATED_SIDE, Shot, data_uri, picture_itself
from eval.words import DIGITS, number
from launch.keyed import uniform
from t2i.artifacts import Generations

DRAWN, GREATEST, LEAST = "drawn at random", "greatest difference", "least difference"
"""Why a prompt is shown."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A prompt that is shown, and why."""

    pair_id: str
    reason: str
    difference: float | None
    """Difference of the primary comparison at the noise and training seed shown."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The same prompt and noise across arms."""

    choice: Choice
    prompt: str
    shots: list[Shot]


def picture_rows(opened: Opened, answers: Answers, *, cfg: ReportConfig) -> tuple[list[Row], int]:
    """Return the rows of pictures, and the side of one."""
    texts = opened.prompts.texts(cfg.primary.style)
    shown = _first_seed(opened.generations, answers.arms)
    places = {arm: _places(g, cfg.primary.style) for arm, g in shown.items()}
    drawn = set.intersection(*(set(p) for p in places.values())) if places else set()
    pair_ids = sorted(p for p in drawn if p in texts)
    if not pair_ids:
        return [], PIXELATED_SIDE
    side = shown[answers.arms[0]].pixels([next(iter(places[answers.arms[0]].values()))]).shape[1]
    measure = primary_measure(cfg.primary)
    values = {arm: _values(opened.table, measure, arm, shown[arm]) for arm in shown}
    better, than = (values.get(a, {}) for a in (cfg.primary.better, cfg.primary.than))
    differences = {p: better[p] - than[p] for p in pair_ids if p in better and p in than}
    choices = choose(differences, pair_ids=pair_ids, num_pictures=cfg.num_pictures, seed=cfg.seed)
    digits = DIGITS[measure.metric]
    rows = []
    for choice in choices:
        shots = picture_itself(opened.images, choice.pair_id, side=side)
        for arm, generations in shown.items():
            pixels = generations.pixels([places[arm][choice.pair_id]])[0]
            value = values[arm].get(choice.pair_id)
            score = "" if value is None else number(value, digits)
            shots.append(Shot(label=arm, uri=data_uri(pixels), score=score))
        rows.append(Row(choice=choice, prompt=texts[choice.pair_id], shots=shots))
    return rows, side


def choose(
    differences: Mapping[str, float], *, pair_ids: Sequence[str], num_pictures: int, seed: int
) -> list[Choice]:
    """Choose the prompts that are shown: half by key, a quarter each for the ends.

    Args:
        differences: Difference of the primary comparison, by pair; empty if there is none.
        pair_ids: Every pair that could be shown.
        num_pictures: How many.
        seed: Seed of the draw.

    Returns:
        The choices, drawn ones first; ties in the difference are broken by the same draw.
    """
    words = np.array(
        [int.from_bytes(blake2b(p.encode(), digest_size=8).digest(), "big") for p in pair_ids],
        np.uint64,
    )
    draws = uniform(seed, "report pictures", epoch=0, ids=words) if len(words) else np.empty(0)
    draw = dict(zip(pair_ids, draws.tolist(), strict=True))
    drawn = sorted(pair_ids, key=draw.__getitem__)
    num_extreme = min(num_pictures // 4, len(differences) // 2)
    by_difference = sorted(differences, key=lambda p: (-differences[p], draw.get(p, 0.0)))
    best = by_difference[:num_extreme]
    worst = by_difference[::-1][:num_extreme]
    extreme = {*best, *worst}
    keyed = [p for p in drawn if p not in extreme][: max(num_pictures - len(extreme), 0)]

    def made(pairs: Sequence[str], reason: str) -> list[Choice]:
        return [Choice(pair_id=p, reason=reason, difference=differences.get(p)) for p in pairs]

    return made(keyed, DRAWN) + made(best, GREATEST) + made(worst, LEAST)


def _first_seed(generations: Sequence[Generations], arms: Sequence[str]) -> dict[str, Generations]:
    """Return, for every arm, the generations of the lowest training seed that all arms have."""
    seeds = [{g.model_seed for g in generations if g.arm == arm} for arm in arms]
    shared = set.intersection(*seeds) if seeds else set()
    if not shared:
        return {}
    seed = min(shared)
    return {
        arm: next(g for g in generations if g.arm == arm and g.model_seed == seed) for arm in arms
    }


def _places(generations: Generations, style: str) -> dict[str, int]:
    """Return the row of every pair at the last snapshot and the lowest noise seed."""
    table = generations.table
    columns = [table[n].to_pylist() for n in ("pair_id", "style", "seed", "samples_seen")]
    last, first = generations.samples_seen[-1], min(columns[2], default=0)
    return {
        pair: row
        for row, (pair, of, seed, seen) in enumerate(zip(*columns, strict=True))
        if of == style and seed == first and seen == last
    }


def _values(
    table: ScoreTable, measure: Measure, arm: str, generations: Generations
) -> dict[str, float]:
    """Return the score of every pair's shown picture."""
    rows = table.rows(measure, arm, weighs_tasks=False)
    if rows is None:
        return {}
    first = min(generations.table["seed"].to_pylist(), default=0)
    where = (rows.model_seed == generations.model_seed) & (rows.seed == first)
    pairs, values = rows.pair[where].tolist(), rows.value[where].tolist()
    return {table.pair_name(p): v for p, v in zip(pairs, values, strict=True)}


def picture_rule(rows: Sequence[Row], primary: PrimaryConfig) -> str:
    """Say by which rule the prompts were chosen."""
    drawn = sum(r.choice.reason == DRAWN for r in rows)
    extreme = sum(r.choice.reason == GREATEST for r in rows)
    if not rows:
        return "None."
    rule = (
        f"Prompts in {primary.style} style, chosen by rule: {drawn} drawn at random, by the seed "
        "of the report"
    )
    if extreme:
        rule += (
            f", and the {extreme} with the greatest and the {extreme} with the least difference "
            f"{primary.better} \N{MINUS SIGN} {primary.than} on the primary measure, so that "
            "failures are seen beside successes"
        )
    return rule + ". Within a row only the captions of training differ."


def pictures_table(rows: Sequence[Row], *, measure: Measure, primary: PrimaryConfig) -> Table:
    """Make the table of which prompts are shown, and why."""
    return Table(
        name="pictures",
        title="Prompts shown",
        columns=[],
        rows=[],
        records=[
            {
                "pair_id": r.choice.pair_id, "prompt": r.prompt, "reason": r.choice.reason,
                "metric": measure.metric, "arm": primary.better, "than": primary.than,
                "difference": r.choice.difference,
            }
            for r in rows
        ],
    )  # fmt: skip
