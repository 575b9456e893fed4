"""How the next token is chosen: the likeliest, a keyed draw, or beams. No model in here.

Both choosers keep what they have written in arrays over slots, one slot a picture, and treat every
slot alike and alone: what one picture gets does not depend on the others.

S slots, K beams, R = S K rows, V vocabulary, T longest caption in tokens, end token included,
A slots admitted or finished
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from launch import keyed
from recap.captioner.coca import SpecialTokens
from recap.config import DecodeConfig


class WrittenCaption(NamedTuple):
    """One caption as tokens."""

    tokens: list[int]
    """Text tokens alone, without start and end."""

    stop_reason: Literal["end", "length"]
    """`end`: the model ended it; `length`: no room was left."""

    mean_logprob: float
    """Mean log-probability (nats) of its tokens, the end token included, under the model itself
    whatever the temperature, penalties or limits."""


class Choice(NamedTuple):
    """What follows a step."""

    tokens: Int[Tensor, "R"]
    """Newest token of every row."""

    parents: Int[Tensor, "R"] | None
    """Row that each row goes on from; None where each goes on from itself."""

    is_finished: Bool[Tensor, "S"]
    """Slots whose caption is complete; of a slot without a picture it says nothing."""


@runtime_checkable
class Chooser(Protocol):
    """Chooses tokens slot by slot."""

    num_beams: int

    def admit(self, slots: Int[Tensor, "A"], sample_ids: Sequence[str]) -> None:
        """Begin new captions in these slots."""

    def choose(self, logits: Float[Tensor, "R V"], *, ages: Int[Tensor, "S"]) -> Choice:
        """Choose every row's next token, where each slot has written `ages` tokens so far."""

    def captions(self, slots: Int[Tensor, "A"]) -> list[WrittenCaption]:
        """Return the captions of finished slots."""


def make_chooser(
    config: DecodeConfig,
    *,
    num_slots: int,
    max_tokens: int,
    vocab_size: int,
    special: SpecialTokens,
    seed: int,
    device: torch.device,
) -> Chooser:
    """Return the chooser that `config.method` names."""
    shape = Shape(num_slots, max_tokens, vocab_size, special, device)
    match config.method:
        case "greedy" | "sample":
            return Single(config, shape, seed=seed)
        case "beam":
            return Beams(config, shape)


class Shape(NamedTuple):
    """Sizes and ids that every chooser needs."""

    num_slots: int
    max_tokens: int
    vocab_size: int
    special: SpecialTokens
    device: torch.device


