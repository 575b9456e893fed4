"""What judges computes where it is told, and its fits never wait for it in a step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import clip_load, fit_judge, recogniser, score
from eval.config import ClipSizeConfig, FitJudgeConfig, ScoreConfig
from eval.first_stage import reconstruct
from eval.fit_recogniser import fit_recogniser
from launch.run import Run
from t2i.autoencoder import Autoencoder

sys.path.insert(0, str(Path(__file__).parents[1]))
from paper_gpu import GPU, SavedError, paper_gpu


@pytest.fixture
def cfg(small_world: Any, small_autoencoder: Path, tmp_path: Path) -> FitJudgeConfig:
    texts = dict(enumerate(small_world.texts("judge")))
    size = ClipSizeConfig(
        width=16, image_layers=1, text_layers=1, num_heads=2, embed_dim=8, context_length=48
    )
    return FitJudgeConfig(
        images=small_world.images,
        captions=[small_world.write_captions(f"texts_{tmp_path.name}", {"judge": texts})],
        kinds=["judge"],
        autoencoder=small_autoencoder,
        clip=size,
        clip_samples=128,
        recogniser_samples=128,
        batch_size=8,
        threads=1,
    )


def test_clip_is_fitted_on_the_device(
    cfg: FitJudgeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(out=tmp_path / "judge", verb="eval fit-judge", config=cfg)
    with paper_gpu(monkeypatch) as gpu:
        gpu.is_busy = True
        with pytest.raises(SavedError):
            fit_judge.fit_judge(cfg, run)
    run.close()
    assert gpu.num_steps == 2
    assert gpu.computed_on == gpu.saved_from == {GPU}
    assert json.loads((run.out / "begun.json").read_text())["recipe"]["device"] == "cuda"


def test_the_recogniser_is_fitted_on_the_device(
    cfg: FitJudgeConfig, small_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(out=tmp_path / "judge", verb="eval fit-judge", config=cfg)
    with paper_gpu(monkeypatch) as gpu:
        gpu.is_busy = True
        with pytest.raises(SavedError):
            fit_recogniser(
                small_world.pixels,
                rebuilt=small_world.pixels,
                ids=np.arange(48, dtype=np.uint64),
                claims=[scene.claims for scene in small_world.scenes],
                cfg=cfg,
                run=run,
                folder=tmp_path / "checkpoints",
            )
    assert gpu.num_steps == 2
    assert gpu.computed_on == gpu.saved_from == {GPU}


def test_pictures_are_reconstructed_and_read_on_the_device(
    small_world: Any,
    small_autoencoder: Path,
    small_judge: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels, ids = small_world.pixels[:5], np.arange(5, dtype=np.uint64)
    autoencoder = Autoencoder.load(small_autoencoder)
    reader = recogniser.load_recogniser(small_judge / "recogniser")
    with paper_gpu(monkeypatch) as gpu:
        rebuilt = reconstruct(autoencoder.to(GPU), pixels, jitter=0.1, ids=ids)
        assert rebuilt.shape == pixels.shape
        assert len(recogniser.read(reader.to(GPU), rebuilt, batch_size=8)) == 5
    assert gpu.computed_on == {GPU}


def test_scores_are_computed_on_the_device_and_weights_are_digested_before(
    small_world: Any,
    small_judge: Path,
    small_autoencoder: Path,
    make: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = make.prompts(small_world, {"human": small_world.texts("human")})
    folder = tmp_path / "generations"
    made = make.generations(folder, small_world, prompts, arm="dsc", styles=["human"])
    cfg = ScoreConfig(
        generations=[made],
        judge=small_judge,
        prompts=prompts,
        images=small_world.images,
        autoencoder=small_autoencoder,
        scoring_styles=["human"],
        batch_size=8,
    )
    digested_on: set[str] = set()
    digest_of = clip_load.weights_digest

    def noted(model: Any, *context: str) -> str:
        digested_on.update(weight.device.type for weight in model.parameters())
        return digest_of(model, *context)

    monkeypatch.setattr(clip_load, "weights_digest", noted)
    autoencoder = Autoencoder.load(small_autoencoder)
    monkeypatch.setattr(Autoencoder, "load", lambda source: autoencoder)
    run = Run(out=tmp_path / "scores", verb="eval score", config=cfg)
    with paper_gpu(monkeypatch) as gpu:
        score.score(cfg, run)
    run.close()
    assert gpu.computed_on == {GPU}
    assert digested_on == {"cpu"}
    assert json.loads((run.out / "manifest.json").read_text())["recipe"]["device"] == "cuda"
