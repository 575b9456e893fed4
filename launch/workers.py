"""Stage processes that run a study's steps side by side, and what a person sees of them.

A worker is one process of one stage. It takes one step at a time and keeps its imports between
steps, because importing torch and diffusers takes longer than a small step. Several one-threaded
workers get more out of a machine than one worker with several threads: models of this size spend
their time waiting for each other's threads.

A step that several processes do together (`started_by`) has a launcher for a worker, which ends
with its step.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, NamedTuple

from launch import manifest as manifests
from launch.errors import InputError, StoppedError
from launch.plan import Instance
from launch.processes import end_with_parent
from launch.verbs import ANSWER


class Line(NamedTuple):
    """Something a worker said; None when its process has ended."""

    worker: Worker
    text: str | None


class Worker:
    """One process of one stage, or the launcher of several for one step."""

    def __init__(self, step: Instance, said: queue.Queue[Line]) -> None:
        self.stage = None if step.started_by else step.words[0]
        self.step: Instance | None = None
        self._process = subprocess.Popen(
            [sys.executable, *_command(step)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=end_with_parent,  # no orphan is to keep a lock
        )
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, said))
        self._listener.daemon = True
        self._listener.start()

    @property
    def has_ended(self) -> bool:
        """True once the system tells of the process's end, which may be after its last line."""
        return self._process.poll() is not None

    def _listen(self, stdout: IO[str], said: queue.Queue[Line]) -> None:
        try:
            with stdout:
                for text in stdout:
                    said.put(Line(self, text.rstrip("\n")))
        finally:
            if self.stage is None:  # a launcher's end is its step's
                said.put(Line(self, f"{ANSWER}{self._process.wait()}"))
            said.put(Line(self, None))

    def begin(self, step: Instance) -> None:
        """Start a step; its answer arrives as a line."""
        self.step = step
        if self.stage is None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(step.words[1:]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; what is still to be heard from it says so

    def close(self) -> None:
        """Let an idle process end; stop a busy one, which resumes when it is started again."""
        if self.step is not None:
            self._process.terminate()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended already
            self._process.stdin.close()
        self._process.wait()
        self._listener.join()


def run_all(
    steps: Sequence[Instance],
    *,
    num_workers: int,
    minutes: Mapping[str, float],
    finished: Callable[[Instance], None],
    show: Callable[[str, str], None],
) -> None:
    """Run steps side by side, each after what it reads, the longest chains first.

    Args:
        steps: What is to be done; what they read besides each other is complete.
        num_workers: Steps at a time.
        minutes: Predicted time by name, for the order alone.
        finished: Called after each step.
        show: Called with a step's name and each line that it says.

    Raises:
        StoppedError: A step failed; the others are stopped and resume next time.
    """
    said: queue.Queue[Line] = queue.Queue()
    waiting = {step.folder: step for step in steps}
    urgency = _urgency(list(waiting.values()), minutes)
    workers: list[Worker] = []
    try:
        while waiting or any(w.step for w in workers):
            busy = {w.step.folder for w in workers if w.step}
            for step in _ready(waiting, busy, urgency):
                worker = _free_worker(workers, step, num_workers, said)
                if worker is None:
                    break
                del waiting[step.folder]
                worker.begin(step)
            worker, text = said.get()
            step_said = worker.step
            if text is None and step_said is None:
                _drop(worker, workers)  # it died idle; the next step gets another process
                continue
            if step_said is None:
                continue
            if text is None:
                worker.step = None
                raise _failed(step_said, "its process ended")
            # What a step says last may lack its end of line.
            text, is_answer, code_text = text.partition(ANSWER)
            if text or not is_answer:
                show(step_said.name, text)
            if not is_answer:
                continue
            worker.step = None
            code = int(code_text)
            if code == InputError.exit_code:
                raise InputError(f"{step_said.name} was refused; its message stands above.")
            if code or not manifests.is_complete(step_said.folder):
                raise _failed(step_said, f"exit code {code}")
            finished(step_said)
    finally:
        for worker in workers:
            worker.close()


def predict(steps: Sequence[Instance], *, num_workers: int, minutes: Mapping[str, float]) -> float:
    """Return how long `run_all` takes, by playing through its order with predicted times."""
    waiting = {step.folder: step for step in steps}
    urgency = _urgency(list(waiting.values()), minutes)
    running: list[tuple[float, Path]] = []
    clock = 0.0
    while waiting or running:
        for step in _ready(waiting, {folder for _, folder in running}, urgency):
            if len(running) < num_workers:
                del waiting[step.folder]
                heapq.heappush(running, (clock + minutes[step.name], step.folder))
        clock, _ = heapq.heappop(running)
    return clock


def _ready(
    waiting: Mapping[Path, Instance], busy: Set[Path], urgency: Mapping[Path, float]
) -> list[Instance]:
    """Return the steps whose inputs are complete, the most urgent first."""
    missing = waiting.keys() | busy
    ready = [step for step in waiting.values() if not (set(step.reads) & missing)]
    return sorted(ready, key=lambda step: -urgency[step.folder])


def _free_worker(
    workers: list[Worker], step: Instance, num_workers: int, said: queue.Queue[Line]
) -> Worker | None:
    """Return an idle worker for a step, making room for it if need be; None if all are busy."""
    for worker in [w for w in workers if w.step is None and w.has_ended]:
        _drop(worker, workers)
    idle = [w for w in workers if w.step is None]
    for worker in idle:
        if worker.stage == step.words[0] and not step.started_by:
            return worker
    if len(workers) >= num_workers:
        if not idle:
            return None
        _drop(idle[0], workers)
    workers.append(Worker(step, said))
    return workers[-1]


def _command(step: Instance) -> list[str]:
    """Return what Python is told: to do one step after another, or to start processes for one."""
    if not step.started_by:
        return ["-m", step.words[0], "sequence"]
    return ["-m", *launching(step.started_by), "-m", *step.words]


def launching(started_by: str) -> list[str]:
    """Return the words of `python -m` by which a recipe of accelerate starts processes."""
    # Port 0: two launchers on one machine do not meet.
    port = ["--main_process_port", "0"]
    return ["accelerate.commands.launch", "--config_file", started_by, *port]


def _drop(worker: Worker, workers: list[Worker]) -> None:
    worker.close()
    if worker in workers:
        workers.remove(worker)


def _urgency(steps: Sequence[Instance], minutes: Mapping[str, float]) -> dict[Path, float]:
    """Return the predicted time from the start of each step to the end of the study."""
    found: dict[Path, float] = {}
    for step in reversed(steps):  # a plan lists each step after what it reads
        after = [found[s.folder] for s in steps if step.folder in s.reads and s.folder in found]
        found[step.folder] = minutes[step.name] + max(after, default=0.0)
    return found


def _failed(step: Instance, how: str) -> StoppedError:
    import shlex

    words = [*launching(step.started_by), "-m", *step.words] if step.started_by else step.words
    return StoppedError(
        f"{step.name} failed ({how}); its message stands above. What was complete is kept, and the "
        f"same command goes on. To repeat this step alone:\n  python -m {shlex.join(words)}"
    )
