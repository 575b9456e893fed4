"""BLIP-VQA as transformers has it: how probable "yes" is as the answer to a question.

Picture states are computed once and serve all questions about the picture. A batch holds questions
of one length and is filled by repeating its last row, so that an answer depends on its own question
and picture alone. Nothing is padded: in transformers 5.23 BLIP's text layers drop the mask of their
cross-attention (`BlipTextAttention`), so the decoder would read padding as words.

B pictures or questions, Q questions, T text tokens, P picture patches and [CLS], D picture width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from PIL import Image
from torch import Tensor

from eval.config import VqaConfig
from eval.vqa_folder import Found
from launch.errors import ConfigError
from launch.processes import device

if TYPE_CHECKING:
    from transformers import BlipForQuestionAnswering, PreTrainedTokenizerBase

FORMULA: Final = (
    "P(yes) of a question = exp(l_yes) / (exp(l_yes) + exp(l_no)), l the decoder's first logits "
    "after [DEC]; a picture's score is the product over its prompt's phrases of P(yes) to "
    "'<phrase>?'"
)


class Asked(NamedTuple):
    """Questions as the model reads them."""

    ids: list[list[int]]
    """Tokens of each question."""

    num_cut: int
    """Questions that were longer."""


class BlipVqa:
    """A loaded BLIP-VQA.

    Args:
        model: In evaluation mode, where it computes.
        tokenizer: Of the model.
        processor: Of the model's pictures; size, mean and standard deviation are taken from it.
        cfg: Settings.
    """

    def __init__(
        self,
        model: BlipForQuestionAnswering,
        *,
        tokenizer: PreTrainedTokenizerBase,
        processor: Any,
        cfg: VqaConfig,
    ) -> None:
        self.model, self.tokenizer, self.cfg = model, tokenizer, cfg
        self.mean, self.std = processor.image_mean, processor.image_std
        size = processor.size
        self.size_px = (int(size["width"]), int(size["height"]))
        text = model.config.text_config
        self.start = int(text.bos_token_id)
        self.yes, self.no = (self._one_token(word) for word in ("yes", "no"))
        # BLIP adds two tokens behind BERT's vocabulary: [DEC] begins answers, [ENC] questions.
        self.question_start = self.start + 1 if cfg.question_start == "enc" else None
        if self.question_start is not None and self.question_start >= text.vocab_size:
            raise ConfigError(
                f"vqa.question_start=enc: the model has {text.vocab_size:,} tokens and none behind "
                f"[DEC] ({self.start}); give vqa.question_start=cls"
            )

    def _one_token(self, word: str) -> int:
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise ConfigError(
                f"vqa.model: its vocabulary has no token {word!r}; expected a BLIP-VQA whose first "
                "answer token tells yes from no"
            )
        return int(ids[0])

    def pixels(self, picture: Image.Image) -> Float[Tensor, "3 H W"]:
        """Return a picture as the model takes it: stretched to its size, normalised."""
        shown = picture.convert("RGB").resize(self.size_px, Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(shown)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return (values - mean) / std

    def read(self, questions: Sequence[str]) -> Asked:
        """Return questions as tokens, the first one replaced where the settings say so."""
        longest = self.cfg.max_tokens
        found = self.tokenizer(list(questions), truncation=True, max_length=longest)["input_ids"]
        whole = self.tokenizer(list(questions))["input_ids"]
        if self.question_start is not None:
            found = [[self.question_start, *ids[1:]] for ids in found]
        return Asked(found, sum(len(ids) > longest for ids in whole))

    @torch.inference_mode()
    def picture_states(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "B P D"]:
        """Return the states of at most one batch of pictures."""
        pixels = torch.stack([self.pixels(picture) for picture in pictures])
        padded = _padded(pixels, self.cfg.batch_size)
        padded = padded.to(self.model.device, self.model.dtype)
        states = self.model.vision_model(pixel_values=padded).last_hidden_state
        return states[: len(pictures)]

    @torch.inference_mode()
    def yes_probability(
        self, states: Float[Tensor, "B P D"], *, about: Sequence[int], questions: Sequence[str]
    ) -> Float64[np.ndarray, " Q"]:
        """Return how probable "yes" is against "no" for questions about some pictures.

        Args:
            states: Of the pictures.
            about: Place of the picture that each question is about.
            questions: The questions.

        Source: Huang et al. 2023, arXiv:2307.06350, section 4.1 (B-VQA), as its code computes it:
            the softmax over the vocabulary at the first token, renormalised over yes and no.
        """
        found = np.zeros(len(questions))
        by_length: dict[int, list[int]] = {}
        ids = self.read(questions).ids
        for row, tokens in enumerate(ids):
            by_length.setdefault(len(tokens), []).append(row)
        for rows in by_length.values():
            for start in range(0, len(rows), self.cfg.batch_size):
                some = rows[start : start + self.cfg.batch_size]
                tokens = torch.tensor([ids[row] for row in some], device=self.model.device)
                pictures = torch.tensor([about[row] for row in some], device=self.model.device)
                found[some] = self._batch(states[pictures], tokens)
        return found

    def _batch(
        self, states: Float[Tensor, "B P D"], ids: Int64[Tensor, "B T"]
    ) -> Float64[np.ndarray, " B"]:
        """Answer at most one batch of questions of one length."""
        num, where = len(states), self.model.device
        states, ids = (_padded(part, self.cfg.batch_size) for part in (states, ids))
        told = self.model.text_encoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=where),
        )
        start = torch.full((len(ids), 1), self.start, dtype=torch.long, device=where)
        answer = self.model.text_decoder(
            input_ids=start, encoder_hidden_states=told.last_hidden_state
        )
        logits = answer.logits[:num, 0].double()
        # The softmax's sum cancels where only two of its entries are compared.
        yes = torch.sigmoid(logits[:, self.yes] - logits[:, self.no])
        return np.asarray(yes.cpu().numpy())

    def describe(self) -> dict[str, Any]:
        """Return what an answer depends on besides weights, for a recipe."""
        config = self.model.config
        return {
            "architecture": {
                "class": "BlipForQuestionAnswering",
                "vision": _size_of(config.vision_config),
                "text": _size_of(config.text_config),
            },
            "picture": f"stretched to {self.size_px[0]} x {self.size_px[1]} px, bicubic (Pillow), "
            f"mean {self.mean}, standard deviation {self.std}",
            "question_start": self.cfg.question_start,
            "max_tokens": self.cfg.max_tokens,
            "precision": self.cfg.precision,
            "formula": FORMULA,
        }


def _size_of(config: Any) -> dict[str, int]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    return {name: getattr(config, name) for name in names}


def _padded(rows: Tensor, num: int) -> Tensor:
    """Repeat the last row until there are so many."""
    return torch.cat([rows, rows[-1:].expand(num - len(rows), *rows.shape[1:])])


def load(cfg: VqaConfig, found: Found) -> BlipVqa:
    """Load a model onto this process's device.

    Raises:
        ConfigError: The folder holds another kind of model.
    """
    from transformers import AutoConfig, AutoTokenizer, BlipForQuestionAnswering
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    settings = {"local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(found.folder, **settings)
        if config.model_type != "blip":
            raise ConfigError(
                f"vqa.model: {cfg.model} is a {config.model_type!r}, expected BLIP, such as "
                "Salesforce/blip-vqa-base"
            )
        tokenizer = AutoTokenizer.from_pretrained(found.folder, **settings)
        processor = BlipImageProcessorPil.from_pretrained(found.folder, **settings)
        model, told = BlipForQuestionAnswering.from_pretrained(
            found.folder, config=config, use_safetensors=True, output_loading_info=True,
            dtype=getattr(torch, cfg.precision), **settings,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"vqa.model: {cfg.model} cannot be loaded ({str(error)[:300]}); expected a folder as "
            "`save_pretrained` of BlipForQuestionAnswering and of its processor writes it"
        ) from error
    if told["missing_keys"]:
        name = min(told["missing_keys"])
        raise ConfigError(
            f"vqa.model: {cfg.model} has no weights for {name}; expected a BLIP for question "
            "answering, not for captions or retrieval"
        )
    model.eval().requires_grad_(False).to(device())
    return BlipVqa(model, tokenizer=tokenizer, processor=processor, cfg=cfg)
