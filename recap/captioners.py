"""Everything that can caption, behind one small interface.

`recap.caption` knows batches of pictures and the captions written for them; what writes them is
named by the folder it was trained into.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from recap.captioner.coca import CoCa
from recap.captioner.decode import decode
from recap.captioner.folder import load_captioner
from recap.captioner.tokenizer import CaptionTokenizer
from recap.config import DecodeConfig


class Caption(NamedTuple):
    """One text written for one picture."""

    text: str
    num_tokens: int
    """Text tokens of its writer, without start and end."""

    stop_reason: Literal["end", "length"]
    mean_logprob: float | None
    """Mean log-probability per token in nats; None where the writer does not tell."""


@runtime_checkable
class Captioner(Protocol):
    """Writes captions for batches of pictures."""

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures it looks at."""

    def write(
        self,
        pixels: UInt8[np.ndarray, "B H H 3"],
        *,
        sample_ids: Sequence[str],
        config: DecodeConfig,
        seed: int,
    ) -> list[Caption]:
        """Write one caption per picture, in their order."""


class CoCaCaptioner:
    """A captioner that `recap train` made."""

    def __init__(self, model: CoCa, tokenizer: CaptionTokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures it looks at."""
        return self.model.size.image_size

    @torch.inference_mode()
    def write(
        self,
        pixels: UInt8[np.ndarray, "B H H 3"],
        *,
        sample_ids: Sequence[str],
        config: DecodeConfig,
        seed: int,
    ) -> list[Caption]:
        """Write one caption per picture, in their order."""
        model = self.model
        device = model.logit_scale.device
        image = model.encode_image(torch.from_numpy(pixels).to(device))
        written = decode(
            model.text,
            model.text_decoder,
            image.tokens,
            special=model.special,
            config=config,
            sample_ids=sample_ids,
            seed=seed,
        )
        return [
            Caption(
                text=self.tokenizer.decode(caption.tokens),
                num_tokens=len(caption.tokens),
                stop_reason=caption.stop_reason,
                mean_logprob=caption.mean_logprob,
            )
            for caption in written
        ]


def open_captioner(folder: Path) -> Captioner:
    """Return what the folder holds, ready to write captions on the CPU."""
    model, tokenizer = load_captioner(folder)
    return CoCaCaptioner(model, tokenizer)
