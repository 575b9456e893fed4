"""Which settings of `recap caption` each family of captioner reads; the others are refused.

A setting without effect that is accepted looks as if it had one. Whole groups (`tags`, `vlm`,
`decode`, `endpoint`) are refused where they belong to none; here are the single settings that some
of those families read which have the group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from launch.errors import ConfigError
from recap.captioner_source import Family, Source
from recap.config import CaptionConfig

NAMES: Final[Mapping[Family, str]] = {
    "coca": "captioners of `recap train`",
    "open_clip": "open_clip's captioners",
    "transformers": "transformers models",
    "tagger": "taggers of `recap fit-tagger`",
    "timm": "timm's taggers",
    "endpoint": "endpoints",
}
"""Families in words."""

_CONTRASTIVE: Final[tuple[Family, ...]] = ("coca", "open_clip")
_WRITERS: Final[tuple[Family, ...]] = (*_CONTRASTIVE, "transformers")
_ON_THIS_MACHINE: Final[tuple[Family, ...]] = (*_WRITERS, "tagger", "timm")

READERS: Final[Mapping[str, tuple[Family, ...]]] = {
    "batch_size": _ON_THIS_MACHINE,
    "num_workers": _ON_THIS_MACHINE,
    "threads": _ON_THIS_MACHINE,
    "precision": _WRITERS,
    "seed": _WRITERS,
    "decode.num_beams": _CONTRASTIVE,
    "decode.length_penalty": _CONTRASTIVE,
    "tags.channels": ("timm",),
    "vlm.ledger": ("endpoint",),
}
"""Families that read a setting; all read what is not named here."""

INSTEAD: Final[Mapping[str, str]] = {"batch_size": "endpoint.concurrency", "seed": "endpoint.seed"}
"""What an endpoint reads in place of a setting."""


def refuse_unread(cfg: CaptionConfig, source: Source) -> None:
    """Refuse a setting that was given and that the captioner does not read.

    Raises:
        ConfigError: It names the setting and who reads it.
    """
    for name, readers in READERS.items():
        if source.family in readers:
            continue
        *groups, last = name.split(".")
        of: Any = cfg
        for group in groups:
            of = getattr(of, group)
        found = getattr(of, last)
        if found == next(field.default for field in fields(of) if field.name == last):
            continue
        other = ""
        if source.family == "endpoint" and name in INSTEAD:
            other = f", or give {INSTEAD[name]}"
        raise ConfigError(
            f"{name}={found}: {cfg.captioner} does not read it; it is for "
            f"{', '.join(NAMES[family] for family in readers)}. Leave it out{other}."
        )
