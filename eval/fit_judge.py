"""Fit what judges: a CLIP and, where claims are known, the scene recogniser; then measure both.

Both learn from pictures of the judge split, which no captioner and no image model sees, and from
texts written by people or from claims, never by a captioner. Both are measured on test pictures,
and `quality.json` stands beside every result that rests on them. How each of them learns is left to
`eval/fit_clip.py` and `eval/fit_recogniser.py`.

N pictures, S pixels a side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt64

from eval import artifacts, clip, clip_folder, clip_load, recogniser
from eval.config import FitJudgeConfig
from eval.first_stage import reconstruct
from eval.fit_clip import SHIFT, fit_clip
from eval.fit_loop import AVERAGE_DECAY, WEIGHT_DECAY
from eval.fit_recogniser import BLUR, LATENT_JITTER, NOISE, fit_recogniser
from eval.intervals import wilson_interval
from eval.reading import Reading, layouts
from eval.verdicts import tally, verdicts
from launch import keyed
from launch.checkpoint import FOLDER
from launch.errors import ArtifactError, ConfigError
from launch.processes import device, noted_device, set_threads
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from recap.claims import AXES, Claim
from t2i.autoencoder import Autoencoder

MAX_RETRIEVAL = 1000
"""Test pictures, at most, that retrieval is measured on."""
MAX_READ = 2000
"""Test pictures, at most, that the recogniser is measured on."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one split with what is known of them."""

    ids: UInt64[np.ndarray, " N"]
    sample_ids: list[str]
    pixels: UInt8[np.ndarray, "N S S 3"]
    texts: list[dict[str, list[str]]]
    """Kind -> texts, for each picture."""

    claims: list[list[Claim] | None]


def fit_judge(cfg: FitJudgeConfig, run: Run) -> None:
    """Fit the judge and write it with its quality."""
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    run.input("autoencoder", cfg.autoencoder, artifact="autoencoder")
    images = open_images(cfg.images)
    texts = _texts_by_picture(cfg)
    judge_rows, num_bare = _rows_with_texts(images, texts, split="judge", cfg=cfg)
    test_rows, _ = _rows_with_texts(images, texts, split="test", cfg=cfg)
    has_claims = all(images.claims[row] is not None for row in [*judge_rows, *test_rows])
    if cfg.recogniser_samples and not has_claims:
        raise ConfigError(
            f"recogniser_samples={cfg.recogniser_samples}, but pictures of {cfg.images} have no "
            "claims, so there is nothing to learn to read; set recogniser_samples=0"
        )

    samples = cfg.clip_samples + cfg.recogniser_samples
    plan = {
        "judge pictures": len(judge_rows),
        "test pictures": len(test_rows),
        "pairs seen by CLIP": cfg.clip_samples,
        "pictures seen by the recogniser": cfg.recogniser_samples,
    }
    settings = {
        "clip": {
            "weight_decay": WEIGHT_DECAY,
            "average_decay": AVERAGE_DECAY,
            "loss": "contrastive, equal texts never negatives of each other",
            "shift_px": SHIFT,
        },
        "recogniser": {
            "latent_jitter": LATENT_JITTER,
            "blur": BLUR,
            "noise": NOISE,
        },
    }
    recipe = {"fit": settings, **noted_device()}
    if not run.start(plan, recipe=recipe, minutes=samples / 1000 / 60, gib=0.05):
        return
    set_threads(cfg.threads)

    judge = _pictures(images, texts, judge_rows, image_size=cfg.image_size)
    test = _pictures(images, texts, test_rows, image_size=cfg.image_size)
    checkpoints = run.out / FOLDER

    scorer, clip_files = _fit_and_save_clip(judge, cfg=cfg, run=run, folder=checkpoints / "clip")
    quality: dict[str, Any] = {
        "clip": {"scorer": scorer.describe()},
        "retrieval": retrieval_quality(scorer, test, kinds=cfg.kinds, seed=cfg.seed),
    }
    parts = [f"clip/{name}" for name in clip_files]

    if cfg.recogniser_samples:
        autoencoder = Autoencoder.load(cfg.autoencoder).to(device())
        with run.progress(len(judge.ids), label="reconstruct") as progress:
            rebuilt = reconstruct(
                autoencoder,
                judge.pixels,
                jitter=LATENT_JITTER,
                seed=cfg.seed,
                ids=judge.ids,
                advance=progress.advance,
            )
        reader = fit_recogniser(
            judge.pixels,
            rebuilt=rebuilt,
            ids=judge.ids,
            claims=[claims for claims in judge.claims if claims is not None],
            cfg=cfg,
            run=run,
            folder=checkpoints / "recogniser",
        )
        names = recogniser.save_recogniser(run.out / "recogniser", reader)
        parts += [f"recogniser/{name}" for name in names]
        quality |= recogniser_quality(
            reader, test, autoencoder=autoencoder, min_accuracy=cfg.min_accuracy
        )

    artifacts.write_quality(run.out, quality)
    run.log("quality", **quality)
    run.finish(
        artifact=artifacts.JUDGE,
        version=artifacts.JUDGE_VERSION,
        counts={
            "rows_in": len(judge_rows) + num_bare,
            "rows_out": len(judge_rows),
            "test_pictures": len(test_rows),
        },
        rejected={"no_text": num_bare},
        parts=[*parts, "quality.json"],
    )


