"""Every word that a transformers model writes, chosen as our own captioners choose theirs.

transformers generates; a processor of its scores leaves one token of each row, so that the
likeliest one, which generation takes, is the one chosen here. Limits, penalties and keyed draws are
those of `recap.captioner.choose`, whoever writes.

B batch, L tokens so far, V vocabulary, T longest caption in tokens
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from launch import keyed
from recap.captioner.choose import drawn_token
from recap.config import DecodeConfig

STREAM = "caption"
"""Stream of the draws, that of our own captioners."""


class Chosen:
    """Chooses every token of one batch, and adds up what the model thought of it.

    Args:
        config: How tokens are chosen.
        ends: Tokens that end a caption.
        sample_ids: Pictures of the batch, to which draws belong.
        seed: Seed of the draws.
        device: Of the scores.
    """

    def __init__(
        self,
        config: DecodeConfig,
        *,
        ends: Collection[int],
        sample_ids: Sequence[str],
        seed: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._ends = torch.tensor(sorted(ends), device=device)
        self._start: int | None = None
        self._is_open: Bool[Tensor, " B"] = torch.ones(
            len(sample_ids), dtype=torch.bool, device=device
        )
        self.logprob: Float[Tensor, " B"] = torch.zeros(len(sample_ids), device=device)
        self._draws: Float[Tensor, "B T"] | None = None
        if config.method == "sample":
            ids, num = keyed.words(sample_ids), max(2, config.max_tokens)
            drawn = keyed.uniform(seed, STREAM, epoch=0, ids=ids, count=num)
            self._draws = torch.from_numpy(np.asarray(drawn)).to(device)

    @property
    def start(self) -> int:
        """Tokens of each row before the first that was written."""
        return self._start or 0

    @torch.no_grad()
    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Tensor:
        """Leave one token of each row."""
        if self._start is None:
            self._start = input_ids.shape[1]
        age = input_ids.shape[1] - self._start
        scores = scores.float()
        allowed = self._dearer(scores, written=input_ids[:, self._start :])
        if age < self._config.min_tokens:
            allowed = allowed.index_fill(1, self._ends, float("-inf"))
        if self._draws is None:
            tokens = allowed.argmax(dim=-1)
        else:
            tokens = drawn_token(allowed, config=self._config, draw=self._draws[:, age])
        step = scores.gather(1, tokens[:, None])[:, 0] - scores.logsumexp(dim=-1)
        self.logprob += torch.where(self._is_open, step, 0.0)
        self._is_open &= ~torch.isin(tokens, self._ends)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)

    def _dearer(
        self, scores: Float[Tensor, "B V"], *, written: Int[Tensor, "B W"]
    ) -> Float[Tensor, "B V"]:
        """Make what a caption has already dearer, its end aside; what it was asked does not count.

        Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1, as in `recap.captioner.choose`.
        """
        penalty = self._config.repetition_penalty
        if penalty == 1 or not written.shape[1]:
            return scores
        seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, written, True)
        seen.index_fill_(1, self._ends, False)
        return torch.where(
            seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores
        )
