from __future__ import annotations

import torch

from eval.fit_clip import contrastive_loss, shifted


def test_the_loss_is_clips_own_where_all_texts_differ() -> None:
    from open_clip.loss import ClipLoss

    generator = torch.Generator().manual_seed(0)
    images, of_texts = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=-1)
        for _ in range(2)
    )
    scale = torch.tensor(14.0)
    found = contrastive_loss(
        images, of_texts, scale=scale, text_id=torch.arange(6), picture=torch.arange(6)
    )
    torch.testing.assert_close(found, ClipLoss()(images, of_texts, scale))


def test_equal_texts_are_no_negatives_of_each_other() -> None:
    features = torch.eye(3)[:, :2]
    images = torch.nn.functional.normalize(features + 0.1, dim=-1)
    of_texts = images[[0, 0, 2]]
    scale = torch.tensor(10.0)
    apart = contrastive_loss(
        images[[0, 0, 2]],
        of_texts,
        scale=scale,
        text_id=torch.tensor([7, 7, 8]),
        picture=torch.arange(3),
    )
    two = contrastive_loss(
        images[[0, 2]],
        of_texts[[0, 2]],
        scale=scale,
        text_id=torch.tensor([7, 8]),
        picture=torch.arange(2),
    )
    one_way = torch.nn.functional.cross_entropy(
        scale * images[[0, 2]] @ images[[0, 2]].T, torch.arange(2), reduction="none"
    )
    assert apart <= two + 1e-6 + one_way.max()
    confused = contrastive_loss(
        images[[0, 0, 2]],
        of_texts,
        scale=scale,
        text_id=torch.tensor([7, 9, 8]),
        picture=torch.arange(3),
    )
    assert apart < confused
    twice = contrastive_loss(
        images[[0, 0, 2]],
        of_texts,
        scale=scale,
        text_id=torch.tensor([7, 9, 8]),
        picture=torch.tensor([0, 0, 1]),
    )
    assert twice == apart, "a picture with two texts is not its own negative either"


def test_a_shifted_picture_moves_down_and_right_and_repeats_its_border() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    torch.testing.assert_close(shifted(images, torch.zeros(2, 2).long()), images)
    found = shifted(images, torch.tensor([[1, 0], [0, -1]]))
    torch.testing.assert_close(found[0, :, 1:], images[0, :, :-1])
    torch.testing.assert_close(found[0, :, 0], images[0, :, 0])
    torch.testing.assert_close(found[1, :, :, :-1], images[1, :, :, 1:])
