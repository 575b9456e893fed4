"""Validation while training: what is measured, that nothing is touched, and that kills are nothing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import DistributedType
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from launch import keyed
from launch.config import build
from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import open_images
from t2i import validation
from t2i.artifacts import (
    PROMPTS,
    Prompt,
    open_prompts,
    prompt_id,
    write_prompts,
)
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder
from t2i.config import PromptsConfig, TrainConfig
from t2i.denoiser import build as build_denoiser
from t2i.objective import corrupt, sample_loss
from t2i.painter import Painter, noise_of
from t2i.pipeline import solve
from t2i.train import validation_steps
from t2i.validation import HeldOut, Validation, path_draws, summarize

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, payload, picture

STEPS = {"samples": 24, "snapshots": 1, "validation_samples": 8}
"""Three steps, validated after each."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def make_prompts(out: Path, pair_ids: list[str]) -> Path:
    """A prompts artifact of some pictures of the chain."""
    cfg = PromptsConfig(images=Path("i"), captions=[], styles=["human"])
    run = Run(out=out, verb="t2i prompts", config=cfg)
    assert run.start({})
    rows = []
    for number, pair_id in enumerate(pair_ids):
        _, colour, place = picture(number)
        text = f"a {colour} box at the {place}"
        rows.append(
            Prompt(
                prompt_id(style="human", pair_id=pair_id, prompt=text), text, "human", pair_id, None
            )
        )
    write_prompts(out / "prompts.parquet", rows)
    run.finish(artifact=PROMPTS, counts={"prompts": len(rows)}, parts=["prompts.parquet"])
    run.close()
    return out


