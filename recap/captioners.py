"""Everything that can caption, behind one small interface.

`recap.caption` knows groups of pictures and the captions written for them; what writes them is
named by its folder (`recap.captioner_source`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from launch.errors import ConfigError
from recap.artifacts import Images
from recap.captioner.coca import CoCa
from recap.captioner.decode import Decoder, Group, group_size
from recap.captioner.starting import load_start
from recap.captioner.tokenizer import CaptionTokenizer
from recap.captioner_source import find_captioner
from recap.config import DecodeConfig, TagsConfig, VlmConfig
from recap.reading import PixelGroup, pixel_groups
from recap.taggers import open_tagger
from recap.timing import Timing
from recap.timm_tagger import open_timm
from recap.vlm import open_vlm
from recap.written import Caption

__all__ = ["Caption", "Captioner", "CoCaCaptioner", "open_captioner"]

LOOKING = "looking at pictures"
"""Name of the span that encodes pictures."""


@runtime_checkable
class Captioner(Protocol):
    """Writes captions for groups of pictures."""

    def read(self, images: Images, rows: Int64[np.ndarray, " N"], *, num_workers: int) -> Any:
        """Yield pictures in groups, as `write` takes them, read ahead by threads."""

    def write(
        self, groups: Iterable[Any], *, config: DecodeConfig, seed: int, timing: Timing
    ) -> Iterator[tuple[str, Caption]]:
        """Yield sample_id and caption of every picture, in the order in which they finish.

        Args:
            groups: Pictures as `read` gives them.
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

    def read(
        self, images: Images, rows: Int64[np.ndarray, " N"], *, num_workers: int
    ) -> Iterator[PixelGroup]:
        """Yield pictures as the image tower sees them."""
        return pixel_groups(
            images,
            rows,
            image_size=self.image_size,
            group_size=self.group_size,
            num_workers=num_workers,
        )

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
    tags: TagsConfig | None = None,
    vlm: VlmConfig | None = None,
) -> Captioner:
    """Return a captioner, ready to write captions.

    Args:
        path: What `recap.captioner_source` finds.
        batch_size: Pictures written about at once.
        device: Where it works.
        precision: Of its weights and arithmetic; scores of tokens are compared in float32. Taggers
            work in float32.
        tags: How the confidences of a tagger become a text.
        vlm: What a transformers model is told.
    """
    source = find_captioner(path)
    match source.family:
        case "coca" | "open_clip":
            model, tokenizer = load_start(path)
            return CoCaCaptioner(
                model.to(device, getattr(torch, precision)), tokenizer, batch_size=batch_size
            )
        case "tagger":
            return open_tagger(path, cfg=tags or TagsConfig(), batch_size=batch_size, device=device)
        case "timm":
            return open_timm(
                source.folder,
                source.config,
                cfg=tags or TagsConfig(),
                batch_size=batch_size,
                device=device,
            )
        case "transformers":
            return open_vlm(
                source.folder,
                vlm=vlm or VlmConfig(),
                batch_size=batch_size,
                device=device,
                precision=precision,
            )
        case "endpoint":
            raise ConfigError(
                "an endpoint answers picture by picture, at its own pace: ask `recap.teacher`"
            )
