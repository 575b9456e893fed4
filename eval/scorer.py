"""What scores: CLIP, the recogniser or a detector, OCR, and the rows that they give of an arm.

Every picture is scored with its prompt and with each scoring style's text of the same picture: the
grid prompt style x scoring caption; where texts are cut, by their sentences too. Where claims are
known, the recogniser says which of the prompt's own claims hold. Nothing is averaged here.

N generations, M distinct texts, D feature width
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from eval import artifacts, clip, clip_load, picture_judges, recogniser
from eval.artifacts import BY_SENTENCES, PROMPT_SCORING, Judge
from eval.clip_sentences import SentenceFeatures, sentence_features, similarity_by_sentences
from eval.config import ScoreConfig
from eval.kept_features import KeptFeatures
from eval.reading import Reading
from eval.score_arms import Arm
from eval.verdicts import knows, tally, verdicts
from launch.manifest import digest_file
from launch.processes import device
from recap.claims import Claim, from_json
from t2i.artifacts import Prompts

BLOCK = 1024
"""Pictures read and scored at once."""

NO_PIXELS = np.zeros((0, 1, 1, 3), np.uint8)
"""Stands for pictures that nothing looks at, because their features were kept."""

CLAIMS_FORMULA = (
    "statements of the prompt's claims that hold / statements checked; an abstention does not hold"
)


@dataclass(frozen=True)
class Scorer:
    """What scores, with the features of every text that will be needed."""

    clip: clip.ClipScorer
    text_row: dict[str, int]
    text_features: Float32[np.ndarray, "M D"]
    by_sentences: SentenceFeatures | None
    """None where no text is cut."""

    kept: KeptFeatures
    recogniser: recogniser.Recogniser | None
    measurable: frozenset[str]
    scoring: dict[str, dict[str, str]]
    """Scoring style -> pair -> text."""

    claims: dict[str, list[Claim]]
    """Claims of the prompts that make any, by `prompt_id`."""

    judges: list[picture_judges.PictureJudge]
    batch_size: int


def load_scorer(
    cfg: ScoreConfig, judge: Judge | None, *, prompts: Prompts, scoring: dict[str, dict[str, str]]
) -> Scorer:
    """Load what the settings name, and encode every text once."""
    clip_model = cfg.clip_model or (None if judge is None else judge.clip_folder)
    assert clip_model is not None, "the configuration asks for one of them"
    model = clip_load.load_clip(
        clip_model,
        weights=cfg.clip_weights,
        prefix=cfg.clip_prefix,
        precision=cfg.clip_precision,
        device=device(),
    )
    texts = sorted(
        {p.prompt for p in prompts.rows} | {t for s in scoring.values() for t in s.values()}
    )
    kept = KeptFeatures(cfg.features, model, batch_size=cfg.batch_size, threads=cfg.threads)
    # A detector takes the recogniser's place, which knows the embedded world alone.
    folder = None if cfg.detector is not None or judge is None else judge.recogniser_folder
    measurable = {} if judge is None else judge.measurable
    claims = {
        prompt.prompt_id: said
        for prompt in prompts.rows
        if prompt.claims is not None and (said := from_json(prompt.claims))
    }
    return Scorer(
        clip=model,
        text_row={text: row for row, text in enumerate(texts)},
        text_features=kept.texts(texts),
        by_sentences=sentence_features(texts, kept=kept) if model.num_truncated(texts) else None,
        kept=kept,
        recogniser=None if folder is None else recogniser.load_recogniser(folder).to(device()),
        measurable=frozenset(axis for axis, is_read in measurable.items() if is_read),
        scoring=scoring,
        claims=claims,
        judges=picture_judges.load_judges(cfg, clip=model, prompts=prompts, claims=claims),
        batch_size=cfg.batch_size,
    )


def score_arm(arm: Arm, scorer: Scorer, *, advance: Callable[[int], None]) -> pa.Table:
    """Return all rows of one arm."""
    columns: dict[str, list[Any]] = {name: [] for name in artifacts.SCORES_SCHEMA.names}
    numbers = np.unique(arm.picture_of)
    kept = scorer.kept.pictures(arm.source, num=len(numbers))
    encoded = []
    reads_claims = scorer.recogniser is not None and bool(scorer.claims)
    looks = reads_claims or bool(scorer.judges)
    rows_of: dict[int, list[int]] = {}
    for row, number in enumerate(arm.picture_of.tolist()):
        rows_of.setdefault(number, []).append(row)
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        pixels = arm.pixels(block) if kept is None or looks else NO_PIXELS
        if kept is None:
            features = scorer.clip.picture_features(pixels, batch_size=scorer.batch_size)
            encoded.append(features)
        else:
            features = kept[start : start + BLOCK]
        readings = None
        if scorer.recogniser is not None and scorer.claims:
            readings = recogniser.read(scorer.recogniser, pixels, batch_size=scorer.batch_size)
        rows = [row for number in block.tolist() for row in rows_of[number]]
        place = np.searchsorted(block, arm.picture_of[rows])
        _add_clip(columns, arm, rows, features[place], scorer)
        if readings is not None:
            _add_claims(columns, arm, rows, [readings[i] for i in place.tolist()], scorer)
        asked = [
            picture_judges.Asked(number, arm.prompts[row])
            for number, row in zip(place.tolist(), rows, strict=True)
        ]
        for judge in scorer.judges:
            for row, found in zip(rows, judge.rows(pixels, asked), strict=True):
                for score_row in found:
                    _add(columns, arm, row, scoring=None, **score_row._asdict())
        advance(len(rows))
    if encoded:
        scorer.kept.keep_pictures(arm.source, np.concatenate(encoded))
    return artifacts.scores_table(columns)


def _add_clip(
    columns: dict[str, list[Any]],
    arm: Arm,
    rows: Sequence[int],
    pictures: Float32[np.ndarray, "N D"],
    scorer: Scorer,
) -> None:
    for scoring in (PROMPT_SCORING, *scorer.scoring):
        texts = [
            arm.prompts[row].prompt
            if scoring == PROMPT_SCORING
            else scorer.scoring[scoring][arm.prompts[row].pair_id]
            for row in rows
        ]
        places = [scorer.text_row[text] for text in texts]
        features = scorer.text_features[places]
        found = {
            "clip_similarity": clip.similarity(pictures, features),
            "clip_distance": clip.distance(pictures, features),
        }
        if scorer.by_sentences is not None:
            means = scorer.by_sentences.means[places]
            found[BY_SENTENCES] = similarity_by_sentences(pictures, means)
        for metric, values in found.items():
            for row, value in zip(rows, values.tolist(), strict=True):
                _add(columns, arm, row, metric=metric, scoring=scoring, axis=None, value=value)


def _add_claims(
    columns: dict[str, list[Any]],
    arm: Arm,
    rows: Sequence[int],
    readings: Sequence[Reading],
    scorer: Scorer,
) -> None:
    for row, reading in zip(rows, readings, strict=True):
        claims = scorer.claims.get(arm.prompts[row].prompt_id)
        if claims is None or not knows(claims):
            continue
        by_axis = tally(verdicts(claims, reading))
        for found in picture_judges.claim_rows(by_axis, together=sorted(scorer.measurable)):
            _add(columns, arm, row, scoring=None, **found._asdict())


def _add(
    columns: dict[str, list[Any]],
    arm: Arm,
    row: int,
    *,
    metric: str,
    scoring: str | None,
    axis: str | None,
    value: float,
) -> None:
    prompt = arm.prompts[row]
    columns["generation_id"].append(arm.generation_ids[row])
    columns["arm"].append(arm.name)
    columns["model_seed"].append(arm.model_seed)
    columns["seed"].append(arm.seeds[row])
    columns["samples_seen"].append(arm.samples_seen[row])
    columns["pair_id"].append(prompt.pair_id)
    columns["prompt_id"].append(prompt.prompt_id)
    columns["prompt_style"].append(prompt.style)
    columns["metric"].append(metric)
    columns["scoring"].append(scoring)
    columns["axis"].append(axis)
    columns["value"].append(value)


def describe(
    scorer: Scorer, judge: Judge | None, *, prompts: Prompts, scoring: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Name everything that a score depends on (the sixth law), for the manifest's recipe."""
    texts = {style: list(prompts.texts(style).values()) for style in prompts.styles}
    texts |= {style: list(by_pair.values()) for style, by_pair in scoring.items()}
    rates = {}
    for style, of_style in texts.items():
        distinct = sorted({scorer.clip.prefix + text for text in of_style})
        num_tokens = scorer.clip.tokenise(distinct).num_tokens
        rates[style] = float((num_tokens > scorer.clip.context_length).mean())
    found: dict[str, Any] = {"clip": {**scorer.clip.describe(), "truncation_rate": rates}}
    if scorer.by_sentences is not None:
        found["clip"]["sentences"] = scorer.by_sentences.describe()
    folder = None if judge is None else judge.recogniser_folder
    if folder is not None and scorer.recogniser is not None:
        found["claims"] = {
            "weights": digest_file(folder / recogniser.WEIGHTS_NAME),
            "architecture": json.loads((folder / recogniser.CONFIG_NAME).read_text()),
            "precision": "float32",
            "formula": CLAIMS_FORMULA,
            "measurable": sorted(scorer.measurable),
        }
        num_foreign = sum(not knows(claims) for claims in scorer.claims.values())
        if num_foreign:  # claims of another benchmark are not read, rather than held false
            found["claims"]["prompts_of_another_world"] = num_foreign
    return found | {each.name: each.describe() for each in scorer.judges}
