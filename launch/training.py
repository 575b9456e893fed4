"""What every training loop here shares: initial weights, the order of the rows, the rate.

All three are functions of a seed and of progress alone, so that a checkpoint need not hold them.

N rows, B batch
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from launch import keyed


@contextmanager
def initial_weights(seed: int, stream: str) -> Iterator[None]:
    """Within, weights that libraries draw from torch's global generator are keyed.

    The generator's state is put back afterwards.
    """
    import torch

    low, high = (int(word) for word in keyed.stream_key(seed, stream))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(low | high << 32)
        yield


class EpochRows(NamedTuple):
    """Row numbers, and the epoch of each; a batch may span two."""

    rows: Int64[np.ndarray, " B"]
    epochs: Int64[np.ndarray, " B"]


class EpochOrder:
    """The order in which rows are seen: every epoch all of them once, in an order of its own.

    Args:
        seed: Seed of the order.
        stream: Stream of keyed randomness, one per purpose.
        ids: First 64 bits of each sample_id.
    """

    def __init__(self, seed: int, stream: str, ids: UInt64[np.ndarray, " N"]) -> None:
        self._seed, self._stream, self._ids = seed, stream, ids
        self._orders: dict[int, Int64[np.ndarray, " N"]] = {}

    def batch(self, step: int, *, batch_size: int) -> EpochRows:
        """Give the rows of a step, counted from 1."""
        place = np.arange((step - 1) * batch_size, step * batch_size, dtype=np.int64)
        epochs, position = np.divmod(place, len(self._ids))
        rows = np.empty_like(place)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = self._order(epoch)[position[here]]
        return EpochRows(rows, epochs)

    def _order(self, epoch: int) -> Int64[np.ndarray, " N"]:
        if epoch not in self._orders:
            for old in [e for e in self._orders if e < epoch - 1]:
                del self._orders[old]
            self._orders[epoch] = keyed.permutation(
                self._seed, self._stream, epoch=epoch, ids=self._ids
            )
        return self._orders[epoch]


def learning_rate(step: int, *, num_steps: int, peak: float, warmup_steps: float) -> float:
    """Give the rate of one step: it rises evenly to `peak`, then falls towards zero as a cosine.

    The rise takes at most a quarter of a training, so that a short one reaches its peak.

    Args:
        step: Counted from 1; its rate is that of its middle, so that no step has a rate of zero.
        num_steps: Steps of the whole training.
        peak: Highest rate.
        warmup_steps: Steps over which the rate rises.
    """
    middle, rise = step - 0.5, min(warmup_steps, num_steps / 4)
    if middle < rise:
        return peak * middle / rise
    return peak * (1 + math.cos(math.pi * (middle - rise) / (num_steps - rise))) / 2


def average_decay(step: int, *, decay: float) -> float:
    """Give the decay of the averaged weights, short at first so that initial ones are forgotten."""
    return min(decay, (1 + step) / (10 + step))


def is_due(step: int, every_samples: int | None, *, batch_size: int) -> bool:
    """Say whether this step, counted from 1, completes another `every_samples` samples.

    None is never due.
    """
    if every_samples is None:
        return False
    return step * batch_size // every_samples > (step - 1) * batch_size // every_samples
