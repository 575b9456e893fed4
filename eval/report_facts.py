"""Tables of the report on what is no score: captions, instrument, scorer, cost and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.artifacts import CaptionsReport
from eval.intervals import Interval, ratio_interval
from eval.report_provenance import Cost, Stage, cost_of, quality_of
from eval.table import Table, Value, ends, facts_table, flatten, matrix_table, shown_fact
from eval.words import NOTHING, name_of_axis
from launch.manifest import Manifest
from recap.artifacts import CAPTIONER
from recap.claims import AXES


def arms_table(stages: Sequence[Stage], arms: Sequence[str]) -> Table:
    """List what every arm was trained on, as its models record it."""
    rows, records = [], []
    for arm in arms:
        made = [s.manifest for s in stages if s.artifact == "model" and s.manifest is not None]
        models = [m for m in made if m.recipe.get("arm") == arm]
        mix = models[0].recipe.get("caption_mix", {}) if models else {}
        shares = sorted(mix.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{100 * share:.4g}% {kind}" for kind, share in shares if share)
        seeds = sorted(m.recipe.get("seed", 0) for m in models)
        seen = max((m.counts.get("samples_seen", 0) for m in models), default=0)
        sizes = ", ".join(dict.fromkeys(str(m.recipe.get("size", "")) for m in models))
        rows.append(
            [
                Value(arm), Value(shown or NOTHING), Value(sizes or NOTHING),
                Value(f"{seen:,}" if seen else NOTHING, seen),
                Value(", ".join(map(str, seeds)) or NOTHING),
            ]
        )  # fmt: skip
        records.append(
            {
                "arm": arm, "size": sizes, "samples_seen": seen or None,
                "training_seeds": " ".join(map(str, seeds)),
                **{f"share_{kind}": share for kind, share in sorted(mix.items())},
            }
        )  # fmt: skip
    return Table(
        name="arms",
        title="The arms: models that differ in nothing but the captions they were trained on",
        columns=["arm", "captions", "model size", "pictures seen", "training seeds"],
        rows=rows,
        numeric=frozenset({3}),
        records=records,
    )


def caption_axes(
    captions: CaptionsReport,
) -> tuple[list[tuple[str, str, Interval, Interval]], Table]:
    """Return precision and recall by kind and axis, of un-annotated pictures and of all."""
    columns = {
        n: captions.claims[n].to_numpy(zero_copy_only=False) for n in captions.claims.schema.names
    }
    axes = [*AXES, "all"]
    drawn, rows, records = [], [], []
    for kind in dict.fromkeys(columns["kind"].tolist()):
        for is_annotated in (False, True):
            for axis in axes:
                where = (columns["kind"] == kind) & (columns["annotated"] == is_annotated)
                if axis != "all":
                    where &= columns["axis"] == axis
                if not where.any():
                    continue
                picture, code = np.unique(columns["sample_id"][where], return_inverse=True)
                tp, fp, fn = (
                    np.bincount(code, weights=columns[n][where]) for n in ("tp", "fp", "fn")
                )
                precision, recall = ratio_interval(tp, tp + fp), ratio_interval(tp, tp + fn)
                if not is_annotated:
                    drawn.append((kind, axis, precision, recall))
                group = "annotated" if is_annotated else "not annotated"
                rows.append(
                    [
                        Value(kind), Value(name_of_axis(axis)), Value(group),
                        _share(precision), _share(recall), Value(f"{len(picture):,}", len(picture)),
                    ]
                )  # fmt: skip
                records.append(
                    {
                        "kind": kind, "axis": axis, "annotated": is_annotated,
                        "precision": precision.estimate, **ends(precision, "precision_"),
                        "recall": recall.estimate, **ends(recall, "recall_"),
                        "num_pictures": len(picture),
                    }
                )  # fmt: skip
    table = Table(
        name="captions",
        title="Precision and recall of captions",
        columns=["kind", "axis", "pictures", "precision", "recall", "number"],
        rows=rows,
        numeric=frozenset({3, 4, 5}),
        records=records,
    )
    return drawn, table


def _share(interval: Interval) -> Value:
    if not np.isfinite(interval.estimate):
        return Value(NOTHING, -np.inf)
    note = f"[{interval.low:.3f}, {interval.high:.3f}]"
    return Value(f"{interval.estimate:.3f}", interval.estimate, note)


def caption_lengths(captions: CaptionsReport) -> Table:
    """Make the table of caption lengths, of un-annotated pictures; it says where there are none."""
    columns = {
        n: captions.lengths[n].to_numpy(zero_copy_only=False) for n in captions.lengths.schema.names
    }
    rows, records = [], []
    for kind in dict.fromkeys(columns["kind"].tolist()):
        of_kind = columns["kind"] == kind
        held_out = of_kind & ~columns["annotated"].astype(bool)
        is_held_out = bool(held_out.any())
        words = columns["num_words"][held_out if is_held_out else of_kind]
        low, middle, high = np.quantile(words, [0.05, 0.5, 0.95])
        shown = [float(words.mean()), float(low), float(middle), float(high)]
        rows.append(
            [
                Value(kind, note="" if is_held_out else "of annotated pictures: it has no others"),
                *(Value(f"{v:.1f}", v) for v in shown),
                Value(f"{len(words):,}", len(words)),
            ]
        )
        names = ("mean_words", "words_5_percent", "median_words", "words_95_percent")
        what = {"kind": kind, "of_annotated_pictures": not is_held_out}
        records.append({**what, **dict(zip(names, shown, strict=True)), "num": len(words)})
    return Table(
        name="lengths",
        title="Length of captions in words",
        columns=["kind", "mean", "5%", "median", "95%", "captions"],
        rows=rows,
        numeric=frozenset(range(1, 6)),
        records=records,
    )


def regularities(captions: CaptionsReport) -> Table:
    """Make the table of what captions of each kind have in common."""
    facts = {k: v for k, v in captions.regularities.items() if isinstance(v, Mapping)}
    return matrix_table(
        facts, name="regularities", title="What captions of a kind have in common", first="kind"
    )


def retrieval(judged: Mapping[str, Any]) -> Table:
    """List how often the judge finds picture and caption of one another, by kind of caption."""
    found = judged.get("retrieval", {})
    by_kind = found.get("by_kind") or {found.get("kind", "captions"): found}
    rows, records = [], []
    for kind, of_kind in by_kind.items():
        for direction in ("image_to_text", "text_to_image"):
            if direction not in of_kind:
                continue
            share, chance = of_kind[direction]["r_at_1"], of_kind[direction]["chance"]
            low, high = of_kind[direction]["interval"]
            words = (
                direction.replace("_", " ").replace("image", "picture").replace("text", "caption")
            )
            rows.append(
                [
                    Value(kind), Value(words),
                    Value(f"{100 * share:.1f}%", share, f"[{100 * low:.1f}, {100 * high:.1f}]"),
                    Value(f"{100 * chance:.1f}%", chance),
                    Value(f"{of_kind['num_pictures']:,}", of_kind["num_pictures"]),
                ]
            )  # fmt: skip
            records.append(
                {
                    "kind": kind, "direction": direction, "r_at_1": share, "low": low,
                    "high": high, "chance": chance, "num_pictures": of_kind["num_pictures"],
                }
            )  # fmt: skip
    return Table(
        name="retrieval",
        title="Judge: how often the right one of all test pairs comes first",
        columns=["caption", "direction", "found", "chance", "pairs"],
        rows=rows,
        numeric=frozenset({2, 3, 4}),
        records=records,
    )


def recogniser(judged: Mapping[str, Any]) -> Table:
    """List how well the recogniser reads each axis, on pictures bare and reconstructed."""
    found = judged.get("recogniser", {})
    rows, records = [], []
    for axis in AXES:
        for pictures in ("renders", "reconstructions"):
            read = found.get(pictures, {}).get(axis)
            if read is None:
                continue
            low, high = read.get("interval", (np.nan, np.nan))
            note = f"[{100 * low:.1f}, {100 * high:.1f}]" if np.isfinite(low) else ""
            shares = [read.get("abstained"), read.get("false_accept")]
            claims = read.get("num_claims")
            rows.append(
                [
                    Value(name_of_axis(axis)), Value(pictures),
                    Value(f"{100 * read['accuracy']:.1f}%", read["accuracy"], note),
                    *(
                        Value(NOTHING, -1.0) if s is None else Value(f"{100 * s:.1f}%", s)
                        for s in shares
                    ),
                    Value(shown_fact(claims), claims or 0),
                    Value("yes" if judged.get("measurable", {}).get(axis) else "no"),
                ]
            )  # fmt: skip
            records.append({"axis": axis, "pictures": pictures, **read})
    return Table(
        name="recogniser",
        title="Recogniser: true claims that it finds to hold on test pictures",
        columns=["axis", "pictures", "found", "abstained", "false ones accepted", "claims",
                 "measurable"],
        rows=rows,
        numeric=frozenset({2, 3, 4, 5}),
        records=[{k: v for k, v in r.items() if k != "interval"} for r in records],
    )  # fmt: skip


def quality(stages: Sequence[Stage], *, autoencoder: Path | None) -> Table:
    """List what autoencoder and captioners say of themselves; what they write has its section."""
    facts: dict[str, Mapping[str, Any]] = {}
    if autoencoder is not None:
        facts["autoencoder"] = quality_of(autoencoder)
    for stage in stages:
        if stage.artifact == CAPTIONER and stage.manifest is not None:
            said = dict(quality_of(stage.manifest.folder))
            if isinstance(said.get("written"), Mapping):
                hidden = ("examples", "claims")
                said["written"] = {k: v for k, v in said["written"].items() if k not in hidden}
            # Named by what it is and not by its folder: this table is part of the digest.
            name = f"captioner {stage.manifest.recipe.get('kind', '')}".strip()
            facts[f"{name} {stage.digest[:8]}" if name in facts else name] = said
    return facts_table(
        facts,
        name="quality",
        title="Autoencoder and captioners, as measured when made",
        first="part",
    )


def scorer(manifests: Sequence[Manifest]) -> Table:
    """List everything that a score depends on, as the scores themselves record it."""
    return facts_table(
        _scorers(manifests), name="scorer", title="Recipe of the scores", first="scorer"
    )


TOLD = (
    "formula",
    "model",
    "version",
    "instruction",
    "temperature",
    "weights",
    "precision",
    "prefix",
    "truncation",
    "truncation_rate",
)
"""What defines a score beside its architecture and preprocessing, in the order that it is told."""


def scorer_words(manifests: Sequence[Manifest]) -> list[tuple[str, str]]:
    """Say what defines each score, in one line; the table has the rest."""
    lines = []
    for name, settings in _scorers(manifests).items():
        told = []
        for key in TOLD:
            if key in settings:
                found = flatten(settings[key], key.replace("_", " "))
                told += [f"{what}: {shown_fact(value) or 'none'}" for what, value in found]
        if told:
            lines.append((name, "; ".join(told)))
    return lines


def _scorers(manifests: Sequence[Manifest]) -> dict[str, Mapping[str, Any]]:
    """Return what scored, by name; of two of one name the later says where it comes from."""
    scorers: dict[str, Mapping[str, Any]] = {}
    for manifest in manifests:
        found = manifest.recipe.get("scorers")
        if not isinstance(found, Mapping):
            found = {k: v for k, v in manifest.recipe.items() if k != "verb"}
        for key, value in found.items():
            name = f"{key} of {manifest.folder.name}" if key in scorers else str(key)
            scorers[name] = value if isinstance(value, Mapping) else {str(key): value}
    return scorers


def costs_of(stages: Sequence[Stage]) -> list[tuple[Stage, Cost]]:
    """Return what every artifact that is still there has cost."""
    return [
        (stage, cost_of(stage.manifest.folder)) for stage in stages if stage.manifest is not None
    ]


def cost_table(costs: Sequence[tuple[Stage, Cost]]) -> Table:
    """Make the table of time, disk and memory."""
    rows, records = [], []
    for stage, cost in costs:
        sessions = f"{cost.sessions} sessions" if cost.sessions > 1 else ""
        rows.append(
            [
                Value(stage.verb or stage.artifact), Value(stage.name),
                Value("unknown", -1.0) if cost.seconds is None
                else Value(_duration(cost.seconds), cost.seconds, sessions),
                Value(_size(cost.num_bytes), cost.num_bytes),
                Value(NOTHING if cost.peak_gib is None else f"{cost.peak_gib:.2f} GiB",
                      cost.peak_gib or 0.0),
            ]
        )  # fmt: skip
        records.append(
            {
                "verb": stage.verb, "artifact": stage.artifact, "name": stage.name,
                "digest": stage.digest, "seconds": cost.seconds, "sessions": cost.sessions,
                "bytes": cost.num_bytes, "peak_gib": cost.peak_gib,
            }
        )  # fmt: skip
    return Table(
        name="cost",
        title="Time, disk and memory of every stage",
        columns=["stage", "artifact", "time", "disk", "peak memory"],
        rows=rows,
        numeric=frozenset({2, 3, 4}),
        records=records,
    )


def cost_words(costs: Sequence[tuple[Stage, Cost]]) -> str:
    """Sum the costs up in a sentence."""
    known = [c.seconds for _, c in costs if c.seconds is not None]
    machines = list(dict.fromkeys(f"{c.cpus} CPUs" for _, c in costs if c.cpus))
    total = _size(sum(c.num_bytes for _, c in costs))
    words = f"{_duration(sum(known))} of work and {total} on disk over {len(costs)} artifacts"
    if len(known) < len(costs):
        words += f"; {len(costs) - len(known)} of them left no log"
    if machines:
        words += f"; machine with {' and '.join(machines)}"
    return words + ". Artifacts that studies share are counted in full."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _size(num_bytes: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} B"


def provenance(stages: Sequence[Stage]) -> Table:
    """Make the table of every artifact behind the page."""
    rows, records = [], []
    for stage in stages:
        manifest = stage.manifest
        commit = ""
        if manifest is not None and manifest.commit:
            commit = manifest.commit[:10] + (" with changes" if manifest.dirty else "")
        state = "changed since it was read" if stage.has_changed else ""
        counts = ", ".join(
            f"{k.replace('_', ' ')} {shown_fact(v)}"
            for k, v in (manifest.counts if manifest else {}).items()
        )
        rejected = sum(manifest.rejected.values()) if manifest else 0
        if rejected:
            counts += f"; rejected {rejected:,}"
        rows.append(
            [
                Value(stage.artifact, note=stage.role if stage.role != stage.artifact else ""),
                Value(stage.name, note=state), Value(stage.digest[:12]), Value(counts),
                Value(commit),
            ]
        )  # fmt: skip
        records.append(
            {
                "artifact": stage.artifact, "role": stage.role, "name": stage.name,
                "digest": stage.digest, "commit": manifest.commit if manifest else None,
                "command": manifest.command if manifest else None,
            }
        )  # fmt: skip
    return Table(
        name="provenance",
        title="Artifacts behind this page",
        columns=["artifact", "name", "digest", "rows", "commit"],
        rows=rows,
        records=records,
    )
