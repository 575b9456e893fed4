"""The report's formulas a second time, as plainly as they can be written.

Nothing is imported of the formulas that made the report, so that a fault there is not repeated
here. Rows are kept in dictionaries and averaged one prompt after the other; scipy gives the
quantiles.
`eval/stats.py` and `eval/two_way.py` explain why these formulas and no others.

S training seeds, P prompt clusters
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from scipy import optimize, stats

BEYOND = " \N{MINUS SIGN} "
"""Between two prompt styles: pictures of the first less those of the second."""

JUDGED = ("judge_yes", "questions_yes", "questions_yes_ancestors", "phrases_yes")
"""What `eval judge` measures."""

SHARES = ("claims_held", "geneval_correct", "words_exact", "words_right", *JUDGED)
"""Stored as shares, published in percent."""


class Key(NamedTuple):
    """What a list of scores measures; empty where a field does not apply."""

    metric: str
    style: str
    scoring: str
    axis: str
    arm: str
    samples_seen: int


class Score(NamedTuple):
    """One picture's score."""

    pair_id: str
    prompt_id: str
    model_seed: int
    seed: int
    value: float


def scores_of(table: pa.Table) -> dict[Key, list[Score]]:
    """Sort rows by what they measure; distances follow from the similarities."""
    found: dict[Key, dict[tuple[str, int, int], Score]] = defaultdict(dict)
    names = ("metric", "prompt_style", "scoring", "axis", "arm", "samples_seen", *Score._fields)
    columns = (table[name].to_pylist() for name in names)
    for metric, style, scoring, axis, arm, seen, *of_picture, value in zip(*columns, strict=True):
        text = style if scoring == "prompt" else scoring or ""
        key = Key(metric, style, text, axis or "", arm, seen)
        if metric == "words_error_rate":  # more is better wherever arms are compared
            key, value = key._replace(metric="words_right"), 1 - value
        score = Score(*of_picture, 100 * value if key.metric in SHARES else value)
        # A prompt that scores itself may stand there under two names.
        found[key].setdefault(score[1:4], score)
        if metric == "clip_similarity":
            away = min(max(1 - value / 100, 0.0), 2.0)
            distance = found[key._replace(metric="clip_distance")]
            distance.setdefault(score[1:4], score._replace(value=away))
    scores = {key: list(by_place.values()) for key, by_place in found.items()}
    return scores | _over_tasks(scores)


def _over_tasks(scores: Mapping[Key, list[Score]]) -> dict[Key, list[Score]]:
    """Weigh the prompts of GenEval's tasks so that their mean is the mean of the tasks' means."""
    tasks: dict[Key, list[list[Score]]] = defaultdict(list)
    for key in sorted(key for key in scores if key.metric == "geneval_correct"):
        tasks[key._replace(axis="")].append(scores[key])
    weighted: dict[Key, list[Score]] = {}
    for key, of_tasks in tasks.items():
        sizes = [len({score.pair_id for score in task}) for task in of_tasks]
        weighted[key] = [
            score._replace(value=score.value * sum(sizes) / (len(sizes) * size))
            for task, size in zip(of_tasks, sizes, strict=True)
            for score in task
        ]
    return weighted


def changes_again(scores: Mapping[Key, Sequence[Score]]) -> dict[Key, list[Score]]:
    """Subtract every two styles' pictures of one pair, model and noise, where both have all."""
    found: dict[Key, list[Score]] = {}
    for key, base in product(scores, repeat=2):
        if key.style == base.style or key._replace(style=base.style) != base:
            continue
        old = {(s.pair_id, s.model_seed, s.seed): s.value for s in scores[base]}
        new = {(s.pair_id, s.model_seed, s.seed): s for s in scores[key]}
        if old.keys() == new.keys() and len(new) == len(scores[key]):
            found[key._replace(style=f"{key.style}{BEYOND}{base.style}")] = [
                score._replace(prompt_id=score.pair_id, value=score.value - old[at])
                for at, score in new.items()
            ]
    return found


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Means of one arm's models, how far they spread, and how often two are called different."""

    means: dict[int, float]
    deviation: float
    low: float
    high: float
    between_two: float
    num_pairs: int
    num_called_different: int


