from __future__ import annotations

from inspect import unwrap

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from t2i.objective import (
    BETA_END,
    BETA_START,
    NUM_TIMESTEPS,
    corrupt,
    interpolate,
    path_position,
    sample_loss,
    scheduler,
)


def pair(num: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, num, 4, 3, 3, generator=generator, dtype=torch.float64)
    return latents, noise


def test_the_path_starts_at_data_and_ends_at_noise() -> None:
    latents, noise = pair()
    assert torch.equal(interpolate(latents, noise=noise, t=torch.zeros(6).double()).x_t, latents)
    assert torch.equal(interpolate(latents, noise=noise, t=torch.ones(6).double()).x_t, noise)


def test_velocity_is_the_time_derivative() -> None:
    latents, noise = pair()
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    before, after = (interpolate(latents, noise=noise, t=t + d).x_t for d in (-1e-4, 1e-4))
    velocity = interpolate(latents, noise=noise, t=t).velocity
    torch.testing.assert_close((after - before) / 2e-4, velocity, rtol=0, atol=1e-9)


def test_path_positions_are_logit_normal_and_never_leave_the_open_interval() -> None:
    uniform = torch.linspace(0, 1 - 2**-53, 10_001, dtype=torch.float64)
    t = path_position(uniform)
    assert bool(((t > 0) & (t < 1)).all())
    assert bool((t.diff() >= 0).all())
    logits = torch.logit(t[1:-1])
    assert abs(logits.mean()) < 1e-3
    assert abs(logits.std() - 1) < 0.01


@pytest.mark.parametrize("objective", ["noise", "velocity"])
def test_corruption_agrees_with_diffusers(objective: str) -> None:
    latents, noise = pair()
    uniform = torch.tensor([0.0, 0.1, 0.5, 0.7501, 0.99, 1 - 2**-53], dtype=torch.float64)
    found = corrupt(objective, latents, noise=noise, uniform=uniform)  # type: ignore[arg-type]
    reference = DDPMScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
    )
    steps = torch.tensor([0, 100, 500, 750, 990, 999])
    assert found.timestep.tolist() == steps.tolist()
    # diffusers computes its schedule in float32.
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found.x_t, reference.add_noise(latents, noise, steps), **close)
    target = noise if objective == "noise" else reference.get_velocity(latents, noise, steps)
    torch.testing.assert_close(found.target, target, **close)


@pytest.mark.parametrize("objective", ["flow", "noise", "velocity"])
def test_the_scheduler_recovers_data_from_a_perfect_prediction(objective: str) -> None:
    latents, noise = (x.float() for x in pair(1))
    made = scheduler(objective)  # type: ignore[arg-type]
    made.set_timesteps(50)
    first = made.timesteps[0]
    if isinstance(made, FlowMatchEulerDiscreteScheduler):
        x, target = noise, noise - latents
        for timestep in made.timesteps:
            x = made.step(target, timestep, x, return_dict=False)[0]
        torch.testing.assert_close(x, latents, rtol=0, atol=1e-5)
    else:
        assert isinstance(made, DDIMScheduler)
        uniform = (first.double()[None] + 0.5) / NUM_TIMESTEPS
        found = corrupt(objective, latents, noise=noise, uniform=uniform)  # type: ignore[arg-type]
        assert found.timestep.tolist() == [first.item()]
        guess = made.step(found.target, first, found.x_t).pred_original_sample
        torch.testing.assert_close(guess, latents, rtol=0, atol=2e-3)


def test_a_flows_timestep_is_what_its_scheduler_tells_the_denoiser() -> None:
    latents, noise = (x.float() for x in pair(1))
    made = scheduler("flow")
    made.set_timesteps(sigmas=np.linspace(1, 0.25, 4))
    found = corrupt("flow", latents, noise=noise, uniform=torch.tensor([0.5]).double())
    assert found.timestep.tolist() == [500.0]
    torch.testing.assert_close(made.timesteps, 1000 * made.sigmas[:-1])


def test_an_unknown_objective_is_refused() -> None:
    latents, noise = pair(1)
    with pytest.raises(ValueError, match="flow, noise or velocity"):
        # Without the types that tests check: a caller's mistake must be refused without them too.
        unwrap(corrupt)("score", latents, noise=noise, uniform=torch.zeros(1))


def test_the_loss_of_a_sample_is_its_own_mean_square() -> None:
    latents, noise = pair()
    losses = sample_loss(latents, noise)
    assert losses.shape == (6,)
    assert losses[2].item() == pytest.approx((latents[2] - noise[2]).square().mean().item(), 1e-5)
