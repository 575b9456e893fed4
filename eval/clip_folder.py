"""A small CLIP in open_clip's own folder form: config, vocabulary, weights.

The form in which `eval fit-judge` writes its CLIP, and which open_clip's `local-dir:` reads.

N texts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from eval.clip import Tokenised
from eval.config import ClipSizeConfig
from launch.manifest import write_bytes, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
TOKENIZER_NAME = "tokenizer.json"

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
PAD_ID, START_ID, END_ID, UNKNOWN_ID = range(4)


def clip_config(size: ClipSizeConfig, *, image_size: int, vocab_size: int) -> dict[str, Any]:
    """Return open_clip's own config of a small CLIP, with its preprocessing."""
    return {
        "model_cfg": {
            "embed_dim": size.embed_dim,
            "vision_cfg": {
                "image_size": image_size,
                "patch_size": size.patch_size,
                "width": size.width,
                "head_width": size.width // size.num_heads,
                "layers": size.image_layers,
                "mlp_ratio": 4.0,
            },
            "text_cfg": {
                "context_length": size.context_length,
                "vocab_size": vocab_size,
                "width": size.width,
                "heads": size.num_heads,
                "layers": size.text_layers,
                "pad_id": PAD_ID,
                "eos_id": END_ID,
                "pool_type": "eos",
                "hf_tokenizer_name": "tokenizer",
            },
        },
        "preprocess_cfg": {
            "size": image_size,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def build_clip(model_cfg: dict[str, Any]) -> nn.Module:
    """Build open_clip's CLIP from its own config."""
    from open_clip.model import CLIP

    return CLIP(**json.loads(json.dumps(model_cfg)))  # a copy: the constructor fills in fields


def train_tokenizer(texts: Sequence[str], *, vocab_size: int) -> Tokenizer:
    """Train a lower-case byte-pair vocabulary; a small corpus may need fewer words than allowed."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # Words are told from their middles by a mark before them. `end_of_word_suffix`, CLIP's way,
    # numbers the marked letters in an order that changes from run to run (tokenizers 0.23).
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, START_ID), (END, END_ID)]
    )
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], *, context_length: int) -> Tokenised:
    """Tokenise and pad; a text that is too long loses words before its end token, never that."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.full((len(encoded), context_length), PAD_ID)
    for row, tokens in enumerate(encoded):
        if len(tokens) > context_length:
            tokens = [*tokens[: context_length - 1], END_ID]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return Tokenised(ids=ids, num_tokens=np.array([len(tokens) for tokens in encoded], np.int64))


def save_clip(
    folder: Path, *, model: nn.Module, config: dict[str, Any], tokenizer: Tokenizer
) -> list[str]:
    """Write a CLIP so that `load_clip` and open_clip's `local-dir:` read it; return file names."""
    from safetensors.torch import save

    write_json(folder / CONFIG_NAME, config)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
    write_bytes(folder / TOKENIZER_NAME, tokenizer.to_str(pretty=True).encode())
    # open_clip reads the vocabulary through transformers, which wants to know its class.
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "bos_token": START,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "model_max_length": config["model_cfg"]["text_cfg"]["context_length"],
        },
    )
    return [CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME, "tokenizer_config.json"]
