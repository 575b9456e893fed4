"""Does evaluation need more memory for more models, or for more training texts?

Distances between distributions: 2 models against 6, of 5,000 pictures each, as features of 512
numbers that lie in files. Prompts looked for in training captions: 100,000 pictures against
1,000,000, with made-up texts (60 characters of alt text and 300 of a description, all different).
Every case is a process of its own; measured is its peak resident memory, from the operating system.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from join_memory import ALT_CHARS, DSC_CHARS, finish, write_world

MODELS = (2, 6)
PICTURES, WIDTH = 5_000, 512
TRAINING = (100_000, 1_000_000)
MIB = 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        by_models = {num: measured("distances", num, name) for num in MODELS}
    by_texts = {}
    for num in TRAINING:
        with tempfile.TemporaryDirectory() as name:
            write_world(Path(name), num)
            by_texts[num] = measured("overlap", num, name)
    few, many = MODELS
    for num, peak in by_models.items():
        print(f"distances_peak_mib_{num}_models={peak / MIB:.1f}")
    print(f"features_mib_a_model={PICTURES * WIDTH * 4 / MIB:.1f}")
    more = (by_models[many] - by_models[few]) / (many - few)
    print(f"distances_mib_a_further_model={more / MIB:.1f}")
    few, many = TRAINING
    for num, peak in by_texts.items():
        print(f"overlap_peak_mib_{num}={peak / MIB:.1f}")
    print(f"overlap_bytes_per_picture={(by_texts[many] - by_texts[few]) / (many - few):.0f}")
    print(f"text_bytes_per_picture={ALT_CHARS + DSC_CHARS}")


def measured(what: str, num: int, folder: str) -> int:
    """Run one case in a process of its own; return its peak resident memory in bytes."""
    words = [sys.executable, __file__, what, str(num), folder]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return int(done.stdout.split("=")[1])


class Drawn:
    """Stands for a CLIP: its features are drawn, and nothing is looked at."""

    def __init__(self) -> None:
        self.drawn = np.random.default_rng(0)

    def picture_features(self, pixels: Any, *, batch_size: int) -> Any:
        found = self.drawn.normal(size=(PICTURES, WIDTH)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def describe(self) -> dict[str, Any]:
        return dict.fromkeys(("architecture", "weights", "preprocessing", "precision"), "drawn")


def distances(num: int, folder: Path) -> None:
    """Measure and write the distances of `num` models whose features lie in files."""
    from eval.distribution_artifact import write_tables
    from eval.distribution_numbers import measure, number_rows, picture_table
    from eval.distribution_sets import PictureSet
    from eval.kept_features import KeptFeatures

    kept = KeptFeatures(folder / "features", Drawn(), batch_size=8, threads=1)
    sets = []
    for model in range(num + 1):
        ids = [f"{model:08x}{i:024x}" for i in range(PICTURES)]
        pairs = [f"{i:032x}" for i in range(PICTURES)]
        sets.append(
            PictureSet(
                arm=f"arm {model}",
                model_seed=0,
                source=[f"{num} {model}"],
                picture_ids=ids,
                pair_ids=pairs,
                styles=["human"] * PICTURES,
                seeds=[0] * PICTURES,
                pixels=lambda numbers: numbers,
            )
        )
        kept.keep_pictures(sets[-1].source, kept.model.picture_features(None, batch_size=8))
    reference, *generated = sets
    groups = {pair: i % 20 for i, pair in enumerate(reference.pair_ids)}
    found = measure(
        generated,
        reference,
        read=lambda pictures: kept.pictures(pictures.source, num=len(pictures)),
        groups=groups,
        with_cmmd=True,
    )
    files = [kept.file_of_pictures(pictures.source) for pictures in sets]
    rows = number_rows(found, generated, reference)
    write_tables(folder, rows, pictures=picture_table(sets, files, groups))


def overlap(num: int, folder: Path) -> None:
    """Look for 2,000 prompts in the texts of the training pictures that lie in a folder."""
    from eval.overlap import overlap as look
    from recap.artifacts import open_captions, open_images
    from t2i.artifacts import PROMPTS, VERSIONS, Prompt, open_prompts, write_prompts

    rows = [
        Prompt(f"{i:032x}", f"text number {i}", "human", f"{i:032x}", None) for i in range(2000)
    ]
    (folder / "prompts").mkdir()
    write_prompts(folder / "prompts" / "prompts.parquet", rows)
    finish(folder / "prompts", PROMPTS, VERSIONS[PROMPTS], ["prompts.parquet"])
    captions = [open_captions(folder / "captions")]
    found = look(
        [open_prompts(folder / "prompts")],
        images=open_images(folder / "images"),
        captions=captions,
    )
    assert set(found["num_captions"].to_pylist()) == {num}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"distances": distances, "overlap": overlap}[sys.argv[1]](
            int(sys.argv[2]), Path(sys.argv[3])
        )
        # Not getrusage: it counts what the process that started this one had.
        (peak,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
        print(f"peak={1024 * int(peak.split()[1])}")
    else:
        main()
