"""What `eval score` scores: generations arm by arm, and the two ceilings as arms of their own.

The pictures that the prompts speak of, and their reconstructions by the autoencoder, are scored the
same way as a model's: no model can hope for more. Nothing is opened that is not complete
(`eval/complete.py`).

N generations
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from eval.artifacts import PICTURES_ARM, PROMPT_SCORING, RECONSTRUCTIONS_ARM
from eval.complete import check_complete
from eval.config import ScoreConfig
from eval.first_stage import reconstruct
from launch.components import locate
from launch.errors import ArtifactError, ConfigError
from launch.manifest import SCRATCH
from launch.processes import device
from recap.artifacts import Images, open_images
from t2i.artifacts import AUTOENCODER, Prompt, Prompts, open_generations
from t2i.autoencoder import Autoencoder


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


def scoring_texts(cfg: ScoreConfig, prompts: Prompts) -> dict[str, dict[str, str]]:
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


def open_arm(folder: Path, *, prompts: Prompts, cfg: ScoreConfig) -> Arm:
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


def ceilings(cfg: ScoreConfig, prompts: Prompts) -> list[Arm]:
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
        return reconstruct(Autoencoder.load(folder).to(device()), pictures.pixels(chosen))

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
