"""What keyed randomness costs: a training batch's noise against numpy's own generator.

Alternating repetitions in one run, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import hashlib
import time
from statistics import median

import numpy as np

from launch import keyed

BATCH, SHAPE, REPETITIONS = 64, (4, 8, 8), 30


def main() -> None:
    ids = keyed.words(
        [hashlib.blake2b(bytes([i]), digest_size=16).hexdigest() for i in range(BATCH)]
    )
    plain = np.random.Generator(np.random.Philox(0))
    ours, theirs = [], []
    for epoch in range(REPETITIONS):
        start = time.perf_counter()
        keyed.normal(0, "noise", epoch=epoch, ids=ids, shape=SHAPE)
        middle = time.perf_counter()
        plain.standard_normal((BATCH, *SHAPE), dtype=np.float32)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    print(f"batch_ms={1000 * median(ours):.3f}")
    print(f"slower_than_numpy={median(ours) / median(theirs):.1f}")


if __name__ == "__main__":
    main()
