"""A captioner over image shards: one part of captions per shard, bad ones quarantined by rule.

N pictures of a shard
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int64

from launch import parts
from launch.errors import InputError
from launch.processes import set_threads
from launch.run import Run
from recap import artifacts
from recap.artifacts import CaptionRow, Images
from recap.captioners import Caption, Captioner, open_captioner
from recap.config import CaptionConfig
from recap.gates import broken_rules, stop_if_too_many


def caption(cfg: CaptionConfig, run: Run) -> None:
    """Caption every picture of the chosen splits."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    run.input("captioner", cfg.captioner, artifact=artifacts.CAPTIONER)
    images = artifacts.open_images(cfg.images)
    rows_of = rows_by_part(images, cfg.splits)
    num_pictures = sum(len(rows) for rows in rows_of.values())
    if not num_pictures:
        raise InputError(
            f"{cfg.images}: no picture is in splits {', '.join(cfg.splits) or '(none)'}; it has "
            f"{', '.join(sorted(set(images.split)))}."
        )
    if not run.start(
        {
            "kind": cfg.kind,
            "pictures": num_pictures,
            "parts": len(rows_of),
            "decoding": cfg.decode.method,
        }
    ):
        return

    set_threads(cfg.threads)
    captioner = open_captioner(cfg.captioner)
    with run.progress(num_pictures, label=f"caption {cfg.kind}") as progress:
        left = parts.pending(run.out, list(rows_of))
        progress.resume(num_pictures - sum(len(rows_of[name]) for name in left))
        for name in parts.take(run.out, list(rows_of)):
            accepted, gated = [], []
            for batch in batches(rows_of[name], cfg.batch_size):
                with progress.wait():
                    pixels = images.pixels(batch.rows, size=captioner.image_size)
                written = write_batch(captioner, images, batch, pixels, cfg)
                for row, found in zip(batch.rows[: batch.num_real], written, strict=True):
                    stored = gate(found, sample_id=images.sample_ids[row], cfg=cfg)
                    (gated if stored.flags else accepted).append(stored)
                progress.advance(batch.num_real)
            # The accepted captions last: their file is what makes the part complete.
            artifacts.write_caption_part(quarantine_of(run.out, name), gated)
            artifacts.write_caption_part(run.out / name, accepted)
            check_share(run.out, cfg, names=[n for n in rows_of if (run.out / n).is_file()])

    names = list(rows_of)
    seen = check_share(run.out, cfg, names=names, is_final=True)
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={"rows_in": num_pictures, "rows_out": seen.num_captions - seen.num_gated},
        rejected={"gated": seen.num_gated},
        parts=[path for name in names for path in (run.out / name, quarantine_of(run.out, name))],
        recipe={"gated_by_rule": dict(sorted(seen.rules.items()))},
    )


def rows_by_part(images: Images, splits: Sequence[str]) -> dict[str, Int64[np.ndarray, "N"]]:
    """Return, for every image shard, its part's name and its rows in the chosen splits."""
    wanted = np.zeros(len(images), dtype=bool)
    for split in splits:
        wanted[images.rows(split)] = True
    rows_of = {}
    for number, shard in enumerate(images.shards):
        rows = images.shard_rows(shard)
        rows_of[artifacts.caption_part_name(number)] = rows[wanted[rows]]
    return rows_of


class Batch(NamedTuple):
    """Rows decoded together; the last batch of a part is filled up with its last picture."""

    rows: Int64[np.ndarray, "B"]
    num_real: int


def batches(rows: Int64[np.ndarray, "N"], batch_size: int) -> Iterator[Batch]:
    """Cut rows into batches of one size: arithmetic is the same to the bit only for one shape."""
    for begin in range(0, len(rows), batch_size):
        here = rows[begin : begin + batch_size]
        padding = np.repeat(here[-1:], batch_size - len(here))
        yield Batch(rows=np.concatenate([here, padding]), num_real=len(here))


def write_batch(
    captioner: Captioner, images: Images, batch: Batch, pixels: np.ndarray, cfg: CaptionConfig
) -> list[Caption]:
    """Return the captions of the real rows of a batch."""
    written = captioner.write(
        pixels,
        sample_ids=[images.sample_ids[row] for row in batch.rows],
        config=cfg.decode,
        seed=cfg.seed,
    )
    return written[: batch.num_real]


def gate(found: Caption, *, sample_id: str, cfg: CaptionConfig) -> CaptionRow:
    """Return a caption as it is stored, with the rules that it breaks as flags."""
    return CaptionRow(
        sample_id=sample_id,
        kind=cfg.kind,
        text=found.text,
        num_tokens=found.num_tokens,
        stop_reason=found.stop_reason,
        mean_logprob=found.mean_logprob,
        flags=tuple(broken_rules(found.text, stop_reason=found.stop_reason, limits=cfg.gates)),
    )


def quarantine_of(out: Path, name: str) -> Path:
    """Return where the gated captions of a part lie."""
    return out / "quarantine" / Path(name).name


class Seen(NamedTuple):
    """Counts over finished parts, read from their files: a resumed job counts like any other."""

    num_captions: int
    num_gated: int
    rules: Counter[str]


def check_share(
    out: Path, cfg: CaptionConfig, *, names: Sequence[str], is_final: bool = False
) -> Seen:
    """Count finished parts and stop when too many captions are bad."""
    num_accepted, num_gated, rules = 0, 0, Counter[str]()
    for name in names:
        num_accepted += pq.read_metadata(out / name).num_rows
        flags = pq.read_table(quarantine_of(out, name), columns=["flags"])["flags"].to_pylist()
        num_gated += len(flags)
        rules.update(flag for row in flags for flag in row)
    num_captions = num_accepted + num_gated
    stop_if_too_many(
        where=str(out),
        num_captions=num_captions,
        gated=rules,
        num_gated=num_gated,
        limits=cfg.gates,
        is_final=is_final,
    )
    return Seen(num_captions=num_captions, num_gated=num_gated, rules=rules)
