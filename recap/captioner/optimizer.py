"""AdamW for a captioner: what decays, and how fast a pretrained image tower may move."""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import nn

from launch.errors import ConfigError
from recap.captioner.coca import CoCa
from recap.captioner.towers import ClipTower

BETAS = (0.9, 0.98)
"""As CLIP and CoCa use them."""

LR_SCALE = "lr_scale"
"""Key of a parameter group: what the rate of a step is multiplied with."""

_LAYER = re.compile(r"(?:resblocks|stages|blocks|layers?)\.?(\d+)\.")
"""Numbers of stages and layers in the parameter names of open_clip's and timm's towers."""

_BEHIND = re.compile(r"(?:trunk\.)?(?:proj|ln_post|head|norm|fc_norm|attn_?pool)")
"""Beginnings of the names of what stands behind the last layer."""


def build_optimizer(
    model: CoCa,
    *,
    weight_decay: float,
    image_lr_scale: float = 1.0,
    image_layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and leaves embeddings, biases and scales alone.

    A frozen image tower is told so here: its parameters want no gradient any more.

    Args:
        model: The captioner.
        weight_decay: Of matrices.
        image_lr_scale: Rate of the image tower over that of the rest; 0 freezes it. What a CLIP
            tower was given here, its pooler, belongs to the rest.
        image_layer_decay: Rate of every layer of that tower over the rate of the next one.

    Raises:
        ConfigError: Layers were to be told apart, and the tower's names do not number them.
    """
    tower = model.visual.clip if isinstance(model.visual, ClipTower) else model.visual
    if image_lr_scale == 0:
        tower.requires_grad_(False)
    scales = dict.fromkeys(map(id, tower.parameters()), image_lr_scale)
    if image_layer_decay != 1 and image_lr_scale > 0:
        scales = {
            key: image_lr_scale * image_layer_decay**depth for key, depth in depths(tower).items()
        }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.ndim >= 2 and "embedding" not in name
            groups[is_decayed, scales.get(id(parameter), 1.0)].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": weight_decay if is_decayed else 0.0,
                LR_SCALE: scale,
            }
            for (is_decayed, scale), parameters in sorted(
                groups.items(), key=lambda item: item[0], reverse=True
            )
        ],
        lr=0.0,
        betas=BETAS,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of parameters its share of a step's rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group[LR_SCALE]


def depths(tower: nn.Module) -> dict[int, int]:
    """Return how many layers lie above each parameter of an image tower, by its `id`.

    What stands before the first layer is one deeper than it, what stands behind the last is at 0.

    Raises:
        ConfigError: No layer is numbered.
    """
    names = [name for name, _ in tower.named_parameters()]
    # A layer is all the numbers that lead to it: block 0 of stage 3 comes after those of stage 2.
    layers = sorted({layer for name in names if (layer := layer_of(name))})
    if not layers:
        raise ConfigError(
            f"image_layer_decay: the layers of a {type(tower).__name__} are not numbered in its "
            "parameters' names; leave it at 1"
        )
    found: dict[int, int] = {}
    for name, parameter in tower.named_parameters():
        if layer := layer_of(name):
            found[id(parameter)] = len(layers) - layers.index(layer)
        else:
            found[id(parameter)] = 0 if _BEHIND.match(name) else len(layers) + 1
    return found


def layer_of(name: str) -> tuple[int, ...]:
    """Return the numbers of the stage, if any, and the block that a parameter belongs to."""
    return tuple(int(number) for number in _LAYER.findall(name))
