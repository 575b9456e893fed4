"""Measure captions: what they say that is true, how long they are, and what they always do.

Where the truth is known, every caption is read back into claims, so that omission and invention
are counted and not guessed; where it is known of some pictures only, these figures are of those and
say so. Pictures whose captions a captioner was trained on are reported apart from those it never
saw annotated. Lengths and regularities need no truth and are measured for photographs just the
same: a model trained on captions learns their habits too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from eval import artifacts
from eval.captions_page import write_page
from eval.captions_summary import summary_text
from eval.config import CaptionsConfig
from eval.gated import gated
from eval.hallucination_signals import (
    Measured,
    asked_of,
    calibration_of,
    captioners_of,
    carried_plan,
    hallucination_of,
    samples_by_kind,
)
from eval.overlap import overlap
from eval.regularities import RAREFIED, WORD, regularities
from eval.summary import SUMMARY
from eval.telling_apart import telling_apart
from eval.tokens import Encoder, open_encoder, split_limit
from launch import keyed
from launch.errors import ArtifactError, ConfigError
from launch.manifest import write_bytes
from launch.processes import noted_device, set_threads
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from recap.claims import AXES, Claim, Tally, compare, read
from t2i.artifacts import PROMPTS, open_prompts

ALT = "alt"
ALL_AXES = "all"
"""Name of the row that pools the axes."""


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

    captioners: frozenset[str] = frozenset()
    """Digests of the captioners that wrote them; empty where none is recorded."""

    asked: frozenset[str] = frozenset()
    """What those were asked."""

    @property
    def measured(self) -> Measured:
        """What is asked about hallucination: captions of pictures that nobody annotated."""
        return Measured(self.name, self.texts, self.captioners, self.asked)


def captions(cfg: CaptionsConfig, run: Run) -> None:
    """Write the measurements of alt texts and of every kind of caption given."""
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    for folder in cfg.annotated:
        run.input("annotated", folder, artifact=CAPTIONS)
    for folder in cfg.samples:
        run.input("samples", folder, artifact=CAPTIONS)
    for folder in cfg.prompts:
        run.input("prompts", folder, artifact=PROMPTS)
    if cfg.judge is not None:
        run.input("judge", cfg.judge, artifact=artifacts.JUDGE, version=artifacts.JUDGE_VERSION)
    if cfg.calibration is not None:
        run.input(
            "calibration", cfg.calibration, artifact=artifacts.CAPTIONS_REPORT,
            version=artifacts.CAPTIONS_REPORT_VERSION,
        )  # fmt: skip
    encoders = [open_encoder(str(spec)) for spec in cfg.text_encoders]
    for spec, encoder in zip(cfg.text_encoders, encoders, strict=True):
        run.external_input("text_encoder", split_limit(str(spec))[0], encoder.digest)
    images = open_images(cfg.images)
    rows = images.rows(None if cfg.split == "all" else cfg.split)
    if not len(rows):
        raise ConfigError(
            f"{cfg.images}: no picture of split {cfg.split!r}; its splits are "
            f"{', '.join(sorted(set(images.split)))}, and `all` measures every picture"
        )
    measured = [images.sample_ids[int(row)] for row in rows]
    kinds = _kinds(cfg, images, measured)
    samples = _samples(cfg, kinds)
    calibration = None if cfg.calibration is None else calibration_of(cfg.calibration)
    num_known = sum(images.claims[int(row)] is not None for row in rows)
    plan: dict[str, object] = {
        "pictures": len(rows),
        "kinds": ", ".join(kind.name for kind in kinds),
        "pictures whose claims are known": num_known,
        "samples": ", ".join(f"{len(found)} of {name}" for name, found in samples.items())
        or "none",
        "judge": "none" if cfg.judge is None else "its CLIP",
        "text encoders": ", ".join(f"{e.name} ({e.max_tokens})" for e in encoders) or "none",
    }
    if cfg.calibration is not None and calibration is not None:
        margin = ["margin"] if cfg.judge is not None and len(measured) > 1 else []
        agreements = {name: ["agreement"] for name in samples}
        signals = {k.name: [*agreements.get(k.name, []), *margin] for k in kinds if k.texts}
        plan["estimate carried over"] = carried_plan(
            calibration,
            {kind: of_kind for kind, of_kind in signals.items() if of_kind},
            folder=cfg.calibration,
        )
    recipe: dict[str, object] = {"text_encoders": [[e.name, e.max_tokens] for e in encoders]}
    if cfg.judge is not None:
        recipe |= noted_device()
    if not run.start(plan, recipe=recipe):
        return
    set_threads(cfg.threads)

    rarefied_to = min([RAREFIED, *(len(kind.texts) for kind in kinds if kind.texts)])
    lengths = _lengths(kinds)
    claims = _claims(kinds, images) if num_known else artifacts.CLAIMS_SCHEMA.empty_table()
    estimated = hallucination_of(
        [kind.measured for kind in kinds],
        images=images,
        samples=samples,
        judge=None if cfg.judge is None else artifacts.open_judge(cfg.judge),
        measured=measured,
        claims=claims,
        calibration=calibration,
        batch_size=cfg.batch_size,
    )
    report = artifacts.CaptionsReport(
        axes=axes_of(claims),
        lengths=lengths,
        claims=claims,
        tokens=_tokens(kinds, encoders),
        sentences=estimated.sentences,
        estimates=estimated.estimates,
        regularities={
            kind.name: {
                **regularities(list(kind.texts.values()), rarefied_to=rarefied_to),
                "num_missing": kind.num_missing,
            }
            for kind in kinds
        },
        examples=_examples(cfg, kinds),
        gates={"captions": gated(cfg.captions, num_examples=cfg.num_examples)},
        telling_apart=telling_apart({kind.name: kind.texts for kind in kinds}),
        hallucination=estimated.facts,
        overlap=overlap(
            [open_prompts(folder) for folder in cfg.prompts],
            images=images,
            captions=[open_captions(folder) for folder in cfg.captions],
        ),
    )
    parts = artifacts.write_captions_report(run.out, report)
    parts += write_page(run.out, report, images=images, split=cfg.split)
    write_bytes(run.out / SUMMARY, summary_text(report).encode())
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
    writers: dict[str, frozenset[str]] = {}
    asked: dict[str, frozenset[str]] = {}
    for folder in cfg.captions:
        opened = open_captions(folder)
        for kind in opened.kinds:
            writers[kind] = writers.get(kind, frozenset()) | captioners_of(opened)
            asked[kind] = asked.get(kind, frozenset()) | {asked_of(opened)}
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
                captioners=writers.get(kind, frozenset()),
                asked=asked.get(kind, frozenset()),
            )
        )
    return found


def _samples(cfg: CaptionsConfig, kinds: Sequence[Kind]) -> dict[str, list[dict[str, str]]]:
    return samples_by_kind(
        [open_captions(folder) for folder in cfg.samples],
        [kind.measured for kind in kinds],
        measured=[open_captions(folder).manifest.digest for folder in cfg.captions],
    )


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


# --------------------------------------------------------------------------- form


def _lengths(kinds: Sequence[Kind]) -> pa.Table:
    rows = [
        {
            "kind": kind.name,
            "sample_id": sample_id,
            "annotated": is_annotated,
            "num_words": len(WORD.findall(text)),
            "num_characters": len(text),
        }
        for kind in kinds
        for is_annotated, texts in ((False, kind.texts), (True, kind.annotated))
        for sample_id, text in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=artifacts.LENGTHS_SCHEMA)


def _tokens(kinds: Sequence[Kind], encoders: Sequence[Encoder]) -> pa.Table:
    rows = [
        {
            "kind": kind.name,
            "sample_id": sample_id,
            "annotated": is_annotated,
            "encoder": encoder.name,
            "num_tokens": int(num),
            "max_tokens": encoder.max_tokens,
        }
        for encoder in encoders
        for kind in kinds
        for is_annotated, texts in ((False, kind.texts), (True, kind.annotated))
        for sample_id, num in zip(texts, encoder.count(list(texts.values())), strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=artifacts.TOKENS_SCHEMA)


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
