"""Where the time of a job goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from launch.stages import Stages


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_is_counted_for_the_innermost_stage_alone() -> None:
    clock = Clock()
    stages = Stages(clock)
    clock.now = 5  # before any stage: counted nowhere
    with stages.stage("outer"):
        clock.now += 1
        with stages.stage("inner"):
            clock.now += 3
        clock.now += 2
    assert stages.seconds == {"outer": 3, "inner": 3}


def test_waiting_for_items_is_apart_from_working_on_them() -> None:
    clock = Clock()
    stages = Stages(clock)

    def items() -> Iterator[int]:
        for item in (1, 2):
            clock.now += 4
            yield item

    with stages.stage("work"):
        for _ in stages.waiting("wait", items()):
            clock.now += 1
    assert stages.seconds == {"work": 2, "wait": 8}
    assert stages.shares() == {"wait": 0.8, "work": 0.2}
    assert stages.line() == "time: wait 80%, work 20%; the bottleneck is wait"


def test_an_error_ends_its_stage() -> None:
    clock = Clock()
    stages = Stages(clock)

    def fail() -> None:
        with stages.stage("inner"):
            clock.now += 1
            raise ValueError("no")

    with stages.stage("outer"):
        with pytest.raises(ValueError, match="no"):
            fail()
        clock.now += 1
    assert stages.seconds == {"outer": 1, "inner": 1}


def test_a_job_that_did_nothing_has_no_bottleneck() -> None:
    assert Stages(Clock()).line() == "time: none was spent"
