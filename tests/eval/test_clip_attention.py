"""Attention of our own gives what open_clip's blocks give, and touches no other block."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from open_clip.transformer import Transformer
from torch import nn

from eval.clip_attention import PlainAttention, use_plain_attention

WIDTH, HEADS, LENGTH = 16, 4, 7


def causal() -> torch.Tensor:
    return torch.full((LENGTH, LENGTH), -torch.inf).triu(1)


def padded() -> torch.Tensor:
    """A mask of each text and head, as a CoCa's text tower has."""
    mask = causal().repeat(3 * HEADS, 1, 1)
    mask[:HEADS, :, 4:] = -torch.inf
    return mask


@pytest.mark.parametrize("mask", [None, causal(), padded()], ids=["none", "causal", "per head"])
def test_a_tower_computes_what_it_computed(mask: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    tower = Transformer(WIDTH, layers=2, heads=HEADS).eval()
    for name, parameter in tower.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)  # they begin at zero, where a lost one is not seen
    ours = copy.deepcopy(tower)
    assert use_plain_attention(ours) == 2
    x = torch.randn(3, LENGTH, WIDTH)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(x, attn_mask=mask), tower(x, attn_mask=mask), atol=1e-5, rtol=0
        )


def test_weights_keep_their_names_and_values() -> None:
    tower = Transformer(WIDTH, layers=2, heads=HEADS).eval()
    before = copy.deepcopy(tower.state_dict())
    use_plain_attention(tower)
    after = tower.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_blocks_that_attend_to_something_else_stay() -> None:
    from open_clip.transformer import MultimodalTransformer

    tower = MultimodalTransformer(width=WIDTH, layers=1, heads=HEADS, context_length=LENGTH).eval()
    assert use_plain_attention(tower) == 1
    assert isinstance(tower.resblocks[0].attn, PlainAttention)
    assert isinstance(tower.cross_attn[0].attn, nn.MultiheadAttention)


def test_both_towers_of_a_public_shape_are_of_the_plain_kind() -> None:
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-32")).eval()
    assert use_plain_attention(model) == 24
