"""Tiny vision-language models of random weights, saved in the very format of the public ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "a small red circle on a white background",
    "two large green squares and a blue ring at the left",
    "describe the picture in one sentence",
    "user assistant says what it sees there",
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
CHAT = (
    "{% for message in messages %}<user>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


def tokenizer(*, extra: tuple[str, ...] = (), wraps: bool = False) -> PreTrainedTokenizerFast:
    """Train a small byte-level vocabulary.

    Args:
        extra: Further special tokens.
        wraps: Put [CLS] and [SEP] around a text, as BERT's tokenizer does.
    """
    inner = Tokenizer(models.BPE(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*SPECIAL, *extra])
    inner.train_from_iterator(TEXTS, trainer)
    if wraps:
        ends = [(name, inner.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
        inner.post_processor = processors.BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        **({} if wraps else {"eos_token": "<end>", "bos_token": "<user>"}),
    )


def _sharpen(model: Any) -> None:
    """Make random weights decide: near-equal scores would let rounding choose."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(12.0)


def save_blip(folder: Path) -> Path:
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = tokenizer(wraps=True)
    ids = {
        "bos_token_id": words.cls_token_id,
        "eos_token_id": words.sep_token_id,
        "sep_token_id": words.sep_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "encoder_hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "max_position_embeddings": 48, **ids,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
            "initializer_range": 0.02,
        },
        projection_dim=16,
    )  # fmt: skip
    model = BlipForConditionalGeneration(config)
    _sharpen(model)
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, words).save_pretrained(folder)
    return folder


def save_git(folder: Path) -> Path:
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM, GitProcessor

    words = tokenizer(wraps=True)
    torch.manual_seed(1)
    config = GitConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, bos_token_id=words.cls_token_id,
        eos_token_id=words.sep_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    model = GitForCausalLM(config)
    _sharpen(model)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(images, words).save_pretrained(folder)
    return folder


def save_idefics(folder: Path, *, has_template: bool = True) -> Path:
    """Save a chat model whose pictures take more tokens the more oblong they are."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    rows = tuple(f"<row_{r + 1}_col_{c + 1}>" for r in range(6) for c in range(6))
    own = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    words = tokenizer(extra=("<user>", "<end>", "<answer>", *own, *rows))
    torch.manual_seed(2)
    config = Idefics3Config(
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "max_position_embeddings": 512,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        scale_factor=2,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    _sharpen(model)
    model.save_pretrained(folder)
    images = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = CHAT if has_template else None
    Idefics3Processor(images, words, image_seq_len=4, chat_template=template).save_pretrained(
        folder
    )
    return folder


VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip


def _decoder(words: PreTrainedTokenizerFast, model_type: str) -> dict[str, Any]:
    """Return the settings of a small causal decoder."""
    return {
        "model_type": model_type, "vocab_size": len(words), "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }  # fmt: skip


def save_llava(folder: Path) -> Path:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer(extra=("<user>", "<end>", "<answer>", "<image>"))
    torch.manual_seed(3)
    config = LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model"},
        text_config=_decoder(words, "llama"),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    _sharpen(model)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


def save_qwen(folder: Path) -> Path:
    """Save a chat model whose pictures have patches of their own number, all in one row."""
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    marks = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    words = tokenizer(extra=("<user>", "<end>", "<answer>", *marks.values()))
    rotary = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_type": "default"}
    torch.manual_seed(4)
    config = Qwen2VLConfig(
        text_config={**_decoder(words, "qwen2_vl_text"), "rope_scaling": rotary},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        **{name: words.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    _sharpen(model)
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessor(patch_size=8, merge_size=2, min_pixels=1024, max_pixels=4096)
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    Qwen2VLProcessor(
        images,
        words,
        Qwen2VLVideoProcessor(patch_size=8),
        chat_template=CHAT.replace("<image>", shown),
    ).save_pretrained(folder)
    return folder


def save_blip2(folder: Path) -> Path:
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
    )

    words = tokenizer(extra=("<user>", "<end>", "<answer>", "<image>"))
    torch.manual_seed(5)
    config = Blip2Config(
        vision_config={**VISION, "initializer_range": 0.02},
        qformer_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 48, "encoder_hidden_size": 32, "vocab_size": len(words),
        },
        text_config={**_decoder(words, "opt"), "ffn_dim": 48, "word_embed_proj_dim": 32},
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = Blip2ForConditionalGeneration(config)
    _sharpen(model)
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(images, words, num_query_tokens=4).save_pretrained(folder)
    return folder
