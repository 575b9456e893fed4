"""The captioner's model: open_clip's layers, its faults put right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from open_clip.coca_model import CoCa as OpenClipCoCa
from torch.nn import functional

from launch.errors import ConfigError
from recap.captioner.coca import (
    LENGTH_MULTIPLE,
    CoCa,
    SpecialTokens,
    group_by_length,
)
from recap.config import CaptionerSizeConfig

VOCAB = 64


def tiny(**changes: Any) -> CaptionerSizeConfig:
    settings: dict[str, Any] = {
        "image_size": 16,
        "patch_size": 4,
        "width": 32,
        "num_heads": 2,
        "image_layers": 1,
        "text_layers": 2,
        "multimodal_layers": 2,
        "context_length": 16,
    }
    return CaptionerSizeConfig(**{**settings, **changes})


def new_model(**changes: Any) -> CoCa:
    torch.manual_seed(0)
    return CoCa(tiny(**changes), vocab_size=VOCAB, special=SpecialTokens())


def pixels(num: int, *, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (num, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def captions(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    words = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return [[1, *caption, 2] for caption in words]


def open_clip_model(size: CaptionerSizeConfig) -> OpenClipCoCa:
    """Build the architecture of `size` with tower vit by open_clip's own constructor."""
    text = {
        "context_length": size.context_length,
        "vocab_size": VOCAB,
        "width": size.width,
        "heads": size.num_heads,
        "layers": size.text_layers,
    }
    return OpenClipCoCa(
        embed_dim=size.width,
        multimodal_cfg={**text, "layers": size.multimodal_layers},
        text_cfg={**text, "embed_cls": True, "output_tokens": True},
        vision_cfg={
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            "width": size.width,
            "head_width": size.width // size.num_heads,
            "layers": size.image_layers,
            "attentional_pool": True,
            "attn_pooler_queries": size.num_image_tokens + 1,
            "attn_pooler_heads": size.num_heads,
            "output_tokens": True,
        },
    )


def test_weights_and_outputs_are_those_of_open_clip_on_captions_that_fill_the_context() -> None:
    model = new_model(tower="vit", num_image_tokens=4).eval()
    other = open_clip_model(model.size).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    other.text.correct_cls_mask = True
    groups = group_by_length(captions([14] * 3), num_groups=1, pad=0)
    mine = model(pixels(3), groups)
    theirs = other(model.scale_pixels(pixels(3)), groups[0].tokens)
    torch.testing.assert_close(mine.image_features, theirs["image_features"])
    torch.testing.assert_close(mine.text_features, theirs["text_features"])
    torch.testing.assert_close(mine.captions[0].logits, theirs["logits"])
    torch.testing.assert_close(mine.logit_scale, theirs["logit_scale"])


@pytest.mark.parametrize("tower", ["conv", "vit"])
@pytest.mark.parametrize("num_image_tokens", [0, 5])
def test_both_towers_give_a_feature_and_image_tokens(tower: str, num_image_tokens: int) -> None:
    model = new_model(tower=tower, num_image_tokens=num_image_tokens)
    image = model.encode_image(pixels(2))
    assert image.features.shape == (2, 32)
    assert image.tokens.shape == (2, num_image_tokens or 16, 32)
    torch.testing.assert_close(image.features.norm(dim=-1), torch.ones(2))


def test_padding_changes_neither_features_nor_predictions() -> None:
    model = new_model().eval()
    short = captions([4, 6])
    tight = model(pixels(2), group_by_length(short, num_groups=1, pad=0, length_multiple=1))
    wide = model(pixels(2), group_by_length(short, num_groups=1, pad=9, length_multiple=16))
    torch.testing.assert_close(tight.text_features, wide.text_features)
    length = tight.captions[0].logits.shape[1]
    real = tight.captions[0].mask
    torch.testing.assert_close(
        tight.captions[0].logits[real], wide.captions[0].logits[:, :length][real]
    )


def test_a_padding_id_inside_a_caption_is_a_token_like_any_other() -> None:
    model = new_model().eval()
    with_pad_id = [[1, 5, 0, 7, 2]]
    groups = group_by_length(with_pad_id, num_groups=1, pad=0, length_multiple=1)
    other = group_by_length([[1, 5, 6, 7, 2]], num_groups=1, pad=0, length_multiple=1)
    features = model.encode_text(groups[0].tokens, groups[0].mask).features
    assert not torch.allclose(features, model.encode_text(other[0].tokens, other[0].mask).features)
    assert groups[0].mask.all()


