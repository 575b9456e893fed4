"""`eval plan`: how many prompts, pictures and training seeds find a difference of a stated size.

Reads scores of an earlier study, or standard deviations given by hand, and writes

* `designs.parquet`: every design of the table, at full precision,
* `components.json`: where the variance comes from, and how sure that is,
* `summary.txt`: both for a terminal, and the cheapest design within the limits; also printed.

What the scores of one study tell about another holds as far as models, prompts and judge are alike.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from eval.artifacts import (
    DESIGNS_SCHEMA,
    PLAN,
    PLAN_VERSION,
    SCORES,
    SCORES_VERSION,
    open_scores,
)
from eval.components import Components, Estimate, estimate_components
from eval.config import PlanConfig, PrimaryConfig
from eval.intervals import LEVEL
from eval.pairing import match_rows
from eval.power import Design, detectable, fewest_prompts, power_of
from eval.report_rows import ScoreTable, describe, primary_measure
from eval.stats import MIN_SEEDS
from eval.summary import SUMMARY, aligned
from eval.words import NOTHING
from launch.errors import InputError
from launch.manifest import write_bytes, write_json, write_parquet
from launch.run import Run

NAMES = {
    "seed": "training seed",
    "prompt": "prompt",
    "noise": "noise seed within prompt",
    "prompt_by_seed": "prompt by training seed",
    "rest": "single picture",
}
"""Components in words."""

RANGE_DRAWS, RANGE_NODES = 100, 8
"""Sets of components and nodes behind the range of what a design detects."""

_WIDTH = 100


class Row(NamedTuple):
    """One design of the table."""

    design: Design
    detectable: float
    low: float
    high: float
    """Range of `detectable` that the components' uncertainty leaves."""
    power: float
    """For the difference asked for."""


def plan(cfg: PlanConfig, run: Run) -> None:
    """Write what every design detects, and the cheapest that finds the difference."""
    if cfg.scores is not None:
        run.input("scores", cfg.scores, artifact=SCORES, version=SCORES_VERSION)
    estimate = None if cfg.scores is None else read_components(cfg.scores, _primary(cfg), cfg.seed)
    components, draws = _merged(cfg, estimate)
    designs = [
        Design(prompts, images, seeds)
        for seeds in sorted(set(cfg.seeds))
        for images in sorted(set(cfg.images))
        for prompts in sorted(set(cfg.prompts))
    ]
    if not run.start({"designs": len(designs)}, minutes=0.1, gib=0.001):
        return

    rows = [_row(cfg, components, draws, design) for design in designs]
    cheapest = cheapest_designs(cfg, components)
    text = _summary(cfg, estimate, components, rows, cheapest)
    columns = {
        **{name: [getattr(r.design, name) for r in rows] for name in Design._fields},
        "includes_seeds": [r.design.has_seeds for r in rows],
        "detectable": [r.detectable for r in rows],
        "detectable_low": [r.low for r in rows],
        "detectable_high": [r.high for r in rows],
        "power": [r.power for r in rows],
        "pictures": [r.design.pictures(arms=cfg.arms) for r in rows],
        "models": [r.design.models(arms=cfg.arms) for r in rows],
    }
    write_parquet(run.out / "designs.parquet", pa.table(columns, schema=DESIGNS_SCHEMA))
    write_json(run.out / "components.json", _facts(cfg, estimate, components))
    write_bytes(run.out / SUMMARY, text.encode())
    print(text, end="", flush=True)
    run.finish(
        artifact=PLAN,
        version=PLAN_VERSION,
        counts={"designs": len(rows)},
        parts=["designs.parquet", "components.json", SUMMARY],
    )


def read_components(folder: Path, primary: PrimaryConfig, seed: int) -> Estimate:
    """Estimate the components of the named comparison from a scores artifact.

    Raises:
        InputError: The scores hold no rows for it, or rows without partner.
    """
    table, measure = ScoreTable(open_scores(folder).table), primary_measure(primary)
    one, other = (table.rows(measure, arm) for arm in (primary.better, primary.than))
    if one is None or other is None:
        absent = primary.better if one is None else primary.than
        raise InputError(
            f"{folder}: arm {absent!r} has no rows for {describe(measure)}; the scores hold arms "
            f"{', '.join(table.arms)}. Name a comparison that was scored."
        )
    names = (primary.better, primary.than)
    matched = match_rows(one, other, names=names, name_of=table.prompt_name)
    return estimate_components(matched, seed=seed, name=str(folder))


