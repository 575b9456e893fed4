"""Measure captions: what they say that is true, how long they are, and what they always do.

Where the truth is known, every caption is read back into claims, so that omission and invention
are counted and not guessed. Pictures whose captions a captioner was trained on are reported apart
from those it never saw annotated. Lengths and regularities need no truth and are measured for
photographs just the same: a model trained on captions learns their habits too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from eval import artifacts
from eval.config import CaptionsConfig
from eval.stats import Interval, ratio_interval
from eval.summary import SUMMARY, aligned
from launch import keyed
from launch.errors import ArtifactError, ConfigError
from launch.manifest import write_bytes
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from recap.claims import AXES, Claim, Tally, compare, read

ALT = "alt"
ALL_AXES = "all"
"""Name of the row that pools the axes."""

NUM_OPENINGS = 5
"""Commonest openings whose share is reported; FACTS for people's captions are of five."""

OPENING_WORDS = 3
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Kind:
    """Captions of one kind, those of the measured split and those of annotated pictures."""

    name: str
    texts: dict[str, str]
    """sample_id -> text, of the measured pictures that a captioner was not trained on."""

    annotated: dict[str, str]
    """The same of annotated pictures, of whichever split."""

    num_missing: int
    """Measured pictures without an accepted caption of this kind."""


def captions(cfg: CaptionsConfig, run: Run) -> None:
    """Write the measurements of alt texts and of every kind of caption given."""
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    for folder in cfg.annotated:
        run.input("annotated", folder, artifact=CAPTIONS)
    images = open_images(cfg.images)
    rows = images.rows(None if cfg.split == "all" else cfg.split)
    if not len(rows):
        raise ConfigError(
            f"{cfg.images}: no picture of split {cfg.split!r}; its splits are "
            f"{', '.join(sorted(set(images.split)))}, and `all` measures every picture"
        )
    kinds = _kinds(cfg, images, [images.sample_ids[int(row)] for row in rows])
    has_claims = any(images.claims[int(row)] is not None for row in rows)
    plan = {
        "pictures": len(rows),
        "kinds": ", ".join(kind.name for kind in kinds),
        "claims": "known" if has_claims else "not known: lengths and regularities only",
    }
    if not run.start(plan):
        return

    lengths = _lengths(kinds)
    claims = _claims(kinds, images) if has_claims else artifacts.CLAIMS_SCHEMA.empty_table()
    parts = artifacts.write_captions_report(
        run.out,
        axes=axes_of(claims),
        lengths=lengths,
        claims=claims,
        regularities={
            kind.name: {**regularities(list(kind.texts.values())), "num_missing": kind.num_missing}
            for kind in kinds
        },
        examples=_examples(cfg, kinds),
    )
    write_bytes(run.out / SUMMARY, summary_text(claims, lengths).encode())
    num_in = len(rows) * len(kinds)
    num_missing = sum(kind.num_missing for kind in kinds)
    run.finish(
        artifact=artifacts.CAPTIONS_REPORT,
        version=artifacts.CAPTIONS_REPORT_VERSION,
        counts={
            "rows_in": num_in,
            "rows_out": num_in - num_missing,
            "pictures": len(rows),
            "kinds": len(kinds),
            "annotated_captions": sum(len(kind.annotated) for kind in kinds),
        },
        rejected={"missing": num_missing},
        parts=[*parts, SUMMARY],
    )


