"""What a folder's log tells of the work in it: time over all sittings, memory, where, its price.

A run that was killed and resumed has several sittings, each from a `started` line to the last line
before the next. What a killed sitting did after its last line is not known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Work:
    """All sittings of one folder."""

    seconds: float | None = None
    """Seconds of work over every sitting; None where nothing tells."""

    sessions: int = 0
    """Sittings."""

    peak_gib: float | None = None
    host: str = ""
    cpus: int | None = None

    num_bytes: int | None = None
    """Bytes that the last sitting left, logs not included; None unless it finished."""

    cost_key: str | None = None
    """What a study noted, to price further runs by."""


def read_log(path: Path) -> Work:
    """Add up the sittings of a log; one that is not there tells nothing."""
    seconds, sessions = 0.0, 0
    peak = cpus = num_bytes = cost_key = None
    host = ""
    began = last = told = None
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a killed process may leave half a line
        if not isinstance(event, dict):
            continue
        if event.get("event") == "priced":
            cost_key = event.get("cost_key")
            continue
        time = event.get("time")
        if not isinstance(time, int | float):
            continue
        if event.get("event") == "started":
            seconds += last - began if began is not None and last is not None else 0.0
            began, sessions = time, sessions + 1
            host, cpus = str(event.get("host", host)), event.get("cpus", cpus)
        elif event.get("event") == "finished":
            told, num_bytes = event.get("seconds"), event.get("bytes")
            peak = event.get("peak_gib", peak)
        last = time
    if began is not None and last is not None:
        seconds += max(last - began, float(told or 0.0))
    elif told is not None:
        seconds, sessions = float(told), 1
    return Work(
        seconds=seconds if sessions else None, sessions=sessions, peak_gib=peak, host=host,
        cpus=cpus, num_bytes=num_bytes, cost_key=cost_key,
    )  # fmt: skip
