"""Exact training state on disk, and averaged weights.

A checkpoint is a folder `step-000001200` with `tensors.safetensors` and `state.json`, filled under
a temporary name and renamed, so that it is there whole or not at all. The newest two are kept: if
the newest cannot be read, the one before it serves. Nothing is pickled.

What is not saved needs no saving: learning rates are functions of samples_seen, and random draws
come from `launch.keyed`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launch.errors import ArtifactError, StoppedError
from launch.manifest import SCRATCH, canonical_json, digest_bytes, digest_file
from launch.processes import rank

FOLDER = f"{SCRATCH}/checkpoints"
"""Where checkpoints lie below the artifact's folder."""

INTERVAL_S = 120.0
"""Seconds after which a loop of one process saves, however few samples it has seen since."""

KEPT = 2
"""Checkpoints kept; the second is there for the day when the first cannot be read."""

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Training state as it was after one step."""

    step: int
    """Optimizer steps done."""

    tensors: dict[str, Tensor]
    """Everything that is a tensor, on the CPU."""

    state: dict[str, Any]
    """The loop's own state: samples seen, sums for the log, and the like."""


class Checkpoints:
    """The checkpoints of one run. Only rank 0 may save; every rank may read.

    Args:
        folder: Where they lie; made at the first save.
        clock: Seconds, ever growing.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._clock = clock
        self._saved = clock()

    def is_late(self) -> bool:
        """Say whether two minutes have passed since the last save, or since the start.

        Work that may take some minutes at a time then goes on with each of them, at any speed. For
        loops of one process: where all processes must save together their clocks would not agree.
        """
        return self._clock() - self._saved >= INTERVAL_S

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint whole, then forget all but the newest two.

        Raises:
            StoppedError: It could not be written; the checkpoints before it are as they were.
        """
        final = self.folder / f"step-{step:09d}"
        temporary = self.folder / f".tmp-{os.getpid()}-{final.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            temporary.mkdir()
            _write_tensors(temporary / _TENSORS, tensors)
            core = {
                "step": step,
                "state": dict(state),
                "tensors": digest_file(temporary / _TENSORS),
            }
            text = json.dumps({**core, "digest": digest_bytes(canonical_json(core))}, indent=1)
            _write_text(temporary / _STATE, text + "\n")
            _sync(temporary)
            # A folder cannot be renamed onto another. An old one of the same step is either equal
            # or was found unreadable, and there is a second one behind it.
            _remove(final)
            temporary.rename(final)
            _sync(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self.steps()
            raise StoppedError(
                f"{final}: the checkpoint could not be written ({error}). "
                + (f"The one of step {kept[-1]} is intact. " if kept else "There is none yet. ")
                + "Make room and start the same command again: it resumes."
            ) from error
        for old in self.steps()[:-KEPT]:
            _remove(self.folder / f"step-{old:09d}")
        self._saved = self._clock()

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk, ascending, without opening them."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(p.name) for p in self.folder.iterdir())
        return sorted(int(m.group(1)) for m in matches if m)

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that can be read; remove half-written and unreadable ones.

        Returns:
            The checkpoint, or None when there is none to go on from.
        """
        if not self.folder.is_dir():
            return None
        # All ranks come to the same choice, whether or not rank 0 was quicker to remove.
        is_main = rank() == 0
        for left in self.folder.glob(".tmp-*") if is_main else ():
            _remove(left)
        for step in reversed(self.steps()):
            path = self.folder / f"step-{step:09d}"
            found = _read(path)
            if found is not None and found.step == step:
                return found
            if is_main:
                _remove(path)
        return None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory, as tied weights do.
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    try:
        save_file(plain, path)
    except SafetensorError as error:  # its name for a full disk, among others
        raise OSError(str(error)) from error
    _sync(path)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove a folder in one visible instant: a half-removed one must not look like a whole one."""
    if not path.is_dir():
        return
    hidden = path.with_name(f".tmp-{os.getpid()}-old-{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _read(path: Path) -> Checkpoint | None:
    """Return a checkpoint whose bytes are those that were written, or else None."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        core = json.loads((path / _STATE).read_text())
        digest = core.pop("digest")
        if digest_bytes(canonical_json(core)) != digest:
            return None
        if digest_file(path / _TENSORS) != core["tensors"]:
            return None
        tensors = load_file(path / _TENSORS)
        return Checkpoint(step=core["step"], tensors=tensors, state=core["state"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        # A disk that cannot be read at all (another OSError) is not a broken checkpoint: it is
        # raised, since removing what may be whole would lose the run.
        return None


class Average:
    """Exponential moving average of a model's weights, in float32.

    Every floating-point tensor of the model's state is averaged; any other is copied.

    Args:
        model: The model, whose present weights are the first average.
        decay: Share of the old average kept at each update, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the average's decay must lie in [0, 1), got {decay:g}")
        self.decay = decay
        self._tensors = {
            k: v.detach().to(torch.float32 if v.is_floating_point() else v.dtype, copy=True)
            for k, v in _plain(model).state_dict().items()
        }

    def update(self, model: nn.Module, *, decay: float | None = None) -> None:
        """Move the average towards the model, by 1 - decay of the way."""
        weight = 1 - (self.decay if decay is None else decay)
        averages, currents = [], []
        for name, current in _plain(model).state_dict().items():
            if current.is_floating_point():
                averages.append(self._tensors[name])
                currents.append(current.float())
            else:
                self._tensors[name].copy_(current)
        with torch.no_grad():
            torch._foreach_lerp_(averages, currents, weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors under the model's own names; they are not copies."""
        return dict(self._tensors)

    def on_cpu(self) -> dict[str, Tensor]:
        """Return copies on the CPU, gathered and laid out as files hold them; call on all ranks."""
        return copied(self._tensors)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over an average to the bit."""
        _check_names(expected=self._tensors, found=tensors, what="averaged weights")
        for name, mine in self._tensors.items():
            _copy(mine, tensors[name], name=name)

    def copy_to(self, model: nn.Module) -> None:
        """Put the average into a model, in the model's own precision."""
        for name, target in _plain(model).state_dict().items():
            target.copy_(self._tensors[name])  # state_dict gives tensors without gradient


def training_tensors(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    averages: Sequence[Average] = (),
) -> dict[str, Tensor]:
    """Flatten all tensors that training goes on from, each under a name, copied to the CPU.

    Names are `model/NAME`, `optimizer/NAME/KEY` (NAME is the parameter's, so the order of groups
    does not matter) and `average-I/NAME`. With sharded parameters every rank must call this, since
    the shards are gathered.
    """
    found = {f"model/{k}": v for k, v in _plain(model).state_dict().items()}
    for name, parameter in _plain(model).named_parameters():
        for key, value in _optimizer_state(optimizer, parameter).items():
            found[f"optimizer/{name}/{key}"] = value
    for i, average in enumerate(averages):
        found |= {f"average-{i}/{k}": v for k, v in average.state_dict().items()}
    return copied(found)


def restore(
    checkpoint: Checkpoint,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    averages: Sequence[Average] = (),
) -> None:
    """Put a checkpoint's tensors back, to the bit.

    Raises:
        ArtifactError: The checkpoint is of another model, optimizer or precision.
    """
    sections: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, tensor in checkpoint.tensors.items():
        section, _, rest = name.partition("/")
        sections.setdefault(section, {})[rest] = tensor

    own = _plain(model).state_dict()
    _check_names(expected=own, found=sections["model"], what="model weights")
    for name, mine in own.items():
        _copy(mine, sections["model"][name], name=name)
    if optimizer is not None:
        _restore_optimizer(sections["optimizer"], model=_plain(model), optimizer=optimizer)
    for i, average in enumerate(averages):
        average.load_state_dict(sections.get(f"average-{i}", {}))


def _restore_optimizer(
    tensors: Mapping[str, Tensor], *, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    parameters = dict(model.named_parameters())
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or id(parameter) not in groups:
            raise ArtifactError(
                f"checkpoint: holds optimizer state of {name!r}, which this optimizer does not "
                "train; it is of another model. Choose another --out, or delete the checkpoints."
            )
        group = groups[id(parameter)]
        # Step counters stay on the CPU unless the optimizer's kernel reads them on the device;
        # load_state_dict would also change the precision of the others.
        is_host = key == "step" and not (group.get("capturable") or group.get("fused"))
        device = torch.device("cpu") if is_host else parameter.device
        whole = _like(parameter, tensor.to(device))
        optimizer.state[parameter][key] = _laid_out(whole, parameter.detach())


def _optimizer_state(
    optimizer: torch.optim.Optimizer | None, parameter: nn.Parameter
) -> dict[str, Tensor]:
    if optimizer is None or parameter not in optimizer.state:
        return {}
    found = {}
    for key, value in optimizer.state[parameter].items():
        if isinstance(value, Tensor):
            found[key] = value
        elif value is not None:
            raise TypeError(
                f"checkpoint: the optimizer keeps {key}={value!r}, which is not a tensor; "
                "use one of torch's own whose state is tensors, such as AdamW"
            )
    return found


def _plain(model: nn.Module) -> nn.Module:
    """Take a model out of what data parallelism and compilation wrap around it."""
    from torch.nn.parallel import DistributedDataParallel

    while True:
        is_parallel = isinstance(model, DistributedDataParallel)
        inner = getattr(model, "module" if is_parallel else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, gathered and laid out as files hold them; call on all ranks."""
    return {k: whole(v).to("cpu", copy=True).contiguous() for k, v in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; any other is returned as it is. Every rank must call this."""
    tensor = tensor.detach()
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather is not None else tensor


def _like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """Shard a whole tensor as `pattern` is sharded, where it is and where the shapes agree."""
    mesh = getattr(pattern, "device_mesh", None)
    if mesh is None or tensor.shape != pattern.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, pattern.placements)


def _laid_out(tensor: Tensor, pattern: Tensor) -> Tensor:
    """Copy a tensor into the memory order of `pattern`, as the optimizer itself made it.

    With another order (channels last, say) kernels take other paths, which may round differently.
    """
    if tensor.shape != pattern.shape:
        return tensor.clone()
    return torch.empty_like(pattern, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _copy(target: Tensor, source: Tensor, *, name: str) -> None:
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ArtifactError(
            f"checkpoint: {name} is {source.dtype} {tuple(source.shape)}, this model has "
            f"{target.dtype} {tuple(target.shape)}. "
            "Choose another --out, or delete the checkpoints."
        )
    target.copy_(_like(target, source.to(target.device)))


def _check_names(*, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str) -> None:
    absent, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if absent or extra:
        raise ArtifactError(
            f"checkpoint: the {what} do not fit; {len(absent)} tensors are absent "
            f"({', '.join(absent[:3])}) and {len(extra)} unknown ({', '.join(extra[:3])}). "
            "Choose another --out, or delete the checkpoints."
        )
