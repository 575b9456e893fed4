"""Attention of a CLIP that only scores: the same arithmetic as open_clip's, with fewer detours.

open_clip's blocks hold `torch.nn.MultiheadAttention`, which turns rows that lie in order into a
view that does not, so that the projection to queries, keys and values runs as many small products;
where there is a mask, that alone took two fifths of the text tower's time on two cores. Here the
projection is one product of all rows. The results are the same up to rounding, weights keep their
names, and only blocks of the plain kind are touched.

B batch, A attention heads, R = B x A, L tokens, D width
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class PlainAttention(nn.Module):
    """What `nn.MultiheadAttention` computes of one sequence with itself, weights not asked for."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        assert attention.in_proj_weight is not None
        assert attention.in_proj_bias is not None
        self.num_heads = attention.num_heads
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(
        self,
        query: Float[Tensor, "B L D"],
        key: Float[Tensor, "B L D"],
        value: Float[Tensor, "B L D"],
        *,
        need_weights: bool = False,
        attn_mask: Float[Tensor, "L L"] | Float[Tensor, "R L L"] | None = None,
    ) -> tuple[Float[Tensor, "B L D"], None]:
        """Attend, in the form in which open_clip's blocks ask for it."""
        assert query is key is value
        assert not need_weights
        num, length, _ = query.shape
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.view(num, self.num_heads, length, length)
        projected = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = projected.view(num, length, 3, self.num_heads, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, A, L, D / A]
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).reshape(query.shape)), None


def use_plain_attention(model: nn.Module) -> int:
    """Replace the attention of every plain block of open_clip, and return how many there were.

    Blocks of another kind (of timm, of Hugging Face, with attention to something else) stay.
    """
    from open_clip.transformer import ResidualAttentionBlock

    blocks = [
        block
        for block in model.modules()
        if type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and is_plain(block.attn)
    ]
    for block in blocks:
        block.attn = PlainAttention(block.attn)
    return len(blocks)


def is_plain(attention: nn.Module) -> bool:
    """Say whether a module is attention of one width, batch first, without additions."""
    return (
        type(attention) is nn.MultiheadAttention
        and attention.batch_first
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not (attention.training and attention.dropout)
    )
