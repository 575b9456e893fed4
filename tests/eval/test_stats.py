"""The whole answer: symmetry, what is pooled, what a correction takes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.pairing import Paired
from eval.stats import Verdict, compare, holm


def paired(matrix: np.ndarray) -> Paired:
    """Take [S, P] values for differences."""
    seeds, pairs = matrix.shape
    return Paired(
        matrix=matrix,
        model_seeds=np.arange(seeds),
        pairs=np.arange(pairs),
        num_pictures=matrix.size,
    )


def test_swapping_the_arms_changes_the_sign_alone() -> None:
    matrix = np.random.default_rng(3).normal(size=(4, 40))
    there, back = (compare(paired(m), resamples=200) for m in (matrix, -matrix))
    assert there.deciding.low == pytest.approx(-back.deciding.high)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.p_sign_flip == pytest.approx(back.p_sign_flip, abs=0.02)


def test_fewer_than_four_training_seeds_are_listed_and_not_pooled() -> None:
    generator = np.random.default_rng(1)
    comparison = compare(paired(generator.normal(size=(3, 40))))
    assert comparison.with_seeds is None
    assert [s for s, _ in comparison.by_seed] == [0, 1, 2]
    mean = np.mean([d for _, d in comparison.by_seed])
    assert comparison.difference == pytest.approx(mean)


def test_one_prompt_alone_decides_nothing() -> None:
    comparison = compare(paired(np.ones((1, 1))))
    assert comparison.verdict is Verdict.NOT_DISTINGUISHABLE
    assert comparison.p_value == 1


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "better"), (4, "not distinguishable")])
def test_what_is_alike_everywhere_is_judged_by_swapping_signs_alone(
    seeds: int, verdict: str
) -> None:
    comparison = compare(paired(np.full((seeds, 20), 5.0)), resamples=200)
    assert comparison.verdict.value == verdict
    assert comparison.verdict is comparison.verdict_at(comparison.p_value)
    assert comparison.bootstrap is not None
    for interval in (comparison.deciding, comparison.bootstrap):
        assert (interval.low, interval.high) == (-np.inf, np.inf)


def test_a_corrected_p_can_take_a_verdict_back() -> None:
    comparison = compare(paired(np.random.default_rng(1).normal(0.35, 1, size=(1, 60))))
    assert comparison.verdict is Verdict.BETTER
    assert comparison.verdict_at(comparison.p_value) is Verdict.BETTER
    assert comparison.verdict_at(0.2) is Verdict.NOT_DISTINGUISHABLE


@pytest.mark.parametrize(("seeds", "resolution"), [(2, 0.5), (4, 0.125), (6, 0.03125)])
def test_swapping_arms_seed_by_seed_says_no_more_than_its_patterns_allow(
    seeds: int, resolution: float
) -> None:
    matrix = 5 + np.random.default_rng(2).normal(size=(seeds, 40))
    comparison = compare(paired(matrix))
    assert comparison.p_seed_flip == comparison.seed_flip_resolution == resolution
    mixed = compare(paired(matrix * np.where(np.arange(seeds) % 2, 1.0, -1.0)[:, None]))
    assert mixed.p_seed_flip > resolution


def test_one_training_seed_cannot_be_swapped_with_anything() -> None:
    assert compare(paired(np.ones((1, 40)))).p_seed_flip is None


def test_holm_matches_a_case_done_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50)
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()
