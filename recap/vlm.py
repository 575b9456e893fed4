"""Captions by a vision-language model of transformers: BLIP, GIT, LLaVA, Qwen-VL, SmolVLM, ...

A caption is a function of (weights, picture, recipe). Batches hold pictures whose inputs have one
shape, and always as many rows: the last one is filled up with its first picture. Where a chat has
another number of tokens for another picture, it is padded on the left to a length that it alone
decides. So no neighbour changes a caption.

B batch, L tokens of the input
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from launch.components import refuse_unloaded
from launch.errors import ArtifactError, ConfigError, InputError
from recap.artifacts import Images
from recap.config import DecodeConfig, VlmConfig
from recap.reading import PictureGroup, picture_groups
from recap.timing import Timing
from recap.vlm_choice import Chosen
from recap.vlm_inputs import VlmInputs
from recap.vlm_source import open_processor, read_config
from recap.written import Caption

MOST_WAITING: Final = 4
"""Batches of pictures that wait, at most, until a batch of one shape is full."""

PREPARING: Final = "preparing pictures"
"""Name of the span in which a model's processor makes tensors of pictures."""


class Prepared(NamedTuple):
    """One picture as its model takes it."""

    sample_id: str
    tensors: dict[str, Tensor]
    """By argument; the first dimension is the picture's own."""

    @property
    def shape(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What pictures of one batch have in common."""
        return tuple((name, tuple(t.shape)) for name, t in sorted(self.tensors.items()))


class VlmCaptioner:
    """A model of transformers with what it is told.

    Args:
        model: In evaluation mode, on the device where it shall write.
        processor: Its own.
        config: Its `config.json`.
        vlm: What it is told.
        batch_size: Pictures written about at once.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        config: dict[str, Any],
        vlm: VlmConfig,
        batch_size: int,
    ) -> None:
        self.model, self.processor = model, processor
        self._vlm, self._batch_size = vlm, batch_size
        self.inputs = VlmInputs(processor, model_type=config["model_type"], vlm=vlm)
        self.ends = end_tokens(model, processor, model_type=config["model_type"])
        leave_choice_to_us(model, pad=self.inputs.pad)

    def read(
        self, images: Images, rows: Int64[np.ndarray, " N"], *, num_workers: int
    ) -> Iterator[PictureGroup]:
        """Yield whole pictures; the processor knows what to make of them."""
        return picture_groups(
            images,
            rows,
            longest_px=self._vlm.picture_px,
            group_size=min(self._batch_size, 32),
            num_workers=num_workers,
        )

    def write(
        self, groups: Iterable[PictureGroup], *, config: DecodeConfig, seed: int, timing: Timing
    ) -> Iterator[tuple[str, Caption]]:
        """Yield sample_id and caption of every picture, in the order in which they finish."""
        waiting: dict[object, list[Prepared]] = {}
        for group in groups:
            for sample_id, picture in zip(group.sample_ids, group.pictures, strict=True):
                with timing.span(PREPARING):
                    prepared = Prepared(sample_id, self._told(sample_id, picture))
                alike = waiting.setdefault(prepared.shape, [])
                alike.append(prepared)
                if len(alike) == self._batch_size:
                    del waiting[prepared.shape]
                    yield from self._write(alike, config=config, seed=seed)
                elif sum(map(len, waiting.values())) >= MOST_WAITING * self._batch_size:
                    # Batches are filled up, so that this changes no caption.
                    most = max(waiting, key=lambda shape: len(waiting[shape]))
                    yield from self._write(waiting.pop(most), config=config, seed=seed)
        for alike in waiting.values():
            yield from self._write(alike, config=config, seed=seed)

    def _told(self, sample_id: str, picture: Any) -> dict[str, Tensor]:
        """Return what the model is given of one picture.

        Raises:
            InputError: The processor makes nothing of it, say because it is too narrow.
        """
        try:
            return self.inputs.of(picture)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise InputError(
                f"picture {sample_id}, {picture.width} x {picture.height} pixels: the model's "
                f"processor refuses it ({type(error).__name__}: {error}). Take it out of the "
                "source, or give vlm.picture_px."
            ) from error

    @torch.no_grad()
    def _write(
        self, alike: Sequence[Prepared], *, config: DecodeConfig, seed: int
    ) -> list[tuple[str, Caption]]:
        """Write about pictures whose inputs have one shape."""
        rows = [*alike, *alike[:1] * (self._batch_size - len(alike))]
        device, dtype = self.model.device, self.model.dtype
        inputs = {}
        for name in rows[0].tensors:
            joined = torch.cat([row.tensors[name] for row in rows]).to(device)
            inputs[name] = joined.to(dtype) if joined.is_floating_point() else joined
        chosen = Chosen(
            config,
            ends=self.ends,
            sample_ids=[row.sample_id for row in rows],
            seed=seed,
            device=device,
        )
        out = self.model.generate(
            **inputs,
            max_new_tokens=config.max_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=[chosen],
        )
        told = zip(alike, out[:, chosen.start :].tolist(), chosen.logprob.tolist(), strict=False)
        return [(row.sample_id, self._caption(tokens, logprob)) for row, tokens, logprob in told]

    def _caption(self, tokens: Sequence[int], logprob: float) -> Caption:
        place = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        kept = list(tokens[:place])
        text = " ".join(self.processor.tokenizer.decode(kept, skip_special_tokens=True).split())
        if self._vlm.keep_instruction:
            text = f"{self._vlm.instruction} {text}".strip()
        return Caption(
            text=text,
            num_tokens=len(kept),
            stop_reason="length" if place is None else "end",
            mean_logprob=logprob / max(1, len(kept) + (place is not None)),
        )


