"""Trackers mirror the numbers of the log, and nothing else depends on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class

from launch.errors import ConfigError, InputError
from launch.manifest import read_manifest
from launch.processes import accelerator
from launch.run import Run
from launch.trackers import FOLDER, mirrored_log, refuse_absent
from launch.verify import verify


class Lines(GeneralTracker):
    """A tracker that writes what it is told as JSON lines."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: Path) -> None:
        super().__init__()
        self.path = Path(logging_dir) / f"{run_name}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.path

    def start(self) -> None:
        self._write("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write("settings", **values)

    def log(self, values: dict[str, Any], step: int | None, **_: Any) -> None:
        self._write("log", step=step, **values)

    def finish(self) -> None:
        self._write("finish")

    def _write(self, what: str, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"what": what, **values}) + "\n")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training that does nothing."""

    NOT_IN_RECIPE: ClassVar = frozenset({"trackers"})

    data: Path = Path("somewhere/private")
    mix: dict[str, float] = field(default_factory=lambda: {"alt": 1.0})
    lr: float = 0.1
    trackers: list[str] = field(default_factory=list)


@pytest.fixture
def lines() -> Iterator[str]:
    """The name under which accelerate knows the tracker above."""
    register_tracker_class(Lines)
    yield Lines.name
    del LOGGER_TYPE_TO_CLASS[Lines.name]


def train(out: Path, trackers: list[str]) -> Path:
    refuse_absent(trackers)
    run = Run(out=out, verb="t2i train", config=Config(trackers=trackers))
    assert run.start({})
    made = accelerator(cpu=True, trackers=trackers, trackers_folder=out / FOLDER)
    log = mirrored_log(run, made)
    log("step", step=1, samples_seen=8, loss=0.5, note="warm")
    log("validation", step=2, samples_seen=16, loss=0.25, strata=[0.2, 0.3])
    (out / "weights").write_text("w")
    run.finish(artifact="captioner", counts={}, parts=["weights"])
    made.end_training()
    return out


def test_a_tracker_gets_the_numbers_of_the_log_over_samples_seen(
    lines: str, tmp_path: Path
) -> None:
    out = train(tmp_path / "run", [lines])
    told = [
        json.loads(line) for line in (out / FOLDER / "captionmix.jsonl").read_text().splitlines()
    ]
    assert [line["what"] for line in told] == ["start", "settings", "log", "log", "finish"]
    assert told[2] == {"what": "log", "step": 8, "step/loss": 0.5}
    assert told[3] == {"what": "log", "step": 16, "validation/loss": 0.25}
    assert (told[1]["lr"], told[1]["mix"]) == (0.1, '{"alt": 1.0}')
    assert "private" not in json.dumps(told)


def test_the_log_is_written_with_and_without_trackers(lines: str, tmp_path: Path) -> None:
    logs = []
    for name, trackers in (("with", [lines]), ("without", [])):
        out = train(tmp_path / name, trackers)
        found = map(json.loads, (out / "run.log.jsonl").read_text().splitlines())
        kept = [line for line in found if line["event"] in {"step", "validation"}]
        logs.append([{key: line[key] for key in line if key != "time"} for line in kept])
    assert logs[0] == logs[1]
    assert logs[0][0] == {
        "event": "step",
        "step": 1,
        "samples_seen": 8,
        "loss": 0.5,
        "note": "warm",
    }
    assert not (tmp_path / "without" / FOLDER).exists()


def test_trackers_lie_outside_the_payload(
    lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-someone")
    mirrored, plain = train(tmp_path / "with", [lines]), train(tmp_path / "without", [])
    assert read_manifest(mirrored).digest == read_manifest(plain).digest
    assert verify(mirrored) == 0
    for path in mirrored.rglob("*"):
        assert not path.is_file() or "a-secret-of-someone" not in path.read_text()


def test_a_finished_run_may_be_asked_for_with_other_trackers(lines: str, tmp_path: Path) -> None:
    out = train(tmp_path / "run", [])
    assert not Run(out=out, verb="t2i train", config=Config(trackers=[lines])).start({})


def test_an_unknown_tracker_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"trackers: 'tensorbored' is unknown; .* tensorboard"):
        refuse_absent(["tensorbored"])


def test_a_tracker_whose_package_is_absent_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(InputError, match="pip install comet-ml"):
        refuse_absent(["comet_ml"])
