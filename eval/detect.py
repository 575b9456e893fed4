"""Detectors: from a picture to boxes, confidences and class names.

A detector is a model of torchvision by name with a local weights file, or an ONNX file
(`eval.detect_onnx`). Nothing is downloaded. Pictures go through one at a time, so that what is
found in one does not depend on its neighbours. What boxes mean for a prompt is for `eval.geneval`.

K boxes, H height, W width
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from eval.config import DetectorConfig
from eval.geneval import Detections
from launch.errors import ArtifactError, ConfigError
from launch.manifest import digest_bytes, digest_file

MASK_LEVEL = 0.5
"""Probability above which a pixel belongs to an object."""

EXACT_NORM = frozenset(
    {
        "fasterrcnn_resnet50_fpn",
        "keypointrcnn_resnet50_fpn",
        "maskrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    }
)
"""Models whose COCO weights torchvision runs with batch norms that add nothing to the variance."""


@runtime_checkable
class Detector(Protocol):
    """Finds objects."""

    labels: tuple[str, ...]
    """Names of classes, by number."""

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """Return everything that was found, whatever its confidence."""

    def describe(self) -> dict[str, Any]:
        """Return everything that its boxes depend on, for a recipe."""


class TorchvisionDetector:
    """A detection model of torchvision, in float32."""

    def __init__(self, model: nn.Module, *, labels: tuple[str, ...], facts: dict[str, Any]) -> None:
        self.model = model
        self.labels = labels
        self._facts = facts

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """Return everything that was found, whatever its confidence."""
        device = next(self.model.parameters()).device
        image = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(device)
        with torch.inference_mode():
            (found,) = self.model([image.float() / 255])
        masks: Tensor | None = found.get("masks")  # [K, 1, H, W]
        return Detections(
            boxes=found["boxes"].cpu().numpy(),
            scores=found["scores"].cpu().numpy(),
            labels=[self.labels[k] for k in found["labels"].tolist()],
            masks=None if masks is None else (masks[:, 0] > MASK_LEVEL).cpu().numpy(),
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that its boxes depend on, for a recipe."""
        return {
            **self._facts,
            "preprocessing": "torchvision's own: pixels / 255, resized and normalised by the model",
            "precision": "float32",
            "labels": describe_labels(self.labels),
        }


def files_of(cfg: DetectorConfig) -> dict[str, Path]:
    """Return the files of a detector by the setting that names them.

    Raises:
        ConfigError: One of them is missing.
    """
    found = {"weights": cfg.weights, "labels": cfg.labels}
    files = {name: path for name, path in found.items() if path is not None}
    for name, path in files.items():
        if not path.is_file():
            raise ConfigError(
                f"detector.{name} {path}: no such file; nothing is downloaded, so fetch it yourself"
            )
    return files


def load_detector(cfg: DetectorConfig, *, device: torch.device | str = "cpu") -> Detector:
    """Load a detector from local files.

    Raises:
        ConfigError: No such architecture, or a file is missing.
        ArtifactError: The weights do not fit the architecture and its labels.
    """
    files_of(cfg)
    if cfg.onnx is not None:
        from eval.detect_onnx import load_onnx

        assert cfg.labels is not None, "the configuration sees to it"
        return load_onnx(cfg.weights, settings=cfg.onnx, labels=read_labels(cfg.labels))
    return _load_torchvision(cfg, device=device)


def _load_torchvision(cfg: DetectorConfig, *, device: torch.device | str) -> TorchvisionDetector:
    from torchvision import models
    from torchvision.models import detection

    known = models.list_models(module=detection)
    if cfg.architecture not in known:
        raise ConfigError(
            f"detector.architecture {cfg.architecture!r}: no detection model of torchvision; "
            f"expected onnx or one of {', '.join(known)}"
        )
    if cfg.labels is None:
        published = models.get_model_weights(cfg.architecture).DEFAULT
        labels = tuple(published.meta["categories"])
    else:
        labels = read_labels(cfg.labels)
    model = models.get_model(
        cfg.architecture, weights=None, weights_backbone=None, num_classes=len(labels)
    )
    _load_weights(model, cfg.weights, where=f"{cfg.architecture} with {len(labels)} classes")
    is_exact = cfg.labels is None and cfg.architecture in EXACT_NORM
    if is_exact:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    model.eval().requires_grad_(False).to(device)
    facts = {
        "architecture": f"torchvision {cfg.architecture}",
        "weights": digest_file(cfg.weights),
        "batch_norm": "eps 0" if is_exact else "the architecture's own eps",
    }
    return TorchvisionDetector(model, labels=labels, facts=facts)


def _load_weights(model: nn.Module, path: Path, *, where: str) -> None:
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ArtifactError(
            f"{path}: no readable weights ({str(error)[:200]}); expected safetensors, or a state "
            "dict of tensors alone, because any other pickle can run code"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ArtifactError(f"{path}: holds no state dict; save `model.state_dict()`")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: does not fit {where} ({' '.join(str(error).split())[:300]}); name the "
            "architecture it was trained as, and `detector.labels` with its classes"
        ) from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, one a line; empty lines at the end are no class.

    Raises:
        ConfigError: The file holds no name.
    """
    labels = tuple(line.strip() for line in path.read_text(encoding="utf-8").rstrip().split("\n"))
    if not any(labels):
        raise ConfigError(f"detector.labels {path}: is empty; expected one class name a line")
    return labels


def describe_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    """Return how many labels there are, and a digest of their names in order."""
    return {"number": len(labels), "digest": digest_bytes("\n".join(labels).encode())}
