"""Signals of hallucination for opened captions, and what they tell: exact, fitted or carried over.

Finds the samples that belong to each kind, asks the judge's CLIP, and puts `eval.hallucination` to
work: where claims are known the estimate is fitted and tested, elsewhere one is carried over from
the report of a world where they are, or the bare signals are told and no rate.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int64

from eval import artifacts
from eval import hallucination as pure
from eval.agreement import agreement, content_grams, content_words, sentences
from eval.intervals import Interval, t_interval
from launch import keyed
from launch.errors import ArtifactError, ConfigError
from launch.processes import device
from recap.artifacts import Captions, Images


class Measured(NamedTuple):
    """Captions of one kind that are measured."""

    name: str
    texts: Mapping[str, str]
    captioners: frozenset[str]
    """Digests of the captioners that wrote them; empty where none is recorded."""

    asked: frozenset[str] = frozenset()
    """What those were asked, as `asked_of` tells it."""


@dataclass(frozen=True)
class Rows:
    """The sentences of one kind, and their signals."""

    sample_ids: list[str]
    """Pictures, one per caption."""

    texts: list[str]
    caption: Int64[np.ndarray, " S"]
    """Place of each sentence's caption."""

    weights: Float[np.ndarray, " S"]
    """Content words of each sentence."""

    signals: dict[str, Float[np.ndarray, " S"]] = field(default_factory=dict)
    """`agreement`, `margin`, or whatever of them there is."""

    def by_caption(self) -> dict[str, Float[np.ndarray, " N"]]:
        """Return each signal's mean over a caption's sentences, weighted by content words."""
        return {
            name: pure.by_caption(
                values, caption=self.caption, weights=self.weights, num=len(self.sample_ids)
            )
            for name, values in self.signals.items()
        }


def captioners_of(captions: Captions) -> frozenset[str]:
    """Return the digests of the captioners that wrote an artifact."""
    return frozenset(i.digest for i in captions.manifest.inputs if i.role == "captioner")


def asked_of(captions: Captions) -> str:
    """Return what the writer of an artifact was asked: the `vlm` of its recipe, `null` for none.

    How words were chosen is no part of it: samples differ from what is measured in just that.
    """
    return json.dumps(captions.manifest.recipe.get("vlm"), sort_keys=True)


def samples_by_kind(
    samples: Sequence[Captions], kinds: Sequence[Measured], *, measured: Sequence[str]
) -> dict[str, list[dict[str, str]]]:
    """Give every kind the further samples of its own captioner, asked the same.

    Args:
        samples: Opened captions artifacts of samples.
        kinds: What is measured.
        measured: Digests of the artifacts that are measured.

    Raises:
        ConfigError: Samples are given twice, are themselves what is measured, or could be of
            several measured kinds.
        ArtifactError: Samples belong to no measured kind.
    """
    found: dict[str, list[dict[str, str]]] = {}
    seen = set(measured)
    for opened in samples:
        if opened.manifest.digest in seen:
            raise ConfigError(
                f"samples: {opened.folder} is measured itself or given twice; a caption always "
                "agrees with itself. Sample with another seed: recap caption "
                "decode.method=sample seed=1 ..."
            )
        seen.add(opened.manifest.digest)
        for name in opened.kinds:
            owner = owner_of(opened, name, kinds)
            found.setdefault(owner, []).append(opened.texts(name))
    return found


