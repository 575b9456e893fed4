"""A tiny world in the real formats: pictures, texts, prompts, generations and an autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from launch.manifest import (
    Input,
    Manifest,
    describe_parts,
    digest_bytes,
    read_manifest,
    write_manifest,
    write_parquet,
)
from recap.artifacts import (
    INDEX_SCHEMA,
    CaptionRow,
    caption_part_name,
    write_caption_part,
    write_shard,
)
from recap.claims import read, to_json
from recap.sources.scenes import draw, language, world
from t2i.artifacts import (
    GenerationRow,
    Prompt,
    prompt_id,
    read_shard_members,
    write_generation_shard,
    write_generations_index,
    write_prompts,
)


def finish(
    folder: Path,
    artifact: str,
    *,
    inputs: Sequence[tuple[str, Path]] = (),
    recipe: Any = None,
    version: int = 1,
) -> Path:
    """Write the manifest of a folder filled by hand."""
    names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
    write_manifest(
        folder,
        Manifest(
            artifact=artifact,
            version=version,
            recipe=recipe or {},
            inputs=[
                Input(role=role, path=str(path), digest=read_manifest(path).digest)
                for role, path in inputs
            ],
            counts={},
            rejected={},
            parts=describe_parts(folder, [n for n in names if n != "manifest.json"]),
        ),
    )
    return folder


@dataclass(frozen=True)
class World:
    """Scenes and where their artifacts lie."""

    root: Path
    sample_ids: list[str]
    splits: list[str]
    scenes: list[world.Scene]
    pixels: np.ndarray
    images: Path

    def of_split(self, split: str) -> list[int]:
        return [i for i, s in enumerate(self.splits) if s == split]

    def texts(self, style: Any, *, seed: int = 0) -> list[str]:
        claims = [scene.claims for scene in self.scenes]
        return language.write_all(claims, style, sample_ids=self.sample_ids, seed=seed)

    def write_captions(
        self,
        name: str,
        texts: dict[str, dict[int, str]],
        *,
        captioner: Path | None = None,
        recipe: Any = None,
    ) -> Path:
        """Write kind -> row -> text as a captions artifact."""
        folder = self.root / name
        rows = [
            CaptionRow(sample_id=self.sample_ids[row], kind=kind, text=text)
            for kind, by_row in texts.items()
            for row, text in by_row.items()
        ]
        write_caption_part(folder / caption_part_name(0), rows)
        inputs = [("captioner", captioner)] if captioner else []
        return finish(folder, "captions", inputs=inputs, recipe=recipe)


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def make_world(
    root: Path, *, num: int, has_claims: bool = True, unknown: Collection[int] = ()
) -> World:
    """Draw scenes; every second is of the judge split, every fourth of test, the others of train.

    Args:
        root: Folder.
        num: Pictures.
        has_claims: Whether their claims are written.
        unknown: Rows whose claims are not.
    """
    sample_ids = [digest_bytes(f"{root.name}{i}".encode()) for i in range(num)]
    splits = [("judge", "test", "judge", "train")[i % 4] for i in range(num)]
    scenes = world.compose(0, sample_ids)
    pixels = draw.render(scenes, seed=0, sample_ids=sample_ids)
    folder = root / "images"
    members = [(f"{s}.png", png(p)) for s, p in zip(sample_ids, pixels, strict=True)]
    places = write_shard(folder / "shards/shard-00000.tar", members)
    made = World(root, sample_ids, splits, scenes, pixels, folder)
    alt = made.texts("alt")
    table = {
        "sample_id": sample_ids,
        "shard": ["shards/shard-00000.tar"] * num,
        "key": sample_ids,
        "offset": [p.offset for p in places],
        "num_bytes": [p.num_bytes for p in places],
        "width": [32] * num,
        "height": [32] * num,
        "alt": alt,
        "split": splits,
        "claims": [
            to_json(scene.claims) if has_claims and row not in unknown else None
            for row, scene in enumerate(scenes)
        ],
        "texts": [None] * num,
    }
    write_parquet(folder / "index.parquet", pa.table(table, schema=INDEX_SCHEMA))
    finish(folder, "images")
    return made


def make_autoencoder(folder: Path) -> Path:
    """Save an untrained AutoencoderKL."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).save_pretrained(folder)
    return finish(folder, "autoencoder")


