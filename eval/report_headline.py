"""The first sentence of the report, what must be read with it, and what may take it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.artifacts import BY_SENTENCES
from eval.config import PrimaryConfig
from eval.geneval import TASKS
from eval.intervals import Interval
from eval.report_rows import Measure
from eval.stats import Comparison, Verdict
from eval.words import (
    DIGITS,
    basis,
    bracket,
    detail_of,
    name_of,
    number,
    tasks_words,
    unit_of,
)

WITHHELD = "withheld"
"""Outcome of a report that ranks nothing."""

UNCHECKED = (
    "whether this public CLIP finds the text that belongs to a picture was not checked on these "
    "pictures"
)
"""Said of a ranking by a judge of which nothing is known here; a fitted one is measured."""


BY_CLIP = frozenset({"clip_similarity", BY_SENTENCES})
"""Metrics that are a CLIP's."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """One comparison that the headline rests on."""

    measure: Measure
    comparison: Comparison

    own: Mapping[str, Interval] = field(default_factory=dict)
    """Where two changes are compared, that of each arm by itself, over what the comparison is."""


def _interval_of(c: Comparison, digits: int, *, sign: int = 1) -> str:
    """Print the deciding interval, or say why there is none."""
    if c.deciding.standard_error != 0:
        return bracket(c.deciding, digits, sign=sign)
    seeds = "" if c.with_seeds is None else f"{c.num_seeds} training seeds and "
    return f"[no interval: {seeds}{c.num_prompts:,} prompts without spread]"


def _finding(better: str, than: str, test: Test) -> str:
    """State one comparison: better or worse by x [lo, hi], or not distinguishable."""
    c, digits = test.comparison, DIGITS[test.measure.metric]
    name, unit = name_of(test.measure), unit_of(test.measure)
    match c.verdict:
        case Verdict.NOT_DISTINGUISHABLE:
            return (
                f"{better} and {than} are not distinguishable in {name} (difference "
                f"{number(c.deciding.estimate, digits)} {_interval_of(c, digits)} {unit}; "
                f"{detail_of(test.measure)}{_own(test)})"
            )
        case Verdict.BETTER:
            sign, word = 1, "better"
        case Verdict.WORSE:
            sign, word = -1, "worse"
    return (
        f"{better} is {word} than {than} by {number(abs(c.deciding.estimate), digits)} "
        f"{_interval_of(c, digits, sign=sign)} {unit} in {name} ({detail_of(test.measure)}"
        f"{_own(test)})"
    )


def _own(test: Test) -> str:
    """Say how much each arm changes by itself, where a comparison is of two changes."""
    if not test.own:
        return ""
    digits = DIGITS[test.measure.metric]
    told = [f"{a} {number(i.estimate, digits)} {bracket(i, digits)}" for a, i in test.own.items()]
    return f": {', '.join(told)}"


def headline_of(
    primary: PrimaryConfig,
    tests: Sequence[Test],
    *,
    is_control: bool,
    withheld: str | None,
    is_public_clip: bool = False,
) -> tuple[str, str]:
    """Return the outcome and the first sentence.

    Args:
        primary: The comparison that the study named.
        tests: What came of it.
        is_control: The sentence says whether the instrument works; it is itself the check of what
            a public CLIP can tell.
        withheld: Why no ranking may be given, or None.
        is_public_clip: CLIP scores are those of a public CLIP, which nobody measured here.
    """
    if withheld is not None:
        subject = "No verdict on the instrument is given" if is_control else "No ranking is given"
        return WITHHELD, f"{subject}: {withheld}."
    findings = " and ".join(_finding(primary.better, primary.than, t) for t in tests)
    sentence = f"{findings}; {basis(tests[0].comparison)}."
    if not is_control:
        if is_public_clip and tests[0].measure.metric in BY_CLIP:
            sentence = f"{sentence.removesuffix('.')}; {UNCHECKED}."
        return tests[0].comparison.verdict.value, sentence
    passed = all(t.comparison.verdict is Verdict.BETTER for t in tests)
    if passed:
        # Said once, not for each measure: "by x in this and by y in that".
        again = f" and {primary.better} is better than {primary.than} by "
        sentence = sentence.replace(again, " and by ")
    word = "passes" if passed else "fails"
    return ("pass" if passed else "fail", f"The instrument {word} its control: {sentence}")


def caveats_of(
    tests: Sequence[Test], *, is_control: bool, outcome: str, tasks: Collection[str]
) -> list[str]:
    """Say what the first sentence does not cover; nothing of a ranking that is withheld.

    Args:
        tests: What the sentence rests on.
        is_control: Whether it says if the instrument works.
        outcome: What it says.
        tasks: Tasks of GenEval among the prompts.
    """
    if outcome == WITHHELD:
        return []
    caveats = []
    if tests and tests[0].measure.metric == "geneval_correct" and set(tasks) < set(TASKS):
        name, without = tasks_words(tasks)
        caveats.append(f"The {name}, {without}, is not GenEval's score, which is over all of them.")
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


def doubt(quality: Mapping[str, Any]) -> str | None:
    """Say why a judge of this quality may rank nothing; None if it may.

    Its retrieval, in both directions, must lie above chance beyond its interval.
    """
    retrieval = quality.get("retrieval")
    directions = {
        "caption of a picture": "image_to_text",
        "picture of a caption": "text_to_image",
    }
    if not isinstance(retrieval, Mapping) or not any(d in retrieval for d in directions.values()):
        return "the judge does not say how often it finds the caption that belongs to a picture"
    for words, direction in directions.items():
        found = retrieval.get(direction)
        if found is None:
            continue
        low, high = found["interval"]
        if not low > found["chance"]:
            return (
                f"the judge cannot be told from chance: it finds the {words} in "
                f"{number(100 * found['r_at_1'], 1)}% [{number(100 * low, 1)}, "
                f"{number(100 * high, 1)}] of cases among {retrieval['num_pictures']:,}, and "
                f"chance is {number(100 * found['chance'], 1)}%"
            )
    return None


SMALL_SET = 10_000
"""Training pictures below which the report says what so few can show."""


def small_set(num_train: int, *, num_prompts: int) -> list[str]:
    """Say what a small training set can and cannot show; nothing of a large one."""
    if not 0 < num_train < SMALL_SET:
        return []
    return [
        f"{num_train:,} training pictures are few. They can show that the whole chain works on "
        f"them, and differences large enough to be seen at this size over {num_prompts:,} test "
        "prompts; they cannot show what these captions would do for a model trained on millions."
    ]
