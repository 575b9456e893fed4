"""Every metric that `scores.parquet` can hold: which way is better, how it is printed and named.

The one list of them. The reader of scores, the report, the comparison with votes and the names that
a study may give as its primary measure all derive from it. Free of everything else.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Metric(NamedTuple):
    """One metric of `scores.parquet`."""

    name: str
    """As stored."""

    better: int
    """1 where more is better, -1 where less is, 0 where it ranks nothing."""

    title: str = ""
    """What a comparison on it is about, in words."""

    printed: str | None = None
    """Name under which it is compared, where that is not its own: the complement, 1 - value, so
    that more is better."""

    primary: str | None = None
    """Name in `primary.metric`; None where a study cannot name it."""

    factor: float = 1.0
    """From stored to printed values: shares are printed as percentages."""

    digits: int = 1
    """Decimals that are printed."""

    repeats: str | None = None
    """Metric that says the same in another unit."""


METRICS: Final = (
    Metric(
        "clip_similarity", 1, "CLIP similarity", primary="clip_similarity", digits=2,
    ),
    Metric(
        "clip_similarity_sentences", 1, "CLIP similarity by sentences",
        primary="clip_similarity_sentences", digits=2,
    ),
    Metric("clip_distance", -1, "CLIP distance", digits=4, repeats="clip_similarity"),
    Metric("claims_held", 1, "prompt following", primary="prompt_following", factor=100.0),
    Metric("claims_total", 0),
    Metric("claims_abstained", 0),
    Metric(
        "geneval_correct", 1, "prompts of which all holds", primary="geneval", factor=100.0,
    ),
    Metric(
        "words_exact", 1, "words shown exactly", primary="words_exact", factor=100.0,
    ),
    Metric(
        "words_error_rate", -1, "characters of words shown right", printed="words_right",
        primary="words_right", factor=100.0,
    ),
    Metric(
        "judge_yes", 1, "prompts judged to be shown", primary="judge_yes", factor=100.0,
    ),
    Metric(
        "questions_yes", 1, "questions answered yes", primary="questions_yes", factor=100.0,
    ),
    Metric(
        "questions_yes_ancestors", 1, "questions answered yes, gated by all ancestors",
        primary="questions_yes_ancestors", factor=100.0,
    ),
    Metric("phrases_yes", 1, "noun phrases seen", primary="phrases_yes", factor=100.0),
)  # fmt: skip

PRINTED: Final = {m.printed or m.name: m for m in METRICS if m.better}
"""Metrics that are printed, by the name under which they are compared."""

PRIMARY: Final = {m.primary: m.printed or m.name for m in METRICS if m.primary is not None}
"""Name in `primary.metric` -> name under which the metric is compared."""

COMPLEMENT: Final = {m.printed: m.name for m in METRICS if m.printed is not None}
"""Printed measures that are 1 - a stored one, so that more is better wherever arms are compared."""
