"""Fitting the judge's CLIP to pictures and texts written about them.

Each epoch draws one of a picture's texts anew. Architecture, tokenizer and folder are those of
`eval/clip_folder.py`; how well it finds pictures by their texts is measured in `eval/fit_judge.py`.

B batch, N pictures, D feature width, S pixels a side
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8, UInt64
from torch import Tensor, nn
from torch.nn import functional

from eval import clip, clip_folder, clip_load
from eval.config import FitJudgeConfig
from eval.fit_loop import fit, whole_batch
from launch import keyed
from launch.processes import device, sent
from launch.run import Run
from launch.training import EpochOrder, initial_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_LOGIT_SCALE = 100.0
TEXT_CHUNKS = 4
"""A batch of texts is encoded in this many pieces, sorted by length: less padding."""
SHIFT = 1
"""Pixels by which training pictures are moved at most."""


class FittedClip(NamedTuple):
    """A CLIP that was fitted here."""

    model: nn.Module
    config: dict[str, Any]
    tokenizer: Tokenizer


def fit_clip(
    pixels: UInt8[np.ndarray, "N S S 3"],
    *,
    ids: UInt64[np.ndarray, " N"],
    texts: Sequence[Sequence[str]],
    cfg: FitJudgeConfig,
    run: Run,
    folder: Path,
) -> FittedClip:
    """Fit a CLIP to pictures and their texts, one text of each picture drawn anew each epoch.

    Args:
        pixels: Pictures.
        ids: Identities of the pictures, which key every draw.
        texts: All texts of each picture, at least one.
        cfg: Sizes, samples, rate and seed.
        run: The run that tells of the progress.
        folder: Where checkpoints lie.
    """
    flat = [text for of_picture in texts for text in of_picture]
    first = np.cumsum([0, *(len(t) for t in texts)])
    tokenizer = clip_folder.train_tokenizer(sorted(set(flat)), vocab_size=cfg.clip.vocab_size)
    tokens = clip_folder.tokenise(tokenizer, flat, context_length=cfg.clip.context_length)
    same_text = np.unique(np.array(flat), return_inverse=True)[1]
    config = clip_folder.clip_config(
        cfg.clip, image_size=cfg.image_size, vocab_size=tokenizer.get_vocab_size()
    )
    with initial_weights(cfg.seed, "judge.clip.init"):
        model = clip_folder.build_clip(config["model_cfg"])
    scorer = clip_load.scorer_of(model, config=config, tokenizer=tokenizer)
    pictures = scorer.preprocess(pixels)
    model.to(where := device())
    # A batch that spans two epochs may hold a picture twice, with two texts.
    batch_size = whole_batch(cfg.batch_size, num_pictures=len(ids))
    order = EpochOrder(cfg.seed, "judge.clip", ids)

    def step_loss(step: int) -> Float[Tensor, ""]:
        rows, epochs = order.batch(step, batch_size=batch_size)
        counts = np.array([len(texts[row]) for row in rows])
        u = keyed.uniform(cfg.seed, "judge.text", epoch=epochs, ids=ids[rows])
        chosen = first[rows] + np.floor(u * counts).astype(np.int64)
        shifts = keyed.integers(
            cfg.seed, "judge.shift", epoch=epochs, ids=ids[rows], high=2 * SHIFT + 1, count=2
        )
        images = shifted(sent(pictures[rows], where), torch.from_numpy(shifts) - SHIFT)
        image_features = model.encode_image(images, normalize=True)
        text_features = _encode_sorted(model, tokens, chosen)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        scale = model.logit_scale.exp()
        return contrastive_loss(
            image_features,
            text_features,
            scale=scale,
            text_id=sent(torch.from_numpy(same_text[chosen]), where),
            picture=sent(torch.from_numpy(rows), where),
        )

    fit(
        model,
        step_loss,
        num_steps=math.ceil(cfg.clip_samples / batch_size),
        batch_size=batch_size,
        lr=cfg.lr,
        run=run,
        folder=folder,
        label="clip",
    )
    return FittedClip(model=model, config=config, tokenizer=tokenizer)


def shifted(
    images: Float[Tensor, "B 3 S S"], shifts: Int64[Tensor, "B 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Move each picture down and right by its own whole pixels, repeating its border.

    A pixel or two falsify no "left" and no "top", and a few thousand pictures are learned by heart
    more slowly.

    Args:
        images: Pictures, wherever they are.
        shifts: Pixels to move each by, on the CPU: how far the furthest goes is looked at.
    """
    reach = int(shifts.abs().max())
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    side = torch.arange(images.shape[-1])
    rows = reach - shifts[:, 0, None] + side  # [B, S]
    columns = reach - shifts[:, 1, None] + side
    picture = torch.arange(len(images))[:, None, None]
    places = (picture, rows[:, :, None], columns[:, None, :])
    picture, rows, columns = (sent(place, images.device) for place in places)
    # Indices on both sides of a slice put the channels last.
    return padded[picture, :, rows, columns].permute(0, 3, 1, 2)


def _encode_sorted(
    model: nn.Module, tokens: clip.Tokenised, chosen: Int64[np.ndarray, " B"]
) -> Float[Tensor, "B D"]:
    """Encode texts in pieces of like length."""
    order = np.argsort(tokens.num_tokens[chosen], kind="stable")
    pieces = [
        clip.encode_text(model, tokens.ids[chosen[piece]])
        for piece in np.array_split(order, TEXT_CHUNKS)
        if len(piece)
    ]
    encoded = torch.cat(pieces)
    back = sent(torch.from_numpy(np.argsort(order)), encoded.device)
    return functional.normalize(encoded[back], dim=-1)


def contrastive_loss(
    image_features: Float[Tensor, "B D"],
    text_features: Float[Tensor, "B D"],
    *,
    scale: Float[Tensor, ""],
    text_id: Int64[Tensor, " B"],
    picture: Int64[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Return CLIP's symmetric loss; pairs of one text or picture are no negatives of each other.

    Source: Radford et al. 2021, figure 3; leaving out equal texts and pictures is ours.
    """
    logits = scale * image_features @ text_features.T  # [B, B]
    is_equal = text_id[:, None] == text_id[None, :]
    is_equal |= picture[:, None] == picture[None, :]
    is_equal.fill_diagonal_(False)
    logits = logits.masked_fill(is_equal, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    by_image = functional.cross_entropy(logits, target)
    by_text = functional.cross_entropy(logits.T, target)
    return (by_image + by_text) / 2
