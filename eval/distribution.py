"""`eval distribution`: how far generated pictures lie from real ones, as distributions.

FID and its value at infinite size (`eval.frechet`) and the unbiased CMMD (`eval.mmd`), for every
arm, training seed and prompt style, and the differences between arms; intervals by leaving out
groups of prompts (`eval.jackknife`). Features are kept, one row per picture.

These distances compare sets of pictures. A model that draws good pictures of the wrong things has
good ones.

N pictures of one set, D feature width
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from eval import artifacts, frechet, mmd
from eval.config import DistributionConfig
from eval.distribution_artifact import (
    DISTRIBUTION,
    DISTRIBUTION_VERSION,
    SUMMARY,
    open_distribution,
    write_tables,
)
from eval.distribution_numbers import measure, number_rows, picture_table
from eval.distribution_sets import (
    PictureSet,
    drawn_styles,
    generated_sets,
    reference_set,
    refuse_lonely_reference,
)
from eval.distribution_summary import summary_text
from eval.jackknife import assign_groups
from eval.kept_features import FeatureModel, KeptFeatures
from launch.errors import InputError
from launch.manifest import digest_file, write_bytes
from launch.processes import device, set_threads
from launch.run import Run
from recap.artifacts import IMAGES
from t2i.artifacts import GENERATIONS, PROMPTS, open_prompts

FEATURES = "features"
"""Folder of the features, below the artifact's."""

BLOCK = 1024
"""Pictures read and encoded at once."""


def distribution(cfg: DistributionConfig, run: Run) -> None:
    """Measure the distance of every arm from the reference, and of the arms from one another."""
    _note_inputs(cfg, run)
    prompts = open_prompts(cfg.prompts)
    generated = generated_sets(cfg, prompts)
    side = int(generated[0].pixels(np.array([0])).shape[1])
    reference = reference_set(cfg, side=side)
    before = None if cfg.features is None else open_distribution(cfg.features)
    styles = drawn_styles(generated)
    groups = assign_groups(
        {p for s in generated for p in s.pair_ids},
        reference.pair_ids,
        num_groups=cfg.groups,
        seed=cfg.seed,
    )
    refuse_lonely_reference(reference, groups, where=cfg.images)
    num_pictures = sum(len(s) for s in generated) + len(reference)
    plan = {
        "generations": sum(len(s) for s in generated),
        "reference pictures": len(reference),
        "features": _features_in_words(cfg),
        "prompt styles": ", ".join(styles),
        "groups of prompts": 1 + max(groups.values()),
    }
    # Other networks than the judge's are slower by what only a user's machine knows.
    minutes = None if cfg.judge is None else num_pictures / 1500 / 60
    recipe = {"device": device().type}
    if not run.start(plan, recipe=recipe, minutes=minutes, gib=num_pictures * 8192 / 2**30):
        return
    set_threads(cfg.threads)

    model = _feature_model(cfg)
    scorer = _describe(cfg, model)
    sets = [*generated, reference]
    kept = KeptFeatures(run.out / FEATURES, model, batch_size=cfg.batch_size, threads=cfg.threads)
    earlier = replace(kept, folder=None if before is None else before.manifest.folder / FEATURES)
    with run.progress(num_pictures, label="features") as progress:
        for pictures in sets:
            _make_features(pictures, kept=kept, earlier=earlier, advance=progress.advance)
    files = [f"{FEATURES}/{kept.file_of_pictures(pictures.source)}" for pictures in sets]
    found = measure(
        generated,
        reference,
        read=lambda pictures: _read_features(pictures, kept=kept),
        groups=groups,
        with_cmmd=cfg.inception_weights is None,
    )
    rows = number_rows(found, generated, reference)
    whose = picture_table(sets, files, groups)
    tables = write_tables(run.out, rows, pictures=whose)
    parts = [*tables, *sorted(set(files)), SUMMARY]
    text = summary_text(rows, features=_features_in_words(cfg))
    write_bytes(run.out / SUMMARY, text.encode())
    run.finish(
        artifact=DISTRIBUTION,
        version=DISTRIBUTION_VERSION,
        counts={
            "rows_in": num_pictures,
            "rows_out": whose.num_rows,
            "distances": len(rows["distances"]),
            "differences": len(rows["differences"]),
        },
        parts=parts,
        recipe={"scorer": scorer},
    )