def test_the_class_token_sees_itself_and_every_word() -> None:
    model = new_model().eval()
    group = group_by_length(captions([6]), num_groups=1, pad=0)[0]
    model.text.cls_emb.requires_grad_(True)
    text = model.encode_text(group.tokens, group.mask)
    words = model.text.token_embedding.weight
    to_cls, to_words = torch.autograd.grad(text.features.sum(), [model.text.cls_emb, words])
    assert to_cls.abs().sum() > 0
    assert (to_words[group.tokens[group.mask]].abs().sum(dim=-1) > 0).all()


def test_a_word_sees_only_the_words_before_it() -> None:
    model = new_model().eval()
    first = torch.tensor([[1, 5, 6, 7, 8, 2]])
    second = torch.tensor([[1, 5, 6, 9, 10, 2]])
    mask = torch.ones_like(first, dtype=torch.bool)
    image_tokens = model.encode_image(pixels(1)).tokens
    one, two = (
        model.caption_logits(model.encode_text(tokens, mask).states, image_tokens)
        for tokens in (first, second)
    )
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3], two[:, 3])


def test_states_are_the_same_with_and_without_the_class_token() -> None:
    model = new_model().eval()
    group = group_by_length(captions([3, 6]), num_groups=1, pad=0)[0]
    with_cls = model.encode_text(group.tokens, group.mask).states
    without = model.encode_text(group.tokens, group.mask, with_features=False)
    assert without.features is None
    torch.testing.assert_close(with_cls, without.states)


def test_grouping_by_length_changes_no_result() -> None:
    model = new_model().eval()
    batch = captions([3, 12, 5, 8, 2, 13, 4, 9])
    whole = model(pixels(8), group_by_length(batch, num_groups=1, pad=0, longest=16))
    split = model(pixels(8), group_by_length(batch, num_groups=4, pad=0, longest=16))
    torch.testing.assert_close(whole.text_features, split.text_features)
    assert len(split.captions) == 4
    padded = sum(group.labels.numel() for group in split.captions)
    assert padded < whole.captions[0].labels.numel()
    real = [
        torch.cat([group.logits[group.mask] for group in output.captions])
        for output in (whole, split)
    ]
    torch.testing.assert_close(real[0].sum(), real[1].sum(), rtol=1e-4, atol=1e-3)


def test_every_caption_is_in_exactly_one_group_with_all_its_tokens() -> None:
    batch = captions([3, 12, 5, 8, 2, 13, 4])
    groups = group_by_length(batch, num_groups=3, pad=0)
    assert sorted(torch.cat([group.rows for group in groups]).tolist()) == list(range(7))
    for group in groups:
        for row, tokens, mask in zip(group.rows.tolist(), group.tokens, group.mask, strict=True):
            assert tokens[mask].tolist() == batch[row]
        assert group.tokens.shape[1] % LENGTH_MULTIPLE == 0


def test_the_vocabulary_projection_is_initialised() -> None:
    torch.manual_seed(0)
    model = CoCa(tiny(), vocab_size=VOCAB, special=SpecialTokens())
    projection = model.text_decoder.text_projection
    assert math.isclose(projection.std().item(), 32**-0.5, rel_tol=0.1)
    loss = functional.cross_entropy(
        model(pixels(2), group_by_length(captions([5, 5]), num_groups=1, pad=0, length_multiple=1))
        .captions[0]
        .logits.flatten(0, 1),
        torch.randint(0, VOCAB, (12,)),
    )
    assert abs(loss.item() - math.log(VOCAB)) < 1.5


def test_two_models_of_one_seed_start_with_the_same_weights() -> None:
    first, second = new_model().state_dict(), new_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 30, "num_heads": 4}, "num_heads"),
        ({"image_size": 30}, "patch_size"),
        ({"patch_size": 12, "image_size": 24}, "power of two"),
        ({"context_length": 2}, "context_length"),
    ],
)
def test_a_size_that_cannot_be_built_is_refused(changes: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tiny(**changes)
