"""A trained model: where its components and snapshots lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launch.manifest import Manifest, read_manifest
from t2i.artifacts.contracts import MODEL, VERSIONS

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
"""File name that diffusers gives to the weights of one component."""


@dataclass(frozen=True)
class Model:
    """A model artifact: a folder for `CaptionmixPipeline.from_pretrained`, snapshots and ledger.

    `model_index.json`, `denoiser/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`;
    `snapshots/<samples_seen>/` with the averaged denoiser weights of earlier moments;
    `ledger.parquet`, what every step trained on.
    """

    manifest: Manifest

    @property
    def folder(self) -> Path:
        """Return the folder that the pipeline loads."""
        return self.manifest.folder

    @property
    def arm(self) -> str:
        """Return the name of the arm."""
        return str(self.manifest.config["arm"])

    @property
    def model_seed(self) -> int:
        """Return the seed that the model was trained with."""
        return int(self.manifest.config["seed"])

    @property
    def samples_seen(self) -> int:
        """Return the pictures seen by the finished model."""
        return int(self.manifest.counts["samples_seen"])

    @cached_property
    def snapshots(self) -> dict[int, Path]:
        """Return the weight files of the moments before the last, by pictures seen."""
        files = {
            int(path.parent.name): path for path in self.folder.glob(f"snapshots/*/{WEIGHTS_NAME}")
        }
        return {seen: files[seen] for seen in sorted(files) if seen < self.samples_seen}


def open_model(folder: Path) -> Model:
    """Open a model artifact."""
    return Model(read_manifest(folder, artifact=MODEL, version=VERSIONS[MODEL]))
