"""Arms that share a number, such as captioners trained again: one mean, over the arms.

What varies between such arms (the seed of a captioner, say) was drawn at random, so the interval is
Student's over the arms' own means. It takes the prompts as given, and is not among the comparisons
that are corrected together.

N arms of one number
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from eval.intervals import LEVEL, Interval, is_spread, t_interval, without_spread
from eval.report_rows import Measure
from eval.table import Table, Value, ends
from eval.words import DIGITS, bracket, name_of, number, unit_of

MIN_ARMS = 2
"""Arms of one number below which their spread is not known."""


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """One measure at every number that arms share."""

    measure: Measure
    title: str
    arms: Mapping[float, list[str]]
    """Number -> its arms, lowest number first."""

    means: Mapping[float, Interval]
    """Number -> mean over its arms."""

    contrast: Interval
    """The highest number less the lowest."""

    @property
    def sentence(self) -> str:
        """Say what the largest number gives over the smallest."""
        low, high = min(self.arms), max(self.arms)
        c, digits = self.contrast, DIGITS[self.measure.metric]
        word = "are not distinguishable"
        if c.is_above_zero or c.is_below_zero:
            word = f"differ: {high:g} is {'higher' if c.is_above_zero else 'lower'}"
        over = f"{len(self.arms[high])} and {len(self.arms[low])} arms, prompts as given"
        return (
            f"{self.title}, {self.measure.style} prompts: {high:g} and {low:g} {word} "
            f"(difference {number(c.estimate, digits)} {bracket(c, digits)} "
            f"{unit_of(self.measure)} in {name_of(self.measure)}; Welch's interval over {over}; "
            "not corrected for other comparisons)."
        )


def pooled(
    measure: Measure, means: Mapping[str, float], numbers: Mapping[str, float], *, title: str
) -> Pooled | None:
    """Return the means over arms that share a number; None unless every number has several.

    Args:
        measure: What is measured.
        means: Arm -> its mean.
        numbers: Arm -> its number.
        title: What the number is.
    """
    places = sorted({numbers[arm] for arm in means})
    arms = {x: [arm for arm in means if numbers[arm] == x] for x in places}
    if len(places) < 2 or min(map(len, arms.values())) < MIN_ARMS:
        return None
    values = {x: np.array([means[arm] for arm in of]) for x, of in arms.items()}
    return Pooled(
        measure=measure,
        title=title,
        arms=arms,
        means={x: t_interval(of) for x, of in values.items()},
        contrast=difference_of_means(values[places[-1]], values[places[0]]),
    )


def difference_of_means(
    one: Float[np.ndarray, " N"], other: Float[np.ndarray, " _"], *, level: float = LEVEL
) -> Interval:
    """Return the interval of the difference of two means of independent values.

    Source: Welch 1947, "The generalization of Student's problem when several different population
    variances are involved".
    """
    estimate = float(one.mean() - other.mean())
    shares = np.array([of.var(ddof=1) / len(of) for of in (one, other)])
    error = float(np.sqrt(shares.sum()))
    if not is_spread(error, largest=float(np.abs(np.concatenate([one, other])).max())):
        return without_spread(estimate, df=float(len(one) + len(other) - 2), level=level)
    sizes = np.array([len(one) - 1, len(other) - 1])
    df = float(shares.sum() ** 2 / (shares**2 / sizes).sum())
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    return Interval(
        estimate=estimate, low=estimate - half, high=estimate + half, standard_error=error,
        df=df, level=level, method="Welch over arms",
    )  # fmt: skip


def pooled_table(found: list[Pooled], *, place: int) -> Table:
    """Make the table of the means over arms that share a number."""
    rows, records = [], []
    for of in found:
        digits = DIGITS[of.measure.metric]
        what = {
            "metric": of.measure.metric, "prompt_style": of.measure.style,
            "scoring": of.measure.scoring, "axis": of.measure.axis,
        }  # fmt: skip
        name = f"{name_of(of.measure)}, {of.measure.style} prompts"
        low, high = min(of.arms), max(of.arms)
        told = [
            *((f"{x:g}", x, of.arms[x], [], mean) for x, mean in of.means.items()),
            (f"{high:g} less {low:g}", high, of.arms[high], of.arms[low], of.contrast),
        ]
        for label, x, arms, than, mean in told:
            shown = bracket(mean, digits)
            rows.append(
                [
                    Value(name), Value(label, x), Value(", ".join(arms + than)),
                    Value(number(mean.estimate, digits), mean.estimate, shown),
                ]
            )  # fmt: skip
            records.append(
                {
                    **what, "number": label, "arms": " ".join(arms), "than": " ".join(than),
                    "mean": mean.estimate, **ends(mean),
                }
            )  # fmt: skip
    return Table(
        name=f"pooled-{place}",
        title=f"{found[0].title}: means over the arms of each",
        columns=["measure", found[0].title, "arms", "mean over arms"],
        rows=rows,
        numeric=frozenset({1, 3}),
        records=records,
    )
