"""Where the time of a job goes: seconds by span, and the one that bounds the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Timing:
    """Adds up seconds by span. Of nested spans only the innermost runs.

    A span of work that a device does on its own ends when the device was given its orders; what it
    takes longer is counted where its result is waited for.

    Args:
        clock: Seconds, ever growing.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._open: list[str] = []
        self._since = clock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the time inside under a name."""
        self._count()
        self._open.append(name)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def waiting(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items, counting the time that each takes to come."""
        supply = iter(items)
        while True:
            with self.span(name):
                try:
                    item = next(supply)
                except StopIteration:
                    return
            yield item

    def shares(self) -> dict[str, float]:
        """Return each span's share of all seconds counted, the greatest first."""
        total = sum(self.seconds.values())
        ordered = sorted(self.seconds.items(), key=lambda item: (-item[1], item[0]))
        return {name: seconds / total if total else 0.0 for name, seconds in ordered}

    def line(self) -> str:
        """Return the shares as one line, which names the bottleneck."""
        shares = self.shares()
        if not shares:
            return "time: none was spent"
        listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        return f"time: {listed}; the bottleneck is {next(iter(shares))}"

    def _count(self) -> None:
        now = self._clock()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