class Limits:
    """What a row may write next: never pad or start, no end too soon, repetition made dearer.

    Source: repetition penalty, Keskar et al. 2019, arXiv:1909.05858, section 4.1, who divide every
    score; a negative one is multiplied here, as transformers does, or it would become likelier.
    """

    def __init__(self, config: DecodeConfig, shape: Shape, *, num_rows: int) -> None:
        special = shape.special
        self._never = torch.tensor([special.pad, special.start], device=shape.device)
        self._end, self._min_tokens = special.end, config.min_tokens
        self._penalty = config.repetition_penalty
        self._seen = (
            torch.zeros(num_rows, shape.vocab_size, dtype=torch.bool, device=shape.device)
            if config.repetition_penalty != 1
            else None
        )

    def possible(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Return the model's own scores of everything that a caption may hold at all.

        The rest is written over in place: a step's scores are a large array that nobody else needs.
        """
        return logits.index_fill_(1, self._never, float("-inf"))

    def apply(
        self, logits: Float[Tensor, "R V"], *, ages: Int[Tensor, "R"]
    ) -> Float[Tensor, "R V"]:
        """Return scores of what is allowed here; the rest is minus infinity."""
        allowed = logits
        if self._seen is not None:
            dearer = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
            allowed = torch.where(self._seen, dearer, allowed)
        if self._min_tokens:
            ends = allowed[:, self._end].masked_fill(ages < self._min_tokens, float("-inf"))
            allowed = allowed.clone()
            allowed[:, self._end] = ends
        return allowed

    def note(self, tokens: Int[Tensor, "R"], parents: Int[Tensor, "R"] | None) -> None:
        """Remember what has been written."""
        if self._seen is not None:
            if parents is not None:
                self._seen = self._seen[parents]
            self._seen.scatter_(1, tokens[:, None], True)
            self._seen[:, self._end] = False

    def forget(self, rows: Int[Tensor, "A"]) -> None:
        """Begin anew in some rows."""
        if self._seen is not None:
            self._seen[rows] = False


class Single:
    """One caption per picture: the likeliest token, or one drawn with keyed randomness."""

    num_beams = 1

    def __init__(self, config: DecodeConfig, shape: Shape, *, seed: int) -> None:
        self._config, self._shape, self._seed = config, shape, seed
        size = (shape.num_slots, shape.max_tokens)
        self._written = torch.full(size, shape.special.pad, device=shape.device)
        self._logprob = torch.zeros(shape.num_slots, device=shape.device)
        self._slots = torch.arange(shape.num_slots, device=shape.device)
        self._draws = (
            torch.zeros(size, dtype=torch.float64, device=shape.device)
            if config.method == "sample"
            else None
        )
        self._limits = Limits(config, shape, num_rows=shape.num_slots)

    @torch.no_grad()
    def admit(self, slots: Int[Tensor, "A"], sample_ids: Sequence[str]) -> None:
        """Begin new captions; a caption's draws are a function of seed and sample_id."""
        self._written[slots] = self._shape.special.pad
        self._logprob[slots] = 0
        self._limits.forget(slots)
        if self._draws is not None:
            ids, num = keyed.words(sample_ids), self._shape.max_tokens
            uniform = keyed.uniform(self._seed, "caption", epoch=0, ids=ids, count=num)
            drawn = torch.from_numpy(np.reshape(uniform, (len(ids), num)))
            self._draws[slots] = drawn.to(self._draws)

    @torch.no_grad()
    def choose(self, logits: Float[Tensor, "S V"], *, ages: Int[Tensor, "S"]) -> Choice:
        """Choose one token per slot."""
        logits = self._limits.possible(logits)
        allowed = self._limits.apply(logits, ages=ages)
        if self._draws is None:
            tokens = allowed.argmax(dim=-1)
        else:
            draw = self._draws[self._slots, ages]
            tokens = drawn_token(allowed, config=self._config, draw=draw)
        chosen = logits.gather(1, tokens[:, None])[:, 0]
        self._logprob += chosen - logits.logsumexp(dim=-1)
        self._written[self._slots, ages] = tokens
        self._limits.note(tokens, None)
        is_last = ages + 1 >= self._shape.max_tokens
        return Choice(tokens, None, (tokens == self._shape.special.end) | is_last)

    @torch.no_grad()
    def captions(self, slots: Int[Tensor, "A"]) -> list[WrittenCaption]:
        """Return the captions of finished slots."""
        rows = zip(self._written[slots].tolist(), self._logprob[slots].tolist(), strict=True)
        return [
            finished_caption(tokens, logprob=total, special=self._shape.special)
            for tokens, total in rows
        ]


class Beams:
    """Beam search: the best of several captions by log-probability over length.

    A caption's score is its log-probability divided by its length, end token included, to the power
    of `length_penalty`. A search ends when no open beam can pass the worst of as many finished
    captions as there are beams, or when no room is left.

    Log-probabilities are of what the limits leave possible.

    Source: Wu et al. 2016, arXiv:1609.08144, section 7, with the plain power of the length, as in
    transformers, which does not normalise again after penalties and limits.
    """

    def __init__(self, config: DecodeConfig, shape: Shape) -> None:
        self.num_beams = config.num_beams
        self._power, self._shape = config.length_penalty, shape
        slots, beams, device = shape.num_slots, config.num_beams, shape.device
        self._scores = torch.full((slots, beams), float("-inf"), device=device)
        self._written = torch.full(
            (slots, beams, shape.max_tokens), shape.special.pad, device=device
        )
        self._logprob = torch.zeros(slots, beams, device=device)
        self._best_scores = self._scores.clone()
        self._best_written = self._written.clone()
        self._best_logprob = self._logprob.clone()
        self._rows = torch.arange(slots * beams, device=device).view(slots, beams)
        self._limits = Limits(config, shape, num_rows=slots * beams)

    @torch.no_grad()
    def admit(self, slots: Int[Tensor, "A"], sample_ids: Sequence[str]) -> None:
        """Begin new captions, each from one open beam."""
        for scores in (self._scores, self._best_scores):
            scores[slots] = float("-inf")
        self._scores[slots, 0] = 0
        self._logprob[slots] = 0
        self._written[slots] = self._shape.special.pad
        self._limits.forget(self._rows[slots].flatten())

    @torch.no_grad()
    def choose(self, logits: Float[Tensor, "R V"], *, ages: Int[Tensor, "S"]) -> Choice:
        """Go on from the best beams of every slot; keep those that end among its finished ones."""
        shape, beams, vocab_size = self._shape, self.num_beams, logits.shape[-1]
        logits = self._limits.possible(logits)
        ages_R = ages.repeat_interleave(beams)
        steps = self._limits.apply(logits, ages=ages_R).log_softmax(dim=-1)
        totals = self._scores[..., None] + steps.view(-1, beams, vocab_size)
        # Twice as many as beams: even if all of them end once, as many are left open.
        scores, flat = totals.flatten(1).topk(2 * beams, dim=1)  # [S, 2K]
        parents, tokens = flat // vocab_size, flat % vocab_size
        model_steps = logits.log_softmax(dim=-1).flatten().view(-1, beams * vocab_size)
        logprob = self._logprob.gather(1, parents) + model_steps.gather(1, flat)
        slots = torch.arange(shape.num_slots, device=shape.device)[:, None]
        written = self._written[slots, parents]  # [S, 2K, T]
        written.scatter_(2, ages[:, None, None].expand_as(written[..., :1]), tokens[..., None])

        is_end = tokens == shape.special.end
        is_last = (ages + 1 >= shape.max_tokens)[:, None]
        is_ranked = torch.arange(2 * beams, device=shape.device) < beams
        # Where no room is left, open beams count as they are.
        counts = (is_end & is_ranked) | (~is_end & is_last)
        normed = scores / (ages + 1).to(scores.dtype)[:, None] ** self._power
        self._keep_best(normed.masked_fill(~counts, float("-inf")), written, logprob)

        self._scores, kept = scores.masked_fill(is_end, float("-inf")).topk(beams, dim=1)
        self._written = written[slots, kept]
        self._logprob = logprob.gather(1, kept)
        rows = (self._rows[:, :1] + parents.gather(1, kept)).flatten()
        newest = tokens.gather(1, kept).flatten()
        self._limits.note(newest, rows)
        return Choice(newest, rows, self._is_settled(ages) | is_last[:, 0])

    def _keep_best(
        self, scores: Float[Tensor, "S C"], written: Tensor, logprob: Float[Tensor, "S C"]
    ) -> None:
        all_scores = torch.cat([self._best_scores, scores], dim=1)
        self._best_scores, kept = all_scores.topk(self.num_beams, dim=1)
        all_written = torch.cat([self._best_written, written], dim=1)
        self._best_written = all_written.gather(
            1, kept[..., None].expand(-1, -1, all_written.shape[-1])
        )
        self._best_logprob = torch.cat([self._best_logprob, logprob], dim=1).gather(1, kept)

    def _is_settled(self, ages: Int[Tensor, "S"]) -> Bool[Tensor, "S"]:
        """Say where no open beam can pass the worst finished caption any more."""
        # Log-probabilities only fall; a positive power is kindest to the longest caption.
        longest = self._shape.max_tokens if self._power > 0 else ages + 1
        attainable = self._scores[:, 0] / longest**self._power
        return self._best_scores[:, -1] >= attainable

    @torch.no_grad()
    def captions(self, slots: Int[Tensor, "A"]) -> list[WrittenCaption]:
        """Return the best caption of finished slots."""
        rows = zip(
            self._best_written[slots, 0].tolist(),
            self._best_logprob[slots, 0].tolist(),
            strict=True,
        )
        return [
            finished_caption(tokens, logprob=total, special=self._shape.special)
            for tokens, total in rows
        ]


def drawn_token(
    allowed: Float[Tensor, "S V"], *, config: DecodeConfig, draw: Float[Tensor, "S"]
) -> Int[Tensor, "S"]:
    """Draw the next token of every row from its distribution, cut to `top_k` and `top_p`.

    Args:
        allowed: Scores; minus infinity where a token may not be written.
        config: Temperature and cuts.
        draw: One uniform number in [0, 1) per row.

    Source: Fan et al. 2018, arXiv:1805.04833, section 5.4 (top-k); Holtzman et al. 2020,
    arXiv:1904.09751, section 3.1 (nucleus).
    """
    probs = (allowed.double() / config.temperature).softmax(dim=-1)
    probs, tokens = probs.sort(dim=-1, descending=True, stable=True)
    if config.top_k is not None:
        probs[:, config.top_k :] = 0
        probs = probs / probs.sum(dim=-1, keepdim=True)
    before = probs.cumsum(dim=-1) - probs
    # The token that crosses top_p belongs to the nucleus.
    probs = torch.where(before < config.top_p, probs, 0.0)
    cumulative = probs.cumsum(dim=-1)
    place = (cumulative <= draw[:, None] * cumulative[:, -1:]).sum(dim=-1)
    # Rounding may carry the draw past the last token that has any probability.
    last = (probs > 0).sum(dim=-1) - 1
    return tokens.gather(1, torch.minimum(place, last)[:, None])[:, 0]


def finished_caption(
    tokens: Sequence[int], *, logprob: float, special: SpecialTokens
) -> WrittenCaption:
    """Cut one row at its end token, or at the padding behind its last token."""
    if special.end in tokens:
        length = tokens.index(special.end)
        return WrittenCaption(list(tokens[:length]), "end", logprob / (length + 1))
    length = tokens.index(special.pad) if special.pad in tokens else len(tokens)
    return WrittenCaption(list(tokens[:length]), "length", logprob / max(length, 1))
