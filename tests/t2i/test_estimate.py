from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from launch.config import load, recipe_of
from launch.errors import ArtifactError, ConfigError
from launch.run import Run
from t2i import estimate
from t2i.config import EncodeConfig, MachineConfig, TrainConfig
from t2i.denoiser import build, num_parameters
from t2i.estimate import (
    Pass,
    Sizes,
    absent_inputs,
    count_pass,
    days,
    describe,
    expected_sizes,
    fake_pass,
    kept_bytes,
    state_bytes,
    written_bytes,
)
from t2i.train import train

ROOT = Path(__file__).resolve().parents[2]
TINY = Sizes(
    pictures=100,
    latent_channels=4,
    latent_side=4,
    latent_bytes=4,
    text_width=16,
    max_tokens=8,
    num_texts=200,
    num_tokens=1000,
    state_bytes=2,
    text_encoder_parameters=1000,
    autoencoder_parameters=500,
)


def real_tiny() -> nn.Module:
    return build("tiny", latent_channels=4, latent_side=4, text_width=16, seed=0)


def config(*overrides: str) -> TrainConfig:
    return load(TrainConfig, ["t2i/paper.yaml"], list(overrides))


@pytest.fixture(scope="module")
def counted() -> tuple[int, Pass]:
    return fake_pass("tiny", TINY, precision="float32")


def test_a_fake_denoiser_has_the_parameters_of_a_real_one(counted: tuple[int, Pass]) -> None:
    assert counted[0] == num_parameters(real_tiny())


@pytest.fixture(scope="module")
def mixed() -> tuple[int, Pass]:
    return fake_pass("tiny", TINY, precision="bfloat16")


def test_the_flop_are_those_of_a_real_forward_pass(counted: tuple[int, Pass]) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        real_tiny()(
            torch.zeros(2, 4, 4, 4), torch.zeros(2), encoder_hidden_states=torch.zeros(2, 8, 16)
        )
    assert counted[1].flop == counter.get_total_flops() / 2


def test_fake_tensors_keep_the_bytes_that_real_ones_keep(
    counted: tuple[int, Pass], mixed: tuple[int, Pass]
) -> None:
    denoiser = real_tiny()
    assert counted[1] == count_pass(denoiser, num_tokens=8, precision="float32")
    assert mixed[1] == count_pass(denoiser, num_tokens=8, precision="bfloat16")
    assert not denoiser.is_gradient_checkpointing


def test_gradient_checkpointing_keeps_less(counted: tuple[int, Pass]) -> None:
    assert 0 < counted[1].checkpointed_bytes < counted[1].activation_bytes


def test_half_the_precision_keeps_less_but_norms_stay_whole(
    counted: tuple[int, Pass], mixed: tuple[int, Pass]
) -> None:
    assert mixed[1].flop == counted[1].flop
    assert 0.5 < mixed[1].activation_bytes / counted[1].activation_bytes < 1


def test_kept_bytes_are_those_counted_by_hand() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.zeros(7, 3)
    kept = kept_bytes(lambda: model(x), without=model.parameters(), blocks=[model[2]])
    # The input, and the rectified numbers, which both the rectifier and the next layer need.
    assert kept.total == 4 * (7 * 3 + 7 * 5)
    assert kept.by_block == [0]


def test_the_states_of_a_gpu_are_counted_by_parameter() -> None:
    one = state_bytes(10, precision="float32", is_parallel=False)
    assert sum(one.values()) == 10 * 4 * (1 + 1 + 2 + 1)
    more = state_bytes(10, precision="bfloat16", num_averages=2, is_parallel=True)
    assert sum(more.values()) == 10 * (4 * (1 + 1 + 2 + 2 + 1) + 2)


def test_what_a_run_writes_is_counted_by_parameter() -> None:
    cfg = config("size=tiny", "snapshots=4", "ema_decays=[0.9,0.99]")
    written = written_bytes(cfg, 10, sizes=TINY)
    assert sum(written.values()) == 40 * (3 * 5 + 3 + 2) + 4 * 1500


def test_days_are_flop_over_what_the_machine_does() -> None:
    machine = MachineConfig(name="x", num_gpus=2, gib=1, tflops=5, utilisation=0.5)
    assert days(5e12 * 86_400, machine) == pytest.approx(1)


