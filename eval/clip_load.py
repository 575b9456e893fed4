"""Opens a CLIP that scores, whoever made it.

Any open_clip model serves: by name and tag, by name and a local safetensors file, or as a folder
such as `eval fit-judge` writes (`eval/clip_folder.py`). Weights are digested as they lie in memory,
so that the same weights have the same name whichever way they came.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from eval.clip import ClipScorer, Tokenised
from eval.clip_attention import use_plain_attention
from eval.clip_folder import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME, build_clip, tokenise
from launch.errors import ArtifactError, ConfigError
from launch.manifest import digest_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_clip(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    prefix: str = "",
    precision: str = "float32",
    device: torch.device | str = "cpu",
) -> ClipScorer:
    """Load a CLIP by open_clip name, or from a folder in open_clip's own form.

    Args:
        model: Name in open_clip, `hf-hub:` id, or a folder with `open_clip_config.json`.
        weights: Tag in open_clip or a local safetensors file; none for a folder.
        prefix: Put before every text, for example "A photo depicts ".
        precision: `float32` or `bfloat16`.
        device: Where it computes; its weights are digested before they go there.

    Raises:
        ConfigError: No such model, tag or precision, or weights that are a pickle.
        ArtifactError: The folder lacks a file.
    """
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"clip precision: got {precision!r}, expected float32 or bfloat16")
    folder = Path(str(model).removeprefix("local-dir:"))
    if folder.is_dir():
        scorer = _load_folder(folder, prefix=prefix, precision=precision)
    else:
        scorer = _load_named(str(model), weights=weights, prefix=prefix, precision=precision)
    use_plain_attention(scorer.model.eval().requires_grad_(False))
    if precision == "bfloat16":
        scorer.model.to(torch.bfloat16)
    scorer.model.to(device)
    return scorer


def _load_folder(folder: Path, *, prefix: str, precision: str) -> ClipScorer:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    for name in (CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: {name} is missing; fit the judge again.")
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    model = build_clip(config["model_cfg"])
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    return scorer_of(
        model,
        config=config,
        tokenizer=tokenizer,
        prefix=prefix,
        precision=precision,
    )


def scorer_of(
    model: nn.Module,
    *,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    prefix: str = "",
    precision: str = "float32",
) -> ClipScorer:
    """Make a scorer of a model fitted here, from its config and its own vocabulary."""
    context_length = config["model_cfg"]["text_cfg"]["context_length"]
    preprocess = config["preprocess_cfg"]
    return ClipScorer(
        model=model,
        architecture=config["model_cfg"],
        tokenise=lambda texts: tokenise(tokenizer, texts, context_length=context_length),
        context_length=context_length,
        image_size=preprocess["size"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize_mode=preprocess["resize_mode"],
        weights_digest=weights_digest(model, tokenizer.to_str()),
        prefix=prefix,
        precision=precision,
    )


def _load_named(
    name: str, *, weights: str | Path | None, prefix: str, precision: str
) -> ClipScorer:
    import open_clip

    if not name.startswith("hf-hub:") and name not in open_clip.list_models():
        raise ConfigError(
            f"clip model {name!r}: not a folder and no model of open_clip; see "
            "`open_clip.list_models()`, or give a folder with open_clip_config.json"
        )
    if weights is not None and Path(weights).is_file():
        if Path(weights).suffix != ".safetensors":
            raise ConfigError(
                f"clip weights {weights}: only safetensors are read, because a pickle can run "
                "code; save the weights as safetensors"
            )
    elif weights is not None and weights not in open_clip.list_pretrained_tags_by_model(name):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(f"clip weights {weights!r}: no file and no tag of {name}; tags: {tags}")
    elif weights is None and not name.startswith("hf-hub:"):
        raise ConfigError(f"clip model {name!r}: give its weights, a tag or a safetensors file")
    _refuse_other_activation(name, weights)
    model = open_clip.create_model(name, pretrained=str(weights) if weights else None)
    tokenizer = open_clip.get_tokenizer(name)
    preprocess = model.visual.preprocess_cfg
    size = preprocess["size"]
    context_length = int(tokenizer.context_length)

    def tokenise_named(texts: Sequence[str]) -> Tokenised:
        return Tokenised(
            ids=tokenizer(list(texts)),
            num_tokens=np.array([_length(tokenizer, text) for text in texts], np.int64),
        )

    return ClipScorer(
        model=model,
        architecture=f"open_clip {name}",
        tokenise=tokenise_named,
        context_length=context_length,
        image_size=int(size if isinstance(size, int) else size[0]),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize_mode=preprocess["resize_mode"],
        weights_digest=weights_digest(model, type(tokenizer).__name__),
        prefix=prefix,
        precision=precision,
    )


def _refuse_other_activation(name: str, weights: str | Path | None) -> None:
    """Refuse weights by tag that were trained with another activation than the model has.

    open_clip warns and goes on; the scores are those of no model that was ever trained. The other
    way round cannot be told: tags of models that have QuickGELU do not all say so.
    """
    import open_clip

    if weights is None or name.startswith("hf-hub:") or Path(weights).is_file():
        return
    config = open_clip.get_model_config(name) or {}
    tag = open_clip.get_pretrained_cfg(name, str(weights))
    if tag.get("quick_gelu") and not config.get("quick_gelu"):
        raise ConfigError(
            f"clip weights {weights!r}: were trained with QuickGELU, which {name} does not have; "
            f"give clip_model={name}-quickgelu"
        )


def _length(tokenizer: Any, text: str) -> int:
    """Return the tokens of a text, start and end included, before any cut."""
    from open_clip.tokenizer import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)


def weights_digest(model: nn.Module, *context: str) -> str:
    """Digest weights by name, shape and value, and what else decides a feature."""
    lines = [*context]
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        lines.append(f"{name} {list(values.shape)} {values.dtype} {digest_bytes(raw)}")
    return digest_bytes("\n".join(lines).encode())
