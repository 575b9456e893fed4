"""Tables of the caption page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.artifacts import CaptionsReport
from eval.captions_summary import correlation_words
from eval.hallucination import best_set
from eval.intervals import Interval, wilson_interval
from eval.overlap import MEASURES, shares
from eval.table import Table, Value, ends
from eval.words import NOTHING, name_of_axis


def side_by_side(rows: Sequence[tuple[str, str, Interval, Interval]]) -> Table:
    """Set precision and recall of the kinds beside one another, a row per axis and measure.

    Args:
        rows: (kind, axis, precision, recall), as `report_facts.caption_axes` gives them.
    """
    kinds = list(dict.fromkeys(kind for kind, *_ in rows))
    axes = list(dict.fromkeys(axis for _, axis, *_ in rows))
    cells = {(kind, axis): (precision, recall) for kind, axis, precision, recall in rows}
    shown = [
        [
            Value(name_of_axis(axis)),
            Value(name),
            *(_percent(cells.get((kind, axis), (None, None))[number]) for kind in kinds),
        ]
        for axis in axes
        for number, name in enumerate(("precision", "recall"))
    ]
    records = [
        {"kind": kind, "axis": axis, "measure": name, "value": i.estimate, **ends(i)}
        for (kind, axis), pair in cells.items()
        for name, i in zip(("precision", "recall"), pair, strict=True)
    ]
    return Table(
        name="side_by_side",
        title="Precision and recall by axis, %, with 95% intervals over pictures",
        columns=["axis", "measure", *kinds],
        rows=shown,
        numeric=frozenset(range(2, 2 + len(kinds))),
        records=records,
    )


def _percent(interval: Interval | None) -> Value:
    if interval is None or not np.isfinite(interval.estimate):
        return Value(NOTHING, -1.0)
    note = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return Value(f"{100 * interval.estimate:.1f}", interval.estimate, note)


def _share(num: int, of: int) -> Value:
    low, high = wilson_interval(num, of)
    return Value(f"{100 * num / of:.1f}%", num / of, f"[{100 * low:.1f}, {100 * high:.1f}]")


def truncation(report: CaptionsReport) -> Table:
    """List, for every kind and text encoder, tokens per caption and the share that it would cut."""
    columns = {
        n: report.tokens[n].to_numpy(zero_copy_only=False) for n in report.tokens.schema.names
    }
    rows, records = [], []
    keys = zip(columns["kind"], columns["encoder"], columns["max_tokens"], strict=True)
    for kind, encoder, limit in dict.fromkeys(keys):
        where = (
            (columns["kind"] == kind)
            & (columns["encoder"] == encoder)
            & (columns["max_tokens"] == limit)
            & ~columns["annotated"].astype(bool)
        )
        tokens = columns["num_tokens"][where]
        if not len(tokens):
            continue
        num_cut = int((tokens > limit).sum())
        high = float(np.quantile(tokens, 0.95))
        rows.append(
            [
                Value(kind), Value(encoder), Value(f"{limit:,}", int(limit)),
                Value(f"{tokens.mean():.1f}", float(tokens.mean())), Value(f"{high:.0f}", high),
                Value(f"{tokens.max():,}", int(tokens.max())), _share(num_cut, len(tokens)),
                Value(f"{len(tokens):,}", len(tokens)),
            ]
        )  # fmt: skip
        low, top = wilson_interval(num_cut, len(tokens))
        records.append(
            {
                "kind": kind, "encoder": encoder, "max_tokens": int(limit),
                "mean_tokens": float(tokens.mean()), "tokens_95_percent": high,
                "longest": int(tokens.max()), "cut": num_cut / len(tokens), "low": low,
                "high": top, "num": len(tokens),
            }
        )  # fmt: skip
    return Table(
        name="truncation",
        title="Tokens of captions, and the share that a text encoder would cut",
        columns=["kind", "text encoder", "limit", "mean", "95%", "longest", "cut", "captions"],
        rows=rows,
        numeric=frozenset(range(2, 8)),
        records=records,
    )


def overlap(report: CaptionsReport) -> Table:
    """List, for every prompt style and kind of caption, the prompts that occur in training."""
    rows, records = [], []
    for share in shares(report.overlap):
        rows.append(
            [
                Value(share.label), Value(share.kind),
                *(_share(share.counts[name], share.num_prompts) for name in MEASURES),
                Value(f"{share.num_prompts:,}", share.num_prompts),
                Value(f"{share.num_captions:,}", share.num_captions),
            ]
        )  # fmt: skip
        for name in MEASURES:
            low, high = share.interval(name)
            records.append(
                {
                    "list": share.list, "style": share.style, "kind": share.kind, "measure": name,
                    "value": share.counts[name] / share.num_prompts, "low": low, "high": high,
                    "num_prompts": share.num_prompts, "num_captions": share.num_captions,
                }
            )  # fmt: skip
    return Table(
        name="overlap",
        title="Prompts that occur in the training captions, with 95% intervals over prompts",
        columns=["prompts", "captions", *MEASURES.values(), "number", "training captions"],
        rows=rows,
        numeric=frozenset(range(2, 7)),
        records=records,
    )


def telling_apart(found: Mapping[str, Any]) -> Table:
    """List how often a classifier names the kind of a caption of a picture it has not seen."""
    entries = [entry for entry in (found.get("all"), *found.get("pairs", [])) if entry is not None]
    rows = [
        [
            Value(", ".join(e["kinds"])),
            Value(
                f"{100 * e['accuracy']:.1f}%", e["accuracy"],
                f"[{100 * e['interval'][0]:.1f}, {100 * e['interval'][1]:.1f}]",
            ),
            Value(f"{100 * e['chance']:.1f}%", e["chance"]),
            Value(", ".join(f"{k} {100 * v:.0f}%" for k, v in e["by_kind"].items())),
            Value(f"{e['num_held_out']:,}", e["num_held_out"], f"fitted on {e['num_fitted']:,}"),
        ]
        for e in entries
    ]  # fmt: skip
    return Table(
        name="telling_apart",
        title="Captions whose kind a small classifier names rightly",
        columns=["kinds", "right", "chance", "by kind", "pictures"],
        rows=rows,
        numeric=frozenset({1, 2, 4}),
        records=[
            {
                "kinds": " ".join(e["kinds"]), "accuracy": e["accuracy"], "low": e["interval"][0],
                "high": e["interval"][1], "chance": e["chance"], "num_fitted": e["num_fitted"],
                "num_held_out": e["num_held_out"],
            }
            for e in entries
        ],
    )  # fmt: skip


def gates(found: Mapping[str, Any]) -> Table:
    """List how many captions each rule set aside; one caption may break several."""
    rows, records = [], []
    for entry in found.get("captions", []):
        counts = {"(any rule)": entry["num_gated"]}
        counts |= {rule: of_rule["num"] for rule, of_rule in entry["rules"].items()}
        for rule, num in counts.items():
            rows.append(
                [
                    Value(entry["kind"], note=entry["captions"]), Value(rule),
                    Value(f"{num:,}", num), _share(num, entry["num_captions"]),
                    Value(f"{entry['num_captions']:,}", entry["num_captions"]),
                ]
            )  # fmt: skip
            records.append(
                {
                    "kind": entry["kind"], "captions": entry["captions"], "rule": rule,
                    "num_gated": num, "num_captions": entry["num_captions"],
                }
            )  # fmt: skip
    return Table(
        name="gates",
        title="Captions set aside, by rule, of all that were written",
        columns=["kind", "rule", "set aside", "share", "written"],
        rows=rows,
        numeric=frozenset({2, 3, 4}),
        records=records,
    )


def correlations(hallucination: Mapping[str, Any]) -> Table:
    """List how well each estimate follows the truth, on pictures that it was not fitted on."""
    rows, records = [], []
    for kind, found in hallucination.get("kinds", {}).items():
        known = found["known"]
        for name, of_set in (known or {"sets": {}})["sets"].items():
            both = [of_set["correlation"][c] for c in ("spearman", "pearson")]
            rows.append(
                [
                    Value(kind), Value(name),
                    *(Value(correlation_words(c), c["value"] if c else -2.0) for c in both),
                    Value(f"{100 * of_set['mean_estimate']:.1f}%", of_set["mean_estimate"]),
                    Value(f"{100 * known['mean_truth']:.1f}%", known["mean_truth"]),
                    Value(f"{known['num_captions']:,}", known["num_captions"]),
                ]
            )  # fmt: skip
            for measure, c in zip(("spearman", "pearson"), both, strict=True):
                records.append(
                    {
                        "kind": kind, "signals": name, "correlation": measure,
                        "value": c and c["value"], "low": c and c["interval"][0],
                        "high": c and c["interval"][1], "num": known["num_captions"],
                    }
                )  # fmt: skip
    return Table(
        name="hallucination",
        title="Estimated against true share of false claims, with 95% intervals over pictures",
        columns=["kind", "estimate from", "Spearman", "Pearson", "mean estimate", "truth",
                 "captions"],
        rows=rows,
        numeric=frozenset(range(2, 7)),
        records=records,
    )  # fmt: skip


def calibration(hallucination: Mapping[str, Any]) -> Table:
    """List the bins of the richest estimate of each kind."""
    records = [
        {
            "kind": kind, "signals": best_set(found["known"]["sets"]), "bin": number + 1,
            "mean_estimate": b["mean_estimate"], "mean_truth": b["mean_truth"],
            "low": b["interval"][0], "high": b["interval"][1], "num": b["num"],
        }
        for kind, found in hallucination.get("kinds", {}).items()
        if found["known"] is not None
        for number, b in enumerate(
            found["known"]["sets"][best_set(found["known"]["sets"])]["calibration"]
        )
    ]  # fmt: skip
    return Table(
        name="calibration",
        title="Held-out estimate and truth, %, by ascending estimate",
        columns=["kind", "mean estimate", "mean truth", "captions"],
        rows=[
            [
                Value(r["kind"]),
                Value(f"{100 * r['mean_estimate']:.1f}", r["mean_estimate"]),
                Value(
                    f"{100 * r['mean_truth']:.1f}", r["mean_truth"],
                    f"[{100 * r['low']:.1f}, {100 * r['high']:.1f}]",
                ),
                Value(f"{r['num']:,}", r["num"]),
            ]
            for r in records
        ],
        numeric=frozenset({1, 2, 3}),
        records=records,
    )  # fmt: skip


def signals(hallucination: Mapping[str, Any]) -> Table:
    """List the bare signals of every kind."""
    rows, records = [], []
    for kind, found in hallucination.get("kinds", {}).items():
        for name, mean in found["signals"].items():
            if mean is None:
                continue
            rows.append(
                [
                    Value(kind), Value(name),
                    Value(f"{mean['mean']:.3f}", mean["mean"],
                          f"[{mean['low']:.3f}, {mean['high']:.3f}]"),
                    Value(f"{found['num_samples']}", found["num_samples"]),
                ]
            )  # fmt: skip
            records.append({"kind": kind, "signal": name, **mean})
    return Table(
        name="signals",
        title="Agreement with samples (share) and CLIP margin (100 x cosine), means over pictures",
        columns=["kind", "signal", "mean", "samples"],
        rows=rows,
        numeric=frozenset({2, 3}),
        records=records,
    )
