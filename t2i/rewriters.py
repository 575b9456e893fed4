"""Everything that can rewrite a prompt, behind one small interface.

`t2i.upsample` knows texts and what became of them; who writes is named by a folder: a rewriter of
ours (`t2i/fit_rewriter.py`), a transformers model that follows instructions, or a GGUF file; or it
is a server (`t2i/endpoint_rewriter.py`).

A rewrite is a function of (weights, prompt, recipe). Draws are keyed by the prompt's own text and
the attempt; batches have one number of rows, and a text is padded to a length that it alone
decides. So no neighbour in a batch can change it.

B batch, L tokens of the input, V vocabulary, K tokens written
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from launch import keyed
from launch.components import refuse_unloaded
from launch.errors import ArtifactError, ConfigError
from launch.manifest import is_complete
from t2i.artifacts import text_digest
from t2i.conditioning import length_batches, pad
from t2i.config import RewriteLimits, UpsampleConfig
from t2i.rewriter_source import GGUF

STREAM = "upsample.words"
"""Stream of the draws."""


class Unwritten(NamedTuple):
    """In place of a rewrite: why there is none."""

    rule: str
    """Rule that the answer broke, as `refusal`."""

    said: str
    """What was said instead."""


@runtime_checkable
class Rewriter(Protocol):
    """Rewrites prompts."""

    def rewrite(self, texts: Sequence[str], attempt: int) -> Sequence[str | Unwritten]:
        """Return one text for each prompt, empty where none was finished.

        Args:
            texts: Prompts; a rewrite depends on its own alone.
            attempt: Counted from 1; another attempt gives another text.
        """


def open_rewriter(cfg: UpsampleConfig, *, device: torch.device) -> Rewriter:
    """Load a rewriter: safetensors or GGUF, no code from the folder.

    Raises:
        ConfigError: A causal model without a chat template, or a GGUF file without `gguf`.
        ArtifactError: It is nothing that transformers can load.
    """
    source = cfg.rewriter
    assert source is not None, "a server is opened elsewhere"
    settings: dict[str, Any] = {"trust_remote_code": False}
    folder = source
    if source.suffix == GGUF:
        if find_spec("gguf") is None:
            raise ConfigError(
                f"{source}: reading a GGUF file needs the package `gguf`, which is not installed: "
                "pip install 'captionmix[gguf]'. Or give a folder with safetensors."
            )
        folder = source.parent
        settings["gguf_file"] = source.name
    settings["local_files_only"] = folder.is_dir()
    try:
        model, tokenizer = _load(str(folder), settings, precision=cfg.precision)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{source}: not a language model that transformers can load ({error}). Give a rewriter "
            "artifact, a folder or hub id of a seq2seq or instruction-following causal model with "
            "safetensors, or a GGUF file."
        ) from error
    is_ours = is_complete(source)
    if not is_ours and not model.config.is_encoder_decoder and not tokenizer.chat_template:
        raise ConfigError(
            f"{source}: its tokenizer has no chat template, so it would go on with the prompt "
            "instead of answering; give a model that follows instructions"
        )
    return ModelRewriter(
        model=model.eval().requires_grad_(False).to(device),
        tokenizer=tokenizer,
        instruction=None if is_ours else filled(cfg.instruction, cfg.limits),
        batch_size=cfg.batch_size,
        max_tokens=cfg.max_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        seed=cfg.seed,
    )


def filled(instruction: str, limits: RewriteLimits) -> str:
    """Write the length window into an instruction; the prompt comes later."""
    for name in ("min_words", "max_words"):
        instruction = instruction.replace(f"{{{name}}}", str(getattr(limits, name)))
    return instruction


def one_line(answer: str) -> str:
    """Give an answer on one line, without the quotation marks that it stands in."""
    text = " ".join(answer.split())
    if len(text) > 1 and text[0] == text[-1] == '"' and text.count('"') == 2:
        text = text[1:-1].strip()  # an answer in quotation marks, not a quoted word
    return text


def _load(folder: str, settings: dict[str, Any], *, precision: str) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    config = AutoConfig.from_pretrained(folder, **settings)
    tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if "gguf_file" not in settings:
        settings = {**settings, "use_safetensors": True}
    model, told = loader.from_pretrained(
        folder, dtype=getattr(torch, precision), output_loading_info=True, **settings
    )
    refuse_unloaded(folder, told["missing_keys"], what="language model")
    return model, tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelRewriter:
    """A transformers model, seq2seq or causal with a chat template."""

    model: Any
    tokenizer: Any
    instruction: str | None
    """What it is asked, {prompt} standing for the prompt; None gives it the prompt alone."""

    batch_size: int
    max_tokens: int
    """Longest text that it may write."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def rewrite(self, texts: Sequence[str], attempt: int) -> list[str]:
        """Return one text for each prompt, empty where none was finished."""
        inputs = [self._tokens(text) for text in texts]
        found = [""] * len(texts)
        lengths = [len(tokens) for tokens in inputs]
        for rows, length in length_batches(lengths, batch_size=self.batch_size):
            # The last batch is filled with its first text: arithmetic depends on the shape.
            filled = rows + rows[:1] * (self.batch_size - len(rows))
            written = self._write(
                [inputs[row] for row in filled],
                keys=[text_digest(texts[row]) for row in filled],
                length=length,
                attempt=attempt,
            )
            for row, text in zip(rows, written, strict=False):
                found[row] = text
        return found

    def _tokens(self, text: str) -> list[int]:
        """Give the tokens of what the model is asked for a prompt."""
        if self.instruction is None:
            return list(self.tokenizer(text, verbose=False)["input_ids"])
        asked = self.instruction.replace("{prompt}", text)
        if not self.tokenizer.chat_template:
            return list(self.tokenizer(asked, verbose=False)["input_ids"])
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
        return list(
            self.tokenizer(chat, add_special_tokens=False, verbose=False)["input_ids"]
        )  # the template has written the special tokens itself

    @torch.no_grad()
    def _write(
        self, inputs: Sequence[Sequence[int]], *, keys: Sequence[str], length: int, attempt: int
    ) -> list[str]:
        """Write one text for each input of a whole batch."""
        is_seq2seq = self.model.config.is_encoder_decoder
        end, pad_id = self._special()
        ids, mask = pad(inputs, length=length, pad_id=pad_id)
        if not is_seq2seq:  # what follows a prompt must stand directly behind it
            shifts = [length - len(tokens) for tokens in inputs]
            ids, mask = (np.stack(list(map(np.roll, rows, shifts))) for rows in (ids, mask))
        start = 1 if is_seq2seq else length
        chooser = []
        if attempt > 1:
            draws = keyed.uniform(
                self.seed,
                STREAM,
                epoch=attempt,
                ids=keyed.words(keys),
                count=max(2, self.max_tokens),
            )
            drawn = torch.from_numpy(draws).to(self.model.device)
            chooser.append(
                KeyedChoice(drawn, start=start, temperature=self.temperature, top_p=self.top_p)
            )
        with self._without_own_choices(pad_id) as settings:
            out = self.model.generate(
                input_ids=torch.from_numpy(ids).to(self.model.device),
                attention_mask=torch.from_numpy(mask).long().to(self.model.device),
                generation_config=settings,
                logits_processor=chooser,
            )
        return [self._text(row[start:], end) for row in out.tolist()]

    def _special(self) -> tuple[set[int], int]:
        """Give the tokens that end a text, and the one that pads."""
        end = self.model.generation_config.eos_token_id
        end = self.tokenizer.eos_token_id if end is None else end
        ends = {end} if isinstance(end, int) else set(end or ())
        if not ends:
            raise ConfigError(
                f"{self.model.name_or_path}: names no end token, so no text of it would ever be "
                "finished; give a model whose generation_config or tokenizer names one"
            )
        pad_id = self.tokenizer.pad_token_id
        return ends, min(ends) if pad_id is None else pad_id

    @contextlib.contextmanager
    def _without_own_choices(self, pad_id: int) -> Iterator[Any]:
        """Give settings that leave every choice of words to us: of the model's own, its tokens.

        What such settings leave open `generate` would take from the model's own (a penalty on
        repetition, say, which also falls on the words that a rewrite must keep).
        """
        from transformers import GenerationConfig

        was = self.model.generation_config
        names = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
        kept = {n: found for n in names if (found := getattr(was, n, None)) is not None}
        kept.setdefault("eos_token_id", self.tokenizer.eos_token_id)
        self.model.generation_config = GenerationConfig(**kept, pad_token_id=pad_id)
        try:
            yield GenerationConfig(
                **kept, pad_token_id=pad_id, do_sample=False, num_beams=1,
                max_new_tokens=self.max_tokens,
            )  # fmt: skip
        finally:
            self.model.generation_config = was

    def _text(self, tokens: Sequence[int], end: set[int]) -> str:
        """Give the text up to its end, on one line; nothing where it has none."""
        place = next((i for i, token in enumerate(tokens) if token in end), None)
        if place is None:
            return ""
        return one_line(self.tokenizer.decode(tokens[:place], skip_special_tokens=True))


