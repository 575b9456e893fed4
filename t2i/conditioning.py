"""Text to states, by any frozen Hugging Face text encoder.

An encoder loads by folder or hub id. `encode` is what caching and sampling share: a caption and a
prompt with the same words have the same states. Where no public encoder serves,
`t2i/fit_text_encoder.py` makes a small one, which is loaded here like any other.

B batch, L text tokens, D text width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from launch.errors import ArtifactError, ConfigError
from launch.processes import sent
from t2i.data import padded_length


class Texts(NamedTuple):
    """Padded states of some texts."""

    text_embeds: Float[Tensor, "B L D"]
    text_mask: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder with its tokenizer."""

    model: Any
    """Any transformers encoder whose output has `last_hidden_state`."""

    tokenizer: Any
    """Its tokenizer."""

    max_tokens: int
    """Longer texts are cut, keeping the end token."""

    @classmethod
    def load(cls, source: str | Path, *, max_tokens: int | None = None) -> TextEncoder:
        """Load by folder or hub id; safetensors only, no code from the folder.

        Args:
            source: Text encoder artifact, folder in the Hugging Face format, or hub id.
            max_tokens: Longest text; None takes what the tokenizer says.
        """
        from transformers import AutoTokenizer

        is_local = Path(source).is_dir()
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(source), local_files_only=is_local, trust_remote_code=False
            )
            model = _load_encoder(str(source), is_local=is_local)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{source}: not a text encoder that transformers can load ({error}). Give a text "
                "encoder artifact, a folder in the Hugging Face format, or a hub id."
            ) from error
        # Where it was loaded from must not reach the config.json of a model that contains it.
        model.config._name_or_path = ""
        model.name_or_path = ""
        tokenizer.name_or_path = ""
        return cls.wrap(model, tokenizer, max_tokens=max_tokens)

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any, *, max_tokens: int | None = None) -> TextEncoder:
        """Take a model and a tokenizer that are loaded already, as a pipeline has them."""
        table = getattr(model.config, "max_position_embeddings", None)
        limit = int(min(tokenizer.model_max_length, table or tokenizer.model_max_length))
        if max_tokens is not None and max_tokens > limit and limit < 1 << 20:
            raise ConfigError(
                f"max_tokens={max_tokens} is more than the {limit} tokens this encoder reads"
            )
        chosen = max_tokens if max_tokens is not None else min(limit, 512)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(model.eval().requires_grad_(False), tokenizer, chosen)

    @property
    def width(self) -> int:
        """Width of a state."""
        config = self.model.config
        return int(getattr(config, "d_model", None) or config.hidden_size)

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Give the token ids of each text, end token included, and whether it was cut."""
        if not texts:
            return [], []
        whole = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        is_cut = [len(ids) > self.max_tokens for ids in whole]
        cut = [text for text, long in zip(texts, is_cut, strict=True) if long]
        if cut:
            short = iter(
                self.tokenizer(cut, truncation=True, max_length=self.max_tokens)["input_ids"]
            )
            whole = [next(short) if long else ids for ids, long in zip(whole, is_cut, strict=True)]
        # Some tokenizers give nothing for the empty text; attention needs one state to look at.
        return [ids or [self.tokenizer.pad_token_id] for ids in whole], is_cut

    def to(self, device: torch.device) -> TextEncoder:
        """Move to a device; compute in bfloat16 on a GPU if the weights are stored so.

        Everywhere else in float32: many encoders overflow in float16.
        """
        is_half = device.type == "cuda" and self.model.dtype == torch.bfloat16
        self.model.to(device=device, dtype=torch.bfloat16 if is_half else torch.float32)
        return self

    def encode_tokens(self, tokens: Sequence[Sequence[int]], *, length: int) -> Texts:
        """Give the states of token ids padded to `length`; states of padding are zero."""
        return self.encode_padded(*pad(tokens, length=length))

    @torch.no_grad()
    def encode_padded(self, ids: Int[np.ndarray, "B L"], mask: Bool[np.ndarray, "B L"]) -> Texts:
        """Give the states of padded token ids; states of padding are zero.

        Padding changes no state of a text where the encoder obeys its attention mask, as T5, CLIP
        and BERT do; one that mixes tokens without attention, such as FNet, sees it.

        Args:
            ids: Anything where there is padding.
            mask: True where a token is real.
        """
        padded = torch.from_numpy(np.where(mask, ids, self.tokenizer.pad_token_id))
        input_ids = sent(padded.long(), self.model.device)
        text_mask = sent(torch.from_numpy(mask), self.model.device)
        # A padded length may be more than the positions that there are; a text never is.
        limit = self._num_positions or ids.shape[1]
        states = self.model(
            input_ids=input_ids[:, :limit], attention_mask=text_mask[:, :limit].long()
        ).last_hidden_state
        states = functional.pad(states, (0, 0, 0, ids.shape[1] - states.shape[1]))
        # Not a product: what an encoder says of padding need not be finite.
        return Texts(states.masked_fill(~text_mask[:, :, None], 0), text_mask)

    @property
    def _num_positions(self) -> int | None:
        """Length of the table of positions; None where positions are relative, as in T5."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def encode(self, texts: Sequence[str]) -> Texts:
        """Give the padded states of some texts; a multiple of 8 tokens long."""
        tokens, _ = self.tokenize(texts)
        return self.encode_tokens(tokens, length=padded_length(max(map(len, tokens))))


def _load_encoder(source: str, *, is_local: bool) -> Any:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForTextEncoding,
        CLIPTextModel,
    )

    settings: dict[str, Any] = {"local_files_only": is_local, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(source, **settings)
    settings["use_safetensors"] = True
    if config.model_type in {"clip", "clip_text_model"}:
        return CLIPTextModel.from_pretrained(source, **settings)
    if type(config) in AutoModelForTextEncoding._model_mapping:
        return AutoModelForTextEncoding.from_pretrained(source, **settings)
    model = AutoModel.from_pretrained(source, **settings)
    return model.get_encoder() if config.is_encoder_decoder else model


def pad(
    tokens: Sequence[Sequence[int]], *, length: int, pad_id: int = 0
) -> tuple[Int64[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Pad token ids on the right; say which are real."""
    num_tokens = np.array([len(ids) for ids in tokens])
    mask = np.arange(length)[None, :] < num_tokens[:, None]
    padded = np.full((len(tokens), length), pad_id, dtype=np.int64)
    padded[mask] = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in tokens])
    return padded, mask


class LengthBatch(NamedTuple):
    """Texts of about one length, and the length that they are padded to."""

    rows: list[int]
    length: int


def length_batches(num_tokens: Sequence[int], *, batch_size: int) -> Iterator[LengthBatch]:
    """Group texts by padded length, shortest first, so that little padding is computed.

    The padded length of a text depends on its own length only, never on its neighbours'.
    """
    lengths = np.array([padded_length(n) for n in num_tokens])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length).tolist()
        for start in range(0, len(rows), batch_size):
            yield LengthBatch(rows[start : start + batch_size], int(length))
