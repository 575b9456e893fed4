"""Settings of `eval score`, and of the detector that may check claims for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OnnxConfig:
    """What an ONNX detector takes and gives, which its file does not say."""

    height_px: int
    """Height of the network's input."""

    width_px: int
    """Width of the network's input."""

    resize: Literal["stretch", "letterbox"] = "stretch"
    """`letterbox` keeps the proportions and pads evenly with grey 114."""

    scale: float = 1 / 255
    """Pixels in 0..255 are multiplied by this; then `mean` is taken off, and `std` divides."""

    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of red, green and blue, after `scale`."""

    std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Of red, green and blue, after `scale`."""

    boxes: str = "boxes"
    """Output that holds the boxes, [1, K, 4] or [K, 4]."""

    scores: str = "scores"
    """Output that holds the scores: of each box, or of each box and class."""

    labels: str | None = "labels"
    """Output that holds the class numbers; None takes the best class of `scores`."""

    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What turns `scores` into probabilities."""

    box_form: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """Corners, corner and size, or centre and size."""

    box_unit: Literal["pixels", "share"] = "pixels"
    """Pixels of the network's input, or shares of its sides."""

    def __post_init__(self) -> None:
        require_positive(self, "height_px", "width_px")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ConfigError(
                f"detector.onnx: mean and std need three numbers, std none of them 0; got "
                f"{self.mean} and {self.std}"
            )


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector whose boxes say which of the prompt's claims hold, by GenEval's rules."""

    architecture: str
    """Detection model of torchvision (`maskrcnn_resnet50_fpn_v2`, ...), or `onnx`."""

    weights: Path
    """Local file: safetensors or a state dict for torchvision, or the ONNX file."""

    labels: Path | None = None
    """Text file, one class name a line, the first for class 0; None takes the names of
    torchvision's own COCO weights."""

    onnx: OnnxConfig | None = None
    """What an ONNX file takes and gives."""

    min_score: float = 0.3
    """Boxes count above this confidence."""

    min_score_counting: float = 0.9
    """The same for prompts that say a number."""

    max_objects: int = 16
    """Boxes of one class that are looked at, the most confident ones."""

    max_overlap: float = 1.0
    """Of two boxes of a class that overlap by this much (intersection over union) or more, the less
    confident one is dropped; 1 keeps all, because detectors have dropped doubles themselves."""

    min_offset: float = 0.1
    """Centres count as apart beyond this share of both boxes' sizes added."""

    def __post_init__(self) -> None:
        require_positive(self, "max_objects")
        require_share(self, "min_score", "min_score_counting", "max_overlap", "min_offset")
        if (self.architecture == "onnx") != (self.onnx is not None):
            raise ConfigError(
                "detector: `onnx` settings belong to architecture=onnx, which cannot do without "
                f"them; got architecture={self.architecture!r}, onnx "
                f"{'given' if self.onnx else 'not given'}"
            )
        if self.onnx is not None and self.labels is None:
            raise ConfigError(
                "detector.labels: an ONNX file does not name its classes; give a text file with "
                "one name a line"
            )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score generations: CLIP for every scoring caption, and the prompt's claims that hold."""

    generations: list[Path]
    """Generations artifacts, one per arm and seed."""

    judge: Path | None = None
    """Judge artifact; None where `clip_model` names a public CLIP, which then scores alone."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    images: Path | None = None
    """Images artifact of the prompts' pairs; its pictures are scored as a ceiling."""

    autoencoder: Path | None = None
    """Autoencoder artifact; the pictures through it are scored as the ceiling of its latents."""

    scoring_styles: list[str]
    """Styles whose text of the same pair scores every image, besides the prompt itself."""

    clip_model: str | None = None
    """CLIP that scores: a name in open_clip or a folder in its form; None takes the judge's own."""

    clip_weights: str | None = None
    """Tag of `clip_model` in open_clip, or a local safetensors file."""

    clip_prefix: str = ""
    """Put before every scoring text, for example "A photo depicts "."""

    clip_precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the CLIP that scores."""

    detector: DetectorConfig | None = None
    """Detector that checks the prompts' claims on photographs, in place of the judge's recogniser;
    colours are told by the CLIP that scores."""

    ocr: bool = False
    """Read displayed words, and compare them with those that the prompt quotes (extra `ocr`)."""

    features: Path | None = None
    """Folder in which CLIP features are kept; what an earlier run kept there is not computed again.
    It changes no score and is no part of the recipe."""

    batch_size: int = 256
    """Rows per step; a multiple of 8, part of the recipe."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        if self.judge is None and self.clip_model is None:
            raise ConfigError("scores come from a judge or a public CLIP: give judge or clip_model")
        if not self.generations:
            raise ConfigError("generations must name at least one folder: generations=[DIR, ...]")
        refuse_plain_gelu(self.clip_model, self.clip_weights)


def refuse_plain_gelu(model: str | None, weights: str | None) -> None:
    """Refuse OpenAI's weights for a model with another activation, before anything is computed.

    Other tags are told apart where a CLIP is opened; open_clip's list of them takes torch to read.

    Raises:
        ConfigError: The name lacks `-quickgelu`.
    """
    if weights == "openai" and model is not None and not model.endswith("-quickgelu"):
        raise ConfigError(
            f"clip_model={model} clip_weights=openai: these weights were trained with QuickGELU, "
            f"which {model} does not have; give clip_model={model}-quickgelu"
        )
