"""Questions that a picture of a prompt is asked, as prompts carry them. Free of torch.

A question is asked in vain where what it stands on is not there: of a picture without a dog, nobody
asks for the dog's colour. `depends_on` names those questions; only they gate it, not what they
depend on in turn, for lists exist in which questions depend on one another in a circle.

Source: Cho et al. 2023, arXiv:2310.18235, section 3 (Davidsonian scene graph).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple


class Question(NamedTuple):
    """One yes-or-no question; "yes" is what the prompt asks for."""

    id: int
    """Its number among the questions of its prompt."""

    question: str
    """What is asked."""

    depends_on: tuple[int, ...] = ()
    """Questions of the same prompt that must be answered "yes" for this one to count."""

    kind: str | None = None
    """What it is about, from broad to narrow: "entity - whole", "attribute - color"."""

    tuple: str | None = None
    """The statement that it asks for, as the list writes it."""


def to_json(questions: Iterable[Question]) -> str:
    """Write questions as compact JSON, leaving out what is not known."""
    rows = [
        {k: v for k, v in question._asdict().items() if v is not None} for question in questions
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> list[Question]:
    """Read questions written by `to_json`.

    Raises:
        ValueError: The text is not a JSON list of objects with the fields of a question.
    """
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"questions must be a JSON list of objects, got {text[:80]!r}")
    found = []
    for row in rows:
        if not {"id", "question"} <= row.keys() <= set(Question._fields):
            raise ValueError(f"a question has `id`, `question` and {Question._fields[2:]}: {row!r}")
        found.append(Question(**{**row, "depends_on": tuple(row.get("depends_on", ()))}))
    return found
