"""What a vision-language model takes for one picture: tensors of it and of what the model is told.

A model that follows instructions is asked through its chat template, and the chat is padded on the
left to a length that the picture alone decides. Others go on with a text, or begin with nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from launch.errors import ConfigError
from recap.config import DecodeConfig, VlmConfig
from recap.vlm_source import chat_template, is_asked

LENGTH_STEP: Final = 32
"""Chats are padded to multiples of so many tokens, so that few shapes serve all pictures."""

ASKED: Final = "input_ids"


class VlmInputs:
    """Makes a model's inputs, picture by picture.

    Args:
        processor: The model's own.
        model_type: Of its `config.json`.
        vlm: What it is told.
    """

    def __init__(self, processor: Any, *, model_type: str, vlm: VlmConfig) -> None:
        self._processor, self._model_type, self._told = processor, model_type, vlm.instruction
        self._is_asked = is_asked(model_type)
        words = processor.tokenizer
        self.pad = int(
            next(i for i in (words.pad_token_id, words.eos_token_id, 0) if i is not None)
        )

    def of(self, picture: Any) -> dict[str, Tensor]:
        """Return what the model takes for one picture."""
        told = self._told
        if self._is_asked:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": told}]
            made = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=chat_template(self._processor),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            return self._padded(dict(made))
        made = self._processor(images=picture, return_tensors="pt")
        if told is None:
            return {name: made[name] for name in made if name != ASKED or self._has_own_text}
        return self._begun(picture, told)

    @property
    def _has_own_text(self) -> bool:
        """Say whether the processor writes tokens for a picture alone, which the model needs."""
        return self._model_type not in {"blip", "git"}

    def _begun(self, picture: Any, told: str) -> dict[str, Tensor]:
        """Return a picture with the text that the model goes on with."""
        if self._model_type != "git":
            return dict(self._processor(images=picture, text=told, return_tensors="pt"))
        # Its tokenizer would end the text, and an ended text is not gone on with.
        tokenizer = self._processor.tokenizer
        ids = [tokenizer.cls_token_id, *tokenizer(told, add_special_tokens=False)[ASKED]]
        made = dict(self._processor(images=picture, return_tensors="pt"))
        return {
            **made,
            ASKED: torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids)).long(),
        }

    def _padded(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad what is as long as the chat on the left: an answer must stand directly behind it."""
        length = tensors[ASKED].shape[1]
        missing = -length % LENGTH_STEP
        found = {}
        for name, tensor in tensors.items():
            is_along = tensor.shape == tensors[ASKED].shape
            value = self.pad if name == ASKED else 0
            found[name] = functional.pad(tensor, (missing, 0), value=value) if is_along else tensor
        if "attention_mask" not in found:
            mask = torch.ones_like(tensors[ASKED])
            found["attention_mask"] = functional.pad(mask, (missing, 0), value=0)
        return found


def try_inputs(
    folder: Path,
    config: dict[str, Any],
    processor: Any,
    *,
    vlm: VlmConfig,
    decode: DecodeConfig,
) -> None:
    """Make the inputs of a blank picture, so that what a model cannot be told shows before work.

    Raises:
        ConfigError: Processor or template refuse, or the model's context has no room.
    """
    inputs = VlmInputs(processor, model_type=config["model_type"], vlm=vlm)
    try:
        made = inputs.of(Image.new("RGB", (64, 64)))
    except Exception as error:  # a template is a program: it may raise anything
        raise ConfigError(
            f"{folder}: its processor makes nothing of a picture with vlm.instruction="
            f"{vlm.instruction!r} ({type(error).__name__}: {error}). A model of type "
            f"{config['model_type']} may need an instruction, or one of another form."
        ) from error
    length = made[ASKED].shape[1] if ASKED in made else 1
    room = (config.get("text_config") or config).get("max_position_embeddings")
    if isinstance(room, int) and length + decode.max_tokens > room:
        raise ConfigError(
            f"decode.max_tokens={decode.max_tokens}: {folder} has room for {room:,} tokens, and a "
            f"picture with its instruction takes {length:,}. Lower decode.max_tokens, or "
            "vlm.picture_px."
        )
