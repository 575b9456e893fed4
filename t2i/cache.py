"""Latents once per picture, text states once per distinct text, for all arms and seeds.

Both are written block by block into one file of its final size. A block counts when its marker
exists, which is written after the block was flushed; a killed run goes on at the first block
without one, and the finished bytes do not depend on kills. Batches have one shape (the last one of
a length is padded), because arithmetic depends on it.

N rows, C latent channels, h latent height, w latent width, T tokens, D text width
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import DTypeLike, NDArray

from launch.components import locate
from launch.errors import ConfigError, InputError, StoppedError
from launch.manifest import SCRATCH, write_bytes, write_json
from launch.parts import pending
from launch.processes import device, set_threads
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from t2i.artifacts import (
    AUTOENCODER,
    LATENTS,
    STATES_FILE,
    TEXT_ENCODER,
    TEXT_STATES,
    TOKENS,
    TOKENS_FILE,
    VERSIONS,
    TextStates,
    open_text_states,
    text_digest,
    text_digests,
    write_latents_index,
    write_text_states_index,
)
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, length_batches
from t2i.config import EncodeConfig
from t2i.text_caches import refuse_unlike, shared

BATCHES_PER_BLOCK = 16
"""Batches between markers; at most this much work is lost by a kill."""

MARKERS = f"{SCRATCH}/blocks"
"""Folder of the markers; removed when the artifact is complete."""


def encode(cfg: EncodeConfig, run: Run) -> None:
    """Cache the latents of the training pictures, or the states of their texts."""
    if cfg.batch_size % 8:
        raise ConfigError(f"batch_size must be a multiple of 8, got {cfg.batch_size}")
    run.input("images", cfg.images, artifact=IMAGES)
    images = open_images(cfg.images)
    if cfg.autoencoder is not None:
        _encode_latents(cfg, run, images, cfg.autoencoder)
    else:
        assert cfg.text_encoder is not None, "checked by the configuration"
        _encode_texts(cfg, run, images, cfg.text_encoder)


def _encode_latents(cfg: EncodeConfig, run: Run, images: Images, source: str | Path) -> None:
    found = locate(source, artifact=AUTOENCODER)
    run.external_input("autoencoder", found.source, found.digest)
    autoencoder = Autoencoder.load(source)
    rows = images.rows("train")
    if not len(rows):
        raise InputError(f"{cfg.images}: has no training pictures; change split.* and ingest again")
    if cfg.image_size % autoencoder.factor:
        raise ConfigError(
            f"image_size must be a multiple of {autoencoder.factor} for {source}, "
            f"got {cfg.image_size}"
        )
    side = cfg.image_size // autoencoder.factor
    shape = (len(rows), autoencoder.latent_channels, side, side)
    gib = 2 * 4 * float(np.prod(shape)) / 2**30
    plan = {"pictures": len(rows), "latents": "x".join(map(str, shape[1:]))}
    if cfg.flip:
        plan["mirrored"] = "yes; left, right and displayed words are wrong in their captions"
    if not run.start(plan, recipe={"device": device().type}, gib=gib):
        return
    set_threads(cfg.threads)
    autoencoder.vae.to(device())

    files = {name: _ArrayFile(run.out / f"{name}.npy", shape) for name in ("mean", "std")}
    size = BATCHES_PER_BLOCK * cfg.batch_size
    blocks = [np.arange(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
    with run.progress(len(rows), label="latents") as progress:
        for index in _blocks_to_do(run.out, len(blocks)):
            block = blocks[index]
            for start in range(0, len(block), cfg.batch_size):
                here = block[start : start + cfg.batch_size]
                pixels = images.pixels(rows[here], size=cfg.image_size)
                if cfg.flip:
                    pixels = pixels[:, :, ::-1]
                posterior = autoencoder.encode(pad_rows(pixels, cfg.batch_size))
                for name, tensor in posterior._asdict().items():
                    values = tensor[: len(here)].cpu().numpy()
                    refuse_not_finite(values, [images.sample_ids[row] for row in rows[here]])
                    files[name].array[here] = values
                progress.advance(len(here))
            _mark(run.out, index, files.values())
    for file in files.values():
        file.close()
    write_latents_index(run.out / "index.parquet", [images.sample_ids[row] for row in rows])
    run.finish(
        artifact=LATENTS,
        version=VERSIONS[LATENTS],
        counts={"rows_in": len(rows), "rows_out": len(rows)},
        parts=["mean.npy", "std.npy", "index.parquet"],
    )


def refuse_not_finite(values: Float32[np.ndarray, "B C h w"], sample_ids: Sequence[str]) -> None:
    """Refuse latents that are no numbers.

    Raises:
        StoppedError: It names the pictures.
    """
    is_bad = ~np.isfinite(values).all(axis=(1, 2, 3))
    if is_bad.any():
        names = ", ".join(name for name, bad in zip(sample_ids, is_bad, strict=True) if bad)
        raise StoppedError(
            f"the autoencoder gives latents that are no numbers for these pictures: {names}. "
            "Look at them, and at the autoencoder; encoding goes on where it stopped."
        )


def _encode_texts(cfg: EncodeConfig, run: Run, images: Images, source: str | Path) -> None:
    found = locate(source, artifact=TEXT_ENCODER)
    run.external_input("text_encoder", found.source, found.digest)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    for folder in cfg.beside:
        run.input("beside", folder, artifact=TEXT_STATES, version=VERSIONS[TEXT_STATES])
    encoder = TextEncoder.load(source, max_tokens=cfg.max_tokens)
    found_texts = distinct_texts(images, cfg.captions)
    beside = [open_text_states(folder) for folder in cfg.beside]
    texts = texts_without(found_texts, beside)
    if not texts:
        raise InputError(
            f"beside={', '.join(map(str, cfg.beside))}: holds all of the {len(found_texts):,} "
            "texts; expected some that are new. Train with these artifacts as they are."
        )
    tokens, is_cut = encoder.tokenize(texts)
    num_tokens = [len(ids) for ids in tokens]
    gib_per_token = encoder.width * np.dtype(cfg.precision).itemsize / 2**30
    in_all = gib_per_token * (sum(num_tokens) + sum(int(c.num_tokens.sum()) for c in beside))
    kept = choose_kept(cfg, beside, gib=in_all)
    recipe = {"device": device().type, "kept": kept.what}
    settings = {**recipe, "max_tokens": cfg.max_tokens, "precision": cfg.precision}
    found_beside = {c.manifest.folder: shared(c.manifest.inputs, c.manifest.recipe) for c in beside}
    refuse_unlike({run.out: shared(run.inputs, settings), **found_beside})
    plan: dict[str, object] = {
        "distinct texts": len(texts),
        "tokens": sum(num_tokens),
        "longest": max(num_tokens),
        "truncated": f"{sum(is_cut):,} ({sum(is_cut) / len(texts):.1%})",
        "width": encoder.width,
    }
    if beside:
        plan["held beside"] = len(found_texts) - len(texts)
    plan["text states"] = kept.why
    keeps_tokens = kept.what == TOKENS
    if not run.start(
        plan,
        recipe=recipe,
        gib=sum(num_tokens) * (4 / 2**30 if keeps_tokens else gib_per_token),
    ):
        return
    set_threads(cfg.threads)
    if keeps_tokens:
        offsets = np.cumsum([0, *num_tokens[:-1]])
        ids = np.fromiter(chain.from_iterable(tokens), np.int32, sum(num_tokens))
        write_bytes(run.out / TOKENS_FILE, ids.tobytes())
    else:
        offsets = _write_states(cfg, run, encoder.to(device()), tokens)
    write_text_states_index(
        run.out / "index.parquet",
        digests=[text_digest(text) for text in texts],
        offsets=offsets.tolist(),
        num_tokens=num_tokens,
        width=encoder.width,
        dtype=TOKENS if keeps_tokens else cfg.precision,
    )
    run.finish(
        artifact=TEXT_STATES,
        version=VERSIONS[TEXT_STATES],
        counts={"texts": len(texts), "tokens": sum(num_tokens), "truncated": sum(is_cut)},
        parts=[TOKENS_FILE if keeps_tokens else STATES_FILE, "index.parquet"],
    )


def _write_states(
    cfg: EncodeConfig, run: Run, encoder: TextEncoder, tokens: list[list[int]]
) -> Int64[np.ndarray, " N"]:
    """Write the states of all texts, and give the place of each text's first."""
    num_tokens = [len(ids) for ids in tokens]
    dtype = np.dtype(cfg.precision)
    # States lie in the order in which they are computed, shortest texts first.
    batches = list(length_batches(num_tokens, batch_size=cfg.batch_size))
    order = [row for batch in batches for row in batch.rows]
    offsets = np.zeros(len(tokens), dtype=np.int64)
    offsets[order] = np.cumsum([0, *(num_tokens[row] for row in order)])[:-1]

    file = _ArrayFile(run.out / STATES_FILE, (sum(num_tokens), encoder.width), dtype=dtype)
    starts = range(0, len(batches), BATCHES_PER_BLOCK)
    blocks = [batches[start : start + BATCHES_PER_BLOCK] for start in starts]
    with run.progress(len(tokens), label="text states", unit="text") as progress:
        for index in _blocks_to_do(run.out, len(blocks)):
            for batch in blocks[index]:
                ids = [tokens[row] for row in batch.rows]
                padded = [*ids, *([ids[-1]] * (cfg.batch_size - len(ids)))]
                states, mask = encoder.encode_tokens(padded, length=batch.length)
                real = states[: len(ids)][mask[: len(ids)]].float().cpu().numpy()
                start = offsets[batch.rows[0]]
                file.array[start : start + len(real)] = real.astype(dtype)
                progress.advance(len(ids))
            _mark(run.out, index, [file])
    file.close()
    return offsets


