"""Cached decoding: one token at a time, nothing computed twice.

A picture is encoded once and its keys and values for the cross-attending layers are computed once.
Both halves of the text tower keep the keys and values of earlier tokens in arrays allocated for the
longest caption, so a step costs one token's arithmetic. [CLS], which no caption token sees, is left
out. Rows that have finished are dropped from the batch; what is left stays a multiple of 8.

Works on any module with open_clip's CoCa towers: `text` (TextTransformer) and `text_decoder`
(MultimodalTransformer).

B rows being decoded, T tokens so far, Q image tokens, W width, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from open_clip.transformer import MultimodalTransformer, ResidualAttentionBlock, TextTransformer
from torch import Tensor
from torch.nn import functional

from launch import keyed
from recap.captioner.coca import (
    SpecialTokens,
    cross_attention_memory,
    cross_attention_queries,
    finish_block,
    self_attention_inputs,
)
from recap.config import DecodeConfig

ROW_MULTIPLE = 8
"""Batches keep a multiple of this many rows, so that few matrix shapes occur."""

SHRINK_BELOW = 0.75
"""The batch is compacted when this share of its rows is enough; copying caches has a cost too."""


class WrittenCaption(NamedTuple):
    """One caption as tokens."""

    tokens: list[int]
    """Text tokens alone, without start and end."""

    stop_reason: Literal["end", "length"]
    """`end`: the model ended it; `length`: no room was left."""

    mean_logprob: float
    """Mean log-probability (nats) of its tokens, the end token included, under the model itself
    whatever the temperature."""


class SelfCache:
    """Keys and values of the earlier tokens in one self-attending block."""

    def __init__(
        self,
        block: ResidualAttentionBlock,
        *,
        num_rows: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        heads = block.attn.num_heads
        shape = (num_rows, heads, max_tokens, block.attn.embed_dim // heads)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def step(
        self, block: ResidualAttentionBlock, x: Float[Tensor, "B 1 W"], *, position: int
    ) -> Float[Tensor, "B 1 W"]:
        """Run the block for the newest token, which sees itself and all before it."""
        q, k, v = self_attention_inputs(block, x)
        self.keys[:, :, position] = k[:, :, 0]
        self.values[:, :, position] = v[:, :, 0]
        seen = position + 1
        attended = functional.scaled_dot_product_attention(
            q, self.keys[:, :, :seen], self.values[:, :, :seen]
        )
        return finish_block(block, x, attended)

    def keep(self, rows: Int[Tensor, "B"]) -> None:
        """Forget all other rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class CrossMemory:
    """Keys and values of the picture in one cross-attending block."""

    def __init__(self, block: ResidualAttentionBlock, image_tokens: Float[Tensor, "B Q W"]) -> None:
        self.keys, self.values = cross_attention_memory(block, image_tokens)

    def step(
        self, block: ResidualAttentionBlock, x: Float[Tensor, "B 1 W"]
    ) -> Float[Tensor, "B 1 W"]:
        """Run the block for the newest token."""
        q = cross_attention_queries(block, x)
        return finish_block(
            block, x, functional.scaled_dot_product_attention(q, self.keys, self.values)
        )

    def keep(self, rows: Int[Tensor, "B"]) -> None:
        """Forget all other rows."""
        self.keys, self.values = self.keys[rows], self.values[rows]


