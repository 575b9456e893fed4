"""What training seeds alone do to a score: the floor under every comparison.

Models of one arm saw the same captions and differ in nothing but the seed of their training. How
far their means lie apart is noise to whoever trains one model an arm; so is what an interval over
prompts says of two of them, which takes the models as given.

S training seeds, P prompt clusters
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy import stats

from eval.intervals import LEVEL, Interval, t_interval
from eval.pairing import Rows, cluster_means
from eval.report_rows import Measure, ScoreTable
from eval.stats import MIN_SEEDS as SEEDS_IN_INTERVAL
from eval.table import Table, Value
from eval.two_way import two_way_interval
from eval.words import DIGITS, name_of, number, unit_of
from launch.errors import InputError

MIN_SEEDS = 3
"""Training seeds of one arm below which nothing is said of their spread."""


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """The spread of one arm's models."""

    arm: str
    by_seed: tuple[tuple[int, float], ...]
    """Mean over the prompts of each seed's model."""

    deviation: float
    """Standard deviation of the means."""

    low: float
    high: float
    """Its 95% interval, exact for means that are normal."""

    num_pairs: int
    """Pairs of seeds."""

    num_called_different: int
    """Of those, pairs whose 95% interval over prompts leaves out zero."""

    num_prompts: int

    @property
    def between_two(self) -> float:
        """Distance that the means of two further models exceed in 5% of cases.

        Student's t, because the deviation is known from so few models.
        """
        t = stats.t.ppf((1 + LEVEL) / 2, len(self.by_seed) - 1)
        return float(t * np.sqrt(2) * self.deviation)


def seed_noise(rows: Rows, *, arm: str) -> SeedNoise | None:
    """Describe how far models of one arm lie apart; None where it has too few seeds.

    Raises:
        InputError: A seed lacks pictures of a prompt that another one has.

    The interval of a standard deviation is that of chi-square with S - 1 degrees of freedom.
    """
    seeds, pairs = np.unique(rows.model_seed), np.unique(rows.pair)
    if len(seeds) < MIN_SEEDS:
        return None
    means = _means(rows, seeds=seeds, pairs=pairs, arm=arm)
    of_model = means.mean(axis=1)
    deviation, df = float(of_model.std(ddof=1)), len(seeds) - 1
    low, high = (
        deviation * np.sqrt(df / stats.chi2.ppf(tail, df))
        for tail in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    apart = [t_interval(means[a] - means[b]) for a, b in combinations(range(len(seeds)), 2)]
    return SeedNoise(
        arm=arm,
        by_seed=tuple((int(s), float(m)) for s, m in zip(seeds, of_model, strict=True)),
        deviation=deviation,
        low=float(low),
        high=float(high),
        num_pairs=len(apart),
        num_called_different=sum(i.is_above_zero or i.is_below_zero for i in apart),
        num_prompts=len(pairs),
    )


def _means(
    rows: Rows, *, seeds: np.ndarray, pairs: np.ndarray, arm: str
) -> Float[np.ndarray, "S P"]:
    """Average the pictures of every seed and prompt cluster."""
    size = len(seeds) * len(pairs)
    cell = np.searchsorted(seeds, rows.model_seed) * len(pairs) + np.searchsorted(pairs, rows.pair)
    count = np.bincount(cell, minlength=size)
    if not count.all():
        seed = seeds[int(np.argmin(count)) // len(pairs)]
        raise InputError(
            f"scores: arm {arm}, training seed {seed} lacks prompts that another seed has; sample "
            "and score them."
        )
    total = np.bincount(cell, weights=rows.value, minlength=size)
    return np.asarray((total / count).reshape(len(seeds), len(pairs)))


def mean_of(rows: Rows, *, arm: str) -> Interval:
    """Return the mean of one arm, with an interval that includes training seeds where it can.

    From four seeds on over prompts and training seeds, with fewer over prompts, given the models.

    Raises:
        InputError: A seed lacks pictures of a prompt that another one has.
    """
    seeds, pairs = np.unique(rows.model_seed), np.unique(rows.pair)
    if len(seeds) < SEEDS_IN_INTERVAL or len(pairs) < 2:
        return t_interval(cluster_means(rows))
    return two_way_interval(_means(rows, seeds=seeds, pairs=pairs, arm=arm))


def seed_noise_of(table: ScoreTable, measure: Measure, arms: Sequence[str]) -> list[SeedNoise]:
    """Return the spread of every arm that has seeds enough."""
    of_arms = {arm: table.rows(measure, arm) for arm in arms}
    found = [seed_noise(rows, arm=arm) for arm, rows in of_arms.items() if rows is not None]
    return [noise for noise in found if noise is not None]


def seed_noise_table(found: Sequence[SeedNoise], measure: Measure) -> Table:
    """Make the table of all arms' spreads."""
    digits = DIGITS[measure.metric]
    rows, records = [], []
    for noise in found:
        share = noise.num_called_different / noise.num_pairs
        means = ", ".join(number(m, digits) for _, m in noise.by_seed)
        rows.append(
            [
                Value(noise.arm),
                Value(f"{len(noise.by_seed)}", len(noise.by_seed)),
                Value(means),
                Value(number(noise.deviation, digits + 1), noise.deviation, _range(noise, digits)),
                Value(number(noise.between_two, digits), noise.between_two),
                Value(f"{noise.num_called_different} of {noise.num_pairs}", share),
            ]
        )
        what = {
            "metric": measure.metric, "prompt_style": measure.style, "scoring": measure.scoring,
            "axis": measure.axis, "arm": noise.arm,
        }  # fmt: skip
        records += [{**what, "training_seed": s, "mean": m} for s, m in noise.by_seed]
        records.append(
            {
                **what, "deviation": noise.deviation, "low": noise.low, "high": noise.high,
                "between_two": noise.between_two,
                "pairs": noise.num_pairs, "called_different": noise.num_called_different,
            }
        )  # fmt: skip
    return Table(
        name="seeds",
        title=f"Training seeds, {name_of(measure)}, {measure.style} prompts, {unit_of(measure)}",
        columns=[
            "arm", "seeds", "mean by seed", "standard deviation",
            "two models differ by more in 5%", "pairs called different",
        ],
        rows=rows,
        numeric=frozenset({1, 3, 4, 5}),
        records=records,
    )  # fmt: skip


def _range(noise: SeedNoise, digits: int) -> str:
    return f"[{number(noise.low, digits + 1)}, {number(noise.high, digits + 1)}]"


def seed_headline(noise: SeedNoise, measure: Measure) -> str:
    """Say in one sentence what training seeds do."""
    digits = DIGITS[measure.metric]
    return (
        f"Training {noise.arm} again with another seed moves {name_of(measure)} by a standard "
        f"deviation of {number(noise.deviation, digits + 1)} {_range(noise, digits)} "
        f"{unit_of(measure)} ({measure.style} prompts; 95% interval over {len(noise.by_seed)} "
        f"training seeds, {noise.num_prompts:,} prompts); an interval over prompts alone calls "
        f"{noise.num_called_different} of {noise.num_pairs} pairs of such models different."
    )
