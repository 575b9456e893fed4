"""Does captioning need more memory for more pictures? 50,000 against 5,000, each in its own process.

The captioner is as small as can be: what it says is worthless, and what is measured is everything
around it. Peak resident memory of the process, from the operating system.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FEW, MANY = 5_000, 50_000


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for num in (FEW, MANY):
            ingest(folder / f"images-{num}", num)
        recap(
            "train",
            folder / "captioner",
            f"images={folder / f'images-{FEW}'}",
            "kind=alt",
            "samples=64",
            "batch_size=16",
            "max_left_out_share=1",
            "validation_pictures=8",
            "model.image_size=16",
            "model.patch_size=8",
            "model.width=16",
            "model.num_heads=2",
            "model.image_layers=1",
            "model.text_layers=1",
            "model.multimodal_layers=1",
            "model.vocab_size=320",
            "model.context_length=48",
        )
        peaks = {num: caption(folder, num) for num in (FEW, MANY)}
    for num, peak in peaks.items():
        print(f"peak_mib_{num}={peak / 2**20:.1f}")
    print(f"peak_memory_ratio={peaks[MANY] / peaks[FEW]:.3f}")


def ingest(out: Path, num: int) -> None:
    recap(
        "ingest",
        out,
        "source=scenes",
        "name=memory",
        f"scenes.num_pictures={num}",
        "scenes.image_size=16",
    )


def caption(folder: Path, num: int) -> int:
    """Caption all pictures and return the peak resident memory in bytes."""
    return recap(
        "caption",
        folder / f"captions-{num}",
        f"images={folder / f'images-{num}'}",
        f"captioner={folder / 'captioner'}",
        "kind=ssc",
        "splits=[train,judge,test]",
        "decode.max_tokens=8",
        "gates.max_gated_share=1",
    )


def recap(verb: str, out: Path, *settings: str) -> int:
    """Run a verb in a process of its own; return its peak resident memory in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recap", verb, "--out", str(out), *settings],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"recap {verb} failed with status {status}")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
