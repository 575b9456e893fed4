"""A tiny chain of real artifacts: pictures, captions, autoencoder, text encoder, caches, model.

Each verb is run as the command line runs it, but in this process. Test modules of this folder import
it by name; they put the folder on the path, since tests are not a package.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from launch.config import build
from launch.manifest import read_manifest, write_parquet
from launch.run import Run
from recap.artifacts import (
    CAPTIONS,
    IMAGES,
    INDEX,
    INDEX_SCHEMA,
    CaptionRow,
    make_sample_id,
    open_captions,
    open_images,
    write_caption_part,
    write_shard,
)
from recap.config import AnnotateConfig, IngestConfig
from t2i.config import AutoencoderConfig, EncodeConfig, TextEncoderConfig, TrainConfig

NUM_PICTURES = 80
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
PLACES = ("left", "right")


def run_verb(verb: str, function: Callable[..., None], cfg: Any, out: Path, **extra: Any) -> Path:
    """Run a verb in this process and let go of its folder whatever happens."""
    run = Run(out=out, verb=verb, config=cfg, **extra)
    try:
        function(cfg, run)
    finally:
        run.close()
    return out


def picture(number: int) -> tuple[np.ndarray, str, str]:
    """A coloured half of a grey picture, and what it is."""
    colour, place = list(COLOURS)[number % 3], PLACES[number // 3 % 2]
    pixels = np.full((16, 16, 3), 90 + number, np.uint8)
    pixels[4:12, (slice(0, 8) if place == "left" else slice(8, 16))] = COLOURS[colour]
    return pixels, colour, place


def make_images(out: Path, *, num: int = NUM_PICTURES, no_alt: tuple[int, ...] = ()) -> Path:
    """An images artifact whose last eighth is the test split."""
    cfg = IngestConfig(source="folder", name="tiny")
    run = Run(out=out, verb="recap ingest", config=cfg)
    assert run.start({})
    members = []
    for number in range(num):
        file = io.BytesIO()
        Image.fromarray(picture(number)[0]).save(file, format="PNG")
        members.append((f"{number:05d}.png", file.getvalue()))
    places = write_shard(out / "shards" / "shard-00000.tar", members)
    rows = []
    for number, place in enumerate(places):
        _, colour, _ = picture(number)
        rows.append(
            {
                "sample_id": make_sample_id("tiny", str(number)),
                "shard": "shards/shard-00000.tar",
                "key": str(number),
                "offset": place.offset,
                "num_bytes": place.num_bytes,
                "width": 16,
                "height": 16,
                "alt": "" if number in no_alt else f"{colour} thing",
                "split": "test" if number >= num * 7 // 8 else "train",
                "claims": None,
                "texts": None,
            }
        )
    write_parquet(out / INDEX, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    run.finish(
        artifact=IMAGES,
        counts={"rows_in": num, "rows_out": num},
        parts=["shards/shard-00000.tar", INDEX],
    )
    run.close()
    return out


def make_captions(
    out: Path,
    *,
    kinds: dict[str, str],
    num: int = NUM_PICTURES,
    without: dict[str, tuple[int, ...]] | None = None,
    images: Path | None = None,
) -> Path:
    """A captions artifact: kind -> template with {colour}, {place} and {number}."""
    cfg = AnnotateConfig(images=Path("i"), teacher="texts", kinds=list(kinds))
    run = Run(out=out, verb="recap annotate", config=cfg)
    if images is not None:
        run.input("images", images, artifact=IMAGES)
    assert run.start({})
    rows = []
    for kind, template in kinds.items():
        for number in range(num):
            if number in (without or {}).get(kind, ()):
                continue
            _, colour, place = picture(number)
            text = template.format(colour=colour, place=place, number=number)
            rows.append(
                CaptionRow(sample_id=make_sample_id("tiny", str(number)), kind=kind, text=text)
            )
    write_caption_part(out / "parts" / "part-00000.parquet", rows)
    run.finish(
        artifact=CAPTIONS, counts={"rows_out": len(rows)}, parts=["parts/part-00000.parquet"]
    )
    run.close()
    return out


@dataclass(frozen=True)
class Chain:
    """Where everything up to the caches lies."""

    root: Path
    images: Path
    captions: Path
    autoencoder: Path
    text_encoder: Path
    latents: Path
    text_states: Path

    def train_tree(self, **settings: Any) -> dict[str, Any]:
        """Settings of a tiny training run of 6 steps."""
        return {
            "images": str(self.images),
            "captions": [str(self.captions)],
            "latents": str(self.latents),
            "text_states": [str(self.text_states)],
            "arm": "dsc",
            "caption_mix": {"dsc": 0.75, "alt": 0.25},
            "required_kinds": ["alt", "dsc"],
            "samples": 48,
            "batch_size": 8,
            "warmup_samples": 16,
            "checkpoint_samples": 16,
            "log_samples": 8,
            "snapshots": 2,
            "threads": 1,
            **settings,
        }

    def train(self, out: Path, **settings: Any) -> Path:
        """Train into a folder."""
        from small import small_denoiser

        from t2i.train import train

        cfg = build(TrainConfig, self.train_tree(**settings), where="")
        with small_denoiser():
            return run_verb("t2i train", train, cfg, out)


_CHAINS: dict[Path, Chain] = {}


def chain(base: Path) -> Chain:
    """Make the chain once per session, below the session's temporary folder."""
    root = base / "t2i-chain"
    if root not in _CHAINS:
        _CHAINS[root] = _make(root)
    return _CHAINS[root]


