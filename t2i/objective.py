"""What the denoiser is asked to predict: path from data to noise, target, loss weight, rate.

Convention: t = 0 is data, t = 1 is noise. Every objective turns a uniform draw into a point on its
path, so that the draw (and with it the ledger) is the same whatever the objective. `scheduler`
gives the diffusers scheduler that samples what each objective learns.

B batch, C latent channels, H latent height, W latent width
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

Objective: TypeAlias = Literal["flow", "noise", "velocity"]

NUM_TIMESTEPS = 1000
"""Steps of the diffusion schedule, and what a flow's t is multiplied by for the denoiser."""

BETA_START, BETA_END = 0.00085, 0.012
"""The schedule of latent diffusion (Rombach et al. 2022, arXiv:2112.10752): betas whose square
roots rise evenly."""


class FlowSample(NamedTuple):
    """One point on the straight path from data to noise."""

    x_t: Float[Tensor, "B C H W"]
    velocity: Float[Tensor, "B C H W"]


class Corrupted(NamedTuple):
    """What the denoiser sees and what it should answer."""

    x_t: Float[Tensor, "B C H W"]
    timestep: Float[Tensor, " B"]
    target: Float[Tensor, "B C H W"]


def corrupt(
    objective: Objective,
    latents: Float[Tensor, "B C H W"],
    *,
    noise: Float[Tensor, "B C H W"],
    uniform: Float[Tensor, " B"],
) -> Corrupted:
    """Give the denoiser's input, its timestep in [0, 1000] and its target.

    Args:
        objective: Which path and which target.
        latents: Scaled latents, about unit variance per channel.
        noise: Standard normal.
        uniform: Keyed draws in [0, 1), float64; they choose the point on the path.
    """
    match objective:
        case "flow":
            t = path_position(uniform).to(latents.dtype)
            x_t, velocity = interpolate(latents, noise=noise, t=t)
            return Corrupted(x_t, t * NUM_TIMESTEPS, velocity)
        case "noise" | "velocity":
            timestep = (uniform * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)
            alpha_B111, sigma_B111 = signal_and_noise(timestep, latents)
            x_t = alpha_B111 * latents + sigma_B111 * noise
            # Salimans and Ho 2022, arXiv:2202.00512, section 4: v = alpha * noise - sigma * data.
            target = noise if objective == "noise" else alpha_B111 * noise - sigma_B111 * latents
            return Corrupted(x_t, timestep.to(latents.dtype), target)
        case _:
            raise ValueError(f"objective must be flow, noise or velocity, got {objective!r}")


def path_position(uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Turn uniform draws into logit-normal path positions in (0, 1).

    Both ends of the path are easy (the mean of the data, the data itself); most draws fall between.

    Source: Esser et al. 2024, arXiv:2403.03206, Eq. 19 with m = 0 and s = 1.
    """
    # float64 and away from zero: ndtri(0) is minus infinity.
    inside = uniform.double().clamp(2.0**-33, 1 - 2.0**-33)
    return torch.sigmoid(torch.special.ndtri(inside))


def interpolate(
    latents: Float[Tensor, "B C H W"],
    *,
    noise: Float[Tensor, "B C H W"],
    t: Float[Tensor, " B"],
) -> FlowSample:
    """Move clean latents part of the way towards noise.

    Args:
        latents: Scaled latents, about unit variance per channel.
        noise: Standard normal.
        t: Path position in [0, 1]; 0 returns `latents`, 1 returns `noise`.

    Returns:
        The point on the path and its time derivative, the same for every `t`.

    Source: Liu et al. 2022, arXiv:2209.03003, Eq. 1, with time reversed.
    """
    t_B111 = t[:, None, None, None]
    x_t = (1 - t_B111) * latents + t_B111 * noise
    return FlowSample(x_t=x_t, velocity=noise - latents)


@lru_cache(maxsize=1)
def _alphas_cumprod() -> Tensor:
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def signal_and_noise(timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Give the factors of data and noise at whole timesteps, shaped for `like`."""
    kept = _alphas_cumprod().to(timestep.device)[timestep][:, None, None, None]
    return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)


def sample_loss(
    prediction: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]
) -> Float[Tensor, " B"]:
    """Give the mean squared error of each sample; every point of the path weighs the same."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1)


def scheduler(objective: Objective) -> Any:
    """Give the diffusers scheduler that samples what this objective learns."""
    if objective == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS)
    return DDIMScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type="epsilon" if objective == "noise" else "v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
