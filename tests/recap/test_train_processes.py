"""Training a captioner on two processes: the gradient of one, exact resume, one that writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.errors import ConfigError, InputError
from launch.manifest import is_complete
from recap.train import refuse_sharding
from tests.recap import test_step as steps
from tests.recap import test_train as training

ROOT = Path(__file__).resolve().parents[2]
world = training.world

PASSES: dict[str, dict[str, Any]] = {
    "at once": {},
    "in parts": {"microbatch": 8},
    "without contrast": {"contrastive_weight": 0.0},
}
"""Settings under which the two processes compute the gradient of one batch."""

SCRIPT = """
import sys
from pathlib import Path
from tests.recap import test_train_processes as both
both.work(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def work(world: Path, out: Path) -> None:
    """What each of the two processes does; starting them is the dearest part of these tests."""
    from accelerate import Accelerator
    from safetensors.torch import save_file

    from launch.processes import rank, rank_slice, set_threads
    from recap import train as module
    from recap.captioner.gather import share_weights

    set_threads(1)
    Accelerator.end_training = lambda self: None  # there is more to do
    cfg = training.settings(world, validation_samples=32)
    real, steps_done = module.gradients, []

    def die_in_the_fourth_step(*args: Any, **kwargs: Any) -> Any:
        steps_done.append(1)
        if len(steps_done) == 4:
            raise training.Stopped
        return real(*args, **kwargs)

    module.gradients = die_in_the_fourth_step
    with pytest.raises(training.Stopped):
        training.start(cfg, out / "stopped")
    module.gradients = real
    training.start(cfg, out / "undisturbed")
    training.start(cfg, out / "stopped")

    whole = steps.batch()
    here = rank_slice(len(whole.pixels))
    own = whole._replace(pixels=whole.pixels[here], captions=whole.captions[here], first=here.start)
    for name, changes in PASSES.items():
        model = steps.new_model()
        losses = steps.gradients(model, own, steps.settings(**changes))
        tensors = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        save_file({**tensors, "losses": torch.stack(losses)}, out / f"{name} {rank()}.safetensors")
    torch.manual_seed(rank())
    drawn_apart = torch.nn.Linear(3, 2)
    save_file(dict(drawn_apart.state_dict()), out / f"drawn {rank()}.safetensors")
    share_weights(drawn_apart)
    save_file(dict(drawn_apart.state_dict()), out / f"shared {rank()}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def done(
    world: Path,
    two_processes: Callable[[list[str]], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder that two processes filled."""
    out = tmp_path_factory.mktemp("two")
    two_processes(["-c", SCRIPT, str(world), str(out)])
    return out


def log(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = (folder / "run.log.jsonl").read_text().splitlines()
    return [found for found in map(json.loads, lines) if found["event"] == event]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_two_processes_has_the_gradient_of_the_whole_batch(
    done: Path, name: str, rank: int
) -> None:
    # In float64, so that whatever is left out or counted twice would show.
    losses, by_name = steps.found(steps.new_model(), steps.settings(**PASSES[name]))
    found = load_file(done / f"{name} {rank}.safetensors")
    torch.testing.assert_close(found, {**by_name, "losses": torch.stack(losses)})


def test_every_process_starts_from_the_weights_of_the_first(done: Path) -> None:
    drawn, shared = (
        [load_file(done / f"{n} {r}.safetensors") for r in (0, 1)] for n in ("drawn", "shared")
    )
    assert not torch.equal(drawn[0]["weight"], drawn[1]["weight"])
    for found in shared:
        torch.testing.assert_close(found, drawn[0], rtol=0, atol=0)


def test_two_processes_stopped_and_started_again_end_in_the_same_bytes(done: Path) -> None:
    assert training.payload(done / "stopped") == training.payload(done / "undisturbed")


def test_two_processes_lower_the_loss_as_one_does(world: Path, done: Path, tmp_path: Path) -> None:
    alone = log(training.start(training.settings(world), tmp_path / "alone"), "step")
    together = log(done / "undisturbed", "step")
    assert len(together) == len(alone) == 4
    for name in ("loss", "captioning", "contrastive", "grad"):
        mine, theirs = ([step[name] for step in run] for run in (together, alone))
        assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_only_the_first_process_writes(done: Path) -> None:
    assert is_complete(done / "undisturbed")
    assert len(log(done / "undisturbed", "started")) == 1
    assert [step["step"] for step in log(done / "undisturbed", "step")] == [1, 2, 3, 4]


def test_a_batch_that_processes_cannot_share_evenly_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="multiple of 8 for each of 4 processes, got 16"):
        training.start(training.settings(world), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dividing_the_model_itself_is_refused() -> None:
    with pytest.raises(InputError, match="whole captioner in every process, and FSDP"):
        refuse_sharding("FSDP")
