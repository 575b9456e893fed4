"""Settings of the eval verbs. Free of torch, so that `--help` and `--dry-run` are quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal, TypeAlias

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError
from recap.endpoint import EndpointConfig


@dataclass(frozen=True, kw_only=True)
class ClipSizeConfig:
    """Size of a CLIP judge fitted from scratch."""

    width: int = 96
    """Width of both towers."""

    image_layers: int = 3
    """Layers of the image tower."""

    text_layers: int = 3
    """Layers of the text tower."""

    num_heads: int = 4
    """Attention heads."""

    patch_size: int = 8
    """Pixels a side of one image token."""

    embed_dim: int = 64
    """Length of the shared feature."""

    context_length: int = 77
    """Longest text in tokens; longer ones are cut before the end token, and counted."""

    vocab_size: int = 512
    """Size of the trained vocabulary (an upper bound)."""


@dataclass(frozen=True, kw_only=True)
class FitJudgeConfig:
    """Fit the CLIP judge and, where claims are known, the recogniser."""

    images: Path
    """Images artifact; the judge split fits, the test split measures."""

    captions: list[Path]
    """Captions artifacts with the texts of the judge and test pictures, written by people or
    from claims, never by a captioner."""

    kinds: list[str]
    """Kinds of text read from them."""

    autoencoder: Path
    """Autoencoder artifact: the recogniser is trained on its reconstructions."""

    image_size: int = 32
    """Pixels a side."""

    clip: ClipSizeConfig = field(default_factory=ClipSizeConfig)
    """Size of the CLIP judge."""

    clip_samples: int
    """Pairs seen by the CLIP judge."""

    recogniser_samples: int = 0
    """Pictures seen by the recogniser; 0 where no claims are known."""

    batch_size: int = 256
    """Pairs per step."""

    lr: float = 1e-3
    """Peak learning rate."""

    min_accuracy: float = 0.7
    """Axes read less accurately than this on reconstructions are printed as not measurable."""

    seed: int = 0
    """Seed of initial weights and draws."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "image_size", "clip_samples", "threads")
        if self.recogniser_samples < 0 or not 0 <= self.min_accuracy <= 1:
            raise ConfigError(
                "recogniser_samples must be at least 0 and min_accuracy lie in [0, 1], got "
                f"{self.recogniser_samples} and {self.min_accuracy:g}"
            )


