"""Settings of `t2i train`, and of the machine and sizes that its dry run prices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from launch.config import require_multiple_of_8, require_positive, require_share
from launch.errors import ConfigError


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
