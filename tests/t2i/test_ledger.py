from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from launch.errors import ArtifactError
from t2i.data import Draw
from t2i.ledger import LEDGER_SCHEMA, Ledger, Row, hash_tensors, row_of


def draw(step: int = 1, **changed: np.ndarray) -> Draw:
    plain = Draw(
        step=step,
        rows=np.arange(4),
        ids=np.arange(4, dtype=np.uint64) + step,
        epochs=np.zeros(4, np.int64),
        uniform=np.linspace(0, 0.9, 4),
        kinds=np.array([0, 1, 0, 0]),
        is_dropped=np.array([False, True, False, False]),
        text_digests=np.array([b"a" * 16] * 4, dtype="V16"),
    )
    return plain._replace(**changed)


def row(step: int = 1, seed: int = 0, **changed: np.ndarray) -> Row:
    return row_of(draw(step, **changed), kinds=("dsc", "alt"), seed=seed, tensor_hash=None)


def test_a_row_counts_what_was_drawn() -> None:
    found = row(step=3)
    assert (found.step, found.samples_seen, found.epoch, found.num_dropped) == (3, 12, 0, 1)
    assert found.kinds == '{"dsc": 3, "alt": 1}'


def test_other_captions_change_the_caption_hash_alone() -> None:
    other = row(text_digests=np.array([b"b" * 16] * 4, dtype="V16"), kinds=np.array([1, 1, 1, 1]))
    assert other.shared_hash == row().shared_hash
    assert other.caption_hash != row().caption_hash


@pytest.mark.parametrize(
    "changed",
    [
        {"ids": np.arange(4, dtype=np.uint64)},
        {"epochs": np.array([0, 0, 0, 1])},
        {"uniform": np.zeros(4)},
        {"is_dropped": np.zeros(4, bool)},
    ],
)
def test_whatever_arms_share_changes_the_shared_hash(changed: dict[str, np.ndarray]) -> None:
    other = row(**changed)
    assert other.shared_hash != row().shared_hash
    assert other.caption_hash == row().caption_hash


def test_another_seed_changes_the_shared_hash() -> None:
    assert row(seed=1).shared_hash != row(seed=0).shared_hash


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, resume_step=0) as ledger:
        for step in (1, 2, 3):
            ledger.add(row(step))
    with path.open("a") as file:
        file.write("[4, 16, 0, ")  # the kill came while writing
    with Ledger(path, resume_step=2) as resumed:
        resumed.add(row(3))
    resumed.write_table(tmp_path / "ledger.parquet")
    with Ledger(tmp_path / "whole.jsonl", resume_step=0) as whole:
        for step in (1, 2, 3):
            whole.add(row(step))
    whole.write_table(tmp_path / "whole.parquet")
    assert (tmp_path / "ledger.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    table = pq.read_table(tmp_path / "ledger.parquet")
    assert table.schema.equals(LEDGER_SCHEMA, check_metadata=True)
    assert table["step"].to_pylist() == [1, 2, 3]


def test_a_ledger_that_lacks_steps_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl", resume_step=0) as ledger:
        ledger.add(row(1))
    with pytest.raises(ArtifactError, match="holds 1 whole rows, but the checkpoint is of step 2"):
        Ledger(tmp_path / "ledger.jsonl", resume_step=2)


def test_the_tensor_hash_is_of_the_bytes() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert hash_tensors(x) == hash_tensors(x.copy())
    assert hash_tensors(x) != hash_tensors(np.nextafter(x, np.float32(9)))


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl", resume_step=0, is_main=False) as ledger:
        ledger.add(row(1))
        ledger.sync()
    assert not list(tmp_path.iterdir())