def make_prompts(made: World, styles: dict[str, list[str]]) -> Path:
    """Write prompts of the test pictures: style -> text of every picture of the world."""
    folder = made.root / "prompts"
    rows = [
        Prompt(
            prompt_id=prompt_id(style=style, pair_id=made.sample_ids[i], prompt=texts[i]),
            prompt=texts[i],
            style=style,
            pair_id=made.sample_ids[i],
            claims=to_json(read(texts[i])),
        )
        for i in made.of_split("test")
        for style, texts in styles.items()
    ]
    folder.mkdir()
    write_prompts(folder / "prompts.parquet", rows)
    return finish(folder, "prompts")


Change = Callable[[list[GenerationRow]], list[GenerationRow]]


def make_generations(
    folder: Path,
    made: World,
    prompts: Path,
    *,
    arm: str,
    styles: Sequence[str],
    change: Change = lambda rows: rows,
    num_seeds: int = 1,
) -> Path:
    """Write as generations the very pictures that the prompts speak of."""
    from t2i.artifacts import open_prompts

    asked = [
        (prompt, seed)
        for prompt in open_prompts(prompts).rows
        if prompt.style in styles
        for seed in range(num_seeds)
    ]
    number = {s: i for i, s in enumerate(made.sample_ids)}
    ids = [digest_bytes(f"{arm}{p.prompt_id}{seed}".encode()) for p, seed in asked]
    shard = folder / "shards/shard-00000.tar"
    write_generation_shard(
        shard, keys=ids, pixels=[made.pixels[number[p.pair_id]] for p, _ in asked]
    )
    rows = [
        GenerationRow(
            generation_id=i,
            prompt_id=p.prompt_id,
            pair_id=p.pair_id,
            style=p.style,
            seed=seed,
            samples_seen=64,
            shard="shards/shard-00000.tar",
            offset=member.offset,
            num_bytes=member.num_bytes,
            key=i,
        )
        for i, (p, seed), member in zip(ids, asked, read_shard_members(shard), strict=True)
    ]
    write_generations_index(folder / "index.parquet", change(rows))
    recipe = {
        "arm": arm,
        "model_seed": 0,
        "seed": 0,
        "seeds_per_prompt": num_seeds,
        "styles": list(styles),
        "curve_styles": [],
        "curve_pairs": 0,
    }
    return finish(folder, "generations", inputs=[("prompts", prompts)], recipe=recipe)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """48 scenes: 24 of the judge split, 12 of test, 12 of train."""
    return make_world(tmp_path_factory.mktemp("world"), num=48)


@pytest.fixture(scope="session")
def small_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained autoencoder in its real form."""
    return make_autoencoder(tmp_path_factory.mktemp("autoencoder") / "autoencoder")


@pytest.fixture(scope="session")
def small_judge(
    small_world: World, small_autoencoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A judge in its real form, fitted for a moment."""
    from eval import artifacts, clip_folder, recogniser
    from eval.config import ClipSizeConfig

    folder = tmp_path_factory.mktemp("judge") / "judge"
    size = ClipSizeConfig(
        width=16, image_layers=1, text_layers=1, num_heads=2, embed_dim=8, context_length=24
    )
    tokenizer = clip_folder.train_tokenizer(small_world.texts("dsc"), vocab_size=200)
    config = clip_folder.clip_config(size, image_size=32, vocab_size=tokenizer.get_vocab_size())
    import torch

    torch.manual_seed(0)
    clip_folder.save_clip(
        folder / "clip",
        model=clip_folder.build_clip(config["model_cfg"]),
        config=config,
        tokenizer=tokenizer,
    )
    reader = recogniser.Recogniser(recogniser.RecogniserConfig(channels=(8, 8), width=8))
    recogniser.save_recogniser(folder / "recogniser", reader)
    measurable = {"objects": True, "number_place": True, "colour_size": True, "words": False}
    artifacts.write_quality(folder, {"measurable": measurable, "min_accuracy": 0.7})
    return finish(folder, "judge")


class Make:
    """The functions above, for tests: a conftest cannot be imported from."""

    finish = staticmethod(finish)
    world = staticmethod(make_world)
    autoencoder = staticmethod(make_autoencoder)
    prompts = staticmethod(make_prompts)
    generations = staticmethod(make_generations)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    return Make


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out where a test looks at something else: they cost most of the time."""
    from eval import report_figures

    for name in ("draw_pairs", "draw_differences", "draw_axes", "draw_captions"):
        monkeypatch.setattr(report_figures, name, lambda *_, **__: None)
    monkeypatch.setattr(report_figures, "draw_curves", lambda *_, **__: [])
