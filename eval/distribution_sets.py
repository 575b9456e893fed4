"""The sets of pictures that `eval distribution` compares, each complete and all of them paired.

A distance between distributions depends on how many pictures it was taken from, so a set that
lacks one is an error and never a smaller set.

N pictures of one set
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from eval.complete import check_complete, refuse_unpaired
from eval.config import DistributionConfig
from launch.errors import ArtifactError, ConfigError, InputError
from recap.artifacts import open_images
from t2i.artifacts import Prompts, open_generations

ALL_SPLITS = "all"


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one model, or the reference."""

    arm: str | None
    """None for the reference."""

    model_seed: int | None
    source: list[str]
    """What says which pictures these are: digests and choices."""

    picture_ids: list[str]
    pair_ids: list[str]
    """Prompt cluster of each picture; a reference picture is its own."""

    styles: list[str | None]
    seeds: list[int | None]
    pixels: Callable[[Int64[np.ndarray, " N"]], UInt8[np.ndarray, "N H W 3"]]

    def __len__(self) -> int:
        return len(self.picture_ids)

    def of_style(self, style: str) -> Bool[np.ndarray, " N"]:
        """Say which pictures were drawn for prompts of a style."""
        return np.array([s == style for s in self.styles])

    def num_prompts(self, style: str) -> int:
        """Count the prompt clusters of a style."""
        return len({p for p, s in zip(self.pair_ids, self.styles, strict=True) if s == style})


def generated_sets(cfg: DistributionConfig, prompts: Prompts) -> list[PictureSet]:
    """Open the last snapshots' pictures of every generations artifact.

    Raises:
        ArtifactError: Pictures are missing or too many, were drawn for other prompts, or two arms
            do not have the same ones.
    """
    sets, drawn = [], []
    for folder in cfg.generations:
        found, keys = _generated(folder, prompts=prompts, cfg=cfg)
        sets.append(found)
        drawn.append(keys)
    models = [(str(found.arm), int(found.model_seed or 0)) for found in sets]
    refuse_unpaired(models, drawn, folders=cfg.generations)
    _refuse_other_seeds(sets)
    _refuse_other_sides(sets, cfg.generations)
    return sets


def _generated(
    folder: Path, *, prompts: Prompts, cfg: DistributionConfig
) -> tuple[PictureSet, set[tuple[int, str, int]]]:
    generations = open_generations(folder)
    made_from = [i.digest for i in generations.manifest.inputs if i.role == "prompts"]
    if made_from != [prompts.manifest.digest]:
        raise ArtifactError(
            f"{folder}: was drawn for other prompts ({', '.join(made_from) or 'unknown'}) than "
            f"{cfg.prompts} ({prompts.manifest.digest}). Give its own prompts."
        )
    check_complete(generations, prompts, where=str(folder))
    styles = generations.manifest.recipe["styles"] or prompts.styles
    for style in cfg.styles:
        if style not in styles:
            raise ConfigError(
                f"styles: {folder} has no pictures of style {style!r}; it has {', '.join(styles)}"
            )
    table = generations.table
    last = generations.samples_seen[-1]
    chosen = cfg.styles or styles
    rows = np.array(
        [
            row
            for row, (seen, style) in enumerate(
                zip(table["samples_seen"].to_pylist(), table["style"].to_pylist(), strict=True)
            )
            if seen == last and style in chosen
        ],
        np.int64,
    )
    taken = table.take(rows)
    found = PictureSet(
        arm=generations.arm,
        model_seed=generations.model_seed,
        source=[generations.manifest.digest, *chosen],
        picture_ids=taken["generation_id"].to_pylist(),
        pair_ids=taken["pair_id"].to_pylist(),
        styles=taken["style"].to_pylist(),
        seeds=taken["seed"].to_pylist(),
        pixels=lambda numbers: generations.pixels(rows[numbers]),
    )
    keys = zip(
        taken["samples_seen"].to_pylist(), taken["prompt_id"].to_pylist(), found.seeds, strict=True
    )
    return found, set(keys)


def _refuse_other_sides(sets: Sequence[PictureSet], folders: Sequence[Path]) -> None:
    """Refuse pictures of two sizes: the reference has one, and a network sees the difference."""
    sides = [pictures.pixels(np.array([0])).shape[1:3] for pictures in sets]
    for side, folder in zip(sides, folders, strict=True):
        if side != sides[0]:
            raise ArtifactError(
                f"{folder}: its pictures have {side[1]} x {side[0]} pixels, those of {folders[0]} "
                f"{sides[0][1]} x {sides[0][0]}; distances of pictures of different size cannot be "
                "compared. Sample both at one size."
            )


def _refuse_other_seeds(sets: Sequence[PictureSet]) -> None:
    """Refuse two arms without a training seed in common: nothing about them would be paired."""
    seeds: dict[str | None, set[int | None]] = {}
    for found in sets:
        seeds.setdefault(found.arm, set()).add(found.model_seed)
    for one, other in itertools.combinations(seeds, 2):
        if not seeds[one] & seeds[other]:
            raise InputError(
                f"generations: arms {one} and {other} have no training seed in common "
                f"({', '.join(map(str, seeds[one]))} against "
                f"{', '.join(map(str, seeds[other]))}). Train both with the same seeds."
            )


def refuse_lonely_reference(
    reference: PictureSet, groups: Mapping[str, int], *, where: Path
) -> None:
    """Refuse a reference of which leaving out one group leaves fewer than two pictures."""
    sizes = Counter(groups[pair_id] for pair_id in reference.pair_ids)
    if len(reference) - max(sizes.values()) < 2:
        raise InputError(
            f"{where}: {max(sizes.values())} of the {len(reference)} reference pictures are of one "
            "group of prompts, and without them no distance is left. Take a larger split or "
            "another number of groups."
        )


def reference_set(cfg: DistributionConfig, *, side: int) -> PictureSet:
    """Open the reference pictures, at the side of the generated ones.

    Raises:
        ConfigError: The images have no picture of that split.
    """
    images = open_images(cfg.images)
    rows = images.rows(None if cfg.split == ALL_SPLITS else cfg.split)
    if len(rows) < 3:
        known = ", ".join(sorted(set(images.split)))
        raise ConfigError(
            f"split: {cfg.images} has {len(rows)} pictures of split {cfg.split!r}; expected at "
            f"least 3. Its splits are {known}; {ALL_SPLITS!r} takes all."
        )
    ids = [images.sample_ids[row] for row in rows.tolist()]
    return PictureSet(
        arm=None,
        model_seed=None,
        source=[images.manifest.digest, cfg.split, str(side)],
        picture_ids=ids,
        pair_ids=ids,
        styles=[None] * len(ids),
        seeds=[None] * len(ids),
        pixels=lambda numbers: images.pixels(rows[numbers], size=side),
    )


def drawn_styles(sets: Sequence[PictureSet]) -> list[str]:
    """Return the prompt styles, in the order in which the pictures have them."""
    return list(dict.fromkeys(s for found in sets for s in found.styles if s is not None))