@dataclass(frozen=True, kw_only=True)
class OnnxConfig:
    """What an ONNX detector takes and gives, which its file does not say."""

    height_px: int
    """Height of the network's input."""

    width_px: int
    """Width of the network's input."""

    resize: Literal["stretch", "letterbox"] = "stretch"
    """`letterbox` keeps the proportions and pads evenly with grey 114."""

    scale: float = 1 / 255
    """Pixels in 0..255 are multiplied by this; then `mean` is taken off, and `std` divides."""

    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of red, green and blue, after `scale`."""

    std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Of red, green and blue, after `scale`."""

    boxes: str = "boxes"
    """Output that holds the boxes, [1, K, 4] or [K, 4]."""

    scores: str = "scores"
    """Output that holds the scores: of each box, or of each box and class."""

    labels: str | None = "labels"
    """Output that holds the class numbers; None takes the best class of `scores`."""

    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What turns `scores` into probabilities."""

    box_form: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """Corners, corner and size, or centre and size."""

    box_unit: Literal["pixels", "share"] = "pixels"
    """Pixels of the network's input, or shares of its sides."""

    def __post_init__(self) -> None:
        require_positive(self, "height_px", "width_px")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise ConfigError(
                f"detector.onnx: mean and std need three numbers, std none of them 0; got "
                f"{self.mean} and {self.std}"
            )


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector whose boxes say which of the prompt's claims hold, by GenEval's rules."""

    architecture: str
    """Detection model of torchvision (`maskrcnn_resnet50_fpn_v2`, ...), or `onnx`."""

    weights: Path
    """Local file: safetensors or a state dict for torchvision, or the ONNX file."""

    labels: Path | None = None
    """Text file, one class name a line, the first for class 0; None takes the names of
    torchvision's own COCO weights."""

    onnx: OnnxConfig | None = None
    """What an ONNX file takes and gives."""

    min_score: float = 0.3
    """Boxes count above this confidence."""

    min_score_counting: float = 0.9
    """The same for prompts that say a number."""

    max_objects: int = 16
    """Boxes of one class that are looked at, the most confident ones."""

    max_overlap: float = 1.0
    """Of two boxes of a class that overlap by this much (intersection over union) or more, the less
    confident one is dropped; 1 keeps all, because detectors have dropped doubles themselves."""

    min_offset: float = 0.1
    """Centres count as apart beyond this share of both boxes' sizes added."""

    def __post_init__(self) -> None:
        require_positive(self, "max_objects")
        require_share(self, "min_score", "min_score_counting", "max_overlap", "min_offset")
        if (self.architecture == "onnx") != (self.onnx is not None):
            raise ConfigError(
                "detector: `onnx` settings belong to architecture=onnx, which cannot do without "
                f"them; got architecture={self.architecture!r}, onnx "
                f"{'given' if self.onnx else 'not given'}"
            )
        if self.onnx is not None and self.labels is None:
            raise ConfigError(
                "detector.labels: an ONNX file does not name its classes; give a text file with "
                "one name a line"
            )


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score generations: CLIP for every scoring caption, and the prompt's claims that hold."""

    generations: list[Path]
    """Generations artifacts, one per arm and seed."""

    judge: Path | None = None
    """Judge artifact; None where `clip_model` names a public CLIP, which then scores alone."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    images: Path | None = None
    """Images artifact of the prompts' pairs; its pictures are scored as a ceiling."""

    autoencoder: Path | None = None
    """Autoencoder artifact; the pictures through it are scored as the ceiling of its latents."""

    scoring_styles: list[str]
    """Styles whose text of the same pair scores every image, besides the prompt itself."""

    clip_model: str | None = None
    """CLIP that scores: a name in open_clip or a folder in its form; None takes the judge's own."""

    clip_weights: str | None = None
    """Tag of `clip_model` in open_clip, or a local safetensors file."""

    clip_prefix: str = ""
    """Put before every scoring text, for example "A photo depicts "."""

    clip_precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the CLIP that scores."""

    detector: DetectorConfig | None = None
    """Detector that checks the prompts' claims on photographs, in place of the judge's recogniser;
    colours are told by the CLIP that scores."""

    ocr: bool = False
    """Read displayed words, and compare them with those that the prompt quotes (extra `ocr`)."""

    features: Path | None = None
    """Folder in which CLIP features are kept; what an earlier run kept there is not computed again.
    It changes no score and is no part of the recipe."""

    batch_size: int = 256
    """Rows per step; a multiple of 8, part of the recipe."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        if self.judge is None and self.clip_model is None:
            raise ConfigError("scores come from a judge or a public CLIP: give judge or clip_model")
        if not self.generations:
            raise ConfigError("generations must name at least one folder: generations=[DIR, ...]")


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
    with other seeds: `recap caption decode.method=sample seed=1 ...`. Their kind may have any
    name. What a captioner makes up it seldom repeats."""

    judge: Path | None = None
    """Judge artifact; its CLIP says how much better a sentence fits its own picture than others."""

    calibration: Path | None = None
    """Caption measurements of pictures whose truth is known; where it is not, the estimate of
    hallucination fitted there is carried over."""

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


@dataclass(frozen=True, kw_only=True)
class DistributionConfig:
    """FID and unbiased CMMD between generations and pictures, with intervals.

    Features come from exactly one of `judge`, `clip_model` and `inception_weights`.
    """

    generations: list[Path]
    """Generations artifacts, one per arm and seed; their last snapshots are measured."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    images: Path
    """Images artifact with the reference pictures."""

    split: str = "test"
    """Split of `images` that is the reference; `all` takes every picture."""

    styles: list[str] = field(default_factory=list)
    """Prompt styles measured, each by itself; empty takes all that were drawn."""

    judge: Path | None = None
    """Judge artifact, whose CLIP gives the features."""

    clip_model: str | None = None
    """CLIP that gives the features: a name in open_clip or a folder in its form."""

    clip_weights: str | None = None
    """Tag of `clip_model` in open_clip, or a local safetensors file."""

    clip_precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the CLIP."""

    inception_weights: Path | None = None
    """Local safetensors file of Inception-v3, FID's own or torchvision's; gives no CMMD."""

    features: Path | None = None
    """An earlier artifact of this verb; features that it has already are copied from it."""

    groups: int = 20
    """Groups of prompts that intervals leave out in turn; with fewer prompts, each is one."""

    batch_size: int = 256
    """Pictures per step; a multiple of 8, part of the recipe."""

    seed: int = 0
    """Seed of the dealing of prompts into groups."""

    threads: int = 1
    """CPU threads; part of the recipe."""

    def __post_init__(self) -> None:
        require_multiple_of_8(self, "batch_size")
        require_positive(self, "threads")
        if not self.generations:
            raise ConfigError("generations must name at least one folder: generations=[DIR, ...]")
        if self.groups < 3:
            raise ConfigError(f"groups must be at least 3, got {self.groups}; 20 is usual")
        given = [n for n in ("judge", "clip_model", "inception_weights") if getattr(self, n)]
        if len(given) != 1:
            raise ConfigError(
                "features come from one of judge, clip_model and inception_weights; got "
                f"{' and '.join(given) or 'none of them'}"
            )


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

    title: str
    """What the number is, with its unit: "descriptive captions, %"."""

    arms: dict[str, float]
    """The number of each arm; an arm may stand in several."""

    def __post_init__(self) -> None:
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

    report: Path
    """Report to check."""

    rows: Path | None = None
    """Rows that its figures rest on: `rows.parquet` of a report or `scores.parquet` of a scores
    artifact; None takes the report's own."""

    resamples: int = 10_000
    """Draws, where the report's own numbers were drawn at random."""

    def __post_init__(self) -> None:
        require_positive(self, "resamples")