@dataclass(frozen=True)
class KeyedChoice:
    """Chooses every token by a number that belongs to (prompt, attempt, place in the text).

    All other tokens are ruled out, so that generation, which takes the likeliest, takes this one.
    """

    uniform: Float[Tensor, "B K"]
    start: int
    """Tokens before the first that is written."""

    temperature: float
    top_p: float

    def __call__(self, input_ids: Int[Tensor, "B L"], scores: Float[Tensor, "B V"]) -> Tensor:
        """Leave one token of each row.

        Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1, for the likeliest words.
        """
        draw = self.uniform[:, input_ids.shape[1] - self.start]
        chosen = choose(scores, uniform=draw, temperature=self.temperature, top_p=self.top_p)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def choose(
    scores: Float[Tensor, "B V"],
    *,
    uniform: Float[Tensor, " B"],
    temperature: float,
    top_p: float,
) -> Int[Tensor, " B"]:
    """Draw one token of each row among the likeliest that together have probability `top_p`.

    Args:
        scores: Logits.
        uniform: Draws in [0, 1).
        temperature: Logits are divided by it.
        top_p: The likeliest token always is among them.
    """
    likely, order = (scores.double() / temperature).sort(dim=-1, descending=True, stable=True)
    share = likely.softmax(dim=-1)
    above = share.cumsum(dim=-1)
    share = share.masked_fill(above - share >= top_p, 0.0)
    bounds = share.cumsum(dim=-1)
    place = (bounds <= uniform[:, None] * bounds[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, place.clamp(max=scores.shape[1] - 1))[:, 0]