def _fit_and_save_clip(
    judge: Pictures, *, cfg: FitJudgeConfig, run: Run, folder: Path
) -> tuple[clip.ClipScorer, list[str]]:
    texts = [
        [text for kind in cfg.kinds for text in by_kind.get(kind, ())] for by_kind in judge.texts
    ]
    fitted = fit_clip(judge.pixels, ids=judge.ids, texts=texts, cfg=cfg, run=run, folder=folder)
    files = clip_folder.save_clip(
        run.out / "clip", model=fitted.model, config=fitted.config, tokenizer=fitted.tokenizer
    )
    # Read back: what is measured below is what will score.
    return clip_load.load_clip(run.out / "clip", device=device()), files


# --------------------------------------------------------------------------- inputs


def _texts_by_picture(cfg: FitJudgeConfig) -> dict[str, dict[str, list[str]]]:
    """Return sample_id -> kind -> texts; several artifacts may hold one kind."""
    found: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    for folder in cfg.captions:
        captions = open_captions(folder)
        for kind in captions.kinds:
            if kind not in cfg.kinds:
                continue
            seen.add(kind)
            for sample_id, text in captions.texts(kind).items():
                texts = found.setdefault(sample_id, {}).setdefault(kind, [])
                if text not in texts:
                    texts.append(text)
    absent = [kind for kind in cfg.kinds if kind not in seen]
    if absent:
        raise ConfigError(
            f"kinds: {absent[0]!r} is in none of {', '.join(map(str, cfg.captions)) or 'captions'};"
            f" found {', '.join(sorted(seen)) or 'none of those asked for'}"
        )
    return found


def _rows_with_texts(
    images: Images, texts: dict[str, dict[str, list[str]]], *, split: str, cfg: FitJudgeConfig
) -> tuple[list[int], int]:
    """Return the rows of a split that have a text, and how many have none."""
    rows = [int(row) for row in images.rows(split)]
    kept = [row for row in rows if images.sample_ids[row] in texts]
    if len(kept) < 2:
        raise ArtifactError(
            f"{cfg.images}: {len(kept)} of {len(rows):,} pictures of the {split} split have a text "
            f"of kind {', '.join(cfg.kinds)}; a judge needs at least 2. Annotate that split."
        )
    return kept, len(rows) - len(kept)


def _pictures(
    images: Images,
    texts: dict[str, dict[str, list[str]]],
    rows: Sequence[int],
    *,
    image_size: int,
) -> Pictures:
    sample_ids = [images.sample_ids[row] for row in rows]
    return Pictures(
        ids=keyed.words(sample_ids),
        sample_ids=sample_ids,
        pixels=images.pixels(np.asarray(rows, np.int64), size=image_size),
        texts=[texts[sample_id] for sample_id in sample_ids],
        claims=[images.claims[row] for row in rows],
    )


# --------------------------------------------------------------------------- quality


