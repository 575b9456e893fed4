"""Training one text-conditioned latent diffusion model: one arm, one seed.

The loop in `train` is the whole of it: draw a batch, corrupt, predict, weigh the loss, step,
average weights, report, save. Everything random is a function of (seed, stream, epoch, sample_id),
rates are functions of samples_seen, so a checkpoint is tensors and a step number, and a run that
was killed ends in the same bytes as one that was not.

B batch, C latent channels, H latent height, W latent width, L text tokens, D text width
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Bool, Float
from torch import Tensor

from launch.checkpoint import FOLDER, Average, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, StoppedError
from launch.manifest import SCRATCH, Manifest
from launch.processes import accelerator as make_accelerator
from launch.processes import rank, rank_slice, set_threads
from launch.run import Run
from launch.training import is_due, learning_rate
from recap.artifacts import CAPTIONS, IMAGES, open_captions, open_images
from t2i.artifacts import (
    AUTOENCODER,
    LATENTS,
    MODEL,
    TEXT_ENCODER,
    TEXT_STATES,
    VERSIONS,
    WEIGHTS_NAME,
    open_latents,
    open_text_states,
)
from t2i.autoencoder import Autoencoder
from t2i.cache import locate
from t2i.conditioning import TextEncoder
from t2i.config import TrainConfig
from t2i.data import Batch, Draw, TrainingSet, join
from t2i.denoiser import build, num_parameters, whiten_text
from t2i.estimate import GIB, absent_inputs, describe, expected_plan, sizes_of, written_bytes
from t2i.ledger import TENSOR_INTERVAL, Ledger, hash_tensors, row_of
from t2i.objective import Corrupted, corrupt, sample_loss, scheduler
from t2i.pipeline import CaptionmixPipeline

ADAM_BETAS = (0.9, 0.99)
"""A second moment that forgets within 100 steps: short runs have only some hundreds."""

NUM_STATES = 65_536
"""Token states whose mean and covariance the denoiser starts from."""

LEDGER = "ledger.parquet"
LEDGER_LINES = f"{SCRATCH}/ledger.jsonl"


def train(cfg: TrainConfig, run: Run) -> None:
    """Train a denoiser and save it as a pipeline folder with snapshots and ledger."""
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
    snapshots = snapshot_steps(num_steps, cfg.snapshots)
    denoiser = build(
        cfg.size,
        latent_channels=data.latents.mean.shape[1],
        latent_side=data.latents.mean.shape[2],
        text_width=data.text_states.states.shape[1],
        seed=cfg.seed,
    )
    sizes = sizes_of(data, autoencoder, text_encoder)
    plan |= {
        "pictures": len(data),
        "left out": sum(data.missing.values()),
        "epochs": f"{num_steps * cfg.batch_size / len(data):.2f}",
        "parameters": num_parameters(denoiser),
    }
    if run.is_dry:
        plan |= describe(cfg, sizes)
    written = written_bytes(num_parameters(denoiser), sizes=sizes, snapshots=cfg.snapshots)
    if not run.start(plan, gib=sum(written.values()) / GIB):
        return

    set_threads(cfg.threads)
    whiten_text(denoiser, some_states(data.text_states.states))
    accelerator = make_accelerator()
    # Channels last is quicker on CPUs and GPUs; the weights that are saved do not show it.
    denoiser.to(accelerator.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), lr=cfg.lr, betas=ADAM_BETAS, weight_decay=cfg.weight_decay
    )
    average = Average(denoiser, cfg.ema_decay)
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=denoiser, optimizer=optimizer, average=average)
        start = found.step
    ledger = Ledger(run.out / LEDGER_LINES, resume_step=start, is_main=run.is_main)
    # Only these two: a loader given to accelerate would be sharded a second time.
    model, optimizer = accelerator.prepare(denoiser, optimizer)

    here = rank_slice(cfg.batch_size)
    with run.progress(num_steps * cfg.batch_size, label=f"train {cfg.arm}") as progress, ledger:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            samples_seen = step * cfg.batch_size
            with progress.wait():
                draw = data.draw(step)
                batch = data.gather(draw, here)
            corrupted, text_embeds, text_mask = prepare(batch, cfg, autoencoder, accelerator.device)

            prediction = model(
                corrupted.x_t,
                corrupted.timestep,
                encoder_hidden_states=text_embeds,
                encoder_attention_mask=text_mask,
            ).sample
            loss = sample_loss(prediction, corrupted.target).mean()

            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            grad_norm = accelerator.clip_grad_norm_(model.parameters(), cfg.clip_norm)
            if not torch.isfinite(loss.detach() + grad_norm):
                raise not_finite(loss, step=step, ids=data.sample_ids_of(draw, here))
            lr = learning_rate(
                step,
                num_steps=num_steps,
                peak=cfg.lr,
                warmup_steps=cfg.warmup_samples / cfg.batch_size,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            average.update(denoiser)

            tensors = tensor_hash(data, draw, cfg, autoencoder) if run.is_main else None
            ledger.add(row_of(draw, kinds=data.kinds, seed=cfg.seed, tensor_hash=tensors))
            fields: dict[str, float] = {}
            if is_due(step, cfg.log_samples, batch_size=cfg.batch_size) or step == num_steps:
                fields = {"loss": loss.item(), "grad": float(grad_norm), "lr": lr}
                run.log("step", step=step, samples_seen=samples_seen, **fields)
            progress.advance(cfg.batch_size, **fields)
            if step in snapshots and run.is_main:
                save_snapshot(run.out / "snapshots" / str(samples_seen), denoiser, average)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if is_saved and step < num_steps:
                state = training_tensors(model=model, optimizer=optimizer, average=average)
                ledger.sync()
                if run.is_main:
                    checkpoints.save(step, state, {"samples_seen": samples_seen})

    if run.is_main:
        ledger.write_table(run.out / LEDGER)
        average.copy_to(denoiser)
        save_model(run.out, denoiser, autoencoder, text_encoder, cfg)
        run.finish(
            artifact=MODEL,
            version=VERSIONS[MODEL],
            counts={
                "samples_seen": num_steps * cfg.batch_size,
                "rows_in": len(data) + sum(data.missing.values()),
                "rows_out": len(data),
            },
            rejected=data.missing,
            parts=model_files(run.out),
        )
    accelerator.wait_for_everyone()
    accelerator.end_training()


def open_inputs(cfg: TrainConfig, run: Run) -> tuple[TrainingSet, Autoencoder, TextEncoder]:
    """Open and join everything that is read, and refuse what does not fit together."""
    images = run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    cached = run.input("latents", cfg.latents, artifact=LATENTS)
    states = run.input("text_states", cfg.text_states, artifact=TEXT_STATES)
    for manifest in (cached, states):
        was = next(i.digest for i in manifest.inputs if i.role == "images")
        if was != images.digest:
            raise ArtifactError(
                f"{manifest.folder}: was encoded from images {was[:12]}, but images={cfg.images} "
                f"is {images.digest[:12]}. Encode these pictures, or name the ones encoded."
            )
    rank_slice(cfg.batch_size)  # refused before anything is written
    data = join(
        images=open_images(cfg.images),
        captions=[open_captions(folder) for folder in cfg.captions],
        latents=open_latents(cfg.latents),
        text_states=open_text_states(cfg.text_states),
        caption_mix=cfg.caption_mix,
        required_kinds=cfg.required_kinds,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        text_dropout=cfg.text_dropout,
    )
    autoencoder = Autoencoder.load(_maker_of(cached, "autoencoder", AUTOENCODER))
    text_encoder = TextEncoder.load(
        _maker_of(states, "text_encoder", TEXT_ENCODER),
        max_tokens=int(states.config["max_tokens"]),
    )
    return data, autoencoder, text_encoder


def _maker_of(cache: Manifest, role: str, artifact: str) -> str:
    """Find the component that a cache was made with, and prove that it is the same."""
    noted = next(i for i in cache.inputs if i.role == role)
    found = locate(noted.path, artifact=artifact)
    if found.digest != noted.digest:
        raise ArtifactError(
            f"{noted.path}: is {found.digest[:12]}, but {cache.folder} was made with "
            f"{noted.digest[:12]}. Put that {artifact} back, or encode again."
        )
    return found.source


def some_states(states: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "M D"]:
    """Give evenly spaced token states, enough for a covariance."""
    return states[:: max(1, len(states) // NUM_STATES)].astype(np.float32)


def snapshot_steps(num_steps: int, num_snapshots: int) -> set[int]:
    """Give the evenly spaced steps whose averages are kept; the last is the model itself."""
    return {round(num_steps * i / num_snapshots) for i in range(1, num_snapshots)} - {0, num_steps}


def prepare(
    batch: Batch, cfg: TrainConfig, autoencoder: Autoencoder, device: torch.device
) -> tuple[Corrupted, Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Scale and corrupt the latents; bring everything to the device."""
    corrupted = corrupt(
        cfg.objective,
        autoencoder.scale(torch.from_numpy(batch.unscaled_latents)),
        noise=torch.from_numpy(batch.noise),
        uniform=torch.from_numpy(batch.uniform),
    )
    return (
        Corrupted(*(tensor.to(device) for tensor in corrupted)),
        torch.from_numpy(batch.text_embeds).to(device, torch.float32),
        torch.from_numpy(batch.text_mask).to(device),
    )


