"""Every figure of a report is what its rows say, by formulas that know nothing of the report's."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval import answers_again
from eval.answers_again import Compared, scores_of
from eval.config import RecomputeConfig, ReportConfig
from eval.published import ROWS, read_rows, write_rows
from eval.recompute import Checked, _csv, check, recompute
from eval.summary import SUMMARY
from eval.two_way import two_way_p
from launch.errors import ArtifactError, ConfigError
from launch.manifest import read_manifest
from launch.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from made_up import CONTROL, Study, default_report, make_report


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportConfig]:
    return default_report(tmp_path_factory.getbasetemp())


def checked(report: Path) -> list[Checked]:
    return list(check(report, scores_of(read_rows(report / ROWS)), resamples=2000))


def wrong(report: Path) -> list[Checked]:
    return [c for c in checked(report) if not c.is_equal]


def test_every_figure_of_a_report_is_recomputed_from_its_rows(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    found = checked(folder)
    assert not [c for c in found if not c.is_equal]
    seen = Counter((c.table, c.column) for c in found)
    for name in ("grid", "distances", "following", "curves", "primary", "pairs"):
        with (folder / "tables" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        for column in ("mean", "difference", "low", "p", "p_holm", "smallest_detectable"):
            printed = sum(bool(r.get(column)) for r in rows)
            assert seen[name, column] == printed, (name, column)
    assert seen["headline", "estimate"] == 1
    # 3 arms and 2 ceilings: 2 styles over all axes, 3 axes of one style, 2 styles by CLIP
    assert seen["summary", "mean"] == 5 * (2 + 3 + 2)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "study",
    [
        Study(
            effects={"real": 0.0, "dsc": 0.2}, seeds=4, seed_spread=0.02, pairs=8, moments=(300,)
        ),
        replace(CONTROL, pairs=8),
        Study(effects={"real": 0.2, "dsc": 0.0}, seeds=2, pairs=8, moments=(100, 300)),
        Study(effects={"real": 0.0, "dsc": 0.0}, retrieval=0.03, pairs=8, moments=(300,)),
        Study(is_detected=True, pairs=12, moments=(300,)),
        Study(is_long=True, pairs=8, moments=(300,)),
        Study(is_alike=True, pairs=8, moments=(100, 300)),
        Study(is_alike=True, seeds=4, pairs=8, moments=(300,)),
    ],
    ids=[
        "four seeds",
        "control",
        "worse",
        "withheld",
        "detector",
        "sentences",
        "alike",
        "alike at four seeds",
    ],
)
def test_reports_of_every_outcome_are_recomputed(tmp_path: Path, study: Study) -> None:
    folder, _ = make_report(tmp_path, study)
    assert not wrong(folder)


@pytest.mark.parametrize("name", ["following", "grid", "distances", "primary", "curves", SUMMARY])
def test_a_figure_that_is_not_what_the_rows_say_is_found(
    default: tuple[Path, ReportConfig], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(default[0], tmp_path / "report")
    path = folder / (name if name == SUMMARY else f"tables/{name}.csv")
    lines = path.read_text().splitlines()
    if name == SUMMARY:
        at = next(i for i, line in enumerate(lines) if line.startswith("  human prompts"))
        old = lines[at].split()[2]
        lines[at] = lines[at].replace(old, f"{float(old) + 0.2:.1f}", 1)
    else:
        cells = lines[1].split(",")
        column = lines[0].split(",").index("difference" if name == "primary" else "mean")
        cells[column] = repr(float(cells[column]) * (1 + 1e-6))
        lines[1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    assert [c.table for c in wrong(folder)] == ["summary" if name == SUMMARY else name]


@pytest.mark.usefixtures("undrawn")
def test_the_verb_refuses_a_report_of_other_rows_and_names_the_number(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, replace(CONTROL, pairs=6))
    cfg = RecomputeConfig(report=folder, resamples=1000)
    run = Run(out=tmp_path / "again", verb="eval recompute", config=cfg)
    recompute(cfg, run)
    run.close()
    with (tmp_path / "again/recomputed.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert read_manifest(tmp_path / "again").counts["rows_out"] == len(table) > 50
    grid = [row for row in table if row["table"] == "grid" and row["column"] == "mean"]
    assert grid
    assert all(float(row["published"]) == pytest.approx(float(row["recomputed"])) for row in grid)
    rows = read_rows(folder / ROWS)
    values = rows["value"].to_numpy().copy()
    values[0] += 0.01
    at = rows.schema.get_field_index("value")
    write_rows(tmp_path / ROWS, rows.set_column(at, "value", pa.array(values)))
    others = replace(cfg, rows=tmp_path / ROWS)
    run = Run(out=tmp_path / "other", verb="eval recompute", config=others)
    with pytest.raises(ArtifactError, match="published numbers are not what the rows say, first"):
        recompute(others, run)
    run.close()
    assert not (tmp_path / "other/manifest.json").exists()
    (folder / ROWS).unlink()
    with pytest.raises(ArtifactError, match="no such file; expected the rows"):
        recompute(cfg, Run(out=tmp_path / "third", verb="eval recompute", config=cfg))


@pytest.mark.parametrize("name", ["tables/grid.csv", SUMMARY, ROWS])
def test_a_file_that_is_not_the_one_its_manifest_names_is_refused_before_it_is_read(
    default: tuple[Path, ReportConfig], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(default[0], tmp_path / "report")
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    cfg = RecomputeConfig(report=folder)
    with pytest.raises(ArtifactError, match=rf"{name}: has changed \(digest .*Restore it"):
        recompute(cfg, Run(out=tmp_path / "again", verb="eval recompute", config=cfg))


def test_rows_of_changed_scores_are_refused(
    default: tuple[Path, ReportConfig], tmp_path: Path
) -> None:
    folder, made = default
    scores = shutil.copytree(made.scores, tmp_path / "scores")
    with (scores / "scores.parquet").open("ab") as file:
        file.write(b" ")
    cfg = RecomputeConfig(report=folder, rows=scores / "scores.parquet")
    with pytest.raises(ArtifactError, match=r"scores\.parquet: has changed"):
        recompute(cfg, Run(out=tmp_path / "again", verb="eval recompute", config=cfg))


def test_what_was_recomputed_is_written_so_that_it_can_be_read_again() -> None:
    awkward = Checked("grid", 'prompt_style=a "b", c', "mean", np.float64(1), 1.5, 0.0)
    (row,) = csv.DictReader(io.StringIO(_csv([awkward]).decode()))
    assert row["where"] == awkward.where
    assert (row["published"], row["recomputed"]) == ("1.0", "1.5")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("old", "new", "table"),
    [
        (r"dsc is better\s+than\s+real", "real is better than dsc", "headline"),
        (r"dsc is better\s+than\s+real by", "dsc and real are not distinguishable in", "headline"),
        (r"12 prompts", "13 prompts", "headline"),
        (r"interval\s+is\s+\[", "interval is [1", "caveats"),
        (r"\n\nclaims that hold.*?\n\n", "\n\n", "summary"),
    ],
)
def test_words_of_the_summary_that_rows_do_not_bear_out_are_found(
    tmp_path: Path, old: str, new: str, table: str
) -> None:
    study = Study(
        effects={"real": 0.0, "dsc": 0.3}, seeds=4, seed_spread=0.02, pairs=12, moments=(300,)
    )
    folder, _ = make_report(tmp_path, study)
    text = (folder / SUMMARY).read_text()
    changed, num = re.subn(old, new, text, count=1, flags=re.DOTALL)
    assert num == 1, text
    (folder / SUMMARY).write_text(changed)
    assert {c.table for c in wrong(folder)} == {table}


@pytest.mark.usefixtures("undrawn")
def test_a_verdict_a_column_and_a_table_that_are_missing_or_wrong_are_found(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, replace(CONTROL, pairs=8, moments=(100, 300)))
    primary = folder / "tables/primary.csv"
    text = primary.read_text()
    primary.write_text(text.replace(",better,", ",worse,"))
    assert ("primary", "verdict") in {(c.table, c.column) for c in wrong(folder)}
    primary.write_text(text.replace("smallest_detectable", "smallest"))
    with pytest.raises(ArtifactError, match=r"primary\.csv: has no column smallest_detectable"):
        wrong(folder)
    primary.write_text(text.replace("truth", "nobody"))
    with pytest.raises(ArtifactError, match=r"nobody.*of which the rows have nothing"):
        wrong(folder)
    primary.write_text(text)
    (folder / "tables/curves.csv").unlink()
    with pytest.raises(ArtifactError, match=r"curves\.csv: no such table"):
        wrong(folder)


@pytest.mark.usefixtures("undrawn")
def test_rows_that_no_table_tells_of_are_found(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, replace(CONTROL, pairs=6))
    path = folder / "tables/following.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "colour_size" not in line) + "\n")
    with pytest.raises(ArtifactError, match=r"colour_size.* is in only one of them"):
        wrong(folder)


def test_rows_of_scores_serve_as_well(default: tuple[Path, ReportConfig]) -> None:
    folder, cfg = default
    own = scores_of(read_rows(folder / ROWS))
    full = scores_of(read_rows(cfg.scores / "scores.parquet"))
    assert own.keys() <= full.keys()
    for key, rows in own.items():
        for a, b in zip(sorted(rows), sorted(full[key]), strict=True):
            assert a[:-1] == b[:-1]
            assert a.value == pytest.approx(b.value, rel=1e-12)


def test_rows_and_study_give_the_answer_without_a_report(
    default: tuple[Path, ReportConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, made = default
    study = {
        "name": made.study,
        "arms": dict.fromkeys(["real", "ssc", "dsc"]),
        "primary": {k: v for k, v in vars(made.primary).items() if v is not None},
        "steps": {"report": {"set": {"along": [{"title": "n", "arms": {"real": 0, "dsc": 1}}]}}},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    cfg = RecomputeConfig(rows=folder / ROWS, study=tmp_path / "study.yaml", resamples=500)
    recompute(cfg, Run(out=tmp_path / "again", verb="eval recompute", config=cfg))
    first = (folder / SUMMARY).read_text().split("\n\n")[0]
    assert first in capsys.readouterr().out
    study["primary"]["metric"] = "clip_similarity"
    study["steps"]["score"] = {"set": {"clip_model": "ViT-B-32", "clip_weights": "weights"}}
    (tmp_path / "public.yaml").write_text(json.dumps(study))
    public = replace(cfg, study=tmp_path / "public.yaml")
    recompute(public, Run(out=tmp_path / "public", verb="eval recompute", config=public))
    assert "was not checked on these pictures" in " ".join(capsys.readouterr().out.split())
    with (tmp_path / "again/recomputed.csv").open(newline="") as file:
        tables = {row["table"] for row in csv.DictReader(file)}
    assert {"primary", "headline", "along-0", "summary"} <= tables


def test_rows_without_their_study_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a report=FOLDER, or rows=FILE and study=FILE"):
        RecomputeConfig(rows=Path("rows.parquet"))


def test_recomputing_uses_nothing_of_what_made_the_report() -> None:
    source = Path(answers_again.__file__).read_text()
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else name.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert not imported & {"eval", "launch", "recap", "t2i"}


def test_arms_that_never_differ_have_a_p_of_one() -> None:
    nothing = np.zeros((4, 6))
    assert two_way_p(nothing) == 1.0
    assert Compared(matrix=nothing, seeds=(0, 1, 2, 3), num_pictures=24).p == 1.0
