"""Settings of the t2i verbs. Free of torch, so that `--help` and `--dry-run` are quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError
from recap.endpoint import EndpointConfig


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Fit a small AutoencoderKL on the training pictures."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples"})

    images: Path
    """Images artifact; the training split fits, the test split measures."""

    image_size: int = 32
    """Pixels a side; pictures are centre-cropped and resized."""

    channels: list[int] = field(default_factory=lambda: [32, 64, 64])
    """Channels of each level; every level but the last halves the side."""

    layers_per_block: int = 1
    """Residual blocks per level."""

    latent_channels: int = 4
    """Channels of the latents."""

    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term, per latent value."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 64
    """Pictures per step."""

    lr: float = 2e-3
    """Peak learning rate."""

    seed: int = 0
    """Seed of initial weights and draws."""

    checkpoint_samples: int = 6400
    """Pictures between exact checkpoints."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "samples", "checkpoint_samples", "threads")
        require_positive(self, "latent_channels", "image_size")


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Fit the embedded default's own small T5 by its own objective: fill in masked text."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples"})

    texts: list[Path]
    """Captions artifacts whose texts are learned, equal tokens per kind."""

    kinds: list[str]
    """Kinds of text read from them."""

    width: int = 128
    """Model width."""

    num_layers: int = 3
    """Encoder layers."""

    num_heads: int = 4
    """Attention heads."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound)."""

    max_tokens: int = 96
    """Longest text in tokens."""

    samples: int
    """Texts seen in training."""

    batch_size: int = 128
    """Texts per step."""

    lr: float = 2e-3
    """Peak learning rate."""

    seed: int = 0
    """Seed of initial weights and draws."""

    checkpoint_samples: int = 12_800
    """Texts between exact checkpoints."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "samples", "checkpoint_samples", "threads")
        require_positive(self, "max_tokens", "vocab_size", "num_heads")
        if self.width % self.num_heads:
            raise ConfigError(
                f"width must be a multiple of num_heads={self.num_heads}, got {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """Cache latents once per picture, or text states once per distinct caption."""

    NOT_IN_RECIPE: ClassVar = frozenset({"budget_gib"})  # what came of it is in the recipe

    images: Path
    """Images artifact; its training split is encoded."""

    autoencoder: Path | None = None
    """Autoencoder artifact, folder or hub id: latents are cached."""

    text_encoder: Path | None = None
    """Text encoder artifact, folder or hub id: text states are cached."""

    captions: list[Path] = field(default_factory=list)
    """Captions artifacts whose texts are encoded, besides the alt texts."""

    beside: list[Path] = field(default_factory=list)
    """Text states artifacts of the same encoder; texts that they hold are left out."""

    image_size: int = 32
    """Pixels a side; pictures are centre-cropped and resized."""

    flip: bool = False
    """Encode the mirrored pictures, for `augmented_latents` of `t2i train`. Mirroring makes left,
    right and displayed words wrong in captions; it hurts descriptive captions most."""

    max_tokens: int = 96
    """Longer texts are truncated, and counted."""

    precision: Literal["float32", "float16"] = "float16"
    """Stored precision of text states; latents are float32."""

    budget_gib: float = 64.0
    """If text states would take more, those of `beside` included, token ids are kept instead, and
    training encodes the text of every step."""

    batch_size: int = 64
    """Rows per step; a multiple of 8."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "image_size", "max_tokens", "threads")
        if (self.autoencoder is None) == (self.text_encoder is None):
            raise ConfigError("encode: give exactly one of autoencoder= and text_encoder=")
        if self.flip and self.autoencoder is None:
            raise ConfigError("flip: true is for pictures; texts have no mirror. Leave it out")
        if self.beside and self.text_encoder is None:
            raise ConfigError("beside is for texts; latents of other pictures have no use here")
        if self.budget_gib < 0:
            raise ConfigError(f"budget_gib must be at least 0, got {self.budget_gib:g}")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """A machine that a plan is priced for; it need not be this one."""

    name: str
    """Its GPU, for the reader."""

    num_gpus: int
    """GPUs of all machines together."""

    gib: float
    """Memory of one GPU in GiB."""

    tflops: float
    """Peak of one GPU in bfloat16, dense, in TFLOP/s, as its maker states it."""

    utilisation: float = 0.4
    """Share of the peak that a training uses; an assumption."""

    def __post_init__(self) -> None:
        require_positive(self, "num_gpus")
        require_share(self, "utilisation")
        for name in ("gib", "tflops", "utilisation"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"machine.{name} must be above 0, got {getattr(self, name):g}")


