"""Ways of computing one training: in parts, ahead, by two processes, with two averages."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

import launch.checkpoint as checkpoint
import t2i.train as module
from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from launch.finite import FiniteGuard
from launch.manifest import read_manifest
from t2i.artifacts import WEIGHTS_NAME
from t2i.autoencoder import fit
from t2i.cache import encode
from t2i.config import AutoencoderConfig, EncodeConfig

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, ledger, losses, make_captions, make_images, payload, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


SETTINGS: dict[str, Any] = {"batch_size": 16, "samples": 64, "log_samples": 16, "snapshots": 1}


@pytest.fixture(scope="module")
def plain(made: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.train(tmp_path_factory.mktemp("ways") / "plain", **SETTINGS)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "denoiser" / WEIGHTS_NAME)


def test_a_batch_in_parts_is_the_same_training(made: Chain, plain: Path, tmp_path: Path) -> None:
    parts = made.train(tmp_path / "parts", microbatch=8, **SETTINGS)
    assert ledger(parts) == ledger(plain)
    np.testing.assert_allclose(losses(parts), losses(plain), rtol=1e-4)
    # Rounding alone differs; Adam divides by it where a gradient is nearly nothing.
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=0, atol=5e-4, msg=name)


def test_gathering_ahead_changes_no_bit(made: Chain, plain: Path, tmp_path: Path) -> None:
    ahead = made.train(tmp_path / "ahead", num_workers=2, **SETTINGS)
    assert payload(ahead) == payload(plain)


def test_two_processes_train_on_the_same_stream(
    made: Chain, plain: Path, two_processes: Callable[[list[str]], list[str]], tmp_path: Path
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(made.train_tree(**SETTINGS)))
    two = tmp_path / "two"
    verb = [str(Path(__file__).parent / "small.py"), "train"]
    two_processes([*verb, "--config", str(config), "--out", str(two)])
    assert ledger(two) == ledger(plain)
    np.testing.assert_allclose(losses(two), losses(plain), rtol=1e-4)
    assert read_manifest(two).recipe["num_processes"] == 2


@pytest.mark.parametrize("stop_at", [3, 6])
def test_a_run_stopped_between_the_parts_of_a_batch_ends_in_the_same_bytes(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    settings = {**SETTINGS, "microbatch": 8, "checkpoint_samples": 16}
    whole = made.train(tmp_path / "whole", **settings)
    real, seen = module.sample_loss, []

    def stop(*args: Any) -> Any:
        seen.append(1)
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "sample_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        made.train(tmp_path / "stopped", **settings)
    assert payload(made.train(tmp_path / "stopped", **settings)) == payload(whole)


def test_the_second_average_lies_beside_the_model(made: Chain, plain: Path, tmp_path: Path) -> None:
    both = made.train(tmp_path / "both", ema_decays=[0.995, 0.5], **SETTINGS)
    other = load_file(both / "averages" / "0.5" / WEIGHTS_NAME)
    assert weights(both).keys() == other.keys()
    for name, tensor in weights(plain).items():
        assert torch.equal(weights(both)[name], tensor)
    assert any(not torch.equal(weights(both)[name], other[name]) for name in other)
    assert f"averages/0.5/{WEIGHTS_NAME}" in payload(both)


def test_bfloat16_keeps_float32_weights(made: Chain, plain: Path, tmp_path: Path) -> None:
    low = made.train(tmp_path / "low", precision="bfloat16", **SETTINGS)
    assert {tensor.dtype for tensor in weights(low).values()} == {torch.float32}
    assert ledger(low) == ledger(plain)
    np.testing.assert_allclose(losses(low), losses(plain), rtol=0.05)
    assert losses(low) != losses(plain)


def test_computing_activations_again_changes_no_loss(
    made: Chain, plain: Path, tmp_path: Path
) -> None:
    again = made.train(tmp_path / "again", checkpoint_activations=True, **SETTINGS)
    np.testing.assert_allclose(losses(again), losses(plain), rtol=1e-5)


def test_parts_that_do_not_divide_the_batch_are_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="microbatch must divide the 16 pictures"):
        made.train(tmp_path / "out", **{**SETTINGS, "microbatch": 24})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decays", [[], [0.9, 0.9], [0.9, 0.99, 0.999], [1.0]])
def test_averages_are_one_or_two(made: Chain, tmp_path: Path, decays: list[float]) -> None:
    with pytest.raises(ConfigError, match="ema_decays must be one or two"):
        made.train(tmp_path / "out", ema_decays=decays)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPU kernels here")
def test_kernels_that_are_not_there_are_refused_with_the_way_to_get_them(
    made: Chain, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"xformers.*(captionmix\[gpu\]|CUDA GPU)"):
        made.train(tmp_path / "out", attention="xformers")


def test_a_kind_that_is_missing_may_be_stood_in_for_and_is_counted(
    made: Chain, tmp_path: Path
) -> None:
    template = "A grey picture with a {colour} box at the {place}, number {number}."
    few = make_captions(tmp_path / "few", kinds={"dsc": template}, without={"dsc": (0, 1, 2)})
    short = make_captions(
        tmp_path / "short", kinds={"ssc": "a {colour} box"}, without={"ssc": (0,)}
    )
    settings = {
        **SETTINGS,
        "captions": [str(few)],
        "required_kinds": [],
        "caption_mix": {"dsc": 1.0},
    }
    without = read_manifest(made.train(tmp_path / "left out", **settings))
    # Nobody stands in for the picture that is left out for want of another kind.
    lacks_both = {**settings, "captions": [str(few), str(short)], "required_kinds": ["ssc"]}
    one_less = read_manifest(made.train(tmp_path / "less", fallback={"dsc": "alt"}, **lacks_both))
    assert one_less.counts["alt_for_dsc"] == 2
    assert one_less.rejected == {"missing_ssc": 1}
    with_alt = read_manifest(made.train(tmp_path / "in", fallback={"dsc": "alt"}, **settings))
    assert without.rejected == {"missing_dsc": 3}
    assert with_alt.counts["alt_for_dsc"] == 3
    assert with_alt.counts["rows_out"] == without.counts["rows_out"] + 3


def test_a_fallback_that_cannot_be_used_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fallback: dsc: alt can never be used"):
        made.train(tmp_path / "out", fallback={"dsc": "alt"})


def test_captions_of_other_pictures_are_refused(made: Chain, tmp_path: Path) -> None:
    other = make_images(tmp_path / "images", num=64)
    captions = make_captions(tmp_path / "captions", kinds={"dsc": "A box."}, images=other)
    with pytest.raises(ArtifactError, match="captions: was made from images"):
        made.train(tmp_path / "out", captions=[str(captions)])
    assert not (tmp_path / "out").exists()


def test_a_latent_that_is_no_number_names_its_picture(made: Chain, tmp_path: Path) -> None:
    broken = tmp_path / "latents"
    shutil.copytree(made.latents, broken)
    mean = np.load(broken / "mean.npy", mmap_mode="r+")
    mean[:] = np.where(np.arange(len(mean))[:, None, None, None] == 3, np.nan, mean)
    mean.flush()
    bad = pq.read_table(broken / "index.parquet")["sample_id"][3].as_py()
    settings = {**SETTINGS, "latents": str(broken), "samples": 6400, "checkpoint_samples": 16}
    with pytest.raises(StoppedError, match=f"these pictures: {bad}; or lower lr"):
        made.train(tmp_path / "out", **settings)


def test_an_autoencoder_put_in_the_place_of_the_cached_one_is_refused(
    made: Chain, tmp_path: Path
) -> None:
    other = tmp_path / "autoencoder"
    shutil.copytree(made.autoencoder, other)
    latents = tmp_path / "latents"
    cfg = EncodeConfig(images=made.images, autoencoder=other, image_size=16, batch_size=8)
    run_verb("t2i encode", encode, cfg, latents)
    shutil.rmtree(other)
    cfg = AutoencoderConfig(
        images=made.images, image_size=16, channels=[8, 8, 8], samples=16, batch_size=16, seed=1
    )
    run_verb("t2i autoencoder", fit, cfg, other)
    with pytest.raises(ArtifactError, match="was made with"):
        made.train(tmp_path / "out", latents=str(latents))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_stops_at_the_checkpoint_and_costs_what_came_after_the_last(
    made: Chain, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, saved = checkpoint._write_tensors, []

    def full_at_the_second(*args: Any) -> None:
        saved.append(1)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    settings = {**SETTINGS, "checkpoint_samples": 16}
    monkeypatch.setattr(checkpoint, "_write_tensors", full_at_the_second)
    with pytest.raises(StoppedError, match=r"could not be written.*The one of step 1 is intact"):
        made.train(tmp_path / "out", **settings)
    assert payload(made.train(tmp_path / "out", **settings)) == payload(plain)


def test_a_checkpoint_cut_short_costs_the_steps_since_the_one_before(
    made: Chain, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, "checkpoint_samples": 16}
    real, seen = module.sample_loss, []

    def stop_at_the_fourth(*args: Any) -> Any:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "sample_loss", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        made.train(tmp_path / "out", **settings)
    newest = max((tmp_path / "out" / checkpoint.FOLDER).glob("step-*/tensors.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    assert payload(made.train(tmp_path / "out", **settings)) == payload(plain)


def test_processes_that_found_other_checkpoints_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerator = module.make_accelerator(cpu=True)
    monkeypatch.setattr(type(accelerator), "gather", lambda _, own: torch.cat([own, own + 5]))
    with pytest.raises(InputError, match=r"different steps \(3, 8\)"):
        module.refuse_apart(3, accelerator)


class TestGuard:
    """A step that is not finite, looked at one step later as on a GPU."""

    def start(self) -> tuple[torch.nn.Parameter, torch.optim.Optimizer, FiniteGuard]:
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        return weight, optimizer, FiniteGuard(optimizer, weight.device, is_delayed=True)

    def step(
        self,
        started: tuple[torch.nn.Parameter, torch.optim.Optimizer, FiniteGuard],
        value: float,
    ) -> None:
        weight, optimizer, guard = started
        loss = (weight * value).sum()
        optimizer.zero_grad()
        loss.backward()
        guard.check(loss, error=lambda: StoppedError(f"value {value}"))
        optimizer.step()

    def test_weights_and_moments_stay_as_before_the_bad_step(self) -> None:
        started = self.start()
        weight, optimizer, _ = started
        self.step(started, 1.0)
        before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values())]
        self.step(started, float("nan"))
        with pytest.raises(StoppedError, match="value nan"):
            self.step(started, 2.0)
        after = [weight.detach(), *optimizer.state[weight].values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    def test_nothing_is_saved_after_a_bad_step(self) -> None:
        started = self.start()
        self.step(started, float("inf"))
        with pytest.raises(StoppedError, match="value inf"):
            started[2].settle()

    def test_good_steps_pass(self) -> None:
        started = self.start()
        for _ in range(3):
            self.step(started, 1.0)
        started[2].settle()
        assert started[0].max() < 1
