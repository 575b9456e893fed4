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

from recap.captioner.coca import cross_attention_memory
from recap.captioner.products import RowProduct

SEEN_MULTIPLE = 16
"""Attention looks at a multiple of this many earlier tokens, those of the longest row; what a row
has not written is masked."""


class StepBlock:
    """One block of open_clip's for the newest tokens; who attends to what is left to others.

    Args:
        block: The block.
        num_rows: Rows.
        is_cross: It attends to pictures, whose keys and values are computed elsewhere.
    """

    def __init__(self, block: ResidualAttentionBlock, *, num_rows: int, is_cross: bool) -> None:
        attention, mlp = block.attn, block.mlp
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if is_cross:
            weight, bias = weight[: attention.embed_dim], bias[: attention.embed_dim]
        self._block = block
        self._project_in = RowProduct(weight, bias, num_rows=num_rows)
        self._project_out, self._widen, self._narrow = (
            RowProduct(layer.weight, layer.bias, num_rows=num_rows)
            for layer in (attention.out_proj, mlp.c_fc, mlp.c_proj)
        )

    def queries(self, x: Float[Tensor, "R W"]) -> Float[Tensor, "R C"]:
        """Return what attention needs of the newest token: queries, or them, keys and values."""
        return self._project_in(self._block.ln_1(x))

    def finish(
        self, x: Float[Tensor, "R W"], attended: Float[Tensor, "R W"]
    ) -> Float[Tensor, "R W"]:
        """Add the attended values and the feed-forward layer to the residual stream."""
        block = self._block
        x = x + block.ls_1(self._project_out(attended))
        return x + block.ls_2(self._narrow(block.mlp.gelu(self._widen(block.ln_2(x)))))


class SelfCache:
    """A self-attending block, and keys and values of the earlier tokens in it."""

    def __init__(self, block: ResidualAttentionBlock, *, num_rows: int, max_tokens: int) -> None:
        self._step = StepBlock(block, num_rows=num_rows, is_cross=False)
        heads = block.attn.num_heads
        # Keys and values in one array, so that one operation writes both. Zeros: what is masked is
        # multiplied by zero, which would not help against a NaN.
        shape = (num_rows, 2, heads, max_tokens, block.attn.embed_dim // heads)
        self._memory = block.attn.in_proj_weight.new_zeros(shape)

    def step(
        self,
        x: Float[Tensor, "R W"],
        *,
        rows: Int[Tensor, "R"],
        positions: Int[Tensor, "R"],
        mask: Float[Tensor, "R 1 1 L"],
    ) -> Float[Tensor, "R W"]:
        """Run the block for the newest token, which sees itself and all before it."""
        heads = self._memory.shape[2]
        qkv = self._step.queries(x).unflatten(1, (3, heads, -1))  # [R, 3, heads, d]
        self._memory[rows, :, :, positions] = qkv[:, 1:]
        keys, values = self._memory[:, :, :, : mask.shape[-1]].unbind(dim=1)
        attended = functional.scaled_dot_product_attention(
            qkv[:, 0, :, None], keys, values, attn_mask=mask
        )
        return self._step.finish(x, attended.flatten(1))

    def reorder(self, parents: Int[Tensor, "R"], *, seen: int) -> None:
        """Let every row go on from what another one has written so far."""
        self._memory[:, :, :, :seen] = self._memory[parents, :, :, :seen]


class CrossMemory:
    """A cross-attending block, and keys and values of every slot's picture in it."""

    def __init__(
        self,
        block: ResidualAttentionBlock,
        *,
        num_slots: int,
        num_beams: int,
        num_image_tokens: int,
    ) -> None:
        self._step = StepBlock(block, num_rows=num_slots * num_beams, is_cross=True)
        self._block, self._num_beams = block, num_beams
        heads = block.attn.num_heads
        shape = (num_slots, heads, num_image_tokens, block.attn.embed_dim // heads)
        self.values = block.attn.in_proj_weight.new_zeros(shape)
        # Transposed, [S, heads, d, Q]: a product of few queries with them then reads on and on.
        self.keys = torch.zeros_like(self.values.transpose(2, 3).contiguous())

    def admit(self, image_tokens: Float[Tensor, "G Q W"], *, slots: Int[Tensor, "A"]) -> None:
        """Put pictures into slots; there may be fewer slots than pictures, the last being filling.

        The whole group is computed, since its shape must not depend on how many are real.
        """
        keys, values = cross_attention_memory(self._block, image_tokens)
        self.keys[slots] = keys[: len(slots)].transpose(2, 3)
        self.values[slots] = values[: len(slots)]

    def step(self, x: Float[Tensor, "R W"]) -> Float[Tensor, "R W"]:
        """Run the block for the newest token of every beam.

        Plain products: torch's fused attention is made for many queries, and reads the pictures at
        a fraction of the memory's speed where there are a few.
        """
        q = self._step.queries(x).unflatten(1, (self.keys.shape[1], -1))  # [R, heads, d]
        q = q.unflatten(0, (-1, self._num_beams)).transpose(1, 2)  # [S, heads, K, d]
        shares = (q * q.shape[-1] ** -0.5 @ self.keys).softmax(dim=-1)
        attended = (shares @ self.values).transpose(1, 2)  # [S, K, heads, d]
        return self._step.finish(x, attended.flatten(0, 1).flatten(1))


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
        self.text, self.decoder = text, decoder
        num_rows = num_slots * num_beams
        room = -(-max_tokens // SEEN_MULTIPLE) * SEEN_MULTIPLE
        blocks = [*text.transformer.resblocks, *decoder.resblocks]
        caches = [SelfCache(block, num_rows=num_rows, max_tokens=room) for block in blocks]
        num_lower = len(text.transformer.resblocks)
        self.lower, self.upper = caches[:num_lower], caches[num_lower:]
        self.memories = [
            CrossMemory(
                block,
                num_slots=num_slots,
                num_beams=num_beams,
                num_image_tokens=num_image_tokens,
            )
            for block in decoder.cross_attn
        ]
        # Stored as [V, W], like every other layer's weights.
        words = decoder.text_projection.t()
        self._score_words = RowProduct(words, None, num_rows=num_rows)
        device = text.positional_embedding.device
        self._rows = torch.arange(num_rows, device=device)
        self._places = torch.arange(room, device=device)

    @torch.no_grad()
    def admit(self, image_tokens: Float[Tensor, "G Q W"], *, slots: Int[Tensor, "A"]) -> None:
        """Put the first pictures of a group into slots."""
        for memory in self.memories:
            memory.admit(image_tokens, slots=slots)

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
        seen = -(-(longest + 1) // SEEN_MULTIPLE) * SEEN_MULTIPLE
        is_hidden = self._places[None, :seen] > positions[:, None]
        mask = torch.zeros_like(is_hidden, dtype=x.dtype).masked_fill_(is_hidden, float("-inf"))
        mask = mask[:, None, None]
        for cache in self.lower:
            x = cache.step(x, rows=rows, positions=positions, mask=mask)
        for cache, memory in zip(self.upper, self.memories, strict=True):
            x = cache.step(x, rows=rows, positions=positions, mask=mask)
            x = memory.step(x)
        return self._score_words(decoder.ln_final(x))

    @torch.no_grad()
    def reorder(self, parents: Int[Tensor, "R"], *, longest: int) -> None:
        """Let every row go on from what another one of its slot has written."""
        for cache in (*self.lower, *self.upper):
            cache.reorder(parents, seen=longest + 1)