@dataclass(frozen=True, kw_only=True)
class ExpectedConfig:
    """Sizes of inputs that do not exist yet, for a dry run alone."""

    pictures: int
    """Pictures trained on."""

    latent_channels: int = 4
    """Channels of the latents."""

    latent_side: int
    """Latents a side: the picture's side over the autoencoder's factor."""

    text_width: int
    """Width of the text encoder's states."""

    max_tokens: int
    """Longest text in tokens, which the others of a batch are padded to."""

    tokens_per_text: float
    """Mean length of a text in tokens, unpadded."""

    texts_per_picture: float
    """Distinct texts of a picture, all kinds together."""

    text_encoder_parameters: int
    """Parameters of the frozen text encoder."""

    autoencoder_parameters: int
    """Parameters of the frozen autoencoder."""

    def __post_init__(self) -> None:
        require_positive(self, "pictures", "latent_channels", "latent_side", "text_width")
        require_positive(self, "max_tokens", "tokens_per_text", "texts_per_picture")
        require_positive(self, "text_encoder_parameters", "autoencoder_parameters")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train one text-conditioned latent diffusion model: one arm, one seed."""

    NOT_IN_RECIPE: ClassVar = frozenset(
        {"checkpoint_samples", "log_samples", "num_workers", "trackers", "machine", "expected"}
    )

    images: Path
    """Images artifact."""

    captions: list[Path] = field(default_factory=list)
    """Captions artifacts that hold the kinds of the mix."""

    latents: Path
    """Latents artifact."""

    augmented_latents: list[Path] = field(default_factory=list)
    """Further latents artifacts of the same pictures, mirrored ones for example; one entry is
    drawn for each picture and epoch. Arms of a study share them."""

    text_states: list[Path]
    """Text states artifacts that, with `further_text_states`, cover every caption used. Where the
    denoiser starts from depends on them, so arms of a study share them."""

    further_text_states: list[Path] = field(default_factory=list)
    """Text states of captions that other arms of the study do not have."""

    arm: str
    """Name of the arm; cannot change a number."""

    caption_mix: dict[str, float]
    """Kind -> probability, summing to 1."""

    required_kinds: list[str]
    """Pictures without an accepted caption of each of these are left out and counted."""

    fallback: dict[str, str] = field(default_factory=dict)
    """Kind of the mix -> kind that stands in where a picture has no caption of it; counted. For a
    single run: arms of a study train on pictures that have every kind."""

    size: Literal["tiny", "small", "base", "paper"] = "tiny"
    """Denoiser size by name."""

    objective: Literal["flow", "noise", "velocity"] = "flow"
    """Rectified flow, noise prediction or v-prediction."""

    samples: int
    """Pictures seen in training."""

    batch_size: int = 64
    """Pictures per step over all processes; a multiple of 8."""

    microbatch: int | None = None
    """Pictures that a process puts through the model at once, a multiple of 8; None: all of its
    part of the batch. Gradients of the parts are added up."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the denoiser; weights, moments and averages stay float32."""

    checkpoint_activations: bool = False
    """Keep only the inputs of each block and compute the rest again in the backward pass: less
    memory, about a third more time."""

    compile: bool = False
    """Compile the denoiser with torch.compile: a start of minutes, then quicker steps."""

    attention: Literal["torch", "xformers"] = "torch"
    """Whose attention kernels; xformers needs a GPU and `pip install captionmix[gpu]`."""

    lr: float = 1e-3
    """Peak learning rate."""

    warmup_samples: int = 3200
    """Pictures over which the rate rises from zero; afterwards it falls as a cosine."""

    weight_decay: float = 0.01
    """AdamW weight decay."""

    clip_norm: float = 1.0
    """Largest gradient norm."""

    ema_decays: list[float] = field(default_factory=lambda: [0.995])
    """Share of the old weight average kept at each step, for one or two averages. The first is the
    model; the second is kept beside it as `averages/<decay>/`."""

    text_dropout: float = 0.1
    """Share of samples trained without text, for guidance."""

    snapshots: int = 4
    """Evenly spaced averaged weights kept for curves; the last is the model."""

    checkpoint_samples: int = 6400
    """Pictures between exact checkpoints."""

    log_samples: int = 1280
    """Pictures between log lines."""

    prompts: Path | None = None
    """Prompts artifact of held-out pictures, on which the averaged weights are validated."""

    validation_style: str = "human"
    """Style of the prompts validated on."""

    validation_pairs: int = 256
    """Pairs validated on, the first of the prompts artifact; all of them where it has fewer."""

    validation_samples: int | None = None
    """Pictures between validations; None validates at the snapshots. The end is always one."""

    grid_pairs: int = 8
    """Pairs whose pictures are drawn at each validation; 0 draws none."""

    trackers: list[str] = field(default_factory=list)
    """Trackers that mirror the log, by accelerate's names (tensorboard, wandb, ...)."""

    seed: int = 0
    """Seed of initial weights, order, noise, timesteps, dropout and caption draws."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    num_workers: int = 0
    """Threads that gather batches ahead of the loop; 0 gathers in the loop. Cannot change a bit."""

    machine: MachineConfig | None = None
    """Machine that a dry run tells memory and days for; cannot change a number."""

    expected: ExpectedConfig | None = None
    """Sizes that a dry run takes while inputs do not exist; cannot change a number."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        if self.microbatch is not None:
            require_multiple_of_8(self, "microbatch")
        require_positive(self, "snapshots", "checkpoint_samples", "log_samples", "threads")
        if self.samples < self.batch_size:
            raise ConfigError(
                f"samples={self.samples} must be at least one batch of {self.batch_size}"
            )
        if self.num_workers < 0:
            raise ConfigError(f"num_workers must not be negative, got {self.num_workers}")
        if self.validation_samples is not None:
            require_positive(self, "validation_samples")
        if not 0 <= self.grid_pairs <= self.validation_pairs:
            raise ConfigError(
                f"grid_pairs must lie between 0 and validation_pairs={self.validation_pairs}, "
                f"got {self.grid_pairs}"
            )
        if not 0 <= self.text_dropout < 1:
            raise ConfigError(f"text_dropout must lie in [0, 1), got {self.text_dropout:g}")
        decays = self.ema_decays
        if not 1 <= len(set(decays)) == len(decays) <= 2 or not all(0 <= d < 1 for d in decays):
            raise ConfigError(f"ema_decays must be one or two numbers in [0, 1), got {decays}")
        for name in ("lr", "clip_norm", "validation_pairs"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name):g}")
        for kind, other in self.fallback.items():
            if kind not in self.caption_mix or kind in self.required_kinds or kind == other:
                raise ConfigError(
                    f"fallback: {kind}: {other} can never be used; expected a kind of caption_mix "
                    "that is not among required_kinds, and another kind to stand in for it"
                )
        if not self.text_states:
            raise ConfigError("text_states: name at least one text states artifact, got none")
        if self.machine is not None and self.batch_size % (8 * self.machine.num_gpus):
            raise ConfigError(
                f"batch_size must be a multiple of 8 for each of machine.num_gpus="
                f"{self.machine.num_gpus}, got {self.batch_size}"
            )
        total = sum(self.caption_mix.values())
        if abs(total - 1) > 1e-6 or any(p < 0 for p in self.caption_mix.values()):
            raise ConfigError(
                f"caption_mix must hold probabilities that sum to 1, got {dict(self.caption_mix)} "
                f"(sum {total:g})"
            )


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Build a prompt table of held-out pictures in several styles."""

    images: Path
    """Images artifact."""

    captions: list[Path]
    """Captions artifacts that hold the styles."""

    styles: list[str]
    """Styles (caption kinds, or alt); rows of one picture share a `pair_id`."""

    split: Literal["train", "judge", "test"] = "test"
    """Split that the pictures come from."""

    num_pairs: int | None = None
    """How many pictures, chosen by key so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ConfigError(f"num_pairs must be at least 1, got {self.num_pairs}")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """One style of a prompt list: where it lies and how it is read."""

    path: Path
    """The file; for `t2i_compbench` and `dpg` the folder."""

    format: Literal["lines", "csv", "tsv", "jsonl", "geneval", "t2i_compbench", "dsg", "dpg"]
    """`lines`: one prompt a line. `csv`, `tsv` (no quoting), `jsonl`: one prompt a row, by column.
    `geneval`: evaluation_metadata.jsonl. `t2i_compbench`: a folder of NAME_val.txt. `dsg`: the CSV
    of questions. `dpg`: a folder with a text file for each prompt."""

    prompt_column: str = "prompt"
    """Column or JSON key that holds the prompt."""

    key_column: str | None = None
    """Column or JSON key that names a row; None takes its number, counted from 1."""

    category_column: str | None = None
    """Column or JSON key that holds the category."""

    questions: Path | None = None
    """CSV of the questions that belong to a folder of format `dpg`."""

    def __post_init__(self) -> None:
        has_columns = self.format in {"csv", "tsv", "jsonl"}
        named = self.prompt_column != "prompt" or self.key_column or self.category_column
        if named and not has_columns:
            raise ConfigError(
                f"prompt_column, key_column and category_column are for csv, tsv and jsonl; format "
                f"{self.format} has its own. Leave them out"
            )
        if self.questions is not None and self.format != "dpg":
            raise ConfigError(f"questions is for format dpg, got format {self.format}")


