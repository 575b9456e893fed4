"""Time and memory of a whole comparison: 50,000 prompts x 4 pictures, 10,000 resamples.

Score rows of two arms are written to parquet in no order, with ids as they are stored. A process of
its own, on one core, reads them, pairs them by their ids and compares the arms, bootstrap and sign
flips included. `seconds` is that work without the imports before it, `cpu_seconds` what of it the
process was given a core for (a shared machine lets it wait), `peak_gib` the peak resident
memory of the process, imports included. `pair_seconds` ends where differences are paired.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eval.artifacts import SCORES_SCHEMA, read_table
from eval.report_rows import Measure, ScoreTable
from eval.stats import compare

PROMPTS, IMAGES, RESAMPLES, REPETITIONS = 50_000, 4, 10_000, 3
if "--small" in sys.argv:
    PROMPTS, RESAMPLES, REPETITIONS = 500, 200, 1
MEASURE = Measure("claims_held", "human")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "scores.parquet"
        write_rows(path)
        found = [measured(path) for _ in range(REPETITIONS)]
    for name in found[0]:
        print(f"{name}={median(f[name] for f in found):.3f}")


def write_rows(path: Path) -> None:
    """Write the scores of two arms in random order."""
    generator = np.random.default_rng(0)
    prompt, image = np.indices((PROMPTS, IMAGES)).reshape(2, -1)
    hard = generator.normal(size=PROMPTS)[prompt]
    ids = np.array([generator.bytes(16).hex() for _ in range(2 * PROMPTS)])
    parts = []
    for arm, shift in (("real", 0.0), ("dsc", 0.01)):
        num = len(prompt)
        score = 1 / (1 + np.exp(-(hard + shift + generator.normal(size=num))))
        parts.append(
            pa.table(
                {
                    "generation_id": [f"{arm}:{i:032x}" for i in range(num)],
                    "arm": [arm] * num,
                    "model_seed": np.zeros(num, np.int64),
                    "seed": image,
                    "samples_seen": np.full(num, 24_000),
                    "pair_id": ids[prompt],
                    "prompt_id": ids[PROMPTS + prompt],
                    "prompt_style": ["human"] * num,
                    "metric": ["claims_held"] * num,
                    "scoring": pa.nulls(num, pa.string()),
                    "axis": pa.nulls(num, pa.string()),
                    "value": score,
                },
                schema=SCORES_SCHEMA,
            )
        )
    rows = pa.concat_tables(parts)
    pq.write_table(rows.take(generator.permutation(rows.num_rows)), path)


def measured(path: Path) -> dict[str, float]:
    """Compare in a process of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], str(path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = [line.split("=") for line in done.stdout.split()]
    return {name: float(value) for name, value in lines}


def work(path: Path) -> None:
    """Read, pair and compare; print seconds and peak memory."""
    start, cpu = time.perf_counter(), time.process_time()
    table = ScoreTable(read_table(path, schema=SCORES_SCHEMA))
    paired = table.paired(MEASURE, "dsc", "real")
    middle = time.perf_counter()
    comparison = compare(paired, resamples=RESAMPLES)
    end, cpu = time.perf_counter(), time.process_time() - cpu
    assert comparison.num_prompts == PROMPTS
    assert comparison.num_pictures == PROMPTS * IMAGES
    assert comparison.bootstrap is not None
    print(f"seconds={end - start}")
    print(f"cpu_seconds={cpu}")
    print(f"pair_seconds={middle - start}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak_gib={peak / 2**30}")


if __name__ == "__main__":
    if sys.argv[-1].endswith(".parquet"):
        work(Path(sys.argv[-1]))
    else:
        main()
