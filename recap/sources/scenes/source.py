"""The embedded world as a source of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from recap import claims as claims_module
from recap.artifacts import make_sample_id
from recap.config import IngestConfig
from recap.pictures import encode_png
from recap.sources.scenes import draw, language, world
from recap.sources.source import Chunk, Row, Source, identity

LAWS: Final = 1
"""Version of contents, pixels and language; raised whenever a picture or alt text changes."""

_PNG_BYTES: Final = 800
"""Mean size of a picture of 32 pixels a side."""


@dataclass(frozen=True, kw_only=True)
class ScenesChunk(Chunk):
    """Some consecutive pictures of a world."""

    name: str
    seed: int
    image_size: int
    start: int
    stop: int

    def read(self) -> Iterator[Row]:
        """Draw the pictures and write their alt texts."""
        keys = [f"{self.seed}/{index:08d}" for index in range(self.start, self.stop)]
        sample_ids = [make_sample_id(self.name, key) for key in keys]
        scenes = world.compose(self.seed, sample_ids)
        truths = [scene.claims for scene in scenes]
        alts = language.write_all(truths, "alt", sample_ids=sample_ids, seed=self.seed)
        pixels = draw.render(scenes, seed=self.seed, sample_ids=sample_ids, size=self.image_size)
        for key, truth, alt, picture in zip(keys, truths, alts, pixels, strict=True):
            yield Row(
                key=key,
                data=encode_png(picture),
                alt=alt,
                claims=claims_module.to_json(truth),
            )


def open_scenes(cfg: IngestConfig) -> Source:
    """Open a world: nothing is drawn yet."""
    scenes = cfg.scenes
    starts = range(0, scenes.num_pictures, cfg.pictures_per_shard)
    chunks = [
        ScenesChunk(
            name=cfg.name,
            seed=scenes.seed,
            image_size=scenes.image_size,
            start=start,
            stop=min(start + cfg.pictures_per_shard, scenes.num_pictures),
        )
        for start in starts
    ]
    size = int(_PNG_BYTES * (scenes.image_size / draw.REFERENCE_SIDE) ** 1.5) + 2500
    return Source(
        path=f"scenes:{scenes.seed}",
        digest=identity(["scenes", LAWS, scenes.seed, scenes.num_pictures, scenes.image_size]),
        chunks=chunks,
        plan={"pictures": scenes.num_pictures, "side in pixels": scenes.image_size},
        num_bytes=scenes.num_pictures * size,
    )
