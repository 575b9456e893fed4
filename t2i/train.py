"""Training one text-conditioned latent diffusion model: one arm, one seed.

The loop in `train` is the whole of it: draw a batch, corrupt, predict, weigh the loss, step,
average weights, report, save. Everything random is a function of (seed, stream, epoch, sample_id),
rates are functions of samples_seen, so a checkpoint is tensors and a step number, and a run that
was killed ends in the same bytes as one that was not.

B batch, C latent channels, H latent height, W latent width, L text tokens, D text width
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from launch.checkpoint import FOLDER, Average, Checkpoints, restore, training_tensors, whole
from launch.errors import ConfigError, InputError, StoppedError
from launch.finite import FiniteGuard
from launch.manifest import SCRATCH
from launch.processes import accelerator as make_accelerator
from launch.processes import device, rank_slice, sent, set_threads, world_size
from launch.run import Run
from launch.trackers import FOLDER as TRACKERS
from launch.trackers import mirrored_log, refuse_absent
from launch.training import is_due, learning_rate
from t2i.artifacts import MODEL, VERSIONS
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder
from t2i.config import TrainConfig
from t2i.data import Batch, Draw, Latent, TrainingSet
from t2i.denoiser import build, choose_kernels, num_parameters, whiten_text
from t2i.estimate import GIB, absent_inputs, describe, expected_plan, sizes_of, written_bytes
from t2i.folder import LEDGER, model_files, save_model, save_weights
from t2i.inputs import open_inputs, some_states
from t2i.ledger import TENSOR_INTERVAL, Ledger, hash_tensors, row_of
from t2i.objective import Corrupted, corrupt, sample_loss
from t2i.text_caches import open_text_caches
from t2i.validation import Validation, open_held_out, validation_steps

ADAM_BETAS = (0.9, 0.99)
"""A second moment that forgets within 100 steps: short runs have only some hundreds."""

LEDGER_LINES = f"{SCRATCH}/ledger.jsonl"


def train(cfg: TrainConfig, run: Run) -> None:
    """Train a denoiser and save it as a pipeline folder with snapshots and ledger."""
    refuse_absent(cfg.trackers)
    num_steps = max(1, round(cfg.samples / cfg.batch_size))
    plan: dict[str, object] = {
        "arm": cfg.arm,
        "caption mix": ", ".join(f"{kind} {share:.0%}" for kind, share in cfg.caption_mix.items()),
        "steps": num_steps,
    }
    if run.is_dry and cfg.expected is not None and (absent := absent_inputs(cfg)):
        run.start(plan | expected_plan(cfg, absent))
        return
    data, autoencoder, text_encoder = open_inputs(cfg, run)
    held_out = open_held_out(cfg, run)
    snapshots = snapshot_steps(num_steps, cfg.snapshots)
    denoiser = build(
        cfg.size,
        latent_channels=data.latent_shape[0],
        latent_side=data.latent_shape[1],
        text_width=data.text.width,
        seed=cfg.seed,
    )
    here = rank_slice(cfg.batch_size)
    refuse_uneven(cfg.microbatch, batch_size=here.stop - here.start)
    sizes = sizes_of(data, autoencoder, text_encoder)
    plan |= {
        "pictures": len(data),
        "left out": sum(data.missing.values()),
        "epochs": f"{num_steps * cfg.batch_size / len(data):.2f}",
        "parameters": num_parameters(denoiser),
        "text": "encoded in every step" if data.text.holds_tokens else "cached states",
        "validated on": 0 if held_out is None else len(held_out.pair_ids),
    }
    if data.stood_in:
        plan["stood in"] = ", ".join(f"{kind} {num:,}" for kind, num in data.stood_in.items())
    if run.is_dry:
        plan |= describe(cfg, sizes)
    written = written_bytes(cfg, num_parameters(denoiser), sizes=sizes)
    if not run.start(
        plan,
        gib=sum(written.values()) / GIB,
        recipe={"num_processes": world_size(), "device": device().type},
    ):
        return

    set_threads(cfg.threads)
    accelerator = make_accelerator(
        precision=cfg.precision, trackers=cfg.trackers, trackers_folder=run.out / TRACKERS
    )
    log = mirrored_log(run, accelerator)
    choose_kernels(
        denoiser, attention=cfg.attention, checkpoint_activations=cfg.checkpoint_activations
    )
    if data.text.holds_tokens:
        text_encoder.to(accelerator.device)
    # Not of what this arm alone reads: arms start alike.
    whiten_text(denoiser, some_states(open_text_caches(cfg.text_states), text_encoder))
    # Channels last is quicker on CPUs and GPUs; the weights that are saved do not show it.
    denoiser.to(accelerator.device, memory_format=torch.channels_last)
    adamw = torch.optim.AdamW(
        denoiser.parameters(),
        lr=cfg.lr,
        betas=ADAM_BETAS,
        weight_decay=cfg.weight_decay,
        fused=True,
    )
    guard = FiniteGuard(adamw, accelerator.device)
    # Only these two: a loader given to accelerate would be sharded a second time.
    model, optimizer = accelerator.prepare(denoiser, adamw)
    averages = [Average(model, decay) for decay in cfg.ema_decays]
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer, averages=averages)
        start = found.step
    refuse_apart(start, accelerator)
    ledger = Ledger(run.out / LEDGER_LINES, resume_step=start, is_main=run.is_main)
    predict = torch.compile(model, dynamic=False) if cfg.compile else model
    batches = data.batches(range(start + 1, num_steps + 1), here, num_workers=cfg.num_workers)

    validation = None
    if held_out is not None:
        steps = validation_steps(cfg, num_steps=num_steps, snapshots=snapshots)
        validation = Validation(
            held_out,
            cfg,
            out=run.out,
            moments=[step * cfg.batch_size for step in steps],
            image_size=int(data.latents[0].manifest.config["image_size"]),
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            accelerator=accelerator,
        )

    with run.progress(num_steps * cfg.batch_size, label=f"train {cfg.arm}") as progress, ledger:
        progress.resume(start * cfg.batch_size)
        for draw, batch in progress.waiting(batches):
            step, samples_seen = draw.step, draw.step * cfg.batch_size
            optimizer.zero_grad(set_to_none=True)
            pieces, losses = batch.split(cfg.microbatch), []
            for piece in pieces:
                x, text_embeds, text_mask = prepare(
                    piece, cfg, autoencoder, text_encoder, accelerator.device
                )
                # Gradients of all processes are added up once, in the last backward pass.
                is_last = len(losses) == len(pieces) - 1
                with nullcontext() if is_last else accelerator.no_sync(model):
                    prediction = predict(
                        x.x_t,
                        x.timestep,
                        encoder_hidden_states=text_embeds,
                        encoder_attention_mask=text_mask,
                    ).sample
                    loss = sample_loss(prediction, x.target)
                    accelerator.backward(loss.sum() / batch.num_pictures)
                losses.append(loss.detach())

            grad_norm = whole(accelerator.clip_grad_norm_(model.parameters(), cfg.clip_norm))
            error = partial(not_finite, data, draw, losses, accelerator)
            guard.check(*losses, grad_norm, error=error)
            lr = learning_rate(
                step,
                num_steps=num_steps,
                peak=cfg.lr,
                warmup_steps=cfg.warmup_samples / cfg.batch_size,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            for average in averages:
                average.update(model)

            tensors = tensor_hash(data, draw, cfg, autoencoder) if run.is_main else None
            ledger.add(row_of(draw, kinds=data.kinds, seed=cfg.seed, tensor_hash=tensors))
            fields: dict[str, float] = {}
            if is_due(step, cfg.log_samples, batch_size=cfg.batch_size) or step == num_steps:
                guard.settle()
                mean_loss = accelerator.reduce(torch.cat(losses).mean(), "mean")
                fields = {"loss": mean_loss.item(), "grad": float(grad_norm), "lr": lr}
                log("step", step=step, samples_seen=samples_seen, **fields)
            if validation is not None and samples_seen in validation.moments:
                guard.settle()
                measured = validation.measure(
                    denoiser, averages[0].state_dict(), samples_seen=samples_seen
                )
                log("validation", step=step, samples_seen=samples_seen, **measured)
                fields["val"] = measured["loss"]
            progress.advance(cfg.batch_size, **fields)
            if step in snapshots:
                guard.settle()
                weights = averages[0].on_cpu()
                if run.is_main:
                    save_weights(run.out / "snapshots" / str(samples_seen), weights)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if is_saved and step < num_steps:
                guard.settle()
                state = training_tensors(model=model, optimizer=optimizer, averages=averages)
                ledger.sync()
                if run.is_main:
                    checkpoints.save(step, state, {"samples_seen": samples_seen})
        guard.settle()

    first, *others = [average.on_cpu() for average in averages]
    if run.is_main:
        ledger.write_table(run.out / LEDGER)
        for decay, weights in zip(cfg.ema_decays[1:], others, strict=True):
            save_weights(run.out / "averages" / f"{decay:g}", weights)
        save_model(
            run.out,
            first,
            denoiser=denoiser,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            cfg=cfg,
        )
        if validation is not None:
            validation.write()
        run.finish(
            artifact=MODEL,
            version=VERSIONS[MODEL],
            counts={
                "samples_seen": num_steps * cfg.batch_size,
                "rows_in": len(data) + sum(data.missing.values()),
                "rows_out": len(data),
                **data.stood_in,
            },
            rejected=data.missing,
            parts=model_files(run.out),
        )
    accelerator.wait_for_everyone()
    accelerator.end_training()


def refuse_uneven(microbatch: int | None, *, batch_size: int) -> None:
    """Refuse parts of a batch that are not all of one size."""
    if microbatch is not None and batch_size % microbatch:
        raise ConfigError(
            f"microbatch must divide the {batch_size} pictures that each of {world_size()} "
            f"processes has of a batch, got {microbatch}"
        )


def refuse_apart(start: int, accelerator: Accelerator) -> None:
    """Refuse processes that found different checkpoints, as on disks that are not shared."""
    found = accelerator.gather(torch.tensor([start], device=accelerator.device)).tolist()
    if len(set(found)) > 1:
        raise InputError(
            f"the processes would go on after different steps ({', '.join(map(str, found))}); "
            "expected one. --out must lie on a disk that all machines share."
        )


def snapshot_steps(num_steps: int, num_snapshots: int) -> set[int]:
    """Give the evenly spaced steps whose averages are kept; the last is the model itself."""
    return {round(num_steps * i / num_snapshots) for i in range(1, num_snapshots)} - {0, num_steps}


def prepare(
    batch: Batch,
    cfg: TrainConfig,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    device: torch.device,
) -> tuple[Corrupted, Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Scale and corrupt the latents, encode what is token ids; bring everything to the device."""
    latent = Latent(batch.unscaled_latents, batch.noise)
    corrupted = corrupt_latents(latent, batch.uniform, cfg, autoencoder)
    if np.issubdtype(batch.text.dtype, np.integer):
        text = text_encoder.encode_padded(batch.text, batch.text_mask).text_embeds
    else:
        text = sent(torch.from_numpy(batch.text), device)
    return (
        Corrupted(*(sent(tensor, device) for tensor in corrupted)),
        text.to(torch.float32),
        sent(torch.from_numpy(batch.text_mask), device),
    )


