"""Score generations: CLIP for every scoring text, and the claims of the prompt that hold.

Every generation is scored with its prompt and with each scoring style's text of the same picture:
the grid prompt style x scoring caption; where texts are cut, by their sentences too. Where claims
are known, the recogniser says which of the prompt's own claims hold. The pictures that the prompts
speak of, and their reconstructions by the autoencoder, are scored the same way as arms of their
own: no model can hope for more.

Nothing is averaged here, and nothing is scored that is not complete (`eval/complete.py`).

N generations, M distinct texts, D feature width
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8

from eval import artifacts, clip, clip_load, picture_judges, recogniser
from eval.artifacts import BY_SENTENCES, PICTURES_ARM, PROMPT_SCORING, RECONSTRUCTIONS_ARM, Judge
from eval.clip_sentences import SentenceFeatures, sentence_features, similarity_by_sentences
from eval.complete import check_complete, refuse_unpaired
from eval.config import ScoreConfig
from eval.first_stage import reconstruct
from eval.kept_features import KeptFeatures
from eval.reading import Reading
from eval.verdicts import knows, tally, verdicts
from launch.errors import ArtifactError, ConfigError
from launch.manifest import SCRATCH, digest_file, is_complete, write_parquet
from launch.parts import pending
from launch.processes import set_threads
from launch.run import Run
from recap.artifacts import IMAGES, Images, open_images
from recap.claims import Claim, from_json
from t2i.artifacts import (
    AUTOENCODER,
    GENERATIONS,
    PROMPTS,
    Prompt,
    Prompts,
    open_generations,
    open_prompts,
)
from t2i.autoencoder import Autoencoder
from t2i.component import locate

BLOCK = 1024
"""Pictures read and scored at once."""

NO_PIXELS = np.zeros((0, 1, 1, 3), np.uint8)
"""Stands for pictures that nothing looks at, because their features were kept."""

CLAIMS_FORMULA = (
    "statements of the prompt's claims that hold / statements checked; an abstention does not hold"
)


@dataclass(frozen=True)
class Arm:
    """What is scored together: one generations artifact, or one of the two ceilings."""

    name: str
    model_seed: int
    generation_ids: list[str]
    prompts: list[Prompt]
    """The prompt of each generation."""

    seeds: list[int]
    samples_seen: list[int]
    pixels: Callable[[Int64[np.ndarray, " N"]], UInt8[np.ndarray, "N H W 3"]]
    picture_of: Int64[np.ndarray, " N"]
    """Number of the picture of each generation; a ceiling's picture serves several prompts."""

    part: str
    """File of its rows."""

    source: list[str]
    """What says which pictures these are: digests and choices."""

    def __len__(self) -> int:
        return len(self.generation_ids)

    @property
    def drawn(self) -> set[tuple[int, str, int]]:
        """Return (samples_seen, prompt_id, seed) of every picture."""
        prompt_ids = [prompt.prompt_id for prompt in self.prompts]
        return set(zip(self.samples_seen, prompt_ids, self.seeds, strict=True))


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


