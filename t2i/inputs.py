"""What a training reads: opened, joined, and refused where it does not fit together.

M and N token states, D text width
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from launch.components import locate
from launch.config import differences
from launch.errors import ArtifactError
from launch.manifest import Manifest
from launch.run import Run
from recap.artifacts import CAPTIONS, IMAGES, open_captions, open_images
from t2i.artifacts import (
    AUTOENCODER,
    LATENTS,
    TEXT_ENCODER,
    TEXT_STATES,
    VERSIONS,
    open_latents,
)
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, length_batches
from t2i.config import TrainConfig
from t2i.data import TrainingSet
from t2i.join import join
from t2i.text_caches import TextCaches, open_text_caches

NUM_STATES = 65_536
"""Token states whose mean and covariance the denoiser starts from."""

WHITENING_BATCH = 64
"""Texts encoded at once for them, where token ids are cached."""


def open_inputs(cfg: TrainConfig, run: Run) -> tuple[TrainingSet, Autoencoder, TextEncoder]:
    """Open and join everything that is read, and refuse what does not fit together."""
    images = run.input("images", cfg.images, artifact=IMAGES)
    captions = [run.input("captions", folder, artifact=CAPTIONS) for folder in cfg.captions]
    cached = run.input("latents", cfg.latents, artifact=LATENTS)
    augmented = [
        run.input("augmented_latents", folder, artifact=LATENTS) for folder in cfg.augmented_latents
    ]
    states = [
        run.input("text_states", folder, artifact=TEXT_STATES, version=VERSIONS[TEXT_STATES])
        for folder in cfg.text_states
    ]
    further = [
        run.input("further_text_states", path, artifact=TEXT_STATES, version=VERSIONS[TEXT_STATES])
        for path in cfg.further_text_states
    ]
    refuse_other_autoencoder(cached, augmented)
    for manifest in (*captions, cached, *augmented, *states, *further):
        was = next((i.digest for i in manifest.inputs if i.role == "images"), images.digest)
        if was != images.digest:
            raise ArtifactError(
                f"{manifest.folder}: was made from images {was[:12]}, but images={cfg.images} "
                f"is {images.digest[:12]}. Make it from these pictures, or name the ones it is of."
            )
    data = join(
        images=open_images(cfg.images),
        captions=[open_captions(folder) for folder in cfg.captions],
        latents=[open_latents(folder) for folder in (cfg.latents, *cfg.augmented_latents)],
        text=open_text_caches([*cfg.text_states, *cfg.further_text_states]),
        caption_mix=cfg.caption_mix,
        required_kinds=cfg.required_kinds,
        fallback=cfg.fallback,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        text_dropout=cfg.text_dropout,
        # A compiled denoiser is compiled once: another shape would be computed otherwise, and
        # which shapes a process has met depends on where it resumed.
        is_one_length=cfg.compile,
    )
    autoencoder = Autoencoder.load(_maker_of(cached, "autoencoder", AUTOENCODER))
    text_encoder = TextEncoder.load(
        _maker_of(states[0], "text_encoder", TEXT_ENCODER),
        max_tokens=int(states[0].config["max_tokens"]),
    )
    return data, autoencoder, text_encoder


def _maker_of(cache: Manifest, role: str, artifact: str) -> str:
    """Find the component that a cache was made with, and prove that it is the same."""
    noted = next(i for i in cache.inputs if i.role == role)
    found = locate(noted.path, artifact=artifact)
    if found.digest != noted.digest:
        raise ArtifactError(
            f"{noted.path}: is {found.digest[:12]}, but {cache.folder} was made with "
            f"{noted.digest[:12]}. Put that {artifact} back, or encode again."
        )
    return found.source


def refuse_other_autoencoder(latents: Manifest, augmented: Sequence[Manifest]) -> None:
    """Refuse augmented latents that cannot stand in for the latents.

    Raises:
        ArtifactError: They were made with another autoencoder or at another size.
    """

    def made_with(manifest: Manifest) -> dict[str, object]:
        digest = next(i.digest for i in manifest.inputs if i.role == "autoencoder")
        return {"autoencoder": digest[:12], "image_size": manifest.config["image_size"]}

    for other in augmented:
        if changed := differences(made_with(latents), made_with(other)):
            raise ArtifactError(
                f"{other.folder}: cannot augment {latents.folder}, which was encoded otherwise.\n  "
                + "\n  ".join(changed)
                + "\nEncode it again with the autoencoder and size of the latents."
            )


def some_states(text: TextCaches, text_encoder: TextEncoder) -> Float[np.ndarray, "M D"]:
    """Give states of evenly spaced tokens, or texts, enough for a covariance.

    A function of the caches alone, so that arms start alike.
    """
    if not text.holds_tokens:
        return text.spaced_states(NUM_STATES)
    rows = text.spaced_rows(NUM_STATES)
    found = []
    for batch in length_batches(text.num_tokens[rows].tolist(), batch_size=WHITENING_BATCH):
        ids, mask = text.gather(rows[batch.rows], length=batch.length)
        states, is_real = text_encoder.encode_padded(ids, mask)
        found.append(states[is_real].float().cpu().numpy())
    return np.concatenate(found)
