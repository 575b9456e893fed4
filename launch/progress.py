"""Where long work stands: a bar on a terminal, one greppable line per interval elsewhere.

Both show the same things in the same order, and each report is also handed to a log as fields:

    train step 1200  samples 76.8k/200k (38.4%)  loss 0.6132  1843 img/s  data 2%  eta 7m12s
"""

from __future__ import annotations

import math
import numbers
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

T = TypeVar("T")

INTERVAL_S = 5.0
"""Seconds between lines where there is no terminal."""

_BAR_INTERVAL_S = 0.2


class Progress:
    """Counts finished work and says how it goes. A context manager.

    Reports cost nothing to the work: fields are floats that the caller has at hand. One that lies
    on a device is given as the function that fetches it, such as a tensor's `item`, which is called
    when it is shown and waits for the device then.

    Args:
        total: Units in all.
        label: The work's name, first word of every line.
        unit: What is counted, in the singular.
        log: Called as `log("progress", **fields)` at each report.
        is_quiet: Show nothing and log nothing, as ranks other than 0 do.
        interval_s: Seconds between lines and between log entries.
        stream: Where lines and the bar go; standard error by default.
        clock: Seconds, ever growing.
    """

    def __init__(
        self,
        total: int,
        *,
        label: str,
        unit: str = "img",
        log: Callable[..., None] | None = None,
        is_quiet: bool = False,
        interval_s: float = INTERVAL_S,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.label = label
        self.unit = unit
        self.done = 0
        self.fields: dict[str, float | str | Callable[[], float]] = {}
        self._log = log
        self._is_quiet = is_quiet
        self._interval_s = interval_s
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._began = self._reported = self._drawn = clock()
        self._reported_done = self._reported_at_resume = 0
        self._waited = self._reported_waited = 0.0

    def __enter__(self) -> Progress:
        self._began = self._reported = self._drawn = self._clock()
        if not self._is_quiet and self._stream.isatty():
            self._start_bar()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
            self._bar = None
        if kind is None and self.done != self._reported_at_resume:
            self._report(is_last=True)

    def resume(self, done: int) -> None:
        """Start from work that an earlier process did; it does not count towards the rate."""
        self.done = self._reported_done = self._reported_at_resume = done

    def advance(self, num: int = 1, **fields: float | str | Callable[[], float]) -> None:
        """Count finished units.

        Args:
            num: Units finished since the last call.
            fields: Shown until replaced, in the order of their first appearance; `step` comes
                before the counts.
        """
        self.done += num
        self.fields.update(fields)
        now = self._clock()
        if self._bar is not None and now - self._drawn >= _BAR_INTERVAL_S:
            self._drawn = now
            self._draw()
        if now - self._reported >= self._interval_s:
            self._report()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - began

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, counting the time that each takes to come as waiting for data."""
        supply = iter(items)
        while True:
            with self.wait():
                try:
                    item = next(supply)
                except StopIteration:
                    return
            yield item

    def line(self) -> str:
        """Return the present state as one line, measured since the last report."""
        return self._line(self._measure(since_start=False))

    def _measure(self, *, since_start: bool) -> dict[str, float | None]:
        now = self._clock()
        if since_start:
            seconds, done, waited = now - self._began, self.done - self._reported_at_resume, 0.0
        else:
            seconds, done = now - self._reported, self.done - self._reported_done
            waited = self._reported_waited
        rate = done / seconds if seconds > 0 else 0.0
        left = self.total - self.done
        return {
            "rate": rate,
            "data": min(1.0, (self._waited - waited) / seconds) if seconds > 0 else 0.0,
            "eta_s": 0.0 if left <= 0 else left / rate if rate > 0 else None,
            "seconds": seconds,
        }

    def _report(self, *, is_last: bool = False) -> None:
        """Show and log the state, over the last interval or, at the end, over the whole."""
        if self._is_quiet:
            return
        measured = self._measure(since_start=is_last)
        if self._bar is None:
            print(self._line(measured, is_last=is_last), file=self._stream, flush=True)
        if self._log is not None:
            own = {"label": self.label, "unit": self.unit, "done": self.done, "total": self.total}
            rates = {name: _rounded(measured[name]) for name in ("rate", "data", "eta_s")}
            self._log("progress", **{**self._fetched(), **own, **rates})
        self._reported = self._clock()
        self._reported_done = self.done
        self._reported_waited = self._waited

    def _fetched(self) -> dict[str, float | str]:
        """Return the fields as plain values, those that lie on a device fetched from there."""
        return {k: _plain(v() if callable(v) else v) for k, v in self.fields.items()}

    def _line(self, measured: dict[str, float | None], *, is_last: bool = False) -> str:
        fields = self._fetched()
        step = fields.pop("step", None)
        start = self.label if step is None else f"{self.label} step {step}"
        share = f" ({self.done / self.total:.1%})" if self.total else ""
        noun = "samples" if self.unit == "img" else self.unit
        words = [start, f"{noun} {count(self.done)}/{count(self.total)}{share}"]
        words += [f"{name} {_shown(value)}" for name, value in fields.items()]
        words.append(f"{_rate(measured['rate'] or 0.0)} {self.unit}/s")
        words.append(f"data {measured['data'] or 0.0:.0%}")
        if is_last:
            words.append(f"took {duration(measured['seconds'])}")
        else:
            words.append(f"eta {duration(measured['eta_s'])}")
        return "  ".join(words)

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            console=Console(file=self._stream),
            auto_refresh=False,
            transient=False,
        )
        self._task = self._bar.add_task(self.label, total=self.total or None, state="")
        self._bar.start()
        self._draw()

    def _draw(self) -> None:
        if self._bar is None or self._task is None:
            return
        state = self._line(self._measure(since_start=True)).removeprefix(self.label).strip()
        self._bar.update(self._task, completed=self.done, state=state)
        self._bar.refresh()


def count(num: int) -> str:
    """Write a count in at most four digits: 640, 76.8k, 2.46M."""
    if num < 1000:
        return str(num)
    value, letters = num / 1000, "kMGT"
    letter = 0
    while float(f"{value:.3g}") >= 1000 and letter < len(letters) - 1:
        value, letter = value / 1000, letter + 1
    digits = max(0, 2 - int(math.log10(float(f"{value:.3g}"))))
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + letters[letter]


def duration(seconds: float | None) -> str:
    """Write seconds as 42s, 7m12s or 7h12m; unknown is a question mark."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def _rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _shown(value: float | str) -> str:
    if isinstance(value, float):
        if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
            return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def _plain(value: Any) -> float | str:
    """Turn numpy's numbers into Python's, which JSON can hold."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else str(value)


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)
