"""The loss on held-out pictures, with prompts, timesteps and noise that never change.

It is the loss of training with the averaged weights, and a function of them alone: no arm, seed,
process or resume changes a draw, so that curves of different trainings are compared point by point.
Each validation is a file of its own in the scratch folder, written before any checkpoint of its
step; the last step assembles them.

N pairs, B batch, C latent channels, h latent height, w latent width
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Float32, Float64
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from launch import keyed
from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from launch.manifest import SCRATCH, atomic_path, write_json
from launch.processes import rank, world_size
from launch.run import Run
from launch.training import is_due
from recap.artifacts import Images, open_images
from t2i.artifacts import PROMPTS, VERSIONS, open_prompts
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, Texts
from t2i.config import TrainConfig
from t2i.grid import make_grid
from t2i.objective import Corrupted, corrupt, sample_loss, scheduler
from t2i.painter import fill

if TYPE_CHECKING:
    from accelerate import Accelerator

NUM_STRATA = 8
"""Equal parts of the path; every eighth pair has its timestep in the same one."""

BATCH_SIZE = 32
"""Pairs in a step; a constant, since sums depend on it. The last batch is filled up."""

SEED = 0
"""Seed of timesteps and noise, whatever the seed of the training."""

CURVE = "validation.json"
"""What a model's folder says of all validations."""

GRIDS = "grids"
"""Folder of the pictures drawn at each validation."""


class HeldOut(NamedTuple):
    """Pictures that are not trained on, and what asks for them."""

    images: Images
    pair_ids: list[str]
    prompts: list[str]


