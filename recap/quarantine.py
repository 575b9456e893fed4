"""Where accepted and gated captions of a part lie, and the count of both over finished parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from recap import artifacts
from recap.artifacts import CaptionRow
from recap.config import GateConfig
from recap.gates import stop_if_too_many


def store(out: Path, name: str, captions: Sequence[CaptionRow]) -> None:
    """Write a part: gated captions first, since the accepted ones' file makes it complete."""
    artifacts.write_caption_part(
        quarantine_of(out, name), [caption for caption in captions if caption.flags]
    )
    artifacts.write_caption_part(out / name, [row for row in captions if not row.flags])


def quarantine_of(out: Path, name: str) -> Path:
    """Return where the gated captions of a part lie."""
    return out / "quarantine" / Path(name).name


class Finished:
    """Counts over finished parts, read once from the files of each: whoever wrote them counts.

    Args:
        out: Folder of the artifact.
        limits: Share of gated captions at which to stop.
    """

    def __init__(self, out: Path, limits: GateConfig) -> None:
        self._out, self._limits = out, limits
        self._looked_at: set[str] = set()
        self.num_captions = 0
        self.num_gated = 0
        self.rules = Counter[str]()

    def look(self, names: Sequence[str], *, is_final: bool = False) -> None:
        """Count parts that have been finished since, and stop when too many captions are bad."""
        for name in names:
            if name in self._looked_at or not (self._out / name).is_file():
                continue
            table = pq.read_table(quarantine_of(self._out, name), columns=["flags"])
            flags = table["flags"].to_pylist()
            self.num_captions += pq.read_metadata(self._out / name).num_rows + len(flags)
            self.num_gated += len(flags)
            self.rules.update(flag for row in flags for flag in row)
            self._looked_at.add(name)
        stop_if_too_many(
            where=str(self._out),
            num_captions=self.num_captions,
            gated=self.rules,
            num_gated=self.num_gated,
            limits=self._limits,
            is_final=is_final,
        )
