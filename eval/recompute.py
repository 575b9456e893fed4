"""`eval recompute`: every figure of a report once more, from its rows, by other formulas.

What a report prints of scores is computed here a second time: `eval/answers_again.py` has the
formulas, which import nothing of those that made the report, and this module knows the files.
Only the formulas are independent. Reading files, checking digests, the schema of the rows and the
names of axes are the same code as the report's, and a wrong score is wrong on both sides. Each
number of the report's tables and of its summary is compared, and the first that differs stops the
command.

Not recomputed, because they are no function of score rows: distances between distributions (FID
and the like), people's votes, caption quality, the instrument's own quality, cost.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eval.answers_again import (
    BEYOND,
    JUDGED,
    Key,
    Score,
    changes_again,
    compared,
    curve_rows,
    holm_again,
    mean_again,
    own_interval,
    pooled_again,
    scores_of,
    seeds_again,
)
from eval.config import RecomputeConfig
from eval.from_rows import answer_rows, write_answers
from eval.published import ROWS, read_rows
from eval.summary import SUMMARY
from eval.words import AXIS_NAMES
from launch.config import find_config, load_tree
from launch.errors import ArtifactError
from launch.manifest import (
    MANIFEST,
    digest_file,
    read_manifest,
    refuse_changed_parts,
    write_bytes,
)
from launch.run import Run

RECOMPUTED = "recomputed"
TABLE = "recomputed.csv"

EXACT = 1e-9
"""Relative deviation that rounding explains."""

MOST_SEEDS = 12
"""Training seeds up to which a report tries every pattern of swapped seeds."""

COMPARED = ("difference", "low", "high", "with_seeds_low", "with_seeds_high", "p",
            "smallest_detectable", "num_prompts", "num_pictures", "num_training_seeds")  # fmt: skip
"""Columns of a comparison; `p` is searched for by halving and compared less strictly."""


class Checked(NamedTuple):
    """One published number beside the recomputed one."""

    table: str
    where: str
    column: str
    published: float
    recomputed: float
    tolerance: float
    """Deviation that counts as equal, in the number's own unit."""

    @property
    def is_equal(self) -> bool:
        """True if the two agree."""
        return abs(self.published - self.recomputed) <= self.tolerance


def recompute(cfg: RecomputeConfig, run: Run) -> None:
    """Compute every figure of a report again and refuse one that differs.

    Raises:
        ArtifactError: A number is not what the rows say, a row's number is missing, or a file is
            not the one that its manifest names.
    """
    if cfg.report is None:
        recompute_rows(cfg, run)
        return
    manifest = run.input("report", cfg.report, artifact="report")
    path = cfg.rows or cfg.report / ROWS
    if not path.is_file():
        raise ArtifactError(
            f"{path}: no such file; expected the rows that the report rests on. Give the scores "
            "that it was made from: rows=FOLDER/scores.parquet."
        )
    refuse_changed_parts(manifest)
    if path.parent != cfg.report and (path.parent / MANIFEST).is_file():
        refuse_changed_parts(read_manifest(path.parent), names=[path.name])
    run.external_input("rows", path, digest_file(path))
    scores = scores_of(read_rows(path))
    plan = {"report": manifest.folder, "rows": sum(len(s) for s in scores.values())}
    if not run.start(plan, minutes=0.5, gib=0.01):
        return
    checked = list(check(cfg.report, scores, resamples=cfg.resamples))
    _refuse_wrong(checked, where=cfg.report)
    write_bytes(run.out / TABLE, _csv(checked))
    exact = sum(c.tolerance <= EXACT * max(abs(c.published), 1.0) for c in checked)
    print(
        f"{len(checked):,} published numbers are what the rows say, {exact:,} of them to nine "
        "digits; the others are p-values, rounded or drawn at random"
    )
    run.finish(
        artifact=RECOMPUTED, counts={"rows_in": len(checked), "rows_out": len(checked)},
        parts=[TABLE],
    )  # fmt: skip


