"""The folder of a trained model: a pipeline, earlier averages beside it, and its ledger."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from launch.manifest import atomic_path
from t2i.artifacts import WEIGHTS_NAME
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder
from t2i.config import TrainConfig
from t2i.objective import scheduler
from t2i.pipeline import CaptionmixPipeline
from t2i.validation import CURVE, GRIDS

LEDGER = "ledger.parquet"

FOLDERS = (
    "denoiser",
    "vae",
    "text_encoder",
    "tokenizer",
    "scheduler",
    "snapshots",
    "averages",
    GRIDS,
)
"""Folders of the payload; snapshots and averages hold weights of the denoiser alone."""


def save_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write weights in the layout of the model's own denoiser folder."""
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def save_model(
    out: Path,
    tensors: dict[str, Tensor],
    *,
    denoiser: UNet2DConditionModel,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder,
    cfg: TrainConfig,
) -> None:
    """Save the pipeline folder; the component folders load on their own as well.

    Args:
        out: The folder.
        tensors: The denoiser's weights, whole and on the CPU.
        denoiser: Whose shape they have; it may be on a GPU, sharded or compiled.
        autoencoder: First stage.
        text_encoder: Text encoder; prompts are cut where its captions were cut.
        cfg: Settings of the training.
    """
    plain = UNet2DConditionModel.from_config(denoiser.config)
    plain.load_state_dict(tensors)
    tokenizer = text_encoder.tokenizer
    tokenizer.model_max_length = text_encoder.max_tokens
    pipeline = CaptionmixPipeline(
        denoiser=plain,
        vae=autoencoder.vae,
        text_encoder=text_encoder.model,
        tokenizer=tokenizer,
        scheduler=scheduler(cfg.objective),
    )
    pipeline.save_pretrained(out)


def model_files(out: Path) -> list[Path]:
    """Name the payload of a model folder."""
    files = [path for folder in FOLDERS for path in (out / folder).rglob("*") if path.is_file()]
    curve = [path for path in [out / CURVE] if path.is_file()]
    return sorted([*files, *curve, out / "model_index.json", out / LEDGER])
