"""What every test shares: few threads, no hub."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
from jaxtyping import install_import_hook

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("captionmix", deadline=None)
hypothesis.settings.load_profile("captionmix")

# Shapes and types of every signature are checked while tests run; training does not pay for it.
# Only packages whose signatures speak of arrays; a whole number is a number.
install_import_hook(
    ["launch.keyed", "launch.training", "recap", "t2i", "eval"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def two_processes() -> Callable[[list[str]], list[str]]:
    """Start one Python command twice, as a launcher of two CPU processes would.

    Returns:
        A function of the command's words after `python`, which gives what each process printed.
    """

    def run(words: list[str]) -> list[str]:
        shared = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }
        processes = [
            subprocess.Popen(
                [sys.executable, *words],
                cwd=Path(__file__).resolve().parents[1],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        said = [process.communicate(timeout=200)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
        return said

    return run
