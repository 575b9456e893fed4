"""Settings of `recap train`, and of a captioner's text tower."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CaptionerSizeConfig:
    """Size of a captioner trained from scratch."""

    tower: Literal["conv", "vit", "coca", "clip"] = "conv"
    """`conv`: a small convolutional stem and a transformer; `vit`: open_clip's ViT; `coca` and
    `clip`: the image tower of `image_model`, of a CoCa as it is, of a CLIP with a pooler behind."""

    image_model: str | None = None
    """Architecture in open_clip, for the towers `coca` and `clip`."""

    image_quick_gelu: bool = False
    """`image_model` has OpenAI's approximate GELU."""

    pixel_mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    """Brightness that is 0 to the image tower, of red, green and blue, in [0, 1]."""

    pixel_std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    """Brightness that is 1 to the image tower, counted from `pixel_mean`."""

    image_size: int = 32
    """Pixels a side that the image tower sees."""

    patch_size: int = 8
    """Pixels a side of one image token."""

    width: int = 128
    """Width of the towers; `image_model` has its own."""

    embed_dim: int | None = None
    """Length of the contrastive features; None takes `width`."""

    num_heads: int = 4
    """Attention heads of every layer."""

    image_layers: int = 3
    """Layers of the image tower."""

    text_layers: int = 2
    """Unimodal text layers."""

    multimodal_layers: int = 3
    """Layers that cross-attend to image tokens."""

    num_image_tokens: int = 0
    """Queries of the captioning pooler; 0 gives captions the tower's own tokens, one per patch."""

    mlp_ratio: float = 4.0
    """Width of the feed-forward layers over the width of the towers."""

    context_length: int = 96
    """Longest caption in tokens, start and end tokens included."""

    cls_mask: Literal["exact", "shifted"] = "exact"
    """What [CLS] sees: `exact` the caption and itself; `shifted` what it sees in open_clip 3.3.0,
    which public weights were trained with."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound; a small corpus may need less)."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ConfigError(
                f"model.width must be a multiple of model.num_heads, got {self.width} and "
                f"{self.num_heads}"
            )
        if (self.image_model is None) == (self.tower in ("coca", "clip")):
            raise ConfigError(
                f"model.image_model names the architecture of towers coca and clip alone, got "
                f"{self.image_model!r} with tower {self.tower}"
            )
        if self.image_model is None and self.image_size % self.patch_size:
            raise ConfigError(
                f"model.image_size must be a multiple of model.patch_size, got {self.image_size} "
                f"and {self.patch_size}"
            )
        if self.tower == "conv" and (self.patch_size < 2 or self.patch_size & self.patch_size - 1):
            raise ConfigError(
                f"model.patch_size must be a power of two for tower conv, got {self.patch_size}"
            )
        if self.context_length < 3:
            raise ConfigError(f"model.context_length must be at least 3, got {self.context_length}")
        if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise ConfigError(
                "model.pixel_mean and model.pixel_std must have three values, deviations above 0, "
                f"got {self.pixel_mean} and {self.pixel_std}"
            )

    @property
    def features(self) -> int:
        """Length of the contrastive features."""
        return self.width if self.embed_dim is None else self.embed_dim


@dataclass(frozen=True, kw_only=True)
class CaptionerTrainConfig:
    """Pretrain a captioner on alt text, or fine-tune one on an annotated subset."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples", "log_samples", "max_left_out_share"})

    images: Path
    """Images artifact; only its training split is read, and the test split for validation."""

    captions: list[Path] = field(default_factory=list)
    """Captions artifacts that hold `kind`; not needed for `alt`."""

    tokenizer_texts: list[Path] = field(default_factory=list)
    """Captions artifacts whose texts, with the alt texts, train the vocabulary of a new model."""

    kind: str
    """Kind of caption learned: alt to pretrain, ssc or dsc to fine-tune."""

    init: Path | None = None
    """Captioner to start from: a folder, or public weights as `open_clip:NAME/TAG` or
    `open_clip:NAME@FILE`; None starts from scratch."""

    image_init: Path | None = None
    """CLIP whose image tower a new captioner has, as `open_clip:NAME/TAG` or
    `open_clip:NAME@FILE`."""

    model: CaptionerSizeConfig = field(default_factory=CaptionerSizeConfig)
    """Size of a new model; with `init` the starting captioner's own size is used instead."""

    context_length: int | None = None
    """Longest caption in tokens of a captioner started from `init`, if longer than its own."""

    image_lr_scale: float = 1.0
    """Learning rate of the image tower over that of the rest; 0 freezes it."""

    image_layer_decay: float = 1.0
    """Learning rate of each layer of the image tower over that of the layer after it."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 128
    """Pictures per step over all processes; a multiple of 8 for each of them."""

    microbatch: int | None = None
    """Pictures that a process puts through the model at once, a multiple of 8; None: all of its
    part of the batch. The contrastive loss is of the whole batch either way; two forward passes are
    the price."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass; weights, averages and sums stay float32."""

    checkpoint_activations: bool = False
    """Keep only the inputs of each layer and compute the rest again in the backward pass: less
    memory, about a third more time, the same gradients."""

    lr: float = 1e-3
    """Peak learning rate."""

    warmup_samples: int = 2560
    """Pictures over which the rate rises from zero (at most a quarter of all); afterwards it falls
    as a cosine."""

    weight_decay: float = 0.05
    """AdamW weight decay of matrices."""

    captioning_weight: float = 2.0
    """Weight of the captioning loss (CoCa: 2)."""

    contrastive_weight: float = 1.0
    """Weight of the contrastive loss (CoCa: 1)."""

    grad_clip: float = 1.0
    """Norm to which a larger gradient is scaled down."""

    ema_decay: float = 0.99
    """Share of the old weight average kept at each step; less in the first steps."""

    num_length_groups: int = 4
    """Shares of a batch, by caption length, that are padded each to its own longest caption."""

    max_left_out_share: float = 0.2
    """Share of pictures whose caption is empty or longer than the context, above which training is
    refused."""

    validation_pictures: int = 512
    """Pictures of the test split on which the finished captioner is measured."""

    validation_samples: int | None = None
    """Pictures trained on between measurements of the averaged weights on the test split; None
    measures the finished captioner alone."""

    checkpoint_samples: int = 12_800
    """Pictures between exact checkpoints."""

    log_samples: int = 2560
    """Pictures between log lines."""

    seed: int = 0
    """Seed of initial weights and of every draw."""

    threads: int = 1
    """CPU threads; part of the recipe because arithmetic depends on it."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        if self.microbatch is not None:
            require_multiple_of_8(self, "microbatch")
        if self.validation_samples is not None:
            require_positive(self, "validation_samples")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay:g}")
        if self.captioning_weight <= 0 or self.contrastive_weight < 0:
            raise ConfigError(
                "captioning_weight must be above 0 and contrastive_weight at least 0, got "
                f"{self.captioning_weight:g} and {self.contrastive_weight:g}"
            )
        if self.init is not None and self.image_init is not None:
            raise ConfigError("init and image_init: give one; a captioner has one image tower")
        if self.init is None and self.context_length is not None:
            raise ConfigError("context_length is for init; a new model has model.context_length")
        if self.image_lr_scale < 0 or not 0 < self.image_layer_decay <= 1:
            raise ConfigError(
                "image_lr_scale must be at least 0 and image_layer_decay lie in (0, 1], got "
                f"{self.image_lr_scale:g} and {self.image_layer_decay:g}"
            )
        require_share(self, "max_left_out_share")
        require_positive(
            self, "samples", "checkpoint_samples", "log_samples", "num_length_groups", "threads"
        )


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """Write a captioner's text tower as a text encoder for image models."""

    captioner: Path
    """Captioner artifact, or public weights as `open_clip:NAME/TAG` or `open_clip:NAME@FILE`."""
