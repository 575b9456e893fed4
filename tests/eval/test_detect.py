"""Detectors: what they find is what their files say, and files that will not do are named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from eval import detect
from eval.config import DetectorConfig, OnnxConfig
from eval.detect import TorchvisionDetector, load_detector
from eval.detect_onnx import OnnxDetector
from launch.errors import ArtifactError, ConfigError

sys.path.insert(0, str(Path(__file__).parent))
import onnx_file

TINY = "ssdlite320_mobilenet_v3_large"

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> DetectorConfig:
    """A detection model of torchvision with random weights and three classes."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    model = models.get_model(TINY, weights=None, weights_backbone=None, num_classes=3)
    save_file(model.state_dict(), folder / "tiny.safetensors")
    torch.save(model.state_dict(), folder / "tiny.pth")
    (folder / "labels.txt").write_text("nothing\ndog\ncat\n")
    return DetectorConfig(
        architecture=TINY, weights=folder / "tiny.safetensors", labels=folder / "labels.txt"
    )


@pytest.fixture(scope="module")
def loaded(tiny: DetectorConfig) -> Any:
    return load_detector(tiny)


def test_a_torchvision_model_finds_what_it_finds_in_torchvision(
    tiny: DetectorConfig, loaded: TorchvisionDetector
) -> None:
    found = loaded.detect(PICTURE)
    with torch.inference_mode():
        image = torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()).float() / 255
        (expected,) = loaded.model([image])
    assert len(found.scores) == len(expected["scores"]) > 0
    np.testing.assert_array_equal(found.boxes, expected["boxes"].numpy())
    names = ("nothing", "dog", "cat")
    assert found.labels == [names[k] for k in expected["labels"].tolist()]
    assert not loaded.model.training


def test_safetensors_and_a_state_dict_are_the_same_detector(
    tiny: DetectorConfig, loaded: TorchvisionDetector
) -> None:
    other = load_detector(replace(tiny, weights=tiny.weights.with_suffix(".pth")))
    np.testing.assert_array_equal(other.detect(PICTURE).scores, loaded.detect(PICTURE).scores)
    assert other.describe()["weights"] != loaded.describe()["weights"]  # of other bytes