def owner_of(opened: Captions, name: str, kinds: Sequence[Measured]) -> str:
    """Return the measured kind that the samples of one kind speak for.

    One captioner may have written several: the kind of the same name is preferred, then the one
    that it was asked for in the same words. Where no captioner is recorded, the name decides.

    Args:
        opened: Opened captions artifact of samples.
        name: Kind of its captions.
        kinds: What is measured.
    """
    writers, asked = captioners_of(opened), asked_of(opened)
    owners = [
        kind
        for kind in kinds
        if (kind.captioners & writers if writers or kind.captioners else kind.name == name)
    ]
    if not owners:
        raise ArtifactError(
            f"{opened.folder}: its captions of kind {name!r} were written by the captioner "
            f"of none of the measured kinds ({', '.join(k.name for k in kinds)}); sample "
            "with the captioner whose captions are measured."
        )
    if any(kind.name == name for kind in owners):
        return name
    same = [kind.name for kind in owners if asked in kind.asked]
    all_owners = ", ".join(kind.name for kind in owners)
    if not same:
        raise ArtifactError(
            f"{opened.folder}: its captions of kind {name!r} were written by the captioner of "
            f"{all_owners}, but it was asked otherwise (vlm {asked}); samples must answer what "
            "the measured captions answer. Sample with the same vlm settings, or leave these "
            "samples out."
        )
    if len(same) > 1:
        raise ConfigError(
            f"samples: {opened.folder} has captions of kind {name!r}, whose captioner wrote "
            f"{', '.join(same)} too and was asked the same for each; expected samples of one "
            f"measured kind. Sample under the name of that kind: recap caption kind={same[0]} "
            "decode.method=sample seed=1 ..."
        )
    return same[0]


def rows_of(kind: Measured, samples: Sequence[Mapping[str, str]]) -> Rows:
    """Cut captions into sentences and ask the samples about each."""
    sample_ids = sorted(kind.texts)
    texts: list[str] = []
    caption, weights, agreements = [], [], []
    for place, sample_id in enumerate(sample_ids):
        said = [content_grams(other[sample_id]) for other in samples if sample_id in other]
        for sentence in sentences(kind.texts[sample_id]):
            texts.append(sentence)
            caption.append(place)
            weights.append(len(content_words(sentence)))
            agreements.append(agreement(sentence, said))
    return Rows(
        sample_ids=sample_ids,
        texts=texts,
        caption=np.array(caption, np.int64),
        weights=np.array(weights, np.float64),
        signals={"agreement": np.array(agreements, np.float64)} if samples else {},
    )


class Estimated(NamedTuple):
    """Everything about hallucination that a captions report holds."""

    facts: dict[str, Any]
    sentences: pa.Table
    estimates: pa.Table


def hallucination_of(
    kinds: Sequence[Measured],
    *,
    images: Images,
    samples: Mapping[str, Sequence[Mapping[str, str]]],
    judge: artifacts.Judge | None,
    measured: Sequence[str],
    claims: pa.Table,
    calibration: Mapping[str, Any] | None,
    batch_size: int,
) -> Estimated:
    """Return signals and estimates of every kind that has any signal.

    Args:
        kinds: Captions of pictures that nobody annotated.
        images: The pictures.
        samples: Kind -> further samples of it.
        judge: Holds the CLIP of the margin; None goes without.
        measured: All pictures of the measured split.
        claims: Rows of `claims.parquet`; without any, no truth is known.
        calibration: `hallucination` of the report that an estimate is carried over from.
        batch_size: Texts and pictures per step of the judge.
    """
    used = [kind for kind in kinds if kind.texts and (judge is not None or kind.name in samples)]
    rows = {kind.name: rows_of(kind, samples.get(kind.name, [])) for kind in used}
    facts: dict[str, Any] = {"kinds": {}}
    if judge is not None and len(measured) > 1:
        facts["judge"] = add_margins(
            list(rows.values()), judge=judge, images=images, measured=measured,
            batch_size=batch_size,
        )  # fmt: skip
    sentence_table, estimate_table = [], []
    for kind, of_kind in rows.items():
        found, table = told(kind, of_kind, claims=claims, calibration=calibration)
        facts["kinds"][kind] = {**found, "num_samples": len(samples.get(kind, []))}
        estimate_table += table
        sentence_table += sentence_rows(kind, of_kind)
    return Estimated(
        facts=facts,
        sentences=pa.Table.from_pylist(sentence_table, schema=artifacts.SENTENCES_SCHEMA),
        estimates=pa.Table.from_pylist(estimate_table, schema=artifacts.ESTIMATES_SCHEMA),
    )


