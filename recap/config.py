"""Settings of the recap verbs. Free of torch, so that `--help` and `--dry-run` are quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """The embedded world: drawn from a seed, with its truth known."""

    num_pictures: int = 50_000
    """Pictures drawn, all splits together."""

    seed: int = 0
    """Seed of the world; another seed is another world of the same kind."""

    image_size: int = 32
    """Width and height of a picture, in pixels."""

    def __post_init__(self) -> None:
        if self.num_pictures < 16:
            raise ConfigError(f"scenes.num_pictures must be at least 16, got {self.num_pictures}")
        if self.image_size < 16 or self.image_size % 2:
            raise ConfigError(f"scenes.image_size must be even, 16 or more, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Shares of the pictures, fixed by `sample_id`; what is left is the training split."""

    judge: float = 0.15
    """Share kept for fitting judges; never trained on by a captioner or image model."""

    test: float = 0.05
    """Share kept for prompts and for measuring captioners."""

    def __post_init__(self) -> None:
        if min(self.judge, self.test) < 0 or self.judge + self.test >= 1:
            raise ConfigError(
                f"split.judge + split.test must lie in [0, 1), got {self.judge:g} + {self.test:g}"
            )


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """Turn any source of pictures into an images artifact."""

    source: Literal["scenes", "folder", "webdataset", "datasets"]
    """Where pictures come from."""

    name: str
    """Name of the source; with an item's key it makes the `sample_id`, wherever the files lie."""

    root: Path | None = None
    """Folder of images, folder or file of tar shards, or what `datasets.load_dataset` loads."""

    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Only read when `source` is `scenes`."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Shares of the judge and test pictures."""

    alt_column: str | None = None
    """Column, JSON key or sidecar field that holds the alt text; found by name when absent."""

    texts_column: str | None = None
    """Column with further people's texts of a picture (a list); its first entry is the alt text
    when `alt_column` is absent."""

    key_column: str | None = None
    """Column or JSON key that names a row; the file name, tar key or row number when absent."""

    image_size: int | None = None
    """Store pictures centre-cropped and resized to this many pixels; None keeps the bytes."""

    pictures_per_shard: int = 4096
    """Pictures in one shard and index part; also the unit of captioning work."""

    max_pixels: int = 64_000_000
    """Pictures larger than this are rejected before they are decoded."""

    max_rejected_share: float = 0.1
    """Share of rejected rows above which the job stops."""

    num_workers: int = 2
    """Worker processes; cannot change a byte of the result."""


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Write captions of a subset of pictures: the fine-tuning corpora and people's prompts."""

    images: Path
    """Images artifact."""

    teacher: Literal["claims", "texts"]
    """`claims`: the embedded world's language, from the truth. `texts`: the people's texts that
    came with the pictures."""

    kinds: list[str]
    """Kinds written. `claims` teacher: ssc, dsc, human, truth, shuffled, judge. `texts` teacher:
    ssc (one text alone), dsc (all but the alt text, joined), human, judge."""

    split: Literal["train", "judge", "test", "all"] = "train"
    """Which pictures are annotated."""

    num_pictures: int | None = None
    """How many, chosen by keyed randomness so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice and of the phrasings."""


@dataclass(frozen=True, kw_only=True)
class CaptionerSizeConfig:
    """Size of a captioner trained from scratch."""

    tower: Literal["conv", "vit"] = "conv"
    """`conv`: a small convolutional stem and a transformer; `vit`: open_clip's ViT."""

    image_size: int = 32
    """Pixels a side that the image tower sees."""

    patch_size: int = 8
    """Pixels a side of one image token."""

    width: int = 128
    """Width of all three towers."""

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

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound; a small corpus may need less)."""


@dataclass(frozen=True, kw_only=True)
class CaptionerTrainConfig:
    """Pretrain a captioner on alt text, or fine-tune one on an annotated subset."""

    images: Path
    """Images artifact; only its training split is read, and the test split for validation."""

    captions: list[Path] = field(default_factory=list)
    """Captions artifacts that hold `kind`; not needed for `alt`."""

    tokenizer_texts: list[Path] = field(default_factory=list)
    """Captions artifacts whose texts, with the alt texts, train the vocabulary of a new model."""

    kind: str
    """Kind of caption learned: alt to pretrain, ssc or dsc to fine-tune."""

    init: Path | None = None
    """Captioner to start from; None starts from scratch."""

    model: CaptionerSizeConfig = field(default_factory=CaptionerSizeConfig)
    """Size of a new model; with `init` the starting captioner's own size is used instead."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 128
    """Pictures per step over all processes; a multiple of 8."""

    lr: float = 1e-3
    """Peak learning rate."""

    warmup_samples: int = 2560
    """Pictures over which the rate rises from zero; afterwards it falls as a cosine."""

    weight_decay: float = 0.05
    """AdamW weight decay of matrices."""

    captioning_weight: float = 2.0
    """Weight of the captioning loss (CoCa: 2)."""

    contrastive_weight: float = 1.0
    """Weight of the contrastive loss (CoCa: 1)."""

    ema_decay: float = 0.99
    """Share of the old weight average kept at each step."""

    checkpoint_samples: int = 12_800
    """Pictures between exact checkpoints."""

    log_samples: int = 2560
    """Pictures between log lines."""

    seed: int = 0
    """Seed of initial weights and of every draw."""

    threads: int = 2
    """CPU threads; part of the recipe because arithmetic depends on it."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How tokens are chosen."""

    method: Literal["greedy", "sample"] = "greedy"
    """Greedy, or sampling with keyed randomness."""

    temperature: float = 1.0
    """Divides the logits when sampling."""

    top_p: float = 1.0
    """Nucleus kept when sampling."""

    max_tokens: int = 96
    """Longest caption in tokens."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Named rules that quarantine a bad caption."""

    min_words: int = 1
    """Fewer words than this: rule `too_short`."""

    max_words: int = 200
    """More words than this: rule `too_long`."""

    max_repeats: int = 4
    """A phrase repeated this often in a row: rule `loop`."""

    max_gated_share: float = 0.2
    """Share of gated captions above which the job stops."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Caption every picture of an images artifact with one captioner."""

    images: Path
    """Images artifact."""

    captioner: Path
    """Captioner artifact."""

    kind: str
    """Kind that the captions are stored under."""

    splits: list[str] = field(default_factory=lambda: ["train", "test"])
    """Which splits are captioned."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """How tokens are chosen."""

    gates: GateConfig = field(default_factory=GateConfig)
    """Rules for a bad caption."""

    batch_size: int = 256
    """Rows decoded together; a multiple of 8, part of the recipe."""

    seed: int = 0
    """Seed of sampling."""

    threads: int = 2
    """CPU threads; part of the recipe."""
