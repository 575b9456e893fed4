"""The gradient of one global batch, however many processes and passes it is divided into.

Each process computes its share of the loss from its own pictures: shares, not means, because
captions differ in length, and a mean of means would weigh tokens of short captions more. Shares and
their gradients are added up over the processes.

The contrastive loss needs the features of the whole batch at once, and these fit into memory long
after the activations behind them do not. So a batch may be worked on in parts without becoming
several small ones: first the features of all parts without their activations, from these the
gradient of the loss by each feature, and then part by part the rest of the way to the weights.

B pictures of this process, N pictures of all processes, D features, H height and width of a picture
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from recap.captioner.coca import CoCa, TextGroup, group_by_length
from recap.captioner.gather import Features, gather_features, sum_gradients, sum_over_processes
from recap.captioner.objective import (
    Losses,
    at_least_float32,
    captioning_loss,
    contrastive_loss,
    objective,
)
from recap.config import CaptionerTrainConfig


class Batch(NamedTuple):
    """This process's part of a global batch, and what it must know of the others' parts."""

    pixels: UInt8[Tensor, "B H H 3"]
    captions: Sequence[Sequence[int]]
    """Token ids of each, from the start token to the end token."""

    first: int
    """Place of this process's first picture in the global batch."""

    text_ids: Int[Tensor, "N"]
    """Of the global batch: equal numbers mark equal texts."""

    num_tokens: int
    """Predicted tokens of the global batch."""


def gradients(
    model: CoCa,
    batch: Batch,
    cfg: CaptionerTrainConfig,
    *,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Losses:
    """Add the gradient of the global batch's loss to the parameters' gradients; return that loss.

    Every process ends with the same numbers, which up to rounding are those of one process that
    computes the whole batch at once.

    Args:
        model: The captioner, the same on every process.
        batch: This process's part; every process's is of the same size.
        cfg: Weights of the losses, and `microbatch`.
        autocast: Makes the context of the forward pass, which decides its precision.
    """
    if cfg.microbatch is None or cfg.microbatch >= len(batch.pixels):
        losses = _at_once(model, batch, cfg, autocast)
    else:
        losses = _in_parts(model, batch, cfg, autocast)
    sum_gradients(model.parameters())
    return Losses(*sum_over_processes(torch.stack([loss.detach() for loss in losses])))


def _at_once(
    model: CoCa,
    batch: Batch,
    cfg: CaptionerTrainConfig,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    with autocast():
        output = model(
            batch.pixels,
            _groups(model, batch.captions, cfg),
            with_features=cfg.contrastive_weight > 0,
        )
    losses = objective(
        output,
        captioning_weight=cfg.captioning_weight,
        contrastive_weight=cfg.contrastive_weight,
        text_ids=batch.text_ids,
        num_tokens=batch.num_tokens,
        first=batch.first,
    )
    losses.total.backward()
    return losses


def _in_parts(
    model: CoCa,
    batch: Batch,
    cfg: CaptionerTrainConfig,
    autocast: Callable[[], AbstractContextManager[None]],
) -> Losses:
    """Work on `microbatch` pictures at a time.

    Source: Gao et al. 2021, arXiv:2101.06983, section 3.2, with the captioning loss added to the
    second pass.
    """
    assert cfg.microbatch is not None
    parts = [
        slice(begin, begin + cfg.microbatch)
        for begin in range(0, len(batch.pixels), cfg.microbatch)
    ]
    groups = [_groups(model, batch.captions[part], cfg) for part in parts]
    captioning = contrastive = torch.zeros((), device=batch.pixels.device)

    features = None
    if cfg.contrastive_weight > 0:
        found = []
        for part, here in zip(parts, groups, strict=True):
            # A context of its own: autocast remembers converted weights until it ends, and those of
            # this pass have no gradients.
            with torch.no_grad(), autocast():
                found.append(_features(model, batch.pixels[part], here))
        sides = zip(*found, strict=True)
        features = Features(*(torch.cat(side).requires_grad_() for side in sides))
        contrastive = contrastive_loss(
            features.image,
            features.text,
            logit_scale=model.logit_scale.exp(),
            text_ids=batch.text_ids,
            everyone=gather_features(features),
            first=batch.first,
        )
        (cfg.contrastive_weight * contrastive).backward()

    for part, here in zip(parts, groups, strict=True):
        with autocast():
            output = model(batch.pixels[part], here, with_features=features is not None)
        loss = captioning_loss(output.captions, num_tokens=batch.num_tokens)
        captioning = captioning + loss.detach()
        towards_weights = cfg.captioning_weight * loss
        if features is not None:
            by_image = at_least_float32(output.image_features) * features.image.grad[part]
            by_text = at_least_float32(output.text_features) * features.text.grad[part]
            towards_weights = towards_weights + by_image.sum() + by_text.sum()
        towards_weights.backward()

    total = cfg.captioning_weight * captioning + cfg.contrastive_weight * contrastive
    return Losses(total=total, captioning=captioning, contrastive=contrastive)


def _features(model: CoCa, pixels: UInt8[Tensor, "B H H 3"], groups: list[TextGroup]) -> Features:
    """Return what `CoCa.forward` returns as features, without writing captions."""
    texts = [model.encode_text(group.tokens, group.mask).features for group in groups]
    order = torch.argsort(torch.cat([group.rows for group in groups]))
    return Features(
        image=at_least_float32(model.encode_image(pixels).features),
        text=at_least_float32(torch.cat(texts)[order]),
    )


def _groups(
    model: CoCa, captions: Sequence[Sequence[int]], cfg: CaptionerTrainConfig
) -> list[TextGroup]:
    groups = group_by_length(
        captions,
        num_groups=cfg.num_length_groups,
        pad=model.special.pad,
        longest=model.size.context_length,
    )
    return on_device(groups, model.logit_scale.device)


def on_device(groups: Sequence[TextGroup], device: torch.device) -> list[TextGroup]:
    """Bring the captions of a batch to where the model is."""
    return [TextGroup(*(tensor.to(device) for tensor in group)) for group in groups]
