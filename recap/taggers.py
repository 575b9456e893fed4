"""Taggers as captioners: the tags that a network is confident of, joined into a text.

A picture's tags are a function of its own confidences: batches have one shape, and ties are broken
by the order of the tag list.

B pictures, H height and width, T tags
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from launch.errors import ConfigError
from recap.artifacts import Images
from recap.config import DecodeConfig, TagsConfig
from recap.pictures import Square
from recap.reading import PixelGroup, pixel_groups
from recap.tagger.net import confidences, load_tagger
from recap.tagger.tag_list import TagList
from recap.timing import Timing
from recap.written import Caption

LOOKING: Final = "looking at pictures"

DEFAULT_THRESHOLD: Final = 0.35
"""Where neither the settings nor the tagger say more; what WD taggers are mostly used with."""

UNWRITTEN: Final = frozenset({"rating"})
"""Categories that are written only when asked for: what a picture is fit for is not what it
shows."""

_WORD: Final = re.compile(r"[^\W_]{2}")


class Written(NamedTuple):
    """How each output of a tagger is written, if at all."""

    texts: list[str]
    is_written: Bool[np.ndarray, " T"]
    thresholds: Float64[np.ndarray, " T"]


def spelled(name: str, *, spaces: bool) -> str:
    """Write a tag as a text has it: blanks for underscores, but not in a face such as ^_^."""
    return name.replace("_", " ") if spaces and _WORD.search(name) else name


def written_tags(tags: TagList, cfg: TagsConfig) -> Written:
    """Return what the settings make of a tag list.

    Raises:
        ConfigError: A category or an excluded tag is not in the list, or nothing is left.
    """
    known = sorted(set(tags.categories))
    wanted = [c for c in known if c not in UNWRITTEN] if cfg.categories is None else cfg.categories
    for name, asked in (("categories", wanted), ("thresholds", list(cfg.thresholds))):
        if wrong := [category for category in asked if category not in known]:
            raise ConfigError(
                f"tags.{name}: the tagger has no category {wrong[0]!r}; it has {', '.join(known)}"
            )
    texts = [spelled(name, spaces=cfg.spaces) for name in tags.names]
    excluded = set(cfg.exclude)
    if wrong := sorted(excluded - set(texts) - set(tags.names)):
        raise ConfigError(
            f"tags.exclude: the tagger has no tag {', '.join(map(repr, wrong))}; spell tags as its "
            "selected_tags.csv does, or as the text has them"
        )
    is_written = np.array(
        [
            category in wanted and name not in excluded and text not in excluded
            for name, text, category in zip(tags.names, texts, tags.categories, strict=True)
        ]
    )
    if not is_written.any():
        raise ConfigError(
            f"tags: none of {len(texts):,} tags would ever be written with categories={wanted} and "
            f"{len(excluded)} excluded; ask for more"
        )
    own = tags.thresholds if cfg.threshold is None else None
    basis = DEFAULT_THRESHOLD if cfg.threshold is None else cfg.threshold
    return Written(
        texts=texts,
        is_written=is_written,
        thresholds=np.array(
            [
                cfg.thresholds.get(category, basis if own is None else own[row])
                for row, category in enumerate(tags.categories)
            ],
            dtype=np.float64,
        ),
    )


def chosen_tags(
    confidence: Float[np.ndarray, " T"], written: Written, *, min_tags: int, max_tags: int | None
) -> list[int]:
    """Return the tags of one picture, the most confident first.

    Args:
        confidence: Of each tag, in [0, 1].
        written: Which may be written, and from which confidence.
        min_tags: Where fewer reach their thresholds, those that miss it by the least odds join.
        max_tags: The most confident are kept.
    """
    sure = confidence.astype(np.float64)
    possible = np.flatnonzero(written.is_written)
    is_said = sure[possible] >= written.thresholds[possible]
    said = possible[is_said]
    if len(said) < min_tags:
        rest = possible[~is_said]
        missed = _log_odds(sure[rest]) - _log_odds(written.thresholds[rest])
        nearest = rest[np.argsort(-missed, kind="stable")]
        said = np.sort(np.concatenate([said, nearest[: min_tags - len(said)]]))
    ordered: Int64[np.ndarray, " S"] = said[np.argsort(-sure[said], kind="stable")]
    return [int(tag) for tag in ordered[:max_tags]]


def _log_odds(p: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    inside = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


class TagCaptioner:
    """A captioner whose texts are tags.

    Args:
        look: Confidences of a batch of pictures.
        tags: What the outputs stand for.
        image_size: Pixels a side of the pictures that `look` takes.
        batch_size: Pictures looked at together.
        cfg: How confidences become a text.
        crop_share: Share of a picture's shorter side that is seen where pictures are cropped.
    """

    def __init__(
        self,
        look: Callable[[UInt8[np.ndarray, "B H H 3"]], Float[np.ndarray, "B T"]],
        *,
        tags: TagList,
        image_size: int,
        batch_size: int,
        cfg: TagsConfig,
        crop_share: float = 1.0,
    ) -> None:
        self._look, self._cfg = look, cfg
        self._written = written_tags(tags, cfg)
        self._square = Square(fit=cfg.fit, share=crop_share)
        self.image_size, self.group_size = image_size, batch_size

    def read(
        self, images: Images, rows: Int64[np.ndarray, " N"], *, num_workers: int
    ) -> Iterator[PixelGroup]:
        """Yield pictures as the tagger sees them."""
        return pixel_groups(
            images,
            rows,
            image_size=self.image_size,
            group_size=self.group_size,
            num_workers=num_workers,
            square=self._square,
        )

    def write(
        self, groups: Iterable[PixelGroup], *, config: DecodeConfig, seed: int, timing: Timing
    ) -> Iterator[tuple[str, Caption]]:
        """Yield sample_id and tags of every picture; how tokens are chosen does not concern it."""
        for group in groups:
            with timing.span(LOOKING):
                found = self._look(group.pixels)
            for sample_id, confidence in zip(group.sample_ids, found, strict=False):
                yield sample_id, self._caption(confidence)

    def _caption(self, confidence: Float[np.ndarray, " T"]) -> Caption:
        cfg = self._cfg
        chosen = chosen_tags(
            confidence, self._written, min_tags=cfg.min_tags, max_tags=cfg.max_tags
        )
        return Caption(
            text=cfg.separator.join(self._written.texts[tag] for tag in chosen),
            num_tokens=len(chosen),
            stop_reason="end",
            mean_logprob=None,
        )


def open_tagger(
    folder: Path, *, cfg: TagsConfig, batch_size: int, device: torch.device
) -> TagCaptioner:
    """Open a tagger that `recap fit-tagger` made."""
    model, tags = load_tagger(folder)
    model.to(device).eval()
    return TagCaptioner(
        lambda pixels: confidences(model, pixels),
        tags=tags,
        image_size=model.size.image_size,
        batch_size=batch_size,
        cfg=cfg,
    )


def check_tags(tags: TagList, cfg: TagsConfig) -> Sequence[str]:
    """Refuse settings that do not fit a tag list, and return the tags that may be written."""
    written = written_tags(tags, cfg)
    return [text for text, yes in zip(written.texts, written.is_written, strict=True) if yes]
