"""A loss that is no number: found before the weights change, without waiting for the device.

On a CPU the answer is at hand. On a GPU, asking would make the host wait in every step, so the
device itself refuses: the flag that says "not finite" is given to torch's fused optimizer, which
then leaves weights and moments as they are, in this step and in all later ones. The host reads the
flag of a step when the next one has been handed to the device, and stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from launch.errors import StoppedError


class _Step(NamedTuple):
    """What the host has yet to look at."""

    is_bad: Tensor
    copied: torch.cuda.Event | None
    error: Callable[[], Exception]


class FiniteGuard:
    """Watches the losses and gradient norms of a training.

    Args:
        optimizer: On a GPU a fused optimizer of torch, whose kernel can be told to do nothing.
        device: Where it steps.
        is_delayed: Read a step's flag one step later; None: on a GPU.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        is_delayed: bool | None = None,
    ) -> None:
        self._is_delayed = device.type == "cuda" if is_delayed is None else is_delayed
        self._is_bad = torch.zeros((), device=device)
        self._pending: deque[_Step] = deque()
        if self._is_delayed:
            # The attribute by which torch.amp.GradScaler tells a fused optimizer the same.
            optimizer.found_inf = self._is_bad

    def check(self, *values: Tensor, error: Callable[[], Exception]) -> None:
        """Look at a step after its backward pass and before the optimizer's step.

        Args:
            values: Losses and gradient norm.
            error: Makes the exception; called only when it is raised.

        Raises:
            Exception: What `error` made, for this step or for the one before it.
        """
        is_bad = ~torch.stack([value.detach().isfinite().all() for value in values]).all()
        if not self._is_delayed:
            if is_bad:
                raise error()
            return
        self._is_bad.copy_(torch.maximum(self._is_bad, is_bad.to(self._is_bad)))
        on_gpu = self._is_bad.is_cuda
        host = torch.zeros((), pin_memory=on_gpu)
        host.copy_(self._is_bad, non_blocking=True)
        copied = torch.cuda.Event() if on_gpu else None
        if copied is not None:
            copied.record()
        self._pending.append(_Step(host, copied, error))
        self._look(leave=1)

    def settle(self) -> None:
        """Wait for every step so far; called before anything is saved."""
        self._look(leave=0)

    def _look(self, *, leave: int) -> None:
        while len(self._pending) > leave:
            step = self._pending.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            if step.is_bad:
                raise step.error()


def is_fused(device: torch.device) -> Literal[True] | None:
    """Give `fused` of an optimizer that the guard watches: on a GPU; elsewhere torch decides."""
    return True if device.type == "cuda" else None


def not_finite(
    out: Path,
    step: int,
    loss: Tensor,
    grad_norm: Tensor,
    *,
    lr: float,
    what: str = "loss",
    pictures: Sequence[str] = (),
) -> StoppedError:
    """Give the error of a small fit whose loss is no number; it fetches both numbers.

    Args:
        out: Folder of the run.
        step: Step that stopped it, counted from 1.
        loss: Its loss.
        grad_norm: Norm of the gradient.
        lr: Highest learning rate.
        what: The loss in the reader's words.
        pictures: Names of the step's pictures.
    """
    return StoppedError(
        f"{out}: {what} is {loss.item()} and its gradient {grad_norm.item()} at step {step}; the "
        f"weights were not changed. Lower lr={lr:g}."
        + (f" Pictures: {', '.join(pictures)}" if pictures else "")
    )
