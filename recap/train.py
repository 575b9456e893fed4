"""Train a captioner: on alt text from scratch, then on an annotator's captions from that base.

The weights, the vocabulary and a first measurement become a captioner artifact. What a captioner
is and how its loss is computed lies in `recap.captioner`; here is the loop.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch

from launch import keyed
from launch.checkpoint import FOLDER, Average, Checkpoints, restore, training_tensors
from launch.errors import InputError, StoppedError
from launch.processes import accelerator as make_accelerator
from launch.processes import device, rank, rank_slice, set_threads, world_size
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
from recap.captioner.coca import LARGEST_LOGIT_SCALE, CoCa
from recap.captioner.folder import save_captioner
from recap.captioner.gather import share_weights
from recap.captioner.optimizer import build_optimizer, set_rate
from recap.captioner.page import write_page
from recap.captioner.starting import (
    extend_context,
    find_public,
    load_clip_tower,
    load_start,
    note_start,
    with_clip_tower,
)
from recap.captioner.step import Batch, gradients
from recap.captioner.tokenizer import CaptionTokenizer, train_tokenizer
from recap.captioner.validation import alt_retrieval, figures, measure, on_alt
from recap.config import CaptionerTrainConfig
from recap.corpus import (
    number_texts,
    pixel_source,
    read_corpus,
    read_held_out,
    refuse_if_too_few,
    tokenize,
)


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
    here = rank_slice(cfg.batch_size)
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
            "processes": world_size(),
        },
        # Each computes its part of a sum, and a sum depends on its parts and on who adds.
        recipe={"num_processes": world_size(), "device": device().type},
    ):
        return

    set_threads(cfg.threads)
    sample_ids = [images.sample_ids[row] for row in corpus.rows]
    order = EpochOrder(cfg.seed, "captioner.order", keyed.words(sample_ids))
    text_numbers = number_texts(corpus.texts)
    pixels_of = pixel_source(images, corpus.rows, size=model.size.image_size)
    accelerator = make_accelerator(precision=cfg.precision)
    refuse_sharding(accelerator.distributed_type.value)
    model.to(accelerator.device)
    share_weights(model)
    if cfg.checkpoint_activations:
        model.checkpoint_activations()
    held_out = read_held_out(images, cfg, size=model.size.image_size)
    before = None
    if cfg.init is not None and run.is_main:  # and before the weights of a checkpoint come in
        before = on_alt(model.eval(), tokenizer, held_out)
    optimizer = build_optimizer(
        model,
        weight_decay=cfg.weight_decay,
        image_lr_scale=cfg.image_lr_scale,
        image_layer_decay=cfg.image_layer_decay,
    )
    average = Average(model, cfg.ema_decay)
    checkpoints = Checkpoints(run.out / FOLDER)
    start, curve = 0, []
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer, averages=[average])
        start, curve = found.step, found.state["curve"]

    model.train()
    with run.progress(num_steps * cfg.batch_size, label=f"train {cfg.kind}") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            samples_seen = step * cfg.batch_size
            with progress.wait():
                places = order.batch(step, batch_size=cfg.batch_size).rows
                batch = Batch(
                    pixels=pixels_of(places[here]).to(accelerator.device),
                    captions=[captions[place] for place in places[here]],
                    first=here.start,
                    text_ids=text_numbers[places].to(accelerator.device),
                    num_tokens=sum(len(captions[place]) - 1 for place in places),
                )
            lr = learning_rate(
                step,
                num_steps=num_steps,
                peak=cfg.lr,
                warmup_steps=cfg.warmup_samples / cfg.batch_size,
            )
            set_rate(optimizer, lr)

            losses = gradients(model, batch, cfg, autocast=accelerator.autocast)
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
            # The one look at a number in every step: a bad one must not reach the weights.
            if not torch.isfinite(losses.total + grad_norm):
                raise not_finite(step, [sample_ids[place] for place in places[here]])
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
            is_measured = is_due(step, cfg.validation_samples, batch_size=cfg.batch_size)
            if is_measured and step < num_steps and run.is_main:
                # A copy, so that nothing of the training is touched. The other processes wait in
                # their next step.
                averaged = copy.deepcopy(model).eval()
                average.copy_to(averaged)
                measured = figures(measure(averaged, tokenizer, held_out))
                curve.append({"samples_seen": samples_seen, **measured})
                run.log("validation", step=step, samples_seen=samples_seen, **measured)
                shown |= {f"test_{name}": value for name, value in measured.items()}
            progress.advance(cfg.batch_size, step=step, **shown)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if is_saved and step < num_steps and run.is_main:
                tensors = training_tensors(model=model, optimizer=optimizer, averages=[average])
                checkpoints.save(step, tensors, {"samples_seen": samples_seen, "curve": curve})

    if run.is_main:
        average.copy_to(model)
        validation = measure(model.eval(), tokenizer, held_out)
        last = {"samples_seen": num_steps * cfg.batch_size, **figures(validation)}
        run.log("validation", step=num_steps, **last)
        if before is not None:
            validation["alt_before"] = before
        if cfg.validation_samples is not None:
            validation["curve"] = [*curve, last]
        parts = save_captioner(
            run.out,
            weights=model.state_dict(),
            size=model.size,
            tokenizer=tokenizer,
            validation=validation,
        )
        parts.append(write_page(run.out, validation, held_out, kind=cfg.kind))
        if (line := alt_retrieval(validation)) is not None:
            print(f"recap train: {line}")
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
    accelerator.wait_for_everyone()
    accelerator.end_training()


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


def refuse_sharding(strategy: str) -> None:
    """Refuse strategies that divide the model itself, of which this loop knows nothing.

    Raises:
        InputError: It names the strategy that the launcher asked for.
    """
    if strategy in {"FSDP", "DEEPSPEED", "MEGATRON_LM"}:
        raise InputError(
            f"recap train keeps a whole captioner in every process, and {strategy} was asked for. "
            "Start it with launch/accelerate/gpu_8.yaml; if memory is short, set microbatch or "
            "checkpoint_activations=true."
        )


def not_finite(step: int, sample_ids: Sequence[str]) -> StoppedError:
    """Say which pictures were in the batch whose loss is no number."""
    return StoppedError(
        f"step {step}, rank {rank()}: the loss or its gradient is not finite; the weights were not "
        "touched. Lower lr, or look at the batch's pictures and captions: "
        + " ".join(sorted(sample_ids))
    )
