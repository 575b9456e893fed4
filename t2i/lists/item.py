"""What every reader of a prompt list gives, and how a file of one is opened.

A reader keeps every row in its place, blank ones too: pairing goes by key, and a blank line that
were dropped would give all lines behind it other numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from launch.errors import InputError
from launch.manifest import digest_bytes, digest_file
from recap.claims import Claim
from t2i.questions import Question


class Item(NamedTuple):
    """One row of a list."""

    key: str
    """Its name in the list."""

    prompt: str
    """Its text, blank where the row holds only a place."""

    line: int
    """Line where it begins, counted from 1."""

    file: str | None = None
    """Name of its file where the list is a folder; the name of a single file means nothing."""

    category: str | None = None
    claims: list[Claim] | None = None
    questions: list[Question] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether the row only holds a place."""
        return not self.prompt.strip()


class Note(NamedTuple):
    """Something in a list that cannot be used as it is, though its prompt can."""

    key: str
    """Item that it belongs to."""

    line: int
    rule: str
    """Name of the rule, counted in the manifest."""

    detail: str
    """What was found."""

    file: str | None = None
    """As an item's; None is also the CSV of a folder's questions."""


@dataclass(frozen=True, kw_only=True)
class PromptList:
    """A list as read."""

    path: Path
    """Where it lies."""

    items: list[Item]
    """Every row, blank ones too, in the order of the list."""

    is_by_number: bool
    """Keys are numbers of rows: such lists are paired row by row, and must have equally many."""

    notes: list[Note] = field(default_factory=list)


def complaint(path: Path, line: int, *, found: str, expected: str) -> InputError:
    """Return the error of a malformed row."""
    return InputError(
        f"{path}, line {line}: found {found}; expected {expected}. Correct the row, or read the "
        "list in another format."
    )


def read_text(path: Path) -> str:
    """Return a file's text without a byte order mark.

    Raises:
        InputError: It is absent or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a file of a prompt list. Correct "
            "the path."
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"the byte 0x{data[error.start]:02x}"
        raise complaint(path, line, found=found, expected="text in UTF-8") from error


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, without their ends.

    Only line feeds end a line: `splitlines` also cuts at characters that prompts contain. A line
    feed at the very end begins no further line.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def refuse_twice(items: Sequence[Item], *, path: Path) -> None:
    """Refuse two rows with one key.

    Raises:
        InputError: Naming the key and both rows.
    """
    seen: dict[str, Item] = {}
    for item in items:
        if item.key in seen:
            first = seen[item.key]
            raise complaint(
                path,
                item.line,
                found=f"the key {item.key!r}, which line {first.line} has too",
                expected="every key once",
            )
        seen[item.key] = item


def digest_of(files: Sequence[Path]) -> str:
    """Return the digest of a list's files: of one its bytes', of several their names' too.

    Raises:
        InputError: A file is absent.
    """
    if absent := [path for path in files if not path.is_file()]:
        raise InputError(f"{absent[0]}: no such file; correct the path of the list.")
    digests = [digest_file(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    names = [path.name for path in files]
    return digest_bytes(json.dumps(list(zip(names, digests, strict=True))).encode())


def text_files(folder: Path) -> Iterator[Path]:
    """Yield the .txt files of a folder by name.

    Raises:
        InputError: It is no folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; this format is a folder of .txt files.")
    # Sorted: directory order differs between file systems.
    yield from sorted(path for path in folder.iterdir() if path.suffix == ".txt" and path.is_file())
