"""What a training costs, before anything is spent: parameters, memory, disk, steps and days.

Everything is counted on a denoiser built at its real size of fake tensors: meta tensors, which have
a shape and hold no numbers, that also say on which device they lie. A model of any size is counted
on a laptop in seconds. On plain meta tensors attention keeps its matrix of weights; on these it
takes the fused kernel that keeps none, as on a GPU.

Counts (parameters, FLOP, bytes kept) are exact for the shapes given; times and memory are
estimates, and every line says what it assumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from launch.manifest import is_complete
from launch.processes import Precision, world_size
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder
from t2i.config import ExpectedConfig, MachineConfig, TrainConfig
from t2i.data import TrainingSet, padded_length
from t2i.denoiser import Size, build, num_parameters

GIB = 2**30
FLOAT32, HALF = 4, 2
"""Bytes of one number; bfloat16 and float16 are halves."""

PASSES = 3
"""A training step in forward passes: the backward pass computes two gradients for every product."""

PASSES_CHECKPOINTED = 4
"""The same where the backward pass computes activations again."""

CHECKPOINTS = 3
"""Checkpoints on the disk at once: the newest two, and the one being written."""

CHECKPOINTED = (ResnetBlock2D, BasicTransformerBlock)
"""What diffusers' gradient checkpointing keeps the inputs of, and computes again."""


class Sizes(NamedTuple):
    """The sizes of a training's inputs, read from them or expected."""

    pictures: int
    latent_channels: int
    latent_side: int
    latent_bytes: int
    """Of one cached number of the latents."""
    text_width: int
    max_tokens: int
    """Padded length of the longest text, which every batch is taken to have."""
    num_texts: int
    num_tokens: int
    """Of all texts together."""
    state_bytes: int
    """Of one cached number of the text states."""
    text_encoder_parameters: int
    autoencoder_parameters: int


def sizes_of(data: TrainingSet, autoencoder: Autoencoder, text_encoder: TextEncoder) -> Sizes:
    """Read the sizes of inputs that exist."""
    channels, side, _ = data.latent_shape
    num_tokens = data.text.num_tokens
    return Sizes(
        pictures=len(data),
        latent_channels=channels,
        latent_side=side,
        latent_bytes=FLOAT32,
        text_width=data.text.width,
        max_tokens=padded_length(int(num_tokens.max())),
        num_texts=len(num_tokens),
        num_tokens=int(num_tokens.sum()),
        state_bytes=data.text.caches[0].values.itemsize,
        text_encoder_parameters=_count(text_encoder.model),
        autoencoder_parameters=_count(autoencoder.vae),
    )


def expected_sizes(expected: ExpectedConfig) -> Sizes:
    """Take the sizes of inputs that do not exist yet from the configuration."""
    num_texts = round(expected.pictures * expected.texts_per_picture)
    return Sizes(
        pictures=expected.pictures,
        latent_channels=expected.latent_channels,
        latent_side=expected.latent_side,
        latent_bytes=FLOAT32,
        text_width=expected.text_width,
        max_tokens=padded_length(expected.max_tokens),
        num_texts=num_texts,
        num_tokens=round(num_texts * expected.tokens_per_text),
        state_bytes=HALF,
        text_encoder_parameters=expected.text_encoder_parameters,
        autoencoder_parameters=expected.autoencoder_parameters,
    )


def absent_inputs(cfg: TrainConfig) -> list[Path]:
    """Name the inputs that are not complete yet."""
    return [
        folder
        for folder in (
            *(
                cfg.images,
                *cfg.captions,
                cfg.latents,
                *cfg.augmented_latents,
                *cfg.text_states,
                *cfg.further_text_states,
            ),
            *([] if cfg.prompts is None else [cfg.prompts]),
        )
        if not is_complete(folder)
    ]


