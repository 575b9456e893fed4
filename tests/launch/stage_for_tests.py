"""A stage of one verb that counts slowly, for tests of runs and studies in real processes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from launch.errors import ConfigError
from launch.manifest import write_bytes
from launch.run import Run
from launch.verbs import Verb, main


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """Write numbers, one file each."""

    upto: int
    """How many."""

    reads: list[Path] = field(default_factory=list)
    """Artifacts read."""

    caption_mix: dict[str, float] = field(default_factory=dict)
    """Probabilities."""

    seed: int = 0
    """Seed."""

    pause_s: float = 0.0
    """Seconds before each number."""

    def __post_init__(self) -> None:
        if self.caption_mix and abs(sum(self.caption_mix.values()) - 1) > 1e-6:
            raise ConfigError(f"caption_mix must sum to 1, got {self.caption_mix}")


def count(cfg: CountConfig, run: Run) -> None:
    for folder in cfg.reads:
        run.input("numbers", folder, artifact="numbers")
    if not run.start({"numbers": cfg.upto}):
        return
    for number in range(cfg.upto):
        if not (run.out / f"{number}.txt").exists():
            time.sleep(cfg.pause_s)
            write_bytes(run.out / f"{number}.txt", str(number * len(cfg.reads)).encode())
    names = [f"{n}.txt" for n in range(cfg.upto)]
    run.finish(artifact="numbers", counts={"rows_in": cfg.upto, "rows_out": cfg.upto}, parts=names)


if __name__ == "__main__":
    sys.exit(main("stage_for_tests", [Verb("count", "__main__:CountConfig", "__main__:count")]))