def add_margins(
    kinds: Sequence[Rows],
    *,
    judge: artifacts.Judge,
    images: Images,
    measured: Sequence[str],
    batch_size: int,
) -> dict[str, Any]:
    """Add to each kind the CLIP margin of its sentences; return what scored and how many were cut.

    Args:
        kinds: Sentences; their `signals` are added to.
        judge: Holds the CLIP.
        images: The pictures.
        measured: Pictures that are compared: a caption's own and those drawn as others.
        batch_size: Texts and pictures per step.
    """
    from eval import clip_load

    scorer = clip_load.load_clip(judge.clip_folder, device=device())
    sample_ids = sorted(measured)
    rows = np.array([images.row_of(s) for s in sample_ids], np.int64)
    pictures = np.concatenate(
        [
            scorer.picture_features(
                images.pixels(rows[start : start + batch_size], size=scorer.image_size),
                batch_size=batch_size,
            )
            for start in range(0, len(rows), batch_size)
        ]
    )
    others = pure.shuffled_pictures(keyed.words(sample_ids))
    place = {sample_id: i for i, sample_id in enumerate(sample_ids)}
    cut = total = 0
    for kind in kinds:
        found = scorer.text_features(kind.texts, batch_size=batch_size)
        own = np.array([place[kind.sample_ids[i]] for i in kind.caption], np.int64)
        kind.signals["margin"] = (
            pure.margins(found.features, pictures, own=own, others=others)
            if len(own)
            else np.zeros(0)
        )
        cut, total = cut + found.num_truncated, total + found.num_distinct
    return {
        "clip": scorer.describe(),
        "distinct_sentences": total,
        "truncated_share": cut / total if total else 0.0,
        "num_shuffled": others.shape[1],
    }


def known_claims(claims: pa.Table, kind: str) -> dict[str, tuple[int, int]]:
    """Return (claims, false claims) of each caption of pictures nobody annotated."""
    sums: dict[str, tuple[int, int]] = {}
    for row in claims.to_pylist():
        if row["kind"] == kind and not row["annotated"]:
            num, false = sums.get(row["sample_id"], (0, 0))
            sums[row["sample_id"]] = (num + row["tp"] + row["fp"], false + row["fp"])
    return sums


