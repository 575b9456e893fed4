"""Detectors as ONNX files, run by onnxruntime.

An ONNX file says neither how pictures are brought to its input nor which output means what; the
settings do. Non-maximum suppression is left to the file, or to `detector.max_overlap`.

K boxes, C classes, H height, W width
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from eval.config import OnnxConfig
from eval.geneval import Detections
from launch.config import recipe_of
from launch.errors import ArtifactError, ConfigError
from launch.manifest import digest_file

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PADDING = 114
"""Grey around a picture that keeps its proportions."""


class Prepared(NamedTuple):
    """A picture as the network takes it, and the way back."""

    image: Float32[np.ndarray, "1 3 H W"]
    scale: tuple[float, float]
    """Pixels of the input per pixel of the picture, across and down."""

    shift: tuple[int, int]
    """Where the picture begins in the input."""


class OnnxDetector:
    """An ONNX file with the settings that it needs."""

    def __init__(
        self,
        session: InferenceSession,
        *,
        settings: OnnxConfig,
        labels: tuple[str, ...],
        digest: str,
    ) -> None:
        self.session = session
        self.settings = settings
        self.labels = labels
        self._digest = digest

    def detect(self, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        """Return everything that was found, whatever its confidence."""
        cfg = self.settings
        prepared = prepare(picture, cfg)
        names = [cfg.boxes, cfg.scores, *([cfg.labels] if cfg.labels else [])]
        values = self.session.run(names, {self.session.get_inputs()[0].name: prepared.image})
        boxes, scores, *numbers = (np.asarray(value) for value in values)
        boxes = boxes.reshape(-1, 4).astype(np.float64)
        scores = activate(scores.reshape(len(boxes), -1).astype(np.float64), cfg.activation)
        if numbers:
            classes = numbers[0].reshape(-1).astype(np.int64)
            if scores.shape[1] != 1:
                raise ConfigError(
                    f"detector.onnx.scores: {cfg.scores!r} holds {scores.shape[1]} numbers a box; "
                    "with an output of labels expected one. Set labels to null to take the best"
                )
        else:
            classes = scores.argmax(axis=1)
        scores = scores.max(axis=1, initial=0.0)
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.labels):
            raise ConfigError(
                f"detector.labels: {len(self.labels)} names, but the file finds class "
                f"{classes.max() if classes.max() >= len(self.labels) else classes.min()}; name "
                "every class, the first line for class 0"
            )
        return Detections(
            boxes=to_picture(boxes, cfg, prepared),
            scores=scores,
            labels=[self.labels[k] for k in classes.tolist()],
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that its boxes depend on, for a recipe."""
        from eval.detect import describe_labels

        return {
            "architecture": "onnx",
            "weights": self._digest,
            "preprocessing": recipe_of(self.settings),
            "precision": "as in the file",
            "labels": describe_labels(self.labels),
        }


def load_onnx(path: Path, *, settings: OnnxConfig, labels: tuple[str, ...]) -> OnnxDetector:
    """Open an ONNX detector on one thread of the CPU.

    Raises:
        ConfigError: onnxruntime is absent, or the file lacks an output that the settings name.
        ArtifactError: The file is no ONNX model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "detector.architecture onnx: needs onnxruntime; install captionmix[ocr]"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors share no class of their own
        raise ArtifactError(
            f"{path}: onnxruntime cannot open it ({str(error)[:200]}); expected an ONNX model"
        ) from error
    given = [output.name for output in session.get_outputs()]
    for field in ("boxes", "scores", "labels"):
        name = getattr(settings, field)
        if name is not None and name not in given:
            raise ConfigError(
                f"detector.onnx.{field}: {path} has no output {name!r}; its outputs are "
                f"{', '.join(given)}"
            )
    inputs = [put.name for put in session.get_inputs()]
    if len(inputs) != 1:
        raise ConfigError(
            f"detector.weights {path}: takes {len(inputs)} inputs ({', '.join(inputs)}); expected "
            "the picture alone. Export it with the others fixed"
        )
    return OnnxDetector(session, settings=settings, labels=labels, digest=digest_file(path))


def prepare(picture: UInt8[np.ndarray, "H W 3"], cfg: OnnxConfig) -> Prepared:
    """Bring a picture to the network's size, bilinearly, and to its numbers."""
    height, width = picture.shape[:2]
    across, down = cfg.width_px / width, cfg.height_px / height
    if cfg.resize == "letterbox":
        across = down = min(across, down)
    size = (round(width * across), round(height * down))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    shift = ((cfg.width_px - size[0]) // 2, (cfg.height_px - size[1]) // 2)
    canvas = np.full((cfg.height_px, cfg.width_px, 3), PADDING, np.uint8)
    canvas[shift[1] : shift[1] + size[1], shift[0] : shift[0] + size[0]] = resized
    scaled = (canvas * cfg.scale - np.array(cfg.mean)) / np.array(cfg.std)
    image = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)
    return Prepared(image, (size[0] / width, size[1] / height), shift)


def to_picture(
    boxes: Float[np.ndarray, "K 4"], cfg: OnnxConfig, prepared: Prepared
) -> Float[np.ndarray, "K 4"]:
    """Return boxes as corners in pixels of the picture."""
    first, second = boxes[:, :2], boxes[:, 2:]
    match cfg.box_form:
        case "xyxy":
            low, high = first, second
        case "xywh":
            low, high = first, first + second
        case "cxcywh":
            low, high = first - second / 2, first + second / 2
    corners = np.stack([low, high], axis=1)  # [K, 2, 2]
    if cfg.box_unit == "share":
        corners = corners * np.array([cfg.width_px, cfg.height_px])
    corners = (corners - np.array(prepared.shift)) / np.array(prepared.scale)
    flat: Float[np.ndarray, "K 4"] = corners.reshape(-1, 4)
    return flat


def activate(scores: Float[np.ndarray, "K C"], activation: str) -> Float[np.ndarray, "K C"]:
    """Turn a network's scores into probabilities."""
    match activation:
        case "sigmoid":
            return 1 / (1 + np.exp(-scores))
        case "softmax":
            powers = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
            return powers / powers.sum(axis=1, keepdims=True)
        case _:
            return scores
