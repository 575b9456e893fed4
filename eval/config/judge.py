"""Settings of `eval judge`: a chat server that is asked, or BLIP-VQA."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError
from recap.endpoint import EndpointConfig


@dataclass(frozen=True, kw_only=True)
class AskedConfig:
    """A vision-language model behind an endpoint that answers questions with yes or no."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_unclear_share"})

    endpoint: EndpointConfig
    """The server."""

    ask: list[Literal["prompt", "questions"]] = field(default_factory=lambda: ["prompt"])
    """`prompt`: one question a picture, whether it shows all that the prompt asks for;
    `questions`: those that the prompts carry (DSG-1k, DPG-Bench)."""

    instruction: str = (
        "Look at the picture and answer the question with one word, yes or no. Answer yes only if "
        "the picture shows it."
    )
    """What the model is told before every question."""

    prompt_question: str = (
        "Does this picture show exactly what the prompt asks for: everything that it names, in the "
        "number, with the attributes and in the places that it says?\nPrompt: {prompt}"
    )
    """Question about a whole prompt; {prompt} is replaced by it."""

    gating: list[Literal["parents", "ancestors"]] = field(
        default_factory=lambda: ["parents", "ancestors"]
    )
    """Questions that must be answered yes for one to count: those that it names, and all that
    these depend on in turn. Each gives a metric of its own."""

    circles: Literal["refuse", "leave_out"] = "refuse"
    """Questions that depend on one another in a circle have no order of ancestors: refuse the
    prompts, or leave such prompts out of that one metric and count them."""

    picture_px: int = 512
    """Longer side of the pictures that are sent, at most."""

    ledger: Path | None = None
    """File that keeps every answer; several runs may share one. None is `ledger.jsonl` in the run
    folder."""

    max_unclear_share: float = 0.02
    """Share of the answers that may be neither yes nor no; more stop the job."""

    def __post_init__(self) -> None:
        require_positive(self, "picture_px")
        require_share(self, "max_unclear_share")
        for name in ("ask", "gating"):
            found = getattr(self, name)
            if not found or len(set(found)) < len(found):
                raise ConfigError(f"{name} must name one or both, each once, got {found}")
        if "{prompt}" not in self.prompt_question:
            raise ConfigError(
                "prompt_question must say where the prompt goes: {prompt}, got "
                f"{self.prompt_question!r}"
            )


@dataclass(frozen=True, kw_only=True)
class VqaConfig:
    """BLIP-VQA, run here, which says how probable "yes" is for each noun phrase of a prompt."""

    NOT_IN_RECIPE: ClassVar = frozenset({"max_rejected_share"})

    model: Path
    """Folder or hub id of a `BlipForQuestionAnswering` of transformers, in safetensors."""

    phrases: Path | None = None
    """Phrases of every prompt: a JSON object, or JSONL or CSV with `prompt` and `phrases`. None
    takes them from the claims, and where there are none from a rule."""

    question_start: Literal["enc", "cls"] = "enc"
    """First token of a question: BLIP's own [ENC], as T2I-CompBench has it, or [CLS], as the
    processor of transformers writes it."""

    max_tokens: int = 35
    """Most tokens of a question; longer ones are cut, and counted."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model."""

    batch_size: int = 16
    """Pictures, and questions, per step; a multiple of 8, part of the recipe."""

    max_rejected_share: float = 0.05
    """Share of the prompts that may have no phrase; more stop the job."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        require_share(self, "max_rejected_share")
        if self.max_tokens < 4:
            raise ConfigError(f"max_tokens must be at least 4, got {self.max_tokens}")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Ask yes-or-no questions about pictures: of a chat server, or of a local BLIP-VQA."""

    generations: list[Path]
    """Generations artifacts, one per arm and seed."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    images: Path | None = None
    """Images artifact of the prompts' pairs; its pictures are judged as a ceiling."""

    styles: list[str] = field(default_factory=list)
    """Prompt styles whose pictures are judged; empty takes all that were drawn."""

    moments: Literal["last", "all"] = "last"
    """Pictures of the finished models alone, or of their snapshots too."""

    originals: dict[str, str] = field(default_factory=dict)
    """Style -> style whose text of the same pair its pictures are judged by. Those not named: a
    style made by `t2i upsample` has the one that it rewrote, styles of a prompt list the first of
    the list, all others their own."""

    asked: AskedConfig | None = None
    """A vision-language model behind an endpoint."""

    vqa: VqaConfig | None = None
    """BLIP-VQA, run here."""

    def __post_init__(self) -> None:
        if not self.generations:
            raise ConfigError("generations must name at least one folder: generations=[DIR, ...]")
        if (self.asked is None) == (self.vqa is None):
            raise ConfigError(
                "give one judge: asked.endpoint.model=NAME for a chat server, or vqa.model=DIR for "
                "a local BLIP-VQA"
            )
