"""`eval report`: one self-contained page that answers the study's question, its tables and figures.

Reads scores, generations, caption measurements and what stands behind them, and writes

* `report.html`: the page, which opens from disk and asks for nothing else,
* `tables/*.csv` at full precision, `figures/*.svg` and `*.png`,
* `rows.parquet`: the score rows that every figure rests on,
* `summary.txt`: the answer for a terminal.

Every number comes from `eval.report_answers`; this module decides what is said where. Tables,
figures, rows and summary depend on the inputs alone and are the digested payload. The page also
tells time and disk of every stage, which no two runs share, so page and `cost.csv` stand outside
the digest, as `run.log.jsonl` does.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from eval.config import ReportConfig
from eval.published import ROWS, published_rows, write_rows
from eval.report_answers import answer
from eval.report_headline import doubt, small_set
from eval.report_inputs import open_inputs, refuse_other_scores
from eval.report_page import drawings_of, make_page, render_page
from eval.report_rows import order_arms, primary_measure
from eval.report_sections import open_added
from eval.summary import PAGE, SUMMARY, summary_text
from launch.manifest import write_bytes
from launch.run import Run

REPORT = "report"

REPORT_VERSION = 1


def report(cfg: ReportConfig, run: Run) -> None:
    """Write the report of a study."""
    open_added(cfg, run)
    opened = open_inputs(cfg, run)
    listed = [g.arm for g in opened.generations]
    arms = order_arms(cfg.primary, listed)
    primary_measure(cfg.primary)
    refuse_other_scores(opened)
    plan = {
        "arms": ", ".join(arms),
        "score rows": opened.scores.table.num_rows,
        "artifacts behind it": len(opened.stages),
        "resamples": cfg.resamples,
    }
    if not run.start(plan, minutes=0.5, gib=0.02):
        return

    answers = answer(
        opened.table,
        arms=arms,
        primary=cfg.primary,
        axes=[axis for axis, is_read in opened.axes.items() if is_read],
        is_control=cfg.control,
        # A public CLIP is not measured here, and the first sentence says so.
        withheld=None if opened.judge is None else doubt(opened.judge.quality),
        is_public_clip=opened.is_public_clip,
        changes=cfg.changes,
        resamples=cfg.resamples,
        seed=cfg.seed,
    )
    num_prompts = answers.grid[0].num_prompts if answers.grid else 0
    few = small_set(opened.images.split.count("train"), num_prompts=num_prompts)
    answers = replace(answers, caveats=answers.caveats + few)
    for stale in ("tables", "figures"):  # of a run that was stopped half-way
        shutil.rmtree(run.out / stale, ignore_errors=True)
    page = make_page(opened, answers, cfg=cfg, folder=run.out)
    parts = [f"tables/{name}.csv" for name in page.tables]
    for name, table in page.tables.items():
        write_bytes(run.out / "tables" / f"{name}.csv", table.csv())
    for drawing in drawings_of(page):
        parts += drawing.files
    write_rows(run.out / ROWS, published_rows(opened.scores.table, answers.measures))
    write_bytes(run.out / SUMMARY, summary_text(answers, study=cfg.study).encode())
    write_bytes(run.out / PAGE, render_page(opened, answers, page, cfg=cfg, folder=run.out))
    run.finish(
        artifact=REPORT,
        version=REPORT_VERSION,
        counts={
            "arms": len(arms),
            "score_rows": opened.scores.table.num_rows,
            "secondary_comparisons": answers.num_secondary,
        },
        parts=[*parts, ROWS, SUMMARY],
    )