def told(
    kind: str,
    rows: Rows,
    *,
    claims: pa.Table,
    calibration: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the signals tell of one kind, and the rows of `estimates.parquet`.

    Args:
        kind: Name of the kind.
        rows: Its sentences.
        claims: Rows of `claims.parquet`.
        calibration: `hallucination` of another report, whose fit is carried over.
    """
    signals = rows.by_caption()
    exact = known_claims(claims, kind)
    counts = np.array([exact.get(s, (-1, -1)) for s in rows.sample_ids]).reshape(-1, 2)
    known = counts[:, 0] >= 0
    estimates = np.full(len(rows.sample_ids), np.nan)
    facts: dict[str, Any] = {
        "num_captions": len(rows.sample_ids),
        "signals": {name: shown(mean_of(values)) for name, values in signals.items()},
        "known": None,
        "carried_over": None,
    }
    if known.any():
        found = pure.assess(
            {name: values[known] for name, values in signals.items()},
            false=counts[known, 1].astype(float),
            claims=counts[known, 0].astype(float),
            ids=keyed.words([s for s, k in zip(rows.sample_ids, known, strict=True) if k]),
        )
        if found is not None:
            estimates[known] = found.estimates
            facts["known"] = found.facts
    if facts["known"] is None and calibration is not None:
        sets = fitted_sets(calibration, kind)
        carried = pure.carried_over(signals, sets)
        if carried is not None:
            estimates = carried.estimates
            facts["carried_over"] = {
                "signals": carried.name,
                "estimate": shown(mean_of(estimates)),
                "correlation_there": sets[carried.name]["correlation"],
            }
            if facts["carried_over"]["estimate"] is None:
                facts["not_carried"] = "fewer than two of its captions have every signal of the fit"
        else:
            facts["not_carried"] = pure.why_none_usable(signals, sets)
    table = [
        {
            "kind": kind,
            "sample_id": sample_id,
            **{n: _finite(signals[n][i]) if n in signals else None for n in pure.SIGNALS},
            "num_claims": int(counts[i, 0]) if known[i] else None,
            "num_false": int(counts[i, 1]) if known[i] else None,
            "estimate": _finite(estimates[i]),
        }
        for i, sample_id in enumerate(rows.sample_ids)
    ]
    return facts, table


def sentence_rows(kind: str, rows: Rows) -> list[dict[str, Any]]:
    """Return the rows of `sentences.parquet`."""
    number: dict[int, int] = {}
    table = []
    for i, place in enumerate(rows.caption.tolist()):
        number[place] = number.get(place, -1) + 1
        table.append(
            {
                "kind": kind,
                "sample_id": rows.sample_ids[place],
                "sentence": number[place],
                "text": rows.texts[i],
                "num_content_words": int(rows.weights[i]),
                **{
                    n: _finite(rows.signals[n][i]) if n in rows.signals else None
                    for n in pure.SIGNALS
                },
            }
        )
    return table


def mean_of(values: Float[np.ndarray, " N"]) -> Interval | None:
    """Return the mean over pictures that have a value; None if fewer than two have."""
    finite = values[np.isfinite(values)]
    return t_interval(finite) if len(finite) > 1 else None


def shown(interval: Interval | None) -> dict[str, float | None] | None:
    """Return an interval as plain data; ends that are unbounded are none."""
    if interval is None:
        return None
    low, high = _finite(interval.low), _finite(interval.high)
    return {"mean": interval.estimate, "low": low, "high": high}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def calibration_of(folder: Path) -> dict[str, Any]:
    """Return the `hallucination` of the report that an estimate is carried over from.

    Raises:
        ConfigError: It holds no fitted estimate.
    """
    found = artifacts.open_captions_report(folder).hallucination
    if not fitted_kinds(found):
        raise ConfigError(
            f"calibration: {folder} holds no fitted estimate; measure captions of pictures with "
            "known claims there, with samples= or judge="
        )
    return found


def fitted_kinds(calibration: Mapping[str, Any]) -> list[str]:
    """Return the kinds that a report has a fitted estimate of."""
    return [kind for kind in calibration.get("kinds", {}) if fitted_sets(calibration, kind)]


def fitted_sets(calibration: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a kind's fits by their set of signals; none where the kind has none."""
    known = calibration.get("kinds", {}).get(kind, {}).get("known")
    sets: Mapping[str, Any] = known["sets"] if known else {}
    return sets


def carried_plan(
    calibration: Mapping[str, Any], signals: Mapping[str, Collection[str]], *, folder: Path
) -> str:
    """Say in a plan's words which kinds' fits can be carried over, and why the others' cannot.

    Args:
        calibration: `hallucination` of the report that is carried over from.
        signals: Names of the signals of every measured kind that will have any.
        folder: The report's folder, for the message.

    Raises:
        ConfigError: It has a fit of none of these kinds.
    """
    fitted = fitted_kinds(calibration)
    if not set(fitted) & signals.keys():
        raise ConfigError(
            f"calibration: {folder} has fits of the kinds {', '.join(fitted)}, and signals are "
            f"measured of {', '.join(signals) or 'none'}. A fit is carried over to the kind of the "
            "same name: store captions under the name of the kind that was written in the same "
            f"way there, as in recap caption kind={fitted[0]}, or leave calibration out."
        )
    reasons = {
        kind: pure.why_none_usable(of_kind, fitted_sets(calibration, kind))
        for kind, of_kind in signals.items()
    }
    return "; ".join(
        f"{kind}: {'a fit' if reason is None else 'none, ' + reason}"
        for kind, reason in reasons.items()
    )
