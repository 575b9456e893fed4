"""CoCa: an image tower, a text tower cut in half, and the attention between them.

The layers are open_clip's (image tower `vit`, both halves of the text tower) under open_clip's
parameter names, so that a state dict of one loads into the other. What runs over them is written
here, because open_clip 3.3.0 has faults that matter to a model trained from scratch: its vocabulary
projection starts as uninitialised memory, its [CLS] query sees a padding token and not itself, and
padding is recognised by a token id that may be a word. Here the projection is initialised, masks
are given by the caller, and [CLS] has the position after the last one of the context however far a
batch is padded. On full-length rows without padding both agree, which a test shows.

The per-block functions here are for whole captions; `cache.py` writes its own steps, one token at a
time, over packed weights, and tests hold both to the same tokens.

B pictures, G captions of one length group, L tokens, Q image tokens, W width, D features,
H height and width of a picture, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from open_clip.transformer import (
    MultimodalTransformer,
    ResidualAttentionBlock,
    TextTransformer,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recap.captioner.towers import ScalePixels, build_image_tower
from recap.config import CaptionerSizeConfig

INITIAL_TEMPERATURE = 0.07
"""CoCa and CLIP start the contrastive softmax here."""

LENGTH_MULTIPLE = 4
"""Padded lengths are rounded up to this many tokens, so that few shapes occur; 8 would make a fifth
of the arithmetic on short captions padding."""

LARGEST_LOGIT_SCALE = math.log(100)
"""CLIP never lets the learned scale pass 100, which would make the contrastive loss unstable."""


class ImageOutput(NamedTuple):
    """What the image tower says of a picture."""

    features: Float[Tensor, "B D"]
    """Unit length; compared with text features."""

    tokens: Float[Tensor, "B Q W"]
    """Attended to by the captioning half of the text tower."""


class TextOutput(NamedTuple):
    """What the lower half of the text tower says of a caption."""

    features: Float[Tensor, "G D"] | None
    """Unit length, from [CLS]; None when it was not asked for."""

    states: Float[Tensor, "G L W"]
    """One state per token, seeing only the tokens before it."""


class TextGroup(NamedTuple):
    """Captions of similar length out of one batch, padded to the same length."""

    rows: Int[Tensor, "G"]
    """Places of these captions in the batch."""

    tokens: Int[Tensor, "G L"]
    """From the start token to the end token, then padding."""

    mask: Bool[Tensor, "G L"]
    """True where a token is real."""


class GroupLogits(NamedTuple):
    """Predictions of each caption's tokens from the second one on."""

    logits: Float[Tensor, "G L-1 V"]
    labels: Int[Tensor, "G L-1"]
    mask: Bool[Tensor, "G L-1"]
    """True where the label is real."""


class CoCaOutput(NamedTuple):
    """Everything that the training objective looks at."""

    image_features: Float[Tensor, "B D"]
    text_features: Float[Tensor, "B D"] | None
    captions: list[GroupLogits]
    logit_scale: Float[Tensor, ""]
    """Already exponentiated: multiplies cosine similarities."""


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the tokens that are not text."""

    pad: int = 0
    start: int = 1
    end: int = 2


# Functions over one block of open_clip.


def split_heads(x: Float[Tensor, "B L W"], num_heads: int) -> Float[Tensor, "B heads L d"]:
    """View the channels as heads, before the token axis, as torch's attention wants them."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Float[Tensor, "B heads L d"]) -> Float[Tensor, "B L W"]:
    """Undo `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def self_attention_inputs(
    block: ResidualAttentionBlock, x: Float[Tensor, "B L W"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of a self-attending block, split into heads."""
    attention = block.attn
    qkv = functional.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (split_heads(part, attention.num_heads) for part in qkv.chunk(3, dim=-1))
    return q, k, v


def cross_attention_queries(
    block: ResidualAttentionBlock, x: Float[Tensor, "B L W"]
) -> Float[Tensor, "B heads L d"]:
    """Return what the text asks of the picture in a cross-attending block."""
    attention = block.attn
    width = attention.embed_dim
    q = functional.linear(
        block.ln_1(x), attention.in_proj_weight[:width], attention.in_proj_bias[:width]
    )
    return split_heads(q, attention.num_heads)


def cross_attention_memory(
    block: ResidualAttentionBlock, image_tokens: Float[Tensor, "B Q W"]
) -> tuple[Tensor, Tensor]:
    """Return keys and values of the picture; the same for every token of its caption."""
    attention = block.attn
    width = attention.embed_dim
    kv = functional.linear(
        block.ln_1_kv(image_tokens),
        attention.in_proj_weight[width:],
        attention.in_proj_bias[width:],
    )
    k, v = (split_heads(part, attention.num_heads) for part in kv.chunk(2, dim=-1))
    return k, v


