"""Settings of `eval captions`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Measure captions: length, regularities and, where claims are known, their truth."""

    images: Path
    """Images artifact."""

    captions: list[Path]
    """Captions artifacts to measure."""

    annotated: list[Path] = field(default_factory=list)
    """Captions artifacts of the annotated pictures, which are reported apart."""

    split: str = "test"
    """Split that is measured."""

    num_examples: int = 8
    """Example captions kept per kind, and gated captions kept per rule."""

    text_encoders: list[Path] = field(default_factory=list)
    """Text encoders whose tokens are counted: an artifact, a folder or a hub id, or `clip` for
    CLIP's own vocabulary; behind a colon the longest text that it reads, `google/t5-v1_1-small:77`.
    """

    samples: list[Path] = field(default_factory=list)
    """Captions artifacts with further captions of the same pictures, sampled by the same captioner
    with other seeds: `recap caption decode.method=sample seed=1 ...`. Where it wrote several of
    the measured kinds, samples speak for the kind of their own name, or else for the one that was
    asked for by the same `vlm` settings. What a captioner makes up it seldom repeats."""

    judge: Path | None = None
    """Judge artifact; its CLIP says how much better a sentence fits its own picture than others."""

    calibration: Path | None = None
    """Caption measurements of pictures whose truth is known; where it is not, the estimate of
    hallucination fitted there is carried over, to the kind of the same name. Without a fit of any
    measured kind it is refused."""

    batch_size: int = 256
    """Texts and pictures per step of the judge; a multiple of 8, part of the recipe."""

    prompts: list[Path] = field(default_factory=list)
    """Prompts artifacts that are looked for in the training captions."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        if self.calibration is not None and not self.samples and self.judge is None:
            raise ConfigError(
                "calibration needs signals to carry it over to: give samples=[DIR, ...], judge=DIR "
                "or both"
            )