def corrupt_latents(
    latent: Latent,
    uniform: Float64[np.ndarray, " B"],
    cfg: TrainConfig,
    autoencoder: Autoencoder,
) -> Corrupted:
    """Scale and corrupt the latents."""
    return corrupt(
        cfg.objective,
        autoencoder.scale(torch.from_numpy(latent.unscaled_latents)),
        noise=torch.from_numpy(latent.noise),
        uniform=torch.from_numpy(uniform),
    )


def tensor_hash(
    data: TrainingSet, draw: Draw, cfg: TrainConfig, autoencoder: Autoencoder
) -> str | None:
    """Hash noise and corrupted latents of the global batch, in every fiftieth step and the first.

    Gathered anew for the whole batch, so that the hash does not depend on the number of processes.
    """
    if draw.step % TENSOR_INTERVAL and draw.step != 1:
        return None
    latent = data.gather_latents(draw)
    corrupted = corrupt_latents(latent, draw.uniform, cfg, autoencoder)
    return hash_tensors(latent.noise, corrupted.x_t.numpy(), corrupted.timestep.numpy())


def not_finite(
    data: TrainingSet, draw: Draw, losses: Sequence[Tensor], accelerator: Accelerator
) -> StoppedError:
    """Give the error of a loss that is not a number, raised before the weights are touched.

    Every process comes here in the same step, since a gradient that is no number is everyone's.
    """
    loss = accelerator.gather(torch.cat(list(losses)))
    is_bad = ~loss.cpu().isfinite().numpy()
    names = data.sample_ids_of(draw)
    found = ", ".join(name for name, bad in zip(names, is_bad, strict=True) if bad)
    return StoppedError(
        f"step {draw.step}: the loss or its gradient is not finite; the weights "
        "were not changed. Look at the latents and captions of "
        + (f"these pictures: {found}" if found else "the step's pictures: " + ", ".join(names))
        + "; or lower lr."
    )
