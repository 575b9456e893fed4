"""Figures of docs/results.md are what the score rows in the repository say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from eval.answers_again import (
    BEYOND,
    Compared,
    Key,
    Score,
    changes_again,
    compared,
    holm_again,
    mean_again,
    scores_of,
    seeds_again,
)
from eval.published import read_rows

DOCS = Path(__file__).parents[2] / "docs"
ROWS = DOCS / "data/real_vs_ssc_vs_dsc.scores.parquet"
HEADING = "## Real, short or descriptive captions?"
MIXING = "## Does a little alt text help, and how much?"
SEEDS = "## How far do models of the same captions lie apart?"
LAST = 24_000
STYLES = {
    "prompts by people": "human",
    "alt text as prompts": "alt",
    "DSC as prompts": "dsc",
    "SSC as prompts": "ssc",
}
AXES = {
    "objects and background": "objects",
    "number and place": "number_place",
    "colour and size": "colour_size",
    "displayed words": "words",
}


@pytest.fixture(scope="module")
def scores() -> dict[Key, list[Score]]:
    return scores_of(read_rows(ROWS))


def entry(heading: str) -> str:
    page = (DOCS / "results.md").read_text()
    return page[page.index(heading) :].split("\n## ")[0]


@pytest.fixture(scope="module")
def text() -> str:
    return entry(HEADING)


def said(pattern: str, text: str) -> tuple[str, ...]:
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{len(found)} times: {pattern}"
    return found[0] if isinstance(found[0], tuple) else (found[0],)


def one(pattern: str, text: str) -> list[float]:
    return [float(group) for group in said(pattern, text)]


def rounded(values: Sequence[float], digits: int = 1) -> list[float]:
    return [round(value, digits) + 0.0 for value in values]


def claims(arm: str, *, style: str = "human", axis: str = "") -> Key:
    return Key("claims_held", style, "", axis, arm, 0 if arm.startswith("(") else LAST)


def of_one_more(values: Sequence[float]) -> list[float]:
    """Return between what a further value of these lies in 95% of cases."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    return [np.mean(values) + sign * half * np.sqrt(1 + 1 / len(values)) for sign in (-1, 1)]


def signed(text: str) -> list[float]:
    """Return a change and its interval, `1.2 [-3.0, 4.5]`."""
    return [
        float(n.replace("\N{MINUS SIGN}", "-")) for n in re.findall(r"\N{MINUS SIGN}?[\d.]+", text)
    ]


def table_of(text: str, *, head: str) -> dict[str, list[str]]:
    """Return the cells of the table whose head begins so, by the first cell of their row."""
    lines = text[text.index(f"| {head}") :].split("\n\n")[0].splitlines()[2:]
    rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    return {label: cells for label, *cells in rows}


def difference(scores: dict[Key, list[Score]], arm: str, than: str) -> Compared:
    return compared(scores, claims(arm), claims(than))


def test_the_headline_and_its_intervals_are_those_of_the_rows(
    scores: dict[Key, list[Score]], text: str
) -> None:
    c = difference(scores, "dsc", "real")
    printed = one(r"DSC is better than real by ([\d.]+) \[([\d.]+), ([\d.]+)\]", text)
    assert printed == rounded([c.difference, c.with_seeds_low, c.with_seeds_high])
    given = one(r"is \[([\d.]+), ([\d.]+)\] given these twelve models", text)
    assert given == rounded([c.low, c.high])
    by_seed = one(r"By seed: ([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+)\.", text)
    assert by_seed == rounded([c.by_seed[seed] for seed in range(4)])
    assert one(r"finds with 80% power is ([\d.]+)\.", text) == rounded([c.smallest_detectable])
    assert one(r"\((\d+) prompts and (\d) training seeds;", text) == [c.num_prompts, 4]


