"""Ranks, threads, and an Accelerator that is what was asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import launch
from launch import processes
from launch.errors import InputError

ROOT = Path(launch.__file__).parents[1]
RECIPES = sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))

TWO = """
import torch
from launch.processes import accelerator, rank, set_threads, wait_for_everyone, world_size
wait_for_everyone()  # as a run does before anything else
set_threads(2)
print(torch.get_num_threads())
set_threads(1)
print(torch.get_num_threads(), torch.get_num_interop_threads())
made = accelerator(cpu=True)
total = made.reduce(torch.tensor([rank() + 1.0]), reduction="sum")
print(rank(), world_size(), made.num_processes, total.item(), flush=True)
torch.distributed.destroy_process_group()
"""


def clean_environment(**extra: str) -> dict[str, str]:
    drop = ("ACCELERATE_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "FSDP_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def python(script: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**extra),
    )


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def test_rank_and_world_size_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*processes._RANK_NAMES, *processes._SIZE_NAMES):
        monkeypatch.delenv(name, raising=False)
    assert (processes.rank(), processes.world_size()) == (0, 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    assert (processes.rank(), processes.world_size()) == (2, 3)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (processes.rank(), processes.world_size()) == (1, 8)


def test_asking_for_the_rank_needs_no_torch() -> None:
    process = python(
        "import sys, launch.processes as p, launch.keyed, launch.parts, launch.progress\n"
        "print(p.rank(), 'torch' in sys.modules)"
    )
    assert process.communicate(timeout=60)[0].split() == ["0", "False"]


def test_a_recipe_names_a_device_that_is_not_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_stays_on_cpu", lambda: True)
    assert processes.noted_device() == {}
    monkeypatch.setattr(processes, "_stays_on_cpu", lambda: False)
    assert processes.noted_device() == {"device": "cuda"}


def test_no_threads_are_refused() -> None:
    with pytest.raises(InputError, match="threads"):
        processes.set_threads(0)


@pytest.fixture(scope="module")
def answers() -> list[list[str]]:
    """What each of two launched processes says, by line."""
    port = free_port()
    both = [
        python(
            TWO,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            ACCELERATE_USE_CPU="true",
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [out.splitlines() for out, _ in said]


def test_two_processes_find_each_other(answers: list[list[str]]) -> None:
    assert [lines[2] for lines in answers] == ["0 2 2 3.0", "1 2 2 3.0"]


def test_the_asked_threads_are_set_whatever_the_environment_says(answers: list[list[str]]) -> None:
    assert [lines[:2] for lines in answers] == [["2", "1 1"]] * 2


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without traces of a launcher, and an accelerate that has not begun."""
    from accelerate.state import AcceleratorState

    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    AcceleratorState._reset_state(reset_partial_state=True)
    before = dict(os.environ)
    yield monkeypatch
    AcceleratorState._reset_state(reset_partial_state=True)
    # accelerate writes ranks and sizes into the environment even where it then fails.
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("cpu", "extra"),
    [
        (True, {"ACCELERATE_USE_FSDP": "true"}),
        (False, {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true"}),
        (True, {"ACCELERATE_USE_DEEPSPEED": "true"}),
    ],
)
def test_sharding_on_the_cpu_is_refused_and_not_replaced(
    launched: pytest.MonkeyPatch, cpu: bool, extra: dict[str, str]
) -> None:
    for name, value in extra.items():
        launched.setenv(name, value)
    with pytest.raises(InputError, match=r"(FSDP|DEEPSPEED) was asked for, and plain data"):
        processes.accelerator(cpu=cpu)


def test_sharding_that_would_not_happen_is_refused(launched: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("shows what happens on a machine without a GPU")
    # accelerate would go on without FSDP, and say nothing.
    launched.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="FSDP was asked for, and plain data parallelism"):
        processes.accelerator()


def test_processes_that_do_not_find_each_other_are_refused(launched: pytest.MonkeyPatch) -> None:
    launched.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="announced 4 processes and accelerate cannot"):
        processes.accelerator()


def test_an_unknown_precision_is_refused_by_name(launched: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="float32, bfloat16, float16"):
        processes.accelerator(precision="int3")  # type: ignore[arg-type]


def test_the_precision_of_the_run_counts_and_not_that_of_the_launcher(
    launched: pytest.MonkeyPatch,
) -> None:
    launched.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert processes.accelerator(precision="float32", cpu=True).mixed_precision == "no"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_one_that_accelerate_reads(recipe: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    raw = yaml.safe_load(recipe.read_text())
    assert ClusterConfig.from_yaml_file(str(recipe)).num_processes == raw["num_processes"]
    # accelerate would start scripts with a precision that the recipe of the run does not know.
    assert raw["mixed_precision"] == "no"
    assert not (raw["use_cpu"] and raw["distributed_type"] == "FSDP")


def test_the_recipes_that_the_design_names_are_there() -> None:
    assert [r.stem for r in RECIPES] == ["cpu_2", "fsdp", "gpu_1", "gpu_8", "multi_node"]


def test_a_process_ends_with_the_launcher_that_started_it(tmp_path: Path) -> None:
    worker = (
        "import os, pathlib, sys, time; from launch.processes import end_with_launcher;"
        "end_with_launcher(); pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    )
    starter = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], start_new_session=True);"
        "time.sleep(60)"
    )
    said = tmp_path / "pid"
    launcher = subprocess.Popen(
        [sys.executable, "-c", starter, worker, str(said)],
        cwd=ROOT,
        env={**os.environ, "TORCHELASTIC_RUN_ID": "none"},
    )
    deadline = time.monotonic() + 30
    while not (said.is_file() and said.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(said.read_text())
    launcher.kill()
    launcher.wait()
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
