"""Where the time of a job goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recap.timing import Timing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_is_counted_for_the_innermost_span_alone() -> None:
    clock = Clock()
    timing = Timing(clock)
    clock.now = 5  # before any span: counted nowhere
    with timing.span("outer"):
        clock.now += 1
        with timing.span("inner"):
            clock.now += 3
        clock.now += 2
    assert timing.seconds == {"outer": 3, "inner": 3}


def test_waiting_for_items_is_apart_from_working_on_them() -> None:
    clock = Clock()
    timing = Timing(clock)

    def items() -> Iterator[int]:
        for item in (1, 2):
            clock.now += 4
            yield item

    with timing.span("work"):
        for _ in timing.waiting("wait", items()):
            clock.now += 1
    assert timing.seconds == {"work": 2, "wait": 8}
    assert timing.shares() == {"wait": 0.8, "work": 0.2}
    assert timing.line() == "time: wait 80%, work 20%; the bottleneck is wait"


def test_an_error_ends_its_span() -> None:
    clock = Clock()
    timing = Timing(clock)

    def fail() -> None:
        with timing.span("inner"):
            clock.now += 1
            raise ValueError("no")

    with timing.span("outer"):
        with pytest.raises(ValueError, match="no"):
            fail()
        clock.now += 1
    assert timing.seconds == {"outer": 1, "inner": 1}


def test_a_job_that_did_nothing_has_no_bottleneck() -> None:
    assert Timing(Clock()).line() == "time: none was spent"