class CachedText:
    """Both halves of the text tower, fed one token per row at a time."""

    def __init__(
        self,
        text: TextTransformer,
        decoder: MultimodalTransformer,
        image_tokens: Float[Tensor, "B Q W"],
        *,
        max_tokens: int,
    ) -> None:
        self.text = text
        self.decoder = decoder
        self.position = 0
        caches = [
            SelfCache(
                block,
                num_rows=len(image_tokens),
                max_tokens=max_tokens,
                dtype=image_tokens.dtype,
                device=image_tokens.device,
            )
            for block in [*text.transformer.resblocks, *decoder.resblocks]
        ]
        num_lower = len(text.transformer.resblocks)
        self.lower, self.upper = caches[:num_lower], caches[num_lower:]
        self.memories = [CrossMemory(block, image_tokens) for block in decoder.cross_attn]

    def step(self, tokens: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Take the newest token of every row and return the scores of the next one."""
        text, decoder, position = self.text, self.decoder, self.position
        x = text.token_embedding(tokens) + text.positional_embedding[position]
        x = x[:, None]  # B W -> B 1 W
        for block, cache in zip(text.transformer.resblocks, self.lower, strict=True):
            x = cache.step(block, x, position=position)
        layers = zip(decoder.resblocks, decoder.cross_attn, self.upper, self.memories, strict=True)
        for block, cross, cache, memory in layers:
            x = cache.step(block, x, position=position)
            x = memory.step(cross, x)
        self.position += 1
        return decoder.ln_final(x[:, 0]) @ decoder.text_projection

    def keep(self, rows: Int[Tensor, "B"]) -> None:
        """Go on with these rows only."""
        for part in [*self.lower, *self.upper, *self.memories]:
            part.keep(rows)


@torch.inference_mode()
def decode(
    text: TextTransformer,
    decoder: MultimodalTransformer,
    image_tokens: Float[Tensor, "B Q W"],
    *,
    special: SpecialTokens,
    config: DecodeConfig,
    sample_ids: Sequence[str],
    seed: int,
) -> list[WrittenCaption]:
    """Write a caption for every picture.

    Args:
        text: Lower half of the text tower.
        decoder: Upper half.
        image_tokens: From the image tower, once per picture.
        special: Ids of pad, start and end; neither pad nor start is ever written.
        config: How a token is chosen; its `max_tokens` counts text tokens and the end token.
        sample_ids: Of the pictures; with `seed` they alone determine the draws of sampling.
        seed: Seed of sampling.

    Returns:
        One caption per row, in the order of the rows.
    """
    num_rows = len(image_tokens)
    # The last position of the context can only be predicted, not seen.
    max_tokens = min(config.max_tokens, text.context_length - 1)
    device = image_tokens.device
    draws = None
    if config.method == "sample":
        uniform = keyed.uniform(
            seed, "caption", epoch=0, ids=keyed.words(sample_ids), count=max_tokens
        )
        draws = torch.from_numpy(np.reshape(uniform, (num_rows, max_tokens))).to(device)

    cached = CachedText(text, decoder, image_tokens, max_tokens=max_tokens)
    written = torch.full((num_rows, max_tokens), special.pad, dtype=torch.long, device=device)
    logprobs = torch.zeros(num_rows, max_tokens, dtype=torch.float32, device=device)
    rows = torch.arange(num_rows, device=device)  # the row of the batch that each slot writes
    newest = torch.full((num_rows,), special.start, dtype=torch.long, device=device)
    finished = torch.zeros(num_rows, dtype=torch.bool, device=device)
    for position in range(max_tokens):
        logits = cached.step(newest).float()
        logits[:, [special.pad, special.start]] = float("-inf")
        draw = None if draws is None else draws[rows, position]
        newest = choose(logits, config=config, draw=draw)
        chosen = logits.log_softmax(dim=-1).gather(1, newest[:, None])[:, 0]
        # A finished row may still hold a place, but it writes nothing any more.
        written[rows, position] = torch.where(finished, special.pad, newest)
        logprobs[rows, position] = torch.where(finished, 0.0, chosen)
        finished = finished | (newest == special.end)

        num_open = int((~finished).sum())
        if num_open == 0:
            break
        num_kept = -(-num_open // ROW_MULTIPLE) * ROW_MULTIPLE
        if num_kept <= SHRINK_BELOW * len(rows):
            kept = open_rows_first(finished)[:num_kept]
            cached.keep(kept)
            rows, newest, finished = rows[kept], newest[kept], finished[kept]
    return [
        _caption(tokens, logprobs=values, special=special)
        for tokens, values in zip(written.tolist(), logprobs.tolist(), strict=True)
    ]


def open_rows_first(finished: Bool[Tensor, "B"]) -> Int[Tensor, "B"]:
    """Return all rows in order, the unfinished ones before the finished ones."""
    return torch.argsort(finished.to(torch.uint8), stable=True)


def choose(
    logits: Float[Tensor, "B V"],
    *,
    config: DecodeConfig,
    draw: Float[Tensor, "B"] | None,
) -> Int[Tensor, "B"]:
    """Choose the next token of every row.

    Args:
        logits: Scores of every token.
        config: Greedy, or sampling with a temperature and a nucleus.
        draw: One uniform number in [0, 1) per row; needed only when sampling.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (nucleus).
    """
    if config.method == "greedy":
        return logits.argmax(dim=-1)
    assert draw is not None
    probs = (logits.double() / config.temperature).softmax(dim=-1)
    probs, tokens = probs.sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(dim=-1) - probs
    # The token that crosses top_p belongs to the nucleus.
    probs = torch.where(before < config.top_p, probs, 0.0)
    cumulative = probs.cumsum(dim=-1)
    place = (cumulative <= draw[:, None] * cumulative[:, -1:]).sum(dim=-1)
    # Rounding may carry the draw past the last token that has any probability.
    last = (probs > 0).sum(dim=-1) - 1
    return tokens.gather(1, torch.minimum(place, last)[:, None])[:, 0]


def _caption(tokens: list[int], *, logprobs: list[float], special: SpecialTokens) -> WrittenCaption:
    """Cut one row at its end token."""
    has_end = special.end in tokens
    length = tokens.index(special.end) if has_end else len(tokens)
    counted = logprobs[: length + has_end]
    return WrittenCaption(
        tokens=tokens[:length],
        stop_reason="end" if has_end else "length",
        mean_logprob=sum(counted) / len(counted),
    )