def finish_block(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "B L W"],
    attended: Float[Tensor, "B heads L d"],
) -> Float[Tensor, "B L W"]:
    """Add the attended values and the block's feed-forward layer to the residual stream."""
    x = x + block.ls_1(block.attn.out_proj(join_heads(attended)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def self_attend(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "B L W"],
    *,
    mask: Bool[Tensor, "B 1 L L"] | None,
) -> Float[Tensor, "B L W"]:
    """Run a self-attending block; without a mask every token sees the ones before it."""
    q, k, v = self_attention_inputs(block, x)
    attended = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None
    )
    return finish_block(block, x, attended)


def cross_attend(
    block: ResidualAttentionBlock,
    x: Float[Tensor, "B L W"],
    *,
    image_tokens: Float[Tensor, "B Q W"],
) -> Float[Tensor, "B L W"]:
    """Run a block in which the text looks at the picture."""
    k, v = cross_attention_memory(block, image_tokens)
    attended = functional.scaled_dot_product_attention(cross_attention_queries(block, x), k, v)
    return finish_block(block, x, attended)


# The whole model.


class CoCa(nn.Module):
    """Image and text towers with open_clip's parameter names.

    Source: Yu et al. 2022, arXiv:2205.01917; layers of open_clip 3.3.0.
    """

    def __init__(
        self, size: CaptionerSizeConfig, *, vocab_size: int, special: SpecialTokens
    ) -> None:
        super().__init__()
        self.size = size
        self.special = special
        self.scale_pixels = ScalePixels(size.pixel_mean, size.pixel_std)
        self.visual = build_image_tower(size)
        self.text = TextTransformer(
            context_length=size.context_length,
            vocab_size=vocab_size,
            width=size.width,
            heads=size.num_heads,
            layers=size.text_layers,
            mlp_ratio=size.mlp_ratio,
            output_dim=size.features,
            embed_cls=True,
            correct_cls_mask=True,
            pad_id=special.pad,
            eos_id=special.end,
            output_tokens=True,
        )
        self.text_decoder = MultimodalTransformer(
            width=size.width,
            layers=size.multimodal_layers,
            heads=size.num_heads,
            context_length=size.context_length,
            mlp_ratio=size.mlp_ratio,
            output_dim=vocab_size,
        )
        initialise_decoder(self.text_decoder)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))
        self._is_checkpointed = False

    def checkpoint_activations(self) -> None:
        """Let every transformer block keep its input alone, and work again in the backward pass."""
        self._is_checkpointed = True
        self.visual.set_grad_checkpointing(True)

    def _run(
        self, attend: Callable[..., Tensor], block: ResidualAttentionBlock, x: Tensor, **seen: Any
    ) -> Tensor:
        if not self._is_checkpointed:
            return attend(block, x, **seen)
        # Nothing in a block is random.
        return checkpoint(attend, block, x, use_reentrant=False, preserve_rng_state=False, **seen)

    def encode_image(self, pixels: UInt8[Tensor, "B H H 3"]) -> ImageOutput:
        """Look at pictures once; both their features and their captions need only this."""
        features, tokens = self.visual(self.scale_pixels(pixels))
        return ImageOutput(features=functional.normalize(features, dim=-1), tokens=tokens)

    def encode_text(
        self,
        tokens: Int[Tensor, "G L"],
        mask: Bool[Tensor, "G L"],
        *,
        with_features: bool = True,
    ) -> TextOutput:
        """Run the lower half of the text tower, which never sees the picture.

        Args:
            tokens: Captions from the start token on, padded at their ends.
            mask: True where a token is real.
            with_features: Also append [CLS] and return the contrastive features.
        """
        text = self.text
        num_tokens = tokens.shape[1]
        if with_features and self.size.cls_mask == "shifted":
            # Behind every caption but one that fills the context stands padding, which is seen.
            tokens = functional.pad(tokens, (0, 1), value=self.special.pad)
            tokens = tokens[:, : text.context_length]
            mask = functional.pad(mask, (0, 1))[:, : text.context_length]
        length = tokens.shape[1]
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        if not with_features:
            for block in text.transformer.resblocks:
                x = self._run(self_attend, block, x, mask=None)
            return TextOutput(features=None, states=x)

        cls = (text.cls_emb + text.positional_embedding[-1]).expand(len(x), 1, -1)
        x = torch.cat([x, cls], dim=1)
        # No real token sees padding, which stands behind it; only [CLS] needs the mask.
        visible = torch.ones(length + 1, length + 1, dtype=torch.bool, device=x.device).tril()
        visible = visible.expand(len(x), 1, -1, -1).clone()
        visible[:, 0, -1] = self._seen_by_cls(mask)
        for block in text.transformer.resblocks:
            x = self._run(self_attend, block, x, mask=visible)
        features = text.ln_final(x[:, -1]) @ text.text_projection
        return TextOutput(features=functional.normalize(features, dim=-1), states=x[:, :num_tokens])

    def _seen_by_cls(self, mask: Bool[Tensor, "G L"]) -> Bool[Tensor, "G L+1"]:
        """Return which tokens [CLS], the last of them, looks at: all real ones and itself.

        Public weights were trained with a mask that stands one place to the right: their [CLS] sees
        the first padding token, and itself only where there is none.
        """
        real = mask.new_ones(len(mask), 1)
        return torch.cat([real, mask] if self.size.cls_mask == "shifted" else [mask, real], dim=1)

    def caption_logits(
        self, states: Float[Tensor, "G L W"], image_tokens: Float[Tensor, "G Q W"]
    ) -> Float[Tensor, "G L V"]:
        """Run the upper half: for every token, the scores of the token that follows it."""
        decoder = self.text_decoder
        x = states
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            x = self._run(self_attend, block, x, mask=None)
            x = self._run(cross_attend, cross, x, image_tokens=image_tokens)
        return decoder.ln_final(x) @ decoder.text_projection

    def forward(
        self,
        pixels: UInt8[Tensor, "B H H 3"],
        groups: Sequence[TextGroup],
        *,
        with_features: bool = True,
    ) -> CoCaOutput:
        """Predict every token of every caption, and the features of both sides.

        The captions come in groups of similar length (`group_by_length`): attention and layers then
        work on few padding tokens, and nothing else depends on the grouping.
        """
        image = self.encode_image(pixels)
        captions = []
        features = []
        for group in groups:
            text = self.encode_text(group.tokens, group.mask, with_features=with_features)
            logits = self.caption_logits(text.states[:, :-1], image.tokens[group.rows])
            captions.append(
                GroupLogits(logits=logits, labels=group.tokens[:, 1:], mask=group.mask[:, 1:])
            )
            if text.features is not None:
                features.append(text.features)
        text_features = None
        if features:
            order = torch.argsort(torch.cat([group.rows for group in groups]))
            text_features = torch.cat(features)[order]
        return CoCaOutput(
            image_features=image.features,
            text_features=text_features,
            captions=captions,
            logit_scale=self.logit_scale.exp(),
        )


