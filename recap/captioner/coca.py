"""CoCa: an image tower, a text tower cut in half, and the attention between them.

The layers are open_clip's (image tower `vit`, both halves of the text tower) under open_clip's
parameter names, so that a state dict of one loads into the other. What runs over them is written
here, because open_clip 3.3.0 has faults that matter to a model trained from scratch: its vocabulary
projection starts as uninitialised memory, its [CLS] query sees a padding token and not itself, and
padding is recognised by a token id that may be a word. Here the projection is initialised, masks
are given by the caller, and [CLS] has the position after the last one of the context however far a
batch is padded. On full-length rows without padding both agree, which a test shows.

The same per-block functions serve training (whole captions) and `decode.py` (one token at a time).

B pictures, G captions of one length group, L tokens, Q image tokens, W width, D features,
H height and width of a picture, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from open_clip.transformer import (
    AttentionalPooler,
    LayerNorm,
    MultimodalTransformer,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
    VisionTransformer,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

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


# Functions over one block of open_clip, shared by training and cached decoding.


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


# Image towers.


class ConvTower(nn.Module):
    """Convolutions that halve the picture until one cell is one token, then a transformer.

    A patch embedding learns slowly which of its pixels are neighbours; at the few thousand steps of
    a study on a laptop that decides whether captions become right at all. Outputs are those of
    open_clip's ViT with tokens: a pooled feature and image tokens.
    """

    def __init__(self, size: CaptionerSizeConfig) -> None:
        super().__init__()
        num_halvings = size.patch_size.bit_length() - 1
        # The last two layers have the full width: what tells a square from a ring is seen here.
        widths = [
            max(size.width >> max(num_halvings - n - 1, 0), 16) for n in range(1, num_halvings + 1)
        ]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, stride=2, padding=1), nn.GELU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        layers.append(nn.Conv2d(widths[-1], size.width, 1))
        self.stem = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                # torch's own initialisation shrinks the signal in every layer; after four of them
                # positions would drown the picture (its share of the tokens' spread was 6%).
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

        num_cells = (size.image_size // size.patch_size) ** 2
        scale = size.width**-0.5
        self.positional_embedding = nn.Parameter(0.5 * torch.randn(num_cells, size.width))
        self.ln_pre = LayerNorm(size.width)
        self.transformer = Transformer(
            width=size.width,
            layers=size.image_layers,
            heads=size.num_heads,
            mlp_ratio=size.mlp_ratio,
        )
        self.ln_post = LayerNorm(size.width)
        pooler = {"d_model": size.width, "context_dim": size.width, "n_head": size.num_heads}
        self.attn_pool = (
            AttentionalPooler(**pooler, n_queries=size.num_image_tokens)
            if size.num_image_tokens
            else nn.Identity()
        )
        self.attn_pool_contrastive = AttentionalPooler(**pooler, n_queries=1)
        self.proj = nn.Parameter(scale * torch.randn(size.width, size.width))

    def forward(
        self, pixels: Float[Tensor, "B 3 H H"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B Q W"]]:
        """Return the pooled feature and the image tokens."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        x = x.flatten(2).transpose(1, 2)  # B W h h -> B (h h) W
        x = self.ln_pre(x + self.positional_embedding)
        x = self.ln_post(self.transformer(x))
        pooled = self.attn_pool_contrastive(x)[:, 0]
        return pooled @ self.proj, self.attn_pool(x)


def build_image_tower(size: CaptionerSizeConfig) -> nn.Module:
    """Return the image tower that `size.tower` names."""
    match size.tower:
        case "conv":
            return ConvTower(size)
        case "vit":
            return VisionTransformer(
                image_size=size.image_size,
                patch_size=size.patch_size,
                width=size.width,
                layers=size.image_layers,
                heads=size.num_heads,
                mlp_ratio=size.mlp_ratio,
                attentional_pool=size.num_image_tokens > 0,
                # The pooled feature is the first query, as in open_clip's CoCa.
                attn_pooler_queries=size.num_image_tokens + 1,
                attn_pooler_heads=size.num_heads,
                output_dim=size.width,
                output_tokens=True,
            )
        case _:
            raise ValueError(f"model.tower is {size.tower!r}; known towers are: conv, vit")


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
        self.visual = build_image_tower(size)
        self.text = TextTransformer(
            context_length=size.context_length,
            vocab_size=vocab_size,
            width=size.width,
            heads=size.num_heads,
            layers=size.text_layers,
            mlp_ratio=size.mlp_ratio,
            output_dim=size.width,
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
        self.visual.transformer.grad_checkpointing = True

    def _run(
        self, attend: Callable[..., Tensor], block: ResidualAttentionBlock, x: Tensor, **seen: Any
    ) -> Tensor:
        if not self._is_checkpointed:
            return attend(block, x, **seen)
        # Nothing in a block is random.
        return checkpoint(attend, block, x, use_reentrant=False, preserve_rng_state=False, **seen)

    def encode_image(self, pixels: UInt8[Tensor, "B H H 3"]) -> ImageOutput:
        """Look at pictures once; both their features and their captions need only this."""
        features, tokens = self.visual(scale_pixels(pixels, dtype=self.logit_scale.dtype))
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
        visible[:, 0, -1, :-1] = mask
        for block in text.transformer.resblocks:
            x = self._run(self_attend, block, x, mask=visible)
        features = text.ln_final(x[:, -1]) @ text.text_projection
        return TextOutput(features=functional.normalize(features, dim=-1), states=x[:, :-1])

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


def scale_pixels(
    pixels: UInt8[Tensor, "B H H 3"], *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "B 3 H H"]:
    """Bring stored bytes to [-1, 1], channels first."""
    return pixels.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1.0


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
