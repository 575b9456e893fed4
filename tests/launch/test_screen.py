"""What a person sees of a running study, in a log and on a terminal."""

from __future__ import annotations

import io
import os
import pty
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from launch.progress import Progress
from launch.screen import Screen

PROGRESS = "step 5  samples 50/100 (50%)  loss 0.6  12 img/s"
ERASE_LINE, HIDE_CURSOR, SHOW_CURSOR = "\x1b[2K", "\x1b[?25l", "\x1b[?25h"

OnTerminal = Callable[[Callable[[Screen], Any]], str]


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> OnTerminal:
    """Give a function that lets a screen work on a pseudo-terminal and returns what it received."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def received(work: Callable[[Screen], Any]) -> str:
        terminal, ours = pty.openpty()
        parts: list[bytes] = []

        def read() -> None:
            while True:
                try:
                    part = os.read(terminal, 4096)
                except OSError:  # Linux says so when the other side is closed
                    return
                if not part:
                    return
                parts.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with os.fdopen(ours, "w") as stdout, monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", stdout)
                with suppress(KeyboardInterrupt), Screen(total=2, minutes=4) as screen:
                    work(screen)
        finally:
            reader.join()
            os.close(terminal)
        return b"".join(parts).decode()

    return received


def last_frame(received: str) -> str:
    """Return what was drawn after the last time that anything was erased."""
    return received.rpartition(ERASE_LINE)[2].replace(HIDE_CURSOR, "")


def test_a_log_has_every_line_with_the_name_of_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(total=2, minutes=4) as screen:
        screen.show("train[dsc,0]", PROGRESS)
        screen.show("score", "CLIP [ViT-B/32]")
        screen.show("train[dsc,0]", PROGRESS)
    assert capsys.readouterr().out.splitlines() == [
        f"train[dsc,0]   {PROGRESS}",
        "score          CLIP [ViT-B/32]",
        f"train[dsc,0]   {PROGRESS}",
    ]


def test_a_log_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(total=1, minutes=0) as screen:
        screen.show("one", PROGRESS)
        screen.finished("one", minutes=0)
    assert "\x1b" not in capsys.readouterr().out


def test_finished_steps_are_counted_out_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(total=3, minutes=4) as screen:
        for name in ("one", "two"):
            screen.finished(name, minutes=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" finished")[0] for line in lines] == ["[1/3] one", "[2/3] two"]


@pytest.mark.parametrize(
    ("total_minutes", "minutes", "is_told"),
    [(4, 1, True), (4, 4, False), (4, 0, False), (0, 0, False)],
)
def test_the_time_left_is_told_where_it_can_be_predicted(
    capsys: pytest.CaptureFixture[str], total_minutes: float, minutes: float, is_told: bool
) -> None:
    with Screen(total=2, minutes=total_minutes) as screen:
        screen.finished("one", minutes=minutes)
    assert ("min left" in capsys.readouterr().out) == is_told


def test_on_a_terminal_a_running_step_has_a_bar_of_its_share(on_terminal: OnTerminal) -> None:
    shown = on_terminal(lambda screen: screen.show("one", PROGRESS))
    assert f"one            {'━' * 12}{'─' * 12} {PROGRESS}" in shown


def test_on_a_terminal_the_line_of_any_progress_becomes_a_bar(on_terminal: OnTerminal) -> None:
    with Progress(8, label="train", stream=io.StringIO()) as progress:
        progress.advance(2, loss=0.5)
        line = progress.line()
    shown = on_terminal(lambda screen: screen.show("one", line))
    assert f"one            {'━' * 6}{'─' * 18} train" in shown


def test_on_a_terminal_progress_replaces_the_last_progress(on_terminal: OnTerminal) -> None:
    def work(screen: Screen) -> None:
        for share in (25, 75):
            screen.show("one", PROGRESS.replace("(50%)", f"({share}%)"))

    frame = last_frame(on_terminal(work))
    assert [share for share in ("(25%)", "(75%)") if share in frame] == ["(75%)"]


def test_on_a_terminal_every_running_step_has_a_line(on_terminal: OnTerminal) -> None:
    def work(screen: Screen) -> None:
        for name in ("one", "two"):
            screen.show(name, PROGRESS)

    lines = last_frame(on_terminal(work)).splitlines()
    assert [line.split()[0] for line in lines if "━" in line] == ["one", "two"]


def test_on_a_terminal_a_finished_step_loses_its_bar(on_terminal: OnTerminal) -> None:
    def work(screen: Screen) -> None:
        screen.show("one", PROGRESS)
        screen.finished("one", minutes=1)

    assert "━" not in last_frame(on_terminal(work))


def test_on_a_terminal_other_lines_stay_and_are_no_markup(on_terminal: OnTerminal) -> None:
    shown = on_terminal(lambda screen: screen.show("score", "judge [bold]ViT[/bold] written"))
    assert "score          judge [bold]ViT[/bold] written" in shown


def test_on_a_terminal_empty_lines_are_left_out(on_terminal: OnTerminal) -> None:
    assert "score" not in on_terminal(lambda screen: screen.show("score", "  "))


def test_an_interrupted_study_gives_the_cursor_back(on_terminal: OnTerminal) -> None:
    def work(screen: Screen) -> None:
        screen.show("one", PROGRESS)
        raise KeyboardInterrupt

    shown = on_terminal(work)
    assert shown.rfind(SHOW_CURSOR) > shown.rfind(HIDE_CURSOR) >= 0
