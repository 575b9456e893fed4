"""Workers that run steps side by side, with stages that a test writes.

Steps that must run at the same time meet at a FIFO: opening one blocks until the other side opens
it too, so nothing here waits for a time to pass.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.errors import InputError, StoppedError
from launch.plan import Instance
from launch.workers import predict, run_all

# One test below is about this alone.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

REPOSITORY = Path(__file__).parents[2]
TWO_PROCESSES = str(REPOSITORY / "launch/accelerate/cpu_2.yaml")

FAKE_STAGE = '''
"""A stage of one verb that does what a test asks of it."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from launch.errors import InputError, StoppedError
from launch.processes import rank, world_size
from launch.verbs import Verb, main


@dataclass(frozen=True, kw_only=True)
class DoConfig:
    """Do what a test asks."""

    needs: list[Path] = field(default_factory=list)
    """Folders that must be complete when the step begins."""

    pause_s: float = 0.0
    """Seconds of work."""

    opens: Path | None = None
    """FIFO at which this step waits for another, and which it holds open until it dies."""

    side: str = "w"
    """How it is opened: `r` or `w`."""

    waits: bool = False
    """Go on only after the death of the process met."""

    says: list[str] = field(default_factory=list)
    """Lines for standard output."""

    mutters: str = ""
    """Text for standard error, without an end of line."""

    ends: str = "complete"
    """How the step ends."""


HERE = Path(__file__).parent
SIDES = {"r": os.O_RDONLY, "w": os.O_WRONLY}


def do(cfg: DoConfig, run) -> None:
    run.out.mkdir(exist_ok=True)
    (run.out / f"process_{rank()}_of_{world_size()}").touch()
    (run.out / "pid").write_text(str(os.getpid()))
    (run.out / "stage").write_text(HERE.name)
    for folder in cfg.needs:
        if not (folder / "manifest.json").exists():
            raise StoppedError(f"{folder} is not complete")
    time.sleep(cfg.pause_s)
    if cfg.opens:
        held = os.open(cfg.opens, SIDES[cfg.side])  # never closed: the death of this process does
        if cfg.waits:
            assert os.read(held, 1) == b""
            time.sleep(0.2)  # until the study has heard of it too
    for line in cfg.says:
        print(line, flush=True)
    print(cfg.mutters, end="", file=sys.stderr, flush=True)
    match cfg.ends:
        case "complete":
            (run.out / "manifest.json").write_text("{}")
        case "nothing written":
            pass
        case "stopped":
            raise StoppedError("the loss is not finite")
        case "refused":
            raise InputError("no such folder")
        case "crashed":
            raise RuntimeError("a mistake of ours")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "never":
            signal.pause()


def give_up(*_) -> None:
    (HERE / "gave_up").touch()
    os._exit(9)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)  # a test that would hang fails instead
    verb = Verb("do", "__main__:DoConfig", "__main__:do", is_parallel=True)
    sys.exit(main("fake", [verb]))
