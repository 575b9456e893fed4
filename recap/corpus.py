"""What a captioner is trained on: pictures that have a caption of one kind, as tokens and bytes.

N pictures with a caption, B pictures of a batch, H height and width of a picture
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from launch.errors import ConfigError, InputError
from recap import artifacts
from recap.artifacts import Images
from recap.captioner.tokenizer import CaptionTokenizer
from recap.captioner.validation import HeldOut
from recap.config import CaptionerTrainConfig

ALT = "alt"
"""The kind that comes with the pictures; every other one is read from captions artifacts."""

PIXELS_IN_MEMORY_GIB = 2.0
"""Pictures that fit into this are decoded once; more are decoded batch by batch."""


class Corpus(NamedTuple):
    """Pictures of a split with the caption of one kind that each has."""

    rows: Int64[np.ndarray, "N"]
    """Row numbers in the images artifact, ascending."""

    texts: list[str]
    num_in: int
    """Pictures of the split for which the kind's source has a row, empty texts included."""

    left_out: dict[str, int]
    """Of those, pictures that are not trained on, by reason."""


def read_corpus(images: Images, cfg: CaptionerTrainConfig, *, split: str) -> Corpus:
    """Return the pictures of a split that have a caption of the kind; empty ones are counted.

    Raises:
        ConfigError: A kind other than alt names no captions artifact.
        InputError: Two artifacts have a caption of the same picture.
    """
    rows = images.rows(split)
    if cfg.kind == ALT:
        texts = {int(row): images.alt[row] for row in rows}
    else:
        if not cfg.captions:
            raise ConfigError(
                f"kind={cfg.kind} needs captions=[DIR], a captions artifact that has that kind; "
                "make one with `python -m recap annotate`."
            )
        is_wanted = set(rows.tolist())
        texts = {}
        for path in cfg.captions:
            for sample_id, text in artifacts.open_captions(path).texts(cfg.kind).items():
                row = _row_of(images, sample_id, path=path)
                if row in texts:
                    raise InputError(
                        f"{path}: picture {sample_id} has a {cfg.kind} caption in another of the "
                        "artifacts of captions=[...], too; give each picture's caption once."
                    )
                if row in is_wanted:
                    texts[row] = text
    kept = sorted(row for row, text in texts.items() if text.strip())
    return Corpus(
        rows=np.array(kept, dtype=np.int64),
        texts=[texts[row] for row in kept],
        num_in=len(texts),
        left_out={"empty_text": len(texts) - len(kept)},
    )


def _row_of(images: Images, sample_id: str, *, path: object) -> int:
    try:
        return images.row_of(sample_id)
    except KeyError:
        raise InputError(
            f"{path}: has a caption of picture {sample_id}, which {images.folder} has not; the "
            "captions were written for other pictures."
        ) from None


def tokenize(
    corpus: Corpus, tokenizer: CaptionTokenizer, *, context_length: int
) -> tuple[Corpus, list[list[int]]]:
    """Turn texts into tokens once; captions that do not fit are left out and counted.

    A cut caption would teach that captions may stop anywhere.
    """
    captions = tokenizer.encode(corpus.texts)
    fits = [n for n, tokens in enumerate(captions) if len(tokens) <= context_length]
    left_out = {**corpus.left_out, "longer_than_context": len(captions) - len(fits)}
    kept = Corpus(
        rows=corpus.rows[fits],
        texts=[corpus.texts[n] for n in fits],
        num_in=corpus.num_in,
        left_out=left_out,
    )
    return kept, [captions[n] for n in fits]


def refuse_if_too_few(corpus: Corpus, cfg: CaptionerTrainConfig) -> None:
    """Refuse to train where too many pictures are left out, or too few are left."""
    num_left_out = sum(corpus.left_out.values())
    if num_left_out > cfg.max_left_out_share * corpus.num_in:
        reasons = ", ".join(f"{name} {num:,}" for name, num in corpus.left_out.items())
        raise InputError(
            f"{cfg.images}: {num_left_out:,} of {corpus.num_in:,} {cfg.kind} captions of the "
            f"training split cannot be used ({reasons}); at most "
            f"max_left_out_share={cfg.max_left_out_share:g} may be left out. Raise "
            f"{'context_length' if cfg.init else 'model.context_length'}, or the limit."
        )
    if len(corpus.rows) < cfg.batch_size:
        raise InputError(
            f"{cfg.images}: {len(corpus.rows):,} pictures of the training split have a usable "
            f"{cfg.kind} caption, and a batch takes {cfg.batch_size}. Give a smaller batch_size "
            "or more captions."
        )


def number_texts(texts: Sequence[str]) -> Int64[Tensor, "N"]:
    """Give equal texts equal numbers."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def pixel_source(
    images: Images, rows: Int64[np.ndarray, "N"], *, size: int
) -> Callable[[Int64[np.ndarray, "B"]], UInt8[Tensor, "B H H 3"]]:
    """Return a function from places in `rows` to pictures, decoded once where they fit."""
    if len(rows) * size * size * 3 <= PIXELS_IN_MEMORY_GIB * 2**30:
        everything = torch.from_numpy(images.pixels(rows, size=size))
        return lambda places: everything[torch.from_numpy(places)]
    return lambda places: torch.from_numpy(images.pixels(rows[places], size=size))


def read_held_out(images: Images, cfg: CaptionerTrainConfig, *, size: int) -> HeldOut:
    """Return the pictures of the test split that a captioner is measured on, and their captions."""
    rows = images.rows("test")[: cfg.validation_pictures]
    captions = None
    if cfg.kind != ALT:
        corpus = read_corpus(images, cfg, split="test")
        by_row = dict(zip(corpus.rows.tolist(), corpus.texts, strict=True))
        captions = [by_row.get(row) for row in rows.tolist()]
    return HeldOut(
        sample_ids=[images.sample_ids[row] for row in rows],
        pixels=torch.from_numpy(images.pixels(rows, size=size)),
        alt=[images.alt[row] if images.alt[row].strip() else None for row in rows],
        captions=captions,
        claims=[images.claims[row] for row in rows],
    )