def score(cfg: ScoreConfig, run: Run) -> None:
    """Score every generation and the two ceilings."""
    if cfg.judge is not None:
        run.input("judge", cfg.judge, artifact=artifacts.JUDGE)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    if cfg.images is not None:
        run.input("images", cfg.images, artifact=IMAGES)
    if cfg.autoencoder is not None:
        if is_complete(cfg.autoencoder):
            run.input("autoencoder", cfg.autoencoder, artifact=AUTOENCODER)
        else:
            found = locate(cfg.autoencoder, artifact=AUTOENCODER)
            run.external_input("autoencoder", found.source, found.digest)
    if cfg.clip_weights is not None and Path(cfg.clip_weights).is_file():
        weights = Path(cfg.clip_weights)
        run.external_input("clip_weights", weights, digest_file(weights))
    picture_judges.note_inputs(cfg, run)
    judge = None if cfg.judge is None else artifacts.open_judge(cfg.judge)
    prompts = open_prompts(cfg.prompts)
    scoring = _scoring_texts(cfg, prompts)
    arms = [_arm(folder, prompts=prompts, cfg=cfg) for folder in cfg.generations]
    refuse_unpaired(
        [(arm.name, arm.model_seed) for arm in arms],
        [arm.drawn for arm in arms],
        folders=cfg.generations,
    )
    arms += _ceilings(cfg, prompts)

    num_rows = sum(len(arm) for arm in arms) * 2 * (1 + len(scoring))
    plan = {
        "generations": sum(len(arm) for arm in arms if arm.model_seed >= 0),
        "scoring texts": ", ".join([PROMPT_SCORING, *scoring]),
        "ceilings": ", ".join(arm.name for arm in arms if arm.model_seed < 0) or "none",
        "CLIP": cfg.clip_model or "the judge's own",
    }
    if not run.start(plan, minutes=num_rows / 5000 / 60, gib=num_rows * 100 / 2**30):
        return
    set_threads(cfg.threads)

    scorer = _scorer(cfg, judge, prompts=prompts, scoring=scoring)
    left = set(pending(run.out, [arm.part for arm in arms]))
    if (run.out / "scores.parquet").is_file():
        left = set()  # killed between the last part and the manifest
    with run.progress(sum(len(arm) for arm in arms), label="score") as progress:
        progress.resume(sum(len(arm) for arm in arms if arm.part not in left))
        for arm in arms:
            if arm.part in left:
                table = score_arm(arm, scorer, advance=progress.advance)
                write_parquet(run.out / arm.part, table)

    path = run.out / "scores.parquet"
    if not path.is_file():
        parts = [
            artifacts.read_table(run.out / arm.part, schema=artifacts.SCORES_SCHEMA) for arm in arms
        ]
        artifacts.write_scores(path, pa.concat_tables(parts))
    table = artifacts.read_table(path, schema=artifacts.SCORES_SCHEMA)
    run.finish(
        artifact=artifacts.SCORES,
        version=artifacts.SCORES_VERSION,
        counts={
            "rows_in": sum(len(arm) for arm in arms),
            "rows_out": len(set(table["generation_id"].to_pylist())),
            "scores": table.num_rows,
        },
        parts=["scores.parquet"],
        recipe={"scorers": describe(scorer, judge, prompts=prompts, scoring=scoring)},
    )


# --------------------------------------------------------------------------- what is scored


def _scoring_texts(cfg: ScoreConfig, prompts: Prompts) -> dict[str, dict[str, str]]:
    """Return the texts of each scoring style by pair."""
    if (
        len(set(cfg.scoring_styles)) < len(cfg.scoring_styles)
        or PROMPT_SCORING in cfg.scoring_styles
    ):
        raise ConfigError(
            f"scoring_styles must be distinct styles, got {cfg.scoring_styles}; the prompt itself "
            "always scores"
        )
    pairs = set(prompts.pair_ids)
    found = {}
    for style in cfg.scoring_styles:
        texts = prompts.texts(style)
        absent = sorted(pairs - texts.keys())
        if absent:
            raise ConfigError(
                f"{cfg.prompts}: {len(absent):,} of {len(pairs):,} pairs have no text of scoring "
                f"style {style!r}, {absent[0]} first; its styles are {', '.join(prompts.styles)}"
            )
        found[style] = texts
    return found


def _arm(folder: Path, *, prompts: Prompts, cfg: ScoreConfig) -> Arm:
    """Open generations, and refuse any that are not exactly those that were to be drawn."""
    generations = open_generations(folder)
    made_from = [i.digest for i in generations.manifest.inputs if i.role == "prompts"]
    if made_from != [prompts.manifest.digest]:
        raise ArtifactError(
            f"{folder}: was drawn for other prompts ({', '.join(made_from) or 'unknown'}) than "
            f"{cfg.prompts} ({prompts.manifest.digest}). Score it with its own prompts."
        )
    check_complete(generations, prompts, where=str(folder))
    by_id = {prompt.prompt_id: prompt for prompt in prompts.rows}
    table = generations.table
    return Arm(
        name=generations.arm,
        model_seed=generations.model_seed,
        generation_ids=table["generation_id"].to_pylist(),
        prompts=[by_id[prompt_id] for prompt_id in table["prompt_id"].to_pylist()],
        seeds=table["seed"].to_pylist(),
        samples_seen=table["samples_seen"].to_pylist(),
        pixels=generations.pixels,
        picture_of=np.arange(len(generations)),
        part=f"{SCRATCH}/{generations.manifest.digest}.parquet",
        source=[generations.manifest.digest],
    )


