"""One CLIP in both its forms: that of open_clip, and that of transformers, which torchmetrics asks.

The weights are the same numbers under other names; the vocabulary is open_clip's own file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Parts of a block in open_clip -> in transformers."""

PLAIN = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
"""Weights outside blocks in open_clip -> in transformers."""

SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""Tokens that the two call otherwise."""


class PooledClip(CLIPModel):
    """CLIP whose features are tensors, as they were before transformers 5.

    torchmetrics 1.9 divides them by their norm, which the outputs of transformers 5 do not have.
    """

    def get_image_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().get_image_features(*args, **kwargs).pooler_output

    def get_text_features(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().get_text_features(*args, **kwargs).pooler_output


def save_random(name: str, folder: Path, *, spread: float = 1.0) -> Path:
    """Write random weights of an open_clip model and return their file.

    Args:
        name: Its name in open_clip.
        folder: Where they are written.
        spread: Factor on the text tower's blocks, which begin so small that texts hardly differ.
    """
    torch.manual_seed(0)
    model = open_clip.create_model(name)
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if part.startswith("transformer.resblocks") and part.endswith("weight"):
                weight.mul_(spread)
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def model_of_transformers(model: nn.Module, name: str) -> PooledClip:
    """Give the weights of an open_clip model to transformers' CLIP."""
    cfg = open_clip.get_model_config(name)
    text, vision = cfg["text_cfg"], cfg["vision_cfg"]
    quick = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    config = CLIPConfig(
        projection_dim=cfg["embed_dim"],
        text_config={
            "vocab_size": text["vocab_size"],
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "hidden_act": quick,
        },
        vision_config={
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "hidden_act": quick,
        },
    )
    peer = PooledClip(config).eval()
    peer.load_state_dict(renamed(model.state_dict()))
    return peer


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip's weights under the names that transformers has for them."""
    found = {}
    for name, weight in weights.items():
        if name in PLAIN:
            found[PLAIN[name]] = weight
        elif name in ("visual.proj", "text_projection"):
            side = "visual_projection" if name == "visual.proj" else "text_projection"
            found[f"{side}.weight"] = weight.T.contiguous()
        else:
            found |= _of_block(name, weight)
    return found


def _of_block(name: str, weight: Tensor) -> dict[str, Tensor]:
    tower, _, rest = name.partition("transformer.resblocks.")
    number, _, part = rest.partition(".")
    side = "vision_model" if tower == "visual." else "text_model"
    block = f"{side}.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return {
            f"{block}.self_attn.{letter}_proj.{kind}": piece.contiguous()
            for letter, piece in zip("qkv", weight.chunk(3), strict=True)
        }
    stem, _, kind = part.rpartition(".")
    return {f"{block}.{BLOCK[stem]}.{kind}": weight}


def processor_of_transformers(*, image_size: int) -> CLIPProcessor:
    """Return transformers' preprocessing, with the vocabulary that open_clip carries."""
    own = SimpleTokenizer()
    tokenizer = CLIPTokenizer(
        vocab={SPECIAL.get(piece, piece): number for piece, number in own.encoder.items()},
        merges=list(own.bpe_ranks),
        model_max_length=77,
    )
    images = CLIPImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
    )
    return CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def add_small_model(name: str, folder: Path) -> None:
    """Make open_clip know a small model with CLIP's own vocabulary and context."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
        },
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
