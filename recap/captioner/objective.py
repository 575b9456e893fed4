"""The two losses of CoCa: say the caption, and tell it from the captions of other pictures.

B pictures, G captions of one length group, L tokens, D features, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from recap.captioner.coca import CoCaOutput, GroupLogits


class Losses(NamedTuple):
    """The weighted sum and its two terms, each before its weight."""

    total: Float[Tensor, ""]
    captioning: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


def captioning_loss(captions: Sequence[GroupLogits]) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of all real tokens of a batch, in nats."""
    total = sum(captioning_loss_sum(group) for group in captions)
    return total / sum(group.mask.sum() for group in captions)


def captioning_loss_sum(group: GroupLogits) -> Float[Tensor, ""]:
    """Return the summed negative log-likelihood of the real tokens of one length group."""
    losses = functional.cross_entropy(
        group.logits.flatten(0, 1), group.labels.flatten(), reduction="none"
    )
    # where, not a product: whatever stands behind a caption's end, infinite values too, is ignored
    return torch.where(group.mask.flatten(), losses, 0.0).sum()


def contrastive_loss(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    logit_scale: Float[Tensor, ""],
    text_ids: Int[Tensor, "B"] | None = None,
) -> Float[Tensor, ""]:
    """Return the symmetric cross-entropy of matching pictures with captions.

    Args:
        image_features: Unit length.
        text_features: Unit length.
        logit_scale: Inverse temperature.
        text_ids: Equal numbers mark equal texts. A picture is not asked to tell its caption from
            the same words under another picture, which weak alt text is full of.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3; the exclusion of equal texts is ours.
    """
    logits = logit_scale * image_features @ text_features.T
    if text_ids is not None:
        same = text_ids[:, None] == text_ids[None, :]
        same.fill_diagonal_(False)
        logits = logits.masked_fill(same, float("-inf"))
    labels = torch.arange(len(logits), device=logits.device)
    return (
        functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
    ) / 2


def objective(
    output: CoCaOutput,
    *,
    captioning_weight: float,
    contrastive_weight: float,
    text_ids: Int[Tensor, "B"] | None = None,
) -> Losses:
    """Return CoCa's weighted loss of one batch.

    Source: Yu et al. 2022, arXiv:2205.01917, Eq. 4; there 2 and 1.
    """
    captioning = captioning_loss(output.captions)
    if output.text_features is None:
        contrastive = torch.zeros_like(captioning)
    else:
        contrastive = contrastive_loss(
            output.image_features,
            output.text_features,
            logit_scale=output.logit_scale,
            text_ids=text_ids,
        )
    total = captioning_weight * captioning + contrastive_weight * contrastive
    return Losses(total=total, captioning=captioning, contrastive=contrastive)


class Retrieval(NamedTuple):
    """How often the best match is a right one, both ways round."""

    image_to_text: float
    text_to_image: float
    chance: float
    num_pictures: int


@torch.no_grad()
def retrieval_at_1(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    text_ids: Int[Tensor, "B"],
) -> Retrieval:
    """Return recall at one; a text shared by several pictures is right for each of them."""
    similarity = image_features @ text_features.T
    right: Bool[Tensor, "B B"] = text_ids[:, None] == text_ids[None, :]
    rows = torch.arange(len(similarity))
    return Retrieval(
        image_to_text=right[rows, similarity.argmax(dim=1)].double().mean().item(),
        text_to_image=right[similarity.argmax(dim=0), rows].double().mean().item(),
        chance=right.double().mean().item(),
        num_pictures=len(similarity),
    )
