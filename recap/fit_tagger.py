"""Fit a small tagger on the words of annotated pictures, and measure it on others of them.

Which words become tags lies in `recap.tagger.words`, what a tag is worth in `recap.tagger.quality`,
the network in `recap.tagger.net`; here is the loop. Words that the network does not learn (fillers
of the language, mostly) are dropped by what they are worth on held-out pictures, so no list of them
is needed.

N pictures, T tags
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch.nn import functional

from launch import keyed
from launch.checkpoint import FOLDER, Average, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, InputError, StoppedError
from launch.manifest import write_json
from launch.processes import device, set_threads
from launch.run import Run
from launch.training import EpochOrder, average_decay, initial_weights, is_due, learning_rate
from recap import artifacts
from recap.artifacts import Images
from recap.config import FitTaggerConfig
from recap.corpus import pixel_source
from recap.tagger import quality
from recap.tagger.net import TagNet, confidences, save_tagger, without_tags
from recap.tagger.tag_list import TagList
from recap.tagger.words import TagFinder, Vocabulary, choose_vocabulary, label_table

QUALITY: Final = "quality.json"
ROUNDING: Final = 6
"""Decimals of a threshold in the tag list."""


class Annotated(NamedTuple):
    """Annotated pictures of the training split with the tags of each."""

    rows: Int64[np.ndarray, " N"]
    """Row numbers in the images artifact, ascending."""

    has_tag: Bool[np.ndarray, "N T"]
    vocabulary: Vocabulary


class Split(NamedTuple):
    """Places in `Annotated`: to fit on, to choose thresholds on, to measure on."""

    fit: Int64[np.ndarray, " F"]
    choose: Int64[np.ndarray, " C"]
    measure: Int64[np.ndarray, " M"]


def fit_tagger(cfg: FitTaggerConfig, run: Run) -> None:
    """Fit a tagger and write it with its thresholds and what it is worth."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    for path in cfg.captions:
        run.input("captions", path, artifact=artifacts.CAPTIONS)
    images = artifacts.open_images(cfg.images)
    annotated = read_annotated(images, cfg)
    split = choose_split(images, annotated, cfg)
    tags = annotated.vocabulary.tags
    num_steps = math.ceil(cfg.samples / cfg.batch_size)
    with initial_weights(cfg.seed, "tagger.init"):
        model = TagNet(cfg.model, num_tags=len(tags))
    if not run.start(
        {
            "annotated pictures": len(annotated.rows),
            "held out": f"{len(split.choose):,} choose thresholds, {len(split.measure):,} measure",
            "words that may be tags": len(tags),
            "parameters": sum(p.numel() for p in model.parameters()),
            "samples": f"{cfg.samples:,} in {num_steps:,} steps of {cfg.batch_size}",
        },
        recipe={"device": device().type},
    ):
        return

    set_threads(cfg.threads)
    pixels_of = pixel_source(images, annotated.rows, size=cfg.model.image_size)
    has_tag = torch.from_numpy(annotated.has_tag)
    sample_ids = [images.sample_ids[row] for row in annotated.rows[split.fit]]
    order = EpochOrder(cfg.seed, "tagger.order", keyed.words(sample_ids))
    # Channels last is quicker on CPUs; the weights that are saved do not show it.
    model.to(device(), memory_format=torch.channels_last).train()
    start_at_the_prior(model, annotated.has_tag[split.fit])
    optimizer = build_optimizer(model, weight_decay=cfg.weight_decay)
    average = Average(model, cfg.ema_decay)
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer, averages=[average])
        start = found.step

    with run.progress(num_steps * cfg.batch_size, label="fit tagger") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            with progress.wait():
                drawn = order.batch(step, batch_size=cfg.batch_size).rows
                places = split.fit[drawn]
                pixels = pixels_of(places).to(device())
                target = has_tag[torch.from_numpy(places)].to(device()).float()
            rate = learning_rate(
                step,
                num_steps=num_steps,
                peak=cfg.lr,
                warmup_steps=cfg.warmup_samples / cfg.batch_size,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = functional.binary_cross_entropy_with_logits(model(pixels), target)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if not torch.isfinite(loss.detach() + norm):
                raise StoppedError(
                    f"{run.out}: step {step}: the loss or its gradient is not finite; the weights "
                    f"were not touched. Lower lr={cfg.lr:g}, or look at the batch's pictures: "
                    + " ".join(sorted(sample_ids[place] for place in drawn.tolist()))
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(model, decay=average_decay(step, decay=cfg.ema_decay))

            shown: dict[str, float] = {}
            if is_due(step, cfg.log_samples, batch_size=cfg.batch_size) or step == num_steps:
                shown = {"loss": loss.item(), "grad": norm.item()}
                run.log("step", step=step, samples_seen=step * cfg.batch_size, **shown)
            progress.advance(cfg.batch_size, step=step, **shown)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if (is_saved or checkpoints.is_late()) and step < num_steps:
                tensors = training_tensors(model=model, optimizer=optimizer, averages=[average])
                checkpoints.save(step, tensors, {})

    average.copy_to(model)
    model.eval()
    parts = finish(model, images=images, annotated=annotated, split=split, cfg=cfg, run=run)
    run.finish(
        artifact=artifacts.TAGGER,
        version=artifacts.VERSION,
        counts={
            "rows_in": len(annotated.rows),
            "rows_out": len(annotated.rows),
            "held_out": len(split.choose) + len(split.measure),
            "samples_seen": num_steps * cfg.batch_size,
            "steps": num_steps,
        },
        parts=parts,
    )


def read_annotated(images: Images, cfg: FitTaggerConfig) -> Annotated:
    """Return the annotated pictures of the training split, and which words their texts have.

    Raises:
        InputError: None is annotated, or no word can be a tag.
    """
    of_row: dict[int, list[str]] = {}
    for kind in cfg.kinds:
        for path in cfg.captions:
            captions = artifacts.open_captions(path)
            if kind in captions.kinds:
                for sample_id, text in captions.texts(kind).items():
                    of_row.setdefault(_row_of(images, sample_id, path), []).append(text)
    is_train = set(images.rows("train").tolist())
    rows = sorted(row for row, texts in of_row.items() if row in is_train and any(texts))
    if len(rows) < 8 * cfg.batch_size:
        raise InputError(
            f"{cfg.images}: {len(rows):,} pictures of the training split have a text of "
            f"{', '.join(cfg.kinds)} in captions=[...]; expected at least eight batches of "
            f"{cfg.batch_size}. Annotate more pictures with `python -m recap annotate`, or lower "
            "batch_size."
        )
    find = TagFinder((text for row in rows for text in of_row[row]), phrase_words=cfg.phrase_words)
    found = [find(of_row[row]) for row in rows]
    vocabulary = choose_vocabulary(
        found, min_share=cfg.min_share, max_share=cfg.max_share, max_tags=cfg.max_tags
    )
    if not vocabulary.tags:
        raise InputError(
            f"{cfg.images}: no word of {len(rows):,} annotated pictures can be a tag "
            f"({vocabulary.left_out}). Lower min_share={cfg.min_share:g} or raise "
            f"max_share={cfg.max_share:g}."
        )
    return Annotated(
        rows=np.array(rows, dtype=np.int64),
        has_tag=label_table(found, vocabulary.tags),
        vocabulary=vocabulary,
    )


def _row_of(images: Images, sample_id: str, path: object) -> int:
    try:
        return images.row_of(sample_id)
    except KeyError:
        raise ArtifactError(
            f"{path}: has a caption of picture {sample_id}, which {images.folder} has not; the "
            "captions were written for other pictures."
        ) from None


def choose_split(images: Images, annotated: Annotated, cfg: FitTaggerConfig) -> Split:
    """Hold some annotated pictures out, chosen by keyed randomness."""
    ids = keyed.words([images.sample_ids[row] for row in annotated.rows])
    order = keyed.permutation(cfg.seed, "tagger.held_out", epoch=0, ids=ids)
    num_held = min(cfg.held_out_pictures, len(order) // 4)
    middle = num_held // 2
    return Split(
        fit=np.sort(order[num_held:]),
        choose=np.sort(order[:middle]),
        measure=np.sort(order[middle:num_held]),
    )


def start_at_the_prior(model: TagNet, has_tag: Bool[np.ndarray, "N T"]) -> None:
    """Let every tag begin at its own share, so that the first steps need not learn how rare it is.

    Source: Lin et al. 2017, arXiv:1708.02002, section 3.3, with each tag's own share.
    """
    share = (has_tag.sum(axis=0) + 1) / (len(has_tag) + 2)
    with torch.no_grad():
        model.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
        model.head.weight.mul_(0.1)


def build_optimizer(model: TagNet, *, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and filters alone."""
    large = [p for p in model.parameters() if p.ndim > 1]
    small = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": large, "weight_decay": weight_decay},
            {"params": small, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )


def finish(
    model: TagNet,
    *,
    images: Images,
    annotated: Annotated,
    split: Split,
    cfg: FitTaggerConfig,
    run: Run,
) -> list[str]:
    """Choose thresholds, drop what was not learned, measure the rest, and write the tagger.

    Raises:
        StoppedError: No tag was learned.
    """

    def look(places: Int64[np.ndarray, " K"]) -> Float32[np.ndarray, "K T"]:
        found = []
        for begin in range(0, len(places), cfg.batch_size):
            here = annotated.rows[places[begin : begin + cfg.batch_size]]
            pixels = images.pixels(here, size=cfg.model.image_size)
            found.append(confidences(model, pixels))
        return np.concatenate(found)

    chosen = quality.choose_thresholds(look(split.choose), annotated.has_tag[split.choose])
    kept = quality.learned(chosen, min_f1=cfg.min_f1, min_gain=cfg.min_gain)
    words, counts = annotated.vocabulary.tags, annotated.vocabulary.counts
    if not len(kept):
        best = int(chosen.f1.argmax())
        raise StoppedError(
            f"{run.out}: none of {len(words):,} words was learned; the best is {words[best]!r} "
            f"with an F1 of {chosen.f1[best]:.2f}, and min_f1={cfg.min_f1:g}, min_gain="
            f"{cfg.min_gain:g} ask for more. Raise samples, annotate more pictures, or lower them."
        )
    thresholds = chosen.thresholds[kept].round(ROUNDING)
    tags = [words[i] for i in kept]
    measured = quality.measure(
        look(split.measure)[:, kept],
        annotated.has_tag[split.measure][:, kept],
        tags=tags,
        thresholds=thresholds,
    )
    dropped = set(range(len(words))) - set(kept.tolist())
    report: dict[str, Any] = {
        "measured on": "annotated pictures that neither the fit nor the thresholds have seen",
        **measured,
        "not_learned": {
            words[i]: {
                "f1": round(float(chosen.f1[i]), 6),
                "f1_of_saying_it_always": round(float(chosen.f1_always[i]), 6),
            }
            for i in sorted(dropped)
        },
        "words_left_out": annotated.vocabulary.left_out,
    }
    parts = save_tagger(
        run.out,
        weights=without_tags(model.state_dict(), kept.tolist()),
        size=cfg.model,
        tags=TagList(
            names=tags,
            categories=["general"] * len(tags),
            counts=[counts[i] for i in kept],
            thresholds=thresholds.tolist(),
        ),
    )
    write_json(run.out / QUALITY, report)
    print(f"{run.verb}: {line_of(report, tags=tags)}", flush=True)
    return [*parts, QUALITY]


def line_of(report: dict[str, Any], *, tags: Sequence[str]) -> str:
    """Say in one line what a tagger is worth."""
    together = report["together"]
    return (
        f"{len(tags)} tags ({len(report['not_learned'])} words not learned); on "
        f"{report['pictures']:,} held-out pictures precision {together['precision']:.3f}, recall "
        f"{together['recall']:.3f}, F1 {together['f1']:.3f}"
    )