def _kinds(cfg: CaptionsConfig, images: Images, measured: Sequence[str]) -> list[Kind]:
    """Gather alt texts and each kind; two captions of one picture and kind are refused."""
    trained_on = {
        sample_id
        for folder in cfg.annotated
        for sample_id in open_captions(folder).table["sample_id"].to_pylist()
    }
    texts: dict[str, dict[str, str]] = {
        ALT: dict(zip(images.sample_ids, images.alt, strict=True)),
    }
    for folder in cfg.captions:
        opened = open_captions(folder)
        for kind in opened.kinds:
            of_kind = texts.setdefault(kind, {})
            new = opened.texts(kind)
            both = sorted(of_kind.keys() & new.keys())
            if both:
                raise ArtifactError(
                    f"{folder}: picture {both[0]} has a caption of kind {kind!r} in another of the "
                    "captions given; each kind is measured once. Leave one of them out."
                )
            of_kind |= new
    known, in_split = set(images.sample_ids), set(measured)
    found = []
    for kind, of_kind in texts.items():
        foreign = sorted(of_kind.keys() - known)
        if foreign:
            raise ArtifactError(
                f"captions of kind {kind!r}: {len(foreign):,} speak of no picture of {cfg.images}, "
                f"{foreign[0]} first; give the images that were captioned"
            )
        here = {s: of_kind[s] for s in measured if s in of_kind and s not in trained_on}
        apart = {s: text for s, text in of_kind.items() if s in trained_on}
        num_measured = len(here) + len(apart.keys() & in_split)
        if not num_measured:
            continue  # a kind of other splits, such as a teacher's of the training pictures
        found.append(
            Kind(
                name=kind,
                texts=here,
                annotated=apart,
                num_missing=len(measured) - num_measured,
            )
        )
    return found


# --------------------------------------------------------------------------- truth


def _claims(kinds: Sequence[Kind], images: Images) -> pa.Table:
    """Compare every caption with the truth: one row per caption and axis."""
    columns: dict[str, list[Any]] = {name: [] for name in artifacts.CLAIMS_SCHEMA.names}
    for kind in kinds:
        for is_annotated, texts in ((False, kind.texts), (True, kind.annotated)):
            for sample_id, text in texts.items():
                true = images.claims[images.row_of(sample_id)]
                if true is None:
                    continue
                for axis, tally in compare_text(text, true).items():
                    columns["kind"].append(kind.name)
                    columns["sample_id"].append(sample_id)
                    columns["annotated"].append(is_annotated)
                    columns["axis"].append(axis)
                    columns["tp"].append(tally.true_positive)
                    columns["fp"].append(tally.false_positive)
                    columns["fn"].append(tally.false_negative)
    return pa.table(columns, schema=artifacts.CLAIMS_SCHEMA)


def compare_text(text: str, true: Sequence[Claim]) -> dict[str, Tally]:
    """Count what a caption says rightly, wrongly and not at all, by axis."""
    return compare(read(text), list(true))


def axes_of(claims: pa.Table) -> pa.Table:
    """Sum claim rows by kind, axis and annotation, with precision and recall of the sums."""
    sums: dict[tuple[str, bool, str], list[int]] = {}
    pictures: dict[tuple[str, bool], set[str]] = {}
    for row in claims.to_pylist():
        pictures.setdefault((row["kind"], row["annotated"]), set()).add(row["sample_id"])
        for axis in (row["axis"], ALL_AXES):
            total = sums.setdefault((row["kind"], row["annotated"], axis), [0, 0, 0])
            for i, name in enumerate(("tp", "fp", "fn")):
                total[i] += row[name]
    found: list[dict[str, Any]] = []
    for kind, is_annotated in pictures:
        for axis in (*AXES, ALL_AXES):
            tp, fp, fn = sums[kind, is_annotated, axis]
            found.append(
                {
                    "kind": kind,
                    "axis": axis,
                    "annotated": is_annotated,
                    "precision": tp / (tp + fp) if tp + fp else None,
                    "recall": tp / (tp + fn) if tp + fn else None,
                    "tp": tp,
                    "fp": fp,
                    "fn": fn,
                    "num_pictures": len(pictures[kind, is_annotated]),
                }
            )
    return pa.Table.from_pylist(found, schema=artifacts.AXES_SCHEMA)


# --------------------------------------------------------------------------- for a terminal