def seeds_again(scores: Mapping[Key, Sequence[Score]], key: Key) -> Seeds:
    """Describe the models of one arm; chi-square for the deviation, Student's t for two models."""
    of_cell: dict[tuple[int, str], list[float]] = defaultdict(list)
    for score in scores[key]:
        of_cell[score.model_seed, score.pair_id].append(score.value)
    prompts = sorted({pair for _, pair in of_cell})
    of_seed = {
        seed: np.array([np.mean(of_cell[seed, pair]) for pair in prompts])
        for seed in sorted({seed for seed, _ in of_cell})
    }
    means = {seed: float(values.mean()) for seed, values in of_seed.items()}
    df = len(means) - 1
    squares = float(np.sum((np.array([*means.values()]) - np.mean([*means.values()])) ** 2))
    low, high = (np.sqrt(squares / stats.chi2.ppf(tail, df)) for tail in (0.975, 0.025))
    ends = [_student(of_seed[a] - of_seed[b]) for a, b in combinations(of_seed, 2)]
    return Seeds(
        means=means,
        deviation=float(np.sqrt(squares / df)),
        low=float(low),
        high=float(high),
        between_two=float(stats.t.ppf(0.975, df) * np.sqrt(2 * squares / df)),
        num_pairs=len(ends),
        num_called_different=sum(low > 0 or high < 0 for low, high in ends),
    )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over prompts and its 95% interval."""

    mean: float
    low: float
    high: float
    num_prompts: int


def mean_again(scores: Mapping[Key, Sequence[Score]], key: Key) -> Mean:
    """Average each prompt's pictures, then the prompts; Student's t over the prompts."""
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for score in scores[key]:
        of_prompt[score.pair_id].append(score.value)
    means = np.array([np.mean(values) for values in of_prompt.values()])
    low, high = _student(means)
    return Mean(mean=float(means.mean()), low=low, high=high, num_prompts=len(means))


def _student(values: Float[np.ndarray, " P"]) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        return -np.inf, np.inf
    if _is_rounding(stats.sem(values), values):
        return -np.inf, np.inf  # no spread, no variance
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _is_rounding(error: float, values: Float[np.ndarray, "..."]) -> bool:
    """Say whether a standard error is too small, beside the values, to be one."""
    return bool(error <= 1e-9 * np.max(np.abs(values)))


def _flipped(difference: float, units: int) -> float:
    """P of differences that are all alike: two of the 2^units patterns of signs reach them."""
    return min(1.0, 2.0 ** (1 - units)) if difference else 1.0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One arm minus another, by training seed and prompt."""

    matrix: Float[np.ndarray, "S P"]
    seeds: tuple[int, ...]
    num_pictures: int

    @property
    def difference(self) -> float:
        """Mean difference."""
        return float(self.matrix.mean())

    @property
    def by_seed(self) -> dict[int, float]:
        """Mean difference of each training seed."""
        return dict(zip(self.seeds, self.matrix.mean(axis=1).tolist(), strict=True))

    @property
    def prompts(self) -> Float[np.ndarray, " P"]:
        """Mean difference of each prompt."""
        return np.asarray(self.matrix.mean(axis=0))

    @property
    def low(self) -> float:
        """Lower end, the trained models taken as given."""
        return _student(self.prompts)[0]

    @property
    def high(self) -> float:
        """Upper end, the trained models taken as given."""
        return _student(self.prompts)[1]

    @property
    def has_seeds(self) -> bool:
        """True if there are seeds enough for an interval that includes them."""
        return self.matrix.shape[0] >= 4 and self.matrix.shape[1] > 1

    @cached_property
    def squares(self) -> tuple[float, float, float]:
        """Mean squares of seeds, prompts and rest, of a two-way layout with one value a cell."""
        s, p = self.matrix.shape
        rows, columns = self.matrix.mean(axis=1), self.matrix.mean(axis=0)
        total = ((self.matrix - self.difference) ** 2).sum()
        between_seeds = p * ((rows - self.difference) ** 2).sum()
        between_prompts = s * ((columns - self.difference) ** 2).sum()
        rest = total - between_seeds - between_prompts
        return between_seeds / (s - 1), between_prompts / (p - 1), rest / ((s - 1) * (p - 1))

    @property
    def is_alike(self) -> bool:
        """True if neither seeds nor prompts were seen to vary."""
        ms_s, ms_p, ms_e = self.squares
        error = np.sqrt(max(0.0, ms_s + max(0.0, ms_p - ms_e)) / self.matrix.size)
        return _is_rounding(error, self.matrix)

    def half_with_seeds(self, alpha: float) -> float:
        """Half of the interval that includes training seeds, at level 1 - alpha."""
        s, p = self.matrix.shape
        t_s, t_p = (stats.t.isf(alpha / 2, n - 1) for n in (s, p))
        ms_s, ms_p, ms_e = self.squares
        prompts = max(0.0, ms_p - ms_e)
        if self.is_alike:
            return np.inf
        share = ms_s / (ms_s + prompts)
        t = share * t_s + (1 - share) * t_p
        return float(t * np.sqrt((ms_s + prompts) / (s * p)))

    @property
    def with_seeds_low(self) -> float:
        """Lower end including training seeds; NaN with too few."""
        return self.difference - self.half_with_seeds(0.05) if self.has_seeds else np.nan

    @property
    def with_seeds_high(self) -> float:
        """Upper end including training seeds; NaN with too few."""
        return self.difference + self.half_with_seeds(0.05) if self.has_seeds else np.nan

    @property
    def deciding(self) -> tuple[float, float]:
        """The interval that a verdict rests on."""
        if self.has_seeds:
            return self.with_seeds_low, self.with_seeds_high
        return self.low, self.high

    @cached_property
    def p(self) -> float:
        """Two-sided p of the deciding interval: the alpha at which it touches zero."""
        if not self.has_seeds:
            if len(self.prompts) < 2:
                return 1.0
            if _is_rounding(stats.sem(self.prompts), self.prompts):
                return _flipped(self.difference, self.num_prompts)
            statistic = abs(self.difference) / stats.sem(self.prompts)
            return float(2 * stats.t.sf(statistic, len(self.prompts) - 1))
        target = abs(self.difference)
        if self.is_alike:
            return _flipped(self.difference, min(self.matrix.shape))
        found = optimize.brentq(
            lambda exponent: self.half_with_seeds(10.0**exponent) - target, -17, 0, xtol=1e-13
        )
        return float(10.0**found)

    @property
    def smallest_detectable(self) -> float:
        """The true difference that is found in 80% of cases."""
        if self.has_seeds:
            ms_s, ms_p, ms_e = self.squares
            error = np.sqrt((ms_s + max(ms_p - ms_e, 0.0)) / self.matrix.size)
            df = self.matrix.shape[0] - 1
        else:
            df = len(self.prompts) - 1
            if df < 1:
                return np.inf
            error = stats.sem(self.prompts)
        low, high = self.deciding
        return float((high - low) / 2 + stats.t.ppf(0.8, df) * error)

    @property
    def verdict(self) -> str:
        """What the deciding interval alone allows to say."""
        if not self.p < 0.05 or self.difference == 0:
            return "not distinguishable"
        return "better" if self.difference > 0 else "worse"

    @property
    def num_prompts(self) -> int:
        """Prompt clusters."""
        return self.matrix.shape[1]

    @property
    def num_training_seeds(self) -> int:
        """Training seeds that both arms have."""
        return self.matrix.shape[0]

    def bootstrap(self, resamples: int) -> tuple[float, float]:
        """Return an interval by resampling prompts, with draws of our own."""
        found = stats.bootstrap(
            (self.prompts,), np.mean, n_resamples=resamples, method="BCa",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    def sign_flip(self, resamples: int) -> float:
        """Return the p of swapping the arms prompt by prompt, with draws of our own."""
        generator = np.random.default_rng(0)
        signs = generator.choice([-1.0, 1.0], size=(resamples, self.num_prompts))
        reached = np.abs(signs @ self.prompts) >= abs(self.prompts.sum()) * (1 - 1e-12)
        return float((reached.sum() + 1) / (resamples + 1))

    def seed_flip(self) -> float:
        """Return the p of swapping the arms seed by seed, every pattern tried."""
        means = self.matrix.mean(axis=1)
        sums = [abs(np.dot(signs, means)) for signs in product([-1, 1], repeat=len(means))]
        return float(np.mean([total >= abs(means.sum()) * (1 - 1e-12) for total in sums]))


def compared(scores: Mapping[Key, Sequence[Score]], one: Key, other: Key) -> Compared:
    """Subtract one arm's scores from another's, picture by picture of equal prompt and noise."""
    seeds = sorted({s.model_seed for s in scores[one]} & {s.model_seed for s in scores[other]})
    partner = {s[1:4]: s.value for s in scores[other]}
    cells: dict[tuple[int, str], list[float]] = defaultdict(list)
    for score in scores[one]:
        if score.model_seed in seeds:
            cells[score.model_seed, score.pair_id].append(score.value - partner[score[1:4]])
    pairs = sorted({pair for _, pair in cells})
    matrix = np.array([[np.mean(cells[seed, pair]) for pair in pairs] for seed in seeds])
    num_pictures = sum(len(values) for values in cells.values())
    return Compared(matrix=matrix, seeds=tuple(seeds), num_pictures=num_pictures)


def own_interval(scores: Mapping[Key, Sequence[Score]], key: Key) -> tuple[float, float]:
    """Return the interval of one arm's mean: with training seeds, where there are enough."""
    cells: dict[tuple[int, str], list[float]] = defaultdict(list)
    for score in scores[key]:
        cells[score.model_seed, score.pair_id].append(score.value)
    seeds, pairs = (tuple(sorted({at[i] for at in cells})) for i in (0, 1))
    if len(seeds) < 4 or len(pairs) < 2:
        mean = mean_again(scores, key)
        return mean.low, mean.high
    matrix = np.array([[np.mean(cells[s, p]) for p in pairs] for s in seeds])  # type: ignore[index]
    return Compared(matrix=matrix, seeds=(), num_pictures=0).deciding


def pooled_again(
    arms: Float[np.ndarray, " N"], than: Float[np.ndarray, " _"]
) -> tuple[float, float, float]:
    """Return the mean over arms, or its difference to that of others, and its interval."""
    if not len(than):
        return (float(arms.mean()), *_student(arms))
    if _is_rounding(np.hypot(stats.sem(arms), stats.sem(than)), np.concatenate([arms, than])):
        return float(arms.mean() - than.mean()), -np.inf, np.inf
    found = stats.ttest_ind(arms, than, equal_var=False).confidence_interval(0.95)
    return float(arms.mean() - than.mean()), float(found.low), float(found.high)


def curve_rows(scores: Mapping[Key, Sequence[Score]], key: Key) -> dict[Key, list[Score]]:
    """Return a measure's scores on the prompts that every arm has at every moment."""
    same = {k: v for k, v in scores.items() if k[:4] == key[:4] and not k.arm.startswith("(")}
    shared = set.intersection(*({s.pair_id for s in rows} for rows in same.values()))
    return {k: [s for s in rows if s.pair_id in shared] for k, rows in same.items()}


def holm_again(p_values: Sequence[float]) -> list[float]:
    """Multiply the smallest p by their number, the next by one less, and never go down again."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        corrected[i] = highest
    return corrected
