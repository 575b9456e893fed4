"""The two losses of CoCa: say the caption, and tell it from the captions of other pictures.

Both are losses of a global batch. A process that has only some of its pictures computes its share:
the shares of all processes add up to the loss.

B pictures of this process, N pictures of all processes, G captions of one length group, L tokens,
D features, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from recap.captioner.coca import CoCaOutput, GroupLogits
from recap.captioner.gather import Features, gather_features


class Losses(NamedTuple):
    """The weighted sum and its two terms, each before its weight."""

    total: Float[Tensor, ""]
    captioning: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Widen what a forward pass in lower precision gave, so that sums over it lose nothing."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def captioning_loss(
    captions: Sequence[GroupLogits], *, num_tokens: int | None = None
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of all real tokens of a batch, in nats.

    Args:
        captions: Predictions of this process's captions.
        num_tokens: Real tokens of the global batch, whose mean this is a share of; None where these
            captions are all.
    """
    total = sum(captioning_loss_sum(group) for group in captions)
    return total / (num_tokens or sum(group.mask.sum() for group in captions))


def captioning_loss_sum(group: GroupLogits) -> Float[Tensor, ""]:
    """Return the summed negative log-likelihood of the real tokens of one length group."""
    losses = functional.cross_entropy(
        at_least_float32(group.logits).flatten(0, 1), group.labels.flatten(), reduction="none"
    )
    # where, not a product: whatever stands behind a caption's end, infinite values too, is ignored
    return torch.where(group.mask.flatten(), losses, 0.0).sum()


def contrastive_loss(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    logit_scale: Float[Tensor, ""],
    text_ids: Int[Tensor, "N"] | None = None,
    everyone: Features | None = None,
    first: int = 0,
) -> Float[Tensor, ""]:
    """Return the symmetric cross-entropy of matching pictures with captions.

    Args:
        image_features: Of this process's pictures, unit length.
        text_features: Of this process's captions, unit length.
        logit_scale: Inverse temperature.
        text_ids: Of the global batch; equal numbers mark equal texts. A picture is not asked to
            tell its caption from the same words under another picture, which weak alt text is full
            of.
        everyone: Features of the global batch, among which each match is sought; None where this
            process's are all.
        first: Place of this process's first picture in the global batch.

    Returns:
        This process's share of the mean over the global batch.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3; the exclusion of equal texts is ours.
    """
    num = len(image_features)
    rows = torch.arange(num, device=image_features.device)
    matches = rows + first
    if everyone is None or len(everyone.image) == num:
        to_texts = logit_scale * image_features @ text_features.T
        to_images = to_texts.T
    else:
        to_texts = logit_scale * image_features @ everyone.text.T  # [B, N]
        to_images = logit_scale * text_features @ everyone.image.T
    if text_ids is not None:
        same = text_ids[matches, None] == text_ids[None, :]
        same[rows, matches] = False
        to_texts = to_texts.masked_fill(same, float("-inf"))
        to_images = to_images.masked_fill(same, float("-inf"))
    both = functional.cross_entropy(to_texts, matches) + functional.cross_entropy(
        to_images, matches
    )
    return both / 2 * (num / to_texts.shape[1])


def objective(
    output: CoCaOutput,
    *,
    captioning_weight: float,
    contrastive_weight: float,
    text_ids: Int[Tensor, "N"] | None = None,
    num_tokens: int | None = None,
    first: int = 0,
) -> Losses:
    """Return CoCa's weighted loss of one batch, or this process's share of it.

    The arguments are those of `captioning_loss` and `contrastive_loss`.

    Source: Yu et al. 2022, arXiv:2205.01917, Eq. 4; there 2 and 1.
    """
    captioning = captioning_loss(output.captions, num_tokens=num_tokens)
    if output.text_features is None:
        contrastive = torch.zeros_like(captioning)
    else:
        own = Features(
            image=at_least_float32(output.image_features),
            text=at_least_float32(output.text_features),
        )
        contrastive = contrastive_loss(
            own.image,
            own.text,
            logit_scale=output.logit_scale,
            text_ids=text_ids,
            everyone=gather_features(own),
            first=first,
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
