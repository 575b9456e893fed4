"""Both halves of the text tower, fed one token per row, remembering every earlier one.

A picture's keys and values for the cross-attending layers are computed once, when it is admitted,
and shared by its beams. Keys and values of earlier tokens lie in arrays allocated once, for the
longest caption. [CLS], which no caption token sees, is left out.

Rows are at different places of their captions, because a finished one makes room for the next
picture at once. The number of rows never changes. Attention looks as far back as the longest row
has written, in steps of SEEN_MULTIPLE, and masks the rest: zeros at the end of a sum change no bit
of it with the kernels of torch's CPU builds, which tests hold them to. So a row's numbers are its
own.

Works on any module with open_clip's CoCa towers: `text` (TextTransformer) and `text_decoder`
(MultimodalTransformer).

S slots, each a picture; K beams of a slot; R = S K rows; G pictures admitted together; Q image
tokens; W width; V vocabulary
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from open_clip.transformer import MultimodalTransformer, ResidualAttentionBlock, TextTransformer
from torch import Tensor
from torch.nn import functional

from recap.captioner.coca import (
    cross_attention_memory,
    cross_attention_queries,
    finish_block,
    self_attention_inputs,
)

SEEN_MULTIPLE = 16
"""Attention looks at a multiple of this many earlier tokens, those of the longest row; what a row
has not written is masked."""


class SelfCache:
    """Keys and values of the earlier tokens in one self-attending block."""

    def __init__(self, block: ResidualAttentionBlock, *, num_rows: int, max_tokens: int) -> None:
        heads = block.attn.num_heads
        shape = (num_rows, heads, max_tokens, block.attn.embed_dim // heads)
        # Zeros: what is masked is multiplied by zero, which would not help against a NaN.
        self.keys = block.attn.in_proj_weight.new_zeros(shape)
        self.values = torch.zeros_like(self.keys)

    def step(
        self,
        block: ResidualAttentionBlock,
        x: Float[Tensor, "R 1 W"],
        *,
        rows: Int[Tensor, "R"],
        positions: Int[Tensor, "R"],
        mask: Float[Tensor, "R 1 1 L"],
    ) -> Float[Tensor, "R 1 W"]:
        """Run the block for the newest token, which sees itself and all before it."""
        q, k, v = self_attention_inputs(block, x)
        self.keys[rows, :, positions] = k[:, :, 0]
        self.values[rows, :, positions] = v[:, :, 0]
        seen = mask.shape[-1]
        attended = functional.scaled_dot_product_attention(
            q, self.keys[:, :, :seen], self.values[:, :, :seen], attn_mask=mask
        )
        return finish_block(block, x, attended)

    def reorder(self, parents: Int[Tensor, "R"], *, seen: int) -> None:
        """Let every row go on from what another one has written so far."""
        self.keys[:, :, :seen] = self.keys[parents, :, :seen]
        self.values[:, :, :seen] = self.values[parents, :, :seen]


class CrossMemory:
    """Keys and values of every slot's picture in one cross-attending block."""

    def __init__(
        self, block: ResidualAttentionBlock, *, num_slots: int, num_image_tokens: int
    ) -> None:
        heads = block.attn.num_heads
        shape = (num_slots, heads, num_image_tokens, block.attn.embed_dim // heads)
        self.keys = block.attn.in_proj_weight.new_zeros(shape)
        self.values = torch.zeros_like(self.keys)

    def admit(
        self,
        block: ResidualAttentionBlock,
        image_tokens: Float[Tensor, "G Q W"],
        *,
        slots: Int[Tensor, "A"],
    ) -> None:
        """Put pictures into slots; there may be fewer slots than pictures, the last being filling.

        The whole group is computed, since its shape must not depend on how many are real.
        """
        keys, values = cross_attention_memory(block, image_tokens)
        self.keys[slots], self.values[slots] = keys[: len(slots)], values[: len(slots)]

    def step(
        self, block: ResidualAttentionBlock, x: Float[Tensor, "R 1 W"], *, num_beams: int
    ) -> Float[Tensor, "R 1 W"]:
        """Run the block for the newest token of every beam."""
        q = cross_attention_queries(block, x)  # [R, heads, 1, d]
        q = q[:, :, 0].unflatten(0, (-1, num_beams)).transpose(1, 2)  # [S, heads, K, d]
        attended = functional.scaled_dot_product_attention(q, self.keys, self.values)
        return finish_block(block, x, attended.transpose(1, 2).flatten(0, 1)[:, :, None])


class CachedText:
    """The text tower with all its caches.

    Args:
        text: Lower half.
        decoder: Upper half.
        num_slots: Pictures written about at once.
        num_beams: Beams of each.
        num_image_tokens: Tokens of a picture.
        max_tokens: Longest caption, its end token included.
    """

    def __init__(
        self,
        text: TextTransformer,
        decoder: MultimodalTransformer,
        *,
        num_slots: int,
        num_beams: int,
        num_image_tokens: int,
        max_tokens: int,
    ) -> None:
        self.text, self.decoder, self.num_beams = text, decoder, num_beams
        num_rows = num_slots * num_beams
        room = -(-max_tokens // SEEN_MULTIPLE) * SEEN_MULTIPLE
        blocks = [*text.transformer.resblocks, *decoder.resblocks]
        caches = [SelfCache(block, num_rows=num_rows, max_tokens=room) for block in blocks]
        num_lower = len(text.transformer.resblocks)
        self.lower, self.upper = caches[:num_lower], caches[num_lower:]
        self.memories = [
            CrossMemory(block, num_slots=num_slots, num_image_tokens=num_image_tokens)
            for block in decoder.cross_attn
        ]
        device = text.positional_embedding.device
        self._rows = torch.arange(num_rows, device=device)
        self._places = torch.arange(room, device=device)

    @torch.no_grad()
    def admit(self, image_tokens: Float[Tensor, "G Q W"], *, slots: Int[Tensor, "A"]) -> None:
        """Put the first pictures of a group into slots."""
        for block, memory in zip(self.decoder.cross_attn, self.memories, strict=True):
            memory.admit(block, image_tokens, slots=slots)

    @torch.no_grad()
    def step(
        self, tokens: Int[Tensor, "R"], *, positions: Int[Tensor, "R"], longest: int
    ) -> Float[Tensor, "R V"]:
        """Take the newest token of every row and return the scores of the next one.

        Args:
            tokens: Newest tokens.
            positions: Their places in their captions, the start token's being 0.
            longest: The greatest of them.
        """
        text, decoder, rows = self.text, self.decoder, self._rows
        x = text.token_embedding(tokens) + text.positional_embedding[positions]
        x = x[:, None]  # R W -> R 1 W
        seen = -(-(longest + 1) // SEEN_MULTIPLE) * SEEN_MULTIPLE
        is_hidden = self._places[None, :seen] > positions[:, None]
        mask = torch.zeros_like(is_hidden, dtype=x.dtype).masked_fill_(is_hidden, float("-inf"))
        mask = mask[:, None, None]
        for block, cache in zip(text.transformer.resblocks, self.lower, strict=True):
            x = cache.step(block, x, rows=rows, positions=positions, mask=mask)
        layers = zip(decoder.resblocks, decoder.cross_attn, self.upper, self.memories, strict=True)
        for block, cross, cache, memory in layers:
            x = cache.step(block, x, rows=rows, positions=positions, mask=mask)
            x = memory.step(cross, x, num_beams=self.num_beams)
        return decoder.ln_final(x[:, 0]) @ decoder.text_projection

    @torch.no_grad()
    def reorder(self, parents: Int[Tensor, "R"], *, longest: int) -> None:
        """Let every row go on from what another one of its slot has written."""
        for cache in (*self.lower, *self.upper):
            cache.reorder(parents, seen=longest + 1)
