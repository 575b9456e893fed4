"""`python tests/t2i/small.py VERB ...`: the second stage with a denoiser that steps in milliseconds.

Tests of the loop need no picture worth looking at, and checkpoints of the real sizes are dear.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from t2i import denoiser

SMALL = denoiser.Shape((16, 32), layers_per_block=1, num_heads=2, norm_groups=8)


@contextmanager
def small_denoiser() -> Iterator[None]:
    """Within, the size `tiny` is smaller still."""
    was = denoiser.SHAPES["tiny"]
    denoiser.SHAPES["tiny"] = SMALL
    try:
        yield
    finally:
        denoiser.SHAPES["tiny"] = was


if __name__ == "__main__":
    from launch.verbs import main
    from t2i.__main__ import VERBS

    with small_denoiser():
        code = main("t2i", VERBS)
    sys.exit(code)