Question: TypeAlias = Literal["prompt_following", "style", "coherence"]
"""What a rater is asked of a pair of pictures."""


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Write one HTML page on which people compare blinded pairs of pictures, and its key."""

    generations: list[Path]
    """Generations artifacts of the arms that are compared."""

    prompts: Path
    """Prompts artifact that the generations were made from."""

    title: str = "Which picture?"
    """Heading of the page, which raters see: no arm may be named in it."""

    styles: list[str]
    """Prompt styles; every chosen pair is shown in each of them."""

    pairs: list[list[str]] = field(default_factory=list)
    """Pairs of arms that are compared, [[ONE, OTHER], ...]; empty compares every pair."""

    questions: list[Question] = field(
        default_factory=lambda: ["style", "coherence", "prompt_following"]
    )
    """Asked one after the other, each about every pair. The prompt is shown for
    `prompt_following` alone, which therefore comes last."""

    num_prompts: int = 24
    """Prompts shown, drawn by key among those that all arms have drawn pictures for."""

    repeats: float = 0.1
    """Share of the comparisons asked a second time with sides swapped, at most 0.5."""

    max_side: int = 512
    """Larger pictures are made smaller for the page; pixels a side."""

    seed: int = 0
    """Seed of what is drawn: prompts, training and noise seeds, order and sides."""

    def __post_init__(self) -> None:
        require_positive(self, "num_prompts", "max_side")
        for name in ("generations", "styles", "questions"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one: {name}=[..., ...]")
        for name in ("styles", "questions"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(f"{name} names one twice: {', '.join(getattr(self, name))}")
        if not 0 <= self.repeats <= 0.5:
            raise ConfigError(f"repeats must lie in [0, 0.5], got {self.repeats:g}")
        if "prompt_following" in self.questions[:-1]:
            raise ConfigError(
                "questions: prompt_following must come last, since it shows the prompt that the "
                f"others hide, got {', '.join(self.questions)}"
            )
        for pair in self.pairs:
            if len(set(pair)) != 2:
                raise ConfigError(f"pairs: a pair is two different arms, got {pair}")


@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """Read raters' votes on a preference page: ratings, agreement, and what metrics predict."""

    preference: Path
    """Preference artifact of the page that was voted on."""

    votes: list[Path]
    """Files of votes as the page gives them, one JSON object a line."""

    scores: Path | None = None
    """Scores artifact of the same pictures; each metric is then compared with the votes."""

    anchor: str | None = None
    """Arm whose rating is 0; None sets the mean of all arms to 0."""

    resamples: int = 2000
    """Bootstrap resamples of the raters' agreement."""

    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        require_positive(self, "resamples")
        if not self.votes:
            raise ConfigError("votes must name at least one file: votes=[FILE, ...]")