@pytest.fixture(scope="module")
def prompts(made: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = open_images(made.images)
    held_out = [images.sample_ids[row] for row in images.rows("test")]
    return make_prompts(tmp_path_factory.mktemp("prompts") / "prompts", held_out)


@pytest.fixture(scope="module")
def model(made: Chain, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.train(tmp_path_factory.mktemp("models") / "dsc", prompts=str(prompts), **STEPS)


def curve(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "validation.json").read_text())
    return rows


def test_the_curve_is_the_loss_of_the_saved_weights(
    made: Chain, prompts: Path, model: Path
) -> None:
    images, table = open_images(made.images), open_prompts(prompts)
    autoencoder = Autoencoder.load(made.autoencoder)
    encoder = TextEncoder.load(made.text_encoder, max_tokens=32)
    denoiser = UNet2DConditionModel.from_pretrained(model / "denoiser").eval()
    losses = []
    for number, (pair_id, text) in enumerate(table.texts("human").items()):
        ids = keyed.words([pair_id])
        latents = autoencoder.scale(
            autoencoder.encode(images.pixels([images.row_of(pair_id)], size=16)).mean
        )
        offset = keyed.uniform(0, "validation.timestep", epoch=0, ids=ids)
        noise = keyed.normal(
            0, "validation.noise", epoch=0, ids=ids, shape=tuple(latents.shape[1:])
        )
        corrupted = corrupt(
            "flow",
            latents,
            noise=torch.from_numpy(noise),
            uniform=torch.from_numpy((number % 8 + offset) / 8),
        )
        states = encoder.encode([text])
        with torch.no_grad():
            prediction = denoiser(
                corrupted.x_t,
                corrupted.timestep,
                encoder_hidden_states=states.text_embeds,
                encoder_attention_mask=states.text_mask,
            ).sample
        losses.append(sample_loss(prediction, corrupted.target).item())
    strata = [np.mean(losses[stratum::8]) for stratum in range(8)]
    assert [row["samples_seen"] for row in curve(model)] == [8, 16, 24]
    last = curve(model)[-1]
    assert last["strata"] == pytest.approx(strata, rel=1e-4)
    assert last["loss"] == pytest.approx(np.mean(strata), rel=1e-4)


def test_the_grid_shows_what_the_saved_model_samples_from_the_same_noise(
    made: Chain, prompts: Path, model: Path
) -> None:
    images, table = open_images(made.images), open_prompts(prompts)
    texts = table.texts("human")
    painter = Painter(model, None)
    encoder = TextEncoder.load(made.text_encoder, max_tokens=32)
    pair_ids = list(texts)[:8]
    with torch.no_grad():
        latents = solve(
            painter.denoiser,
            painter.scheduler,
            torch.from_numpy(noise_of(pair_ids, [0] * 8, shape=painter.latent_shape)),
            text=encoder.encode([texts[pair_id] for pair_id in pair_ids]),
            empty_text=encoder.encode([""]),
            num_steps=12,
            guidance_scale=3.0,
        )
    autoencoder = Autoencoder.load(made.autoencoder)
    real = autoencoder.reconstruct(images.pixels([images.row_of(p) for p in pair_ids], size=16))
    expected = np.concatenate(
        [np.concatenate(real, axis=1), np.concatenate(autoencoder.decode(latents), axis=1)]
    )
    found = np.asarray(Image.open(io.BytesIO((model / "grids" / "24.png").read_bytes())))
    assert found.shape == (32, 128, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 2
    assert sorted(path.name for path in (model / "grids").iterdir()) == [
        "16.png",
        "24.png",
        "8.png",
    ]


def test_curve_and_grids_are_payload_and_the_prompts_an_input(model: Path) -> None:
    assert {"validation.json", "grids/8.png", "grids/24.png"} <= payload(model).keys()
    assert "prompts" in {source.role for source in read_manifest(model).inputs}
    lines = map(json.loads, (model / "run.log.jsonl").read_text().splitlines())
    logged = [line for line in lines if line["event"] == "validation"]
    rows = curve(model)
    assert [{key: line[key] for key in rows[0]} for line in logged] == rows
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert not (model / "scratch").exists()


def test_validating_changes_nothing_that_is_trained(
    made: Chain, prompts: Path, model: Path, tmp_path: Path
) -> None:
    without = made.train(tmp_path / "without", **STEPS)
    ours, theirs = payload(model), payload(without)
    for name in ("validation.json", "grids/8.png", "grids/16.png", "grids/24.png"):
        del ours[name]
    assert ours == theirs


def test_a_run_stopped_between_validations_resumes_to_equal_bytes(
    made: Chain, prompts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"prompts": str(prompts), "checkpoint_samples": 8, **STEPS}
    real, validated = Validation.measure, []

    def stop_after_the_second(self: Validation, *args: Any, **kwargs: Any) -> Any:
        found = real(self, *args, **kwargs)
        validated.append(kwargs["samples_seen"])
        if len(validated) == 2:  # written down, but no checkpoint of this step
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Validation, "measure", stop_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        made.train(tmp_path / "out", **settings)
    assert payload(made.train(tmp_path / "out", **settings)) == payload(model)
    assert validated == [8, 16, 16, 24]


def test_a_validation_that_vanished_is_not_passed_over(
    tmp_path: Path,
) -> None:
    begun = Validation.__new__(Validation)
    begun._out, begun.moments = tmp_path, [16]
    with pytest.raises(ArtifactError, match=r"16\.json: no such file, but training has passed 16"):
        begun.write()


class Shares:
    """An accelerator that keeps what a process would hand to the others."""

    device = torch.device("cpu")
    distributed_type = DistributedType.NO

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def reduce(self, share: torch.Tensor, *, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        self.kept.append(share)
        return share


def measure_once(
    made: Chain,
    prompts: Path,
    out: Path,
    accelerator: Shares,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Validate weights that no one trained on 40 pairs, which are two batches."""
    cfg = build(TrainConfig, made.train_tree(grid_pairs=1), where="")
    texts = list(open_prompts(prompts).texts("human").items()) * 4
    denoiser = build_denoiser("tiny", latent_channels=4, latent_side=4, text_width=16, seed=0)
    measuring = Validation(
        HeldOut(open_images(made.images), *map(list, zip(*texts, strict=True))),
        cfg,
        out=out,
        moments=[0],
        image_size=16,
        autoencoder=Autoencoder.load(made.autoencoder),
        text_encoder=TextEncoder.load(made.text_encoder, max_tokens=32),
        accelerator=accelerator,
    )
    measuring.measure(denoiser, weights or denoiser.state_dict(), samples_seen=0)


def test_the_shares_of_two_processes_are_to_the_bit_what_one_finds(
    made: Chain, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, together = Shares(), Shares()
    measure_once(made, prompts, tmp_path / "alone", alone)
    monkeypatch.setattr(validation, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(validation, "rank", lambda rank=rank: rank)
        measure_once(made, prompts, tmp_path / str(rank), together)
    assert all((share == 0).all(dim=1).any() for share in together.kept)  # each left out a batch
    assert torch.equal(together.kept[0] + together.kept[1], alone.kept[0])
    assert (tmp_path / "0" / "grids" / "0.png").read_bytes() == (
        tmp_path / "alone" / "grids" / "0.png"
    ).read_bytes()
    assert not (tmp_path / "1").exists()  # only the first process writes


def test_a_divided_denoiser_is_refused_for_other_weights_would_not_be_measured() -> None:
    with pytest.raises(InputError, match="FSDP was asked for"):
        validation.refuse_sharding("FSDP")


def test_a_loss_that_is_no_number_stops_and_names_the_pictures(
    made: Chain, prompts: Path, tmp_path: Path
) -> None:
    nothing = {"conv_in.bias": torch.full((64,), torch.nan)}
    with pytest.raises(StoppedError, match=r"validation at 0 samples is not finite.*[0-9a-f]{32}"):
        measure_once(made, prompts, tmp_path, Shares(), nothing)


@given(num=st.integers(9, 70), first=st.integers(0, 1 << 40))
def test_every_stratum_of_the_path_is_drawn_from_in_turn(num: int, first: int) -> None:
    pair_ids = [
        f"{(first + number) * 0x9E3779B97F4A7C15 % (1 << 128):032x}" for number in range(num)
    ]
    draws = path_draws(pair_ids)
    assert np.floor(draws * 8).astype(int).tolist() == [number % 8 for number in range(num)]
    assert path_draws(pair_ids[:9]).tolist() == draws[:9].tolist()


def test_the_standard_error_is_that_of_stratified_draws() -> None:
    rng = np.random.default_rng(0)
    by_stratum = np.arange(8) * 10.0  # strata far apart, which must not count as spread
    trials = [summarize(np.tile(by_stratum, 4) + rng.normal(size=32)) for _ in range(2000)]
    spread = np.std([trial["loss"] for trial in trials])
    assert np.sqrt(np.mean([trial["stderr"] ** 2 for trial in trials])) == pytest.approx(
        spread, rel=0.05
    )
    assert spread == pytest.approx(1 / np.sqrt(32), rel=0.05)


@pytest.mark.parametrize(
    ("samples", "every", "expected"),
    [(64, None, [2, 5, 8]), (64, 16, [2, 4, 6, 8]), (64, 24, [3, 6, 8]), (64, 1000, [8])],
)
def test_the_end_is_always_validated(samples: int, every: int | None, expected: list[int]) -> None:
    tree = {
        "images": "i", "latents": "l", "text_states": ["t"], "arm": "a", "caption_mix": {"alt": 1.0},
        "required_kinds": [], "samples": samples, "batch_size": 8, "validation_samples": every,
    }  # fmt: skip
    cfg = build(TrainConfig, tree, where="")
    assert validation_steps(cfg, num_steps=8, snapshots={2, 5}) == expected


def test_a_picture_that_is_trained_on_is_refused(made: Chain, tmp_path: Path) -> None:
    images = open_images(made.images)
    ids = [images.sample_ids[row] for row in (*images.rows("test")[:9], images.rows("train")[0])]
    wrong = make_prompts(tmp_path / "prompts", ids)
    with pytest.raises(InputError, match=f"picture of pair {ids[-1]} is of split train"):
        made.train(tmp_path / "out", prompts=str(wrong))
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_absent_is_refused(made: Chain, tmp_path: Path) -> None:
    wrong = make_prompts(tmp_path / "prompts", ["0" * 32] * 10)
    with pytest.raises(InputError, match="is no picture of"):
        made.train(tmp_path / "out", prompts=str(wrong))


def test_pairs_too_few_for_a_standard_error_are_refused(
    made: Chain, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"8 pairs to validate on .* expected more than 8"):
        made.train(tmp_path / "out", prompts=str(prompts), validation_pairs=8)


def test_a_style_that_the_prompts_lack_is_refused(
    made: Chain, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has prompts of style human, got 'dsc'"):
        made.train(tmp_path / "out", prompts=str(prompts), validation_style="dsc")


def test_a_larger_grid_than_there_are_pairs_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grid_pairs must lie between 0 and validation_pairs=16"):
        made.train(tmp_path / "out", validation_pairs=16, grid_pairs=17)


def test_an_unknown_tracker_is_refused_before_anything_is_written(
    made: Chain, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="trackers: 'nobody' is unknown"):
        made.train(tmp_path / "out", trackers=["nobody"])
    assert not (tmp_path / "out").exists()
