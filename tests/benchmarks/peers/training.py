"""What `t2i train` is compared with: diffusers' recipe in three forms, and the bare network.

They train on the pictures and captions of the verb's own steps, each a denoiser of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from peers.shapes import (
    CONTEXT,
    IMAGE_SIZE,
    LATENT_CHANNELS,
    LATENT_SIDE,
    TEXT_WIDTH,
    World,
    seconds_of,
)
from torch.nn.functional import mse_loss
from torch.nn.utils.rnn import pad_sequence

from launch.checkpoint import Average
from launch.identities import unpacked
from launch.run import Run
from launch.training import learning_rate
from recap.artifacts import open_captions, open_images
from t2i.autoencoder import Autoencoder, from_pixels
from t2i.conditioning import TextEncoder
from t2i.config import TrainConfig
from t2i.data import Draw, TrainingSet
from t2i.denoiser import build, num_parameters, whiten_text
from t2i.inputs import open_inputs, some_states
from t2i.mix import ALT
from t2i.train import ADAM_BETAS, prepare

AS_IN_T2I_TRAIN: dict[str, Any] = {"betas": ADAM_BETAS, "weight_decay": 0.01}
DECAY = 0.995

Step = Callable[[int], None]
"""Does one step, by number from 0."""

GetBatch = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Gives latents and text states of a step."""


class Peers:
    """What the verb is compared with, each with a denoiser of its own.

    Args:
        world: Pictures, captions and encoders.
        cfg: Settings of the verb.
        num_steps: Steps of the verb.
        turn: Steps in one turn.
        unused: A folder that is never written.
    """

    def __init__(
        self, world: World, cfg: TrainConfig, *, num_steps: int, turn: int, unused: Path
    ) -> None:
        self._cfg, self._num_steps, self._turn = cfg, num_steps, turn
        self.data, autoencoder, encoder = open_inputs(
            cfg, Run(out=unused, verb="t2i train", config=cfg)
        )
        self.num_parameters = num_parameters(self._denoiser())
        self.draws = [self.data.draw(step) for step in range(1, num_steps + 1)]
        self.averaging: list[float] = []
        self.losses: list[float] = []
        remembered = self._remembered(autoencoder)
        self._steps: dict[str, Step] = {
            "plain": self._recipe(self._encoded(world, autoencoder, encoder)),
            "cached": self._recipe(remembered),
            "cached_tuned": self._recipe(remembered, is_tuned=True),
            "bare": self._bare(autoencoder, encoder),
        }
        self.times: dict[str, list[float]] = {name: [] for name in self._steps}

    def take_turns(self, number: int) -> None:
        """Do as many steps of each as the verb has done since the last turn."""
        if (number - 1) % self._turn:
            return
        is_warm = number > 1
        for name, step in self._steps.items():
            for index in range(number - self._turn if is_warm else 0, number):
                took = seconds_of(partial(step, index))
                if is_warm:
                    self.times[name].append(took)

    def _denoiser(self) -> UNet2DConditionModel:
        return build(
            self._cfg.size,
            latent_channels=LATENT_CHANNELS,
            latent_side=LATENT_SIDE,
            text_width=TEXT_WIDTH,
            seed=self._cfg.seed,
        )

    def _recipe(self, get_batch: GetBatch, *, is_tuned: bool = False) -> Step:
        """Return the loop of diffusers' example."""
        unet, cfg = self._denoiser(), self._cfg
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=cfg.lr, fused=is_tuned or None, **AS_IN_T2I_TRAIN
        )
        ema = EMAModel(unet.parameters(), decay=DECAY, foreach=is_tuned)
        scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

        def step(index: int) -> None:
            latents, text = get_batch(index)
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),))
            noisy = scheduler.add_noise(latents, noise, timesteps)
            prediction = unet(noisy, timesteps, text, return_dict=False)[0]
            loss = mse_loss(prediction.float(), noise.float(), reduction="mean")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), cfg.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(unet.parameters())
            loss.item()  # which the example logs in every step

        return step

    def _encoded(self, world: World, autoencoder: Autoencoder, encoder: TextEncoder) -> GetBatch:
        images = open_images(world.images)
        row_of = {sample_id: row for row, sample_id in enumerate(images.sample_ids)}
        sample_ids = unpacked(self.data.packed_ids)
        rows = np.array([row_of[sample_id] for sample_id in sample_ids])
        pictures = from_pixels(images.pixels(rows, size=IMAGE_SIZE)).contiguous()
        captions = open_captions(world.captions)
        texts = {
            kind: dict(zip(images.sample_ids, images.alt, strict=True))
            if kind == ALT
            else captions.texts(kind)
            for kind in self.data.kinds
        }

        def tokens(draw: Draw) -> torch.Tensor:
            chosen = zip(draw.rows, draw.kinds, strict=True)
            return encoder.tokenizer(
                [texts[self.data.kinds[k]][sample_ids[row]] for row, k in chosen],
                max_length=CONTEXT,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            ).input_ids

        batches = [(pictures[draw.rows], tokens(draw)) for draw in self.draws]
        vae = autoencoder.vae

        def get_batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            pixels, input_ids = batches[index]
            latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
            return latents, encoder.model(input_ids, return_dict=False)[0]

        return get_batch

    def _remembered(self, autoencoder: Autoencoder) -> GetBatch:
        data, factor = self.data, autoencoder.vae.config.scaling_factor
        (latents,), (rows_of,) = data.latents, data.latent_rows
        mean, std = (torch.from_numpy(array[rows_of]) for array in (latents.mean, latents.std))
        states = remembered_states(data)

        def get_batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
            draw = self.draws[index]
            rows = torch.from_numpy(draw.rows)
            latents = (mean[rows] + std[rows] * torch.randn_like(mean[rows])) * factor
            chosen = data.state_rows[draw.rows, draw.kinds].tolist()
            return latents, pad_sequence([states[row] for row in chosen], batch_first=True)

        return get_batch

    def _bare(self, autoencoder: Autoencoder, encoder: TextEncoder) -> Step:
        cfg, unet = self._cfg, self._denoiser()
        whiten_text(unet, some_states(self.data.text, encoder))
        unet.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=cfg.lr, fused=True, **AS_IN_T2I_TRAIN)
        average = Average(unet, DECAY)
        batches = [
            prepare(self.data.gather(draw), cfg, autoencoder, encoder, torch.device("cpu"))
            for draw in self.draws
        ]
        warmup_steps = cfg.warmup_samples / cfg.batch_size

        def step(index: int) -> None:
            corrupted, embeds, mask = batches[index]
            prediction = unet(
                corrupted.x_t,
                corrupted.timestep,
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                return_dict=False,
            )[0]
            loss = mse_loss(prediction, corrupted.target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), cfg.clip_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(
                index + 1, num_steps=self._num_steps, peak=cfg.lr, warmup_steps=warmup_steps
            )
            optimizer.step()
            self.averaging.append(seconds_of(lambda: average.update(unet)))
            self.losses.append(loss.item())

        return step


def remembered_states(data: TrainingSet) -> dict[int, torch.Tensor]:
    """Return the states of every text that is trained on, by its row."""
    lengths = {int(row): int(data.text.num_tokens[row]) for row in np.unique(data.state_rows)}
    return {
        row: torch.from_numpy(data.text.gather(np.array([row]), length=length)[0][0]).float()
        for row, length in lengths.items()
    }
