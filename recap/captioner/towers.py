"""Image towers: a picture in, a contrastive feature and the tokens that captions look at out.

Three kinds: a small one with a convolutional stem, open_clip's ViT under its own parameter names,
and the image tower of any CLIP that open_clip knows, with a fresh pooler behind it.

B pictures, H height and width of a picture, Q image tokens, W width of the text towers, D features,
C width of a CLIP tower's tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import open_clip
import torch
from jaxtyping import Float, UInt8
from open_clip.model import _build_vision_tower  # the only way to one without its text tower
from open_clip.transformer import AttentionalPooler, LayerNorm, Transformer, VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from launch.errors import ConfigError
from recap.config import CaptionerSizeConfig


class ConvTower(nn.Module):
    """Convolutions that halve the picture until one cell is one token, then a transformer.

    A patch embedding learns slowly which of its pixels are neighbours; at the few thousand steps of
    a study on a laptop that decides whether captions become right at all. Outputs are those of
    open_clip's ViT with tokens: a pooled feature and image tokens.
    """

    def __init__(self, size: CaptionerSizeConfig) -> None:
        super().__init__()
        num_halvings = size.patch_size.bit_length() - 1
        # The last two layers have the full width: what tells a square from a ring is seen here.
        widths = [
            max(size.width >> max(num_halvings - n - 1, 0), 16) for n in range(1, num_halvings + 1)
        ]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, stride=2, padding=1), nn.GELU()]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        layers.append(nn.Conv2d(widths[-1], size.width, 1))
        self.stem = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                # torch's own initialisation shrinks the signal in every layer; after four of them
                # positions would drown the picture (its share of the tokens' spread was 6%).
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

        num_cells = (size.image_size // size.patch_size) ** 2
        scale = size.width**-0.5
        self.positional_embedding = nn.Parameter(0.5 * torch.randn(num_cells, size.width))
        self.ln_pre = LayerNorm(size.width)
        self.transformer = Transformer(
            width=size.width,
            layers=size.image_layers,
            heads=size.num_heads,
            mlp_ratio=size.mlp_ratio,
        )
        self.ln_post = LayerNorm(size.width)
        pooler = {"d_model": size.width, "context_dim": size.width, "n_head": size.num_heads}
        self.attn_pool = (
            AttentionalPooler(**pooler, n_queries=size.num_image_tokens)
            if size.num_image_tokens
            else nn.Identity()
        )
        self.attn_pool_contrastive = AttentionalPooler(**pooler, n_queries=1)
        self.proj = nn.Parameter(scale * torch.randn(size.width, size.features))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the inputs of the transformer's blocks alone, as open_clip's towers do."""
        self.transformer.grad_checkpointing = enable

    def forward(
        self, pixels: Float[Tensor, "B 3 H H"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B Q W"]]:
        """Return the pooled feature and the image tokens."""
        x = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        x = x.flatten(2).transpose(1, 2)  # B W h h -> B (h h) W
        x = self.ln_pre(x + self.positional_embedding)
        x = self.ln_post(self.transformer(x))
        pooled = self.attn_pool_contrastive(x)[:, 0]
        return pooled @ self.proj, self.attn_pool(x)


class ClipTower(nn.Module):
    """The image tower of a CLIP, its feature as it is and its tokens through a fresh pooler.

    Works on all of open_clip's image towers, ViTs, ResNets and timm's models, through the last
    feature map that each of them gives.

    Args:
        size: Its `image_model` names the architecture.
    """

    def __init__(self, size: CaptionerSizeConfig) -> None:
        super().__init__()
        self.clip = open_clip_image_tower(size).eval()
        with torch.no_grad():
            _, tokens = self._look(torch.zeros(1, 3, size.image_size, size.image_size))
        tokens_width = tokens.shape[-1]
        self.attn_pool = (
            AttentionalPooler(
                d_model=size.width,
                context_dim=tokens_width,
                n_head=size.num_heads,
                n_queries=size.num_image_tokens,
            )
            if size.num_image_tokens
            else nn.Linear(tokens_width, size.width)
        )

    def forward(
        self, pixels: Float[Tensor, "B 3 H H"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B Q W"]]:
        """Return the pooled feature and the image tokens."""
        features, tokens = self._look(pixels)
        return features, self.attn_pool(tokens)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep the inputs of the tower's blocks alone."""
        self.clip.set_grad_checkpointing(enable)

    def train(self, mode: bool = True) -> ClipTower:
        """Switch everything to training but batch statistics, which stay those of the CLIP."""
        super().train(mode)
        for module in self.clip.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def _look(
        self, pixels: Float[Tensor, "B 3 H H"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B L C"]]:
        found = self.clip.forward_intermediates(pixels, indices=1, normalize_intermediates=True)
        tokens = found["image_intermediates"][-1].flatten(2).transpose(1, 2)  # B C h w -> B L C
        return found["image_features"], tokens


def build_image_tower(size: CaptionerSizeConfig) -> nn.Module:
    """Return the image tower that `size.tower` names."""
    match size.tower:
        case "conv":
            return ConvTower(size)
        case "vit":
            return VisionTransformer(
                image_size=size.image_size,
                patch_size=size.patch_size,
                width=size.width,
                layers=size.image_layers,
                heads=size.num_heads,
                mlp_ratio=size.mlp_ratio,
                attentional_pool=size.num_image_tokens > 0,
                # The pooled feature is the first query, as in open_clip's CoCa.
                attn_pooler_queries=size.num_image_tokens + 1,
                attn_pooler_heads=size.num_heads,
                output_dim=size.features,
                output_tokens=True,
            )
        case "coca":
            return open_clip_image_tower(size)
        case "clip":
            return ClipTower(size)


def open_clip_image_tower(size: CaptionerSizeConfig) -> nn.Module:
    """Return the image tower of the architecture `size.image_model`, with random weights.

    Raises:
        ConfigError: open_clip has no such architecture.
    """
    config = open_clip_config(str(size.image_model))
    # Nothing is dropped at random: the draws would be torch's own, and another in every pass.
    vision = {**config["vision_cfg"], "patch_dropout": 0.0}
    if "timm_model_name" in vision:
        vision |= {"timm_drop": 0.0, "timm_drop_path": None}
    return _build_vision_tower(config["embed_dim"], vision, quick_gelu=size.image_quick_gelu)


def open_clip_config(name: str) -> dict[str, Any]:
    """Return open_clip's description of an architecture.

    Raises:
        ConfigError: There is no such architecture.
    """
    found: dict[str, Any] | None = open_clip.get_model_config(name)
    if found is None:
        raise ConfigError(
            f"open_clip has no architecture {name!r}; `open_clip.list_models()` names them"
        )
    return found


class ScalePixels(nn.Module):
    """Brings stored bytes to mean 0 and deviation 1 of the data set that a tower was trained on.

    Args:
        mean: Of red, green and blue, as shares of full brightness; .5 and .5 give [-1, 1].
        std: The same of the deviations.
    """

    def __init__(
        self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        spread = torch.tensor(std)[:, None, None]
        self.register_buffer("spread", 255 * spread, persistent=False)
        self.register_buffer("shift", torch.tensor(mean)[:, None, None] / spread, persistent=False)

    def forward(self, pixels: UInt8[Tensor, "B H H 3"]) -> Float[Tensor, "B 3 H H"]:
        """Scale, channels first, in the precision of the module."""
        channels_first = pixels.permute(0, 3, 1, 2).to(self.spread.dtype)
        return channels_first / self.spread - self.shift
