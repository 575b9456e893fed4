"""Lists whose prompts come with questions: DSG-1k (one CSV) and DPG-Bench (a folder and a CSV).

Both CSVs have one row a question. `dependency` names the questions that must hold for this one to
be asked, 0 where there are none. In DSG-1k some cells hold other things; every such cell is named
in the notes, and its question is kept:

    malformed_dependency   not a list of numbers: the question is always asked
    own_dependency         the question's own number, which says nothing and is left out
    unknown_dependency     the number of no question of the prompt, which is left out

Source: Cho et al. 2023, arXiv:2310.18235; Hu et al. 2024, arXiv:2403.05135.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from launch.errors import InputError
from t2i.config import ListConfig
from t2i.lists.item import Item, Note, PromptList, complaint, read_text, text_files
from t2i.lists.tables import csv_rows
from t2i.questions import Question

MALFORMED, OWN, UNKNOWN = "malformed_dependency", "own_dependency", "unknown_dependency"
OTHER_TEXT = "other_text"
"""A prompt of DPG-Bench and its questions' CSV differ in more than blanks; the file is taken."""

_COLUMNS: Final = (
    "item_id", "text", "proposition_id", "dependency", "category_broad", "category_detailed",
    "tuple", "question_natural_language",
)  # fmt: skip
_NUMBERS: Final = re.compile(r"\s*\d+\s*(,\s*\d+\s*)*")


class Asked(NamedTuple):
    """A prompt as the CSV of questions has it."""

    text: str
    line: int
    questions: list[Question]
    notes: list[Note]


class _Row(NamedTuple):
    line: int
    id: int
    cells: dict[str, str]


def read_dsg(cfg: ListConfig) -> PromptList:
    """Read DSG-1k; the category is the source that a prompt was taken from."""
    asked = read_questions(cfg.path)
    items = [
        Item(
            key=key,
            prompt=found.text,
            line=found.line,
            category=re.sub(r"_\d+$", "", key),
            questions=found.questions,
        )
        for key, found in asked.items()
    ]
    notes = [note for found in asked.values() for note in found.notes]
    return PromptList(path=cfg.path, items=items, is_by_number=False, notes=notes)


def read_dpg(cfg: ListConfig) -> PromptList:
    """Read DPG-Bench: a text file for each prompt, named by its key, and questions if given.

    Raises:
        InputError: A prompt has no questions, or questions have no prompt.
    """
    texts = {path.stem: read_text(path).strip() for path in text_files(cfg.path)}
    if not texts:
        raise InputError(f"{cfg.path}: holds no .txt file; expected one for each prompt.")
    asked = {} if cfg.questions is None else read_questions(cfg.questions)
    if cfg.questions is not None and (alone := sorted(texts.keys() ^ asked.keys())):
        raise InputError(
            f"{cfg.path} and {cfg.questions}: {len(alone):,} keys are in one of them only, "
            f"{alone[0]!r} first; expected questions for every prompt and a prompt for all "
            "questions. Give the files of one version."
        )
    notes = []
    for key, found in asked.items():
        notes += found.notes
        if found.text.split() != texts[key].split():
            note = Note(key, 1, OTHER_TEXT, f"questions of: {found.text[:200]}", f"{key}.txt")
            notes.append(note)
    items = [
        Item(
            key=key,
            prompt=text,
            file=f"{key}.txt",
            line=1,
            questions=asked[key].questions if key in asked else None,
        )
        for key, text in texts.items()
    ]
    return PromptList(path=cfg.path, items=items, is_by_number=False, notes=notes)


def read_questions(path: Path) -> dict[str, Asked]:
    """Read a CSV of questions; prompts come in the order of their first row.

    Raises:
        InputError: A row lacks a key, number or question, or does not agree with another.
    """
    by_item: dict[str, list[_Row]] = {}
    for row in _rows(path):
        others = by_item.setdefault(row.cells["item_id"], [])
        if others and row.cells["text"] != others[0].cells["text"]:
            raise complaint(
                path,
                row.line,
                found=f"item {row.cells['item_id']!r} with another text than in line "
                f"{others[0].line}",
                expected="one text for all questions of an item",
            )
        if twice := [other for other in others if other.id == row.id]:
            raise complaint(
                path,
                row.line,
                found=f"item {row.cells['item_id']!r}, proposition {row.id}, which line "
                f"{twice[0].line} has too",
                expected="every proposition of an item once",
            )
        others.append(row)
    return {key: _asked(key, rows) for key, rows in by_item.items()}


def _rows(path: Path) -> Iterator[_Row]:
    for row in csv_rows(path):
        if row.values is None:
            continue  # a blank line asks nothing
        cells = {name: str(value) for name, value in row.values.items()}
        if absent := [name for name in _COLUMNS if name not in cells]:
            raise complaint(
                path, row.line, found=f"no column {absent[0]}", expected=", ".join(_COLUMNS)
            )
        for name in ("item_id", "question_natural_language"):
            if not cells[name].strip():
                raise complaint(path, row.line, found=f"no {name}", expected="one in every row")
        number = cells["proposition_id"].strip()
        if not number.isdecimal() or int(number) < 1:
            raise complaint(
                path, row.line, found=f"proposition_id {number!r}", expected="a number from 1"
            )
        yield _Row(row.line, int(number), cells)


def _asked(key: str, rows: Sequence[_Row]) -> Asked:
    known = {row.id for row in rows}
    questions, notes = [], []
    for row in rows:
        depends_on, rules = _dependency(row, known)
        cell = f"question {row.id}: {row.cells['dependency']!r}"
        notes += [Note(key, row.line, rule, cell) for rule in rules]
        kinds = (row.cells[name].strip() for name in ("category_broad", "category_detailed"))
        questions.append(
            Question(
                id=row.id,
                question=row.cells["question_natural_language"].strip(),
                depends_on=depends_on,
                kind=" - ".join(kind for kind in kinds if kind) or None,
                tuple=row.cells["tuple"].strip() or None,
            )
        )
    return Asked(rows[0].cells["text"], rows[0].line, questions, notes)


def _dependency(row: _Row, known: set[int]) -> tuple[tuple[int, ...], list[str]]:
    """Return the questions that gate one, and the rules that its cell broke."""
    cell = row.cells["dependency"]
    if not _NUMBERS.fullmatch(cell):
        return (), [MALFORMED]
    numbers = dict.fromkeys(int(number) for number in cell.split(",") if int(number))
    rules = [
        rule
        for rule, is_broken in ((OWN, row.id in numbers), (UNKNOWN, not numbers.keys() <= known))
        if is_broken
    ]
    return tuple(n for n in numbers if n in known and n != row.id), rules
