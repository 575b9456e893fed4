"""Settings of the recap verbs. Free of torch, so that `--help` and `--dry-run` are quick."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from launch.config import require_multiple_of_8, require_positive, require_share
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

    NOT_IN_RECIPE: ClassVar = frozenset({"max_rejected_share", "num_workers"})

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

    def __post_init__(self) -> None:
        require_positive(self, "pictures_per_shard", "max_pixels", "num_workers")
        if self.image_size is not None:
            require_positive(self, "image_size")
        require_share(self, "max_rejected_share")


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


RULE_NAMES = (
    "empty",
    "too_short",
    "too_long",
    "loop",
    "unfinished",
    "broken_text",
    "refusal",
    "boilerplate",
    "digits_only",
    "wrong_script",
    "missing_words",
    "same_text",
)
"""Rules for a bad caption, as `recap/gates.py` has them."""

SCRIPTS = ("arabic", "cjk", "cyrillic", "devanagari", "greek", "hebrew", "latin", "thai")
"""Families of scripts that a caption may have to be written in, as `recap/gates.py` has them."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Named rules that quarantine a bad caption."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_gated_share"})

    rules: list[str] | None = None
    """Rules that are applied, by name; None applies them all."""

    min_words: int = 1
    """Fewer words than this: rule `too_short`."""

    max_words: int = 200
    """More words than this: rule `too_long`."""

    max_repeats: int = 4
    """A phrase repeated this often in a row: rule `loop`."""

    script: str | None = None
    """Family of scripts that captions are written in, such as `latin`; another: rule
    `wrong_script`. None is off."""

    max_other_script_share: float = 0.2
    """Share of a caption's letters that another script may have."""

    required_words: list[str] = field(default_factory=list)
    """Words or phrases of which none may be missing: rule `missing_words`."""

    max_pictures_per_text: int | None = None
    """One text on more pictures of a part than this: rule `same_text`. None is off: where pictures
    are simple, short captions that are right are often equal."""

    max_gated_share: float = 0.2
    """Share of gated captions above which the job stops."""

    def __post_init__(self) -> None:
        for rule in self.rules or []:
            if rule not in RULE_NAMES:
                raise ConfigError(
                    f"gates.rules: unknown rule {rule!r}; expected some of {', '.join(RULE_NAMES)}"
                )
        if self.max_repeats < 2:
            raise ConfigError(f"gates.max_repeats must be at least 2, got {self.max_repeats}")
        if self.script is not None and self.script not in SCRIPTS:
            raise ConfigError(
                f"gates.script: got {self.script!r}, expected one of {', '.join(SCRIPTS)}"
            )
        if not 0 <= self.max_other_script_share <= 1:
            raise ConfigError(
                "gates.max_other_script_share must lie in [0, 1], got "
                f"{self.max_other_script_share:g}"
            )
        if not all(re.search(r"\w", word) for word in self.required_words):
            raise ConfigError(
                f"gates.required_words: every entry needs a word, got {self.required_words}"
            )
        if self.max_pictures_per_text is not None and self.max_pictures_per_text < 1:
            raise ConfigError(
                "gates.max_pictures_per_text must be at least 1, got "
                f"{self.max_pictures_per_text}; leave it out to switch the rule off"
            )
        if not 0 <= self.max_gated_share <= 1:
            raise ConfigError(
                f"gates.max_gated_share must lie in [0, 1], got {self.max_gated_share:g}"
            )


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A server that speaks OpenAI's chat interface, and how hard it may be asked."""

    NOT_IN_RECIPE: ClassVar = frozenset(
        {
            "base_url",
            "key_variable",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_s",
            "max_retries",
            "retry_wait_s",
            "budget_usd",
            "usd_per_million_input_tokens",
            "usd_per_million_output_tokens",
            "tokens_per_picture",
        }
    )

    model: str
    """Name under which the server knows the model."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, up to and with `/v1`; it may move, answers are kept by model."""

    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; None for a server that asks for none."""

    concurrency: int = 8
    """Requests under way at once."""

    requests_per_minute: int | None = None
    """Limit that the server sets; None is no limit of ours."""

    tokens_per_minute: int | None = None
    """The same, in tokens of input and output; a request counts with the most it may take."""

    timeout_s: float = 120.0
    """Seconds after which a request without an answer is given up and sent again."""

    max_retries: int = 6
    """Times that one request is sent again."""

    retry_wait_s: float = 1.0
    """Wait before the first retry, about; each further one waits about twice as long, a minute at
    most, and never less than the server asks for."""

    budget_usd: float | None = None
    """Most that all answers of a ledger may cost together; needs prices."""

    usd_per_million_input_tokens: float = 0.0
    """Price of what is sent."""

    usd_per_million_output_tokens: float = 0.0
    """Price of what is answered."""

    tokens_per_picture: int = 2000
    """Most input tokens that the server counts for one picture; the budget relies on it."""

    max_output_tokens: int = 512
    """Longest answer; a longer one is cut off and rejected."""

    temperature: float | None = 0.0
    """Of sampling; None leaves it to the server, as some models demand."""

    seed: int | None = 0
    """Seed sent to the server, which may or may not heed it; None sends none."""

    def __post_init__(self) -> None:
        require_positive(self, "concurrency", "max_output_tokens", "tokens_per_picture")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        for name in ("timeout_s", "retry_wait_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name):g}")
        prices = (self.usd_per_million_input_tokens, self.usd_per_million_output_tokens)
        if min(self.max_retries, *prices) < 0:
            raise ConfigError("max_retries and prices must be 0 or more")
        if self.budget_usd is not None and (self.budget_usd < 0 or max(prices) == 0):
            raise ConfigError(
                f"budget_usd={self.budget_usd:g} needs usd_per_million_input_tokens and "
                "usd_per_million_output_tokens, as the server's price list has them, and must be "
                "0 or more"
            )
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(
                f"base_url: expected an address such as http://localhost:8000/v1, got "
                f"{self.base_url!r}"
            )
        if address.username or address.password or address.query:
            raise ConfigError(
                "base_url carries a name, a password or a query, which would be written into the "
                "run folder; put the key into the environment variable that key_variable names"
            )
        if self.key_variable is not None and not re.fullmatch(
            r"[A-Z_][A-Z0-9_]*", self.key_variable
        ):
            raise ConfigError(
                "key_variable must be the name of an environment variable in capitals, such as "
                "OPENAI_API_KEY, never the key itself; what was given is not shown here"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A vision-language model behind an endpoint that looks at pictures and captions them."""

    endpoint: EndpointConfig
    """The server."""

    instruction: str = (
        "Caption the picture twice. ssc: one short sentence on the main subject. dsc: a "
        "descriptive caption of several sentences on every subject with its number, colours, "
        "material and place, on the background, on displayed words and on the style. Tell only "
        "what can be seen, without an opening such as 'The image shows'."
    )
    """What the teacher is told; the kinds are named as they are in the answer."""

    picture_px: int = 512
    """Longer side of the pictures that are sent, at most."""

    ledger: Path | None = None
    """File that keeps every answer; several runs may share one. None is `ledger.jsonl` in the run
    folder."""

    gates: GateConfig = field(default_factory=GateConfig)
    """Rules that quarantine a caption."""

    def __post_init__(self) -> None:
        require_positive(self, "picture_px")


