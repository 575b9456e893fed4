"""Processes, threads and devices: who am I, how many are we, and on what do we compute.

`rank` and `world_size` need no torch, so that anything may ask them. The one Accelerator is made
here, and here it is refused when it would do something other than what was asked for.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launch.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

# The names that accelerate itself looks at, in its order.
_RANK_NAMES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZE_NAMES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

Precision = Literal["float32", "bfloat16", "float16"]
"""Arithmetic of the forward pass; weights and averages stay float32."""

_MIXED: dict[str, str] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}

PATIENCE = timedelta(hours=6)
"""How long processes wait for one of them, which may be writing a large model to a slow disk."""

_HOW_TO_START = "Start with `accelerate launch --config_file launch/accelerate/NAME.yaml -m ...`."

_STRATEGIES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
}
"""Environment variables by which `accelerate launch` passes on the strategy asked for."""


def rank() -> int:
    """Return this process's number among all, 0 when alone."""
    return _number(_RANK_NAMES, default=0)


def world_size() -> int:
    """Return how many processes work together, 1 when alone."""
    return max(1, _number(_SIZE_NAMES, default=1))


def end_with_launcher() -> None:
    """Have this process killed when the launcher that started it dies.

    torch's launcher starts its processes in sessions of their own. Without this a launcher that
    was killed leaves them waiting for one another, and holding the lock of their folder.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies; elsewhere do nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of prctl(2)


def device() -> torch.device:
    """Return where this process computes: its own GPU where there is one, else the CPU."""
    import torch

    if _stays_on_cpu():
        return torch.device("cpu")
    return torch.device("cuda", _number(("LOCAL_RANK",), default=0))


def noted_device() -> dict[str, str]:
    """Return what a recipe says of `device`: nothing where it is the CPU.

    For verbs that once computed on CPUs alone, so that what they made there keeps its recipe.
    """
    where = device().type
    return {} if where == "cpu" else {"device": where}


def _stays_on_cpu() -> bool:
    """Say whether to compute on the CPU: because that was asked for, or for want of a GPU.

    accelerate must be told, or processes without a GPU each believe to be alone.
    """
    import torch

    return _is_true("ACCELERATE_USE_CPU") or not torch.cuda.is_available()


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device without the host's waiting for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def rank_slice(batch_size: int) -> slice:
    """Give this process's slice of a global batch.

    Raises:
        ConfigError: The slices of all processes are not equal, or no multiple of 8.
    """
    if batch_size % (8 * world_size()):
        raise ConfigError(
            f"batch_size must be a multiple of 8 for each of {world_size()} processes, "
            f"got {batch_size}"
        )
    each = batch_size // world_size()
    return slice(rank() * each, (rank() + 1) * each)


def wait_for_everyone() -> None:
    """Wait until every process has come to this point; alone, go on."""
    if world_size() > 1:
        from accelerate import PartialState

        # Whoever makes it first decides for the whole process.
        PartialState(cpu=_stays_on_cpu(), timeout=PATIENCE).wait_for_everyone()


def _number(names: tuple[str, ...], *, default: int) -> int:
    for name in names:
        if os.environ.get(name, ""):
            return int(os.environ[name])
    return default


def set_threads(num: int) -> None:
    """Compute with `num` threads, in whatever environment the process was started.

    Sums depend on the number of threads, so it belongs to the recipe and is set by the verb;
    `accelerate launch` and schedulers set their own count in the environment, which this overrides.
    """
    if num < 1:
        raise InputError(f"threads must be at least 1, got {num}")

    import torch

    torch.set_num_threads(num)
    if torch.get_num_threads() != num:
        raise InputError(
            f"threads={num} was asked for and torch uses {torch.get_num_threads()}; "
            "is this torch built without OpenMP?"
        )
    # Parallelism between operations is used by none of ours; torch lets it be set once only,
    # before its first use, hence the look before.
    if torch.get_num_interop_threads() != 1:
        try:
            torch.set_num_interop_threads(1)
        except RuntimeError:  # its pool already runs; it changes speed and no result
            return


def accelerator(
    *,
    precision: Precision = "float32",
    cpu: bool = False,
    gradient_accumulation_steps: int = 1,
    trackers: Sequence[str] = (),
    trackers_folder: Path | None = None,
) -> Accelerator:
    """Return accelerate's view of the processes, refused where it differs from what was asked.

    Args:
        precision: Arithmetic of the forward pass.
        cpu: Stay on the CPU even where there is a GPU.
        gradient_accumulation_steps: Backward passes per optimizer step.
        trackers: Trackers by accelerate's names; `launch.trackers` begins them.
        trackers_folder: Where those write that write files.

    Raises:
        InputError: FSDP, DeepSpeed or Megatron was asked for and something else would run, or the
            number of processes is not the one that the launcher announced.
    """
    asked = [name for variable, name in _STRATEGIES.items() if _is_true(variable)]
    on_cpu = cpu or _stays_on_cpu()
    if asked and on_cpu:
        raise _not_what_was_asked(asked[0], "plain data parallelism, because the CPU is used")
    if precision not in _MIXED:
        raise InputError(f"precision must be one of {', '.join(_MIXED)}, got {precision}")

    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # A process runs one verb after another, each with a precision of its own.
    AcceleratorState._reset_state()
    try:
        made = Accelerator(
            cpu=on_cpu,
            mixed_precision=_MIXED[precision],
            gradient_accumulation_steps=gradient_accumulation_steps,
            log_with=list(trackers) or None,  # of an empty list it warns
            project_dir=trackers_folder,
        )
    except ValueError as error:
        if world_size() == 1:
            raise InputError(
                f"precision={precision}: accelerate refuses it here: {error}"
            ) from error
        raise InputError(
            f"the launcher announced {world_size()} processes and accelerate cannot join them "
            f"({error}). {_HOW_TO_START}"
        ) from error
    got = str(made.distributed_type.value)
    if asked and got != asked[0]:
        raise _not_what_was_asked(asked[0], f"accelerate's {got} strategy")
    if made.num_processes != world_size():
        raise InputError(
            f"the launcher announced {world_size()} processes and accelerate joined "
            f"{made.num_processes}; every process would do all of the work. {_HOW_TO_START}"
        )
    return made


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on", "y", "t"}


def _not_what_was_asked(asked: str, got: str) -> InputError:
    return InputError(
        f"{asked} was asked for, and {got}, would run in its place, with other memory needs and "
        f"other checkpoints. Run {asked} on GPUs, or choose launch/accelerate/cpu_2.yaml."
    )