'''

MakeStep = Callable[..., Instance]


@pytest.fixture
def make_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStep]:
    """Give a function that describes a step of a stage written for the test."""
    for stage in ("fakestage", "otherstage"):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "__init__.py").touch()
        (tmp_path / stage / "__main__.py").write_text(FAKE_STAGE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")

    def make(
        name: str,
        *,
        stage: str = "fakestage",
        reads: tuple[Instance, ...] = (),
        started_by: str = "",
        **settings: Any,
    ) -> Instance:
        folder = tmp_path / name
        given = [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
        return Instance(
            name=name,
            step=name,
            words=[stage, "do", "--out", str(folder), *given],
            folder=folder,
            reads=[r.folder for r in reads],
            cost_key="",
            minutes=0,
            gib=0,
            started_by=started_by,
        )

    yield make
    assert not list(tmp_path.glob("*/gave_up")), "a process was left to itself"


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Give a place at which two processes meet."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


class Study:
    """What a study sees of its workers."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.lines: list[tuple[str, str]] = []

    def run(
        self,
        *steps: Instance,
        num_workers: int = 1,
        minutes: dict[str, float] | None = None,
        finished: Callable[[Instance], None] = lambda step: None,
    ) -> None:
        def count(step: Instance) -> None:
            self.finished.append(step.name)
            finished(step)

        run_all(
            steps,
            num_workers=num_workers,
            minutes={s.name: 0.0 for s in steps} | (minutes or {}),
            finished=count,
            show=lambda name, line: self.lines.append((name, line)),
        )

    def said(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]


@pytest.fixture
def study() -> Iterator[Study]:
    yield Study()
    gc.collect()  # see `pytestmark`: what a worker left open is dropped here, not in another test


def pid(step: Instance) -> int:
    return int((step.folder / "pid").read_text())


def test_a_step_begins_only_after_all_that_it_reads_is_complete(
    make_step: MakeStep, study: Study
) -> None:
    first = make_step("first", pause_s=0.2)
    left, right = (make_step(n, reads=(first,), needs=[first.folder]) for n in ("left", "right"))
    last = make_step("last", reads=(left, right), needs=[left.folder, right.folder])
    study.run(first, left, right, last, num_workers=2)
    assert [study.finished[0], study.finished[-1]] == ["first", "last"]


def test_two_workers_run_two_steps_at_a_time(make_step: MakeStep, study: Study, fifo: Path) -> None:
    study.run(
        make_step("one", opens=fifo, side="w"),
        make_step("two", opens=fifo, side="r"),
        num_workers=2,
    )
    assert sorted(study.finished) == ["one", "two"]


def test_there_are_never_more_processes_than_workers(make_step: MakeStep, study: Study) -> None:
    steps = [make_step(f"s{n}") for n in range(5)]
    study.run(*steps, num_workers=2)
    assert len({pid(s) for s in steps}) <= 2


def test_a_worker_keeps_its_process_from_step_to_step(make_step: MakeStep, study: Study) -> None:
    steps = [make_step(f"s{n}") for n in range(3)]
    study.run(*steps)
    assert len({pid(s) for s in steps}) == 1


def test_an_idle_worker_makes_room_for_another_stage(make_step: MakeStep, study: Study) -> None:
    one = make_step("one")
    two = make_step("two", stage="otherstage", reads=(one,))
    study.run(one, two)
    assert [(s.folder / "stage").read_text() for s in (one, two)] == ["fakestage", "otherstage"]


def test_several_processes_do_a_step_together_and_the_next_step_follows(
    make_step: MakeStep, study: Study
) -> None:
    both = make_step("both", started_by=TWO_PROCESSES, says=["here"])
    study.run(both, make_step("next", reads=(both,), needs=[both.folder]))
    assert study.finished == ["both", "next"]
    assert sorted(f.name for f in both.folder.glob("process_*")) == [
        "process_0_of_2",
        "process_1_of_2",
    ]
    assert "here" in study.said("both")


def test_processes_that_fail_together_are_named_with_the_command_that_starts_them_again(
    make_step: MakeStep, study: Study
) -> None:
    with pytest.raises(StoppedError, match=r"^bad failed \(exit code 1\)") as stopped:
        study.run(make_step("bad", started_by=TWO_PROCESSES, ends="stopped"))
    assert f"accelerate.commands.launch --config_file {TWO_PROCESSES}" in str(stopped.value)
    assert "StoppedError: the loss is not finite" in study.said("bad")


def test_the_longest_chain_goes_first(make_step: MakeStep, study: Study) -> None:
    alone, head = make_step("alone"), make_step("head")
    tail = make_step("tail", reads=(head,))
    study.run(alone, head, tail, minutes={"alone": 2, "head": 1, "tail": 2})
    assert study.finished[0] == "head"


def test_no_process_is_left_when_all_is_done(make_step: MakeStep, study: Study) -> None:
    step = make_step("one")
    study.run(step)
    with pytest.raises(ProcessLookupError):
        os.kill(pid(step), 0)


def test_a_worker_closes_its_pipes(make_step: MakeStep, study: Study) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        study.run(make_step("one"))
        gc.collect()
    assert not [str(w.message) for w in warned]


@pytest.mark.parametrize(
    ("ends", "how"),
    [
        ("stopped", "exit code 1"),
        ("nothing written", "exit code 0"),
        ("crashed", "its process ended"),
        ("killed", "its process ended"),
    ],
)
def test_a_step_that_does_not_complete_is_named_with_how_it_ended(
    make_step: MakeStep, study: Study, ends: str, how: str
) -> None:
    with pytest.raises(StoppedError, match=rf"^bad failed \({how}\)"):
        study.run(make_step("bad", ends=ends))


def test_the_message_of_a_failed_step_gives_the_command_that_repeats_it(
    make_step: MakeStep, study: Study
) -> None:
    step = make_step("bad", ends="stopped")
    with pytest.raises(StoppedError) as stopped:
        study.run(step)
    assert shlex.split(str(stopped.value).splitlines()[-1]) == ["python", "-m", *step.words]


def test_what_a_failed_step_said_is_shown(make_step: MakeStep, study: Study) -> None:
    with pytest.raises(StoppedError):
        study.run(make_step("bad", ends="stopped"))
    assert study.said("bad")[-1] == "StoppedError: the loss is not finite"


def test_a_step_that_refuses_its_input_ends_the_study_as_an_input_error(
    make_step: MakeStep, study: Study
) -> None:
    with pytest.raises(InputError, match=r"^bad was refused"):
        study.run(make_step("bad", ends="refused"))


def test_a_stage_that_cannot_start_is_reported(make_step: MakeStep, study: Study) -> None:
    with pytest.raises(StoppedError, match="its process ended"):
        study.run(make_step("lost", stage="nostage"))


def test_nothing_is_begun_after_a_step_failed(make_step: MakeStep, study: Study) -> None:
    bad, later = make_step("bad", ends="stopped"), make_step("later")
    with pytest.raises(StoppedError):
        study.run(bad, later, minutes={"bad": 2, "later": 1})
    assert not later.folder.exists()


def test_a_failing_step_stops_those_that_run_beside_it(
    make_step: MakeStep, study: Study, fifo: Path
) -> None:
    beside = make_step("beside", opens=fifo, side="w", ends="never")
    bad = make_step("bad", opens=fifo, side="r", ends="stopped")
    with pytest.raises(StoppedError, match=r"^bad failed"):
        study.run(beside, bad, num_workers=2)
    with pytest.raises(ProcessLookupError):
        os.kill(pid(beside), 0)


def test_lines_carry_the_name_of_the_step_that_said_them(
    make_step: MakeStep, study: Study, fifo: Path
) -> None:
    names = ("one", "two")
    says = {name: [f"{name} {n}" for n in range(20)] for name in names}
    steps = [
        make_step(name, opens=fifo, side=side, says=says[name])
        for name, side in zip(names, "wr", strict=True)
    ]
    study.run(*steps, num_workers=2)
    assert {name: study.said(name) for name in names} == says


def test_a_step_may_end_in_the_middle_of_a_line(make_step: MakeStep, study: Study) -> None:
    study.run(make_step("one", mutters="a line without an end"))
    assert study.finished == ["one"]


def kill_and_wait(step: Instance) -> None:
    """Kill the process of a finished step and wait for its death, leaving its exit code."""
    os.kill(pid(step), signal.SIGKILL)
    os.waitid(os.P_PID, pid(step), os.WEXITED | os.WNOWAIT)


def test_a_process_that_died_between_its_steps_is_replaced(
    make_step: MakeStep, study: Study
) -> None:
    one = make_step("one")
    two = make_step("two", reads=(one,))

    def finished(step: Instance) -> None:
        if step is one:
            kill_and_wait(one)

    study.run(one, two, finished=finished)
    assert study.finished == ["one", "two"]


@pytest.mark.timeout(120)
def test_a_process_that_died_idle_gets_no_further_step(
    make_step: MakeStep, study: Study, fifo: Path
) -> None:
    dies = make_step("dies", opens=fifo, side="w")
    beside = make_step("beside", opens=fifo, side="r", waits=True)
    last = make_step("last", reads=(dies, beside))

    def finished(step: Instance) -> None:
        if step is dies:
            kill_and_wait(dies)

    study.run(dies, beside, last, num_workers=2, finished=finished)
    assert study.finished == ["dies", "beside", "last"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of a parent's death")
def test_a_killed_study_leaves_no_worker_behind(make_step: MakeStep, fifo: Path) -> None:
    step = make_step("one", opens=fifo, side="w", ends="never")
    code = (
        "from pathlib import Path\n"
        "from launch.plan import Instance\n"
        "from launch.workers import run_all\n"
        f"step = Instance(name='one', step='one', words={step.words}, folder=Path('{step.folder}'),"
        " reads=[], cost_key='', minutes=0, gib=0)\n"
        "run_all([step], num_workers=1, minutes={'one': 0}, finished=print, show=print)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent, fifo.open("rb") as held:
        parent.kill()
        assert held.read() == b""  # all who held the other side are dead


def test_the_prediction_plays_through_the_order(make_step: MakeStep) -> None:
    first = make_step("first")
    left, right = make_step("left", reads=(first,)), make_step("right", reads=(first,))
    last = make_step("last", reads=(left, right))
    minutes = {"first": 1.0, "left": 4.0, "right": 2.0, "last": 1.0}
    steps = [first, left, right, last]
    assert predict(steps, num_workers=1, minutes=minutes) == 8
    assert predict(steps, num_workers=2, minutes=minutes) == 6
    assert predict([], num_workers=2, minutes={}) == 0
