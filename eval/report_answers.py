"""From score rows to the report's answers: means, paired differences, curves, the headline.

Nothing here formats a page; every number that the report prints is in an `Answers`, at full
precision. The headline is the one comparison that the study named before it ran; all others are
secondary and share one Holm correction.

N rows of the table
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.artifacts import PICTURES_ARM, PROMPT_SCORING, RECONSTRUCTIONS_ARM
from eval.config import PrimaryConfig
from eval.stats import (
    Comparison,
    Interval,
    Rows,
    Verdict,
    cluster_means,
    compare,
    holm,
    pair_rows,
    t_interval,
)
from launch.errors import InputError

CEILINGS = (PICTURES_ARM, RECONSTRUCTIONS_ARM)
"""Arms that are no models: what real pictures score, bare and through the autoencoder."""

SCALE = {"clip_similarity": 1.0, "clip_distance": 1.0, "claims_held": 100.0}
"""Factor from stored to printed values: shares are printed as percentages."""

DIGITS = {"clip_similarity": 2, "clip_distance": 4, "claims_held": 1}
"""Decimals that are printed."""

METRIC_OF = {"prompt_following": "claims_held", "clip_similarity": "clip_similarity"}
"""Metric in the scores for each measure that a study may name as primary."""


MINUS = "\N{MINUS SIGN}"


class Measure(NamedTuple):
    """What is measured: a metric on the pictures of one prompt style."""

    metric: str
    style: str
    scoring: str | None = None
    """Style of the text that scores; None for claims."""

    axis: str | None = None
    """Axis of claims; None for all together."""


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
class Test:
    """One comparison that the headline rests on."""

    measure: Measure
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class Answers:
    """All that the score rows say."""

    headline: str
    """The first sentence."""

    caveats: list[str]
    """What must be read with it."""

    outcome: str
    """One of better, worse, not distinguishable, pass, fail, withheld."""

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

    following: list[Cell]
    """Claims that hold: per prompt style all axes, then each."""

    pairs: list[Difference]
    """Every pair of arms on the primary measure."""

    curves: list[Curve]
    num_secondary: int
    """Comparisons that share the Holm correction."""


class ScoreTable:
    """The rows of `scores.parquet`, found by what they measure.

    A scoring caption that is the prompt itself goes by the prompt's style, so that it is printed
    once however it was stored.
    """

    def __init__(self, table: pa.Table) -> None:
        self._code: dict[str, np.ndarray] = {}
        self._names: dict[str, list[Any]] = {}
        scoring = pc.if_else(
            pc.equal(table["scoring"], PROMPT_SCORING), table["prompt_style"], table["scoring"]
        )
        strings = {n: table[n] for n in ("arm", "pair_id", "prompt_id", "prompt_style", "metric")}
        strings |= {"scoring": scoring, "axis": table["axis"]}
        for name, column in strings.items():
            encoded = pc.fill_null(column, "").combine_chunks()
            if isinstance(encoded, pa.ChunkedArray):
                encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([])
            encoded = encoded.cast(pa.string()).dictionary_encode()
            self._code[name] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            self._names[name] = encoded.dictionary.to_pylist()
        for name in ("model_seed", "seed", "samples_seen", "value"):
            self._code[name] = table[name].to_numpy()
        self._groups = self._group()

    def _group(self) -> dict[tuple[Any, ...], np.ndarray]:
        """Return the row numbers of every (metric, style, scoring, axis, arm, samples_seen)."""
        names = ("metric", "prompt_style", "scoring", "axis", "arm", "samples_seen")
        columns = [self._code[n] for n in names]
        order = np.lexsort(columns[::-1])
        if not len(order):
            return {}
        stacked = np.stack([c[order] for c in columns])
        starts = np.flatnonzero(np.r_[True, (stacked[:, 1:] != stacked[:, :-1]).any(axis=0)])
        groups = {}
        for rows in np.split(order, starts[1:]):
            key = tuple(
                self._names[n][self._code[n][rows[0]]] if n in self._names
                else int(self._code[n][rows[0]])
                for n in names
            )  # fmt: skip
            groups[key] = rows
        return groups

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms that are models, sorted."""
        return sorted({key[4] for key in self._groups} - set(CEILINGS))

    @cached_property
    def ceilings(self) -> list[str]:
        """Return the arms that are not."""
        found = {key[4] for key in self._groups}
        return [c for c in CEILINGS if c in found]

    @cached_property
    def measures(self) -> list[Measure]:
        """Return everything measured, in a fixed order."""
        found = {key[:4] for key in self._groups if key[4] not in CEILINGS}
        return [Measure(m, s, c or None, a or None) for m, s, c, a in sorted(found)]

    @cached_property
    def moments(self) -> dict[str, list[int]]:
        """Return the snapshots of every arm, earliest first."""
        seen: dict[str, set[int]] = {}
        for key in self._groups:
            seen.setdefault(key[4], set()).add(key[5])
        return {arm: sorted(moments) for arm, moments in seen.items()}

    def prompt_name(self, code: int) -> str:
        """Return the `prompt_id` behind a code."""
        return str(self._names["prompt_id"][int(code)])

    def pair_name(self, code: int) -> str:
        """Return the `pair_id` behind a code."""
        return str(self._names["pair_id"][int(code)])

    def rows(self, measure: Measure, arm: str, *, samples_seen: int | None = None) -> Rows | None:
        """Return one arm's rows at one moment, the last unless told, or None if there are none.

        The rows hold codes for pairs and prompts; `pair_name` and `prompt_name` resolve them.
        """
        if arm not in self.moments:
            return None
        moment = self.moments[arm][-1] if samples_seen is None else samples_seen
        key = (measure.metric, measure.style, measure.scoring or "", measure.axis or "")
        at = self._groups.get((*key, arm, moment))
        if at is None:
            return None
        names = ("pair_id", "prompt_id", "model_seed", "seed", "value")
        pair, prompt, model_seed, seed, value = (self._code[n][at] for n in names)
        if measure.scoring == measure.style:
            # The prompt as scoring text may have been stored under both of its names.
            keep = self._first_of_each(prompt, model_seed, seed)
            pair, prompt, model_seed, seed, value = (
                c[keep] for c in (pair, prompt, model_seed, seed, value)
            )
        return Rows(pair, prompt, model_seed, seed, value * SCALE.get(measure.metric, 1.0))

    @staticmethod
    def _first_of_each(*columns: Any) -> Any:
        """Return the places at which every combination of the columns first occurs."""
        key = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            values, code = np.unique(column, return_inverse=True)
            key = key * len(values) + code
        return np.sort(np.unique(key, return_index=True)[1])

    def paired(self, measure: Measure, arm: str, than: str) -> Any:
        """Return the differences `arm` - `than` at the last moment, or None if either has none."""
        one, other = self.rows(measure, arm), self.rows(measure, than)
        if one is None and other is None:
            return None
        if one is None or other is None:
            absent = arm if one is None else than
            raise InputError(
                f"scores: arm {absent} has no rows for {describe(measure)}, arm "
                f"{than if one is None else arm} has. Score the generations of both."
            )
        return pair_rows(one, other, names=(arm, than), name_of=self.prompt_name)


