"""Text states of several artifacts, read as one table.

A new captions artifact needs states of its own new texts alone; they lie beside those that exist.
A row of the table is a row of one of the artifacts, counted on from the artifacts before it. The
files stay memory-mapped, and only what a batch asks for is read.

N texts, B batch, L text tokens, D text width, M token states
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64
from numpy.typing import NDArray

from launch import identities
from launch.config import differences
from launch.errors import ArtifactError, InputError
from launch.manifest import Input
from t2i.artifacts import TextStates, open_text_states

SHARED_INPUTS = ("images", "text_encoder")
SHARED_SETTINGS = ("max_tokens", "precision", "kept")
"""What states that are used together have in common."""


@dataclass(frozen=True)
class TextCaches:
    """Text states artifacts whose rows are numbered through; all hold states, or all tokens."""

    caches: tuple[TextStates, ...]

    def __len__(self) -> int:
        return len(self.num_tokens)

    @property
    def holds_tokens(self) -> bool:
        """Say whether token ids are kept instead of states."""
        return self.caches[0].holds_tokens

    @property
    def width(self) -> int:
        """Width of a state."""
        return self.caches[0].width

    @cached_property
    def num_tokens(self) -> Int64[np.ndarray, " N"]:
        """Length of every text."""
        return _joined([cache.num_tokens for cache in self.caches])

    @cached_property
    def digests(self) -> NDArray[Any]:
        """Digest of every text, packed (`launch.identities`)."""
        return _joined([cache.digests for cache in self.caches])

    @cached_property
    def _offsets(self) -> Int64[np.ndarray, " N"]:
        return _joined([cache.offsets for cache in self.caches])

    @cached_property
    def _first_rows(self) -> Int64[np.ndarray, " caches"]:
        """Row of the first text of each artifact."""
        return np.cumsum([0, *(len(cache.num_tokens) for cache in self.caches[:-1])])

    def rows(self, digests: NDArray[Any]) -> Int64[np.ndarray, " N"]:
        """Give the rows of some texts, given by their packed digests.

        Raises:
            ArtifactError: A text was never encoded.
        """
        rows = np.full(len(digests), -1, np.int64)
        for cache, first in zip(self.caches, self._first_rows, strict=True):
            found = cache.find(digests)
            rows = np.where((rows < 0) & (found >= 0), first + found, rows)
        if (absent := rows < 0).any():
            folders = ", ".join(str(cache.manifest.folder) for cache in self.caches)
            (first,) = identities.unpacked(digests[absent][:1])
            raise ArtifactError(
                f"{folders}: {int(absent.sum()):,} of {len(rows):,} texts have no states, digest "
                f"{first} first; encode these captions"
            )
        return rows

    def gather(
        self, rows: Int64[np.ndarray, " B"], *, length: int
    ) -> tuple[
        Float[np.ndarray, "B L D"] | Int32[np.ndarray, "B L"],
        Bool[np.ndarray, "B L"],
    ]:
        """Give states, or token ids, padded with zeros, and which of them are real."""
        position = np.arange(length)[None, :]
        mask = position < self.num_tokens[rows][:, None]
        token = self._offsets[rows][:, None] + position  # B L, beyond a text's end where not mask
        first = self.caches[0].values
        padded = np.zeros((len(rows), length, *first.shape[1:]), first.dtype)
        holder = np.searchsorted(self._first_rows, rows, side="right") - 1
        for number, cache in enumerate(self.caches):
            here = mask & (holder == number)[:, None]
            padded[here] = cache.values[token[here]]
        return padded, mask

    def spaced_states(self, num: int) -> Float32[np.ndarray, "M D"]:
        """Give evenly spaced token states, at least `num` where there are so many."""
        sizes = [len(cache.values) for cache in self.caches]
        every = max(1, sum(sizes) // num)
        # The spacing goes on from one artifact to the next.
        starts = [-before % every for before in np.cumsum([0, *sizes[:-1]]).tolist()]
        found = [cache.values[s::every] for cache, s in zip(self.caches, starts, strict=True)]
        return np.concatenate(found).astype(np.float32)

    def spaced_rows(self, num: int) -> Int64[np.ndarray, " N"]:
        """Give evenly spaced texts that have about `num` tokens together."""
        return np.arange(0, len(self), max(1, int(self.num_tokens.sum()) // num))


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # one alone is not copied


def open_text_caches(folders: Sequence[Path]) -> TextCaches:
    """Open text states artifacts that are used together; their order does not matter.

    Raises:
        ArtifactError: They differ in encoder, longest text, precision or what is kept.
        InputError: One is named twice.
    """
    if twice := [folder for i, folder in enumerate(folders) if folder in folders[:i]]:
        raise InputError(f"text_states: {twice[0]} is named twice; name each artifact once.")
    caches = sorted(map(open_text_states, folders), key=lambda cache: cache.manifest.digest)
    refuse_unlike({c.manifest.folder: shared(c.manifest.inputs, c.manifest.recipe) for c in caches})
    return TextCaches(tuple(caches))


def shared(inputs: Iterable[Input], recipe: Mapping[str, Any]) -> dict[str, object]:
    """Give what text states must have in common with those that they are used with."""
    digests = {i.role: i.digest[:12] for i in inputs if i.role in SHARED_INPUTS}
    return {**digests, **{name: recipe.get(name) for name in SHARED_SETTINGS}}


def refuse_unlike(described: Mapping[Path, dict[str, object]]) -> None:
    """Refuse text states that cannot be used together.

    Args:
        described: Folder -> what `shared` says of it.

    Raises:
        ArtifactError: It names the two folders and what differs.
    """
    (first, expected), *others = described.items()
    for folder, found in others:
        if changed := differences(expected, found):
            raise ArtifactError(
                f"{first} and {folder}: text states that are used together must agree, but "
                "differ.\n  "
                + "\n  ".join(changed)
                + "\nEncode one of them again with the settings of the other."
            )