def _primary(cfg: PlanConfig) -> PrimaryConfig:
    assert cfg.primary is not None, "PlanConfig sees to it"
    return cfg.primary


def _merged(cfg: PlanConfig, estimate: Estimate | None) -> tuple[Components, Components | None]:
    """Put what is given by hand in place of what was estimated."""
    given = {k: v**2 for k, v in vars(cfg.spread).items() if v is not None}
    if estimate is None:
        return Components(**{name: np.asarray(given.get(name, 0.0)) for name in NAMES}), None
    spread = np.linspace(0, len(estimate.draws.prompt) - 1, RANGE_DRAWS).astype(int)
    draws = {k: v[spread] for k, v in estimate.draws._asdict().items()}
    fixed = {k: np.full(RANGE_DRAWS, v) for k, v in given.items()}
    by_hand = {k: np.asarray(v) for k, v in given.items()}
    return estimate.components._replace(**by_hand), Components(**{**draws, **fixed})


def _level(cfg: PlanConfig) -> float:
    return 1 - (1 - LEVEL) / cfg.comparisons


def _row(cfg: PlanConfig, components: Components, draws: Components | None, design: Design) -> Row:
    asked: dict[str, Any] = {"power": cfg.power, "level": _level(cfg)}
    found = float(detectable(components, design, **asked))
    low = high = found
    if draws is not None:
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low, high = np.quantile(detectable(draws, design, **asked, nodes=RANGE_NODES), tails)
    power = power_of(components, design, cfg.difference, level=_level(cfg))
    return Row(design, found, float(low), float(high), float(power))


def cheapest_designs(cfg: PlanConfig, components: Components) -> list[Design]:
    """Return designs that find the difference within the limits, the cheapest first.

    One for every number of pictures and seeds asked for, with the fewest prompts that do.
    """
    found = []
    for seeds in sorted(set(cfg.seeds)):
        for images in sorted(set(cfg.images)):
            one = Design(1, images, seeds)
            most = cfg.max_prompts
            if cfg.max_pictures is not None:
                most = min(most, cfg.max_pictures // one.pictures(arms=cfg.arms))
            if cfg.max_models is not None and one.models(arms=cfg.arms) > cfg.max_models:
                continue
            prompts = fewest_prompts(
                components, cfg.difference, images=images, seeds=seeds, most=most,
                power=cfg.power, level=_level(cfg),
            )  # fmt: skip
            if prompts is not None:
                found.append(Design(prompts, images, seeds))

    def cost(design: Design) -> tuple[float, float]:
        models, pictures = design.models(arms=cfg.arms), design.pictures(arms=cfg.arms)
        if cfg.model_price is None:
            return models, pictures
        return pictures + cfg.model_price * models, models

    return sorted(found, key=cost)


# --------------------------------------------------------------------------- what is said


def _facts(cfg: PlanConfig, estimate: Estimate | None, components: Components) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "components": {
            name: {
                "variance": float(getattr(components, name)),
                "interval": None
                if estimate is None or _is_given(cfg, name) or name not in estimate.told_apart
                else list(estimate.interval(name)),
                "given": _is_given(cfg, name),
            }
            for name in NAMES
        },
        "cheapest": [d._asdict() for d in cheapest_designs(cfg, components)],
    }
    if estimate is not None:
        facts["scores"] = {
            "training_seeds": estimate.num_seeds,
            "prompts": estimate.num_prompts,
            "images": estimate.num_images,
        }
    return facts


def _is_given(cfg: PlanConfig, name: str) -> bool:
    return getattr(cfg.spread, name) is not None


def _summary(
    cfg: PlanConfig,
    estimate: Estimate | None,
    components: Components,
    rows: Sequence[Row],
    cheapest: Sequence[Design],
) -> str:
    blocks = [_components_text(cfg, estimate, components), _table_text(cfg, rows)]
    blocks += [_cheapest_text(cfg, new) for new in _by_kind(cheapest)]
    if not cheapest:
        blocks.append(
            f"No design within the limits finds a difference of {cfg.difference:g} with "
            f"{cfg.power:.0%} power: allow more prompts, pictures or training seeds."
        )
    blocks += _notes(cfg, estimate)
    filled = [b if "\n" in b else textwrap.fill(b, _WIDTH) for b in blocks]
    return "\n\n".join(filled) + "\n"


