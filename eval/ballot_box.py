"""Files of votes, as the page gives them: read, checked against the key, and counted once.

A line is one vote:

    {"page": DIGEST, "rater": NAME, "trial": ID, "choice": "left" | "right" | "tie",
     "milliseconds": TIME}

Nothing is repaired. A line that cannot be read, a vote on another page or on an unknown pair, and
two votes of one rater on one trial that contradict each other stop the reading, each by name. The
same vote twice, as in an early and a later file of one rater, counts once, with the shorter of its
times, so that the order of files means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval.votes_artifact import CHOICES, Choice, Preference, Trial
from launch.errors import InputError

MAX_NAME = 64
"""Longest name of a rater, as on the page."""


class Vote(NamedTuple):
    """One vote and what it was cast on."""

    rater: str
    trial: Trial
    choice: Choice
    milliseconds: int | None


class Box(NamedTuple):
    """All votes, each once."""

    votes: list[Vote]
    num_lines: int
    num_again: int
    """Lines that said what an earlier one had said."""


def read_votes(files: Sequence[Path], preference: Preference) -> Box:
    """Read files of votes on one page.

    Raises:
        InputError: A file is absent, a line is broken or of another page, or two contradict.
    """
    found: dict[tuple[str, str], tuple[Vote, str]] = {}
    num_lines = 0
    for path in files:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            num_lines += 1
            where = f"{path}:{number}"
            vote = _vote(line, where=where, preference=preference)
            key = (vote.rater, vote.trial.trial_id)
            before, place = found.setdefault(key, (vote, where))
            if _time(vote) < _time(before):
                found[key] = vote, where
            if before.choice != vote.choice:
                raise InputError(
                    f"{where}: rater {vote.rater!r} votes {vote.choice} on trial "
                    f"{vote.trial.trial_id}, but {before.choice} at {place}. Keep the rater's last "
                    "file alone; if two people used one name, rename one of them."
                )
    if not found:
        raise InputError(f"{', '.join(map(str, files))}: hold no vote; expected one JSON a line.")
    votes = [vote for vote, _ in found.values()]
    return Box(votes=votes, num_lines=num_lines, num_again=num_lines - len(votes))


def _time(vote: Vote) -> float:
    return float("inf") if vote.milliseconds is None else vote.milliseconds


def _lines(path: Path) -> list[str]:
    try:
        # Not `splitlines`: it also splits at U+2028 and others, which a string of JSON may hold.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of votes. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as UTF-8 text ({error}). Ask the rater for the file again."
        ) from error


def _vote(line: str, *, where: str, preference: Preference) -> Vote:
    try:
        said = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{where}: not a line of JSON ({error}); it was cut or edited. Ask for the file again."
        ) from error
    if not isinstance(said, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(said).__name__}.")
    for name in ("page", "rater", "trial", "choice"):
        if not isinstance(said.get(name), str):
            raise InputError(
                f"{where}: `{name}` is {said.get(name)!r}, expected text. Ask for the file again."
            )
    if said["page"] != preference.page_digest:
        raise InputError(
            f"{where}: is a vote on page {said['page'][:12]}, but {preference.manifest.folder} "
            f"holds page {preference.page_digest[:12]}. Name the preference artifact of that page."
        )
    trial = preference.trials.get(said["trial"])
    if trial is None:
        raise InputError(
            f"{where}: trial {said['trial']!r} is not on page {preference.page_digest[:12]}; the "
            "line was edited. Ask for the file again."
        )
    if said["choice"] not in CHOICES:
        raise InputError(
            f"{where}: `choice` is {said['choice']!r}, expected one of {', '.join(CHOICES)}."
        )
    rater = said["rater"].strip()
    if not 0 < len(rater) <= MAX_NAME:
        raise InputError(
            f"{where}: `rater` has {len(rater)} characters, expected 1 to {MAX_NAME}. Every vote "
            "needs the name of who cast it."
        )
    time = said.get("milliseconds")
    if time is not None and (not isinstance(time, int) or isinstance(time, bool) or time < 0):
        raise InputError(f"{where}: `milliseconds` is {time!r}, expected a whole number or none.")
    return Vote(rater=rater, trial=trial, choice=said["choice"], milliseconds=time)
