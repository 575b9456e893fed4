"""Checkpoints: exact to the bit, whole or absent, and the one before when the newest is broken."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from launch import checkpoint as module
from launch.checkpoint import Average, Checkpoint, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, StoppedError

# A whole training: draws from launch.keyed, the rate a function of samples seen, a checkpoint every
# three steps. Given `dies_writing`, it is killed in the middle of writing that checkpoint.
TRAINING = """
import os, signal
import torch
from safetensors.torch import save_file
from torch import nn
from launch import checkpoint as module
from launch.checkpoint import Average, Checkpoints, restore, training_tensors
from launch.keyed import normal, words

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
average = Average(model, 0.9)
ids = words([f"{i:016x}" + "0" * 16 for i in range(16)])

saves = 0
write_text = module._write_text
def dies(path, text):
    global saves
    saves += 1
    if saves == dies_writing:
        path.write_text(text[: len(text) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(path, text)
module._write_text = dies

checkpoints = Checkpoints(out / "checkpoints")
found = checkpoints.latest()
step, loss_sum = 0, 0.0
if found is not None:
    restore(found, model=model, optimizer=optimizer, averages=[average])
    step, loss_sum = found.step, found.state["loss_sum"]
said.send(step)
while step < num_steps:
    x = torch.from_numpy(normal(0, "x", epoch=step, ids=ids, shape=(8,)))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 / (1 + step)
    loss = (model(x) - x.flip(1)).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    average.update(model)
    step, loss_sum = step + 1, loss_sum + loss.item()
    said.send(step)
    if step % 3 == 0:
        tensors = training_tensors(model=model, optimizer=optimizer, averages=[average])
        checkpoints.save(step, tensors, {"loss_sum": loss_sum, "samples_seen": 16 * step})
tensors = training_tensors(model=model, optimizer=optimizer, averages=[average])
end = {**tensors, "loss_sum": torch.tensor(loss_sum, dtype=torch.float64)}
save_file(end, out / "end.safetensors")
"""

NUM_STEPS = 60


class Trained:
    """A tiny model in the middle of its training."""

    def __init__(self, *, seed: int = 0, steps: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.model[2].parameters(), "weight_decay": 0.1},
                {"params": [*self.model[0].parameters(), *self.model[1].parameters()]},
            ],
            lr=0.01,
        )
        self.average = Average(self.model, 0.9)
        for _ in range(steps):
            self.step()

    def step(self, scale: float = 1.0) -> None:
        x = torch.linspace(-1, 1, 32).reshape(8, 4) * scale
        loss = (self.model(x) - x.flip(1)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.model)

    def tensors(self) -> dict[str, Tensor]:
        return training_tensors(model=self.model, optimizer=self.optimizer, averages=[self.average])

    def restore(self, found: Checkpoint) -> None:
        restore(found, model=self.model, optimizer=self.optimizer, averages=[self.average])


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


class Script:
    """A process of its own, quickly there: it is forked from a server that has imported torch."""

    def __init__(self, script: str, **names: object) -> None:
        # Of the lines that the script says, the pipe holds all of a short run.
        self.heard, said = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["launch.checkpoint", "torch._dynamo", "torch.distributed.fsdp"]
        )
        names |= {"__name__": "script", "said": said}
        self.process = context.Process(target=exec, args=(script, names))
        self.process.start()
        said.close()

    def end(self) -> int | None:
        """Wait for it, and return its exit code."""
        self.process.join(timeout=120)
        return self.process.exitcode


def train(out: Path, *, dies_writing: int = 0) -> Script:
    out.mkdir(exist_ok=True)
    return Script(TRAINING, out=out, num_steps=NUM_STEPS, dies_writing=dies_writing)


def test_a_training_killed_twice_ends_as_one_never_killed(tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "whole")

    # Killed from outside at whatever it was doing in or after a step chosen at random.
    last = random.Random().randint(7, NUM_STEPS // 2)
    training = train(tmp_path / "killed")
    while training.heard.recv() != last:
        pass
    training.process.kill()
    assert training.end() == -signal.SIGKILL

    # Killed again, in the middle of writing the second checkpoint after the first kill.
    training = train(tmp_path / "killed", dies_writing=2)
    begun_at = training.heard.recv()
    assert begun_at >= last - 3
    assert training.end() == -signal.SIGKILL
    assert list((tmp_path / "killed" / "checkpoints").glob(".tmp-*"))

    training = train(tmp_path / "killed")
    assert training.heard.recv() == begun_at + 3
    assert (training.end(), undisturbed.end()) == (0, 0)
    assert_equal(
        load_file(tmp_path / "killed" / "end.safetensors"),
        load_file(tmp_path / "whole" / "end.safetensors"),
    )


def test_saving_and_restoring_is_exact_to_the_bit(tmp_path: Path) -> None:
    old, new = Trained(), Trained(seed=1, steps=0)
    checkpoints = Checkpoints(tmp_path)
    state = {"loss_sum": 0.1 + 0.2, "samples_seen": 24, "note": None}
    checkpoints.save(3, old.tensors(), state)
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.state) == (3, state)
    new.restore(found)
    assert_equal(new.tensors(), old.tensors())
    old.step()
    new.step()
    assert_equal(new.tensors(), old.tensors())


def test_all_of_adamws_state_is_saved_under_the_parameters_names() -> None:
    names = set(Trained().tensors())
    assert {f"optimizer/0.weight/{k}" for k in ("step", "exp_avg", "exp_avg_sq")} <= names
    assert {"model/1.running_mean", "model/1.num_batches_tracked", "average-0/2.bias"} <= names


def test_the_order_of_parameter_groups_does_not_matter() -> None:
    old, new = Trained(), Trained(steps=0)
    new.optimizer = torch.optim.AdamW(new.model.parameters(), lr=0.01)
    new.restore(Checkpoint(step=3, tensors=old.tensors(), state={}))
    assert_equal(new.tensors(), old.tensors())


def test_saved_tensors_are_copies() -> None:
    trained = Trained()
    before = trained.tensors()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    trained.step(2.0)
    assert_equal(before, kept)


def test_low_precision_weights_and_states_stay_what_they_are(tmp_path: Path) -> None:
    model = nn.Linear(4, 4).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    tensors = training_tensors(model=model, optimizer=optimizer)
    Checkpoints(tmp_path).save(1, tensors, {})
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    restore(found, model=model, optimizer=optimizer)
    assert_equal(training_tensors(model=model, optimizer=optimizer), tensors)
    assert optimizer.state[model.weight]["exp_avg"].dtype == torch.bfloat16
    assert optimizer.state[model.weight]["step"].dtype == torch.float32


def test_the_memory_order_of_states_is_restored(tmp_path: Path) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    old, new = build(), build()
    step(*old)
    Checkpoints(tmp_path).save(1, training_tensors(model=old[0], optimizer=old[1]), {})
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    restore(found, model=new[0], optimizer=new[1])
    for key, value in old[1].state[old[0].weight].items():
        assert new[1].state[new[0].weight][key].stride() == value.stride(), key
    step(*old)
    step(*new)
    assert torch.equal(new[0].weight, old[0].weight)


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    Checkpoints(tmp_path).save(1, dict(model.state_dict()), {})  # sharing memory, even
    Checkpoints(tmp_path).save(2, training_tensors(model=model), {})
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    restore(found, model=model)
    assert model["head"].weight is model["embed"].weight


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"x": torch.tensor(step)}, {})
    assert checkpoints.steps() == [3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000003", "step-000000004"]


def test_a_checkpoint_is_late_two_minutes_after_the_start_or_the_last_one(tmp_path: Path) -> None:
    now = [0.0]
    checkpoints = Checkpoints(tmp_path, clock=lambda: now[0])
    seen = []
    for now[0] in (119.0, 120.0):
        seen.append(checkpoints.is_late())
    checkpoints.save(1, {"x": torch.tensor(1)}, {})
    for now[0] in (239.0, 240.0):
        seen.append(checkpoints.is_late())
    assert seen == [False, True, False, True]


def test_there_is_no_latest_before_the_first(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "checkpoints").latest() is None
    assert list(tmp_path.iterdir()) == []


def flip_a_byte(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def empty(folder: Path) -> None:
    (folder / "state.json").write_text("")


def change_the_state(folder: Path) -> None:
    path = folder / "state.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "state": {"samples_seen": 10**6}}))


def lose_the_tensors(folder: Path) -> None:
    (folder / "tensors.safetensors").unlink()


def lose_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "break_it", [flip_a_byte, cut, empty, change_the_state, lose_the_tensors, lose_all]
)
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, break_it: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.tensor(float(step))}, {"samples_seen": step})
    break_it(tmp_path / "step-000000002")
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.state) == (1, {"samples_seen": 1})
    assert checkpoints.steps() == [1]
    checkpoints.save(2, {"x": torch.tensor(2.0)}, {})
    assert checkpoints.steps() == [1, 2]


def test_half_written_checkpoints_are_removed_when_looking_for_the_latest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.zeros(1)}, {})
    (tmp_path / ".tmp-123-step-000000002").mkdir()
    (tmp_path / ".tmp-123-step-000000002" / "tensors.safetensors").write_bytes(b"half")
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]


@pytest.mark.parametrize("writer", ["_write_tensors", "_write_text", "_sync"])
def test_a_full_disk_leaves_the_last_good_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.tensor(float(step))}, {})

    def full(path: Path, *_: object) -> None:
        if path.is_dir():
            raise OSError(28, "No space left on device")
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, writer, full)
        with pytest.raises(StoppedError, match=r"No space left.*step 2 is intact"):
            checkpoints.save(3, {"x": torch.zeros(1)}, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]
    found = checkpoints.latest()
    assert found is not None
    assert (found.step, found.tensors["x"].item()) == (2, 2.0)


def test_safetensors_own_kind_of_write_error_is_understood(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        module._write_tensors(tmp_path / "absent" / "tensors.safetensors", {"x": torch.zeros(1)})


def test_a_disk_that_cannot_be_read_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": torch.zeros(1)}, {})

    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module, "digest_file", fail)
        with pytest.raises(OSError, match="Input/output"):
            checkpoints.latest()
    assert checkpoints.steps() == [1]


def test_other_ranks_read_but_remove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"x": torch.zeros(1)}, {})
    cut(tmp_path / "step-000000002")
    monkeypatch.setenv("RANK", "1")
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_of_another_model_is_refused_by_name() -> None:
    found = Checkpoint(step=1, tensors=Trained().tensors(), state={})
    with pytest.raises(ArtifactError, match="do not fit"):
        restore(found, model=nn.Linear(4, 4))
    other = Trained(steps=0)
    other.model[0] = nn.Linear(4, 6, dtype=torch.float64)
    with pytest.raises(ArtifactError, match=r"0\.weight is torch.float32.*float64"):
        restore(found, model=other.model)
    frozen = Trained(steps=0)
    frozen.optimizer = torch.optim.AdamW(frozen.model[0].parameters())
    with pytest.raises(ArtifactError, match="does not train"):
        frozen.restore(found)


def test_an_optimizer_whose_state_is_not_all_tensors_is_refused() -> None:
    trained = Trained()
    trained.optimizer.state[trained.model[0].weight]["step"] = 3
    with pytest.raises(TypeError, match="step=3"):
        trained.tensors()


def test_the_average_follows_its_formula_in_float32() -> None:
    model = nn.Linear(3, 2).to(torch.bfloat16)
    average = Average(model, 0.75)
    expected = model.weight.detach().float().clone()
    for _ in range(4):
        with torch.no_grad():
            model.weight.mul_(1.5)
        average.update(model)
        expected = 0.75 * expected + 0.25 * model.weight.detach().float()
    assert average.state_dict()["weight"].dtype == torch.float32
    torch.testing.assert_close(average.state_dict()["weight"], expected)


def test_the_average_of_a_model_that_stands_still_is_the_model() -> None:
    trained = Trained(steps=0)
    for _ in range(5):
        trained.average.update(trained.model)
    assert_equal(trained.average.state_dict(), dict(trained.model.state_dict()))


def test_the_average_moves_into_a_model_in_its_own_precision() -> None:
    trained = Trained()
    target = Trained(seed=5, steps=0).model.to(torch.float64)
    trained.average.copy_to(target)
    for name, tensor in target.state_dict().items():
        expected = trained.average.state_dict()[name]
        assert torch.equal(tensor, expected.to(tensor.dtype))


def test_an_average_of_a_wrapped_model_uses_the_plain_names() -> None:
    class Compiled(nn.Module):  # what torch.compile returns has this attribute
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

    model = nn.Linear(2, 2)
    assert Average(Compiled(model), 0.5).state_dict().keys() == {"weight", "bias"}
    assert training_tensors(model=Compiled(model)).keys() == {"model/weight", "model/bias"}


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Average(nn.Linear(1, 1), decay)


SHARDED = """
import os
os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from launch.checkpoint import Average, Checkpoints, restore, training_tensors

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
def build(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01), Average(model, 0.9)
def step(model, optimizer, average):
    x = torch.linspace(-1, 1, 32).reshape(8, 4) + rank
    optimizer.zero_grad()
    (model(x) - x.flip(1)).square().mean().backward()
    optimizer.step()
    average.update(model)
def tensors(parts):
    return training_tensors(model=parts[0], optimizer=parts[1], averages=[parts[2]])
old = build(0)
for _ in range(3):
    step(*old)
before = tensors(old)
checkpoints = Checkpoints(out / "checkpoints")
if rank == 0:
    checkpoints.save(3, before, {})
dist.barrier()
new = build(1)
restore(checkpoints.latest(), model=new[0], optimizer=new[1], averages=[new[2]])
is_same = all(torch.equal(v, before[k]) for k, v in tensors(new).items())
step(*old), step(*new)
after = tensors(old)
goes_on = all(torch.equal(v, after[k]) for k, v in tensors(new).items())
said.send((is_same, goes_on, tuple(before["model/0.weight"].shape), len(before)))
dist.destroy_process_group()
"""


def test_sharded_weights_are_saved_whole_and_restored_exactly(tmp_path: Path) -> None:
    both = [Script(SHARDED, rank=rank, out=tmp_path) for rank in range(2)]
    assert [script.heard.recv() for script in both] == [(True, True, (6, 4), 20)] * 2
    assert [script.end() for script in both] == [0, 0]