@dataclass(frozen=True, kw_only=True)
class MistakesConfig:
    """Mistakes made on purpose by the teacher `claims`, to learn what captioner errors cost."""

    omission: float = 0.0
    """Probability that a statement is left unsaid; with a thing go all statements about it."""

    hallucination: float = 0.0
    """Probability that a statement which is made is false."""

    def __post_init__(self) -> None:
        require_share(self, "omission", "hallucination")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """Write captions of a subset of pictures: the fine-tuning corpora and people's prompts."""

    SINCE_LATER: ClassVar = frozenset({"mistakes", "stored_as"})

    images: Path
    """Images artifact."""

    teacher: Literal["claims", "texts", "endpoint"]
    """`claims`: the embedded world's language, from the truth. `texts`: the people's texts that
    came with the pictures. `endpoint`: a vision-language model that looks at them."""

    kinds: list[str]
    """Kinds written. `claims` teacher: ssc, dsc, human, truth, shuffled, judge. `texts` teacher:
    ssc (one text alone), dsc (all but the alt text, joined), human, judge. `endpoint` teacher: ssc,
    dsc."""

    split: Literal["train", "judge", "test", "all"] = "train"
    """Which pictures are annotated."""

    num_pictures: int | None = None
    """How many, chosen by keyed randomness so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice and of the phrasings."""

    vlm: TeacherConfig | None = None
    """Who is asked, and how, when `teacher` is `endpoint`."""

    mistakes: MistakesConfig = field(default_factory=MistakesConfig)
    """What the teacher `claims` gets wrong on purpose."""

    stored_as: dict[str, str] = field(default_factory=dict)
    """Kind as the teacher knows it -> kind that its captions are stored under, if another: several
    teachers' descriptions can then be arms of one study."""

    def __post_init__(self) -> None:
        if self.mistakes != MistakesConfig() and self.teacher != "claims":
            raise ConfigError(
                f"mistakes are made by the teacher `claims` alone; teacher is {self.teacher}"
            )
        if unknown := sorted(self.stored_as.keys() - set(self.kinds)):
            raise ConfigError(
                f"stored_as.{unknown[0]}: is none of the kinds that are written, "
                f"{', '.join(self.kinds)}"
            )
        names = [self.stored_as.get(kind, kind) for kind in dict.fromkeys(self.kinds)]
        if len(set(names)) < len(names):
            raise ConfigError(f"stored_as: two kinds would be stored under one name, {names}")
        for name in self.stored_as.values():
            refuse_odd_kind(name)
        if self.stored_as and self.teacher == "endpoint":
            raise ConfigError(
                "stored_as: an endpoint's answers are stored under the kinds it was asked for"
            )
        if (self.vlm is not None) != (self.teacher == "endpoint"):
            raise ConfigError(
                "vlm describes the teacher `endpoint`, which needs vlm.endpoint.model; "
                f"teacher is {self.teacher}"
            )