def recompute_rows(cfg: RecomputeConfig, run: Run) -> None:
    """Answer a study from its rows and its configuration alone, and compute the answer again.

    Raises:
        ArtifactError: The two do not agree, or the rows are not there.
    """
    assert cfg.rows is not None and cfg.study is not None  # noqa: PT018
    if not cfg.rows.is_file():
        raise ArtifactError(f"{cfg.rows}: no such file; expected the rows of a report.")
    path = find_config(cfg.study)
    run.external_input("rows", cfg.rows, digest_file(cfg.rows))
    run.external_input("study", path, digest_file(path))
    table = read_rows(cfg.rows)
    if not run.start({"rows": table.num_rows, "study": path}, minutes=0.5, gib=0.01):
        return
    found = answer_rows(cfg.rows, load_tree([path], []), resamples=cfg.resamples)
    parts = write_answers(found, run.out, resamples=cfg.resamples)
    scores = scores_of(table)
    last = _last(scores)
    scores |= changes_again(scores)
    primary = _read(run.out / "tables/primary.csv")
    checked = list(
        _check_primary(
            primary, scores, last, resamples=cfg.resamples, own_resamples=cfg.resamples
        )
    )  # fmt: skip
    checked += _check_seeds(_read(run.out / "tables/seeds.csv"), scores, last)
    checked += _check_numbers(run.out, scores, last)
    checked += _check_summary(run.out, {"primary": primary}, scores, last)
    _refuse_wrong(checked, where=cfg.rows)
    write_bytes(run.out / TABLE, _csv(checked))
    print((run.out / SUMMARY).read_text(encoding="utf-8"))
    print(f"{len(checked):,} numbers, computed again by other formulas, are the same")
    run.finish(
        artifact=RECOMPUTED, counts={"rows_in": len(checked), "rows_out": len(checked)},
        parts=[TABLE, *parts],
    )  # fmt: skip


def _refuse_wrong(checked: Sequence[Checked], *, where: Path) -> None:
    wrong = [c for c in checked if not c.is_equal]
    if wrong:
        w = wrong[0]
        raise ArtifactError(
            f"{where}: {len(wrong):,} of {len(checked):,} published numbers are not what the "
            f"rows say, first {w.table}, {w.where}, {w.column}: published {w.published!r}, "
            f"recomputed {w.recomputed!r}. Make the report again from its scores."
        )


def _last(scores: Iterable[Key]) -> dict[str, int]:
    """Return the last moment of each arm."""
    last: dict[str, int] = {}
    for key in scores:
        last[key.arm] = max(key.samples_seen, last.get(key.arm, 0))
    return last


def _csv(checked: Sequence[Checked]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Checked._fields)
    for c in checked:
        numbers = (c.published, c.recomputed, c.tolerance)
        writer.writerow([*c[:3], *(repr(float(n)) for n in numbers)])
    return out.getvalue().encode()


def check(report: Path, scores: dict[Key, list[Score]], *, resamples: int) -> Iterator[Checked]:
    """Yield every published number of a report beside the recomputed one.

    Args:
        report: Folder of the report.
        scores: Its rows.
        resamples: Draws of our own where the report's numbers were drawn at random.

    Raises:
        ArtifactError: A table speaks of rows that are not there, or leaves some out.
    """
    last = _last(scores)
    tables = {
        name: _read(report / "tables" / f"{name}.csv")
        for name in (
            "primary",
            "pairs",
            "grid",
            "sentences",
            "distances",
            "following",
            "checks",
            "changes",
            "curves",
        )
    }
    scores = {**scores, **changes_again(scores)}
    for name in ("grid", "sentences", "distances", "following", "checks", "changes", "pairs"):
        for record in tables[name]:
            yield from _check_record(name, record, scores, last)
    yield from _check_numbers(report, scores, last)
    yield from _check_seeds(_read(report / "tables" / "seeds.csv"), scores, last)
    yield from _check_holm(report, tables, scores, last)
    own = read_manifest(report).recipe["resamples"]
    yield from _check_primary(
        tables["primary"], scores, last, resamples=resamples, own_resamples=own
    )
    yield from _check_curves(tables["curves"], scores)
    yield from _check_summary(report, tables, scores, last)
    _refuse_unpublished(report, tables, scores)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []  # a study of two arms has no table of pairs, one snapshot no curves
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _key(record: dict[str, str], arm: str, samples_seen: int) -> Key:
    metric = record["metric"]
    return Key(metric, record["prompt_style"], record["scoring"], record["axis"], arm, samples_seen)


