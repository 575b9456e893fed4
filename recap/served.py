"""Who answered: the models that a server named, noted question by question in a run folder.

One name may stand for two models, as when a server moves it to a new version between two days.
Notes outlive a kill, so that a run that was started again counts what the killed one was told, and
ends in the same recipe. They lie among what only unfinished work needs, and are read before the
folder is complete.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Final

from launch.manifest import SCRATCH
from recap.answers import SERVER_RULES, Answer

NOTES: Final = f"{SCRATCH}/served_by.jsonl"
"""The notes, in the run folder; one line an answer."""

NOT_TOLD: Final = "not told"
"""Stands for the model where a server names none."""


class Served:
    """Open notes of a run folder; a context manager.

    Args:
        out: The run folder; None notes nothing.
    """

    def __init__(self, out: Path | None) -> None:
        self._path = None if out is None else out / NOTES

    def __enter__(self) -> Served:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():  # a torn last line is what a killed process leaves
                os.truncate(self._path, self._path.read_bytes().rfind(b"\n") + 1)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            self._file.close()

    def note(self, answer: Answer) -> None:
        """Note who gave an answer; what the server failed for, nobody gave."""
        if self._path is None or answer.rule in SERVER_RULES:
            return
        line = {"key": answer.key, "model": answer.served_by or NOT_TOLD}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def served_by(out: Path) -> dict[str, int]:
    """Return how many questions of a run each model answered, before and after a kill."""
    path = out / NOTES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    notes = (json.loads(line) for line in lines)
    models = {note["key"]: note["model"] for note in notes}
    return dict(sorted(Counter(models.values()).items()))
