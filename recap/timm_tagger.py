"""Taggers trained by others: a timm network with the list of what its outputs stand for.

The folder is what timm's hub format and WD taggers have: `config.json`, `model.safetensors` and
`selected_tags.csv`. Weights are safetensors, and no code comes from the folder: its `config.json`
names an architecture that timm has.

B pictures, H height and width, T tags
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from launch.errors import ArtifactError, ConfigError
from recap.config import TagsConfig
from recap.tagger.tag_list import FILE_NAME, TagList, read_tag_list
from recap.taggers import TagCaptioner

LOADING: Final = frozenset({"checkpoint_path", "cache_dir"})
"""Arguments by which timm would load files other than the weights beside the settings."""

WEIGHTS: Final = "model.safetensors"


class TimmTagger(NamedTuple):
    """What a folder says of its tagger."""

    architecture: str
    arguments: dict[str, Any]
    """Of the architecture, such as its picture size."""

    image_size: int
    crop_share: float
    """Share of a picture's shorter side that it sees, where pictures are cropped."""

    mean: list[float]
    std: list[float]
    tags: TagList


def read_timm(folder: Path, config: dict[str, Any]) -> TimmTagger:
    """Read a folder's settings and tag list.

    Raises:
        ArtifactError: A file is missing, or the list does not fit the network.
        ConfigError: timm has no such architecture.
    """
    import timm

    architecture = str(config["architecture"])
    if not timm.is_model(architecture):
        raise ConfigError(
            f"{folder / 'config.json'}: architecture {architecture!r} is none of timm "
            f"{timm.__version__}; `timm.list_models()` names them all. Take a tagger whose network "
            "timm has."
        )
    seen = config.get("pretrained_cfg", config)  # older folders have everything at the top
    try:
        num_tags = int(config.get("num_classes", seen.get("num_classes")))
        _, height, width = seen["input_size"]
        mean, std = list(map(float, seen["mean"])), list(map(float, seen["std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / 'config.json'}: does not tell num_classes, input_size, mean and std as "
            f"timm writes them ({error!r}). Fetch the whole folder of the tagger again."
        ) from error
    arguments = config.get("model_args", {})
    if loading := sorted(
        name for name in arguments if name.startswith("pretrained") or name in LOADING
    ):
        raise ArtifactError(
            f"{folder / 'config.json'}: model_args has {', '.join(loading)}, by which timm would "
            "load other files, pickles among them; only safetensors are read. Take it out where "
            "you trust the folder."
        )
    if height != width:
        raise ConfigError(
            f"{folder / 'config.json'}: input_size is {height}x{width}; expected a square"
        )
    if not (folder / WEIGHTS).is_file():
        others = sorted(p.name for p in folder.iterdir() if p.suffix not in {".json", ".csv"})
        raise ArtifactError(
            f"{folder}: has no {WEIGHTS} ({', '.join(others) or 'no other weights'}); only "
            "safetensors are read, because a pickle can run code. Take a revision with "
            "safetensors, or convert the weights where you trust them."
        )
    return TimmTagger(
        architecture=architecture,
        arguments={**arguments, "num_classes": num_tags},
        image_size=int(height),
        crop_share=float(seen.get("crop_pct") or 1.0),
        mean=mean,
        std=std,
        tags=read_tag_list(folder / FILE_NAME, num_expected=num_tags),
    )


def build(folder: Path, told: TimmTagger) -> nn.Module:
    """Build the network and load its weights, none missing and none left over.

    Raises:
        ArtifactError: They do not fit.
    """
    import timm

    with torch.random.fork_rng(devices=[]):  # no draw of it shapes a result
        try:
            model = timm.create_model(told.architecture, pretrained=False, **told.arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{folder / 'config.json'}: timm cannot build a {told.architecture} with "
                f"model_args {told.arguments} ({error}). Fetch the folder again, or update timm."
            ) from error
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder / WEIGHTS}: the weights do not fit config.json: {error}. Fetch the folder "
            "again."
        ) from error
    built: nn.Module = model
    return built


def open_timm(
    folder: Path,
    config: dict[str, Any],
    *,
    cfg: TagsConfig,
    batch_size: int,
    device: torch.device,
) -> TagCaptioner:
    """Open a tagger of timm."""
    told = read_timm(folder, config)
    model = build(folder, told).to(device).eval()
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (told.mean, told.std))

    @torch.no_grad()
    def look(pixels: UInt8[np.ndarray, "B H H 3"]) -> Float32[np.ndarray, "B T"]:
        shown = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
        scaled = (shown - mean) / std
        if cfg.channels == "bgr":  # after scaling, as the taggers that expect it do
            scaled = scaled.flip(1)
        logits: Tensor = model(scaled)
        return logits.float().sigmoid().cpu().numpy()

    return TagCaptioner(
        look,
        tags=told.tags,
        image_size=told.image_size,
        crop_share=told.crop_share,
        batch_size=batch_size,
        cfg=cfg,
    )