# --------------------------------------------------------------------------- inputs and features


def _note_inputs(cfg: DistributionConfig, run: Run) -> None:
    if cfg.judge is not None:
        run.input("judge", cfg.judge, artifact=artifacts.JUDGE)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    run.input("images", cfg.images, artifact=IMAGES)
    for role, path in (
        ("clip_weights", cfg.clip_weights),
        ("inception_weights", cfg.inception_weights),
    ):
        if path is not None and Path(path).is_file():
            run.external_input(role, path, digest_file(Path(path)))


def _features_in_words(cfg: DistributionConfig) -> str:
    if cfg.inception_weights is not None:
        return "Inception-v3"
    if cfg.clip_model is None:
        return "CLIP of the judge"
    return f"CLIP {cfg.clip_model}" + (f" {cfg.clip_weights}" if cfg.clip_weights else "")


def _feature_model(cfg: DistributionConfig) -> FeatureModel:
    if cfg.inception_weights is not None:
        from eval.inception import load_inception

        return load_inception(cfg.inception_weights)
    from eval.clip_load import load_clip

    folder = None if cfg.judge is None else artifacts.open_judge(cfg.judge).clip_folder
    name = folder or cfg.clip_model
    assert name is not None
    return load_clip(name, weights=cfg.clip_weights, precision=cfg.clip_precision, device=device())


def _describe(cfg: DistributionConfig, model: FeatureModel) -> dict[str, Any]:
    """Name everything that a distance depends on (the sixth law)."""
    features = model.describe()
    formulas = {"fid": frechet.FORMULA, "fid_infinity": frechet.INFINITY_FORMULA}
    if cfg.inception_weights is None:
        of_texts = ("prefix", "context_length", "truncation", "formula")
        features = {k: v for k, v in features.items() if k not in of_texts}
        features["feature"] = "picture feature of the joint space, scaled to length 1"
        formulas["cmmd"] = mmd.FORMULA
    reference = "centre crop, resized to the side of the generated pictures"
    return {"features": features, "reference": reference, "formula": formulas}


def _make_features(
    pictures: PictureSet,
    *,
    kept: KeptFeatures,
    earlier: KeptFeatures,
    advance: Callable[[int], None],
) -> None:
    """Keep the features of a set, unless they are kept already or an earlier run has them."""
    features = kept.pictures(pictures.source, num=len(pictures))
    if features is not None:
        advance(len(pictures))
        return
    features = earlier.pictures(pictures.source, num=len(pictures))
    if features is None:
        features = _encode(pictures, kept=kept, advance=advance)
    else:
        advance(len(pictures))
    kept.keep_pictures(pictures.source, features)


def _encode(
    pictures: PictureSet, *, kept: KeptFeatures, advance: Callable[[int], None]
) -> Float32[np.ndarray, "N D"]:
    blocks = []
    for start in range(0, len(pictures), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(pictures)))
        pixels = pictures.pixels(numbers)
        blocks.append(kept.model.picture_features(pixels, batch_size=kept.batch_size))
        advance(len(numbers))
    features = np.concatenate(blocks)
    if not np.isfinite(features).all():
        at = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(
            f"{kept.folder}: the feature of picture {pictures.picture_ids[at]} is not finite; a "
            "distance would not be either. Try float32."
        )
    return features


def _read_features(pictures: PictureSet, *, kept: KeptFeatures) -> Float32[np.ndarray, "N D"]:
    features = kept.pictures(pictures.source, num=len(pictures))
    assert features is not None, "they were kept before anything is measured"
    return features
