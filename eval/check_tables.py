"""Every number of a report's tables, computed again from its rows.

The formulas are those of `eval/answers_again.py`; here is which of them belongs to which column.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from eval.answers_again import (
    Key,
    Score,
    compared,
    curve_rows,
    holm_again,
    mean_again,
    own_interval,
    pooled_again,
    seeds_again,
)
from eval.checked import Checked, key_of, numbers_checked, read_table, where_of
from launch.manifest import read_manifest

MOST_SEEDS = 12
"""Training seeds up to which a report tries every pattern of swapped seeds."""

COMPARED = ("difference", "low", "high", "with_seeds_low", "with_seeds_high", "p",
            "smallest_detectable", "num_prompts", "num_pictures", "num_training_seeds")  # fmt: skip
"""Columns of a comparison; `p` is searched for by halving and compared less strictly."""


def check_record(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute a comparison or a mean once more."""
    arm, than = record["arm"], record.get("than") or ""
    one = key_of(record, arm, last[arm])
    if than:
        comparison = compared(scores, one, key_of(record, than, last[than]))
        again = {name: getattr(comparison, name) for name in COMPARED}
        yield from numbers_checked(table, record, again, loose=1e-6)
        return
    mean = mean_again(scores, one)
    again = {"mean": mean.mean, "low": mean.low, "high": mean.high, "num_prompts": mean.num_prompts}
    # A ceiling's number of prompts is that of the models' pictures; along a number none is told.
    if arm.startswith("(") or table.startswith("along-"):
        del again["num_prompts"]
    yield from numbers_checked(table, record, again)


