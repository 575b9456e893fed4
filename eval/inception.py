"""Features of Inception-v3, from a local file of weights.

Two sets of weights are in use under this name. The one that FID was defined with knows 1,008
classes and pools otherwise than torchvision's network, which knows 1,000; the file's own classifier
says which it is. Nothing is downloaded and no pickle is read.

B batch, N pictures, D feature width, H height, W width, S network side, C, E channels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from launch.errors import ConfigError
from launch.manifest import digest_file
from launch.processes import device, sent

SIDE = 299
"""Pixels a side that the network was trained on."""

WIDTH = 2048
"""Length of its last pooled feature."""

KINDS = {1008: "fid", 1000: "torchvision"}
"""Classes that a network tells apart -> whose it is."""

NORMALISATION = {
    "fid": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation of pixels in [0, 1]."""

AVERAGED = (
    "Mixed_5b", "Mixed_5c", "Mixed_5d",
    "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7b",
)  # fmt: skip
"""Blocks whose average, in the FID network, leaves out the padding."""

GREATEST = "Mixed_7c"
"""Block that takes the maximum instead, in the FID network."""


@dataclass(frozen=True)
class Inception:
    """An Inception network without its classifier."""

    network: nn.Module
    kind: Literal["fid", "torchvision"]
    weights_digest: str

    def picture_features(
        self, pixels: UInt8[np.ndarray, "N H W 3"], *, batch_size: int = 64
    ) -> Float32[np.ndarray, "N D"]:
        """Return pooled features of pictures; the last batch is padded to full size."""
        found = [np.zeros((0, WIDTH), np.float32)]
        where = next(self.network.parameters()).device
        for start in range(0, len(pixels), batch_size):
            batch = self.preprocess(pixels[start : start + batch_size])
            num_real = len(batch)
            batch = functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, batch_size - num_real))
            with torch.inference_mode():
                found.append(self.network(sent(batch, where))[:num_real].cpu().numpy())
        return np.concatenate(found)

    def preprocess(self, pixels: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 S S"]:
        """Resize each channel in float and normalise it."""
        resized = [
            np.stack([_resize(picture[..., channel]) for channel in range(3)]) for picture in pixels
        ]
        mean, std = (torch.tensor(v)[:, None, None] for v in NORMALISATION[self.kind])
        return (torch.from_numpy(np.stack(resized)) / 255 - mean) / std

    def describe(self) -> dict[str, Any]:
        """Return everything that a feature depends on, for a recipe."""
        mean, std = NORMALISATION[self.kind]
        return {
            "architecture": f"Inception-v3 ({self.kind})",
            "weights": self.weights_digest,
            "preprocessing": {
                "size_px": SIDE,
                "mean": list(mean),
                "std": list(std),
                "interpolation": "Pillow bicubic with antialiasing, in float, not rounded",
                "resize_mode": "squash",
            },
            "precision": "float32",
            "feature": f"average pool before the classifier, {WIDTH} numbers, unscaled",
        }


def _resize(channel: UInt8[np.ndarray, "H W"]) -> Float32[np.ndarray, "S S"]:
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def load_inception(path: Path) -> Inception:
    """Load an Inception network from a safetensors file with torchvision's names.

    Raises:
        ConfigError: No such file, a pickle, or weights of another network.
    """
    from safetensors.torch import load_file
    from torchvision.models import Inception3

    if path.suffix != ".safetensors":
        raise ConfigError(
            f"inception_weights {path}: only safetensors are read, because a pickle can run code; "
            "save the weights as safetensors (docs/evaluation/distributions.md says how)"
        )
    if not path.is_file():
        raise ConfigError(f"inception_weights {path}: no such file; nothing is downloaded")
    state = {k: v for k, v in load_file(path).items() if not k.startswith("AuxLogits.")}
    num_classes = len(state.get("fc.weight", ()))
    if num_classes not in KINDS:
        raise ConfigError(
            f"inception_weights {path}: its classifier `fc.weight` has {num_classes:,} classes; "
            "expected 1,008 (FID's network) or 1,000 (torchvision's), with torchvision's names"
        )
    network = Inception3(num_classes=num_classes, aux_logits=False, init_weights=False)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"inception_weights {path}: not those of Inception-v3 in torchvision's names ({error})"
        ) from error
    kind = KINDS[num_classes]
    if kind == "fid":
        _pool_as_fid_does(network)
    network.fc = nn.Identity()
    network.eval().requires_grad_(False).to(device())
    return Inception(network, kind, digest_file(path))


def _pool_as_fid_does(network: nn.Module) -> None:
    """Give the pooled branch of nine blocks FID's pooling.

    Source: the graph `inception-2015-12-05` of Heusel et al. 2017, as opposed to torchvision's
    network: averages divide by the pixels that there are, and the last block takes maxima.
    """

    def average(block: nn.Module, x: tuple[Tensor], out: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(x[0], 3, stride=1, padding=1, count_include_pad=False)
        return _with_pooled(block, pooled, out)

    def maximum(block: nn.Module, x: tuple[Tensor], out: Tensor) -> Tensor:
        return _with_pooled(block, functional.max_pool2d(x[0], 3, stride=1, padding=1), out)

    for name in AVERAGED:
        network.get_submodule(name).register_forward_hook(average)
    network.get_submodule(GREATEST).register_forward_hook(maximum)


def _with_pooled(
    block: nn.Module, pooled: Float[Tensor, "B C H W"], out: Float[Tensor, "B E H W"]
) -> Float[Tensor, "B E H W"]:
    """Replace the channels of a block's pooled branch, which are its last ones."""
    branch = block.get_submodule("branch_pool")(pooled)
    return torch.cat([out[:, : -branch.shape[1]], branch], dim=1)