def describe(measure: Measure) -> str:
    """Name a measure in words, for messages and tables."""
    match measure.metric:
        case "claims_held":
            what = f"claims that hold ({measure.axis or 'all axes'})"
        case "clip_similarity":
            what = f"CLIP similarity with the {measure.scoring} caption"
        case "clip_distance":
            what = f"CLIP distance to the {measure.scoring} caption"
        case other:
            what = other
    return f"{what}, {measure.style} prompts"


def primary_measure(primary: PrimaryConfig) -> Measure:
    """Return what the study named as its measure."""
    if primary.metric not in METRIC_OF:
        raise InputError(
            f"primary.metric: {primary.metric!r} is unknown; expected one of {', '.join(METRIC_OF)}"
        )
    if primary.metric == "prompt_following":
        return Measure("claims_held", primary.style)
    scoring = primary.style if primary.scoring in (None, PROMPT_SCORING) else primary.scoring
    return Measure("clip_similarity", primary.style, scoring)


def order_arms(primary: PrimaryConfig, listed: Iterable[str]) -> list[str]:
    """Put the reference arm, that which the primary comparison starts from, first."""
    arms = list(dict.fromkeys(listed))
    for name in (primary.better, primary.than):
        if name not in arms:
            raise InputError(
                f"primary: no arm is called {name!r}; the scores hold {', '.join(arms) or 'none'}"
            )
    return [primary.than, *(a for a in arms if a != primary.than)]


