"""Inception features: torchvision's network as it is, FID's with its own pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import Inception3
from torchvision.models import inception as torchvision_inception

from eval.inception import Inception, load_inception
from launch.errors import ConfigError

CLASSES = {"fid": 1008, "torchvision": 1000}


def network(kind: str) -> Inception3:
    torch.manual_seed(0)
    made = Inception3(num_classes=CLASSES[kind], aux_logits=False, init_weights=False)
    made.fc = torch.nn.Linear(2048, CLASSES[kind])
    return made.eval()


@pytest.fixture(scope="module", params=["fid", pytest.param("torchvision", marks=pytest.mark.slow)])
def loaded(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inception, Inception3]:
    """A network as it is loaded from its file, and as torchvision has it."""
    made = network(request.param)
    path = tmp_path_factory.mktemp(request.param) / "inception.safetensors"
    save_file(made.state_dict(), path)
    found = load_inception(path)
    assert found.kind == request.param
    return found, made


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)


def test_features_are_those_of_the_network(
    loaded: tuple[Inception, Inception3], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    inception, made = loaded
    found = inception.picture_features(pixels[:1], batch_size=2)  # the second is padding
    assert found.shape == (1, 2048)
    if inception.kind == "fid":  # the same rule, said to torchvision's own code
        average = functional.avg_pool2d

        def pool(x: torch.Tensor, **settings: Any) -> torch.Tensor:
            if x.shape[1] == 2048:  # the second of the last two blocks
                return functional.max_pool2d(x, **settings)
            return average(x, **settings, count_include_pad=False)

        monkeypatch.setattr(torchvision_inception.F, "avg_pool2d", pool)
    monkeypatch.setattr(made, "fc", torch.nn.Identity())
    with torch.inference_mode():
        expected = made(inception.preprocess(pixels[:1])).numpy()
    assert np.allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_recipe_names_the_network_and_its_weights(loaded: tuple[Inception, Inception3]) -> None:
    said = loaded[0].describe()
    assert loaded[0].kind in said["architecture"]
    assert len(said["weights"]) == 32
    assert said["preprocessing"]["size_px"] == 299


def test_pixels_span_what_the_network_was_trained_on(loaded: tuple[Inception, Inception3]) -> None:
    shades = np.stack([np.full((20, 20, 3), shade, np.uint8) for shade in (0, 255)])
    black, white = loaded[0].preprocess(shades)[:, :, 100, 100]
    expected = {"fid": (-1, 1), "torchvision": (-0.485 / 0.229, (1 - 0.485) / 0.229)}[
        loaded[0].kind
    ]
    assert float(black[0]) == pytest.approx(expected[0])
    assert float(white[0]) == pytest.approx(expected[1])


def test_only_a_local_safetensors_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        load_inception(tmp_path / "absent.safetensors")
    with pytest.raises(ConfigError, match="pickle"):
        load_inception(tmp_path / "inception.pth")
    save_file({"fc.weight": torch.zeros(10, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="10 classes"):
        load_inception(tmp_path / "other.safetensors")
    save_file({"fc.weight": torch.zeros(1008, 4)}, tmp_path / "half.safetensors")
    with pytest.raises(ConfigError, match="not those of Inception-v3"):
        load_inception(tmp_path / "half.safetensors")
