"""`captionmix STAGE VERB ...`: the installed name of `python -m STAGE VERB ...`."""

from __future__ import annotations

import subprocess
import sys

STAGES = ("recap", "t2i", "eval", "launch")


def main() -> int:
    """Hand the words over to the stage's own command line."""
    words = sys.argv[1:]
    if not words or words[0] in {"-h", "--help"}:
        print("usage: captionmix STAGE VERB ...\n\nstages: " + ", ".join(STAGES))
        return 0 if words else 2
    if words[0] not in STAGES:
        print(
            f"captionmix: unknown stage {words[0]!r}; expected {', '.join(STAGES)}.",
            file=sys.stderr,
        )
        return 2
    # A fresh interpreter: `eval` must be imported as a package, never over the builtin's name.
    return subprocess.call([sys.executable, "-m", *words])
