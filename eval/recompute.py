"""`eval recompute`: every figure of a report once more, from its rows, by other formulas.

What a report prints of scores is computed here a second time: `eval/answers_again.py` has the
formulas, which import nothing of those that made the report, and this module knows the files.
Only the formulas are independent. Reading files, checking digests, the schema of the rows and the
names of axes are the same code as the report's, and a wrong score is wrong on both sides. Each
number of the report's tables and of its summary is compared, the verdicts and what is said beneath
the first sentence too, and the first that differs stops the command.

Not recomputed, because they are no function of score rows: distances between distributions (FID
and the like), people's votes, caption quality, the instrument's own quality, cost.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.answers_again import BEYOND, Key, Score, changes_again, scores_of
from eval.check_summary import check_summary
from eval.check_tables import (
    check_curves,
    check_holm,
    check_numbers,
    check_primary,
    check_record,
    check_seeds,
)
from eval.checked import EXACT, Checked, key_of, last_moments, read_table
from eval.config import RecomputeConfig
from eval.from_rows import answer_rows, write_answers
from eval.published import ROWS, read_rows
from eval.summary import SUMMARY
from launch.config import find_config, load_tree
from launch.errors import ArtifactError
from launch.manifest import MANIFEST, digest_file, read_manifest, refuse_changed_parts, write_bytes
from launch.run import Run

RECOMPUTED = "recomputed"
TABLE = "recomputed.csv"


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
    last = last_moments(scores)
    scores |= changes_again(scores)
    primary = read_table(run.out / "tables/primary.csv")
    checked = list(
        check_primary(
            primary, scores, last, resamples=cfg.resamples, own_resamples=cfg.resamples
        )
    )  # fmt: skip
    checked += check_seeds(read_table(run.out / "tables/seeds.csv"), scores, last)
    checked += check_numbers(run.out, scores, last)
    checked += check_summary(run.out, {"primary": primary}, scores, last)
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
        ArtifactError: A table speaks of rows that are not there, or leaves some out, or is not
            there itself.
    """
    try:
        yield from _checked(report, scores, resamples=resamples)
    except KeyError as error:
        raise ArtifactError(
            f"{report}: a table speaks of {error.args[0]}, of which the rows have nothing. Make "
            "the report again from its scores."
        ) from error


def _checked(report: Path, scores: dict[Key, list[Score]], *, resamples: int) -> Iterator[Checked]:
    last = last_moments(scores)
    _refuse_missing_tables(report, scores)
    tables = {
        name: read_table(report / "tables" / f"{name}.csv")
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
            yield from check_record(name, record, scores, last)
    yield from check_numbers(report, scores, last)
    yield from check_seeds(read_table(report / "tables" / "seeds.csv"), scores, last)
    yield from check_holm(report, tables, scores, last)
    own = read_manifest(report).recipe["resamples"]
    yield from check_primary(
        tables["primary"], scores, last, resamples=resamples, own_resamples=own
    )
    yield from check_curves(tables["curves"], scores)
    yield from check_summary(report, tables, scores, last)
    _refuse_unpublished(report, tables, scores)


def _refuse_missing_tables(report: Path, scores: dict[Key, list[Score]]) -> None:
    """Refuse a report without a table that its rows and settings ask for."""
    config = read_manifest(report).config
    arms = {key.arm for key in scores if not key.arm.startswith("(")}
    moments = {(key.arm, key.samples_seen) for key in scores if key.arm in arms}
    wanted = [f"along-{place}" for place in range(len(config.get("along") or []))]
    wanted += ["following"] * any(key.metric == "claims_held" for key in scores)
    wanted += ["pairs"] * (len(arms) > 2)
    wanted += ["curves"] * (len(moments) > len(arms))
    wanted += ["primary"] * (config["primary"]["better"] != config["primary"]["than"])
    for name in wanted:
        path = report / "tables" / f"{name}.csv"
        if not path.is_file():
            raise ArtifactError(
                f"{path}: no such table; these rows ask for it. Make the report again from its "
                "scores."
            )


def _refuse_unpublished(
    report: Path, tables: dict[str, list[dict[str, str]]], scores: dict[Key, list[Score]]
) -> None:
    """Refuse a report whose own rows hold an arm or a measure that its tables leave out."""
    if not (report / ROWS).is_file():
        return
    told = {
        (*key_of(r, "", 0)[:4], r["arm"])
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
