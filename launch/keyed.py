"""Random numbers that are a function of (seed, stream, epoch, sample_id) and of nothing else.

Every draw that shapes a result comes from here. There is no generator to save, to advance or to
hand to a worker: asking twice gives the same numbers, and asking for fewer pictures, in another
order or on another rank changes none of them.

The numbers are those of Philox 4x32-10, a counter-based generator. Its 64-bit key is a hash of the
seed and of the stream's name, so that each purpose ("caption", "noise", ...) draws independently of
the others. Its 128-bit counter is (block, epoch, low word, high word), where the two words are the
first 64 bits of the sample_id; a draw longer than one block of four words counts blocks upwards, so
a longer draw begins with the shorter one.

N ids, K numbers per id
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt32, UInt64
from numpy.typing import NDArray

from launch.errors import InputError

Epoch: TypeAlias = int | NDArray[np.integer[Any]]
"""One epoch for all ids, or one per id."""

Array: TypeAlias = NDArray[Any]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_NUM_ROUNDS = 10
_WORD = 0xFFFFFFFF
_LOW = np.uint64(_WORD)
_HIGH = np.uint64(32)

# Blocks handled at once: ten rounds over this many stay in the processor's second-level cache,
# which is about twice as quick as one pass over a large array.
_CHUNK = 1 << 13


def philox4x32(
    counter: UInt32[np.ndarray, "N 4"], key: UInt32[np.ndarray, " 2"]
) -> UInt32[np.ndarray, "N 4"]:
    """Turn each counter into four random words."""
    columns = [np.ascontiguousarray(counter[:, i], dtype=np.uint64) for i in range(4)]
    return np.stack(_rounds(columns, key), axis=1).astype(np.uint32)


def _rounds(columns: list[Array], key: Array) -> list[Array]:
    """Apply the ten rounds to four uint64 columns that hold 32-bit words."""
    c0, c1, c2, c3 = columns
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(_NUM_ROUNDS):
        product_0 = c0 * _MULTIPLIERS[0]
        product_1 = c2 * _MULTIPLIERS[1]
        c0 = (product_1 >> _HIGH) ^ c1 ^ np.uint64(k0)
        c1 = product_1 & _LOW
        c2 = (product_0 >> _HIGH) ^ c3 ^ np.uint64(k1)
        c3 = product_0 & _LOW
        k0 = (k0 + _KEY_STEPS[0]) & _WORD
        k1 = (k1 + _KEY_STEPS[1]) & _WORD
    return [c0, c1, c2, c3]


@lru_cache(maxsize=1024)
def _key_words(seed: int, stream: str) -> tuple[int, int]:
    if not stream:
        raise InputError("keyed: the stream has no name; name the purpose of the draw")
    text = f"{int(seed)}\0{stream}".encode()
    digest = blake2b(text, digest_size=8, person=b"captionmix.keyed").digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def stream_key(seed: int, stream: str) -> UInt32[np.ndarray, " 2"]:
    """Derive the key of one purpose under one seed."""
    return np.array(_key_words(seed, stream), dtype=np.uint32)


def words(sample_ids: Sequence[str]) -> UInt64[np.ndarray, " N"]:
    """Read the first 64 bits of each sample_id.

    Raises:
        InputError: An id is not 32 hexadecimal digits.
    """
    if not len(sample_ids):
        return np.empty(0, dtype=np.uint64)
    for sample_id in sample_ids:
        if len(sample_id) != 32:
            raise InputError(f"keyed: sample_id {sample_id!r} is not 32 hexadecimal digits")
    heads = "".join([sample_id[:16] for sample_id in sample_ids])
    try:
        raw = bytes.fromhex(heads)
    except ValueError:
        raw = b""
    if len(raw) != 8 * len(sample_ids):  # fromhex skips white space without a word
        digits = set("0123456789abcdefABCDEF")
        wrong = next(s for s in sample_ids if not digits.issuperset(s[:16]))
        raise InputError(f"keyed: sample_id {wrong!r} is not 32 hexadecimal digits")
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64)


def uniform(
    seed: int, stream: str, *, epoch: Epoch, ids: UInt64[np.ndarray, " N"], count: int = 1
) -> Float[np.ndarray, " N"] | Float[np.ndarray, "N K"]:
    """Draw float64 numbers in [0, 1) of 53 random bits; [N], or [N, count] if `count` > 1."""
    if count < 1:
        raise InputError(f"keyed: count must be at least 1, got {count}")
    w0, w1, w2, w3 = _blocks(seed, stream, epoch=epoch, ids=ids, num_blocks=(count + 1) // 2)
    numbers = np.stack([_unit(w0, w1), _unit(w2, w3)], axis=-1)  # [N, blocks, 2]
    numbers = numbers.reshape(len(ids), 2 * ((count + 1) // 2))[:, :count]
    return numbers[:, 0].copy() if count == 1 else np.ascontiguousarray(numbers)


def normal(
    seed: int,
    stream: str,
    *,
    epoch: Epoch,
    ids: UInt64[np.ndarray, " N"],
    shape: tuple[int, ...],
) -> Float32[np.ndarray, "N ..."]:
    """Draw standard normal numbers, [N, *shape].

    Computed in float64 and rounded once to float32. The largest possible value is 6.66.

    Source: Box and Muller 1958, four numbers from the four words of a block.
    """
    size = int(np.prod(shape, dtype=np.int64))
    num_blocks = -(-size // 4)
    numbers = np.empty((len(ids), num_blocks, 4), dtype=np.float32)
    rows = max(1, _CHUNK // max(1, num_blocks))
    for start in range(0, len(ids), rows):
        here = slice(start, start + rows)
        each = epoch if isinstance(epoch, int | np.integer) else epoch[here]
        w0, w1, w2, w3 = _blocks(seed, stream, epoch=each, ids=ids[here], num_blocks=num_blocks)
        for i, (first, second) in enumerate(((w0, w1), (w2, w3))):
            radius = np.sqrt(-2.0 * np.log((first + 0.5) * 2.0**-32))
            angle = (second + 0.5) * (2.0**-32 * 2.0 * np.pi)
            numbers[here, :, 2 * i] = radius * np.cos(angle)
            numbers[here, :, 2 * i + 1] = radius * np.sin(angle)
    return np.ascontiguousarray(numbers.reshape(len(ids), 4 * num_blocks)[:, :size]).reshape(
        len(ids), *shape
    )


def integers(
    seed: int,
    stream: str,
    *,
    epoch: Epoch,
    ids: UInt64[np.ndarray, " N"],
    high: int,
    count: int = 1,
) -> Int64[np.ndarray, " N"] | Int64[np.ndarray, "N K"]:
    """Draw whole numbers in [0, high); `high` is at most 2**32, which keeps the bias below 2**-21.

    [N] if `count` is 1 and else [N, count].
    """
    if not 1 <= high <= 1 << 32:
        raise InputError(f"keyed: high must lie in [1, 2**32], got {high}")
    numbers: Array = np.floor(uniform(seed, stream, epoch=epoch, ids=ids, count=count) * high)
    return numbers.astype(np.int64)


def permutation(
    seed: int, stream: str, *, epoch: Epoch, ids: UInt64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Give the row numbers in random order.

    `ids[permutation(..., ids=ids)]` is the same sequence however `ids` was ordered, and the
    sequence of a subset is that of the whole with the others left out.
    """
    w0, w1, _, _ = _blocks(seed, stream, epoch=epoch, ids=ids, num_blocks=1)
    rank = ((w0 << _HIGH) | w1).reshape(-1)
    return np.lexsort((ids, rank)).astype(np.int64)