def tensor_hash(
    data: TrainingSet, draw: Draw, cfg: TrainConfig, autoencoder: Autoencoder
) -> str | None:
    """Hash noise and corrupted latents of the global batch, in every fiftieth step and the first.

    Gathered anew for the whole batch, so that the hash does not depend on the number of processes.
    """
    if draw.step % TENSOR_INTERVAL and draw.step != 1:
        return None
    batch = data.gather(draw)
    corrupted, _, _ = prepare(batch, cfg, autoencoder, torch.device("cpu"))
    return hash_tensors(batch.noise, corrupted.x_t.numpy(), corrupted.timestep.numpy())


def not_finite(loss: Tensor, *, step: int, ids: list[str]) -> StoppedError:
    """Give the error of a loss that is not a number, raised before the weights are touched."""
    return StoppedError(
        f"loss is {loss.item()} at step {step} on rank {rank()}; the weights were not changed. "
        "Look at the latents and captions of these pictures, or lower lr: " + ", ".join(ids)
    )


def save_snapshot(folder: Path, denoiser: UNet2DConditionModel, average: Average) -> None:
    """Write averaged weights in the layout of the model's own denoiser folder."""
    from safetensors.torch import save_file

    from launch.manifest import atomic_path

    tensors = {name: _plain(tensor) for name, tensor in average.state_dict().items()}
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def _plain(tensor: Tensor) -> Tensor:
    """Lay a tensor out as a file holds it, whatever training preferred."""
    return tensor.detach().cpu().contiguous()


def save_model(
    out: Path,
    denoiser: UNet2DConditionModel,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    cfg: TrainConfig,
) -> None:
    """Save the pipeline folder; the component folders load on their own as well."""
    tokenizer = text_encoder.tokenizer
    # Prompts are cut where the captions trained on were cut.
    tokenizer.model_max_length = text_encoder.max_tokens
    pipeline = CaptionmixPipeline(
        denoiser=denoiser.to("cpu", memory_format=torch.contiguous_format),
        vae=autoencoder.vae,
        text_encoder=text_encoder.model,
        tokenizer=tokenizer,
        scheduler=scheduler(cfg.objective),
    )
    pipeline.save_pretrained(out)


def model_files(out: Path) -> list[Path]:
    """Name the payload of a model folder."""
    folders = ("denoiser", "vae", "text_encoder", "tokenizer", "scheduler", "snapshots")
    files = [path for folder in folders for path in (out / folder).rglob("*") if path.is_file()]
    return sorted([*files, out / "model_index.json", out / LEDGER])
