"""The loop that both parts of the judge are fitted by.

It averages weights, saves and resumes to the bit. What is learned from the pictures of a step is
the caller's `step_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from launch.checkpoint import Average, Checkpoints, restore, training_tensors
from launch.finite import FiniteGuard, is_fused, not_finite
from launch.run import Run
from launch.training import average_decay, learning_rate

# Settings of the fit that no study has had a reason to change.
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.1
AVERAGE_DECAY = 0.99
CHECKPOINTS_PER_FIT = 8


def whole_batch(asked: int, *, num_pictures: int) -> int:
    """Give the batch size asked for, or the largest multiple of 8 that so few pictures fill."""
    return min(asked, max(8, num_pictures // 8 * 8))


def fit(
    model: nn.Module,
    step_loss: Callable[[int], Float[Tensor, ""]],
    *,
    num_steps: int,
    batch_size: int,
    lr: float,
    run: Run,
    folder: Path,
    label: str,
) -> None:
    """Take `num_steps` optimizer steps on `step_loss(step)`, steps counted from 1.

    The model lies where it computes, and ends with its averaged weights. `step_loss` must not wait
    for that device.
    """
    where = next(model.parameters()).device
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
        fused=is_fused(where),
    )
    guard = FiniteGuard(optimizer, where)
    average = Average(model, AVERAGE_DECAY)
    checkpoints = Checkpoints(folder)
    start = 0
    if (latest := checkpoints.latest()) is not None:
        restore(latest, model=model, optimizer=optimizer, averages=[average])
        start = latest.step
    save_every = max(1, math.ceil(num_steps / CHECKPOINTS_PER_FIT))
    model.train()
    with run.progress(num_steps * batch_size, label=label) as progress:
        progress.resume(start * batch_size)
        for step in range(start + 1, num_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    num_steps=num_steps,
                    peak=lr,
                    warmup_steps=WARMUP_STEPS,
                )
            loss = step_loss(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stop = partial(not_finite, run.out, step, loss, norm, lr=lr, what=f"{label} loss")
            guard.check(loss, norm, error=stop)
            optimizer.step()
            average.update(model, decay=average_decay(step, decay=AVERAGE_DECAY))
            progress.advance(batch_size, step=step, loss=loss.detach().item)
            if step % save_every == 0 or step == num_steps or checkpoints.is_late():
                guard.settle()
                tensors = training_tensors(model=model, optimizer=optimizer, averages=[average])
                checkpoints.save(step, tensors, {})
    average.copy_to(model)
    model.eval().requires_grad_(False)
