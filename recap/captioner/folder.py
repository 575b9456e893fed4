"""A captioner on disk: config.json, model.safetensors, tokenizer.json, validation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from launch.errors import ArtifactError
from launch.manifest import atomic_path, read_manifest, write_bytes, write_json
from recap.captioner.coca import CoCa
from recap.captioner.tokenizer import FILE_NAME as TOKENIZER
from recap.captioner.tokenizer import CaptionTokenizer, load_tokenizer
from recap.config import CaptionerSizeConfig

ARTIFACT = "captioner"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VALIDATION = "validation.json"
ARCHITECTURE = "captionmix-coca"


class SavedCaptioner(NamedTuple):
    """A captioner read from its folder, ready to write captions or to be trained further."""

    model: CoCa
    tokenizer: CaptionTokenizer


def save_captioner(
    folder: Path,
    *,
    weights: Mapping[str, Tensor],
    size: CaptionerSizeConfig,
    tokenizer: CaptionTokenizer,
    validation: Mapping[str, Any],
) -> list[str]:
    """Write a captioner's files, each whole or not at all, and return their names."""
    write_bytes(folder / TOKENIZER, tokenizer.to_json().encode())
    with atomic_path(folder / WEIGHTS) as path:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(folder / VALIDATION, dict(validation))
    write_json(
        folder / CONFIG,
        {
            "architecture": ARCHITECTURE,
            "size": asdict(size),
            "vocab_size": tokenizer.vocab_size,
            "special_tokens": asdict(tokenizer.special),
            "pixels": "RGB, centre-cropped, resized and scaled as `size` says",
        },
    )
    return [CONFIG, WEIGHTS, TOKENIZER, VALIDATION]


def read_size(folder: Path) -> CaptionerSizeConfig:
    """Read a captioner's size alone, without its weights.

    Raises:
        ArtifactError: The folder is incomplete or of another kind.
    """
    return CaptionerSizeConfig(**_read_config(folder)["size"])


def _read_config(folder: Path) -> dict[str, Any]:
    read_manifest(folder, artifact=ARTIFACT, version=VERSION)
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    if config.get("architecture") != ARCHITECTURE:
        raise ArtifactError(
            f"{folder / CONFIG}: architecture is {config.get('architecture')!r}, expected "
            f"{ARCHITECTURE!r}; make the captioner with `python -m recap train`."
        )
    return config


def load_captioner(folder: Path) -> SavedCaptioner:
    """Read a captioner artifact; every weight must be there and none may be left over.

    Raises:
        ArtifactError: The folder is incomplete, of another kind, or its weights do not fit.
    """
    config = _read_config(folder)
    tokenizer = load_tokenizer(folder)
    size = CaptionerSizeConfig(**config["size"])
    model = CoCa(size, vocab_size=config["vocab_size"], special=tokenizer.special)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder / WEIGHTS}: the weights do not fit {CONFIG}: {error}"
        ) from error
    return SavedCaptioner(model=model, tokenizer=tokenizer)
