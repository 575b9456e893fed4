"""What every test shares: few threads, no hub."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

# Shapes and types of every signature are checked while tests run; training does not pay for it.
# Only packages whose signatures speak of arrays; a whole number is a number.
install_import_hook(
    ["launch.keyed", "launch.training", "recap", "t2i", "eval"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
