"""Numbers, intervals and measures in words, the same on the page, in the summary and in figures."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from eval.artifacts import BY_SENTENCES, PICTURES_ARM, RECONSTRUCTIONS_ARM
from eval.geneval import TASKS
from eval.intervals import Interval
from eval.metrics import PRINTED
from eval.report_rows import BEYOND, CHECKS, Measure
from eval.stats import Comparison

MINUS = "\N{MINUS SIGN}"

NOTHING = "\N{EN DASH}"
"""Shown where there is no value."""

DIGITS = {name: metric.digits for name, metric in PRINTED.items()}
"""Decimals that are printed."""

AXIS_NAMES = {
    "objects": "objects and background",
    "number_place": "number and place",
    "colour_size": "colour and size",
    "words": "displayed words",
    "object": "objects",
    "count": "number",
    "binding": "colours of several",
    "all": "all axes",
}
"""Axes of claims in words."""


CEILING_NAMES = {
    PICTURES_ARM: "real pictures",
    RECONSTRUCTIONS_ARM: "through the autoencoder",
}
"""What is no model, as readers see it."""


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
    number is said instead.
    """
    if interval.standard_error == 0:
        return f"(all {interval.df + 1:.0f})"
    if not np.isfinite(interval.half_width):
        return ""
    return f"±{number(interval.half_width, digits)}"


def bracket(interval: Interval, digits: int, *, sign: int = 1) -> str:
    """Print an interval's ends; with sign -1, those of the negated quantity."""
    low, high = (interval.low, interval.high) if sign > 0 else (-interval.high, -interval.low)
    return f"[{number(low, digits)}, {number(high, digits)}]"


def p_value(p: float | None) -> str:
    """Show a p-value; none is ever shown as zero."""
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 0.0001 else number(p, 4)


def name_of_axis(axis: str | None) -> str:
    """Name an axis of claims in words."""
    return AXIS_NAMES.get(axis or "all", axis or "all")


def name_of(measure: Measure) -> str:
    """Name what a comparison is about."""
    name = PRINTED[measure.metric].title
    return f"the change of {name}" if BEYOND in measure.style else name


def detail_of(measure: Measure) -> str:
    """Say what exactly was measured."""
    if BEYOND in measure.style:
        style, base = measure.style.split(BEYOND)
        what = {"claims_held": "share of claims that hold", **CHECKS}.get(
            measure.metric, f"cosine x 100 with {measure.scoring} captions"
        )
        return f"{what}, pictures of {style} prompts less those of {base} prompts"
    match measure.metric:
        case "claims_held":
            return f"claims of {measure.style} prompts that hold"
        case "geneval_correct":
            return f"mean over the tasks of {measure.style} prompts"
        case "words_exact" | "words_right":
            return f"{measure.style} prompts that want words displayed"
    if measure.metric in CHECKS:
        return f"{CHECKS[measure.metric]}, {measure.style} prompts"
    text = (
        "the prompt itself" if measure.scoring == measure.style else f"{measure.scoring} captions"
    )
    if measure.metric == BY_SENTENCES:
        text = f"the sentences of {text}"
    return f"cosine x 100 of {measure.style} prompts' pictures with {text}"


def unit_of(measure: Measure) -> str:
    """Name the unit of a difference."""
    return "percentage points" if is_share(measure) else "points"


def is_share(measure: Measure) -> bool:
    """Say whether a measure is printed in percent."""
    return PRINTED[measure.metric].factor == 100


def tasks_words(tasks: Collection[str]) -> tuple[str, str]:
    """Name the mean over GenEval's tasks, and say which are missing: it is the score with none."""
    missing = [task for task in TASKS if task not in tasks]
    if not missing:
        return "GenEval score", f"mean of the {len(TASKS)} tasks"
    return f"mean of {len(tasks)} of {len(TASKS)} tasks", f"without {', '.join(missing)}"


def basis(comparison: Comparison) -> str:
    """Say what an interval was taken over and what it takes as given."""
    prompts = f"{comparison.num_prompts:,} prompt{'s' if comparison.num_prompts != 1 else ''}"
    seeds = comparison.num_seeds
    if comparison.with_seeds is not None:
        return f"95% interval over {prompts} and {seeds} training seeds"
    models = "the one trained model" if seeds == 1 else f"the {seeds} trained models"
    return f"95% interval over {prompts}, given {models} of each arm"
