"""The captioning and the contrastive loss."""

from __future__ import annotations

import torch
from open_clip.loss import CoCaLoss
from torch.nn import functional

from recap.captioner.coca import CoCaOutput, GroupLogits
from recap.captioner.objective import (
    captioning_loss,
    contrastive_loss,
    objective,
    retrieval_at_1,
)


def features(num: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(
        torch.randn(num, 8, generator=generator, dtype=torch.float64), dim=-1
    )


def group(num: int, length: int, *, seed: int = 0) -> GroupLogits:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, 11, (num, length), generator=generator)
    lengths = torch.randint(1, length + 1, (num, 1), generator=generator)
    return GroupLogits(
        logits=torch.randn(num, length, 11, generator=generator, dtype=torch.float64),
        labels=labels,
        mask=torch.arange(length)[None] < lengths,
    )


def test_the_losses_are_those_of_open_clip() -> None:
    one = group(6, 7)
    images, texts, scale = features(6, 1), features(6, 2), torch.tensor(12.0).double()
    output = CoCaOutput(images, texts, [one], scale)
    mine = objective(output, captioning_weight=2.0, contrastive_weight=1.0)
    theirs = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0)
    labels = torch.where(one.mask, one.labels, 0)
    contrastive, captioning = theirs(images, texts, one.logits, labels, scale)
    torch.testing.assert_close(mine.captioning * 2, captioning)
    torch.testing.assert_close(mine.contrastive, contrastive)
    torch.testing.assert_close(mine.total, captioning + contrastive)


def test_the_captioning_loss_is_a_mean_over_tokens_however_they_are_grouped() -> None:
    whole = group(6, 7)
    halves = [GroupLogits(*(part[rows] for part in whole)) for rows in ([0, 3, 4], [1, 2, 5])]
    torch.testing.assert_close(captioning_loss([whole]), captioning_loss(halves))


def test_what_stands_behind_a_captions_end_does_not_count() -> None:
    one = group(3, 5)
    logits = one.logits.masked_fill(~one.mask[..., None], float("inf"))
    torch.testing.assert_close(
        captioning_loss([one]), captioning_loss([one._replace(logits=logits)])
    )


def test_equal_texts_are_not_told_apart() -> None:
    images, texts = features(4, 1), features(4, 2)
    texts[1] = texts[0]
    text_ids = torch.tensor([7, 7, 8, 9])
    scale = torch.tensor(10.0).double()
    loss = contrastive_loss(images, texts, logit_scale=scale, text_ids=text_ids)
    logits = scale * images @ texts.T
    logits[0, 1] = logits[1, 0] = float("-inf")
    target = torch.arange(4)
    expected = (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    ) / 2
    torch.testing.assert_close(loss, expected)


def test_a_batch_of_one_text_has_no_contrastive_loss() -> None:
    images, texts = features(3, 1), features(1, 2).expand(3, -1)
    scale = torch.tensor(10.0).double()
    loss = contrastive_loss(images, texts, logit_scale=scale, text_ids=torch.zeros(3).long())
    assert loss == 0


def test_matching_features_are_retrieved() -> None:
    images = features(5, 1)
    found = retrieval_at_1(images, images, text_ids=torch.arange(5))
    assert found.image_to_text == found.text_to_image == 1
    assert found.chance == 1 / 5


def test_any_picture_of_a_shared_text_is_a_right_answer() -> None:
    images = features(4, 1)
    texts = images[[1, 0, 2, 3]]
    assert retrieval_at_1(images, texts, text_ids=torch.arange(4)).image_to_text == 0.5
    shared = retrieval_at_1(images, texts, text_ids=torch.tensor([0, 0, 1, 2]))
    assert shared.image_to_text == shared.text_to_image == 1
