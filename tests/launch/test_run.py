"""Runs and studies as real processes: resumed, refused, killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.config import load_tree
from launch.errors import ConfigError
from launch.manifest import Manifest, read_manifest, write_manifest
from launch.plan import make_plan

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent.parent}"}


def call(*words: str, module: str = "stage_for_tests") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words], capture_output=True, text=True, env=ENV
    )


def test_a_run_is_complete_once_and_then_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "n"
    assert call("count", "--out", str(out), "upto=3").returncode == 0
    before = (out / "manifest.json").read_bytes()
    again = call("count", "--out", str(out), "upto=3")
    assert again.returncode == 0
    assert "is complete" in again.stdout
    assert (out / "manifest.json").read_bytes() == before


def test_a_changed_key_stops_with_the_difference_shown(tmp_path: Path) -> None:
    out = tmp_path / "n"
    call("count", "--out", str(out), "upto=3")
    changed = call("count", "--out", str(out), "upto=4")
    assert changed.returncode == 2
    assert "recipe.upto: 3 -> 4" in changed.stderr


def test_processes_that_would_all_do_the_same_work_are_refused(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "stage_for_tests",
        "count",
        "--out",
        str(tmp_path / "n"),
        "upto=3",
    ]
    for rank in ("0", "1"):
        env = {**ENV, "RANK": rank, "WORLD_SIZE": "2"}
        refused = subprocess.run(words, capture_output=True, text=True, env=env)
        assert refused.returncode == 2
        assert "is done by one process, and 2 were started" in refused.stderr
    assert not (tmp_path / "n").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = call("count", "--out", str(tmp_path / "n"), "--dry-run", "upto=3")
    assert done.returncode == 0
    assert "numbers: 3" in done.stdout
    assert not (tmp_path / "n").exists()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused = call("count", "--out", str(tmp_path), "upto=3")
    assert refused.returncode == 2
    assert "did not begin" in refused.stderr


def test_a_second_process_in_one_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "n"
    words = [sys.executable, "-m", "stage_for_tests", "count", "--out", str(out), "upto=50"]
    with subprocess.Popen(words + ["pause_s=0.2"], env=ENV, stdout=subprocess.DEVNULL) as first:
        while not (out / "0.txt").exists():
            time.sleep(0.02)
        second = call("count", "--out", str(out), "upto=50", "pause_s=0.2")
        first.kill()
    assert second.returncode == 2
    assert "another process" in second.stderr


def test_help_names_every_key_and_loads_no_torch() -> None:
    shown = call("count", "--help").stdout
    assert "upto" in shown
    assert "Seconds before each number." in shown
    for stage in ("recap", "t2i", "eval"):
        code = (
            "import sys, runpy; sys.argv = ['x', '--help']\n"
            f"try: runpy.run_module('{stage}', run_name='__main__')\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV)
        assert done.returncode == 0, done.stderr


STUDY = """
name: counting
kinds: [alt, dsc]
arms:
  real: {caption_mix: {alt: 1.0}}
  dsc: {caption_mix: {dsc: 0.95, alt: 0.05}}
