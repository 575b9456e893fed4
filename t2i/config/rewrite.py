"""Settings of prompts in other words: `t2i fit-rewriter`, `upsample` and `alter`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError
from recap.endpoint import EndpointConfig


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
    "as_people_write",
)
"""Ways in which `alter` changes the form of a prompt."""

ANEW: Final = "as_people_write"
"""The one that writes a text anew, so that nothing is left of what was done to it before."""


@dataclass(frozen=True, kw_only=True)
class AlterConfig:
    """Add styles to a prompt table: the prompts of one style in altered form."""

    prompts: Path
    """Prompts artifact."""

    style: str
    """Style that is altered."""

    rules: dict[str, list[str]]
    """Name of each new style, and what is done to a prompt, one after the other: lower_case,
    upper_case, no_final_punctuation, no_leading_article, shuffled_sentences, first_sentence,
    as_people_write."""

    seed: int = 0
    """Seed of the order of sentences and of phrasings."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigError("rules must name at least one new style")
        for name, rules in self.rules.items():
            unknown = [rule for rule in rules if rule not in ALTERATIONS]
            if unknown or not rules:
                raise ConfigError(
                    f"rules.{name}: got {rules}, expected some of {', '.join(ALTERATIONS)}"
                )
            if ANEW in rules[1:]:
                raise ConfigError(
                    f"rules.{name}: {ANEW} writes a prompt anew and undoes what was done before; "
                    f"got {rules}, put it first"
                )
            last = "no_final_punctuation"
            if last in rules and "shuffled_sentences" in rules[rules.index(last) :]:
                raise ConfigError(
                    f"rules.{name}: after shuffled_sentences another sentence is the last one; "
                    f"put {last} behind it"
                )