def _count(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


# ----------------------------------------------------------------------------- one forward pass


class Pass(NamedTuple):
    """What one picture costs in one forward pass of the denoiser."""

    flop: int
    """A multiplication and an addition are two."""

    activation_bytes: int
    """Kept for the backward pass."""

    checkpointed_bytes: int
    """Kept with gradient checkpointing, and computed again at once for the largest block."""


def fake_pass(size: Size, sizes: Sizes, *, precision: Precision) -> tuple[int, Pass]:
    """Count the parameters and one forward pass of a denoiser without memory for it."""
    with FakeTensorMode():
        denoiser = build(
            size,
            latent_channels=sizes.latent_channels,
            latent_side=sizes.latent_side,
            text_width=sizes.text_width,
            seed=0,
        )
        counted = count_pass(denoiser, num_tokens=sizes.max_tokens, precision=precision)
        return num_parameters(denoiser), counted


def count_pass(
    denoiser: UNet2DConditionModel, *, num_tokens: int, precision: Precision = "float32"
) -> Pass:
    """Count one forward pass for one picture, of a fake or a real denoiser."""
    config, is_mixed = denoiser.config, precision != "float32"
    weights = dict(denoiser.named_parameters())
    if is_mixed:  # as autocast copies them, but known by name: they are no activations
        matrices = {name: tensor for name, tensor in weights.items() if tensor.ndim > 1}
        weights |= {name: tensor.to(torch.bfloat16) for name, tensor in matrices.items()}
    inputs = (
        torch.zeros(1, config.in_channels, config.sample_size, config.sample_size),
        torch.zeros(1),
        torch.zeros(1, num_tokens, config.cross_attention_dim),
    )
    mask = torch.ones(1, num_tokens, dtype=torch.bool)

    def kept() -> Kept:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed), _GpuRules():
            return kept_bytes(
                lambda: (
                    functional_call(
                        denoiser, weights, inputs, {"encoder_attention_mask": mask}
                    ).sample
                ),
                without=weights.values(),
                blocks=[block for block in denoiser.modules() if isinstance(block, CHECKPOINTED)],
            )

    with FlopCounterMode(display=False) as counter:
        whole = kept()
    denoiser.enable_gradient_checkpointing()
    boundaries = kept()
    denoiser.disable_gradient_checkpointing()
    return Pass(counter.get_total_flops(), whole.total, boundaries.total + max(whole.by_block))


class Kept(NamedTuple):
    """Bytes that a forward pass keeps for the backward pass."""

    total: int
    by_block: list[int]


def kept_bytes(
    forward: Callable[[], Tensor],
    *,
    without: Iterable[Tensor] = (),
    blocks: Sequence[nn.Module] = (),
) -> Kept:
    """Sum the bytes of the distinct tensors that a forward pass saves for the backward pass.

    Tensors that share memory count once. Not counted: what lives only within an operation, the
    gradients of activations, and what an allocator loses between its blocks.

    Args:
        forward: Computes the result.
        without: Tensors that are not counted, such as weights.
        blocks: Modules whose own shares are told apart, in the order in which they run.
    """
    # Storages are held: the address of a freed one would be given again.
    storages = {s._cdata: s for s in (tensor.untyped_storage() for tensor in without)}
    total, starts, by_block = 0, [], []

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage
            total += storage.nbytes()
        return tensor

    hooks = [m.register_forward_pre_hook(lambda *_: starts.append(total)) for m in blocks]
    hooks += [
        m.register_forward_hook(lambda *_: by_block.append(total - starts.pop())) for m in blocks
    ]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    for hook in hooks:
        hook.remove()
    del result  # until here, so that nothing it holds is freed
    return Kept(total, by_block)