seeds: 2
steps:
  first:
    run: stage_for_tests count
    set: {upto: 2}
  work:
    run: stage_for_tests count
    foreach: [arm, seed]
    set: {upto: 3, pause_s: 0.05, reads: [<first>], caption_mix: <arm.caption_mix>, seed: <seed>}
  last:
    run: stage_for_tests count
    set: {upto: 1, reads: [<work.*>]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_a_study_refuses_processes_for_a_step_of_one_before_it_starts(
    study: Path, tmp_path: Path
) -> None:
    study.write_text(study.read_text().replace("  last:\n", "  last:\n    started_by: cpu_2\n"))
    words = ["study", "--config", str(study), "--out", str(tmp_path / "out")]
    refused = call(*words, module="launch")
    assert refused.returncode == 2
    assert "stage_for_tests count: is done by one process, and 2 were started" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_steps_repeat_for_each_arm_and_seed_and_name_their_inputs(study: Path) -> None:
    plan = make_plan(load_tree([study], []), store=Path("store"))
    assert [i.name for i in plan.instances] == [
        "first",
        *(f"work[{a},{s}]" for a in ("real", "dsc") for s in (0, 1)),
        "last",
    ]
    last = plan.instances[-1].words[-1]
    assert all(str(i.folder) in last for i in plan.instances[1:-1])


def test_what_studies_share_has_one_folder(study: Path) -> None:
    one = make_plan(load_tree([study], []), store=Path("s"))
    two = make_plan(load_tree([study], ["seeds=3", "name=other"]), store=Path("s"))
    shared = {i.folder for i in one.instances} & {i.folder for i in two.instances}
    assert len(shared) == len(one.instances) - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("arms.dsc.lr=2", "arms.dsc.lr"),
        ("arms.dsc.caption_mix={tags: 1.0}", "captions of kind alt, dsc"),
        ("steps.last.set.reads=[<nothing>]", "<nothing> is no step"),
        ("steps.first.set.reads=[<last>]", "circle"),
        ("steps.first.runs=x", "'runs'"),
        ("steps.work.foreach=[colour]", "'colour'"),
        ("seeds=four", "seeds must be a whole number"),
        ("jobs=0", "jobs must be a whole number"),
        ("primary={better: tags, than: real}", "'tags' is no arm"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_by_name(
    study: Path, change: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan(load_tree([study], [change]), store=Path("store"))


def test_wrong_settings_of_the_last_step_stop_a_study_before_its_first(
    study: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["study", "--config", str(study), "--out", str(out)]
    for change in ("arms.dsc.caption_mix={dsc: 0.5}", "steps.last.set.wrong=1"):
        refused = call(*words, change, module="launch")
        assert refused.returncode == 2, refused.stderr
        assert not out.exists()


def test_an_override_of_nothing_is_refused(study: Path, tmp_path: Path) -> None:
    for change in ("seed=4", "sizes.pictures=3", "steps.firts.set.upto=1"):
        words = ["study", "--config", str(study), "--out", str(tmp_path / "out"), change]
        refused = call(*words, module="launch")
        assert refused.returncode == 2, refused.stderr
        assert "has no `" in refused.stderr


def test_a_step_that_refuses_its_input_ends_the_study_with_its_exit_code(
    study: Path, tmp_path: Path
) -> None:
    words = ["study", "--config", str(study), "--out", str(tmp_path / "out")]
    refused = call(*words, "steps.first.set.reads=[nowhere]", module="launch")
    assert refused.returncode == 2, refused.stderr
    assert "nowhere" in refused.stdout


def rewritten(folder: Path, **changes: Any) -> Manifest:
    """Give a complete folder another manifest, as if it had been made otherwise."""
    changed = replace(read_manifest(folder), **changes)
    write_manifest(folder, changed)
    return changed


def test_a_complete_step_that_would_be_made_otherwise_now_stops_a_study(
    study: Path, tmp_path: Path
) -> None:
    words = ["study", "--config", str(study), "--out", str(tmp_path / "out"), "seeds=1"]
    assert call(*words, module="launch").returncode == 0
    first = (tmp_path / "out" / "first").resolve()
    whole = read_manifest(first)

    rewritten(first, recipe={**whole.recipe, "seed": 7})  # as by another default of the code
    refused = call(*words, module="launch")
    assert refused.returncode == 2
    assert "seed: 7 -> 0" in refused.stderr
    assert "Delete the folder" in refused.stderr

    rewritten(first, recipe=whole.recipe, counts={"rows_in": 3, "rows_out": 3})
    refused = call(*words, module="launch")
    assert refused.returncode == 2
    assert f"numbers {first}" in refused.stderr.replace(os.path.relpath(first), str(first))

    rewritten(first, counts=whole.counts)
    assert call(*words, module="launch").returncode == 0


def test_a_step_made_anew_with_another_outcome_stops_a_study_before_its_answer(
    study: Path, tmp_path: Path
) -> None:
    words = ["study", "--config", str(study), "--out", str(tmp_path / "out"), "seeds=1"]
    assert call(*words, module="launch").returncode == 0
    work = (tmp_path / "out" / "work-real-0").resolve()
    inputs = [replace(i, digest="0" * 32) for i in read_manifest(work).inputs]
    rewritten(work, inputs=inputs)  # as if `first` had been another when this was made
    shutil.rmtree((tmp_path / "out" / "first").resolve())
    refused = call(*words, module="launch")
    assert refused.returncode == 2
    assert "was made from other settings or inputs" in refused.stderr


def test_what_a_kill_left_in_a_complete_step_is_removed(study: Path, tmp_path: Path) -> None:
    words = ["study", "--config", str(study), "--out", str(tmp_path / "out"), "seeds=1"]
    assert call(*words, module="launch").returncode == 0
    left = (tmp_path / "out" / "first").resolve() / "scratch" / "checkpoints"
    left.mkdir(parents=True)
    assert call(*words, module="launch").returncode == 0
    assert not left.parent.exists()


def payload(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("manifest.json")):
        found[str(path.parent.relative_to(folder))] = json.loads(path.read_text())["digest"]
    return found


def test_a_study_killed_again_and_again_ends_as_one_that_was_not(
    study: Path, tmp_path: Path
) -> None:
    words = ["study", "--config", str(study), "--out"]
    done = call(*words, str(tmp_path / "calm"), module="launch")
    assert done.returncode == 0, done.stderr
    for wait in (0.4, 0.7, 1.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "launch", *words, str(tmp_path / "killed")],
            env=ENV,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.1)
    assert call(*words, str(tmp_path / "killed"), module="launch").returncode == 0
    assert payload(tmp_path / "killed") == payload(tmp_path / "calm")
    assert len(payload(tmp_path / "calm")) == 6
