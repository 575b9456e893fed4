"""Train a captioner: on alt text from scratch, then on an annotator's captions from that base.

The weights, the vocabulary and a first measurement become a captioner artifact. What a captioner
is and how its loss is computed lies in `recap.captioner`; here is the loop.

N pictures with a caption, B pictures of a step, H height and width of a picture
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from launch import keyed
from launch.checkpoint import FOLDER, Average, Checkpoints, restore, training_tensors
from launch.errors import ConfigError, InputError, StoppedError
from launch.processes import rank, set_threads, world_size
from launch.run import Run
from launch.training import (
    EpochOrder,
    average_decay,
    initial_weights,
    is_due,
    learning_rate,
)
from recap import artifacts
from recap.artifacts import Images
from recap.captioner.coca import LARGEST_LOGIT_SCALE, CoCa, group_by_length
from recap.captioner.folder import save_captioner
from recap.captioner.objective import objective
from recap.captioner.optimizer import build_optimizer, set_rate
from recap.captioner.starting import (
    extend_context,
    find_public,
    load_clip_tower,
    load_start,
    note_start,
    with_clip_tower,
)
from recap.captioner.tokenizer import CaptionTokenizer, train_tokenizer
from recap.captioner.validation import loss_and_retrieval, written_captions
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


def train(cfg: CaptionerTrainConfig, run: Run) -> None:
    """Train a captioner and write it with its averaged weights."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    for path in cfg.captions:
        run.input("captions", path, artifact=artifacts.CAPTIONS)
    for path in cfg.tokenizer_texts:
        run.input("tokenizer_texts", path, artifact=artifacts.CAPTIONS)
    if cfg.init is not None:
        note_start(run, "init", cfg.init)
    if cfg.image_init is not None:
        note_start(run, "image_init", cfg.image_init)
    if world_size() > 1:
        raise InputError(
            f"recap train works in one process, {world_size()} were started; start it without "
            "accelerate and give it more threads (threads=N)."
        )
    images = artifacts.open_images(cfg.images)
    corpus = read_corpus(images, cfg, split="train")
    tokenizer, model = build(images, cfg)
    corpus, captions = tokenize(corpus, tokenizer, context_length=model.size.context_length)
    refuse_if_too_few(corpus, cfg)
    num_steps = math.ceil(cfg.samples / cfg.batch_size)
    if not run.start(
        {
            "kind": cfg.kind,
            "pictures with a caption": len(corpus.rows),
            "left out": ", ".join(f"{v:,} {k}" for k, v in corpus.left_out.items() if v) or "none",
            "parameters": sum(p.numel() for p in model.parameters()),
            "vocabulary": tokenizer.vocab_size,
            "samples": f"{cfg.samples:,} in {num_steps:,} steps of {cfg.batch_size}",
        },
    ):
        return

    set_threads(cfg.threads)
    sample_ids = [images.sample_ids[row] for row in corpus.rows]
    order = EpochOrder(cfg.seed, "captioner.order", keyed.words(sample_ids))
    text_numbers = number_texts(corpus.texts)
    pixels_of = pixel_source(images, corpus.rows, size=model.size.image_size)
    optimizer = build_optimizer(
        model,
        weight_decay=cfg.weight_decay,
        image_lr_scale=cfg.image_lr_scale,
        image_layer_decay=cfg.image_layer_decay,
    )
    average = Average(model, cfg.ema_decay)
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer, average=average)
        start = found.step

    model.train()
    with run.progress(num_steps * cfg.batch_size, label=f"train {cfg.kind}") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            samples_seen = step * cfg.batch_size
            with progress.wait():
                places = order.batch(step, batch_size=cfg.batch_size).rows
                pixels = pixels_of(places)
            groups = group_by_length(
                [captions[place] for place in places],
                num_groups=cfg.num_length_groups,
                pad=model.special.pad,
                longest=model.size.context_length,
            )
            lr = learning_rate(
                step,
                num_steps=num_steps,
                peak=cfg.lr,
                warmup_steps=cfg.warmup_samples / cfg.batch_size,
            )
            set_rate(optimizer, lr)

            output = model(pixels, groups, with_features=cfg.contrastive_weight > 0)
            losses = objective(
                output,
                captioning_weight=cfg.captioning_weight,
                contrastive_weight=cfg.contrastive_weight,
                text_ids=text_numbers[places],
            )
            losses.total.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            # The one look at a number in every step: a bad one must not reach the weights.
            if not torch.isfinite(losses.total + grad_norm):
                raise not_finite(step, [sample_ids[place] for place in places])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                model.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
            average.update(model, decay=average_decay(step, decay=cfg.ema_decay))

            shown: dict[str, float] = {}
            if is_due(step, cfg.log_samples, batch_size=cfg.batch_size) or step == num_steps:
                shown = {
                    "loss": losses.total.item(),
                    "captioning": losses.captioning.item(),
                    "contrastive": losses.contrastive.item(),
                    "grad": grad_norm.item(),
                    "lr": lr,
                }
                run.log("step", step=step, samples_seen=samples_seen, **shown)
            progress.advance(cfg.batch_size, step=step, **shown)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if is_saved and step < num_steps:
                tensors = training_tensors(model=model, optimizer=optimizer, average=average)
                checkpoints.save(step, tensors, {"samples_seen": samples_seen})

    average.copy_to(model)
    parts = save_captioner(
        run.out,
        weights=model.state_dict(),
        size=model.size,
        tokenizer=tokenizer,
        validation=validate(model.eval(), tokenizer, images=images, cfg=cfg),
    )
    run.finish(
        artifact=artifacts.CAPTIONER,
        version=artifacts.VERSION,
        counts={
            "rows_in": corpus.num_in,
            "rows_out": len(corpus.rows),
            "samples_seen": num_steps * cfg.batch_size,
            "steps": num_steps,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        rejected=corpus.left_out,
        parts=parts,
    )


# What is trained on.


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
            "model.context_length, or the limit."
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


# The model and its steps.


def build(images: Images, cfg: CaptionerTrainConfig) -> tuple[CaptionTokenizer, CoCa]:
    """Return vocabulary and model: those of `init`, or new ones made from the training texts."""
    if cfg.init is not None:
        model, tokenizer = load_start(cfg.init)
        longer = cfg.context_length
        return tokenizer, model if longer is None else extend_context(model, longer)
    train_rows = images.rows("train")
    texts = [images.alt[row] for row in train_rows]
    is_train = {images.sample_ids[row] for row in train_rows}
    for path in cfg.tokenizer_texts:
        captions = artifacts.open_captions(path)
        for kind in captions.kinds:
            found = captions.texts(kind).items()
            texts += [text for sample_id, text in found if sample_id in is_train]
    tokenizer = train_tokenizer(texts, vocab_size=cfg.model.vocab_size)
    size, tower = cfg.model, None
    if cfg.image_init is not None:
        tower = find_public(cfg.image_init)
        size = with_clip_tower(size, tower)
    with initial_weights(cfg.seed, "captioner.init"):
        model = CoCa(size, vocab_size=tokenizer.vocab_size, special=tokenizer.special)
    if tower is not None:
        load_clip_tower(model, tower)
    return tokenizer, model


def not_finite(step: int, sample_ids: Sequence[str]) -> StoppedError:
    """Say which pictures were in the batch whose loss is no number."""
    return StoppedError(
        f"step {step}, rank {rank()}: the loss or its gradient is not finite; the weights were not "
        "touched. Lower lr, or look at the batch's pictures and captions: "
        + " ".join(sorted(sample_ids))
    )


# What came out.


def validate(
    model: CoCa, tokenizer: CaptionTokenizer, *, images: Images, cfg: CaptionerTrainConfig
) -> dict[str, Any]:
    """Measure the captioner on pictures of the test split.

    Returns:
        `captions`: loss and retrieval on held-out captions of the kind, where there are any;
        `alt` and `alt_before`: the same on alt text, now and before a fine-tune, which tells what
        it did to the contrastive towers; `written`: captions it writes, compared with held-out
        ones and, where it is known, with the truth.
    """
    rows = images.rows("test")[: cfg.validation_pictures]
    if not len(rows):
        return {"num_pictures": 0}
    pixels = torch.from_numpy(images.pixels(rows, size=model.size.image_size))

    def measure(captioner: CoCa, texts: Mapping[int, str]) -> dict[str, Any]:
        places = [place for place, row in enumerate(rows.tolist()) if row in texts]
        chosen = [texts[int(rows[place])] for place in places]
        return loss_and_retrieval(captioner, tokenizer, pixels[places], chosen)

    alt = {int(row): images.alt[row] for row in rows if images.alt[row].strip()}
    found: dict[str, Any] = {"num_pictures": len(rows), "split": "test", "alt": measure(model, alt)}
    by_row = alt
    if cfg.kind != ALT:
        held_out = read_corpus(images, cfg, split="test")
        by_row = dict(zip(held_out.rows.tolist(), held_out.texts, strict=True))
        found["captions"] = measure(model, by_row)
    if cfg.init is not None:
        found["alt_before"] = measure(load_start(cfg.init).model.eval(), alt)
    found["written"] = written_captions(
        model,
        tokenizer,
        pixels,
        sample_ids=[images.sample_ids[row] for row in rows],
        claims=[images.claims[row] for row in rows],
        references=[by_row.get(row) for row in rows.tolist()],
    )
    return found
