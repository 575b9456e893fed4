"""Fitting the recogniser to pictures with known claims, as drawn and through the autoencoder.

Network, targets and folder are those of `eval/recogniser.py`; how well it reads is measured in
`eval/fit_judge.py`.

B batch, N pictures, F fields of noise, S pixels a side
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt64
from torch import Tensor
from torch.nn import functional

from eval import recogniser
from eval.config import FitJudgeConfig
from eval.fit_loop import fit, whole_batch
from launch import keyed
from launch.processes import device, sent
from launch.run import Run
from launch.training import EpochOrder, initial_weights
from recap.claims import Claim

LATENT_JITTER = 0.15
"""Noise in the latents of the reconstructions that are learned from; a share of their spread."""
BLUR = 0.6
"""Largest share of a blurred copy in a training picture."""
NOISE = 0.06
"""Largest spread of the noise in a training picture, as a share of its range."""
NUM_NOISE_FIELDS = 64


def fit_recogniser(
    pixels: UInt8[np.ndarray, "N S S 3"],
    *,
    rebuilt: UInt8[np.ndarray, "N S S 3"],
    ids: UInt64[np.ndarray, " N"],
    claims: Sequence[Sequence[Claim]],
    cfg: FitJudgeConfig,
    run: Run,
    folder: Path,
) -> recogniser.Recogniser:
    """Fit the recogniser on pictures as they are and as the autoencoder gives them back.

    Every sample is a mixture of the two, most often one of them alone, blurred a little and with a
    little noise, so that generated pictures are not foreign to it.

    Args:
        pixels: Pictures.
        rebuilt: The same as the autoencoder gives them back, with `LATENT_JITTER`.
        ids: Identities of the pictures, which key every draw.
        claims: What each picture shows.
        cfg: Sizes, samples, rate and seed.
        run: The run that tells of the progress.
        folder: Where checkpoints lie.
    """
    known = [recogniser.targets(of_picture) for of_picture in claims]
    cells = torch.from_numpy(np.stack([target.cells for target in known]))
    background = torch.tensor([target.background for target in known])
    config = recogniser.RecogniserConfig(image_size=cfg.image_size)
    with initial_weights(cfg.seed, "judge.recogniser.init"):
        model = recogniser.Recogniser(config)
    model.to(where := device(), memory_format=torch.channels_last)
    originals = recogniser.to_input(pixels, image_size=config.image_size)
    copies = recogniser.to_input(rebuilt, image_size=config.image_size)
    noise_ids = np.arange(NUM_NOISE_FIELDS, dtype=np.uint64)
    fields = keyed.normal(
        cfg.seed, "judge.noise", epoch=0, ids=noise_ids, shape=tuple(originals.shape[1:])
    )
    noise = sent(torch.from_numpy(fields), where)
    batch_size = whole_batch(cfg.batch_size, num_pictures=len(ids))
    order = EpochOrder(cfg.seed, "judge.recogniser", ids)

    def step_loss(step: int) -> Float[Tensor, ""]:
        rows, epochs = order.batch(step, batch_size=batch_size)
        u = keyed.uniform(cfg.seed, "judge.augment", epoch=epochs, ids=ids[rows], count=4)
        here = (originals[rows], copies[rows], torch.from_numpy(u).float())
        drawn, rebuilt_too, uniform = (sent(tensor, where) for tensor in here)
        images = augment(drawn, rebuilt_too, noise=noise, u=uniform)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        return recogniser.loss(
            logits, cells=sent(cells[rows], where), background=sent(background[rows], where)
        )

    fit(
        model,
        step_loss,
        num_steps=math.ceil(cfg.recogniser_samples / batch_size),
        batch_size=batch_size,
        lr=cfg.lr,
        run=run,
        folder=folder,
        label="recogniser",
    )
    return model.to(memory_format=torch.contiguous_format)


def augment(
    originals: Float[Tensor, "B 3 S S"],
    copies: Float[Tensor, "B 3 S S"],
    *,
    noise: Float[Tensor, "F 3 S S"],
    u: Float[Tensor, "B 4"],
) -> Float[Tensor, "B 3 S S"]:
    """Mix each picture with its reconstruction, blur the mixture and add noise.

    Args:
        originals: Pictures in [-1, 1].
        copies: The same as the autoencoder gives them back.
        noise: Fields of standard normal noise, one of which each picture gets.
        u: Four uniform numbers for each picture: mixture, blur, strength of noise, field.
    """
    mix, blur, strength, field = (column[:, None, None, None] for column in u.unbind(1))
    share = (2 * mix - 0.5).clamp(0, 1)  # a quarter pure originals, a quarter pure copies
    images = originals.lerp(copies, share)
    soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    # Squared: most pictures stay sharp.
    images = images.lerp(soft, BLUR * blur**2)
    chosen = (field.flatten() * len(noise)).long()
    return images + 2 * NOISE * strength**2 * noise[chosen]
