"""A GPU on paper: tensors that know where they lie and hold no numbers, where there is no GPU.

Within `paper_gpu`, `launch.processes.device` answers with the first GPU. Operations on tensors of two
devices fail as they do on a GPU. A number that is asked for while the GPU is `busy`, as in a step of
a training, fails the test, since a real host would wait for it; at any other time it is one. What
this cannot show is whether a kernel exists, and what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn.modules.module import register_module_forward_pre_hook

GPU = torch.device("cuda", 0)


class SavedError(Exception):
    """A fit has come to its first checkpoint, which cannot be written without numbers."""


@dataclass
class PaperGpu:
    """What happened on it."""

    is_busy: bool = False
    """Nobody may ask for a number now."""

    computed_on: set[torch.device] = field(default_factory=set)
    """Where layers with weights have computed."""

    saved_from: set[torch.device] = field(default_factory=set)
    """Where weights, moments and averages lay when they were to be saved."""

    num_steps: int = 0
    """Steps whose loss was looked at where it lies."""


@contextmanager
def paper_gpu(patch: pytest.MonkeyPatch) -> Iterator[PaperGpu]:
    """Compute on a GPU on paper within."""
    from launch import checkpoint, finite, processes, progress

    gpu = PaperGpu()

    def asked(real: Callable[..., Any], one: Callable[[Tensor], Any]) -> Callable[..., Any]:
        def answer(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(tensor, FakeTensor):
                return real(tensor, *args, **kwargs)
            assert not (gpu.is_busy and tensor.device == GPU), "the host would wait in a step"
            return one(tensor)

        return answer

    def array(tensor: Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu", "numpy sees no device's memory"
        names = {torch.bool: "bool"}
        name = names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
        return np.ones(tuple(tensor.shape), name)

    def check(self: Any, *values: Tensor, error: object) -> None:
        assert {value.device for value in values} == {GPU}
        gpu.num_steps += 1

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        gpu.saved_from |= {tensor.device for tensor in tensors.values()}
        raise SavedError

    for name, one in (
        ("numpy", array),
        ("item", lambda tensor: 1),
        ("tolist", lambda tensor: array(tensor.cpu()).tolist()),
        ("__bool__", lambda tensor: True),
        ("__int__", lambda tensor: 1),
        ("__float__", lambda tensor: 1.0),
    ):
        patch.setattr(Tensor, name, asked(getattr(Tensor, name), one))

    def loaded(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with unset_fake_temporarily():
            return load_file(*args, **kwargs)

    load_file = safetensors.torch.load_file
    patch.setattr(safetensors.torch, "load_file", loaded)
    patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    patch.setattr(Tensor, "backward", _backward)
    patch.setattr(nn.Module, "to", _moved)
    patch.setattr(processes, "_stays_on_cpu", lambda: False)
    patch.setattr(finite.FiniteGuard, "check", check)
    patch.setattr(checkpoint, "copied", copied)
    patch.setattr(progress.Progress, "_report", lambda self, is_last=False: None)
    seen = register_module_forward_pre_hook(
        lambda layer, _: gpu.computed_on.update(
            weight.device for weight in layer.parameters(recurse=False)
        )
    )
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield gpu
    finally:
        seen.remove()


def _backward(loss: Tensor) -> None:
    """Give every parameter that a loss depends on a gradient, which autograd's threads cannot."""
    assert loss.device == GPU
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                assert node.variable.device == GPU
                node.variable.grad = torch.zeros_like(node.variable)
            left += [following for following, _ in node.next_functions]


def _moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Move a module by giving it other parameters: those on paper cannot be exchanged in place."""
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
    known: dict[int, Tensor] = {}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            other = tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
            is_parameter = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = nn.Parameter(other, tensor.requires_grad) if is_parameter else other
        return known[id(tensor)]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = moved(tensor)
    return module