def test_the_other_pairs_are_corrected_for_all_secondary_comparisons(
    scores: dict[Key, list[Score]], text: str
) -> None:
    last = {k for k in scores if k.samples_seen == LAST and k.metric != "clip_distance"}
    wanted = {(key[:4], arm, "real") for key in last for arm in ("ssc", "dsc")}
    wanted |= {(claims("")[:4], "dsc", "ssc")}
    wanted -= {(claims("")[:4], "dsc", "real")}  # the primary comparison is not corrected
    names = sorted(wanted)
    p_values = [
        compared(scores, Key(*what, arm, LAST), Key(*what, than, LAST)).p
        for what, arm, than in names
    ]
    corrected = dict(zip(names, holm_again(p_values), strict=True))
    assert one(r"corrected for (\d+) comparisons", text) == [len(names)]
    for name, arm, than in (("SSC against real", "ssc", "real"), ("DSC against SSC", "dsc", "ssc")):
        c, p = difference(scores, arm, than), corrected[claims("")[:4], arm, than]
        printed = one(rf"{name}: ([\d.]+) \| \[([\d.]+), ([\d.]+)\] \| ([\d.]+) \| not dist", text)
        assert printed[:3] == rounded([c.difference, *c.deciding])
        assert printed[3:] == rounded([p], 2)
        assert p > 0.05
    gained = one(r"gained ([\d.]+), ([\d.]+), ([\d.]+) and ([\d.]+) points by seed", text)
    by_seed = difference(scores, "ssc", "real").by_seed
    assert gained == rounded([by_seed[seed] for seed in range(4)])
    assert "between \N{MINUS SIGN}0.8 and 18.5 in 95%" in text
    assert rounded(of_one_more([*by_seed.values()])) == [-0.8, 18.5]
    for what, arm, style in (
        ("SSC by", "ssc", "alt"),
        ("and DSC by", "dsc", "alt"),
        ("descriptions, DSC by", "dsc", "dsc"),
    ):
        printed = one(rf"{what} ([\d.]+) \[([\d.]+), ([\d.]+)\](?: points)? \(p = ([\d.]+)", text)
        one_key, other = (Key("clip_similarity", style, "alt", "", a, LAST) for a in (arm, "real"))
        c, p = compared(scores, one_key, other), corrected[one_key[:4], arm, "real"]
        assert printed == [*rounded([c.difference, *c.deciding]), round(p, 3)]


@pytest.mark.parametrize("label", STYLES)
def test_shares_of_claims_that_hold_are_those_of_the_rows(
    scores: dict[Key, list[Score]], text: str, label: str
) -> None:
    row = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    arms = ("real", "ssc", "dsc", "(reconstructions)")
    for cell, arm in zip(cells, arms, strict=True):
        mean = mean_again(scores, claims(arm, style=STYLES[label]))
        assert [float(n) for n in cell.split(" ± ")] == rounded(
            [mean.mean, (mean.high - mean.low) / 2]
        )


@pytest.mark.parametrize("label", AXES)
def test_shares_by_axis_are_those_of_the_rows(
    scores: dict[Key, list[Score]], text: str, label: str
) -> None:
    line = next(line for line in text.splitlines() if line.startswith("By axis, prompts by people"))
    printed = one(rf"{label} ([\d.]+) / ([\d.]+) / (\d+(?:\.\d)?)", line)
    arms = ("real", "ssc", "dsc")
    means = [mean_again(scores, claims(arm, axis=AXES[label])).mean for arm in arms]
    assert printed == rounded(means)


def test_clip_of_descriptive_prompts_is_that_of_the_rows(
    scores: dict[Key, list[Score]], text: str
) -> None:
    printed = one(r"scored with themselves: ([\d.]+) for real, ([\d.]+) for ssc, ([\d.]+)", text)
    keys = [Key("clip_similarity", "dsc", "dsc", "", arm, LAST) for arm in ("real", "ssc", "dsc")]
    assert printed == rounded([mean_again(scores, key).mean for key in keys])


def test_what_one_seed_said_is_that_of_its_rows(scores: dict[Key, list[Score]], text: str) -> None:
    first = {key: [s for s in rows if s.model_seed == 0] for key, rows in scores.items()}
    for arm, than, before in (
        ("dsc", "real", "gave"),
        ("dsc", "ssc", "against real,"),
        ("ssc", "real", "and"),
    ):
        c = difference(first, arm, than)
        names = {"real": "real", "ssc": "SSC", "dsc": "DSC"}
        printed = one(
            rf"{before} ([\d.]+) \[([\d.]+), ([\d.]+)\] for {names[arm]} against {names[than]}",
            text,
        )
        assert printed == rounded([c.difference, c.low, c.high])


def test_the_shares_of_each_mix_are_those_of_the_rows() -> None:
    scores = scores_of(read_rows(DOCS / "data/mixing.scores.parquet"))
    text = entry(MIXING)
    mixes = ("real", "dsc_25", "dsc_50", "dsc_65", "dsc_80", "dsc_90", "dsc", "dsc_100")
    labels = STYLES | {"rewritten prompts": "upsampled"}
    rows = [line for line in text.splitlines() if line.startswith("| ") and "." in line]
    assert len(rows) == 4
    for row in rows:
        label, *cells = [cell.strip() for cell in row.strip("| ").split("|")]
        keys = [claims(arm, style=labels[label]) for arm in mixes]
        assert [float(c) for c in cells] == rounded([mean_again(scores, k).mean for k in keys])
    c = difference(scores, "dsc", "dsc_100")
    printed = one(r"difference \N{MINUS SIGN}([\d.]+) \[\N{MINUS SIGN}([\d.]+), ([\d.]+)\]", text)
    assert printed == rounded([-c.difference, -c.low, c.high])