def _ceilings(cfg: ScoreConfig, prompts: Prompts) -> list[Arm]:
    """Return the prompts' own pictures, and those through the autoencoder, as arms."""
    if cfg.images is None:
        if cfg.autoencoder is not None:
            raise ConfigError("autoencoder: needs `images`, whose pictures it reconstructs")
        return []
    images = open_images(cfg.images)
    pair_ids = prompts.pair_ids
    known = set(images.sample_ids)
    absent = [pair_id for pair_id in pair_ids if pair_id not in known]
    if absent:
        raise ArtifactError(
            f"{cfg.images}: {len(absent):,} of {len(pair_ids):,} pairs of {cfg.prompts} are no "
            f"picture of it, {absent[0]} first; give the images that the prompts were made from"
        )
    rows = np.array([images.row_of(pair_id) for pair_id in pair_ids], np.int64)
    number = {pair_id: i for i, pair_id in enumerate(pair_ids)}
    size = _picture_size(cfg, images)
    pictures = Arm(
        name=PICTURES_ARM,
        model_seed=-1,
        generation_ids=[f"{PICTURES_ARM}:{prompt.prompt_id}" for prompt in prompts.rows],
        prompts=prompts.rows,
        seeds=[-1] * len(prompts.rows),
        samples_seen=[0] * len(prompts.rows),
        pixels=lambda chosen: images.pixels(rows[chosen], size=size),
        picture_of=np.array([number[prompt.pair_id] for prompt in prompts.rows], np.int64),
        part=f"{SCRATCH}/pictures.parquet",
        source=[images.manifest.digest, prompts.manifest.digest, str(size)],
    )
    if cfg.autoencoder is None:
        return [pictures]
    folder = cfg.autoencoder

    def rebuilt(chosen: Int64[np.ndarray, " N"]) -> UInt8[np.ndarray, "N H W 3"]:
        return reconstruct(Autoencoder.load(folder), pictures.pixels(chosen))

    return [
        pictures,
        replace(
            pictures,
            name=RECONSTRUCTIONS_ARM,
            generation_ids=[f"{RECONSTRUCTIONS_ARM}:{prompt.prompt_id}" for prompt in prompts.rows],
            pixels=rebuilt,
            part=f"{SCRATCH}/reconstructions.parquet",
            source=[*pictures.source, locate(folder, artifact=AUTOENCODER).digest],
        ),
    ]


def _picture_size(cfg: ScoreConfig, images: Images) -> int:
    """Return the side at which ceilings are shown: that of the generations, or of the pictures."""
    for folder in cfg.generations:
        generations = open_generations(folder)
        if len(generations):
            return int(generations.pixels(np.array([0])).shape[1])
    return int(images.table["height"][0].as_py())


# --------------------------------------------------------------------------- scoring


def _scorer(
    cfg: ScoreConfig, judge: Judge | None, *, prompts: Prompts, scoring: dict[str, dict[str, str]]
) -> Scorer:
    clip_model = cfg.clip_model or (judge.clip_folder if judge is not None else None)
    assert clip_model is not None, "checked by the configuration"
    model = clip_load.load_clip(
        clip_model,
        weights=cfg.clip_weights,
        prefix=cfg.clip_prefix,
        precision=cfg.clip_precision,
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
        recogniser=None if folder is None else recogniser.load_recogniser(folder),
        measurable=frozenset(axis for axis, is_read in measurable.items() if is_read),
        scoring=scoring,
        claims=claims,
        judges=picture_judges.load_judges(cfg, clip=model, prompts=prompts.rows, claims=claims),
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