def answer(
    table: ScoreTable,
    *,
    arms: Sequence[str],
    primary: PrimaryConfig,
    axes: Sequence[str],
    is_control: bool,
    withheld: str | None,
    resamples: int,
    seed: int,
) -> Answers:
    """Compute everything that the report prints of the scores.

    Args:
        table: The score rows.
        arms: Arms, the reference first.
        primary: The comparison that the study named.
        axes: Axes of claims that the judge can measure, in printed order.
        is_control: The headline says whether the instrument works.
        withheld: Why no ranking may be given, or None.
        resamples: Resamples of the headline's bootstrap and permutation test.
        seed: Seed of the resampling.

    Raises:
        InputError: Arms stopped at different moments, or a row lacks its partner.
    """
    _check_moments(table, arms)
    measure = primary_measure(primary)
    measures = table.measures
    tests = []
    wanted = [measure]
    if is_control:
        wanted = [Measure("claims_held", primary.style)]
        wanted += [Measure("clip_similarity", primary.style, primary.style)]
        wanted = [m for m in wanted if m in measures]
    for m in wanted:
        paired = table.paired(m, primary.better, primary.than)
        if paired is not None:
            comparison = compare(paired, resamples=resamples, seed=seed)
            tests.append(Test(measure=m, comparison=comparison))
    if not tests:
        withheld = withheld or (
            f"no picture was scored for the primary measure, {describe(measure)}"
        )

    grid = [_cell(table, m, arms) for m in measures if m.metric == "clip_similarity"]
    distances = [
        _cell(table, m, arms, is_compared=False) for m in measures if m.metric == "clip_distance"
    ]
    claims = [m for m in measures if m.metric == "claims_held" and m.axis in {None, *axes}]
    rank = {axis: i for i, axis in enumerate([None, *axes])}
    claims.sort(key=lambda m: (m.style, rank[m.axis]))
    following = [_cell(table, m, arms) for m in claims]
    pairs = [
        Difference(arm=b, than=a, comparison=compare(paired), p_holm=1.0)
        for i, a in enumerate(arms)
        for b in arms[i + 1 :]
        if (paired := table.paired(measure, b, a)) is not None
    ]
    grid, following, pairs, num_secondary = _correct(
        grid, following, pairs, primary=primary, measure=measure
    )
    outcome, headline = _headline(primary, tests, is_control=is_control, withheld=withheld)
    return Answers(
        headline=headline,
        caveats=_caveats(tests, is_control=is_control, outcome=outcome),
        outcome=outcome,
        withheld=withheld,
        primary=primary,
        tests=tests,
        arms=list(arms),
        ceilings=table.ceilings,
        grid=_first(grid, primary.style),
        distances=_first(distances, primary.style),
        following=_first(following, primary.style),
        pairs=pairs,
        curves=_first(_curves(table, measures, arms, axes), primary.style),
        num_secondary=num_secondary,
    )


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


def _correct(
    grid: list[Cell],
    following: list[Cell],
    pairs: list[Difference],
    *,
    primary: PrimaryConfig,
    measure: Measure,
) -> tuple[list[Cell], list[Cell], list[Difference], int]:
    """Give every secondary comparison its Holm-corrected p; the primary keeps its own.

    A comparison that is printed twice (in its cell and among the pairs) counts once.
    """
    families: dict[tuple[Measure, str, str], float] = {}
    for cell in (*grid, *following):
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

    return cells(grid), cells(following), corrected(measure, pairs), len(families)


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


# --------------------------------------------------------------------------- words


def number(value: float, digits: int) -> str:
    """Print a number with a real minus sign, and none before a zero."""
    if not np.isfinite(value):
        return "unknown" if np.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def plus_minus(interval: Interval, digits: int) -> str:
    """Print half of a mean's interval; nothing where it is unbounded.

    Values that are all alike show no spread to make an interval of, however few they are: their
    number is said instead of a width of zero.
    """
    if not np.isfinite(interval.half_width):
        return ""
    if interval.standard_error == 0:
        return f"(all {interval.df + 1:.0f})"
    return f"±{number(interval.half_width, digits)}"