RESERVED_KINDS = ("alt", "sample_id", "key", "file_name")
"""What no new kind of caption may be called: `alt` is what came with the pictures, the others are
columns beside captions."""


def refuse_odd_kind(kind: str) -> None:
    """Refuse a kind of caption whose name cannot stand in file names and columns."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", kind) or kind in RESERVED_KINDS:
        raise ConfigError(
            f"kind must be letters, digits, _ and - alone, and none of {', '.join(RESERVED_KINDS)};"
            f" got {kind!r}"
        )


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


@dataclass(frozen=True, kw_only=True)
class TaggerSizeConfig:
    """Size of a tagger fitted from scratch."""

    image_size: int = 32
    """Pixels a side that it sees."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 128])
    """Channels of each level; every level halves the side."""

    width: int = 256
    """Features from which every tag is read."""

    def __post_init__(self) -> None:
        require_positive(self, "image_size", "width")
        if not self.channels or min(self.channels) < 8 or any(c % 8 for c in self.channels):
            raise ConfigError(f"model.channels must be multiples of 8, got {self.channels}")
        if self.image_size % 2 ** len(self.channels):
            raise ConfigError(
                f"model.image_size must be a multiple of {2 ** len(self.channels)} for "
                f"{len(self.channels)} levels, got {self.image_size}"
            )