def _make(root: Path) -> Chain:
    from t2i import autoencoder, cache, fit_text_encoder

    images = make_images(root / "images")
    captions = make_captions(
        root / "captions",
        kinds={
            "dsc": "A grey picture with a {colour} box at the {place}, number {number}.",
            "same": "A grey picture with a {colour} box at the {place}, number {number}.",
            "ssc": "a {colour} box",
        },
    )
    ae_cfg = AutoencoderConfig(
        images=images, image_size=16, channels=[8, 8, 8], samples=64, batch_size=16, threads=1
    )
    ae = run_verb("t2i autoencoder", autoencoder.fit, ae_cfg, root / "autoencoder")
    te_cfg = TextEncoderConfig(
        texts=[captions],
        kinds=["dsc", "ssc"],
        width=16,
        num_layers=1,
        num_heads=2,
        vocab_size=128,
        max_tokens=32,
        samples=64,
        batch_size=16,
        threads=1,
    )
    te = run_verb("t2i text-encoder", fit_text_encoder.fit, te_cfg, root / "text_encoder")
    la_cfg = EncodeConfig(images=images, autoencoder=ae, image_size=16, batch_size=8, threads=1)
    latents = run_verb("t2i encode", cache.encode, la_cfg, root / "latents")
    ts_cfg = EncodeConfig(
        images=images, text_encoder=te, captions=[captions], max_tokens=32, batch_size=8, threads=1
    )
    states = run_verb("t2i encode", cache.encode, ts_cfg, root / "text_states")
    return Chain(root, images, captions, ae, te, latents, states)


def payload(folder: Path) -> dict[str, str]:
    """Digest of every payload file, by name."""
    return {part.name: part.digest for part in read_manifest(folder).parts}


def texts_of(made: Chain) -> dict[str, dict[str, str]]:
    """Texts of each kind by sample_id."""
    images, captions = open_images(made.images), open_captions(made.captions)
    alts = {s: alt for s, alt in zip(images.sample_ids, images.alt, strict=True) if alt}
    return {"alt": alts, **{kind: captions.texts(kind) for kind in captions.kinds}}


def ledger(folder: Path) -> list[dict[str, Any]]:
    """Rows of a model's ledger."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "ledger.parquet").to_pylist()
    return rows


def losses(folder: Path) -> list[float]:
    """Losses that a training logged."""
    lines = map(json.loads, (folder / "run.log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "step"]
