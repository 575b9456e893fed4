"""The members of a tar, those beyond damage too, and every damage by its place.

`tarfile` ends without a word at a header that is damaged or cut, and at zeros. Here that end is
held against what follows: zeros to the end of the file are the mark of a tar's end; anything else
is damage, and reading goes on at the next header that is whole.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

_BLOCK: Final = tarfile.BLOCKSIZE
_STRIDE: Final = 2048 * _BLOCK
_USTAR: Final = slice(257, 262)
"""Where a header has the word `ustar`."""


class Damage(NamedTuple):
    """A place where a tar is not whole."""

    reason: str
    """`damaged_shard`, or `truncated_shard` at its end."""

    detail: str
    """Where, and what was found."""


def members(file: BinaryIO) -> Iterator[tarfile.TarInfo | Damage]:
    """Give the members of an uncompressed tar and its damages, in their order.

    Where two archives were joined, as `cat a.tar b.tar` does, both are read. What lay in a damaged
    place cannot be counted; each such place is one `Damage`.
    """
    size = file.seek(0, 2)
    start: int | None = 0
    while start is not None:
        end = start
        said = "no tar header"
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
                for info in tar:
                    yield info
                    end = tar.offset
                end = tar.offset
        except (tarfile.TarError, EOFError) as error:
            said = str(error)
        zeros, is_last = _zeros(file, end, size)
        if is_last and zeros >= _BLOCK:
            return
        # Without zeros there is a block that tarfile has tried.
        start = _next_header(file, end + (zeros or _BLOCK), size)
        is_joined = zeros >= 2 * _BLOCK and (end + zeros) % tarfile.RECORDSIZE == 0
        if start is None:
            yield Damage("truncated_shard", f"{said} at byte {end:,} of {size:,}")
        elif not (is_joined and start == end + zeros):
            yield Damage("damaged_shard", f"{said} from byte {end:,} to byte {start:,} of {size:,}")


def _zeros(file: BinaryIO, start: int, size: int) -> tuple[int, bool]:
    """Return how many bytes of zero blocks begin here, and whether the file ends with them."""
    at = start
    file.seek(at)
    while data := file.read(_STRIDE):
        left = data.lstrip(b"\0")
        if left:
            at += len(data) - len(left)
            return (at - start) // _BLOCK * _BLOCK, False
        at += len(data)
    return max(min(at, size) - start, 0), True


def _next_header(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where the next whole header lies, at or after a block's beginning."""
    at = start - start % _BLOCK
    while at < size:
        file.seek(at)
        data = file.read(_STRIDE)
        for offset in range(0, len(data) - _BLOCK + 1, _BLOCK):
            block = data[offset : offset + _BLOCK]
            if block[_USTAR] == b"ustar" and _is_header(block):
                return at + offset
        at += _STRIDE
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
