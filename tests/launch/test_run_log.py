"""Time is added over the sittings of a run, and prices of studies rest on all of them."""

from __future__ import annotations

import json
from pathlib import Path

from launch.manifest import RUN_LOG
from launch.run_log import read_log
from launch.study import _past_costs


def write_log(path: Path, *events: dict[str, object], torn: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + torn)
    return path


KILLED = [
    {"time": 100.0, "event": "started", "host": "a", "cpus": 2},
    {"time": 340.0, "event": "step"},
]
FINISHED = [
    {"time": 1000.0, "event": "started", "host": "b", "cpus": 4},
    {"time": 1060.0, "event": "finished", "seconds": 61.0, "bytes": 2**30, "peak_gib": 0.5},
]


def test_a_run_that_was_killed_took_the_time_of_both_sittings(tmp_path: Path) -> None:
    found = read_log(write_log(tmp_path / "log", *KILLED, *FINISHED))
    assert (found.seconds, found.sessions) == (240.0 + 61.0, 2)
    assert (found.host, found.cpus, found.peak_gib) == ("b", 4, 0.5)


def test_half_a_line_and_lines_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    odd = [3, {"event": "step"}, {"time": "soon", "event": "started"}]
    path = write_log(tmp_path / "log", *KILLED, *odd, torn='{"time": 5')  # type: ignore[arg-type]
    assert read_log(path).seconds == 240.0
    assert read_log(path).num_bytes is None
    assert read_log(tmp_path / "absent").seconds is None


def test_a_study_is_priced_by_all_sittings_of_what_its_store_holds(tmp_path: Path) -> None:
    priced = {"event": "priced", "cost_key": "train"}
    write_log(tmp_path / "one" / RUN_LOG, *KILLED, *FINISHED, priced)
    write_log(tmp_path / "two" / RUN_LOG, *KILLED, {"event": "priced", "cost_key": "unfinished"})
    assert _past_costs(tmp_path) == {"train": (301 / 60, 1.0)}