def _unit(high: Array, low: Array) -> Array:
    """Join the top 27 and 26 bits of two words into a float64 in [0, 1)."""
    whole: Array = (high >> np.uint64(5)) * np.uint64(1 << 26) + (low >> np.uint64(6))
    return whole.astype(np.float64) * 2.0**-53


def _blocks(
    seed: int, stream: str, *, epoch: Epoch, ids: Array, num_blocks: int
) -> tuple[Array, Array, Array, Array]:
    """Give four uint64 arrays [N, num_blocks] of 32-bit words."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.dtype != np.uint64:
        raise InputError(
            f"keyed: ids must be a one-dimensional uint64 array from `words`, "
            f"got {ids.dtype} of shape {ids.shape}"
        )
    epochs = np.asarray(epoch, dtype=np.int64)
    if epochs.ndim not in (0, 1) or (epochs.ndim == 1 and epochs.shape != ids.shape):
        raise InputError(
            f"keyed: epoch must be one number or one per id, got shape {epochs.shape} "
            f"for {len(ids)} ids"
        )
    if epochs.size and (epochs.min() < 0 or epochs.max() > _WORD):
        raise InputError("keyed: epoch must lie in [0, 2**32)")
    shape = (len(ids), num_blocks)
    columns = [
        np.broadcast_to(np.arange(num_blocks, dtype=np.uint64), shape),
        np.broadcast_to(epochs.astype(np.uint64).reshape(-1, 1), shape),
        np.broadcast_to((ids & _LOW)[:, None], shape),
        np.broadcast_to((ids >> _HIGH)[:, None], shape),
    ]
    key = stream_key(seed, stream)
    if len(ids) * num_blocks <= _CHUNK or not num_blocks:
        w0, w1, w2, w3 = _rounds(columns, key)
        return w0, w1, w2, w3
    out = [np.empty(shape, dtype=np.uint64) for _ in range(4)]
    rows = max(1, _CHUNK // num_blocks)
    for start in range(0, len(ids), rows):
        here = slice(start, start + rows)
        for whole, part in zip(out, _rounds([c[here] for c in columns], key), strict=True):
            whole[here] = part
    return out[0], out[1], out[2], out[3]
