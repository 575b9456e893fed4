"""First stage: pictures to latents and back; fitting a small one.

The only place that knows pixel range, scale and shift of latents, and clamping. `Autoencoder` wraps
any diffusers AutoencoderKL. Our own fit folds the mean and spread of every latent channel into the
1x1 convolutions around the latents, so that unscaled latents already have zero mean and unit
variance per channel, and writes `scaling_factor` 1 and `shift_factor` 0: the folder is an ordinary
AutoencoderKL to anyone.

B batch, H picture height, W picture width, C latent channels, h latent height, w latent width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from launch import keyed
from launch.checkpoint import FOLDER, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, ConfigError, InputError
from launch.finite import FiniteGuard, is_fused, not_finite
from launch.manifest import atomic_path, write_json
from launch.processes import device, noted_device, sent, set_threads
from launch.run import Run
from launch.training import EpochOrder, initial_weights, is_due, learning_rate
from recap.artifacts import IMAGES, Images, open_images
from t2i.artifacts import AUTOENCODER, VERSIONS, WEIGHTS_NAME
from t2i.config import AutoencoderConfig

QUALITY_PICTURES = 512
"""Test pictures that the quality is measured on."""

STATISTICS_PICTURES = 2048
"""Training pictures that the spread of the latents is measured on."""

INITIAL_LOG_VARIANCE = -6.0
"""Of the latents of an untrained autoencoder: a standard deviation of 0.05."""

EXAMPLES = 16
"""Pictures shown in examples.png."""

CACHE_BYTES = 1 << 30
"""Decoded training pictures are kept in memory up to this size."""


CPU = torch.device("cpu")


class Posterior(NamedTuple):
    """Mean and standard deviation of unscaled latents."""

    mean: Float[Tensor, "B C h w"]
    std: Float[Tensor, "B C h w"]


@dataclass(frozen=True)
class Autoencoder:
    """A frozen AutoencoderKL with its scale and shift."""

    vae: AutoencoderKL

    @classmethod
    def load(cls, source: str | Path) -> Autoencoder:
        """Load by folder or hub id; safetensors only."""
        try:
            vae = AutoencoderKL.from_pretrained(
                str(source), use_safetensors=True, local_files_only=Path(source).is_dir()
            )
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{source}: not an AutoencoderKL that diffusers can load ({error}). "
                "Give an autoencoder artifact, a folder with config.json and "
                f"{WEIGHTS_NAME}, or a hub id."
            ) from error
        # Where it was loaded from must not reach the config.json of a model that contains it.
        vae.register_to_config(_name_or_path="")
        return cls(vae.eval().requires_grad_(requires_grad=False))

    def to(self, device: torch.device) -> Autoencoder:
        """Move to a device."""
        self.vae.to(device)
        return self

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        """Pixels a side that one latent position stands for."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def scale(self, unscaled_latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Turn what the encoder gives into latents of about unit variance."""
        factor, shift = self._factor_and_shift
        return (unscaled_latents - shift) * factor

    def unscale(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Undo `scale`."""
        factor, shift = self._factor_and_shift
        return latents / factor + shift

    @property
    def _factor_and_shift(self) -> tuple[float, float]:
        config = self.vae.config
        # Older autoencoders have no shift, or None.
        return float(config.scaling_factor), float(config.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> Posterior:
        """Give the posterior of pictures, unscaled."""
        found = self.vae.encode(from_pixels(pixels, device=self.vae.device)).latent_dist
        return Posterior(found.mean, found.std)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C h w"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Draw the pictures of scaled latents."""
        return to_pixels(self.vae.decode(self.unscale(latents)).sample)

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Give pictures as they come back from the mean of their posterior."""
        return self.decode(self.scale(self.encode(pixels).mean))


def from_pixels(
    pixels: UInt8[np.ndarray, "B H W 3"], *, device: torch.device = CPU
) -> Float[Tensor, "B 3 H W"]:
    """Turn bytes into channels-last floats in [-1, 1]; it is the bytes that go to a device."""
    planes = sent(torch.from_numpy(np.ascontiguousarray(pixels)), device).permute(0, 3, 1, 2)
    return planes.to(torch.float32).div(127.5).sub(1)


def to_pixels(picture: Float[Tensor, "B 3 H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Clamp floats in [-1, 1] to bytes."""
    scaled = picture.float().clamp(-1, 1).add(1).mul(127.5).round()
    array: UInt8[np.ndarray, "B H W 3"] = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array


def build(cfg: AutoencoderConfig) -> AutoencoderKL:
    """Make an untrained autoencoder with initial weights of its seed."""
    levels = len(cfg.channels)
    with initial_weights(cfg.seed, "autoencoder.init"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(cfg.channels),
            layers_per_block=cfg.layers_per_block,
            latent_channels=cfg.latent_channels,
            norm_num_groups=_norm_groups(cfg.channels),
            sample_size=cfg.image_size,
            scaling_factor=1.0,
            shift_factor=0.0,
        )
    with torch.no_grad():
        # Torch's initial weights make a posterior of unit variance around a small mean: noise that
        # drowns the picture for the first hundreds of steps. Begin with little noise everywhere.
        vae.quant_conv.weight[cfg.latent_channels :] = 0
        vae.quant_conv.bias[cfg.latent_channels :] = INITIAL_LOG_VARIANCE
    return vae


def _norm_groups(channels: Sequence[int]) -> int:
    """Give the most groups, up to 16, of at least two channels that divide every level."""
    fits = [n for n in range(1, 17) if all(c % n == 0 and c // n >= 2 for c in channels)]
    return max(fits, default=1)


def loss_terms(
    vae: AutoencoderKL,
    picture: Float[Tensor, "B 3 H W"],
    *,
    noise: Float[Tensor, "B C h w"],
) -> tuple[Tensor, Tensor]:
    """Give the reconstruction error (squared plus a little absolute) and the divergence per value.

    Source: Kingma and Welling 2014, arXiv:1312.6114, Eq. 10 for the divergence.
    """
    posterior = vae.encode(picture).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    error = functional.mse_loss(decoded, picture) + 0.1 * functional.l1_loss(decoded, picture)
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return error, divergence


@torch.no_grad()
def normalise_latents(
    vae: AutoencoderKL, mean: Float[Tensor, " C"], std: Float[Tensor, " C"]
) -> None:
    """Fold per-channel statistics into the weights: latents become (latents - mean) / std.

    The convolutions on both sides of the latents are 1x1, so pictures come back unchanged.
    """
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # of the log variance
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[None, :, None, None]


class _Pictures:
    """Pixels by row; decoded once and kept where they fit in memory."""

    def __init__(self, images: Images, *, size: int, num_rows: int) -> None:
        self._images, self._size = images, size
        fits = num_rows * size * size * 3 <= CACHE_BYTES
        self._kept: dict[int, UInt8[np.ndarray, "H W 3"]] | None = {} if fits else None

    def pixels(self, rows: Int64[np.ndarray, " B"]) -> UInt8[np.ndarray, "B H W 3"]:
        if self._kept is None:
            return self._images.pixels(rows, size=self._size)
        absent = [int(row) for row in rows if int(row) not in self._kept]
        if absent:
            decoded = self._images.pixels(np.array(absent), size=self._size)
            self._kept.update(zip(absent, decoded, strict=True))
        return np.stack([self._kept[int(row)] for row in rows])


def fit(cfg: AutoencoderConfig, run: Run) -> None:
    """Fit a small AutoencoderKL on the training pictures and measure it on the test pictures."""
    run.input("images", cfg.images, artifact=IMAGES)
    images = open_images(cfg.images)
    train, test = images.rows("train"), images.rows("test")[:QUALITY_PICTURES]
    factor = 2 ** (len(cfg.channels) - 1)
    if cfg.image_size % factor:
        raise ConfigError(
            f"image_size must be a multiple of {factor} for {len(cfg.channels)} levels, "
            f"got {cfg.image_size}"
        )
    if not len(train) or not len(test):
        raise InputError(
            f"{cfg.images}: has {len(train):,} training and {len(test):,} test pictures; fitting "
            "an autoencoder needs both. Ingest more pictures or change split.*."
        )
    vae = build(cfg)
    num_steps = max(1, round(cfg.samples / cfg.batch_size))
    plan: dict[str, object] = {
        "pictures": len(train),
        "steps": num_steps,
        "latents": f"{cfg.latent_channels}x{cfg.image_size // factor}x{cfg.image_size // factor}",
        "parameters": sum(p.numel() for p in vae.parameters()),
    }
    if not run.start(plan, gib=0.1, recipe=noted_device()):
        return
    set_threads(cfg.threads)

    # Channels last is a third quicker on CPUs; the weights that are saved do not show it.
    vae.to(where := device(), memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=is_fused(where)
    )
    guard = FiniteGuard(optimizer, where)
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=vae, optimizer=optimizer)
        start = found.step

    pictures = _Pictures(images, size=cfg.image_size, num_rows=min(len(train), cfg.samples))
    ids = keyed.words([images.sample_ids[row] for row in train])
    order = EpochOrder(cfg.seed, "autoencoder.order", ids)
    side = cfg.image_size // factor
    shape = (cfg.latent_channels, side, side)
    with run.progress(num_steps * cfg.batch_size, label="autoencoder") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            with progress.wait():
                rows, epochs = order.batch(step, batch_size=cfg.batch_size)
                picture = from_pixels(pictures.pixels(train[rows]), device=where)
                noise = keyed.normal(
                    cfg.seed, "autoencoder.latent", epoch=epochs, ids=ids[rows], shape=shape
                )
            error, divergence = loss_terms(vae, picture, noise=sent(torch.from_numpy(noise), where))
            loss = error + cfg.kl_weight * divergence
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            names = [images.sample_ids[row] for row in train[rows]]
            stop = partial(not_finite, run.out, step, loss, norm, lr=cfg.lr, pictures=names)
            guard.check(loss, norm, error=stop)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    num_steps=num_steps,
                    peak=cfg.lr,
                    warmup_steps=20,
                )
            optimizer.step()
            progress.advance(cfg.batch_size, loss=loss.detach().item)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if (is_saved or checkpoints.is_late()) and step < num_steps:
                guard.settle()
                tensors = training_tensors(model=vae, optimizer=optimizer)
                checkpoints.save(step, tensors, {})
        guard.settle()

    shuffled = keyed.permutation(cfg.seed, "autoencoder.statistics", epoch=0, ids=ids)
    chosen = train[np.sort(shuffled[:STATISTICS_PICTURES])]
    mean, std = _channel_statistics(Autoencoder(vae.eval()), pictures, chosen)
    normalise_latents(vae, mean, std)
    # Plain layout: the file must not depend on how training arranged the weights.
    vae.to("cpu", memory_format=torch.contiguous_format).save_pretrained(run.out)
    fitted = Autoencoder.load(run.out).to(where)
    quality = _measure(fitted, images, test, cfg=cfg, out=run.out)
    write_json(run.out / "quality.json", quality)
    run.finish(
        artifact=AUTOENCODER,
        version=VERSIONS[AUTOENCODER],
        counts={"samples_seen": num_steps * cfg.batch_size, "pictures": len(train)},
        parts=["config.json", WEIGHTS_NAME, "quality.json", "examples.png"],
    )


def _channel_statistics(
    autoencoder: Autoencoder, pictures: _Pictures, rows: np.ndarray
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Give mean and standard deviation of every channel of drawn latents, noise included."""
    means, seconds = [], []
    for start in range(0, len(rows), 64):
        posterior = autoencoder.encode(pictures.pixels(rows[start : start + 64]))
        means.append(posterior.mean.double().mean(dim=(2, 3)))
        second = posterior.mean.double().square() + posterior.std.double().square()
        seconds.append(second.mean(dim=(2, 3)))
    mean, second_moment = torch.cat(means).mean(dim=0), torch.cat(seconds).mean(dim=0)
    return mean.float(), (second_moment - mean.square()).sqrt().float()


def _measure(
    autoencoder: Autoencoder,
    images: Images,
    rows: np.ndarray,
    *,
    cfg: AutoencoderConfig,
    out: Path,
) -> dict[str, float | int]:
    """Measure reconstructions of test pictures, and save some side by side."""
    psnr, posterior_std, latents = [], [], []
    for start in range(0, len(rows), 64):
        pixels = images.pixels(rows[start : start + 64], size=cfg.image_size)
        posterior = autoencoder.encode(pixels)
        decoded = autoencoder.decode(autoencoder.scale(posterior.mean))
        psnr.append(peak_signal_to_noise(decoded, pixels))
        posterior_std.append(posterior.std.mean().item())
        latents.append(autoencoder.scale(posterior.mean))
        if start == 0:
            shown = np.stack([pixels[:EXAMPLES], decoded[:EXAMPLES]])  # [2, n, H, W, 3]
            grid = shown.transpose(0, 2, 1, 3, 4).reshape(2 * cfg.image_size, -1, 3)
            with atomic_path(out / "examples.png") as temporary:
                Image.fromarray(grid).save(temporary, format="PNG")
    each = np.concatenate(psnr)
    return {
        "num_pictures": len(each),
        "psnr_db_mean": round(float(each.mean()), 4),
        "psnr_db_sem": round(float(each.std(ddof=1) / len(each) ** 0.5), 4) if len(each) > 1 else 0,
        "psnr_db_5_percent": round(float(np.quantile(each, 0.05)), 4),
        "posterior_std_mean": round(float(np.mean(posterior_std)), 4),
        "latent_std": round(float(torch.cat(latents).std()), 4),
    }


def peak_signal_to_noise(
    decoded: UInt8[np.ndarray, "B H W 3"], pixels: UInt8[np.ndarray, "B H W 3"]
) -> Float[np.ndarray, " B"]:
    """Give the PSNR of each picture in decibels; equal pictures count as one part in 255 off."""
    squared = (decoded.astype(np.float64) - pixels.astype(np.float64)) ** 2
    error = np.maximum(squared.mean(axis=(1, 2, 3)), 1 / 3)
    return 10 * np.log10(255.0**2 / error)