@dataclass(frozen=True, kw_only=True)
class FitTaggerConfig:
    """Fit a small tagger on the words of annotated pictures."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples", "log_samples"})

    images: Path
    """Images artifact; only annotated pictures of its training split are read."""

    captions: list[Path]
    """Captions artifacts with the annotated texts."""

    kinds: list[str]
    """Kinds whose words become tags; a picture's tags are the words of all of them."""

    phrase_words: int = 1
    """Words of the longest tag; 2 makes tags such as `red circle` of neighbours, too."""

    min_share: float = 0.005
    """Share of the pictures whose texts must have a word before it is a tag."""

    max_share: float = 0.95
    """Words in the texts of more pictures than this say nothing and are no tags."""

    max_tags: int = 512
    """Most tags, the frequent ones first."""

    held_out_pictures: int = 2000
    """Annotated pictures kept out of the fit, at most a quarter: one half chooses thresholds, the
    other measures."""

    min_f1: float = 0.6
    """Tags with less than this on the half that chooses are dropped."""

    min_gain: float = 0.05
    """How much better in F1 a tag must be than saying it of every picture."""

    model: TaggerSizeConfig = field(default_factory=TaggerSizeConfig)
    """Size of the network."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 64
    """Pictures per step, a multiple of 8."""

    lr: float = 2e-3
    """Peak learning rate."""

    warmup_samples: int = 2560
    """Pictures over which the rate rises from zero (at most a quarter of all); afterwards it falls
    as a cosine."""

    weight_decay: float = 0.05
    """AdamW weight decay of matrices."""

    ema_decay: float = 0.99
    """Share of the old weight average kept at each step; less in the first steps."""

    checkpoint_samples: int = 12_800
    """Pictures between exact checkpoints."""

    log_samples: int = 2560
    """Pictures between log lines."""

    seed: int = 0
    """Seed of initial weights, of the order, and of which pictures are held out."""

    threads: int = 1
    """CPU threads; part of the recipe because arithmetic depends on it."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(
            self, "phrase_words", "max_tags", "samples", "checkpoint_samples", "log_samples",
            "threads",
        )  # fmt: skip
        require_share(self, "min_share", "max_share", "min_f1", "min_gain")
        if self.held_out_pictures < 16:
            raise ConfigError(
                f"held_out_pictures must be at least 16, got {self.held_out_pictures}"
            )
        if not self.captions or not self.kinds:
            raise ConfigError(
                "captions and kinds: name at least one captions artifact with annotated texts and "
                f"one kind of it, got {len(self.captions)} and {self.kinds}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in [0, 1), got {self.ema_decay:g}")


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """Write a captioner's text tower as a text encoder for image models."""

    captioner: Path
    """Captioner artifact, or public weights as `open_clip:NAME/TAG` or `open_clip:NAME@FILE`."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Make a captions artifact of texts that lie in a table."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_rejected_share"})

    images: Path
    """Images artifact that the texts speak of."""

    file: Path
    """Table: .parquet, .csv, .tsv or .jsonl."""

    kind: str
    """Kind that the captions are stored under."""

    name_column: str = "file_name"
    """Column that names the picture: its sample_id, its key in the source, its file name, or that
    without its ending."""

    text_column: str = "caption"
    """Column that holds the text."""

    max_rejected_share: float = 0.1
    """Share of rows that name no picture, several, or have no text, above which the job stops."""

    def __post_init__(self) -> None:
        require_share(self, "max_rejected_share")
        refuse_odd_kind(self.kind)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write captions in a form that another program reads."""

    images: Path
    """Images artifact that the captions speak of."""

    captions: list[Path]
    """Captions artifacts."""

    form: Literal["jsonl", "csv", "txt", "webdataset", "datasets"]
    """One table; one .txt beside each picture's name; tar shards with pictures; or a folder that
    `datasets.load_dataset("imagefolder", data_dir=...)` reads."""

    kinds: list[str] = field(default_factory=list)
    """Kinds written; `alt` may be one of them; empty takes all of the artifacts."""
