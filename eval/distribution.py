"""`eval distribution`: how far generated pictures lie from real ones, as distributions.

FID and its value at infinite size (`eval.frechet`) and the unbiased CMMD (`eval.mmd`), for every
arm, training seed and prompt style, and the differences between arms; intervals by leaving out
groups of prompts (`eval.jackknife`). Features are kept, one row per picture.

These distances compare sets of pictures. A model that draws good pictures of the wrong things has
good ones.

N pictures of one set, D feature width
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from eval import artifacts, frechet, mmd
from eval.config import DistributionConfig
from eval.distribution_artifact import (
    DISTRIBUTION,
    DISTRIBUTION_VERSION,
    SUMMARY,
    open_distribution,
    write_tables,
)
from eval.distribution_numbers import measure, number_rows, picture_rows
from eval.distribution_sets import (
    PictureSet,
    drawn_styles,
    generated_sets,
    reference_set,
    refuse_lonely_reference,
)
from eval.distribution_summary import summary_text
from eval.jackknife import assign_groups
from eval.kept_features import made_by
from launch.errors import ArtifactError, InputError
from launch.manifest import canonical_json, digest_bytes, digest_file, write_bytes
from launch.processes import device, set_threads
from launch.run import Run
from recap.artifacts import IMAGES
from t2i.artifacts import GENERATIONS, PROMPTS, open_prompts

BLOCK = 1024
"""Pictures read and encoded at once."""


@runtime_checkable
class FeatureModel(Protocol):
    """What turns pictures into features, and says how."""

    def picture_features(
        self, pixels: UInt8[np.ndarray, "N H W 3"], *, batch_size: int
    ) -> Float32[np.ndarray, "N D"]:
        """Return one feature per picture."""

    def describe(self) -> dict[str, Any]:
        """Return everything that a feature depends on."""


def distribution(cfg: DistributionConfig, run: Run) -> None:
    """Measure the distance of every arm from the reference, and of the arms from one another."""
    _note_inputs(cfg, run)
    prompts = open_prompts(cfg.prompts)
    generated = generated_sets(cfg, prompts)
    side = int(generated[0].pixels(np.array([0])).shape[1])
    reference = reference_set(cfg, side=side)
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
    files = [_file_of(s, scorer, cfg=cfg) for s in sets]
    with run.progress(num_pictures, label="features") as progress:
        for pictures, file in zip(sets, files, strict=True):
            _make_features(pictures, run.out / file, model, cfg=cfg, advance=progress.advance)
    found = measure(
        generated,
        reference,
        read=lambda number: _read_features(run.out / files[number]),
        groups=groups,
        with_cmmd=cfg.inception_weights is None,
    )
    rows = {
        **number_rows(found, generated, reference),
        "pictures": picture_rows(sets, files, groups),
    }
    parts = [*write_tables(run.out, rows), *sorted(set(files)), SUMMARY]
    text = summary_text(rows, features=_features_in_words(cfg))
    write_bytes(run.out / SUMMARY, text.encode())
    run.finish(
        artifact=DISTRIBUTION,
        version=DISTRIBUTION_VERSION,
        counts={
            "rows_in": num_pictures,
            "rows_out": len(rows["pictures"]),
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
    return load_clip(name, weights=cfg.clip_weights, precision=cfg.clip_precision)


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


def _file_of(pictures: PictureSet, scorer: Mapping[str, Any], *, cfg: DistributionConfig) -> str:
    """Name a file of features after everything that its bytes depend on."""
    made = [*made_by(), device().type]
    what = [pictures.source, scorer["features"], cfg.batch_size, cfg.threads, made]
    return f"features/{digest_bytes(canonical_json(what))}.safetensors"


def _make_features(
    pictures: PictureSet,
    path: Path,
    model: FeatureModel,
    *,
    cfg: DistributionConfig,
    advance: Callable[[int], None],
) -> None:
    """Write the features of a set, unless they are there or an earlier run has them."""
    from safetensors.numpy import save

    if path.is_file():
        advance(len(pictures))
        return
    if cfg.features is not None:
        earlier = open_distribution(cfg.features).manifest
        name = f"features/{path.name}"
        digests = {part.name: part.digest for part in earlier.parts}
        if name in digests:
            data = (earlier.folder / name).read_bytes()
            if digest_bytes(data) != digests[name]:
                raise ArtifactError(
                    f"{earlier.folder / name}: is not the file that its manifest names; expected "
                    f"digest {digests[name]}, found {digest_bytes(data)}. Leave features= out, or "
                    "give a folder that is whole."
                )
            write_bytes(path, data)
            advance(len(pictures))
            return
    blocks = []
    for start in range(0, len(pictures), BLOCK):
        numbers = np.arange(start, min(start + BLOCK, len(pictures)))
        blocks.append(model.picture_features(pictures.pixels(numbers), batch_size=cfg.batch_size))
        advance(len(numbers))
    features = np.concatenate(blocks)
    if not np.isfinite(features).all():
        at = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise InputError(
            f"{path.parent.parent}: the feature of picture {pictures.picture_ids[at]} is not "
            "finite; a distance would not be either. Try float32."
        )
    write_bytes(path, save({"features": features}))


def _read_features(path: Path) -> Float32[np.ndarray, "N D"]:
    from safetensors.numpy import load_file

    return load_file(path)["features"]