def end_tokens(model: Any, processor: Any, *, model_type: str) -> frozenset[int]:
    """Return the tokens that end a caption.

    Raises:
        ConfigError: The model names none.
    """
    end = model.generation_config.eos_token_id
    if model_type == "blip":  # generates in its text decoder, and ends with what separates there
        end = model.config.text_config.sep_token_id
    if end is None:
        end = model.config.get_text_config().eos_token_id
    if end is None:
        end = processor.tokenizer.eos_token_id
    if end is None:
        raise ConfigError(
            f"{model.name_or_path}: names no end token, so no caption of it would ever be finished;"
            " give a model whose generation_config.json or tokenizer names one"
        )
    return frozenset({end} if isinstance(end, int) else end)


def leave_choice_to_us(model: Any, *, pad: int) -> None:
    """Take every choice of words out of a model's generation settings, and those of its parts."""
    from transformers import GenerationConfig

    for part in model.modules():
        was = getattr(part, "generation_config", None)
        if isinstance(was, GenerationConfig):
            kept = {
                name: getattr(was, name)
                for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id")
                if getattr(was, name, None) is not None
            }
            part.generation_config = GenerationConfig(**kept, pad_token_id=pad)


def open_vlm(
    folder: Path, *, vlm: VlmConfig, batch_size: int, device: torch.device, precision: str
) -> VlmCaptioner:
    """Load a model: safetensors, no code from the folder.

    Raises:
        ArtifactError: It cannot be loaded.
    """
    from transformers import AutoModelForImageTextToText

    try:
        model, told = AutoModelForImageTextToText.from_pretrained(
            str(folder),
            output_loading_info=True,
            dtype=getattr(torch, precision),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder}: transformers cannot load it ({error}). Fetch the whole folder of the model "
            "again."
        ) from error
    refuse_unloaded(folder, told["missing_keys"], what="model that writes about pictures")
    return VlmCaptioner(
        model.eval().requires_grad_(False).to(device),
        open_processor(folder),
        config=read_config(folder),
        vlm=vlm,
        batch_size=batch_size,
    )