def check_numbers(
    report: Path, scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what is told against numbers by which arms differ."""
    for path in sorted((report / "tables").glob("along-*.csv")):
        for record in read_table(path):
            yield from _check_along(path.stem, _of_own_text(record), scores, last)
    for path in sorted((report / "tables").glob("pooled-*.csv")):
        for record in read_table(path):
            yield from _check_pooled(path.stem, record, scores, last)


def _check_along(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute a mean once more, and its interval with training seeds where one is told."""
    yield from check_record(table, record, scores, last)
    low, high = own_interval(scores, key_of(record, record["arm"], last[record["arm"]]))
    if record.get("with_seeds_low"):
        yield from numbers_checked(table, record, {"with_seeds_low": low, "with_seeds_high": high})


def _check_pooled(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what arms that share a number are on average, or two such means differ."""
    means = [
        [mean_again(scores, key_of(record, arm, last[arm])).mean for arm in record[column].split()]
        for column in ("arms", "than")
    ]
    mean, low, high = pooled_again(*(np.array(of) for of in means))
    where = record | {"arm": record["arms"]}
    yield from numbers_checked(table, where, {"mean": mean, "low": low, "high": high})


def _of_own_text(record: dict[str, str]) -> dict[str, str]:
    """Name the measure that is drawn against a number: all claims, or CLIP with the prompt."""
    is_clip = record["metric"] == "clip_similarity"
    return record | {"scoring": record["prompt_style"] if is_clip else "", "axis": ""}


def check_seeds(
    records: list[dict[str, str]], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what training seeds alone do."""
    for record in records:
        again = seeds_again(scores, key_of(record, record["arm"], last[record["arm"]]))
        if record["training_seed"]:
            numbers = {"mean": again.means[int(record["training_seed"])]}
        else:
            numbers = {
                "deviation": again.deviation, "low": again.low, "high": again.high,
                "between_two": again.between_two, "pairs": again.num_pairs,
                "called_different": again.num_called_different,
            }  # fmt: skip
        yield from numbers_checked("seeds", record, numbers)


def check_holm(
    report: Path,
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Correct all secondary comparisons together once more."""
    primary = tables["primary"][0] if tables["primary"] else None
    named = primary and (
        key_of(primary, "", 0)[:4], primary["arm"], primary["than"]
    )  # fmt: skip
    records = [
        r | {"table": t}
        for t in ("grid", "sentences", "following", "checks", "changes", "pairs")
        for r in tables[t]
    ]
    families = {}
    for r in records:
        if r.get("than"):
            what = (key_of(r, "", 0)[:4], r["arm"], r["than"])
            families[what] = compared(
                scores, key_of(r, r["arm"], last[r["arm"]]), key_of(r, r["than"], last[r["than"]])
            ).p
    own = families.pop(named, None) if named else None
    corrected = dict(zip(families, holm_again(list(families.values())), strict=True))
    if own is not None and named:
        corrected[named] = own
    for r in records:
        if r.get("than"):
            p = corrected[key_of(r, "", 0)[:4], r["arm"], r["than"]]
            yield Checked(
                r["table"], where_of(r), "p_holm", float(r["p_holm"]), p, 1e-6 * p + 1e-10
            )
            if r["verdict"] != "withheld":
                sign = np.sign(float(r["difference"])) if p < 0.05 else 0.0
                said = {"better": 1.0, "worse": -1.0}.get(r["verdict"], 0.0)
                yield Checked(r["table"], where_of(r), "verdict", said, float(sign), 0.0)
    counted = read_manifest(report).counts["secondary_comparisons"]
    yield Checked("manifest", "counts", "secondary_comparisons", counted, len(families), 0)


def check_primary(
    records: list[dict[str, str]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
    *,
    resamples: int,
    own_resamples: int,
) -> Iterator[Checked]:
    """Compute the comparison that the study named once more, draws at random included."""
    noise = float(np.sqrt(1 / resamples + 1 / own_resamples))
    for record in records:
        one, other = (key_of(record, record[n], last[record[n]]) for n in ("arm", "than"))
        c = compared(scores, one, other)
        if record["training_seed"]:
            again = {"difference": c.by_seed[int(record["training_seed"])]}
            yield from numbers_checked("primary", record, again)
            continue
        yield from numbers_checked(
            "primary", record, {name: getattr(c, name) for name in COMPARED}, loose=1e-6
        )
        if record["verdict"] != "withheld":
            told = f"verdict {record['verdict']!r}, expected {c.verdict!r}"
            yield Checked(
                "primary",
                f"{where_of(record)}, {told}",
                "verdict",
                record["verdict"] == c.verdict,
                1,
                0,
            )
        if record["bootstrap_low"]:
            low, high = c.bootstrap(resamples)
            # Drawn at random on both sides. The 2.5% quantile of R draws has a standard error of
            # 1.37 half-widths / sqrt(R); five of them.
            stray = 6.9 * (c.high - c.low) / 2 * noise + 1e-12
            for name, end in (("bootstrap_low", low), ("bootstrap_high", high)):
                yield Checked("primary", where_of(record), name, float(record[name]), end, stray)
        if record["p_sign_flip"]:
            p, q = float(record["p_sign_flip"]), c.sign_flip(resamples)
            # p counts the observed pattern as one of the draws, so it ends at 1 / (R + 1).
            stray = 5 * np.sqrt(max(p, q) * (1 - q)) * noise + noise**2
            yield Checked("primary", where_of(record), "p_sign_flip", p, q, float(stray))
        if record.get("p_seed_flip") and c.num_training_seeds <= MOST_SEEDS:
            p = float(record["p_seed_flip"])
            yield Checked("primary", where_of(record), "p_seed_flip", p, c.seed_flip(), 1e-12)


def check_curves(
    records: list[dict[str, str]], scores: dict[Key, list[Score]]
) -> Iterator[Checked]:
    """Compute the means over training once more."""
    for record in records:
        key = key_of(record, record["arm"], int(record["samples_seen"]))
        kept = curve_rows(scores, key)
        if record["training_seed"]:
            seed = int(record["training_seed"])
            values = [s.value for s in kept[key] if s.model_seed == seed]
            yield from numbers_checked("curves", record, {"mean": float(np.mean(values))})
            continue
        mean = mean_again(kept, key)
        again = {"mean": mean.mean, "low": mean.low, "high": mean.high}
        yield from numbers_checked("curves", record, again | {"num_prompts": mean.num_prompts})
