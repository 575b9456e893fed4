"""A small convolutional network that gives every tag a confidence of its own, and its folder.

B pictures, H height and width, T tags
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from launch.errors import ArtifactError
from launch.manifest import atomic_path, read_manifest, write_bytes, write_json
from recap.artifacts import TAGGER, VERSION
from recap.config import TaggerSizeConfig
from recap.tagger.tag_list import FILE_NAME as TAG_LIST
from recap.tagger.tag_list import TagList, read_tag_list, tag_list_csv

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
ARCHITECTURE: Final = "captionmix-tagger"


class TagNet(nn.Module):
    """Levels that halve the side, two convolutions around a shortcut in each, and one layer.

    The grid of the last level is read as it lies and not averaged: `left` and `top` are tags, too.
    """

    def __init__(self, size: TaggerSizeConfig, *, num_tags: int) -> None:
        super().__init__()
        self.size = size
        levels: list[nn.Module] = []
        before = 3
        for channels in size.channels:
            levels += [
                nn.Conv2d(before, channels, 4, stride=2, padding=1),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
                Shortcut(channels),
            ]
            before = channels
        side = size.image_size // 2 ** len(size.channels)
        self.trunk = nn.Sequential(*levels, nn.Flatten())
        self.features = nn.Sequential(nn.Linear(before * side**2, size.width), nn.SiLU())
        self.head = nn.Linear(size.width, num_tags)

    def forward(self, pixels: UInt8[Tensor, "B H H 3"]) -> Float[Tensor, "B T"]:
        """Return the logit of every tag."""
        weight = self.head.weight
        scaled = pixels.permute(0, 3, 1, 2).to(weight.dtype) / 127.5 - 1
        features = self.features(self.trunk(scaled.contiguous(memory_format=torch.channels_last)))
        logits: Tensor = self.head(features)
        return logits


class Shortcut(nn.Module):
    """A convolution whose result is added to what it saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.SiLU()
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Return the sum of both."""
        changed: Tensor = self.change(x)
        return x + changed


@torch.no_grad()
def confidences(model: TagNet, pixels: UInt8[np.ndarray, "B H H 3"]) -> Float32[np.ndarray, "B T"]:
    """Return the confidence of every tag of every picture, each in [0, 1]."""
    device = model.head.weight.device
    found: Tensor = model(torch.from_numpy(pixels).to(device)).float().sigmoid()
    return found.cpu().numpy()


class SavedTagger(NamedTuple):
    """A tagger read from its folder."""

    model: TagNet
    tags: TagList


def save_tagger(
    folder: Path, *, weights: Mapping[str, Tensor], size: TaggerSizeConfig, tags: TagList
) -> list[str]:
    """Write a tagger's files, each whole or not at all, and return their names."""
    write_bytes(folder / TAG_LIST, tag_list_csv(tags).encode())
    with atomic_path(folder / WEIGHTS) as path:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, path, metadata={"format": "pt"})
    write_json(
        folder / CONFIG,
        {
            "architecture": ARCHITECTURE,
            "size": asdict(size),
            "num_tags": len(tags.names),
            "pixels": "RGB, centre-cropped, resized, -1 to 1",
        },
    )
    return [CONFIG, WEIGHTS, TAG_LIST]


def read_saved_tags(folder: Path) -> TagList:
    """Read the tags of a tagger artifact alone, without its weights."""
    return read_tag_list(folder / TAG_LIST, num_expected=_read_config(folder)["num_tags"])


def _read_config(folder: Path) -> dict[str, Any]:
    read_manifest(folder, artifact=TAGGER, version=VERSION)
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    if config.get("architecture") != ARCHITECTURE:
        raise ArtifactError(
            f"{folder / CONFIG}: architecture is {config.get('architecture')!r}, expected "
            f"{ARCHITECTURE!r}; make the tagger with `python -m recap fit-tagger`."
        )
    return config


def load_tagger(folder: Path) -> SavedTagger:
    """Read a tagger artifact; every weight must be there and none may be left over.

    Raises:
        ArtifactError: The folder is incomplete, of another kind, or its weights do not fit.
    """
    config, tags = _read_config(folder), read_saved_tags(folder)
    with torch.random.fork_rng(devices=[]):  # no draw of it shapes a result
        model = TagNet(TaggerSizeConfig(**config["size"]), num_tags=config["num_tags"])
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder / WEIGHTS}: the weights do not fit {CONFIG}: {error}"
        ) from error
    return SavedTagger(model=model.to(memory_format=torch.channels_last), tags=tags)


def without_tags(weights: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights of a network that has some of the tags alone."""
    rows = torch.tensor(list(kept), dtype=torch.long)
    return {
        name: tensor[rows] if name.startswith("head.") else tensor
        for name, tensor in weights.items()
    }
