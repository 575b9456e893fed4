"""From score rows to the report's answers: means, paired differences, curves, the headline.

Nothing here formats a page; every number that the report prints is in an `Answers`, at full
precision. The headline is the one comparison that the study named before it ran; all others are
secondary and share one Holm correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from eval.artifacts import BY_SENTENCES
from eval.config import PrimaryConfig
from eval.intervals import Interval, t_interval
from eval.metrics import PRIMARY
from eval.pairing import Rows, cluster_means
from eval.report_headline import Test, caveats_of, headline_of
from eval.report_rows import (
    CHECKS,
    Measure,
    ScoreTable,
    change_of,
    describe,
    primary_measure,
)
from eval.seed_noise import MIN_SEEDS, mean_of, seed_headline, seed_noise_of
from eval.stats import Comparison, Verdict, compare, holm
from launch.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One secondary comparison, on the printed scale."""

    arm: str
    than: str
    comparison: Comparison
    p_holm: float
    """p corrected over all secondary comparisons of the report."""

    @property
    def verdict(self) -> Verdict:
        """What may be said after the correction."""
        return self.comparison.verdict_at(self.p_holm)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measure: the mean of every arm and the differences to the reference arm."""

    measure: Measure
    means: dict[str, Interval]
    """Given the trained models; ceilings included where they were scored."""

    differences: list[Difference]
    num_prompts: int
    num_pictures: int
    """Pictures of one arm."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Mean of one arm at one moment of its training."""

    arm: str
    samples_seen: int
    mean: Interval
    by_seed: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A measure against training progress, on the prompts that every moment was sampled for."""

    measure: Measure
    points: list[CurvePoint]
    num_prompts: int

    def of(self, arm: str) -> list[CurvePoint]:
        """Return one arm's points, earliest first."""
        return [p for p in self.points if p.arm == arm]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All that the score rows say."""

    headline: str
    """The first sentence."""

    caveats: list[str]
    """What must be read with it."""

    outcome: str
    """One of better, worse, not distinguishable, pass, fail, described (no arms are compared),
    withheld."""

    withheld: str | None
    """Why no ranking is given; None if one is."""

    primary: PrimaryConfig
    tests: list[Test]
    """The primary comparison; of a control, also that in CLIP score."""

    arms: list[str]
    """Reference arm first, then as the study lists them."""

    ceilings: list[str]
    grid: list[Cell]
    """CLIP similarity for every prompt style and scoring caption."""

    distances: list[Cell]
    """CLIP distance for the same; means alone."""

    by_sentences: list[Cell]
    """CLIP similarity by sentences for the same, where texts were cut."""

    following: list[Cell]
    """Claims that hold: per prompt style all axes, then each."""

    checks: list[Cell]
    """Prompts of which all holds, over the tasks and in each; displayed words."""

    changes: list[Cell]
    """What another prompt style changes, in claims that hold and in CLIP similarity."""

    pairs: list[Difference]
    """Every pair of arms on the primary measure."""

    curves: list[Curve]
    num_secondary: int
    """Comparisons that share the Holm correction."""

    @property
    def measures(self) -> list[Measure]:
        """Everything that is published; distances follow from similarities."""
        return [c.measure for c in (*self.grid, *self.by_sentences, *self.following, *self.checks)]


def answer(
    table: ScoreTable,
    *,
    arms: Sequence[str],
    primary: PrimaryConfig,
    axes: Sequence[str],
    is_control: bool,
    withheld: str | None,
    changes: Mapping[str, str],
    resamples: int,
    seed: int,
    is_public_clip: bool = False,
) -> Answers:
    """Compute everything that the report prints of the scores.

    Args:
        table: The score rows.
        arms: Arms, the reference first.
        primary: The comparison that the study named.
        axes: Axes of claims that the judge can measure, in printed order.
        is_control: The headline says whether the instrument works.
        withheld: Why no ranking may be given, or None.
        changes: Prompt style -> style from which its change is told.
        resamples: Resamples of the headline's bootstrap and permutation test.
        seed: Seed of the resampling.
        is_public_clip: CLIP scores are those of a public CLIP, which nobody measured here.

    Raises:
        InputError: Arms stopped at different moments, or a row lacks its partner.
    """
    _check_moments(table, arms)
    measure = primary_measure(primary)
    measures = table.measures
    tests = []
    wanted = [measure]
    noise = None
    if primary.better == primary.than:
        noise = next(iter(seed_noise_of(table, measure, [primary.better])), None)
        wanted = []
    elif is_control:
        wanted = [Measure("claims_held", primary.style)]
        wanted += [Measure("clip_similarity", primary.style, primary.style)]
        wanted = [m for m in wanted if m in measures]
    for m in wanted:
        paired = table.paired(m, primary.better, primary.than)
        if paired is not None:
            comparison = compare(paired, resamples=resamples, seed=seed)
            tests.append(Test(measure=m, comparison=comparison, own=_own(table, m, primary)))
    if not tests and noise is None:
        withheld = withheld or (
            f"no picture was scored for the primary measure, {describe(measure)}; of "
            f"{primary.style} prompts the scores hold {_named(measures, primary.style)}"
            if wanted
            else f"{primary.better} has fewer than {MIN_SEEDS} training seeds that were scored for "
            f"{describe(measure)}"
        )

    grid = [_cell(table, m, arms) for m in measures if m.metric == "clip_similarity"]
    by_sentences = [_cell(table, m, arms) for m in measures if m.metric == BY_SENTENCES]
    distances = [
        _cell(table, m, arms, is_compared=False) for m in measures if m.metric == "clip_distance"
    ]
    claims = [m for m in measures if m.metric == "claims_held" and m.axis in {None, *axes}]
    rank = {axis: i for i, axis in enumerate([None, *axes])}
    claims.sort(key=lambda m: (m.style, rank[m.axis]))
    following = [_cell(table, m, arms) for m in claims]
    checks = [_cell(table, m, arms) for check in CHECKS for m in measures if m.metric == check]
    changed = [_cell(table, m, arms) for m in _change_measures(changes, measures)]
    pairs = [
        Difference(arm=b, than=a, comparison=compare(paired), p_holm=1.0)
        for i, a in enumerate(arms)
        for b in arms[i + 1 :]
        if (paired := table.paired(measure, b, a)) is not None
    ]
    corrected, pairs, num_secondary = _correct(
        [grid, by_sentences, following, checks, changed], pairs, primary=primary, measure=measure
    )
    grid, by_sentences, following, checks, changed = corrected
    if noise is not None and withheld is None:
        outcome, headline = "described", seed_headline(noise, measure)
    else:
        outcome, headline = headline_of(
            primary,
            tests,
            is_control=is_control,
            withheld=withheld,
            is_public_clip=is_public_clip,
        )
    return Answers(
        headline=headline,
        caveats=caveats_of(
            tests, is_control=is_control, outcome=outcome, tasks=table.tasks(primary.style)
        ),
        outcome=outcome,
        withheld=withheld,
        primary=primary,
        tests=tests,
        arms=list(arms),
        ceilings=table.ceilings,
        grid=_first(grid, primary.style),
        distances=_first(distances, primary.style),
        by_sentences=_first(by_sentences, primary.style),
        following=_first(following, primary.style),
        checks=_first(checks, primary.style),
        changes=changed,
        pairs=pairs,
        curves=_first(_curves(table, measures, arms, axes), primary.style),
        num_secondary=num_secondary,
    )


def _own(table: ScoreTable, measure: Measure, primary: PrimaryConfig) -> dict[str, Interval]:
    """Return the change of each arm by itself, where the primary comparison is of two changes."""
    if primary.against is None:
        return {}
    found = ((arm, table.rows(measure, arm)) for arm in (primary.better, primary.than))
    return {arm: mean_of(rows, arm=arm) for arm, rows in found if rows is not None}


def _named(measures: Sequence[Measure], style: str) -> str:
    """List what a study could have named as its primary measure."""
    held = {m.metric for m in measures if m.style == style and m.axis is None}
    return ", ".join(name for name, metric in PRIMARY.items() if metric in held) or "nothing"


def _first(cells: list[Any], style: str) -> list[Any]:
    """Put the style in which arms are compared first, and in each the prompt itself first."""

    def place(cell: Any) -> tuple[bool, str, bool]:
        m = cell.measure
        return m.style != style, m.style, m.scoring is not None and m.scoring != m.style

    return sorted(cells, key=place)


def _check_moments(table: ScoreTable, arms: Sequence[str]) -> None:
    last = {arm: table.moments[arm][-1] for arm in arms if arm in table.moments}
    if len(set(last.values())) > 1:
        shown = ", ".join(f"{arm} {seen:,}" for arm, seen in last.items())
        raise InputError(
            f"scores: arms stopped after different numbers of pictures ({shown}); arms are "
            "compared at equal training. Train them equally long and score again."
        )


def _cell(
    table: ScoreTable, measure: Measure, arms: Sequence[str], *, is_compared: bool = True
) -> Cell:
    found = {
        arm: rows
        for arm in [*arms, *table.ceilings]
        if (rows := table.rows(measure, arm)) is not None
    }
    differences = []
    for arm in arms[1:] if is_compared else []:
        paired = table.paired(measure, arm, arms[0])
        if paired is not None:
            differences.append(
                Difference(arm=arm, than=arms[0], comparison=compare(paired), p_holm=1.0)
            )
    sizes = [rows for arm, rows in found.items() if arm in arms]
    return Cell(
        measure=measure,
        means={arm: t_interval(cluster_means(rows)) for arm, rows in found.items()},
        differences=differences,
        num_prompts=max((len(np.unique(r.pair)) for r in sizes), default=0),
        num_pictures=max((len(r.value) for r in sizes), default=0),
    )


def _change_measures(changes: Mapping[str, str], measures: Sequence[Measure]) -> list[Measure]:
    """Return what can be told of each change: claims that hold, CLIP with the base's own text."""
    found = []
    for style, base in changes.items():
        for metric, scoring in (("claims_held", None), ("clip_similarity", base)):
            of = [Measure(metric, name, scoring) for name in (style, base)]
            if all(m in measures for m in of):
                found.append(Measure(metric, change_of(style, base), scoring))
    return found