def test_the_lines_of_memory_add_up(
    mixed: tuple[int, Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "fake_pass", lambda *_, **__: mixed)
    small = [f"machine.{name}" for name in ("num_gpus=8", "gib=1", "tflops=1")]
    cfg = config("size=tiny", "batch_size=64", *small)
    count, one = mixed
    lines = {name: str(text) for name, text in describe(cfg, TINY).items()}
    states = sum(state_bytes(count, precision="bfloat16", is_parallel=True).values())
    assert lines["memory of a GPU, states"].startswith(f"{states / 2**30:.2f} GiB = weights")
    for how, size in (("without", one.activation_bytes), ("with", one.checkpointed_bytes)):
        line = lines[f"memory of a GPU, {how} gradient checkpointing"]
        assert line.startswith(f"{(states + 8 * size) / 2**30:.2f} GiB = states + 8 pictures")
    assert lines["disk, text states"].startswith(f"{1000 * 16 * 2 / 2**30:.2f} GiB = 200 texts x 5")


def test_a_plan_without_a_machine_tells_no_days(
    counted: tuple[int, Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "fake_pass", lambda *_, **__: counted)
    lines = describe(config("size=tiny", "machine=null", "precision=float32"), TINY)
    assert "days" not in lines
    assert "float32;" in str(lines["memory of a GPU, with gradient checkpointing"])


def test_machine_and_expected_sizes_are_not_in_the_recipe() -> None:
    assert recipe_of(config()) == recipe_of(config("machine=null", "expected=null"))


def test_a_batch_that_the_machine_cannot_share_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"machine\.num_gpus=3"):
        config("machine.num_gpus=3")


def test_expected_components_have_the_parameters_of_the_public_ones() -> None:
    base = load(TrainConfig, ["t2i/base.yaml"], []).expected
    paper = config().expected
    assert paper is not None
    assert base is not None
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        for expected, feed_forward, heads in ((paper, 10240, 64), (base, 2816, 16)):
            t5 = T5EncoderModel(
                T5Config(
                    d_model=expected.text_width,
                    d_ff=feed_forward,
                    d_kv=64,
                    num_layers=24,
                    num_heads=heads,
                    feed_forward_proj="gated-gelu",
                )
            )
            assert t5.num_parameters() == expected.text_encoder_parameters
            assert vae.num_parameters() == expected.autoencoder_parameters
            assert expected_sizes(expected).latent_side == 256 // 8


def test_what_the_paper_states_is_in_its_configuration() -> None:
    cfg = config()
    assert cfg.samples == 500_000 * cfg.batch_size
    assert cfg.batch_size == 2048
    assert cfg.caption_mix == {"dsc": 0.95, "alt": 0.05}
    latents = load(EncodeConfig, ["t2i/paper_latents.yaml"], [])
    states = load(EncodeConfig, ["t2i/paper_text_states.yaml"], [])
    assert cfg.expected is not None
    assert latents.image_size == 8 * cfg.expected.latent_side == 256
    assert states.max_tokens == cfg.expected.max_tokens
    assert {latents.images, states.images} == {cfg.images}
    assert states.captions == cfg.captions


# Any use of a socket fails, whatever the machine that runs the tests can reach.
OFFLINE = """
import runpy, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a dry run reached for the network")
socket.socket.connect = socket.getaddrinfo = refuse
runpy.run_module("t2i", run_name="__main__", alter_sys=True)
"""


def test_a_dry_run_of_the_papers_configuration_needs_nothing_and_writes_nothing(
    tmp_path: Path,
) -> None:
    words = ["train", "--config", "configs/t2i/paper.yaml", "--out", "runs/paper/dsc", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for shown in (
        "steps: 500,000",
        "denoiser: 973,120,836 parameters",
        "text encoder: 4,762,310,656 parameters",
        "memory of a GPU, with gradient checkpointing:",
        "disk, latents: 762.9 GiB",
        "days: 3.1 =",
    ):
        assert f"  {shown}" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_run_whose_inputs_are_absent_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = config()
    assert absent_inputs(cfg) == [cfg.images, *cfg.captions, cfg.latents, *cfg.text_states]
    for settings, is_dry in ((cfg, False), (config("expected=null"), True)):
        run = Run(out=tmp_path / "out", verb="t2i train", config=settings, is_dry=is_dry)
        with pytest.raises(ArtifactError, match="no such folder"):
            train(settings, run)
    assert not list(tmp_path.iterdir())
