"""A captioner's text tower as a text encoder that any program with transformers loads.

The lower half of the text tower never sees a picture, so it reads texts alone, as CLIP's text tower
does: layers that normalise first, causal attention, learned positions. The folder is that of a
`CLIPTextModel`. A state is the captioner's own after the tower's final norm, which in the captioner
stands before its contrastive feature. [CLS] and its position are left out; no word ever saw them.

W width, L positions
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import GELU

from launch.errors import ArtifactError
from launch.run import Run
from recap.artifacts import TEXT_ENCODER, VERSION
from recap.captioner.coca import CoCa
from recap.captioner.starting import load_start, note_start, size_of
from recap.config import TextTowerConfig

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def text_encoder(cfg: TextTowerConfig, run: Run) -> None:
    """Write the lower half of a captioner's text tower as a text encoder artifact."""
    note_start(run, "captioner", cfg.captioner)
    size = size_of(cfg.captioner)
    plan = {"width": size.width, "layers": size.text_layers, "tokens": size.context_length}
    if not run.start(plan):
        return
    captioner = load_start(cfg.captioner)
    tower = as_clip(captioner.model)
    tower.save_pretrained(run.out)
    tokenizer = captioner.tokenizer.for_transformers(max_tokens=size.context_length)
    tokenizer.save_pretrained(run.out)
    num_parameters = sum(weights.numel() for weights in tower.parameters())
    run.finish(
        artifact=TEXT_ENCODER,
        version=VERSION,
        counts={"parameters": num_parameters},
        parts=FILES,
    )


def as_clip(model: CoCa) -> Any:
    """Return the lower half of the text tower as a `CLIPTextModel`.

    Its pooled output means nothing: that of the captioner comes from [CLS].

    Raises:
        ArtifactError: The tower has an activation that CLIP's text tower does not have here.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    text, size, special = model.text, model.size, model.special
    if not all(type(block.mlp.gelu) is GELU for block in text.transformer.resblocks):
        raise ArtifactError(
            "the captioner's text tower has another activation than GELU; expected one of "
            "`recap train`. Choose another captioner."
        )
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=text.vocab_size,
            hidden_size=size.width,
            intermediate_size=text.transformer.resblocks[0].mlp.c_fc.out_features,
            projection_dim=size.features,
            num_hidden_layers=size.text_layers,
            num_attention_heads=size.num_heads,
            max_position_embeddings=size.context_length,
            hidden_act="gelu",
            layer_norm_eps=text.ln_final.eps,
            pad_token_id=special.pad,
            bos_token_id=special.start,
            eos_token_id=special.end,
        )
    )
    # Some versions of transformers keep the tower one level deeper.
    tower = getattr(clip, "text_model", clip)
    tower.load_state_dict(_renamed(text, context_length=size.context_length), strict=True)
    return clip.eval()


def _renamed(text: Any, *, context_length: int) -> dict[str, Tensor]:
    """Return the weights of open_clip's text tower under the names of transformers."""
    weights = {
        "embeddings.token_embedding.weight": text.token_embedding.weight,
        # The last position is that of [CLS].
        "embeddings.position_embedding.weight": text.positional_embedding[:context_length],
        "final_layer_norm.weight": text.ln_final.weight,
        "final_layer_norm.bias": text.ln_final.bias,
    }
    for number, block in enumerate(text.transformer.resblocks):
        modules = {
            "layer_norm1": block.ln_1,
            "layer_norm2": block.ln_2,
            "self_attn.out_proj": block.attn.out_proj,
            "mlp.fc1": block.mlp.c_fc,
            "mlp.fc2": block.mlp.c_proj,
        }
        found = {
            f"{name}.{key}": w for name, m in modules.items() for key, w in m.named_parameters()
        }
        for part, letter in enumerate("qkv"):
            matrices, biases = block.attn.in_proj_weight, block.attn.in_proj_bias
            found[f"self_attn.{letter}_proj.weight"] = matrices.chunk(3)[part]
            found[f"self_attn.{letter}_proj.bias"] = biases.chunk(3)[part]
        weights |= {f"encoder.layers.{number}.{name}": w for name, w in found.items()}
    return {name: tensor.detach() for name, tensor in weights.items()}
