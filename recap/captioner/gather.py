"""What the processes of a training tell each other within a step.

Alone, every function here gives back what it was given.

B pictures of this process, N pictures of all, D features
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from launch.processes import rank, world_size


class Features(NamedTuple):
    """Features of matching pictures and captions, of unit length."""

    image: Float[Tensor, "N D"]
    text: Float[Tensor, "N D"]


def gather_features(own: Features) -> Features:
    """Return the features of all processes, by rank; gradients find their way back.

    Every process must come here in the same step, and again in the backward pass.
    """
    if world_size() == 1:
        return own
    # Both in one call, so that no two collectives can meet in different orders on two processes.
    image, text = _Gather.apply(torch.stack(own, dim=1)).unbind(dim=1)
    return Features(image=image, text=text)


class _Gather(torch.autograd.Function):
    """Joins the rows of all processes.

    Every process's loss depends on these rows, so their gradient is the sum over processes of what
    each finds for them. `torch.distributed.nn.functional.all_gather` computes the same; this one
    needs only collectives that gloo and NCCL both have.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world_size())]
        distributed.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(world_size())[rank()]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, in one message.

    A parameter without a gradient must have none on any process.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(total)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, part in zip(gradients, total.split(sizes), strict=True):
        gradient.copy_(part.view_as(gradient))


def sum_over_processes(shares: Float[Tensor, "K"]) -> Float[Tensor, "K"]:
    """Return the sum of every process's numbers."""
    if world_size() > 1:
        distributed.all_reduce(shares)
    return shares


def share_weights(model: nn.Module) -> None:
    """Give every process the weights of rank 0.

    They were drawn from one seed; but two kinds of processor may round such draws differently, and
    nothing would bring the copies together again.
    """
    if world_size() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, src=0)