def test_what_other_forms_change_is_what_the_rows_say() -> None:
    scores = scores_of(read_rows(DOCS / "data/regularities.scores.parquet"))
    scores |= changes_again(scores)
    text = entry("## What if prompts lose the captioner's form?")
    forms = {
        "lower case": "lower", "no final punctuation": "no_stop", "no leading article": "bare",
        "sentences shuffled": "shuffled", "first sentence alone": "first",
        "in people's words": "people", "lower case, shuffled, no final stop": "altered",
    }  # fmt: skip
    table = table_of(text, head="change in claims that hold")
    assert table.keys() == forms.keys()
    for label, cells in table.items():
        style = f"dsc_{forms[label]}{BEYOND}dsc"
        for arm, cell in zip(("dsc_80", "dsc", "dsc_100"), cells, strict=True):
            mean = mean_again(scores, claims(arm, style=style))
            assert signed(cell) == rounded([mean.mean, mean.low, mean.high]), (label, arm)
    printed = said(r"people's words costs .*: (.*) \(80%\), (.*) \(95%\) and (.*) \(100%\)\.", text)
    for cell, arm in zip(printed, ("dsc_80", "dsc", "dsc_100"), strict=True):
        mean = mean_again(
            scores, Key("clip_similarity", f"dsc_people{BEYOND}dsc", "dsc", "", arm, LAST)
        )
        assert signed(cell.replace(" points", "")) == rounded([-mean.mean, -mean.high, -mean.low])


def test_what_rewriting_changes_is_what_the_rows_say() -> None:
    scores = scores_of(read_rows(DOCS / "data/upsampling.scores.parquet"))
    scores |= changes_again(scores)
    text = entry("## Do rewritten prompts help?")
    styles = {
        "prompts by people": "human", "the same, rewritten": "upsampled",
        "change": f"upsampled{BEYOND}human", "DSC as prompts": "dsc",
    }  # fmt: skip
    table = table_of(text, head="claims of the original that hold")
    assert table.keys() == styles.keys()
    for label, cells in table.items():
        for arm, cell in zip(("real", "tags", "ssc", "dsc"), cells, strict=True):
            mean = mean_again(scores, claims(arm, style=styles[label]))
            interval = [mean.low, mean.high] if label == "change" else [mean.high - mean.mean]
            assert signed(cell) == rounded([mean.mean, *interval]), (label, arm)


def test_the_spread_of_seeds_is_that_of_the_rows() -> None:
    scores = scores_of(read_rows(DOCS / "data/seed_noise.scores.parquet"))
    text = entry(SEEDS)
    found = seeds_again(scores, claims("dsc"))
    spread = [found.deviation, found.low, found.high]
    assert one(r"\*\*Training .* of ([\d.]+) \[([\d.]+), ([\d.]+)\]", text) == rounded(spread)
    by_seed = one("By seed 0 to 7: " + ", ".join([r"([\d.]+)"] * 8) + r"\.", text)
    assert by_seed == rounded([found.means[seed] for seed in range(8)])
    assert one(r"lie ([\d.]+) points apart", text) == rounded([found.between_two])
    called = [found.num_called_different, found.num_pairs]
    assert one(r"calls (\d+) of (\d+) pairs different", text) == called
    clip = seeds_again(scores, Key("clip_similarity", "human", "human", "", "dsc", LAST))
    spread = [clip.deviation, clip.low, clip.high]
    assert one(r"deviation is ([\d.]+) \[([\d.]+), ([\d.]+)\] points", text) == rounded(spread)
    called = [clip.num_called_different, clip.num_pairs]
    assert one(r"and (\d+) of (\d+) pairs are", text) == called


def test_the_program_that_computes_a_figure_again_prints_what_its_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "evaluation/report.md").read_text()
    found = re.search(r"```python\n(.*?)```\n\nprints `([^`]+)`", page, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(DOCS.parent)
    exec(compile(found[1], "report.md", "exec"), {})
    assert capsys.readouterr().out == found[2] + "\n"
