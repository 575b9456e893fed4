"""Everything that can caption, behind one small interface.

`recap.caption` knows batches of pictures and the captions written for them; what writes them is
named by the folder it was trained into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recap.captioner.coca import CoCa
from recap.captioner.decode import Decoder, Group, group_size
from recap.captioner.starting import load_start
from recap.captioner.tokenizer import CaptionTokenizer
from recap.config import DecodeConfig
from recap.reading import PixelGroup
from recap.timing import Timing

LOOKING = "looking at pictures"
"""Name of the span that encodes pictures."""


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
    """Writes captions for groups of pictures."""

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures it looks at."""

    @property
    def group_size(self) -> int:
        """Pictures that it takes together."""

    def write(
        self, groups: Iterable[PixelGroup], *, config: DecodeConfig, seed: int, timing: Timing
    ) -> Iterator[tuple[str, Caption]]:
        """Yield sample_id and caption of every picture, in the order in which they finish.

        Args:
            groups: Pictures, `group_size` together.
            config: How tokens are chosen.
            seed: Seed of sampling.
            timing: Counts what time is spent looking at pictures.
        """


class CoCaCaptioner:
    """A captioner that `recap train` made.

    Args:
        model: The model, on the device where it shall write.
        tokenizer: Its vocabulary.
        batch_size: Pictures written about at once.
    """

    def __init__(self, model: CoCa, tokenizer: CaptionTokenizer, *, batch_size: int) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        # Kept from part to part: it holds weights packed for this batch, and the caches.
        self._decoder: Decoder | None = None
        self._config: DecodeConfig | None = None

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures it looks at."""
        return self.model.size.image_size

    @property
    def group_size(self) -> int:
        """Pictures that it takes together."""
        return group_size(self.batch_size)

    def write(
        self, groups: Iterable[PixelGroup], *, config: DecodeConfig, seed: int, timing: Timing
    ) -> Iterator[tuple[str, Caption]]:
        """Yield sample_id and caption of every picture, in the order in which they finish."""
        model = self.model

        def encoded() -> Iterator[Group]:
            for group in groups:
                with timing.span(LOOKING):
                    found = Group(self._look_at(group), group.sample_ids)
                yield found

        if self._decoder is None or self._config != config:
            self._config = config
            self._decoder = Decoder(
                model.text,
                model.text_decoder,
                special=model.special,
                config=config,
                num_slots=self.batch_size,
            )
        for sample_id, caption in self._decoder.write(encoded(), seed=seed):
            yield (
                sample_id,
                Caption(
                    text=self.tokenizer.decode(caption.tokens),
                    num_tokens=len(caption.tokens),
                    stop_reason=caption.stop_reason,
                    mean_logprob=caption.mean_logprob,
                ),
            )

    @torch.no_grad()
    def _look_at(self, group: PixelGroup) -> Float[Tensor, "G Q W"]:
        pixels = torch.from_numpy(group.pixels).to(self.model.logit_scale.device)
        tokens: Tensor = self.model.encode_image(pixels).tokens
        return tokens


def open_captioner(
    path: Path,
    *,
    batch_size: int,
    device: torch.device,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Captioner:
    """Return a captioner, ready to write captions.

    Args:
        path: Captioner artifact, or public weights as `open_clip:NAME/TAG`.
        batch_size: Pictures written about at once.
        device: Where it works.
        precision: Of its weights and arithmetic; scores of tokens are compared in float32.
    """
    model, tokenizer = load_start(path)
    return CoCaCaptioner(
        model.to(device, getattr(torch, precision)), tokenizer, batch_size=batch_size
    )