@dataclass(frozen=True, kw_only=True)
class PromptListConfig:
    """Build a prompt table from a public list, in one style or several that belong together."""

    name: str
    """Name of the list; with an item's key it makes the `pair_id`, wherever the files lie."""

    lists: dict[str, ListConfig]
    """Style -> list; rows with one key are one pair. Lists without keys are paired row by row."""

    num_pairs: int | None = None
    """How many, chosen by key so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice and of the order."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.lists:
            raise ConfigError(
                "prompt-list: give the list a name and at least one style, "
                "lists.STYLE.path=FILE lists.STYLE.format=FORMAT"
            )
        if self.num_pairs is not None:
            require_positive(self, "num_pairs")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Write the images that a model generates for a prompt table."""

    NOT_IN_RECIPE: ClassVar = frozenset({"num_workers"})

    model: Path
    """Model artifact."""

    prompts: Path
    """Prompts artifact."""

    styles: list[str] = field(default_factory=list)
    """Prompt styles; empty takes all."""

    solver: Literal["flow-euler", "ddim", "dpm-solver++"] | None = None
    """Solver; None takes the one saved with the model."""

    num_steps: int = 12
    """Solver steps, each one evaluation of the denoiser."""

    guidance_scale: float = 3.0
    """Classifier-free guidance weight; 1 means off."""

    seeds_per_prompt: int = 1
    """Images per prompt; noise is keyed by (seed, pair_id), so arms and styles share it."""

    curve_styles: list[str] = field(default_factory=list)
    """Styles also sampled from the earlier snapshots, for curves over training."""

    curve_pairs: int = 128
    """Pairs sampled from the earlier snapshots."""

    batch_size: int = 64
    """Images per step; a multiple of 8, part of the recipe."""

    images_per_shard: int = 512
    """Images in one shard, which is also the unit of work; rounded up to whole batches."""

    seed: int = 0
    """Seed of the noise; further images of a prompt count upwards from it."""

    num_workers: int = 1
    """Worker processes; cannot change a byte of the result."""

    threads: int = 1
    """CPU threads of each worker; part of the recipe."""

    compile: bool = False
    """Compile denoiser and decoder with torch.compile: a start of minutes, then quicker steps."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(
            self, "num_steps", "seeds_per_prompt", "images_per_shard", "num_workers", "threads"
        )
        if self.curve_pairs < 0 or self.seed < 0:
            raise ConfigError(
                f"curve_pairs and seed must not be negative, got {self.curve_pairs} and {self.seed}"
            )


@dataclass(frozen=True, kw_only=True)
class FitRewriterConfig:
    """Fit a small T5 that rewrites prompts in the style of the captions that models train on."""

    NOT_IN_RECIPE: ClassVar = frozenset({"checkpoint_samples"})

    images: Path
    """Images artifact; only texts of its training pictures are learned."""

    captions: list[Path]
    """Captions artifacts that hold the kinds."""

    sources: list[str]
    """Kinds of text that are rewritten (caption kinds, or alt)."""

    target: str = "dsc"
    """Kind of text that they become: the style of the image model's captions."""

    width: int = 128
    """Model width."""

    num_layers: int = 2
    """Layers of the encoder, and of the decoder."""

    num_heads: int = 4
    """Attention heads."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound)."""

    max_tokens: int = 96
    """Pairs with a longer text are left out, and counted."""

    samples: int
    """Pairs seen in training."""

    batch_size: int = 64
    """Pairs per step."""

    lr: float = 2e-3
    """Peak learning rate."""

    num_pictures: int | None = None
    """Training pictures whose texts are learned, chosen by key so that smaller choices nest; None
    takes all."""

    held_out_pictures: int = 128
    """Training pictures kept for measuring; at most a tenth of them."""

    seed: int = 0
    """Seed of initial weights and of the order."""

    checkpoint_samples: int = 12_800
    """Pairs between exact checkpoints."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "samples", "checkpoint_samples", "threads", "held_out_pictures")
        require_positive(self, "max_tokens", "vocab_size", "num_heads", "num_layers")
        if self.num_pictures is not None:
            require_positive(self, "num_pictures")
        if self.width % self.num_heads:
            raise ConfigError(
                f"width must be a multiple of num_heads={self.num_heads}, got {self.width}"
            )
        if (
            not self.sources
            or self.target in self.sources
            or len(set(self.sources)) < len(self.sources)
        ):
            raise ConfigError(
                f"sources must be distinct kinds other than target={self.target!r}, at least one; "
                f"got {self.sources}"
            )


@dataclass(frozen=True, kw_only=True)
class RewriteLimits:
    """Where the rules for a rewritten prompt draw their lines."""

    min_words: int = 15
    """A shorter rewrite breaks `too_short`."""

    max_words: int = 80
    """A longer one breaks `too_long`."""

    max_repeats: int = 4
    """A phrase this often in a row breaks `loop`."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.max_words or self.max_repeats < 2:
            raise ConfigError(
                "limits need 1 <= min_words <= max_words and max_repeats of at least 2, got "
                f"{self.min_words}, {self.max_words} and {self.max_repeats}"
            )


