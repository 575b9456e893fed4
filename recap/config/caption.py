"""Settings of `recap caption` and `recap fuse`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive
from launch.errors import ConfigError
from recap.config.endpoint import EndpointConfig
from recap.config.gates import GateConfig
from recap.config.kinds import refuse_odd_kind


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How tokens are chosen."""

    method: Literal["greedy", "sample", "beam"] = "greedy"
    """The likeliest token, sampling with keyed randomness, or beam search."""

    temperature: float = 1.0
    """Divides the logits when sampling."""

    top_k: int | None = None
    """Likeliest tokens kept when sampling; None keeps all."""

    top_p: float = 1.0
    """Nucleus kept when sampling."""

    num_beams: int = 6
    """Beams of a beam search."""

    length_penalty: float = 1.0
    """Power of a caption's length that divides its log-probability in beam search; above 0 longer
    captions are preferred."""

    repetition_penalty: float = 1.0
    """Factor that makes tokens dearer which a caption has already; 1 is off."""

    min_tokens: int = 0
    """Shortest caption in text tokens."""

    max_tokens: int = 96
    """Longest caption in tokens, the end token included; the captioner's context bounds it too."""

    def __post_init__(self) -> None:
        require_positive(self, "num_beams", "max_tokens")
        if self.top_k is not None:
            require_positive(self, "top_k")
        if self.repetition_penalty <= 0:
            raise ConfigError(
                f"decode.repetition_penalty must be above 0, got {self.repetition_penalty:g}"
            )
        if not 0 <= self.min_tokens < self.max_tokens:
            raise ConfigError(
                f"decode.min_tokens must be at least 0 and below max_tokens={self.max_tokens}, "
                f"got {self.min_tokens}"
            )
        if self.temperature <= 0:
            raise ConfigError(f"decode.temperature must be above 0, got {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"decode.top_p must lie in (0, 1], got {self.top_p:g}")


@dataclass(frozen=True, kw_only=True)
class TagsConfig:
    """How a tagger's confidences become a text."""

    threshold: float | None = None
    """Confidence from which a tag is written; None takes the tagger's own, which `recap
    fit-tagger` finds for each tag, and 0.35 where it has none."""

    thresholds: dict[str, float] = field(default_factory=dict)
    """The same for categories that need another: `{character: 0.85}`."""

    categories: list[str] | None = None
    """Categories that are written; None writes all but `rating`."""

    exclude: list[str] = field(default_factory=list)
    """Tags that are never written, as the tag list or the text spells them."""

    spaces: bool = True
    """Write blanks for underscores, but not in faces such as ^_^."""

    separator: str = ", "
    """Stands between two tags; they are ordered by confidence."""

    min_tags: int = 0
    """Tags written at least: where too few are confident, those nearest to their thresholds."""

    max_tags: int | None = None
    """Tags written at most; None writes all."""

    fit: Literal["crop", "pad"] = "crop"
    """How a picture becomes square: its middle, or white beside it, as WD taggers expect."""

    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colours; WD taggers expect bgr."""

    def __post_init__(self) -> None:
        for name, value in {"threshold": self.threshold, **self.thresholds}.items():
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"tags: the threshold {name} must lie in [0, 1], got {value:g}")
        if self.min_tags < 0 or (self.max_tags is not None and self.max_tags < self.min_tags):
            raise ConfigError(
                f"tags.min_tags must be at least 0 and at most max_tags, got {self.min_tags} and "
                f"{self.max_tags}"
            )
        if self.max_tags is not None:
            require_positive(self, "max_tags")


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """What a vision-language model is told, and how it sees a picture."""

    instruction: str | None = None
    """What a model with a chat template is asked. Others go on with it as the beginning of their
    text, or begin with nothing where it is None."""

    keep_instruction: bool = False
    """Write the instruction before the text, as the beginning of a caption that it is."""

    picture_px: int | None = None
    """Longer side of a picture that the model's own processor gets, at most; None gives pictures
    as they are stored, and 512 px to an endpoint."""

    ledger: Path | None = None
    """File that keeps every answer of an endpoint; several runs may share one. None is
    `ledger.jsonl` in the run folder."""

    def __post_init__(self) -> None:
        if self.instruction is not None and not self.instruction.strip():
            raise ConfigError("vlm.instruction is empty; leave it out to begin with nothing")
        if self.keep_instruction and self.instruction is None:
            raise ConfigError("vlm.keep_instruction needs vlm.instruction")
        if self.picture_px is not None:
            require_positive(self, "picture_px")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Caption every picture of an images artifact with one captioner."""

    NOT_IN_RECIPE: ClassVar = frozenset({"num_workers"})
    SINCE_LATER: ClassVar = frozenset({"tags", "vlm", "endpoint"})

    images: Path
    """Images artifact."""

    captioner: Path
    """Captioner or tagger artifact; public weights as `open_clip:NAME/TAG` or
    `open_clip:NAME@FILE`; a folder or hub id of a transformers model or a timm tagger; or
    `endpoint`, the server that `endpoint` describes."""

    kind: str
    """Kind that the captions are stored under."""

    splits: list[Literal["train", "judge", "test"]] = field(
        default_factory=lambda: ["train", "test"]
    )
    """Which splits are captioned."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How tokens are chosen."""

    gates: GateConfig = field(default_factory=GateConfig)
    """Rules for a bad caption."""

    tags: TagsConfig = field(default_factory=TagsConfig)
    """How the confidences of a tagger become a text; a captioner has no use for it."""

    vlm: VlmConfig = field(default_factory=VlmConfig)
    """What a transformers model or an endpoint is told; a captioner of ours has no use for it."""

    endpoint: EndpointConfig | None = None
    """The chat server that writes, for `captioner=endpoint` alone."""

    batch_size: int = 256
    """Pictures written about at once; a multiple of 8, part of the recipe."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and arithmetic; in bfloat16 some captions get other words."""

    num_workers: int = 1
    """Threads that read pictures ahead; cannot change a byte of the result."""

    seed: int = 0
    """Seed of sampling."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "num_workers", "threads")
        refuse_odd_kind(self.kind)
        if (self.endpoint is not None) != (str(self.captioner) == "endpoint"):
            raise ConfigError(
                "endpoint describes the captioner `endpoint`, which needs endpoint.model; "
                f"captioner is {self.captioner}"
            )


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """Join alt text and a synthetic caption of each picture through a language model."""

    images: Path
    """Images artifact; it has the alt texts."""

    captions: Path
    """Captions artifact."""

    caption_kind: str
    """Kind of its captions that is joined with the alt text."""

    endpoint: EndpointConfig
    """The chat server; it gets no picture."""

    kind: str = "fused"
    """Kind that the texts are stored under."""

    splits: list[Literal["train", "judge", "test"]] = field(
        default_factory=lambda: ["train", "test"]
    )
    """Which splits are fused."""

    instruction: str = (
        "Below are two texts about one picture: its alt text from a web page, which may know names "
        "and may be careless, and a caption by a machine, which tells what can be seen. Write one "
        "fluent description that joins them. Keep every name, number and quoted word of the alt "
        "text exactly as it is written; take what can be seen from the caption; add nothing that "
        "neither says. Answer with the description alone, in one paragraph."
    )
    """What the model is told, before both texts."""

    ledger: Path | None = None
    """File that keeps every answer; several runs may share one. None is `ledger.jsonl` in the run
    folder."""

    gates: GateConfig = field(default_factory=GateConfig)
    """Rules that quarantine a text, beside those on lost names, numbers and quoted words."""

    def __post_init__(self) -> None:
        refuse_odd_kind(self.kind)
        if not self.instruction.strip():
            raise ConfigError("instruction is empty; say how the two texts shall be joined")
