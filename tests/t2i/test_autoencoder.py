from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from launch.config import build as build_config
from launch.errors import ArtifactError, CaptionmixError
from t2i.autoencoder import (
    Autoencoder,
    build,
    fit,
    from_pixels,
    normalise_latents,
    peak_signal_to_noise,
    to_pixels,
)
from t2i.config import AutoencoderConfig

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, payload, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def some_pixels(num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)


def untrained() -> AutoencoderKL:
    return build(AutoencoderConfig(images=Path("i"), image_size=16, channels=[8, 8], samples=1))


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (to_pixels(from_pixels(pixels)) == pixels).all()
    assert from_pixels(pixels).min() == -1
    assert from_pixels(pixels).max() == 1


def test_scale_and_unscale_are_inverses_and_follow_diffusers() -> None:
    vae = untrained()
    vae.register_to_config(scaling_factor=0.18, shift_factor=0.1)
    autoencoder = Autoencoder(vae)
    latents = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(autoencoder.scale(latents), (latents - 0.1) * 0.18)
    torch.testing.assert_close(autoencoder.unscale(autoencoder.scale(latents)), latents)


def test_an_autoencoder_without_shift_is_scaled_only() -> None:
    vae = untrained()
    vae.register_to_config(scaling_factor=0.5, shift_factor=None)
    assert torch.equal(
        Autoencoder(vae).scale(torch.ones(1, 4, 2, 2)), torch.full((1, 4, 2, 2), 0.5)
    )


@torch.no_grad()
def test_folding_the_statistics_moves_latents_and_leaves_pictures_alone() -> None:
    vae = untrained().eval()
    picture = from_pixels(some_pixels())
    before = vae.encode(picture).latent_dist
    decoded = vae.decode(before.mean).sample
    mean, std = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([0.1, 2.0, 1.0, 3.0])
    normalise_latents(vae, mean, std)
    after = vae.encode(picture).latent_dist
    shape = (1, 4, 1, 1)
    expected = (before.mean - mean.view(shape)) / std.view(shape)
    torch.testing.assert_close(after.mean, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.std, before.std / std.view(shape), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vae.decode(after.mean).sample, decoded, rtol=1e-3, atol=1e-4)


def test_latents_of_a_fit_have_about_unit_variance_per_channel(made: Chain) -> None:
    from recap.artifacts import open_images

    autoencoder = Autoencoder.load(made.autoencoder)
    images = open_images(made.images)
    found = autoencoder.encode(images.pixels(images.rows("train"), size=16))
    drawn = found.mean.square() + found.std.square()
    assert drawn.mean(dim=(0, 2, 3)).tolist() == pytest.approx([1.0] * 4, rel=0.05)
    assert found.mean.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.0] * 4, abs=0.05)


def test_the_folder_is_an_ordinary_autoencoder_to_diffusers(made: Chain) -> None:
    vae = AutoencoderKL.from_pretrained(made.autoencoder, local_files_only=True)
    assert vae.config.scaling_factor == 1.0
    assert vae.config.shift_factor == 0.0
    pixels = some_pixels()
    plain = vae.decode(vae.encode(from_pixels(pixels)).latent_dist.mean).sample
    assert (to_pixels(plain) == Autoencoder.load(made.autoencoder).reconstruct(pixels)).all()


def test_the_quality_of_a_fit_is_stated(made: Chain) -> None:
    quality = json.loads((made.autoencoder / "quality.json").read_text())
    assert quality["num_pictures"] == 10
    assert quality["psnr_db_mean"] > 5
    assert (made.autoencoder / "examples.png").stat().st_size > 0


def test_psnr_of_a_known_error() -> None:
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 51, np.uint8)
    assert peak_signal_to_noise(black, grey)[0] == pytest.approx(20 * np.log10(5))


def test_a_fit_that_was_stopped_ends_in_the_same_bytes(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import t2i.autoencoder as module

    cfg = AutoencoderConfig(
        images=made.images,
        image_size=16,
        channels=[8, 8],
        samples=48,
        batch_size=8,
        checkpoint_samples=16,
        threads=1,
    )
    whole = run_verb("t2i autoencoder", fit, cfg, tmp_path / "whole")
    loss_terms, calls = module.loss_terms, []

    def stop_at_the_fourth(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss_terms(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "loss_terms", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_verb("t2i autoencoder", fit, cfg, tmp_path / "stopped")
    resumed = run_verb("t2i autoencoder", fit, cfg, tmp_path / "stopped")
    assert len(calls) == 4 + 4  # steps 1-4, then 3-6
    assert payload(whole) == payload(resumed)


def test_a_side_that_cannot_be_halved_is_refused_before_anything_is_written(
    made: Chain, tmp_path: Path
) -> None:
    tree = {"images": str(made.images), "image_size": 18, "samples": 8}
    cfg = build_config(AutoencoderConfig, tree, where="")
    with pytest.raises(CaptionmixError, match="multiple of 4"):
        run_verb("t2i autoencoder", fit, cfg, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_autoencoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an AutoencoderKL"):
        Autoencoder.load(tmp_path)