@dataclass(frozen=True, kw_only=True)
class SpreadConfig:
    """Standard deviations of one picture's difference between two arms, in printed units."""

    seed: float | None = None
    """Between training seeds: training both models again."""

    prompt: float | None = None
    """Between prompts."""

    noise: float | None = None
    """Between noises of one prompt, alike for all training seeds."""

    prompt_by_seed: float | None = None
    """Between prompts, different for every training seed."""

    rest: float | None = None
    """Between single pictures, beyond all of these."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"spread.{name} must be a number from 0 on, got {value}")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Plan a study: prompts, pictures and training seeds that detect a difference."""

    difference: float
    """True difference that is to be found, in printed units: percentage points of claims that
    hold, or cosine x 100."""

    scores: Path | None = None
    """Scores of an earlier study, which tell where the variance comes from."""

    primary: PrimaryConfig | None = None
    """The comparison that is read from the scores."""

    spread: SpreadConfig = field(default_factory=SpreadConfig)
    """Standard deviations given by hand; with scores, those that replace the estimated ones.
    Without, those not given are 0."""

    power: float = 0.8
    """Share of studies that are to find the difference."""

    comparisons: int = 1
    """Comparisons that share a correction; planned for the strictest of Holm's steps."""

    prompts: list[int] = field(default_factory=lambda: [64, 256, 1024, 4096])
    """Numbers of prompts in the table."""

    images: list[int] = field(default_factory=lambda: [1, 4])
    """Numbers of pictures of a prompt from one model."""

    seeds: list[int] = field(default_factory=lambda: [1, 4, 6, 8, 12])
    """Numbers of training seeds."""

    arms: int = 2
    """Arms of the study, which cost as much as the two that are compared."""

    max_prompts: int = 10_000
    """Prompts that there are."""

    max_pictures: int | None = None
    """Pictures that may be drawn, of all arms; None sets no limit."""

    max_models: int | None = None
    """Models that may be trained, of all arms; None sets no limit."""

    model_price: float | None = None
    """Pictures that could be drawn for what training one model costs. The cheapest design has the
    lowest sum; None takes the fewest models, and of those the fewest pictures."""

    seed: int = 0
    """Seed of the draws behind the ranges."""

    def __post_init__(self) -> None:
        require_positive(self, "difference", "comparisons", "arms", "max_prompts")
        if not 0.05 < self.power < 1:
            raise ConfigError(f"power must lie between 0.05 and 1, got {self.power:g}")
        for name, least in (("prompts", 2), ("images", 1), ("seeds", 1)):
            values = getattr(self, name)
            if not values or min(values) < least:
                raise ConfigError(f"{name} must name numbers from {least} on, got {values}")
        if (self.scores is None) != (self.primary is None):
            raise ConfigError(
                "scores and primary go together: scores=DIR primary.better=ARM primary.than=ARM "
                "primary.style=STYLE primary.metric=METRIC"
            )
        if self.scores is None and not any(vars(self.spread).values()):
            raise ConfigError(
                "a plan needs to know the spread: give scores=DIR and primary, or "
                "spread.prompt=... spread.seed=... by hand"
            )
