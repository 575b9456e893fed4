"""Settings of `eval report` and `eval recompute`, and the comparison that a study names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from launch.config import require_positive
from launch.errors import ConfigError

COMPARED_IN_CHANGE: Final = ("prompt_following", "clip_similarity")
"""Measures of which the change from one prompt style to another can be primary."""


@dataclass(frozen=True, kw_only=True)
class PrimaryConfig:
    """The one comparison that a study names before it runs."""

    SINCE_LATER: ClassVar = frozenset({"against"})

    better: str
    """Arm expected to be better."""

    than: str
    """Arm it is compared with; itself, where the question is how much training seeds matter."""

    style: str
    """Prompt style."""

    against: str | None = None
    """Prompt style from which the change is compared: not how well an arm follows `style`, but how
    much better than it follows this one."""

    metric: Literal["prompt_following", "clip_similarity", "clip_similarity_sentences", "geneval",
                    "words_exact", "words_right", "judge_yes", "questions_yes",
                    "questions_yes_ancestors", "phrases_yes"]  # fmt: skip
    """`prompt_following` (share of the prompt's claims that hold), `clip_similarity` or the same by
    sentences, `geneval` (prompts of which all holds, a mean over tasks), `words_exact` or
    `words_right` (displayed words, and their characters, that are right), or what `eval judge`
    measures: `judge_yes` (prompts judged shown), `questions_yes` (questions answered yes, gated by
    their parents) or `questions_yes_ancestors` (by all ancestors), `phrases_yes` (B-VQA)."""

    scoring: str | None = None
    """Scoring caption of CLIP similarities; None scores with the prompt itself."""

    def __post_init__(self) -> None:
        if self.against is not None and self.metric not in COMPARED_IN_CHANGE:
            raise ConfigError(
                f"primary.against: a change is told of {' or '.join(COMPARED_IN_CHANGE)}, which "
                f"every picture has; got metric={self.metric}"
            )


@dataclass(frozen=True, kw_only=True)
class AlongConfig:
    """Arms that differ by a number: what is drawn against it."""

    SINCE_LATER: ClassVar = frozenset({"measured", "kinds"})

    title: str
    """What the number is, with its unit: "descriptive captions, %"."""

    arms: dict[str, float] = field(default_factory=dict)
    """The number of each arm; an arm may stand in several. Left out with `measured`."""

    measured: Literal["precision", "recall"] | None = None
    """Take the numbers from the measured captions instead: precision or recall, %, of the claims
    that captions of `kinds` make of pictures that no captioner learned from."""

    kinds: list[str] = field(default_factory=list)
    """Kinds of caption whose arms have the same name, with `measured`."""

    def __post_init__(self) -> None:
        if self.measured is not None:
            if self.arms or len(set(self.kinds)) < 2:
                raise ConfigError(
                    f"along: {self.title!r} takes its numbers from measured captions; expected no "
                    f"arms and two kinds or more, got arms={self.arms}, kinds={self.kinds}"
                )
            return
        if self.kinds:
            raise ConfigError(f"along: {self.title!r} has kinds, which only measured numbers have")
        if len(set(self.arms.values())) < 2:
            raise ConfigError(
                f"along: {self.title!r} needs arms at two numbers or more, got {self.arms}"
            )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """One self-contained HTML page, its tables as CSV, its figures as SVG and PNG."""

    SINCE_LATER: ClassVar = frozenset({"changes", "along"})

    study: str
    """Name of the study."""

    question: str
    """The question in one sentence."""

    scores: Path
    """Scores artifact."""

    generations: list[Path]
    """Generations artifacts, for pictures side by side."""

    prompts: Path
    """Prompts artifact."""

    images: Path
    """Images artifact."""

    captions: Path
    """Caption measurements (`eval captions`)."""

    judge: Path | None = None
    """Judge artifact; None where a public CLIP scored."""

    autoencoder: Path | None = None
    """Autoencoder artifact; None where a public one was used, which says nothing of itself."""

    captioners: list[Path] = field(default_factory=list)
    """Captioner artifacts, for their validation figures."""

    distribution: Path | None = None
    """Distances between distributions (`eval distribution`), shown beside the scores."""

    votes: Path | None = None
    """Votes of people on blinded pairs (`eval votes`), for a section of their own."""

    judged: list[Path] = field(default_factory=list)
    """Scores of the same pictures by `eval judge`, compared and shown with the others."""

    primary: PrimaryConfig
    """The headline comparison."""

    control: bool = False
    """The study is a control: the headline says whether the instrument works."""

    changes: dict[str, str] = field(default_factory=dict)
    """Prompt style -> style from which its change is told: what rewriting or altering prompts does
    to each arm."""

    along: list[AlongConfig] = field(default_factory=list)
    """Numbers by which arms differ; every prompt style is drawn against each."""

    resamples: int = 2000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap and of the choice of pictures shown."""

    num_pictures: int = 12
    """Prompts shown side by side."""

    def __post_init__(self) -> None:
        require_positive(self, "resamples", "num_pictures")


@dataclass(frozen=True, kw_only=True)
class RecomputeConfig:
    """Compute every figure of a report again from its rows, by other code, and compare."""

    report: Path | None = None
    """Report to check; None computes the answer from `rows` and `study`, and checks that."""

    rows: Path | None = None
    """Rows that its figures rest on: `rows.parquet` of a report or `scores.parquet` of a scores
    artifact; None takes the report's own."""

    study: Path | None = None
    """Configuration of the study, where there are rows and no report."""

    resamples: int = 10_000
    """Draws, where the report's own numbers were drawn at random."""

    def __post_init__(self) -> None:
        require_positive(self, "resamples")
        if self.report is None and (self.rows is None or self.study is None):
            raise ConfigError(
                "recompute: expected a report=FOLDER, or rows=FILE and study=FILE to answer a "
                f"study from its rows alone; got rows={self.rows}, study={self.study}"
            )
        if self.report is not None and self.study is not None:
            raise ConfigError("recompute: a report names its study; leave out study or report")