class Kept(NamedTuple):
    """What an artifact keeps of texts, and why."""

    what: Literal["states", "tokens"]
    why: str


def choose_kept(cfg: EncodeConfig, beside: Sequence[TextStates], *, gib: float) -> Kept:
    """Choose between states and token ids by the size of the states, those beside included.

    Raises:
        ConfigError: The states are too large only together with those beside.
    """
    size = f"{gib:.1f} GiB" if gib >= 0.1 else f"{gib:.2g} GiB"
    if any(cache.holds_tokens for cache in beside):
        return Kept("tokens", f"{size}: token ids are kept, as in the artifacts beside")
    if gib <= cfg.budget_gib:
        return Kept("states", f"{size} <= budget_gib={cfg.budget_gib:g}: states are kept")
    if beside:
        raise ConfigError(
            f"text states: {size} with those of beside={', '.join(map(str, cfg.beside))}, more "
            f"than budget_gib={cfg.budget_gib:g}. Raise budget_gib, or encode all texts into one "
            "artifact without beside=: it will keep token ids"
        )
    return Kept(
        "tokens",
        f"{size} > budget_gib={cfg.budget_gib:g}: token ids are kept, text is encoded in every "
        "step",
    )


def texts_without(texts: list[str], beside: Sequence[TextStates]) -> list[str]:
    """Give the texts that none of some text states artifacts holds."""
    digests = text_digests(texts)
    is_held = np.zeros(len(texts), bool)
    for cache in beside:
        is_held |= cache.find(digests) >= 0
    return [text for text, held in zip(texts, is_held, strict=True) if not held]


