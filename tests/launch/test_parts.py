"""Parts of work: several processes, none twice, none lost when one is killed."""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import launch
from launch.errors import CaptionmixError, StoppedError
from launch.manifest import write_bytes
from launch.parts import map_parts, pending, take

ROOT = Path(launch.__file__).parents[1]
NAMES = [f"parts/part-{i:05d}.txt" for i in range(4)]

WORKER = """
import sys
from pathlib import Path
from launch.manifest import write_bytes
from launch.parts import take

out, names, stops_at = Path(sys.argv[1]), sys.argv[3:], sys.argv[2]
for name in take(out, names):
    print(name, flush=True)
    if name == stops_at:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).with_suffix(".tmp").write_bytes(b"hal")
        sys.stdin.read()
    write_bytes(out / name, name.encode())
"""


class Counter:
    """What a progress bar must offer."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, num: int = 1) -> None:
        self.done += num


@contextmanager
def worker(out: Path, *, stops_at: str = "nowhere") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(out), stops_at, *NAMES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> list[str]:
    found, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return found.split()


def test_a_part_is_pending_until_its_final_file_exists(tmp_path: Path) -> None:
    write_bytes(tmp_path / NAMES[1], b"done")
    (tmp_path / "parts" / ".part-00000.txt.tmp").write_bytes(b"half")
    assert pending(tmp_path, NAMES) == [NAMES[0], NAMES[2], NAMES[3]]


def test_taking_gives_every_pending_part_once(tmp_path: Path) -> None:
    write_bytes(tmp_path / NAMES[1], b"done")
    taken = []
    for name in take(tmp_path, NAMES):
        taken.append(name)
        write_bytes(tmp_path / name, b"done")
    assert taken == [NAMES[0], NAMES[2], NAMES[3]]
    assert list(take(tmp_path, NAMES)) == []


def test_a_part_taken_and_not_written_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(CaptionmixError, match="its file is not there"):
        list(take(tmp_path, NAMES))


def test_an_error_in_the_work_lets_go_of_the_part(tmp_path: Path) -> None:
    def fail() -> None:
        for _ in take(tmp_path, NAMES):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert next(take(tmp_path, NAMES)) == NAMES[0]


def test_two_processes_share_the_parts_and_a_killed_one_loses_only_its_own(tmp_path: Path) -> None:
    with worker(tmp_path, stops_at=NAMES[0]) as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == NAMES[0]  # it now holds this part
        with worker(tmp_path) as second:
            assert lines(second) == NAMES[1:]
        assert pending(tmp_path, NAMES) == NAMES[:1]
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=60)
    with worker(tmp_path) as third:
        assert lines(third) == NAMES[:1]
    assert [(tmp_path / name).read_text() for name in NAMES] == NAMES


def test_a_part_left_by_a_process_that_died_meanwhile_is_taken_in_the_same_pass(
    tmp_path: Path,
) -> None:
    with worker(tmp_path, stops_at=NAMES[0]) as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == NAMES[0]
        taken = []
        for name in take(tmp_path, NAMES):
            taken.append(name)
            first.send_signal(signal.SIGKILL)
            first.wait(timeout=60)
            write_bytes(tmp_path / name, name.encode())
    assert taken == [*NAMES[1:], NAMES[0]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_keep_the_order_of_the_items(num_workers: int) -> None:
    counter = Counter()
    found = map_parts(math.factorial, range(9), num_workers=num_workers, progress=counter)
    assert found == [math.factorial(i) for i in range(9)]
    assert counter.done == 9


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_carried_and_names_its_part(num_workers: int) -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        map_parts(int, ["1", "x", "3"], num_workers=num_workers)
    assert caught.value.__notes__ == ["part 2 of 3: 'x'"]


def test_a_killed_worker_stops_the_work_with_a_reason() -> None:
    with pytest.raises(StoppedError, match="killed"):
        map_parts(os._exit, [9, 9, 9], num_workers=2)


def test_a_worker_computes_with_one_thread() -> None:
    assert map_parts(os.getenv, ["OMP_NUM_THREADS"] * 2, num_workers=2) == ["1", "1"]


def test_no_items_need_no_process() -> None:
    assert map_parts(operator.neg, [], num_workers=2) == []


def test_workers_end_when_their_parent_is_killed() -> None:
    # Each worker reports its process id and then waits for ever: only its parent's end can end it.
    script = (
        "import sys; from launch.parts import map_parts\n"
        "if __name__ == '__main__':\n"
        "    map_parts(exec, ['import os, time; print(os.getpid(), flush=True); time.sleep(600)'] * 2,"
        " num_workers=2)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        assert parent.stdout is not None
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        # The pipe closes when the last process that holds it has ended.
        assert parent.stdout.read() == ""
    assert len(set(workers)) == 2