class _GpuRules(TorchFunctionMode):
    """Compute norms in float32 under autocast, as on a GPU; on a CPU autocast leaves them alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (functional.group_norm, functional.layer_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


# ----------------------------------------------------------------------------- memory, disk, time


def state_bytes(
    num_parameters: int,
    *,
    precision: Precision,
    num_averages: int = 1,
    is_parallel: bool,
) -> dict[str, int]:
    """Give what one GPU holds whatever the batch, by name, with plain data parallelism.

    AdamW keeps two moments. Between processes gradients are summed in buckets, which are a copy
    of them. Autocast keeps a copy of the weights while a step lasts.
    """
    weights = FLOAT32 * num_parameters
    found = {
        "weights": weights,
        "gradients": weights,
        "AdamW moments": 2 * weights,
        "averages" if num_averages > 1 else "average": num_averages * weights,
    }
    if is_parallel:
        found["buckets of gradients"] = weights
    if precision != "float32":
        found[f"{precision} copies of weights"] = HALF * num_parameters
    return found


def written_bytes(cfg: TrainConfig, num_parameters: int, *, sizes: Sizes) -> dict[str, int]:
    """Give what a training run has on the disk at its largest, by name.

    Args:
        cfg: Settings of the training.
        num_parameters: Of the denoiser.
        sizes: Of the inputs; the model's folder contains autoencoder and text encoder.
    """
    weights, num_averages = FLOAT32 * num_parameters, len(cfg.ema_decays)
    components = FLOAT32 * (sizes.autoencoder_parameters + sizes.text_encoder_parameters)
    return {
        # Weights, two moments and the averages.
        f"{CHECKPOINTS} checkpoints": CHECKPOINTS * (3 + num_averages) * weights,
        f"{cfg.snapshots - 1} snapshots": (cfg.snapshots - 1) * weights,
        "model with its encoders": num_averages * weights + components,
    }


def days(flop: float, machine: MachineConfig) -> float:
    """Give the days that a machine computes: FLOP / (GPUs x peak x utilisation)."""
    return flop / (machine.num_gpus * machine.tflops * 1e12 * machine.utilisation) / 86_400


def expected_plan(cfg: TrainConfig, absent: Sequence[Path]) -> dict[str, object]:
    """Give the lines of a plan whose inputs do not exist yet."""
    assert cfg.expected is not None, "looked at by the caller"
    return {
        "sizes": f"expected, not read: {', '.join(map(str, absent))} not complete yet",
        "pictures": cfg.expected.pictures,
        "epochs": f"{cfg.samples / cfg.expected.pictures:.2f}",
        **describe(cfg, expected_sizes(cfg.expected)),
    }


def describe(cfg: TrainConfig, sizes: Sizes) -> dict[str, object]:
    """Give the lines of a plan, each figure with what it assumes."""
    machine = cfg.machine
    num_gpus = world_size() if machine is None else machine.num_gpus
    count, one = fake_pass(cfg.size, sizes, precision=cfg.precision)
    lines: dict[str, object] = {
        "denoiser": f"{count:,} parameters (size {cfg.size}, built on fake tensors)",
        "text encoder": f"{sizes.text_encoder_parameters:,} parameters, frozen",
        "autoencoder": f"{sizes.autoencoder_parameters:,} parameters, frozen",
        "forward pass": (
            f"{one.flop / 1e9:,.4g} GFLOP a picture (counted; a multiplication and an addition are "
            f"two; texts padded to {sizes.max_tokens} tokens)"
        ),
    }
    if machine is not None:
        lines["machine"] = (
            f"{num_gpus} x {machine.name}, {machine.gib:g} GiB and {machine.tflops:g} TFLOP/s "
            f"(dense bfloat16) each, of which {machine.utilisation:.0%} is assumed to be used"
        )
    lines |= _memory_lines(cfg, one, count, num_gpus=num_gpus)
    lines |= _disk_lines(cfg, sizes, count)
    if machine is not None:
        lines |= _time_lines(cfg, sizes, one, machine)
    return lines


def _memory_lines(cfg: TrainConfig, one: Pass, count: int, *, num_gpus: int) -> dict[str, object]:
    held = state_bytes(
        count,
        precision=cfg.precision,
        num_averages=len(cfg.ema_decays),
        is_parallel=num_gpus > 1,
    )
    whole, batch = sum(held.values()), cfg.microbatch or cfg.batch_size // num_gpus
    lines: dict[str, object] = {
        "memory of a GPU, states": (
            f"{_gib(whole)} = {_sum(held)} (float32 but for the copies, nothing sharded)"
        )
    }
    each = {
        "without gradient checkpointing": one.activation_bytes,
        "with gradient checkpointing": one.checkpointed_bytes,
    }
    chosen = list(each)[cfg.checkpoint_activations]
    for how, size in each.items():
        need = whole + batch * size
        text = (
            f"{_gib(need)} = states + {batch:,} pictures x {size / 2**20:,.4g} MiB "
            f"({cfg.precision}; what the backward pass needs, not what kernels use in passing)"
        )
        if cfg.machine is not None:
            fitting = max(0, int((cfg.machine.gib * GIB - whole) // size) // 8 * 8)
            verdict = "fits into" if need <= cfg.machine.gib * GIB else "is more than"
            text += f"; {verdict} {cfg.machine.gib:g} GiB, which {fitting:,} pictures at once fill"
        lines[f"memory of a GPU, {how}"] = text + ("; as configured" if how == chosen else "")
    return lines


def _disk_lines(cfg: TrainConfig, sizes: Sizes, count: int) -> dict[str, object]:
    latents = sizes.pictures * sizes.latent_channels * sizes.latent_side**2 * sizes.latent_bytes
    states = sizes.num_tokens * sizes.text_width * sizes.state_bytes
    mean_tokens = sizes.num_tokens / sizes.num_texts
    written = written_bytes(cfg, count, sizes=sizes)
    return {
        "disk, latents": (
            f"{_gib(2 * latents)} = {sizes.pictures:,} pictures x mean and deviation of "
            f"{sizes.latent_channels}x{sizes.latent_side}x{sizes.latent_side} numbers of "
            f"{sizes.latent_bytes} bytes"
        ),
        "disk, text states": (
            f"{_gib(states)} = {sizes.num_texts:,} texts x {mean_tokens:.4g} tokens x "
            f"{sizes.text_width:,} numbers of {sizes.state_bytes} bytes (none repeated)"
        ),
        "disk, this run": f"{_gib(sum(written.values()))} = {_sum(written)}",
    }


def _time_lines(
    cfg: TrainConfig, sizes: Sizes, one: Pass, machine: MachineConfig
) -> dict[str, object]:
    plain = days(PASSES * one.flop * cfg.samples, machine)
    checkpointed = days(PASSES_CHECKPOINTED * one.flop * cfg.samples, machine)
    per_token = 2 * sizes.text_encoder_parameters
    once = days(per_token * sizes.num_tokens, machine)
    always = days(per_token * sizes.max_tokens * cfg.samples, machine)
    return {
        "days": (
            f"{plain:.3g} = {PASSES} forward passes x {cfg.samples:,} pictures / (GPUs x peak x "
            f"share used); {checkpointed:.3g} with gradient checkpointing ({PASSES_CHECKPOINTED} "
            "passes); neither loading nor saving is counted"
        ),
        "text encoder's days": (
            f"{once:.3g}, once for all arms, to cache its states (2 FLOP x parameters x tokens); "
            f"were text encoded in the step: {always:.3g} ({sizes.max_tokens} tokens a picture) "
            f"and {_gib(HALF * sizes.text_encoder_parameters)} of every GPU (weights in bfloat16)"
        ),
    }


def _gib(num_bytes: float) -> str:
    gib = num_bytes / GIB
    return f"{gib:,.1f} GiB" if gib >= 10 else f"{gib:.2f} GiB"


def _sum(parts: dict[str, int]) -> str:
    return " + ".join(f"{name} {size / GIB:,.2f}" for name, size in parts.items())