def _where(record: dict[str, str]) -> str:
    names = ("metric", "prompt_style", "scoring", "axis", "arm", "than", "samples_seen",
             "training_seed")  # fmt: skip
    return " ".join(f"{n}={record[n]}" for n in names if record.get(n))


def _numbers(
    table: str, record: dict[str, str], again: dict[str, float], *, loose: float = EXACT
) -> Iterator[Checked]:
    """Compare the columns that both have; an unbounded number is published as nothing."""
    for column, value in again.items():
        if column not in record:
            continue
        text = record[column]
        if text == "" or not np.isfinite(value):
            if text != "" or np.isfinite(value):
                yield Checked(table, _where(record), column, float(text or "nan"), value, 0.0)
            continue
        # Differences that are all alike leave a p that is rounding alone.
        tolerance = loose * abs(value) + 1e-12 if column == "p" else EXACT * max(abs(value), 1e-12)
        yield Checked(table, _where(record), column, float(text), float(value), tolerance)


def _check_record(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    arm, than = record["arm"], record.get("than") or ""
    one = _key(record, arm, last[arm])
    if than:
        comparison = compared(scores, one, _key(record, than, last[than]))
        again = {name: getattr(comparison, name) for name in COMPARED}
        yield from _numbers(table, record, again, loose=1e-6)
        return
    mean = mean_again(scores, one)
    again = {"mean": mean.mean, "low": mean.low, "high": mean.high, "num_prompts": mean.num_prompts}
    if arm.startswith("("):  # the number of prompts is that of the models' pictures
        del again["num_prompts"]
    yield from _numbers(table, record, again)


def _check_numbers(
    report: Path, scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what is told against numbers by which arms differ."""
    for path in sorted((report / "tables").glob("along-*.csv")):
        for record in _read(path):
            yield from _check_along(path.stem, _of_own_text(record), scores, last)
    for path in sorted((report / "tables").glob("pooled-*.csv")):
        for record in _read(path):
            yield from _check_pooled(path.stem, record, scores, last)


def _check_along(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute a mean once more, and its interval with training seeds where one is told."""
    yield from _check_record(table, record, scores, last)
    low, high = own_interval(scores, _key(record, record["arm"], last[record["arm"]]))
    if record.get("with_seeds_low"):
        yield from _numbers(table, record, {"with_seeds_low": low, "with_seeds_high": high})


def _check_pooled(
    table: str, record: dict[str, str], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what arms that share a number are on average, or two such means differ."""
    means = [
        [mean_again(scores, _key(record, arm, last[arm])).mean for arm in record[column].split()]
        for column in ("arms", "than")
    ]
    mean, low, high = pooled_again(*(np.array(of) for of in means))
    where = record | {"arm": record["arms"]}
    yield from _numbers(table, where, {"mean": mean, "low": low, "high": high})


def _of_own_text(record: dict[str, str]) -> dict[str, str]:
    """Name the measure that is drawn against a number: all claims, or CLIP with the prompt."""
    is_clip = record["metric"] == "clip_similarity"
    return record | {"scoring": record["prompt_style"] if is_clip else "", "axis": ""}


def _check_seeds(
    records: list[dict[str, str]], scores: dict[Key, list[Score]], last: dict[str, int]
) -> Iterator[Checked]:
    """Compute once more what training seeds alone do."""
    for record in records:
        again = seeds_again(scores, _key(record, record["arm"], last[record["arm"]]))
        if record["training_seed"]:
            numbers = {"mean": again.means[int(record["training_seed"])]}
        else:
            numbers = {
                "deviation": again.deviation, "low": again.low, "high": again.high,
                "between_two": again.between_two, "pairs": again.num_pairs,
                "called_different": again.num_called_different,
            }  # fmt: skip
        yield from _numbers("seeds", record, numbers)


def _check_holm(
    report: Path,
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Correct all secondary comparisons together once more."""
    primary = tables["primary"][0] if tables["primary"] else None
    named = primary and (
        _key(primary, "", 0)[:4], primary["arm"], primary["than"]
    )  # fmt: skip
    records = [
        r | {"table": t}
        for t in ("grid", "sentences", "following", "checks", "changes", "pairs")
        for r in tables[t]
    ]
    families = {}
    for r in records:
        if r.get("than"):
            what = (_key(r, "", 0)[:4], r["arm"], r["than"])
            families[what] = compared(
                scores, _key(r, r["arm"], last[r["arm"]]), _key(r, r["than"], last[r["than"]])
            ).p
    own = families.pop(named, None) if named else None
    corrected = dict(zip(families, holm_again(list(families.values())), strict=True))
    if own is not None and named:
        corrected[named] = own
    for r in records:
        if r.get("than"):
            p = corrected[_key(r, "", 0)[:4], r["arm"], r["than"]]
            yield Checked(r["table"], _where(r), "p_holm", float(r["p_holm"]), p, 1e-6 * p + 1e-10)
            if r["verdict"] != "withheld":
                sign = np.sign(float(r["difference"])) if p < 0.05 else 0.0
                said = {"better": 1.0, "worse": -1.0}.get(r["verdict"], 0.0)
                yield Checked(r["table"], _where(r), "verdict", said, float(sign), 0.0)
    counted = read_manifest(report).counts["secondary_comparisons"]
    yield Checked("manifest", "counts", "secondary_comparisons", counted, len(families), 0)


def _check_primary(
    records: list[dict[str, str]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
    *,
    resamples: int,
    own_resamples: int,
) -> Iterator[Checked]:
    noise = float(np.sqrt(1 / resamples + 1 / own_resamples))
    for record in records:
        one, other = (_key(record, record[n], last[record[n]]) for n in ("arm", "than"))
        c = compared(scores, one, other)
        if record["training_seed"]:
            again = {"difference": c.by_seed[int(record["training_seed"])]}
            yield from _numbers("primary", record, again)
            continue
        yield from _numbers(
            "primary", record, {name: getattr(c, name) for name in COMPARED}, loose=1e-6
        )
        if record["bootstrap_low"]:
            low, high = c.bootstrap(resamples)
            # Drawn at random on both sides. The 2.5% quantile of R draws has a standard error of
            # 1.37 half-widths / sqrt(R); five of them.
            stray = 6.9 * (c.high - c.low) / 2 * noise + 1e-12
            for name, end in (("bootstrap_low", low), ("bootstrap_high", high)):
                yield Checked("primary", _where(record), name, float(record[name]), end, stray)
        if record["p_sign_flip"]:
            p, q = float(record["p_sign_flip"]), c.sign_flip(resamples)
            # p counts the observed pattern as one of the draws, so it ends at 1 / (R + 1).
            stray = 5 * np.sqrt(max(p, q) * (1 - q)) * noise + noise**2
            yield Checked("primary", _where(record), "p_sign_flip", p, q, float(stray))
        if record.get("p_seed_flip") and c.num_training_seeds <= MOST_SEEDS:
            p = float(record["p_seed_flip"])
            yield Checked("primary", _where(record), "p_seed_flip", p, c.seed_flip(), 1e-12)


def _check_curves(
    records: list[dict[str, str]], scores: dict[Key, list[Score]]
) -> Iterator[Checked]:
    for record in records:
        key = _key(record, record["arm"], int(record["samples_seen"]))
        kept = curve_rows(scores, key)
        if record["training_seed"]:
            seed = int(record["training_seed"])
            values = [s.value for s in kept[key] if s.model_seed == seed]
            yield from _numbers("curves", record, {"mean": float(np.mean(values))})
            continue
        mean = mean_again(kept, key)
        again = {"mean": mean.mean, "low": mean.low, "high": mean.high}
        yield from _numbers("curves", record, again | {"num_prompts": mean.num_prompts})


def _check_summary(
    report: Path,
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Compare the headline's numbers and the means, as far as they are printed."""
    text = (report / "summary.txt").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    first, *blocks = text.split("\n\n")
    said = re.findall(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", " ".join(first.split()))
    tests = [r for r in tables["primary"] if not r["training_seed"]]
    if not tests:
        yield from _check_seed_headline(said, report, scores, last)
    if tests and tests[0]["verdict"] != "withheld":
        found = [
            compared(scores, *(_key(r, r[n], last[r[n]]) for n in ("arm", "than"))) for r in tests
        ]
        expected = []
        for record, c in zip(tests, found, strict=True):
            ends = [c.difference, *c.deciding]
            if c.deciding[1] < 0:  # "worse by": told the other way round
                ends = [-c.difference, -c.deciding[1], -c.deciding[0]]
            if np.isfinite(c.deciding[0]):  # without an interval the sentence says why
                expected.append((_where(record), ends))
            for arm in (record["arm"], record["than"]) if BEYOND in record["prompt_style"] else ():
                key = _key(record, arm, last[arm])
                own = [mean_again(scores, key).mean, *own_interval(scores, key)]
                expected.append((f"{_where(record)}, {arm} itself", own))
        for (where, ends), printed in zip(expected, said, strict=True):
            yield from _printed("headline", where, printed, ends)
    for block in blocks:
        head, *lines = block.splitlines()
        if not lines or "  " not in head.strip():
            continue
        title, *arms = re.split(r"\s{2,}", head)
        for line in lines:
            label, *cells = re.split(r"\s{2,}", line.strip())
            yield from _check_means(title, label, dict(zip(arms, cells, strict=True)), tables,
                                    scores, last)  # fmt: skip


def _check_seed_headline(
    said: list[tuple[str, str, str]],
    report: Path,
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Compare the sentence of a report in which no arms are compared."""
    for record in _read(report / "tables" / "seeds.csv"):
        if said and not record["training_seed"]:
            again = seeds_again(scores, _key(record, record["arm"], last[record["arm"]]))
            ends = [again.deviation, again.low, again.high]
            yield from _printed("headline", _where(record), said[0], ends)
            return


AXES = {name: axis for axis, name in AXIS_NAMES.items()}
"""Axes by the names that the summary gives them."""


def _check_means(
    title: str,
    label: str,
    cells: dict[str, str],
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    for arm, cell in cells.items():
        if title.startswith("by axis, "):
            style = title.removeprefix("by axis, ").split(" prompts")[0]
            key = Key("claims_held", style, "", AXES.get(label, label), arm, last[arm])
        elif (metric := title.split(":")[0]) in JUDGED:
            key = Key(metric, label.removesuffix(" prompts"), "", "", arm, last[arm])
        elif title.startswith("claims"):
            key = Key("claims_held", label.removesuffix(" prompts"), "", "", arm, last[arm])
        else:
            style = label.removesuffix(" prompts")
            key = Key("clip_similarity", style, style, "", arm, last[arm])
        mean = mean_again(scores, key)
        printed = re.findall(r"-?\d[\d.]*", cell.split("(")[0])
        half = (mean.high - mean.low) / 2
        yield from _printed("summary", f"{title}, {label}, {arm}", printed, [mean.mean, half])


def _printed(table: str, where: str, printed: Any, again: list[float]) -> Iterator[Checked]:
    """Compare numbers that were rounded to the digits that they are printed with."""
    for i, (text, value) in enumerate(zip(printed, again, strict=False)):
        digits = len(text.partition(".")[2])
        half_a_digit = 0.5 * 10**-digits * (1 + 1e-6) + 1e-9
        column = ("estimate", "low", "high")[i] if table == "headline" else ("mean", "half")[i]
        yield Checked(table, where, column, float(text), float(value), half_a_digit)


def _refuse_unpublished(
    report: Path, tables: dict[str, list[dict[str, str]]], scores: dict[Key, list[Score]]
) -> None:
    """Refuse a report whose own rows hold an arm or a measure that its tables leave out."""
    if not (report / ROWS).is_file():
        return
    told = {
        (*_key(r, "", 0)[:4], r["arm"])
        for name in ("grid", "sentences", "following", "checks")
        for r in tables[name]
        if not r["than"]
    }
    kept = {
        (*k[:4], k.arm) for k in scores if k.metric != "clip_distance" and BEYOND not in k.style
    }
    if kept != told:
        first = min(kept ^ told)
        raise ArtifactError(
            f"{report}: rows and tables do not speak of the same: {first} is in only one of them. "
            "Make the report again from its scores."
        )