def retrieval_quality(
    scorer: clip.ClipScorer, test: Pictures, *, kinds: Sequence[str], seed: int
) -> dict[str, Any]:
    """Measure how often a picture and its text find each other among the test pictures.

    The first of `kinds` that test pictures have is the headline; the others stand in `by_kind`.
    """
    by_kind: dict[str, Any] = {}
    order = keyed.permutation(seed, "judge.retrieval", epoch=0, ids=test.ids)
    for kind in kinds:
        rows = [int(row) for row in order if kind in test.texts[row]][:MAX_RETRIEVAL]
        if len(rows) < 2:
            continue
        pictures = scorer.picture_features(test.pixels[rows])
        texts = scorer.text_features([test.texts[row][kind][0] for row in rows])
        cosines = pictures @ texts.features.T
        by_kind[kind] = {
            "num_pictures": len(rows),
            "text_to_image": _recall_at_1(cosines.T),
            "image_to_text": _recall_at_1(cosines),
            "truncation_rate": texts.truncation_rate,
        }
        directions = (by_kind[kind]["text_to_image"], by_kind[kind]["image_to_text"])
        by_kind[kind]["above_chance"] = all(d["interval"][0] > d["chance"] for d in directions)
    if not by_kind:
        raise ArtifactError(
            f"judge: no kind of {', '.join(kinds)} has texts of two test pictures; retrieval "
            "cannot be measured. Annotate the test split."
        )
    kind = next(iter(by_kind))
    return {"kind": kind, **by_kind[kind], "by_kind": by_kind}


def _recall_at_1(cosines: Float32[np.ndarray, "N N"]) -> dict[str, Any]:
    """Return the share of rows whose own column is greatest; ties count as a fair draw."""
    own = np.diag(cosines)[:, None]
    is_found = (cosines <= own).all(axis=1) / (cosines == own).sum(axis=1)
    num = len(cosines)
    low, high = wilson_interval(float(is_found.sum()), num)
    return {"r_at_1": float(is_found.mean()), "interval": [low, high], "chance": 1 / num}


def recogniser_quality(
    model: recogniser.Recogniser, test: Pictures, *, autoencoder: Autoencoder, min_accuracy: float
) -> dict[str, Any]:
    """Measure the recogniser on test pictures as they are and through the autoencoder.

    `accuracy` is the share of true statements that it finds to hold, an abstention counted as a
    miss; `false_accept` is the share of the untrue among another picture's statements that it
    finds to hold all the same. An axis is measurable where the reconstructions' accuracy reaches
    the limit and their false acceptance stays below what is left of it.
    """
    pixels = test.pixels[:MAX_READ]
    true = [claims for claims in test.claims[:MAX_READ] if claims is not None]
    rebuilt = reconstruct(autoencoder, pixels)
    on_renders = read_accuracy(recogniser.read(model, pixels), true)
    on_rebuilt = read_accuracy(recogniser.read(model, rebuilt), true)
    return {
        "recogniser": {
            "num_pictures": len(true),
            "renders": on_renders,
            "reconstructions": on_rebuilt,
            "min_confidence": model.config.min_confidence,
        },
        "min_accuracy": min_accuracy,
        "measurable": {
            axis: on_rebuilt[axis]["num_claims"] > 0
            and on_rebuilt[axis]["accuracy"] >= min_accuracy
            and on_rebuilt[axis]["false_accept"] <= 1 - min_accuracy
            for axis in AXES
        },
    }


def read_accuracy(
    readings: Sequence[Reading], true: Sequence[Sequence[Claim]]
) -> dict[str, dict[str, Any]]:
    """Compare readings with the truth, by axis."""
    held = dict.fromkeys(AXES, 0)
    total = dict.fromkeys(AXES, 0)
    abstained = dict.fromkeys(AXES, 0)
    false_held = dict.fromkeys(AXES, 0)
    false_total = dict.fromkeys(AXES, 0)
    for row, (reading, claims) in enumerate(zip(readings, true, strict=True)):
        for axis, found in tally(verdicts(claims, reading)).items():
            total[axis] += found.total
            held[axis] += found.held
            abstained[axis] += found.abstained
        others = true[(row + 1) % len(true)]
        truth = layouts(claims)[0]
        should = verdicts(others, truth)
        does = verdicts(others, reading)
        for expected, seen in zip(should, does, strict=True):
            if expected.is_held is False:
                false_total[expected.axis] += 1
                false_held[expected.axis] += seen.is_held is True
    return {
        axis: {
            "accuracy": held[axis] / total[axis] if total[axis] else 0.0,
            "interval": list(wilson_interval(held[axis], total[axis])),
            "num_claims": total[axis],
            "abstained": abstained[axis] / total[axis] if total[axis] else 0.0,
            "false_accept": false_held[axis] / false_total[axis] if false_total[axis] else 0.0,
            "num_false": false_total[axis],
        }
        for axis in AXES
    }
