"""Progress: what its lines say, at which times, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from launch.progress import Progress, count, duration


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def make(clock: Clock, stream: io.StringIO) -> Callable[..., Progress]:
    def build(total: int, **settings: Any) -> Progress:
        return Progress(total, **{"label": "train", "stream": stream, "clock": clock, **settings})

    return build


@pytest.mark.parametrize(
    ("num", "text"),
    [(0, "0"), (640, "640"), (999, "999"), (1000, "1k"), (76_800, "76.8k"), (200_000, "200k"),
     (999_600, "1M"), (2_460_000, "2.46M"), (50_000_000, "50M"), (1_200_000_000, "1.2G")],
)  # fmt: skip
def test_counts_take_four_digits_at_most(num: int, text: str) -> None:
    assert count(num) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.6, "1m00s"),
        (432, "7m12s"),
        (25_920, "7h12m"),
        (None, "?"),
        (float("inf"), "?"),
    ],
)
def test_durations_show_the_two_units_that_matter(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_has_the_documented_form(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    with make(200_000) as progress:
        clock.now += 5
        with progress.wait():
            clock.now += 0.2
        progress.advance(76_800, step=1200, loss=0.61321, lr=3e-4)
        assert stream.getvalue() == (
            "train step 1200  samples 76.8k/200k (38.4%)  loss 0.6132  lr 3.0e-4  "
            "14769 img/s  data 4%  eta 8s\n"
        )


def test_rate_and_data_wait_are_of_the_last_interval(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    with make(1000) as progress:
        with progress.wait():
            clock.now += 5
        progress.advance(10)
        clock.now += 5
        progress.advance(100)
    first, second, last = stream.getvalue().splitlines()
    assert "2 img/s  data 100%" in first
    assert "20 img/s  data 0%" in second
    assert "11 img/s  data 50%  took 10s" in last


def test_lines_come_once_per_interval(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    with make(1000, interval_s=5) as progress:
        for _ in range(99):
            clock.now += 0.1
            progress.advance(1)
        assert len(stream.getvalue().splitlines()) == 1


def test_work_done_by_an_earlier_process_does_not_raise_the_rate(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    with make(1000) as progress:
        progress.resume(500)
        clock.now += 10
        progress.advance(100)
    assert "samples 600/1k (60.0%)  10 img/s  data 0%  eta 40s" in stream.getvalue()


def test_every_report_is_logged_as_numbers_that_json_holds(
    make: Callable[..., Progress], clock: Clock
) -> None:
    log = Log()
    with make(100, log=log) as progress:
        clock.now += 5
        progress.advance(50, step=np.int64(3), loss=np.float32(0.5))
    event, fields = log.events[0]
    assert event == "progress"
    assert json.loads(json.dumps(fields)) == {
        "label": "train", "unit": "img", "done": 50, "total": 100, "step": 3, "loss": 0.5,
        "rate": 10.0, "data": 0.0, "eta_s": 5.0,
    }  # fmt: skip


def test_a_number_on_a_device_is_fetched_when_it_is_shown_and_not_before(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    fetched: list[int] = []

    def fetch() -> float:
        fetched.append(1)
        return 0.25

    with make(100, interval_s=5) as progress:
        for _ in range(10):
            progress.advance(1, loss=fetch)
        assert fetched == []
        clock.now += 5
        progress.advance(1, loss=fetch)
        assert fetched == [1]
    assert "loss 0.2500" in stream.getvalue()


def test_other_units_are_named(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    with make(8, label="report", unit="figure") as progress:
        clock.now += 2
        progress.advance(8)
    assert stream.getvalue() == "report  figure 8/8 (100.0%)  4 figure/s  data 0%  took 2s\n"


def test_an_error_is_not_followed_by_a_line_of_success(
    make: Callable[..., Progress], stream: io.StringIO
) -> None:
    def fail() -> None:
        with make(8) as progress:
            progress.advance(1)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert "took" not in stream.getvalue()


def test_ranks_other_than_the_first_stay_silent(
    make: Callable[..., Progress], clock: Clock, stream: io.StringIO
) -> None:
    log = Log()
    with make(8, is_quiet=True, log=log) as progress:
        clock.now += 60
        progress.advance(8)
    assert (stream.getvalue(), log.events) == ("", [])


def test_a_terminal_shows_a_bar_and_the_log_still_gets_its_fields(
    make: Callable[..., Progress], clock: Clock
) -> None:
    terminal, log = Terminal(), Log()
    with make(100, stream=terminal, log=log) as progress:
        for _ in range(10):
            clock.now += 1
            progress.advance(10, loss=0.25)
    assert "━" in terminal.getvalue()
    assert "loss 0.2500" in terminal.getvalue()
    assert len(log.events) == 3  # two intervals of five seconds, and the end


def test_text_from_data_is_no_markup_on_a_terminal(
    make: Callable[..., Progress], clock: Clock
) -> None:
    terminal = Terminal()
    with make(10, stream=terminal, label="[red]x") as progress:
        clock.now += 1
        progress.advance(10, part="[/oops]")
    assert "[red]x" in terminal.getvalue()