def _components_text(cfg: PlanConfig, estimate: Estimate | None, components: Components) -> str:
    if estimate is None:
        title = "spread of one picture's difference, given by hand"
    else:
        primary = _primary(cfg)
        title = (
            f"spread of one picture's difference {primary.better} - {primary.than}, "
            f"{describe(primary_measure(primary))}"
        )
    table = [["between", "standard deviation", "95% range"]]
    for name, words in NAMES.items():
        shown = _three(math.sqrt(float(getattr(components, name))))
        if estimate is None or _is_given(cfg, name):
            table.append([f"  {words}", shown, "given" if _is_given(cfg, name) else NOTHING])
        elif name not in estimate.told_apart:
            table.append([f"  {words}", "unknown", "not told by these scores"])
        else:
            low, high = (math.sqrt(v) for v in estimate.interval(name))
            table.append([f"  {words}", shown, f"{_three(low)} to {_three(high)}"])
    return f"{title}\n{aligned(table)}"


def _table_text(cfg: PlanConfig, rows: Sequence[Row]) -> str:
    table = [["prompts", "images", "seeds", "detects", "95% range", f"power at {cfg.difference:g}",
              "pictures", "models", "interval"]]  # fmt: skip
    for row in rows:
        design, is_sure = row.design, row.low == row.high
        table.append(
            [
                f"{design.prompts:,}", f"{design.images:,}", f"{design.seeds:,}",
                _three(row.detectable),
                NOTHING if is_sure else f"{_three(row.low)} to {_three(row.high)}",
                f"{row.power:.0%}",
                f"{design.pictures(arms=cfg.arms):,}", f"{design.models(arms=cfg.arms):,}",
                "new models" if design.has_seeds else "these models",
            ]
        )  # fmt: skip
    correction = f", corrected for {cfg.comparisons:,} comparisons" if cfg.comparisons > 1 else ""
    title = f"smallest difference detected with {cfg.power:.0%} power at 95%{correction}"
    return f"{title}\n{aligned(table)}"


def _by_kind(cheapest: Sequence[Design]) -> list[Design]:
    """Return the cheapest design that includes training seeds, and the cheapest that does not."""
    kinds = {design.has_seeds: design for design in reversed(cheapest)}
    return [kinds[kind] for kind in (True, False) if kind in kinds]


def _cheapest_text(cfg: PlanConfig, design: Design) -> str:
    models = "new" if design.has_seeds else "the trained"
    return (
        f"Cheapest for a difference of {cfg.difference:g} between {models} models on new prompts: "
        f"{_count(design.prompts, 'prompt')}, {_count(design.images, 'image')} of each, "
        f"{_count(design.seeds, 'training seed')}; "
        f"{_count(design.pictures(arms=cfg.arms), 'picture')} and "
        f"{_count(design.models(arms=cfg.arms), 'model')} for {_count(cfg.arms, 'arm')}."
    )


def _notes(cfg: PlanConfig, estimate: Estimate | None) -> list[str]:
    """Say what the table is conditional on."""
    notes = []
    if any(seeds < MIN_SEEDS for seeds in cfg.seeds):
        notes.append(
            f"With fewer than {MIN_SEEDS} training seeds the interval is conditional on the models "
            "as trained: it detects a difference between these models, which is their arms' "
            "difference and the luck of their training together. The spread between training "
            "seeds is no part of it, and training again may give another answer."
        )
    if estimate is None:
        return notes
    told = estimate.told_apart | {n for n in NAMES if _is_given(cfg, n)}
    if "rest" not in told or "noise" not in told:
        notes.append(
            "These scores have one picture of a prompt and model, or one training seed: what "
            "another noise would change cannot be told from what another prompt or training would. "
            "It is left in the latter, so that more images of a prompt may help more than the "
            "table says. Score several (t2i sample seeds_per_prompt=4), or give spread.noise and "
            "spread.rest together with smaller spread.prompt and spread.prompt_by_seed."
        )
    if "seed" not in told:
        notes.append(
            "One training seed tells nothing of another: the spread between training seeds is "
            "taken as 0, and what is said of four seeds and more is too good. Give spread.seed=..."
        )
    elif not _is_given(cfg, "seed"):
        notes.append(
            f"The spread between training seeds rests on {estimate.num_seeds} of them, "
            f"{estimate.num_seeds - 1} degrees of freedom; the range of a design includes this, "
            "the cheapest designs do not. To plan for the worst that these scores allow, give "
            f"spread.seed={_three(math.sqrt(estimate.interval('seed')[1]))}."
        )
    return notes


def _count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" + "s" * (num != 1)


def _three(value: float) -> str:
    """Show three digits."""
    return f"{value:#.3g}".rstrip(".") if 0 < value < 1000 else f"{value:,.0f}"