def bracket(interval: Interval, digits: int, *, sign: int = 1) -> str:
    """Print an interval's ends; with sign -1, those of the negated quantity."""
    low, high = (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
    return f"[{number(low, digits)}, {number(high, digits)}]"


def name_of(measure: Measure) -> str:
    """Name what a comparison is about."""
    return "prompt following" if measure.metric == "claims_held" else "CLIP similarity"


def detail_of(measure: Measure) -> str:
    """Say what exactly was measured."""
    if measure.metric == "claims_held":
        return f"claims of {measure.style} prompts that hold"
    text = (
        "the prompt itself" if measure.scoring == measure.style else f"{measure.scoring} captions"
    )
    return f"cosine x 100 of {measure.style} prompts' pictures with {text}"


def unit_of(measure: Measure) -> str:
    """Name the unit of a difference."""
    return "percentage points" if measure.metric == "claims_held" else "points"


def basis(comparison: Comparison) -> str:
    """Say what an interval was taken over and what it takes as given."""
    prompts = f"{comparison.num_prompts:,} prompt{'s' if comparison.num_prompts != 1 else ''}"
    seeds = comparison.num_seeds
    if comparison.with_seeds is not None:
        return f"95% interval over {prompts} and {seeds} training seeds"
    models = "the one trained model" if seeds == 1 else f"the {seeds} trained models"
    return f"95% interval over {prompts}, given {models} of each arm"


def _finding(better: str, than: str, test: Test) -> str:
    """State one comparison: better or worse by x [lo, hi], or not distinguishable."""
    c, digits = test.comparison, DIGITS[test.measure.metric]
    name, unit = name_of(test.measure), unit_of(test.measure)
    match c.verdict:
        case Verdict.NOT_DISTINGUISHABLE:
            return (
                f"{better} and {than} are not distinguishable in {name} (difference "
                f"{number(c.deciding.estimate, digits)} {bracket(c.deciding, digits)} {unit}; "
                f"{detail_of(test.measure)})"
            )
        case Verdict.BETTER:
            sign, word = 1, "better"
        case Verdict.WORSE:
            sign, word = -1, "worse"
    return (
        f"{better} is {word} than {than} by {number(abs(c.deciding.estimate), digits)} "
        f"{bracket(c.deciding, digits, sign=sign)} {unit} in {name} ({detail_of(test.measure)})"
    )


def _headline(
    primary: PrimaryConfig, tests: Sequence[Test], *, is_control: bool, withheld: str | None
) -> tuple[str, str]:
    """Return the outcome and the first sentence."""
    if withheld is not None:
        subject = "No verdict on the instrument is given" if is_control else "No ranking is given"
        return "withheld", f"{subject}: {withheld}."
    findings = " and ".join(_finding(primary.better, primary.than, t) for t in tests)
    sentence = f"{findings}; {basis(tests[0].comparison)}."
    if not is_control:
        return tests[0].comparison.verdict.value, sentence
    passed = all(t.comparison.verdict is Verdict.BETTER for t in tests)
    if passed:
        # Said once, not for each measure: "by x in this and by y in that".
        again = f" and {primary.better} is better than {primary.than} by "
        sentence = sentence.replace(again, " and by ")
    word = "passes" if passed else "fails"
    return ("pass" if passed else "fail", f"The instrument {word} its control: {sentence}")


def _caveats(tests: Sequence[Test], *, is_control: bool, outcome: str) -> list[str]:
    """Say what the first sentence does not cover."""
    caveats = []
    if outcome == "fail":
        caveats.append(
            "Until an arm trained on true texts beats one trained on other pictures' texts in both "
            "measures, no comparison made with this instrument means anything."
        )
    if is_control and len(tests) == 1 and tests[0].measure.metric == "clip_similarity":
        caveats.append(
            "No claims are known for these pictures: the control rests on the CLIP score alone."
        )
    for test in tests[:1]:
        c, digits = test.comparison, DIGITS[test.measure.metric]
        unit = unit_of(test.measure)
        if outcome == Verdict.NOT_DISTINGUISHABLE.value:
            caveats.append(
                "Not distinguishable does not mean equal: this design finds a true difference of "
                f"{number(c.smallest_detectable, digits)} {unit} in 80% of cases, and misses "
                "smaller ones more often."
            )
        if c.num_seeds == 1:
            caveats.append(
                "One training seed an arm: the interval says how sure the difference between these "
                "two trained models is, and nothing of what training them again would give. "
                "Four seeds an arm give an interval that includes it."
            )
        elif c.with_seeds is None:
            values = [d for _, d in c.by_seed]
            shown = ", ".join(number(d, digits) for d in values)
            agree = "all of one sign" if min(values) * max(values) > 0 else "not all of one sign"
            caveats.append(
                f"{c.num_seeds} training seeds an arm are too few to be part of the interval; the "
                f"differences by seed are {shown} {unit}, {agree}. From four seeds on an interval "
                "that includes training seeds is given."
            )
        else:
            caveats.append(
                f"Given these trained models alone the interval is "
                f"{bracket(c.given_models, digits)} {unit}; the one in the first sentence also "
                "covers training the models again with other seeds."
            )
    return caveats
