"""The numbers that a report's summary prints, computed again from its rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
from launch.manifest import read_manifest

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
        yield from _check_words(" ".join(first.split()), tests, found)
        yield from _check_caveats(" ".join(" ".join(blocks).split()), tests[0], found[0])
    num_means = 0
    for block in blocks:
        head, *lines = block.splitlines()
        if not lines or "  " not in head.strip():
            continue
        title, *arms = re.split(r"\s{2,}", head)
        for line in lines:
            label, *cells = re.split(r"\s{2,}", line.strip())
            num_means += len(cells)
            yield from _check_means(title, label, dict(zip(arms, cells, strict=True)), tables,
                                    scores, last)  # fmt: skip
    if "following" not in tables:  # from rows alone: there is no table to count by
        return
    style = read_manifest(report).config["primary"]["style"]
    yield Checked("summary", "means", "number", num_means, _num_means(tables, style=style), 0)


def _check_words(
    sentence: str, tests: Sequence[dict[str, str]], found: Sequence[Compared]
) -> Iterator[Checked]:
    """Compare which arm the first sentence calls better, and over how many prompts."""
    better, than = tests[0]["arm"], tests[0]["than"]
    for record, c in zip(tests, found, strict=True):
        told = f"{better} and {than} are not distinguishable in"
        if c.verdict != "not distinguishable":
            told = f"{better} is {c.verdict} than {than} by"
        where = f"{where_of(record)}, expected {told!r}"
        yield Checked("headline", where, "verdict", told in sentence, 1, 0)
    for told in re.findall(r"([\d,]+) prompts?\b", sentence):
        number = float(told.replace(",", ""))
        yield Checked("headline", "all", "num_prompts", number, found[0].num_prompts, 0)


def _check_caveats(caveats: str, record: dict[str, str], c: Compared) -> Iterator[Checked]:
    """Compare the numbers of what is said beneath the first sentence."""
    where, number = where_of(record), r"(-?[\d.]+)"
    for told in re.findall(rf"true difference of {number}", caveats):
        yield from _printed("caveats", where, [told], [c.smallest_detectable])
    for told in re.findall(rf"alone the interval is \[{number}, {number}\]", caveats):
        yield from _printed("caveats", where, told, [c.low, c.high])
    for told in re.findall(r"differences by seed are (.*?[\d.]+) [a-z]", caveats):
        by_seed = [c.by_seed[seed] for seed in sorted(c.by_seed)]
        yield from _printed("caveats", where, told.split(", "), by_seed)


def _num_means(tables: dict[str, list[dict[str, str]]], *, style: str) -> int:
    """Count the means that a summary prints: one for each arm and ceiling in each of its rows."""
    means = {
        name: [r for r in of if not r["than"]] for name, of in tables.items() if name != "curves"
    }
    return (
        sum(not r["axis"] or r["prompt_style"] == style for r in means["following"])
        + sum(r["scoring"] == r["prompt_style"] for r in means["grid"])
        + sum(r["metric"] in JUDGED and not r["axis"] for r in means["checks"])
    )


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
        column = {"headline": ("estimate", "low", "high"), "summary": ("mean", "half")}.get(table)
        yield Checked(
            table,
            where,
            column[i] if column else f"number {i + 1}",
            float(text),
            float(value),
            half_a_digit,
        )