def initialise_decoder(decoder: MultimodalTransformer) -> None:
    """Initialise the upper half as open_clip initialises the lower one.

    open_clip's own `MultimodalTransformer.init_parameters` reads an attribute that does not exist
    and is never called, which leaves `text_projection` as uninitialised memory.
    """
    width = decoder.width
    proj_std = width**-0.5 * (2 * decoder.layers) ** -0.5
    for block in [*decoder.resblocks, *decoder.cross_attn]:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=proj_std)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=proj_std)
    nn.init.normal_(decoder.text_projection, std=width**-0.5)


def group_by_length(
    captions: Sequence[Sequence[int]],
    *,
    num_groups: int,
    pad: int,
    length_multiple: int = LENGTH_MULTIPLE,
    longest: int | None = None,
) -> list[TextGroup]:
    """Sort the captions of a batch by length and pad each share to its own longest caption.

    Args:
        captions: Token ids of each caption, from the start token to the end token.
        num_groups: Shares of equal size; 1 pads the whole batch to one length.
        pad: Id written behind a caption; never looked at.
        length_multiple: Lengths are rounded up to this many tokens, so that few shapes occur.
        longest: The context length, which no rounding passes.
    """
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    size = -(-len(order) // num_groups)
    groups = []
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        length = -(-max(len(captions[row]) for row in rows) // length_multiple) * length_multiple
        length = min(length, longest) if longest is not None else length
        tokens = torch.full((len(rows), length), pad, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for place, row in enumerate(rows):
            caption = torch.as_tensor(captions[row], dtype=torch.long)
            tokens[place, : len(caption)] = caption
            mask[place, : len(caption)] = True
        groups.append(TextGroup(rows=torch.tensor(rows), tokens=tokens, mask=mask))
    return groups