INSTRUCTION = (
    "Describe in one paragraph of {min_words} to {max_words} words, as plain visible facts, the "
    "picture that this request for a picture asks for. Keep every thing, number, colour, place and "
    "quoted word of the request as it is, and contradict none. Where the request leaves something "
    "open, decide it. Answer with the description alone.\n\nRequest: {prompt}"
)
"""What a model that follows instructions is asked unless the settings say otherwise."""


@dataclass(frozen=True, kw_only=True)
class UpsampleConfig:
    """Add a style to a prompt table: prompts rewritten as descriptions by a language model."""

    SINCE_LATER: ClassVar = frozenset({"endpoint"})

    prompts: Path
    """Prompts artifact."""

    rewriter: Path | None = None
    """Rewriter artifact, a transformers folder, hub id or GGUF file."""

    endpoint: EndpointConfig | None = None
    """A chat server in place of a rewriter; its `max_output_tokens` stands for `max_tokens`, and
    its own temperature and seed are those of the first attempt."""

    ledger: Path | None = None
    """File that keeps every answer of a server; several runs may share one. None is `ledger.jsonl`
    in the run folder."""

    style: str = "human"
    """Style that is rewritten."""

    name: str = "upsampled"
    """Style that the rewrites get."""

    instruction: str = INSTRUCTION
    """What a model that is no rewriter artifact is asked; {prompt} is replaced by the prompt,
    {min_words} and {max_words} by the limits."""

    limits: RewriteLimits = field(default_factory=RewriteLimits)
    """Length window and loops."""

    attempts: int = 4
    """How often a prompt is tried; the first attempt takes the likeliest words, the others draw."""

    temperature: float = 0.8
    """Of the draws after the first attempt."""

    top_p: float = 0.95
    """Draws are among the likeliest words that together have this probability."""

    max_tokens: int = 128
    """Longest rewrite in tokens; one that has not ended by then counts as `empty`."""

    max_fallback_share: float = 0.5
    """Share of prompts that may stay as they were; more stop the job."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the rewriter."""

    batch_size: int = 32
    """Prompts per step; a multiple of 8, part of the recipe."""

    prompts_per_part: int = 256
    """Prompts between files of finished work; at most this much is lost by a kill."""

    seed: int = 0
    """Seed of the draws."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "attempts", "max_tokens", "prompts_per_part", "threads")
        require_share(self, "top_p", "max_fallback_share")
        if self.temperature <= 0 or self.top_p <= 0:
            raise ConfigError(
                f"temperature and top_p must be above 0, got {self.temperature:g} and "
                f"{self.top_p:g}"
            )
        if (self.rewriter is None) == (self.endpoint is None):
            raise ConfigError(
                "give either rewriter=, a folder, a hub id or a GGUF file, or endpoint.model= with "
                "endpoint.base_url=, a chat server; got "
                + ("neither" if self.rewriter is None else "both")
            )
        if "{prompt}" not in self.instruction:
            raise ConfigError(
                "instruction must say where the prompt goes: write {prompt} there; got "
                f"{self.instruction[:80]!r}"
            )
        if self.name == self.style:
            raise ConfigError(f"name must differ from style={self.style!r}: the original is kept")


ALTERATIONS: Final = (
    "lower_case",
    "upper_case",
    "no_final_punctuation",
    "no_leading_article",
    "shuffled_sentences",
    "first_sentence",
)
"""Ways in which `alter` changes the form of a prompt."""


@dataclass(frozen=True, kw_only=True)
class AlterConfig:
    """Add styles to a prompt table: the prompts of one style in altered form."""

    prompts: Path
    """Prompts artifact."""

    style: str
    """Style that is altered."""

    rules: dict[str, list[str]]
    """Name of each new style, and what is done to a prompt, one after the other: lower_case,
    upper_case, no_final_punctuation, no_leading_article, shuffled_sentences, first_sentence."""

    seed: int = 0
    """Seed of the order of sentences."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("rules must name at least one new style")
        for name, rules in self.rules.items():
            unknown = [rule for rule in rules if rule not in ALTERATIONS]
            if unknown or not rules:
                raise ConfigError(
                    f"rules.{name}: got {rules}, expected some of {', '.join(ALTERATIONS)}"
                )
            last = "no_final_punctuation"
            if last in rules and "shuffled_sentences" in rules[rules.index(last) :]:
                raise ConfigError(
                    f"rules.{name}: after shuffled_sentences another sentence is the last one; "
                    f"put {last} behind it"
                )
