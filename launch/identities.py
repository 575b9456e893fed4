"""Identities and digests of 128 bits as arrays: 16 bytes each, sorted and found by numpy.

A folder stores them as 32 hexadecimal digits. As Python's strings they take 81 bytes and more,
which for the pictures of a large data set is more memory than the model that trains on them.

N identities
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, UInt64
from numpy.typing import NDArray

from launch.errors import InputError

PACKED = "S16"
"""Numpy type of a packed identity. It compares and sorts as its 16 bytes do; to see them, view it
as V16, because numpy drops trailing zeros of strings when it shows one."""


def packed(
    digests: pa.Array | pa.ChunkedArray | Sequence[str], *, where: str = "identities given"
) -> NDArray[Any]:
    """Pack identities given as 32 hexadecimal digits.

    Args:
        digests: The identities.
        where: File or folder that they are from, for messages.

    Raises:
        InputError: One is not 32 hexadecimal digits.
    """
    if not isinstance(digests, (pa.Array, pa.ChunkedArray)):
        digests = pa.array(digests, pa.string())
    blocks = digests.chunks if isinstance(digests, pa.ChunkedArray) else [digests]
    return np.concatenate([np.empty(0, PACKED), *(_packed(block, where) for block in blocks)])


def _packed(block: pa.Array, where: str) -> NDArray[Any]:
    try:
        digits = block.cast(pa.binary()).cast(pa.binary(32))
    except pa.ArrowInvalid:
        wrong = next(text for text in block.to_pylist() if text is None or len(text) != 32)
        raise _malformed(wrong, where) from None
    if not len(block):
        return np.empty(0, PACKED)
    data = np.frombuffer(digits.buffers()[1], np.uint8)
    codes = data[32 * digits.offset : 32 * (digits.offset + len(block))].reshape(-1, 32)
    # 0-9 are 48 to 57; letters of both cases have bit 64 set and count on from 1.
    is_letter = codes >= 64
    nibbles = (codes & 15) + np.where(is_letter, 9, 0).astype(np.uint8)
    is_digit = (codes >= 48) & (codes <= 57)
    is_hex = is_digit | (is_letter & ((codes | 32) >= 97) & ((codes | 32) <= 102))
    if not is_hex.all():
        wrong = block[int(np.argmin(is_hex.all(axis=1)))].as_py()
        raise _malformed(wrong, where)
    return (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).view(PACKED)[:, 0]


def _malformed(identity: str | None, where: str) -> InputError:
    return InputError(
        f"{where}: identity {identity!r}, expected 32 hexadecimal digits. Make the artifact again; "
        "identities are given at ingestion and never edited."
    )


def unpacked(identities: NDArray[Any]) -> list[str]:
    """Give packed identities as 32 hexadecimal digits."""
    digits = np.ascontiguousarray(identities).tobytes().hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]


def heads_of(identities: NDArray[Any]) -> UInt64[np.ndarray, " N"]:
    """Give the first 64 bits of each, as `launch.keyed.words` reads them off the digits."""
    halves = np.ascontiguousarray(identities).view(">u8").reshape(-1, 2)
    return halves[:, 0].astype(np.uint64)


def find(
    wanted: NDArray[Any], *, among: NDArray[Any], order: Int64[np.ndarray, " N"] | None = None
) -> Int64[np.ndarray, " N"]:
    """Give the place of each packed identity, -1 where it is absent.

    Args:
        wanted: Packed identities.
        among: Packed identities, each once, sorted unless `order` is given.
        order: Places of `among` in ascending order.
    """
    if not len(among):
        return np.full(len(wanted), -1, np.int64)
    in_order = among if order is None else among[order]
    # Numbers are compared ten times as fast as strings; equal halves are rare enough to look twice.
    heads, wanted_heads = heads_of(in_order), heads_of(wanted)
    place = np.minimum(np.searchsorted(heads, wanted_heads), len(among) - 1)
    is_unsure = (heads[place] == wanted_heads) & (in_order[place] != wanted)
    if is_unsure.any():
        behind = np.searchsorted(in_order, wanted[is_unsure])
        place[is_unsure] = np.minimum(behind, len(among) - 1)
    is_there = in_order[place] == wanted
    return np.where(is_there, place if order is None else order[place], -1).astype(np.int64)


def is_repeated(values: NDArray[Any]) -> Bool[np.ndarray, " N"]:
    """Say of each value whether it stood there before."""
    _, first = np.unique(values, return_index=True)
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    return repeated
