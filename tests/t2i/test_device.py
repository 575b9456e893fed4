"""The fits of the second stage compute where they are told, and never wait for it in a step."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2i import autoencoder, fit_rewriter, fit_text_encoder
from t2i.config import AutoencoderConfig, FitRewriterConfig, TextEncoderConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, run_verb
from paper_gpu import GPU, PaperGpu, SavedError, paper_gpu

SMALL = {"width": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 128, "max_tokens": 40}
STEPS = {"samples": 48, "batch_size": 8, "checkpoint_samples": 24}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def begin(
    verb: str, function: Callable[..., None], cfg: Any, out: Path, gpu: PaperGpu
) -> dict[str, Any]:
    """Run a fit to its first checkpoint; return what its recipe would be."""
    gpu.is_busy = True
    with pytest.raises(SavedError):
        run_verb(verb, function, cfg, out)
    assert gpu.num_steps == 3
    assert gpu.computed_on == gpu.saved_from == {GPU}
    recipe: dict[str, Any] = json.loads((out / "begun.json").read_text())["recipe"]
    return recipe


def test_an_autoencoder_is_fitted_on_the_device(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = AutoencoderConfig(images=made.images, image_size=16, channels=[8, 8], **STEPS)
    with paper_gpu(monkeypatch) as gpu:
        recipe = begin("t2i autoencoder", autoencoder.fit, cfg, tmp_path / "out", gpu)
    assert recipe["device"] == "cuda"


def test_latents_are_measured_and_normalised_on_the_device(
    made: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((3, 16, 16, 3), np.uint8)

    class Pictures(autoencoder._Pictures):
        def __init__(self) -> None:
            pass

        def pixels(self, rows: np.ndarray) -> np.ndarray:
            return pixels[rows]

    fitted = autoencoder.Autoencoder.load(made.autoencoder)
    with paper_gpu(monkeypatch) as gpu:
        fitted.to(GPU)
        mean, std = autoencoder._channel_statistics(fitted, Pictures(), np.arange(3))
        assert mean.device == std.device == GPU
        autoencoder.normalise_latents(fitted.vae, mean, std)
        assert fitted.reconstruct(pixels).shape == pixels.shape
        assert gpu.computed_on == {GPU}


def test_a_text_encoder_is_fitted_on_the_device(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = TextEncoderConfig(texts=[made.captions], kinds=["ssc"], **SMALL, **STEPS)
    with paper_gpu(monkeypatch) as gpu:
        recipe = begin("t2i text-encoder", fit_text_encoder.fit, cfg, tmp_path / "out", gpu)
    assert recipe["device"] == "cuda"


def test_a_rewriter_is_fitted_on_the_device(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = FitRewriterConfig(
        images=made.images,
        captions=[made.captions],
        sources=["ssc"],
        held_out_pictures=4,
        **SMALL,
        **STEPS,
    )
    with paper_gpu(monkeypatch) as gpu:
        recipe = begin("t2i fit-rewriter", fit_rewriter.fit, cfg, tmp_path / "out", gpu)
    assert recipe["device"] == "cuda"


def test_a_batch_left_on_the_cpu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with paper_gpu(monkeypatch) as gpu:
        layer = torch.nn.Linear(4, 2).to(GPU)
        with pytest.raises(RuntimeError, match="same device"):
            layer(torch.zeros(1, 4))
        gpu.is_busy = True
        with pytest.raises(AssertionError, match="the host would wait"):
            layer(torch.zeros(1, 4, device=GPU)).sum().item()
