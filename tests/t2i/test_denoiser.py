from __future__ import annotations

from inspect import unwrap

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from launch.errors import ConfigError
from t2i.denoiser import SHAPES, build, num_parameters, whiten_text


def tiny(seed: int = 0) -> torch.nn.Module:
    return build("tiny", latent_channels=4, latent_side=4, text_width=16, seed=seed)


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = tiny().state_dict()
    torch.rand(5)
    second = tiny().state_dict()
    other = tiny(seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tiny()
    assert torch.equal(torch.rand(4), expected)


def test_time_gives_a_scale_and_a_bias_in_every_residual_block() -> None:
    blocks = [m for m in tiny().modules() if isinstance(m, ResnetBlock2D)]
    assert blocks
    assert all(block.time_embedding_norm == "scale_shift" for block in blocks)


@torch.no_grad()
def test_padding_of_the_text_changes_nothing() -> None:
    model = tiny().eval()
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 4, 4, generator=generator), torch.randn(2, 5, 16)
    t, mask = torch.tensor([100.0, 900.0]), torch.ones(2, 5, dtype=torch.bool)
    short = model(x, t, encoder_hidden_states=text, encoder_attention_mask=mask).sample
    padded = torch.nn.functional.pad(text, (0, 0, 0, 3), value=9.0)
    long_mask = torch.nn.functional.pad(mask, (0, 3))
    long = model(x, t, encoder_hidden_states=padded, encoder_attention_mask=long_mask).sample
    torch.testing.assert_close(short, long, rtol=0, atol=1e-5)
    other = model(x, t, encoder_hidden_states=-text, encoder_attention_mask=mask).sample
    assert not torch.equal(short, other)


def test_the_papers_size_has_three_stages() -> None:
    assert len(SHAPES["paper"].channels) == 3


def test_tiny_is_tiny() -> None:
    assert num_parameters(tiny()) < 20_000_000  # type: ignore[arg-type]


def test_latents_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a multiple of 4"):
        build("small", latent_channels=4, latent_side=6, text_width=16, seed=0)


def test_an_unknown_size_is_refused_with_the_valid_names() -> None:
    with pytest.raises(ConfigError, match="tiny, small, base, paper"):
        unwrap(build)("huge", latent_channels=4, latent_side=4, text_width=16, seed=0)


def test_text_reaches_attention_without_a_mean_and_with_unit_covariance() -> None:
    denoiser = tiny()
    states = np.random.default_rng(0).normal(3, 1, (4096, 16)).astype(np.float32)
    states[:, 1] = states[:, 0] + 0.5 * states[:, 1]
    whiten_text(denoiser, states)
    read = denoiser.encoder_hid_proj(torch.from_numpy(states)).detach().numpy()
    assert np.abs(read.mean(axis=0)).max() < 1e-2
    assert np.abs(np.cov(read.T) - np.eye(16)).max() < 0.05


def test_directions_without_variance_are_not_amplified() -> None:
    denoiser = tiny()
    states = np.zeros((256, 16), dtype=np.float32)
    states[:, 0] = np.linspace(-1, 1, 256)
    whiten_text(denoiser, states)
    assert torch.isfinite(denoiser.encoder_hid_proj.weight).all()
    assert (
        denoiser.encoder_hid_proj.weight.abs().max() < 1 / np.sqrt(1e-3 * states[:, 0].var()) * 1.01
    )
