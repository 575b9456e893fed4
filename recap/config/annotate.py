"""Settings of `recap annotate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_share
from launch.errors import ConfigError
from recap.config.endpoint import TeacherConfig
from recap.config.kinds import refuse_odd_kind


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