def test_classes_are_coco_names_where_no_labels_are_given(
    tiny: DetectorConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.get_model(TINY, weights=None, weights_backbone=None, num_classes=91)
    save_file(model.state_dict(), tmp_path / "coco.safetensors")
    monkeypatch.setattr(detect, "EXACT_NORM", frozenset({TINY}))
    found = load_detector(DetectorConfig(architecture=TINY, weights=tmp_path / "coco.safetensors"))
    assert isinstance(found, TorchvisionDetector)
    assert found.labels[:3] == ("__background__", "person", "bicycle")
    norms = [m for m in found.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.0}
    assert found.describe()["batch_norm"] == "eps 0"


def test_masks_are_kept_where_the_model_outlines_objects() -> None:
    class Outlines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            probabilities = torch.linspace(0, 1, 48 * 64).reshape(1, 1, 48, 64)
            return [
                {
                    "boxes": torch.tensor([[0.0, 0, 64, 48]]),
                    "scores": torch.tensor([0.9]),
                    "labels": torch.tensor([1]),
                    "masks": probabilities,
                }
            ]

    found = TorchvisionDetector(Outlines(), labels=("nothing", "dog"), facts={}).detect(PICTURE)
    assert found.masks is not None
    assert found.masks.shape == (1, 48, 64)
    assert found.masks.sum() == 48 * 64 / 2


def test_a_detector_says_all_that_its_boxes_depend_on(loaded: TorchvisionDetector) -> None:
    facts = loaded.describe()
    assert facts["architecture"] == f"torchvision {TINY}"
    assert set(facts) == {
        "architecture", "weights", "batch_norm", "preprocessing", "precision", "labels",
    }  # fmt: skip
    assert facts["labels"]["number"] == 3


@pytest.mark.parametrize("name", ["weights", "labels"])
def test_a_missing_file_is_named(tiny: DetectorConfig, name: str, tmp_path: Path) -> None:
    cfg = replace(tiny, **{name: tmp_path / "absent"})
    with pytest.raises(ConfigError, match=rf"detector.{name} .*absent: no such file; nothing is"):
        load_detector(cfg)


def test_an_unknown_architecture_is_named(tiny: DetectorConfig) -> None:
    with pytest.raises(ConfigError, match=r"'yolo'.*onnx or one of .*maskrcnn_resnet50_fpn"):
        load_detector(replace(tiny, architecture="yolo"))


def test_labels_of_another_number_than_the_weights_are_refused(
    tiny: DetectorConfig, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("nothing\ndog\n")
    with pytest.raises(ArtifactError, match=r"does not fit ssdlite.* with 2 classes"):
        load_detector(replace(tiny, labels=tmp_path / "labels.txt"))
    (tmp_path / "labels.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        load_detector(replace(tiny, labels=tmp_path / "labels.txt"))


def test_a_pickle_that_could_run_code_is_refused(tiny: DetectorConfig, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(ArtifactError, match=r"weights.pth: no readable weights"):
        load_detector(replace(tiny, weights=tmp_path / "weights.pth"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_damaged_weights_are_refused(tiny: DetectorConfig, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ArtifactError, match="no readable weights"):
        load_detector(replace(tiny, weights=tmp_path / name))


# --------------------------------------------------------------------------- ONNX

BOXES = np.array([[[8, 4, 24, 12], [0, 0, 4, 4]]], np.float32)


def onnx(folder: Path, *, names: Any = ("boxes", "scores", "labels"), **settings: Any) -> Any:
    """Write an ONNX detector with an input of 16 x 32, and load it."""
    pytest.importorskip("onnxruntime")
    made = {
        "boxes": BOXES, "scores": np.array([[0.9, 0.5]]), "labels": np.array([[1, 0]]),
        **settings.pop("file", {}),
    }  # fmt: skip
    path = folder / "tiny.onnx"
    path.write_bytes(onnx_file.detector(height=16, width=32, names=names, **made))
    (folder / "labels.txt").write_text("dog\ncat\n")
    cfg = OnnxConfig(**{"height_px": 16, "width_px": 32, **settings})
    return load_detector(
        DetectorConfig(architecture="onnx", weights=path, labels=folder / "labels.txt", onnx=cfg)
    )


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def test_boxes_come_back_in_pixels_of_the_picture(tmp_path: Path) -> None:
    found = onnx(tmp_path).detect(white(32, 96))  # 2 and 3 times the input
    np.testing.assert_allclose(found.boxes[0], [24, 8, 72, 24])
    assert found.labels == ["cat", "dog"]
    np.testing.assert_allclose(found.scores, [0.9, 0.5], rtol=1e-6)  # the input's mean is 1


def test_a_letterbox_is_taken_off_again(tmp_path: Path) -> None:
    found = onnx(tmp_path, resize="letterbox").detect(white(16, 16))
    np.testing.assert_allclose(found.boxes[0], [0, 4, 16, 12])  # 8 columns of grey on each side
    np.testing.assert_allclose(found.scores[0], 0.9 * (0.5 + 0.5 * 114 / 255), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "mean"),
    [
        ({"scale": 1.0}, 255.0),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, 2.0),
        ({"mean": [1.0, 0.0, 0.5], "std": [1.0, 1.0, 0.5]}, (0 + 1 + 1) / 3),
    ],
)
def test_pixels_are_scaled_then_centred_then_divided(
    tmp_path: Path, settings: dict[str, Any], mean: float
) -> None:
    found = onnx(tmp_path, file={"scores": np.array([[0.001, 0.002]])}, **settings)
    np.testing.assert_allclose(found.detect(white(16, 32)).scores[0], 0.001 * mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "boxes"),
    [("xywh", [8, 4, 16, 8]), ("cxcywh", [16, 8, 16, 8])],
)
def test_every_form_of_a_box_is_the_same_box(tmp_path: Path, form: str, boxes: list[float]) -> None:
    found = onnx(
        tmp_path,
        file={"boxes": np.array([[boxes] * 2], np.float32) / [32, 16, 32, 16]},
        box_form=form,
        box_unit="share",
    ).detect(white(16, 32))
    np.testing.assert_allclose(found.boxes[0], BOXES[0, 0], rtol=1e-6)


def test_the_best_class_of_a_box_is_its_label(tmp_path: Path) -> None:
    scores = np.array([[[0.2, 0.6], [3.0, -3.0]]])
    file = {"scores": scores, "labels": None}
    found = onnx(tmp_path, file=file, labels=None).detect(white(16, 32))
    assert found.labels == ["cat", "dog"]
    found = onnx(tmp_path, file=file, labels=None, activation="sigmoid").detect(white(16, 32))
    np.testing.assert_allclose(found.scores[1], 1 / (1 + np.exp(-3)), rtol=1e-6)
    found = onnx(tmp_path, file=file, labels=None, activation="softmax").detect(white(16, 32))
    np.testing.assert_allclose(found.scores[0], 1 / (1 + np.exp(-0.4)), rtol=1e-6)


def test_an_onnx_detector_describes_itself(tmp_path: Path) -> None:
    found = onnx(tmp_path, resize="letterbox")
    assert isinstance(found, OnnxDetector)
    assert found.describe()["preprocessing"]["resize"] == "letterbox"


def test_misnamed_outputs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"onnx.scores: .*no output 'scores'; its outputs are boxes, logits"
    ):
        onnx(tmp_path, names=("boxes", "logits", "labels"))


def test_a_file_with_further_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes 2 inputs \(image, other\)"):
        onnx(tmp_path, file={"inputs": 2})


def test_classes_beyond_the_labels_are_refused(tmp_path: Path) -> None:
    found = onnx(tmp_path, file={"labels": np.array([[1, 2]])})
    with pytest.raises(ConfigError, match="2 names, but the file finds class 2"):
        found.detect(white(16, 32))


def test_labels_beside_scores_of_every_class_are_refused(tmp_path: Path) -> None:
    found = onnx(tmp_path, file={"scores": np.zeros((1, 2, 2))})
    with pytest.raises(ConfigError, match="'scores' holds 2 numbers a box"):
        found.detect(white(16, 32))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    loaded = onnx(tmp_path)
    (tmp_path / "tiny.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match="onnxruntime cannot open it"):
        load_detector(
            DetectorConfig(
                architecture="onnx",
                weights=tmp_path / "tiny.onnx",
                labels=tmp_path / "labels.txt",
                onnx=loaded.settings,
            )
        )


def test_onnxruntime_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("tiny.onnx", "labels.txt"):
        (tmp_path / name).write_text("dog")
    cfg = DetectorConfig(
        architecture="onnx",
        weights=tmp_path / "tiny.onnx",
        labels=tmp_path / "labels.txt",
        onnx=OnnxConfig(height_px=16, width_px=16),
    )
    with pytest.raises(ConfigError, match=r"install captionmix\[ocr\]"):
        load_detector(cfg)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "onnx"}, "belong to architecture=onnx"),
        ({"onnx": OnnxConfig(height_px=8, width_px=8)}, "belong to architecture=onnx"),
        (
            {"architecture": "onnx", "onnx": OnnxConfig(height_px=8, width_px=8), "labels": None},
            "does not name its classes",
        ),
        ({"min_score": 1.5}, "min_score must lie in"),
        ({"max_objects": 0}, "max_objects must be at least 1"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(
    tiny: DetectorConfig, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(tiny, **settings)


def test_a_spread_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="std none of them 0"):
        OnnxConfig(height_px=8, width_px=8, std=[1.0, 0.0, 1.0])
