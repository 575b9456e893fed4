"""What a source of pictures gives to ingestion: an identity, and chunks of rows to work on.

A source is opened in the main process, where everything that the user can put right is refused.
Its chunks are sent to worker processes and read there. A row that cannot be used is given too, as
`Rejected`, so that rows are conserved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from launch.errors import InputError
from launch.manifest import canonical_json, digest_bytes


class Rejected(NamedTuple):
    """A row that is not used, and the rule that says why."""

    key: str
    """Its name in the source, or where it stands there."""

    reason: str
    """Name of the rule."""

    detail: str
    """What was found."""


class RowError(Exception):
    """A row is rejected by a named rule."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Place(NamedTuple):
    """Where a picture lies in an uncompressed tar of the source."""

    shard: str
    """Name of the tar below the source's root."""

    offset: int
    """First byte."""

    num_bytes: int
    """Number of bytes."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture with its texts, the picture not yet looked at."""

    key: str
    """Its name in the source."""

    data: bytes
    """The picture's file."""

    alt: str
    """Alt text."""

    texts: list[str] | None = None
    """Further people's texts."""

    claims: str | None = None
    """What is true of it, as JSON, where that is known."""

    suffix: str = ".png"
    """File name ending that tells the picture's format."""

    place: Place | None = None
    """Where the bytes can be referred to instead of being copied."""


class SourceFile(NamedTuple):
    """A tar of the source that rows refer to."""

    shard: str
    """Its name below the source's root."""

    path: Path
    """Where it lies."""


class Chunk(ABC):
    """A part of a source that one worker reads; it must pickle."""

    @property
    def source_file(self) -> SourceFile | None:
        """The tar that the rows refer to; None where they are to be copied."""
        return None

    @abstractmethod
    def read(self) -> Iterator[Row | Rejected]:
        """Give every row of the chunk once, in a fixed order."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An open source."""

    path: str
    """Where it lies, for the manifest."""

    digest: str
    """Identity of what was found there, the same wherever it lies."""

    chunks: Sequence[Chunk]
    """Parts of work; they become the shards."""

    plan: dict[str, object]
    """What was found, in the reader's words."""

    num_bytes: int
    """Bytes that ingestion will write, roughly."""


def identity(parts: object) -> str:
    """Digest what tells a source from another: names and sizes, never places or times."""
    return digest_bytes(canonical_json(parts))


LONGEST_CELL: Final = 1 << 30
"""Characters of a cell of CSV; the csv module's own limit would refuse a file for one long text."""


def printable(name: str) -> str:
    """Give a name as valid Unicode: bytes that are none, and halves of letters, escaped."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a letter, which JSON can spell
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


# --- Columns -------------------------------------------------------------------------------------

ALT_NAMES: Final = ("alt", "alt_text", "text", "caption", "txt")
"""Columns taken for the alt text when none is named, the first that is there."""
TEXTS_NAMES: Final = ("captions", "texts")
"""Columns taken for people's texts when none is named."""


class Columns(NamedTuple):
    """Which columns hold the texts of a row."""

    alt: str | None
    """Column of the alt text; None where it is the first of `texts`."""

    texts: str | None
    """Column of further texts."""

    def read(self, row: Mapping[str, Any]) -> tuple[str, list[str] | None]:
        """Give alt text and further texts of a row.

        Raises:
            RowError: A text is missing, empty or not text.
        """
        alt = None if self.alt is None else row.get(self.alt)
        texts = None if self.texts is None else row.get(self.texts)
        if isinstance(texts, str):
            texts = [texts]
        if isinstance(alt, list) and self.texts is None:
            alt, texts = (alt[0], alt[1:]) if alt else (None, None)
        elif self.alt is None and isinstance(texts, list) and texts:
            alt, texts = texts[0], texts[1:]
        if texts is not None and not isinstance(texts, list):
            raise RowError("not_text", f"column {self.texts}: {type(texts).__name__}")
        return check_text(alt), None if not texts else [check_text(text) for text in texts]


def check_text(text: object) -> str:
    """Give a text as it is, or say why it cannot be used.

    Raises:
        RowError: It is missing, empty, not text, or not valid Unicode.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RowError("not_utf8", str(error)) from error
    if text is None:
        raise RowError("missing_caption", "no text")
    if not isinstance(text, str):
        raise RowError("not_text", f"{type(text).__name__} {str(text)[:40]!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("not_utf8", str(error)) from error
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise RowError("empty_text", f"{len(text)} characters of white space")
    return text


def choose_columns(
    available: Iterable[str],
    *,
    alt_column: str | None,
    texts_column: str | None,
    where: str,
    hint: str = "",
) -> Columns:
    """Decide which columns hold texts.

    Raises:
        InputError: A named column is absent, or none is named and none is known by its name.
    """
    names = list(available)
    for setting, name in (("alt_column", alt_column), ("texts_column", texts_column)):
        if name is not None and name not in names:
            raise InputError(f"{where}: no column {name!r} ({setting}); it has {', '.join(names)}.")
    texts = texts_column or next((name for name in TEXTS_NAMES if name in names), None)
    if alt_column is None and texts_column is not None:
        return Columns(alt=None, texts=texts)
    alt = alt_column or next((name for name in ALT_NAMES if name in names), None)
    if alt is None and texts is None:
        raise InputError(
            f"{where}: no column holds texts under a known name ({', '.join(ALT_NAMES)}, "
            f"{', '.join(TEXTS_NAMES)}); it has {', '.join(names) or 'none'}. "
            f"Name one with alt_column=... {hint}".rstrip()
        )
    return Columns(alt=alt, texts=texts if texts != alt else None)


def require_root(root: Path | None, *, source: str) -> Path:
    """Give the root of a source that needs one.

    Raises:
        InputError: It is not set.
    """
    if root is None:
        raise InputError(f"source {source}: `root` is not set; say where the pictures lie.")
    return root