def _correct(
    groups: Sequence[list[Cell]],
    pairs: list[Difference],
    *,
    primary: PrimaryConfig,
    measure: Measure,
) -> tuple[list[list[Cell]], list[Difference], int]:
    """Give every secondary comparison its Holm-corrected p; the primary keeps its own.

    A comparison that is printed twice (in its cell and among the pairs) counts once.
    """
    families: dict[tuple[Measure, str, str], float] = {}
    for cell in chain.from_iterable(groups):
        for d in cell.differences:
            families[cell.measure, d.arm, d.than] = d.comparison.p_value
    for d in pairs:
        families[measure, d.arm, d.than] = d.comparison.p_value
    headline = (measure, primary.better, primary.than)
    own = families.pop(headline, None)
    adjusted = dict(zip(families, holm(list(families.values())).tolist(), strict=True))
    if own is not None:
        adjusted[headline] = own

    def corrected(m: Measure, differences: list[Difference]) -> list[Difference]:
        return [replace(d, p_holm=adjusted[m, d.arm, d.than]) for d in differences]

    def cells(old: list[Cell]) -> list[Cell]:
        return [replace(c, differences=corrected(c.measure, c.differences)) for c in old]

    return [cells(group) for group in groups], corrected(measure, pairs), len(families)


def _curves(
    table: ScoreTable, measures: Sequence[Measure], arms: Sequence[str], axes: Sequence[str]
) -> list[Curve]:
    curves = []
    for measure in measures:
        if measure.metric not in ("clip_similarity", "claims_held"):
            continue
        if measure.axis is not None:
            continue
        at = {
            (arm, moment): rows
            for arm in arms
            for moment in table.moments.get(arm, [])
            if (rows := table.rows(measure, arm, samples_seen=moment)) is not None
        }
        if len({moment for _, moment in at}) < 2:
            continue
        # Earlier snapshots draw fewer prompts: a line must not bend because the prompts changed.
        shared = at[next(iter(at))].pair
        for rows in at.values():
            shared = np.intersect1d(shared, rows.pair)
        if not len(shared):
            continue
        points = []
        for (arm, moment), rows in at.items():
            rows = Rows(*(column[np.isin(rows.pair, shared)] for column in rows))
            by_seed = tuple(
                (int(s), float(rows.value[rows.model_seed == s].mean()))
                for s in np.unique(rows.model_seed)
            )
            points.append(
                CurvePoint(
                    arm=arm, samples_seen=moment, by_seed=by_seed,
                    mean=t_interval(cluster_means(rows)),
                )
            )  # fmt: skip
        curves.append(Curve(measure=measure, points=points, num_prompts=len(shared)))
    return curves
