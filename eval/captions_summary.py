"""The answer of `eval captions` for a terminal: how much of each kind is true, and the estimate."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from eval.artifacts import CaptionsReport
from eval.intervals import Interval, ratio_interval
from eval.overlap import MEASURES, shares
from eval.summary import aligned
from recap.claims import AXES


def summary_text(report: CaptionsReport) -> str:
    """Return a table by kind: captions, words, and where the truth is known, how much is true.

    Pictures that a captioner was trained on have rows of their own. Below it stands what the
    estimate of hallucination is worth, if one was made.
    """
    claims, lengths = report.claims, report.lengths
    partly = partly_known(report)
    known_column = ["truth known"] if partly else []
    rows = [["captions of", "pictures", "words", *known_column, "precision", "recall", *AXES]]
    for kind in lengths["kind"].unique().to_pylist():
        for is_annotated in (False, True):
            words = _of(lengths, kind, is_annotated)["num_words"].to_numpy()
            if not len(words):
                continue
            own = _of(claims, kind, is_annotated)
            rows.append(
                [
                    f"{kind}, annotated pictures" if is_annotated else kind,
                    f"{len(words):,}",
                    f"{words.mean():.1f}",
                    *([f"{num_known(report, kind, is_annotated):,}"] if partly else []),
                    *(_percent(interval) for interval in _precision_and_recall(own)),
                    *(_both(_precision_and_recall(own, axis=axis)) for axis in AXES),
                ]
            )
    return (
        "precision and recall of the claims that captions make, % [95% interval over pictures]; "
        f"by axis: precision / recall\n\n{aligned(rows)}\n"
        + _overlap(report.overlap)
        + _hallucination(report.hallucination)
    )


def _overlap(table: pa.Table) -> str:
    """Return how many prompts occur in the training captions, or nothing where none were given."""
    rows = [["prompts", "in captions of", *MEASURES.values(), "prompts", "training captions"]]
    for share in shares(table):
        cells = []
        for name in MEASURES:
            low, high = (100 * end for end in share.interval(name))
            value = 100 * share.counts[name] / share.num_prompts
            cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
        numbers = [f"{share.num_prompts:,}", f"{share.num_captions:,}"]
        rows.append([share.label, share.kind, *cells, *numbers])
    if len(rows) == 1:
        return ""
    return (
        "\nprompts that occur in the training captions, % [95% interval over prompts]; a prompt of "
        f"fewer\nthan 8 words is one run\n\n{aligned(rows)}\n"
    )


def _hallucination(facts: Mapping[str, Any]) -> str:
    """Return how the estimate follows the truth, or what was carried over, and why not."""
    known = [["estimate of", "from", "captions", "Spearman", "Pearson", "mean estimate", "truth"]]
    lines = []
    for kind, found in facts.get("kinds", {}).items():
        for name, of_set in (found["known"] or {"sets": {}})["sets"].items():
            known.append(
                [
                    kind,
                    name,
                    f"{found['known']['num_captions']:,}",
                    *(correlation_words(of_set["correlation"][c]) for c in ("spearman", "pearson")),
                    f"{100 * of_set['mean_estimate']:.1f}",
                    f"{100 * found['known']['mean_truth']:.1f}",
                ]
            )
        carried = found["carried_over"]
        if carried is not None and carried["estimate"] is not None:
            lines.append(f"{kind}: {carried_words(carried)}")
        elif found.get("not_carried"):
            lines.append(f"{kind}: {not_carried_words(found['not_carried'])}")
    text = ""
    if len(known) > 1:
        text += (
            "\ninvented share of a caption's claims, estimated without the truth, against the "
            "truth: correlation\nover pictures that the estimate was not fitted on "
            f"[95% interval], means in %\n\n{aligned(known)}\n"
        )
    if lines:
        text += "\n" + "\n".join(textwrap.fill(line, 100) for line in lines) + "\n"
    return text


def correlation_words(found: Mapping[str, Any] | None) -> str:
    """Show a correlation and its interval."""
    if found is None:
        return "undefined"
    low, high = found["interval"]
    return f"{found['value']:.2f} [{low:.2f}, {high:.2f}]"


def carried_words(carried: Mapping[str, Any]) -> str:
    """Say what an estimate from another world amounts to, and that it is one."""
    mean = carried["estimate"]
    there = correlation_words(carried["correlation_there"]["spearman"])
    return (
        f"estimated share of false claims {100 * mean['mean']:.1f}% [{100 * mean['low']:.1f}, "
        f"{100 * mean['high']:.1f}]. The truth of these captions is not known: the estimate, from "
        f"{carried['signals']}, was fitted on another world, where its rank correlation with the "
        f"truth was {there}, and is carried over to this one unchecked. The interval is over "
        "pictures alone."
    )


def not_carried_words(reason: str) -> str:
    """Say that no estimate was carried over to a kind, and why."""
    return f"no estimate was carried over: {reason}."


def num_known(report: CaptionsReport, kind: str, is_annotated: bool) -> int:
    """Return how many captions of a kind are of pictures whose claims are known."""
    return len(_of(report.claims, kind, is_annotated)["sample_id"].unique())


def partly_known(report: CaptionsReport) -> dict[str, tuple[int, int]]:
    """Return (known, all) captions of every kind, where claims are known of some pictures only.

    Annotated pictures are left out. Where claims are known of all pictures or of none, it is empty.
    """
    found = {}
    for kind in report.lengths["kind"].unique().to_pylist():
        num = _of(report.lengths, kind, is_annotated=False).num_rows
        found[kind] = (num_known(report, kind, is_annotated=False), num)
    is_partly = any(known for known, _ in found.values()) and any(
        known < num for known, num in found.values()
    )
    return found if is_partly else {}


def _of(table: pa.Table, kind: str, is_annotated: bool) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter((pc.field("kind") == kind) & (pc.field("annotated") == is_annotated))


def _precision_and_recall(claims: pa.Table, *, axis: str | None = None) -> list[Interval]:
    """Return both with the picture as unit, of one axis or of all."""
    import pyarrow.compute as pc

    if axis is not None:
        claims = claims.filter(pc.field("axis") == axis)
    sums = claims.group_by("sample_id").aggregate([(name, "sum") for name in ("tp", "fp", "fn")])
    tp, fp, fn = (sums[f"{name}_sum"].to_numpy().astype(np.float64) for name in ("tp", "fp", "fn"))
    return [ratio_interval(tp, tp + fp), ratio_interval(tp, tp + fn)]


def _percent(interval: Interval) -> str:
    if np.isnan(interval.estimate):
        return ""
    ends = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{100 * interval.estimate:.1f} {ends}"


def _both(intervals: Sequence[Interval]) -> str:
    if all(np.isnan(interval.estimate) for interval in intervals):
        return ""
    return " / ".join(
        "none" if np.isnan(interval.estimate) else f"{100 * interval.estimate:.1f}"
        for interval in intervals
    )