def distinct_texts(images: Images, captions: Sequence[Path]) -> list[str]:
    """Give every text that a training picture may be trained with, once, sorted.

    The empty text is among them: it stands in for a dropped caption.
    """
    rows = images.rows("train").tolist()
    wanted = {images.sample_ids[row] for row in rows}
    found = {"", *(images.alt[row] or "" for row in rows)}
    for folder in captions:
        opened = open_captions(folder)
        for kind in opened.kinds:
            pairs = opened.texts(kind).items()
            found.update(text for sample_id, text in pairs if sample_id in wanted)
    return sorted(found)


def pad_rows(array: NDArray[np.uint8], num_rows: int) -> NDArray[np.uint8]:
    """Repeat the last row until there are `num_rows`."""
    absent = num_rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], absent, axis=0)]) if absent else array


class _ArrayFile:
    """A file of its final size that is filled in place: `.npy`, or raw bytes for `.bin`."""

    def __init__(
        self, path: Path, shape: tuple[int, ...], *, dtype: DTypeLike = np.float32
    ) -> None:
        # Under a temporary name until it is whole; it keeps what earlier processes wrote.
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        if path.exists() and not self._partial.exists():
            path.rename(self._partial)
        mode: Literal["r+", "w+"] = "r+" if self._partial.exists() else "w+"
        if path.suffix == ".npy":
            self.array: Any = np.lib.format.open_memmap(
                self._partial, mode=mode, dtype=dtype, shape=shape
            )
        else:
            self.array = np.memmap(self._partial, mode=mode, dtype=dtype, shape=shape)
        # A full disk must be an error now: writing to a map without blocks kills the process.
        with self._partial.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self._partial.stat().st_size)

    def flush(self) -> None:
        """Wait until everything written so far is on the disk."""
        self.array.flush()

    def close(self) -> None:
        """Give the file its name."""
        self.array.flush()
        del self.array
        self._partial.replace(self._path)


def _blocks_to_do(out: Path, num_blocks: int) -> list[int]:
    names = [f"{MARKERS}/{index:06d}.json" for index in range(num_blocks)]
    return [int(Path(name).stem) for name in pending(out, names)]


def _mark(out: Path, index: int, files: Iterable[_ArrayFile]) -> None:
    """Note that a block is on the disk."""
    for file in files:
        file.flush()
    write_json(out / MARKERS / f"{index:06d}.json", {})