def summary_text(claims: pa.Table, lengths: pa.Table) -> str:
    """Return a table by kind: captions, words, and where the truth is known, how much is true.

    Pictures that a captioner was trained on have rows of their own.
    """
    rows = [["captions of", "pictures", "words", "precision", "recall", *AXES]]
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
                    *(_percent(interval) for interval in _precision_and_recall(own)),
                    *(_both(_precision_and_recall(own, axis=axis)) for axis in AXES),
                ]
            )
    return (
        "precision and recall of the claims that captions make, % [95% interval over pictures]; "
        f"by axis: precision / recall\n\n{aligned(rows)}\n"
    )


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


# --------------------------------------------------------------------------- form


def _lengths(kinds: Sequence[Kind]) -> pa.Table:
    rows = [
        {
            "kind": kind.name,
            "sample_id": sample_id,
            "annotated": is_annotated,
            "num_words": len(_WORD.findall(text)),
            "num_characters": len(text),
        }
        for kind in kinds
        for is_annotated, texts in ((False, kind.texts), (True, kind.annotated))
        for sample_id, text in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=artifacts.LENGTHS_SCHEMA)


def regularities(texts: Sequence[str]) -> dict[str, Any]:
    """Measure what captions have in common beyond their content.

    The paper's reason for keeping some original captions is that a model overfits such habits:
    leading spaces, letter case, a final full stop, length, always beginning with "a".
    """
    num = len(texts)
    if not num:
        return {"num_captions": 0}
    words = [_WORD.findall(text) for text in texts]
    openings = Counter(" ".join(w[:OPENING_WORDS]).lower() for w in words if w)
    # By count, then by name: equal counts must not depend on the order of the pictures.
    commonest = sorted(openings.items(), key=lambda item: (-item[1], item[0]))[:NUM_OPENINGS]
    lengths = np.array([len(w) for w in words])
    cases = Counter(_case(text) for text in texts)
    ends = Counter(_ending(text) for text in texts)
    return {
        "num_captions": num,
        "words": {
            "mean": float(lengths.mean()),
            "standard_deviation": float(lengths.std()),
            "quantiles": {
                name: float(np.quantile(lengths, q))
                for name, q in (("05", 0.05), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("95", 0.95))
            },
        },
        "openings": [{"opening": opening, "share": n / num} for opening, n in commonest],
        "share_of_commonest_openings": sum(n for _, n in commonest) / num,
        "starts_with_article": sum(bool(w) and w[0].lower() in ("a", "an") for w in words) / num,
        "leading_space": sum(text[:1].isspace() for text in texts) / num,
        "letter_case": {name: cases[name] / num for name in sorted(cases)},
        "ending": {name: ends[name] / num for name in sorted(ends)},
        "distinct": len(set(texts)) / num,
        "vocabulary": len({word.lower() for w in words for word in w}),
    }


def _case(text: str) -> str:
    """Name the letter case of a text: lower, upper, title, sentence, mixed or none."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return "none"
    if all(c.islower() for c in letters):
        return "lower"
    if all(c.isupper() for c in letters):
        return "upper"
    initials = [w[0] for w in re.findall(r"[^\W\d_]+", text)]
    if len(initials) > 1 and all(c.isupper() for c in initials):
        return "title"
    return "sentence" if letters[0].isupper() else "mixed"


def _ending(text: str) -> str:
    last = text.rstrip()[-1:]
    if last == ".":
        return "full_stop"
    return "none" if not last or last.isalnum() else "other_punctuation"


# --------------------------------------------------------------------------- examples


def _examples(cfg: CaptionsConfig, kinds: Sequence[Kind]) -> dict[str, list[dict[str, str]]]:
    """Choose pictures by key, un-annotated and with every kind where there are such."""
    candidates = sorted({sample_id for kind in kinds for sample_id in kind.texts})
    full = [s for s in candidates if all(s in kind.texts for kind in kinds)] or candidates
    order = keyed.permutation(0, "captions.examples", epoch=0, ids=keyed.words(full))
    chosen = [full[int(i)] for i in order[: cfg.num_examples]]
    return {
        kind.name: [{"sample_id": s, "text": kind.texts[s]} for s in chosen if s in kind.texts]
        for kind in kinds
    }