def open_held_out(cfg: TrainConfig, run: Run) -> HeldOut | None:
    """Open what is validated on, if anything is; refuse pictures that are trained on.

    Raises:
        ConfigError: The prompts have no such style.
        InputError: A picture is absent or of the training split, or there are too few.
    """
    if cfg.prompts is None:
        return None
    run.input("prompts", cfg.prompts, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    prompts, images = open_prompts(cfg.prompts), open_images(cfg.images)
    if cfg.validation_style not in prompts.styles:
        raise ConfigError(
            f"validation_style: {cfg.prompts} has prompts of style {', '.join(prompts.styles)}, "
            f"got {cfg.validation_style!r}"
        )
    chosen = list(prompts.texts(cfg.validation_style).items())[: cfg.validation_pairs]
    for pair_id, _ in chosen:
        try:
            split = images.split[images.row_of(pair_id)]
        except KeyError:
            raise InputError(
                f"{cfg.prompts}: pair {pair_id} is no picture of {cfg.images}; validation needs "
                "the pictures. Make the prompts of these images."
            ) from None
        if split == "train":
            raise InputError(
                f"{cfg.prompts}: the picture of pair {pair_id} is of split train, so it is trained "
                "on. Make prompts of split test or judge for validation."
            )
    if len(chosen) <= NUM_STRATA:
        raise InputError(
            f"{cfg.prompts}: {len(chosen)} pairs to validate on (validation_pairs="
            f"{cfg.validation_pairs}), expected more than {NUM_STRATA}, or the loss has no "
            "standard error. Make more prompts, or leave out prompts=."
        )
    return HeldOut(images, [pair_id for pair_id, _ in chosen], [text for _, text in chosen])


def validation_steps(cfg: TrainConfig, *, num_steps: int, snapshots: Collection[int]) -> list[int]:
    """Give the steps after which to validate; the last is always among them."""
    if cfg.validation_samples is None:
        return sorted({*snapshots, num_steps})
    steps = range(1, num_steps + 1)
    due = {s for s in steps if is_due(s, cfg.validation_samples, batch_size=cfg.batch_size)}
    return sorted({*due, num_steps})


def path_draws(pair_ids: Sequence[str]) -> Float64[np.ndarray, " N"]:
    """Give each pair a uniform draw, keyed within the stratum that is its turn."""
    offsets = keyed.uniform(SEED, "validation.timestep", epoch=0, ids=keyed.words(pair_ids))
    return (np.arange(len(pair_ids)) % NUM_STRATA + offsets) / NUM_STRATA


def summarize(losses: Float64[np.ndarray, " N"]) -> dict[str, Any]:
    """Give the mean over strata, its standard error over pictures, and the mean of each stratum.

    The spread is that within strata, pooled, since a stratum may hold a pair or two.

    Source: Cochran 1977, Sampling Techniques, chapter 5: the stratified mean and its variance.
    """
    strata = [losses[stratum::NUM_STRATA] for stratum in range(NUM_STRATA)]
    means = np.array([each.mean() for each in strata])
    squares = sum(((each - each.mean()) ** 2).sum() for each in strata)
    variance = squares / (len(losses) - NUM_STRATA)
    stderr = np.sqrt(variance * sum(1 / len(each) for each in strata)) / NUM_STRATA
    return {"loss": float(means.mean()), "stderr": float(stderr), "strata": means.tolist()}


class Validation:
    """Everything about the validations of one training but the weights.

    Args:
        held_out: Pictures and prompts.
        cfg: Settings of the training.
        out: Folder of the model.
        moments: `samples_seen` at each validation.
        image_size: Pixels a side.
        autoencoder: Encodes the pictures; it stays on the device, which draws the grids.
        text_encoder: Encodes the prompts.
        accelerator: Tells the device, and brings together what each process computed.

    Raises:
        InputError: The launcher divides the denoiser itself.
    """

    def __init__(
        self,
        held_out: HeldOut,
        cfg: TrainConfig,
        *,
        out: Path,
        moments: Sequence[int],
        image_size: int,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        accelerator: Accelerator,
    ) -> None:
        refuse_sharding(str(accelerator.distributed_type.value))
        self.moments = list(moments)
        self._pair_ids = held_out.pair_ids
        self._out = out
        self._accelerator = accelerator
        device = accelerator.device
        autoencoder.vae.to(device)
        home, stored = text_encoder.model.device, text_encoder.model.dtype
        text_encoder.to(device)
        # A tokenizer keeps how it was last asked to truncate, and this one is saved with the model.
        text_encoder = replace(text_encoder, tokenizer=copy.deepcopy(text_encoder.tokenizer))
        uniform = path_draws(held_out.pair_ids)

        def encode(places: Sequence[int]) -> Float32[Tensor, "B C h w"]:
            rows = [held_out.images.row_of(held_out.pair_ids[place]) for place in places]
            posterior = autoencoder.encode(held_out.images.pixels(rows, size=image_size))
            return autoencoder.scale(posterior.mean).cpu()

        def make_batch(places: Sequence[int]) -> tuple[Corrupted, Texts]:
            latents = encode(places)
            ids = keyed.words([held_out.pair_ids[place] for place in places])
            shape = tuple(latents.shape[1:])
            noise = keyed.normal(SEED, "validation.noise", epoch=0, ids=ids, shape=shape)
            corrupted = corrupt(
                cfg.objective,
                latents,
                noise=torch.from_numpy(noise),
                uniform=torch.from_numpy(uniform[list(places)]),
            )
            text = text_encoder.encode([held_out.prompts[place] for place in places])
            return corrupted, Texts(text.text_embeds.float().cpu(), text.text_mask.cpu())

        places = range(len(held_out.pair_ids))
        batches = [
            fill(places[start : start + BATCH_SIZE], BATCH_SIZE)
            for start in range(0, len(places), BATCH_SIZE)
        ]
        self._num_batches = len(batches)
        # Whole batches go round the processes: computed alike, they are equal to the bit.
        self._own = {
            number: make_batch(batches[number])
            for number in range(rank(), len(batches), world_size())
        }
        self._grid = None
        if cfg.grid_pairs and rank() == 0:
            shown = places[: cfg.grid_pairs]
            self._grid = make_grid(
                held_out.prompts[: cfg.grid_pairs],
                pair_ids=held_out.pair_ids[: cfg.grid_pairs],
                latents=encode(fill(shown, -(-len(shown) // 8) * 8))[: len(shown)],
                text_encoder=text_encoder,
                autoencoder=autoencoder,
                scheduler=scheduler(cfg.objective),
                device=device,
            )
        text_encoder.model.to(home, stored)  # it may be larger than the denoiser

    @torch.no_grad()
    def measure(
        self, denoiser: UNet2DConditionModel, weights: dict[str, Tensor], *, samples_seen: int
    ) -> dict[str, Any]:
        """Measure averaged weights, write down the loss and draw the grid.

        Every process must come here at the same step; `denoiser` is left as it was.

        Raises:
            StoppedError: A loss is no number; it names the pictures.
        """
        shares = with_weights(denoiser, weights, self._losses)
        losses = self._accelerator.reduce(shares, reduction="sum").flatten()[: len(self._pair_ids)]
        by_pair = losses.double().cpu().numpy()
        if not np.isfinite(by_pair).all():
            wrong = [self._pair_ids[place] for place in np.flatnonzero(~np.isfinite(by_pair))]
            raise StoppedError(
                f"the validation at {samples_seen:,} samples is not finite; the weights are lost. "
                "Lower lr. Pictures: " + ", ".join(wrong)
            )
        found = summarize(by_pair)
        if rank() == 0:
            write_json(self._path(samples_seen), {"samples_seen": samples_seen, **found})
            if self._grid is not None:
                grid = with_weights(denoiser, weights, self._grid.draw)
                with atomic_path(self._out / GRIDS / f"{samples_seen}.png") as temporary:
                    Image.fromarray(grid).save(temporary, format="PNG")
        return found

    def write(self) -> None:
        """Assemble the finished curve in the model's folder.

        Raises:
            ArtifactError: A validation is absent.
        """
        absent = [seen for seen in self.moments if not self._path(seen).is_file()]
        if absent:
            raise ArtifactError(
                f"{self._path(absent[0])}: no such file, but training has passed {absent[0]:,} "
                "samples; something removed it. Delete the run's folder and train again."
            )
        rows = [json.loads(self._path(seen).read_text()) for seen in self.moments]
        write_json(self._out / CURVE, rows)

    def _path(self, samples_seen: int) -> Path:
        return self._out / SCRATCH / "validation" / f"{samples_seen}.json"

    def _losses(self, denoiser: UNet2DConditionModel) -> Float[Tensor, "_ B"]:
        """Give the losses of this process's batches; those of others are zero."""
        device = self._accelerator.device
        losses = torch.zeros(self._num_batches, BATCH_SIZE, device=device)
        for number, (corrupted, text) in self._own.items():
            prediction = denoiser(
                corrupted.x_t.to(device),
                corrupted.timestep.to(device),
                encoder_hidden_states=text.text_embeds.to(device),
                encoder_attention_mask=text.text_mask.to(device),
            ).sample
            losses[number] = sample_loss(prediction, corrupted.target.to(device))
        return losses


def refuse_sharding(strategy: str) -> None:
    """Refuse strategies whose forward pass takes weights from elsewhere than the denoiser.

    Other weights would be put into it, and the trained ones be measured.
    """
    if strategy in {"FSDP", "DEEPSPEED", "MEGATRON_LM"}:
        raise InputError(
            f"prompts=: validation needs a whole denoiser in every process, and {strategy} was "
            "asked for. Leave out prompts=, or start with launch/accelerate/gpu_8.yaml."
        )


def with_weights(
    denoiser: UNet2DConditionModel,
    weights: dict[str, Tensor],
    work: Callable[[UNet2DConditionModel], Any],
) -> Any:
    """Give what `work` finds with other weights; neither a copy nor a swap is made."""
    named = {f"denoiser.{name}": tensor for name, tensor in weights.items()}
    return functional_call(_Lent(denoiser), named, (work,))


class _Lent(nn.Module):
    """Does some work with a denoiser as its forward pass, which is what `functional_call` calls."""

    def __init__(self, denoiser: UNet2DConditionModel) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, work: Callable[[UNet2DConditionModel], Any]) -> Any:
        return work(self.denoiser)
