"""How much memory `t2i train` keeps for each picture: 1,000,000 of them against 100,000.

Artifacts are written with made-up texts (60 characters of alt text and 300 of a description for
every picture, all different) and latents of nothing but zeros; a process of its own opens and joins
them as training does, and gathers ten batches. Measured is its peak resident memory, from the
operating system.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from launch.manifest import Manifest, Part, digest_bytes, write_manifest, write_parquet
from recap.artifacts import CAPTIONS, CAPTIONS_SCHEMA, IMAGES, INDEX, INDEX_SCHEMA
from t2i.artifacts import (
    LATENTS,
    LATENTS_SCHEMA,
    STATES_FILE,
    TEXT_STATES,
    TEXT_STATES_SCHEMA,
    VERSIONS,
    text_digests,
)

NUMS = (100_000, 1_000_000)
ALT_CHARS, DSC_CHARS = 60, 300
BLOCK = 50_000
WIDTH = 4


def main() -> None:
    peaks = {}
    for num in NUMS:
        with tempfile.TemporaryDirectory() as name:
            write_world(Path(name), num)
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, __file__, name], check=True, capture_output=True, text=True
            )
            print(f"{num:,} pictures: {done.stdout.strip()} ({time.perf_counter() - began:.1f} s)")
            peaks[num] = int(done.stdout.split("=")[1])
    middle, many = NUMS
    print(f"peak_mib_{middle}={peaks[middle] / 2**20:.1f}")
    print(f"peak_mib_{many}={peaks[many] / 2**20:.1f}")
    print(f"bytes_per_picture={(peaks[many] - peaks[middle]) / (many - middle):.0f}")
    print(f"text_bytes_per_picture={ALT_CHARS + DSC_CHARS}")


def write_world(folder: Path, num: int) -> None:
    """Write images, captions, latents and text states of `num` pictures, block by block."""
    ids = [digest_bytes(b"%d" % n) for n in range(num)]
    alts = [f"alt text number {n} ".ljust(ALT_CHARS, "x") for n in range(num)]
    dscs = [f"description number {n} ".ljust(DSC_CHARS, "y") for n in range(num)]
    index = {name: pa.nulls(num, INDEX_SCHEMA.field(name).type) for name in INDEX_SCHEMA.names}
    index |= {"sample_id": pa.array(ids), "alt": pa.array(alts)}
    index["split"] = pa.repeat(pa.scalar("train"), num)
    for name in INDEX_SCHEMA.names:
        field = INDEX_SCHEMA.field(name)
        if not field.nullable and name not in ("sample_id", "alt", "split"):
            value = "" if pa.types.is_string(field.type) else 0
            index[name] = pa.repeat(pa.scalar(value, field.type), num)
    (folder / "images").mkdir()
    write_parquet(folder / "images" / INDEX, pa.table(index, schema=INDEX_SCHEMA))
    finish(folder / "images", IMAGES, 1, [INDEX])
    parts = []
    for start in range(0, num, BLOCK):
        here = slice(start, start + BLOCK)
        size = len(ids[here])
        columns = {n: pa.nulls(size, CAPTIONS_SCHEMA.field(n).type) for n in CAPTIONS_SCHEMA.names}
        columns |= {"sample_id": pa.array(ids[here]), "text": pa.array(dscs[here])}
        columns["kind"] = pa.repeat(pa.scalar("dsc"), size)
        columns["flags"] = pa.array([[]] * size, CAPTIONS_SCHEMA.field("flags").type)
        parts.append(f"parts/part-{start // BLOCK:05d}.parquet")
        (folder / "captions" / "parts").mkdir(parents=True, exist_ok=True)
        write_parquet(folder / "captions" / parts[-1], pa.table(columns, schema=CAPTIONS_SCHEMA))
    finish(folder / "captions", CAPTIONS, 1, parts)
    (folder / "latents").mkdir()
    for name in ("mean", "std"):
        path = folder / "latents" / f"{name}.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, (num, 1, 2, 2)).flush()
    rows = pa.table({"sample_id": ids, "row": np.arange(num)}, schema=LATENTS_SCHEMA)
    write_parquet(folder / "latents" / "index.parquet", rows)
    finish(folder / "latents", LATENTS, VERSIONS[LATENTS], ["mean.npy", "std.npy"])
    digests = np.sort(text_digests(["", *alts, *dscs]))
    texts = pa.table(
        {
            "text_digest": [bytes(d).ljust(16, b"\0").hex() for d in digests],
            "offset": np.arange(len(digests)),
            "num_tokens": np.ones(len(digests), np.int32),
        },
        schema=TEXT_STATES_SCHEMA.with_metadata(
            {**TEXT_STATES_SCHEMA.metadata, b"dtype": b"float16", b"width": str(WIDTH).encode()}
        ),
    )
    (folder / "states").mkdir()
    write_parquet(folder / "states" / "index.parquet", texts)
    np.memmap(folder / "states" / STATES_FILE, np.float16, "w+", shape=(len(digests), WIDTH))
    finish(folder / "states", TEXT_STATES, VERSIONS[TEXT_STATES], [STATES_FILE])


def finish(folder: Path, artifact: str, version: int, parts: list[str]) -> None:
    """Write a manifest that names the parts and digests nothing."""
    made = Manifest(
        artifact=artifact,
        version=version,
        recipe={},
        inputs=[],
        counts={},
        rejected={},
        parts=[
            Part(name=name, digest="0" * 32, num_bytes=(folder / name).stat().st_size)
            for name in parts
        ],
    )
    write_manifest(folder, made)


def join_as_training_does(folder: Path) -> None:
    """Open, join and gather ten batches; print the peak resident memory."""
    from recap.artifacts import open_captions, open_images
    from t2i.artifacts import open_latents
    from t2i.join import join
    from t2i.text_caches import open_text_caches

    data = join(
        images=open_images(folder / "images"),
        captions=[open_captions(folder / "captions")],
        latents=[open_latents(folder / "latents")],
        text=open_text_caches([folder / "states"]),
        caption_mix={"dsc": 0.95, "alt": 0.05},
        required_kinds=["alt", "dsc"],
        fallback={},
        seed=0,
        batch_size=256,
        text_dropout=0.1,
    )
    for step in range(1, 11):
        data.gather(data.draw(step)) if len(data) >= 256 * step else None
    # Not getrusage: it counts what the process that started this one had.
    (peak,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    print(f"peak={1024 * int(peak.split()[1])}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        join_as_training_does(Path(sys.argv[1]))
    else:
        main()
