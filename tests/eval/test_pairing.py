"""Rows of two arms find their partners by key, or are refused."""

from __future__ import annotations

import numpy as np
import pytest

from eval.pairing import Rows, pair_rows
from launch.errors import InputError


def make_rows(
    values: np.ndarray, *, seeds: int = 1, pairs: int | None = None, noise: int = 1
) -> Rows:
    """Lay out [S, P, G] values as rows."""
    num_pairs = pairs or values.size // (seeds * noise)
    s, p, g = np.meshgrid(np.arange(seeds), np.arange(num_pairs), np.arange(noise), indexing="ij")
    return Rows(
        pair=np.array([f"pair{i:05d}" for i in p.ravel()]),
        prompt=np.array([f"prompt{i:05d}" for i in p.ravel()]),
        model_seed=s.ravel().astype(np.int64),
        seed=g.ravel().astype(np.int64),
        value=np.asarray(values, float).ravel(),
    )


def shuffled(rows: Rows, seed: int = 0) -> Rows:
    order = np.random.default_rng(seed).permutation(len(rows.value))
    return Rows(*(c[order] for c in rows))


def test_pairing_goes_by_key_and_not_by_order() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 2, 30, 3))
    one, other = make_rows(a, seeds=2, noise=3), make_rows(b, seeds=2, noise=3)
    straight = pair_rows(one, other)
    mixed = pair_rows(shuffled(one, 1), shuffled(other, 2))
    np.testing.assert_allclose(straight.matrix, (a - b).mean(axis=-1), atol=1e-14)
    np.testing.assert_allclose(mixed.matrix, straight.matrix, atol=1e-14)
    assert mixed.num_pictures == 180


def test_a_shift_that_prompts_share_leaves_the_differences_alone() -> None:
    a, b, shift = np.random.default_rng(4).normal(size=(3, 50))
    plain = pair_rows(make_rows(a), make_rows(b))
    moved = pair_rows(make_rows(a + 9 * shift), make_rows(b + 9 * shift))
    np.testing.assert_allclose(moved.matrix, plain.matrix, atol=1e-13)


def test_a_missing_picture_is_named() -> None:
    one, other = make_rows(np.zeros(12)), make_rows(np.zeros(12))
    shorter = Rows(*(np.delete(c, 4) for c in other))
    with pytest.raises(InputError, match=r"arm ssc lacks prompt prompt00004, noise seed 0"):
        pair_rows(one, shorter, names=("dsc", "ssc"))
    with pytest.raises(InputError, match=r"arm dsc lacks prompt prompt00004"):
        pair_rows(shorter, one, names=("dsc", "ssc"))


def test_a_prompt_without_a_training_seed_is_told_by_its_name() -> None:
    rows = make_rows(np.zeros(10), seeds=2)
    rows = rows._replace(pair=np.arange(10) % 5, prompt=np.arange(10) % 5)  # codes, as in a table
    rows = Rows(*(np.delete(column, 8) for column in rows))
    with pytest.raises(InputError, match=r"prompt 'a red fox' or .* training seed 1"):
        pair_rows(rows, rows, name_of=["", "", "", "'a red fox'", ""].__getitem__)


def test_two_rows_for_one_picture_are_refused() -> None:
    one = make_rows(np.zeros(5))
    double = Rows(*(np.concatenate([c, c[:1]]) for c in one))
    with pytest.raises(InputError, match="arm dsc: two rows for prompt prompt00000"):
        pair_rows(double, one, names=("dsc", "ssc"))


def test_only_training_seeds_that_both_arms_have_are_compared() -> None:
    one = make_rows(np.arange(30.0), seeds=3)
    paired = pair_rows(one, make_rows(np.zeros(20), seeds=2))
    assert paired.model_seeds.tolist() == [0, 1]
    assert paired.matrix.shape == (2, 10)


def test_arms_without_a_common_training_seed_are_refused() -> None:
    one = make_rows(np.zeros(5))
    with pytest.raises(InputError, match="no training seed in common"):
        pair_rows(one, one._replace(model_seed=one.model_seed + 1))
