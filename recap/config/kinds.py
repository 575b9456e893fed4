"""What a kind of caption may be called."""

from __future__ import annotations

import re

from launch.errors import ConfigError

RESERVED_KINDS = ("alt", "sample_id", "key", "file_name")
"""What no new kind of caption may be called: `alt` is what came with the pictures, the others are
columns beside captions."""


def refuse_odd_kind(kind: str) -> None:
    """Refuse a kind of caption whose name cannot stand in file names and columns."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", kind) or kind in RESERVED_KINDS:
        raise ConfigError(
            f"kind must be letters, digits, _ and - alone, and none of {', '.join(RESERVED_KINDS)};"
            f" got {kind!r}"
        )
