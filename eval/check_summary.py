"""The numbers that a report's summary prints, computed again from its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval.answers_again import (
    BEYOND,
    JUDGED,
    Key,
    Score,
    compared,
    mean_again,
    own_interval,
    seeds_again,
)
from eval.checked import Checked, key_of, read_table, where_of
from eval.words import AXIS_NAMES

AXES = {name: axis for axis, name in AXIS_NAMES.items()}
"""Axes by the names that the summary gives them."""


def check_summary(
    report: Path,
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Compare the headline's numbers and the means, as far as they are printed."""
    text = (report / "summary.txt").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    first, *blocks = text.split("\n\n")
    said = re.findall(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", " ".join(first.split()))
    tests = [r for r in tables["primary"] if not r["training_seed"]]
    if not tests:
        yield from _check_seed_headline(said, report, scores, last)
    if tests and tests[0]["verdict"] != "withheld":
        found = [
            compared(scores, *(key_of(r, r[n], last[r[n]]) for n in ("arm", "than"))) for r in tests
        ]
        expected = []
        for record, c in zip(tests, found, strict=True):
            ends = [c.difference, *c.deciding]
            if c.deciding[1] < 0:  # "worse by": told the other way round
                ends = [-c.difference, -c.deciding[1], -c.deciding[0]]
            if np.isfinite(c.deciding[0]):  # without an interval the sentence says why
                expected.append((where_of(record), ends))
            for arm in (record["arm"], record["than"]) if BEYOND in record["prompt_style"] else ():
                key = key_of(record, arm, last[arm])
                own = [mean_again(scores, key).mean, *own_interval(scores, key)]
                expected.append((f"{where_of(record)}, {arm} itself", own))
        for (where, ends), printed in zip(expected, said, strict=True):
            yield from _printed("headline", where, printed, ends)
    for block in blocks:
        head, *lines = block.splitlines()
        if not lines or "  " not in head.strip():
            continue
        title, *arms = re.split(r"\s{2,}", head)
        for line in lines:
            label, *cells = re.split(r"\s{2,}", line.strip())
            yield from _check_means(title, label, dict(zip(arms, cells, strict=True)), tables,
                                    scores, last)  # fmt: skip


def _check_seed_headline(
    said: list[tuple[str, str, str]],
    report: Path,
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    """Compare the sentence of a report in which no arms are compared."""
    for record in read_table(report / "tables" / "seeds.csv"):
        if said and not record["training_seed"]:
            again = seeds_again(scores, key_of(record, record["arm"], last[record["arm"]]))
            ends = [again.deviation, again.low, again.high]
            yield from _printed("headline", where_of(record), said[0], ends)
            return


def _check_means(
    title: str,
    label: str,
    cells: dict[str, str],
    tables: dict[str, list[dict[str, str]]],
    scores: dict[Key, list[Score]],
    last: dict[str, int],
) -> Iterator[Checked]:
    for arm, cell in cells.items():
        if title.startswith("by axis, "):
            style = title.removeprefix("by axis, ").split(" prompts")[0]
            key = Key("claims_held", style, "", AXES.get(label, label), arm, last[arm])
        elif (metric := title.split(":")[0]) in JUDGED:
            key = Key(metric, label.removesuffix(" prompts"), "", "", arm, last[arm])
        elif title.startswith("claims"):
            key = Key("claims_held", label.removesuffix(" prompts"), "", "", arm, last[arm])
        else:
            style = label.removesuffix(" prompts")
            key = Key("clip_similarity", style, style, "", arm, last[arm])
        mean = mean_again(scores, key)
        printed = re.findall(r"-?\d[\d.]*", cell.split("(")[0])
        half = (mean.high - mean.low) / 2
        yield from _printed("summary", f"{title}, {label}, {arm}", printed, [mean.mean, half])


def _printed(table: str, where: str, printed: Any, again: list[float]) -> Iterator[Checked]:
    """Compare numbers that were rounded to the digits that they are printed with."""
    for i, (text, value) in enumerate(zip(printed, again, strict=False)):
        digits = len(text.partition(".")[2])
        half_a_digit = 0.5 * 10**-digits * (1 + 1e-6) + 1e-9
        column = ("estimate", "low", "high")[i] if table == "headline" else ("mean", "half")[i]
        yield Checked(table, where, column, float(text), float(value), half_a_digit)
