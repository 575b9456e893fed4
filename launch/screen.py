"""What a person sees of a running study: finished lines above, one live line a step below.

On a terminal the running steps stay at the bottom, each with a bar; elsewhere every line is
printed with the name of its step, greppable.
"""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live

_SHARE = re.compile(r"\((\d+(?:\.\d+)?)%\)")
_WIDTH = 24


class Screen:
    """The display of one study."""

    def __init__(self, *, total: int, minutes: float) -> None:
        """Prepare the display.

        Args:
            total: Steps to do.
            minutes: Predicted time of them all, one after another.
        """
        self._total, self._done = total, 0
        self._minutes, self._minutes_done = minutes, 0.0
        self._began = time.monotonic()
        self._now: dict[str, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, name: str, line: str) -> None:
        """Show a line of a step: progress replaces the last progress, anything else stays."""
        is_progress = _SHARE.search(line) is not None and "/s" in line
        if self._live is None:
            print(f"{name:<14} {line}", flush=True)
            return
        if is_progress:
            self._now[name] = line
            self._refresh()
        elif line.strip():
            self._live.console.print(f"{name:<14} {line}", markup=False, highlight=False)

    def finished(self, name: str, *, minutes: float) -> None:
        """Count a step as finished and say how far the study is."""
        self._done += 1
        self._minutes_done += minutes
        self._now.pop(name, None)
        passed = (time.monotonic() - self._began) / 60
        share = self._minutes_done / self._minutes if self._minutes else 1.0
        left = f", about {passed * (1 - share) / share:.0f} min left" if 0 < share < 1 else ""
        line = f"[{self._done}/{self._total}] {name} finished after {passed:.1f} min{left}"
        if self._live is None:
            print(line, flush=True)
        else:
            self._live.console.print(line, markup=False, highlight=False, style="bold")
            self._refresh()

    def _refresh(self) -> None:
        from rich.text import Text

        assert self._live is not None
        rows = []
        for name, line in self._now.items():
            found = _SHARE.search(line)
            filled = round(_WIDTH * float(found.group(1)) / 100) if found else 0
            bar = "━" * filled + "─" * (_WIDTH - filled)
            rows.append(f"{name:<14} {bar} {line}")
        self._live.update(Text("\n".join(rows), no_wrap=True, overflow="ellipsis"))
