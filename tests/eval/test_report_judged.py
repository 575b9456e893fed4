"""What judges answered, in the report: compared like other scores, escaped, and recomputed."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import artifacts
from eval.config import PrimaryConfig, RecomputeConfig, ReportConfig
from eval.judge_artifact import write_answers
from eval.recompute import recompute
from eval.report import report
from launch.errors import ArtifactError, InputError
from launch.manifest import Manifest, read_manifest
from launch.run import Run
from t2i.artifacts import open_generations

sys.path.insert(0, str(Path(__file__).parent))
from made_up import SCRIPT, Reader, Study, build, finish

PRIMARY = PrimaryConfig(better="dsc", than="real", style="human", metric="questions_yes")
STUDY = Study(moments=(300,), pairs=12, primary=PRIMARY)
LEVELS = {"real": 0.3, "ssc": 0.5, "dsc": 0.8}
KINDS = (None, "entity", "attribute")


def make_judged(
    folder: Path, cfg: ReportConfig, metrics: tuple[str, ...], *, leave_out: str | None = None
) -> Manifest:
    """Write scores by questions as `eval judge` does: of the last pictures, with their answers."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    opened = [open_generations(path) for path in cfg.generations]
    for made in opened:
        for g in made.table.to_pylist():
            about = {
                "generation_id": g["generation_id"], "arm": made.arm, "model_seed": 0,
                "seed": g["seed"], "samples_seen": g["samples_seen"], "pair_id": g["pair_id"],
                "prompt_id": g["prompt_id"], "prompt_style": g["style"],
            }  # fmt: skip
            for metric in metrics:
                for axis in KINDS if metric == "questions_yes" else (None,):
                    value = float(np.clip(LEVELS[made.arm] + rng.normal(0, 0.1), 0, 1))
                    more = {"metric": metric, "scoring": None, "axis": axis, "value": value}
                    rows.append({**about, **more})
            said = rng.choice(["yes", "no", "neither"], p=[0.6, 0.3, 0.1])
            words = {"question": f"Is there {SCRIPT}?", "answer": f"{said} {SCRIPT}"}
            answers.append({**about, "number": 1, "kind": None, "verdict": said, **words})
    folder.mkdir()
    columns = {name: [row[name] for row in rows] for name in artifacts.SCORES_SCHEMA.names}
    artifacts.write_scores(folder / "scores.parquet", artifacts.scores_table(columns))
    write_answers(folder / "answers.parquet", answers)
    inputs = [read_manifest(cfg.prompts)]
    inputs += [made.manifest for made in opened if made.arm != leave_out]
    scorer = {"model": f"seer {SCRIPT}", "temperature": 0.0, "instruction": "Say yes or no."}
    recipe = {"verb": "eval judge", "scorers": {"vlm": scorer}}
    return finish(folder, "scores", inputs=inputs, recipe=recipe)


def reported(out: Path, cfg: ReportConfig) -> Path:
    run = Run(out=out, verb="eval report", config=cfg)
    try:
        report(cfg, run)
    finally:
        run.close()
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ReportConfig:
    root = tmp_path_factory.mktemp("judged")
    cfg = build(root, STUDY)
    judged = make_judged(root / "judged", cfg, ("questions_yes", "questions_yes_ancestors"))
    whole = make_judged(root / "whole", cfg, ("judge_yes",))
    return replace(cfg, judged=[judged.folder, whole.folder])


@pytest.fixture(scope="module")
def page(study: ReportConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eval import report_figures

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_pairs", "draw_differences", "draw_axes", "draw_captions"):
            patch.setattr(report_figures, name, lambda *_, **__: None)
        patch.setattr(report_figures, "draw_curves", lambda *_, **__: [])
        return reported(tmp_path_factory.mktemp("page") / "report", study)


def records(page: Path, name: str) -> list[dict[str, str]]:
    with (page / f"tables/{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_may_name_a_judge_as_its_primary_metric(page: Path) -> None:
    summary = (page / "summary.txt").read_text()
    first = " ".join(summary.split("\n\n")[0].split())
    assert "dsc is better than real by " in first
    assert "percentage points in questions answered yes" in first
    assert "questions_yes: questions answered yes, gated by parents, %" in summary
    (test,) = [r for r in records(page, "primary") if not r["training_seed"]]
    assert (test["metric"], test["arm"], test["than"]) == ("questions_yes", "dsc", "real")


def test_judged_measures_have_means_and_differences_by_style_and_kind(page: Path) -> None:
    found = records(page, "checks")
    means = [r for r in found if not r["than"] and r["arm"] == "dsc"]
    assert {(r["metric"], r["axis"]) for r in means} == {
        ("questions_yes", ""), ("questions_yes", "entity"), ("questions_yes", "attribute"),
        ("questions_yes_ancestors", ""), ("judge_yes", ""),
    }  # fmt: skip
    assert all(70 < float(r["mean"]) < 90 for r in means)
    assert {r["prompt_style"] for r in means} == {"human", "dsc"}
    assert any(r["than"] and float(r["p_holm"]) < 0.05 for r in found)


def test_every_figure_of_judges_is_what_the_rows_say(page: Path, tmp_path: Path) -> None:
    cfg = RecomputeConfig(report=page, resamples=200)
    run = Run(out=tmp_path / "again", verb="eval recompute", config=cfg)
    recompute(cfg, run)
    run.close()
    checked = (tmp_path / "again/recomputed.csv").read_text()
    assert "questions_yes_ancestors" in checked
    assert "questions_yes: questions answered yes" in checked


def test_questions_answers_and_scorers_are_shown_and_escaped(page: Path) -> None:
    html = (page / "report.html").read_text()
    assert SCRIPT not in html
    assert any(f"Is there {SCRIPT}?" in text for text in Reader(html).text)
    assert f"seer {SCRIPT}".replace("<", "&lt;").replace(">", "&gt;") in html
    counts = records(page, "judge_answers")
    assert sum(int(r["answers"]) for r in counts) == 2 * 3 * 24
    assert sum(int(r["unclear_neither"] or 0) for r in counts) > 0
    assert all(
        int(r["answers"]) == int(r["yes"]) + int(r["no"]) + int(r["unclear_neither"] or 0)
        for r in counts
    )
    shown = records(page, "judge_examples")
    assert {r["verdict"] for r in shown} == {"yes", "no", "neither"}


def test_two_judges_of_one_metric_are_refused(study: ReportConfig, tmp_path: Path) -> None:
    twice = replace(study, judged=[study.judged[0], study.judged[0]])
    with pytest.raises(InputError, match="both have the metric questions_yes"):
        reported(tmp_path / "out", twice)


def test_a_judge_that_lacks_an_arm_is_refused(study: ReportConfig, tmp_path: Path) -> None:
    partial = make_judged(tmp_path / "partial", study, ("phrases_yes",), leave_out="ssc")
    with pytest.raises(ArtifactError, match="was not made with the generations of"):
        reported(tmp_path / "out", replace(study, judged=[partial.folder]))
