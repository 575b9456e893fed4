"""What training loops share: initial weights, order, rate."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from launch.training import EpochOrder, average_decay, initial_weights, is_due, learning_rate


def order_of(num_rows: int, *, seed: int = 0, stream: str = "order") -> EpochOrder:
    return EpochOrder(seed, stream, np.arange(num_rows, dtype=np.uint64) << np.uint64(32))


@given(num_rows=st.integers(1, 60), batch_size=st.integers(1, 32))
def test_every_row_comes_once_an_epoch(num_rows: int, batch_size: int) -> None:
    order = order_of(num_rows)
    batches = [order.batch(step, batch_size=batch_size) for step in range(1, 4 * num_rows)]
    rows = np.concatenate([batch.rows for batch in batches])
    epochs = np.concatenate([batch.epochs for batch in batches])
    for epoch in range(2):
        assert sorted(rows[epochs == epoch]) == list(range(num_rows))


def test_epochs_differ_in_their_order() -> None:
    whole = order_of(40).batch(1, batch_size=80).rows
    assert whole[:40].tolist() != whole[40:].tolist()


def test_a_batch_does_not_depend_on_those_asked_for_before() -> None:
    whole = order_of(40).batch(1, batch_size=160).rows
    assert order_of(40).batch(7, batch_size=16).rows.tolist() == whole[96:112].tolist()


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "captioner.order"}])
def test_seeds_and_streams_have_orders_of_their_own(other: dict[str, int]) -> None:
    mine = order_of(40).batch(1, batch_size=40).rows
    theirs = order_of(40, **other).batch(1, batch_size=40).rows  # type: ignore[arg-type]
    assert mine.tolist() != theirs.tolist()


def test_initial_weights_are_those_of_seed_and_stream_alone() -> None:
    def weights(seed: int, stream: str) -> list[float]:
        torch.rand(3)  # whatever was drawn before
        with initial_weights(seed, stream):
            drawn: list[float] = torch.nn.Linear(2, 2).weight.flatten().tolist()
        return drawn

    assert weights(0, "init") == weights(0, "init")
    assert weights(0, "init") != weights(1, "init")
    assert weights(0, "init") != weights(0, "captioner.init")


def test_initial_weights_leave_the_global_generator_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with initial_weights(0, "init"):
        torch.rand(100)
    assert torch.equal(torch.rand(4), expected)


@given(num_steps=st.integers(1, 1000), warmup=st.floats(0, 300))
def test_the_rate_rises_to_its_peak_and_falls(num_steps: int, warmup: float) -> None:
    rates = [
        learning_rate(step, num_steps=num_steps, peak=2.0, warmup_steps=warmup)
        for step in range(1, num_steps + 1)
    ]
    top = rates.index(max(rates))
    assert all(0 < rate <= 2 for rate in rates)
    assert all(a <= b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))


def test_the_rate_reaches_its_peak_and_almost_zero() -> None:
    rates = [
        learning_rate(step, num_steps=1000, peak=2.0, warmup_steps=50) for step in range(1, 1001)
    ]
    assert rates[0] == pytest.approx(2 * 0.5 / 50)
    assert max(rates) == pytest.approx(2, rel=1e-5)
    assert rates[-1] < 1e-5


def test_a_short_training_reaches_its_peak_too() -> None:
    rates = [
        learning_rate(step, num_steps=40, peak=1.0, warmup_steps=5000) for step in range(1, 41)
    ]
    assert max(rates) > 0.99


def test_the_average_forgets_the_initial_weights_soon() -> None:
    assert average_decay(1, decay=0.99) < 0.2
    assert average_decay(10_000, decay=0.99) == 0.99


def test_something_due_every_so_many_samples_comes_that_often() -> None:
    due = [step for step in range(1, 41) if is_due(step, 100, batch_size=16)]
    assert len(due) == 40 * 16 // 100
    assert is_due(1, 8, batch_size=16)
