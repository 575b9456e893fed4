"""Ratings from votes: identities, known strengths, and what cannot be rated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.bradley_terry import Ballots, fit, separated
from eval.intervals import wilson_interval
from eval.ratings import ELO, MIN_RATERS, rate
from eval.stats import Verdict
from eval.two_way import two_way_interval
from launch.errors import InputError

ARMS = ("a", "b", "c")


def ballots(*, prompts: int = 12, raters: int = 5, arms: int = 3, seed: int = 0) -> Ballots:
    """Votes without order: every rater on every pair of every prompt."""
    draw = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(arms), 2)))
    prompt, rater, pair = (
        x.ravel()
        for x in np.meshgrid(
            np.arange(prompts), np.arange(raters), np.arange(len(pairs)), indexing="ij"
        )
    )
    first, second = pairs[pair].T
    score = draw.choice([0.0, 0.5, 1.0], len(first), p=[0.25, 0.3, 0.45])
    return Ballots(first, second, score, prompt, rater)


def two_arms(score: list[float]) -> Ballots:
    num = len(score)
    zero = np.zeros(num, np.int64)
    return Ballots(zero, zero + 1, np.array(score), np.arange(num), zero)


# ------------------------------------------------------------------ identities


def test_two_arms_have_the_closed_form() -> None:
    made = two_arms([1.0] * 11 + [0.5] * 4 + [0.0] * 5)
    found = rate(made, ARMS[:2])
    share = 13 / 20
    (pair,) = found.pairs
    assert pair.share == pytest.approx(share)
    assert pair.difference.given_raters.estimate == pytest.approx(
        400 * np.log10(share / (1 - share)), abs=1e-8
    )
    # Delta method on the share: its standard error over s (1 - s), with n / (n - 1).
    error = np.std(made.score, ddof=1) / np.sqrt(20) / (share * (1 - share)) * ELO
    assert pair.difference.given_raters.standard_error == pytest.approx(error, rel=1e-9)
    assert pair.num_ties == 4


def test_a_hundred_points_are_the_expected_score_of_elo() -> None:
    expected = 1 / (1 + 10 ** (-100 / 400))
    assert 1 / (1 + np.exp(-100 / ELO)) == pytest.approx(expected)


def test_the_slope_of_the_likelihood_is_zero_at_the_fit() -> None:
    made = ballots()
    strength = fit(made, 3)
    expected = 1 / (1 + np.exp(strength[made.second] - strength[made.first]))
    slope = np.zeros(3)
    np.add.at(slope, made.first, made.score - expected)
    np.add.at(slope, made.second, expected - made.score)
    assert np.abs(slope).max() < 1e-9
    assert strength.mean() == pytest.approx(0, abs=1e-12)


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_order_sides_and_copies_of_all_votes_change_no_rating(seed: int) -> None:
    made = ballots(prompts=5, raters=MIN_RATERS, seed=seed)
    before = rate(made, ARMS)
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(made.score))
    flip = draw.random(len(order)) < 0.5
    mixed = Ballots(*(column[order] for column in made))
    mixed = mixed._replace(
        first=np.where(flip, mixed.second, mixed.first),
        second=np.where(flip, mixed.first, mixed.second),
        score=np.where(flip, 1 - mixed.score, mixed.score),
        prompt=np.array([f"prompt {p}" for p in mixed.prompt]),
    )
    after = rate(mixed, ARMS)
    for one, other in zip(before.ratings, after.ratings, strict=True):
        assert one.given_raters.estimate == pytest.approx(other.given_raters.estimate, abs=1e-6)
        assert one.deciding.half_width == pytest.approx(other.deciding.half_width, rel=1e-6)
    twice = Ballots(*(np.concatenate([column, column]) for column in made))
    for one, other in zip(before.pairs, rate(twice, ARMS).pairs, strict=True):
        assert one.difference.given_raters.low == pytest.approx(
            other.difference.given_raters.low, abs=1e-5
        )


def test_the_anchor_moves_all_ratings_by_a_constant() -> None:
    made = ballots()
    free, anchored = rate(made, ARMS), rate(made, ARMS, anchor="b")
    gaps = [
        one.deciding.estimate - other.deciding.estimate
        for one, other in zip(free.ratings, anchored.ratings, strict=True)
    ]
    assert np.ptp(gaps) < 1e-8
    assert anchored.ratings[1].deciding.estimate == 0
    assert anchored.ratings[1].p_value == 1
    assert sum(r.deciding.estimate for r in free.ratings) == pytest.approx(0, abs=1e-8)
    assert free.pairs[0].difference == anchored.pairs[0].difference


def test_names_swapped_swap_the_ratings() -> None:
    made = ballots()
    turned = made._replace(first=2 - made.first, second=2 - made.second)
    one, other = rate(made, ARMS), rate(turned, ARMS)
    for i in range(3):
        assert one.ratings[i].deciding.estimate == pytest.approx(
            other.ratings[2 - i].deciding.estimate, abs=1e-8
        )


def test_one_vote_a_cell_gives_the_two_way_interval_of_the_differences() -> None:
    """Near one half the Elo difference is linear in the scores, so both must agree."""
    draw = np.random.default_rng(3)
    shape = (6, 40)  # raters, prompts
    noise = draw.normal(size=shape) + draw.normal(size=(6, 1)) + draw.normal(size=(1, 40))
    matrix = 0.5 + 1e-3 * (noise - noise.mean())  # centred, so that the slope is that of one half
    rater, prompt = (x.ravel() for x in np.meshgrid(np.arange(6), np.arange(40), indexing="ij"))
    zero = np.zeros(240, np.int64)
    made = Ballots(zero, zero + 1, matrix.ravel(), prompt, rater)
    found = rate(made, ARMS[:2]).pairs[0].difference
    expected = two_way_interval(matrix - 0.5)
    assert found.with_raters is not None
    assert found.with_raters.half_width == pytest.approx(4 * ELO * expected.half_width, rel=1e-9)
    assert found.with_raters.standard_error == pytest.approx(
        4 * ELO * expected.standard_error, rel=1e-9
    )


def test_p_is_the_level_at_which_the_interval_touches_zero() -> None:
    found = rate(ballots(raters=1), ARMS).pairs[1].difference
    from scipy import stats

    interval = found.given_raters
    expected = 2 * stats.t.sf(abs(interval.estimate) / interval.standard_error, interval.df)
    assert found.p_value == pytest.approx(expected, rel=1e-5)
    for pair in rate(ballots(seed=5), ARMS).pairs:
        low, high = pair.difference.deciding.low, pair.difference.deciding.high
        assert (pair.difference.p_value < 0.05) == (low > 0 or high < 0)


# ------------------------------------------------------------------ raters


def test_few_raters_are_taken_as_they_are() -> None:
    few = rate(ballots(raters=MIN_RATERS - 1), ARMS)
    assert all(pair.difference.with_raters is None for pair in few.pairs)
    many = rate(ballots(raters=MIN_RATERS), ARMS)
    assert all(pair.difference.with_raters is not None for pair in many.pairs)


def test_raters_and_prompts_without_influence_add_no_degrees_of_freedom() -> None:
    made = ballots(prompts=10, raters=3, arms=2)
    alone = rate(made, ARMS[:2]).pairs[0].difference
    # Four raters more on twenty prompts more, who only ever saw the other two arms of four.
    others = ballots(prompts=20, raters=4, arms=2, seed=1)
    apart = others._replace(
        first=others.first + 1, second=others.second + 1,
        prompt=others.prompt + 10, rater=others.rater + 3,
    )  # fmt: skip
    both = Ballots(*(np.concatenate(columns) for columns in zip(made, apart, strict=True)))
    found = rate(both, ARMS).pairs[0].difference
    assert found.with_raters is None
    assert found.given_raters.df == alone.given_raters.df == 9
    assert found.given_raters.half_width == pytest.approx(alone.given_raters.half_width)
    assert found.p_value == pytest.approx(alone.p_value)


def test_raters_who_disagree_widen_the_interval_that_includes_them() -> None:
    made = ballots(prompts=30, raters=6, arms=2)
    split = made._replace(score=np.where(made.rater < 4, 0.9, 0.1) + 0.05 * (made.prompt % 2))
    found = rate(split, ARMS[:2]).pairs[0].difference
    assert found.with_raters is not None
    assert found.with_raters.half_width > 10 * found.given_raters.half_width
    assert found.verdict_at(found.p_value) is Verdict.NOT_DISTINGUISHABLE


def simulate(
    *, prompts: int, raters: int, spread: tuple[float, float], trials: int
) -> dict[str, float]:
    """Return how often each interval of a difference holds the truth.

    Votes are drawn from strengths that vary by prompt and by rater, with ties. The truth is what a
    fit to the expected scores gives, the tastes of all prompts and raters averaged.
    """
    draw = np.random.default_rng(0)
    base = np.array([-0.5, 0.0, 0.5])
    made = ballots(prompts=prompts, raters=raters)
    pairs = np.array(list(itertools.combinations(range(3), 2)))
    sample = np.hypot(*spread) * np.sqrt(2) * draw.standard_normal(100_000)
    mean = [(1 / (1 + np.exp(-(base[i] - base[j] + sample)))).mean() for i, j in pairs]
    number = np.arange(3)
    strength = fit(Ballots(*pairs.T, np.array(mean), number, number), 3)
    truth = (strength[0] - strength[2]) * ELO
    held = {"given": 0, "including": 0}
    for _ in range(trials):
        taste = base + (spread[0] * draw.standard_normal((prompts, 3)))[made.prompt]
        taste = taste + (spread[1] * draw.standard_normal((raters, 3)))[made.rater]
        row = np.arange(len(made.score))
        p = 1 / (1 + np.exp(taste[row, made.second] - taste[row, made.first]))
        tie, u = 0.6 * p * (1 - p), draw.random(len(p))
        score = np.where(u < p - tie / 2, 1.0, np.where(u < p + tie / 2, 0.5, 0.0))
        found = rate(made._replace(score=score), ARMS).pairs[1].difference
        held["given"] += found.given_raters.low <= truth <= found.given_raters.high
        if found.with_raters is not None:
            held["including"] += found.with_raters.low <= truth <= found.with_raters.high
    return {name: count / trials for name, count in held.items()}


def test_intervals_that_include_raters_hold_the_truth_and_others_do_not() -> None:
    """95% of 40 studies, give or take three standard errors of 3.4 points."""
    found = simulate(prompts=12, raters=5, spread=(0.7, 0.7), trials=40)
    assert found["including"] >= 0.847
    assert found["given"] < 0.95


@pytest.mark.slow
@pytest.mark.parametrize("raters", [4, 8])
@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.7, 0.0), (0.0, 0.7), (0.7, 0.7)])
def test_the_coverage_is_near_its_level(raters: int, spread: tuple[float, float]) -> None:
    found = simulate(prompts=24, raters=raters, spread=spread, trials=300)
    print(raters, spread, found)
    assert 0.92 <= found["including"] <= 0.995
    if spread[1] == 0:
        assert 0.92 <= found["given"] <= 0.98


# ------------------------------------------------------------------ what has no rating


def test_an_arm_that_always_wins_has_no_finite_rating_and_that_is_said() -> None:
    found = rate(two_arms([1.0] * 10), ARMS[:2])
    (pair,) = found.pairs
    interval = pair.difference.deciding
    share = wilson_interval(10, 10)[0]
    assert interval.estimate == interval.high == np.inf
    assert interval.low == pytest.approx(400 * np.log10(share / (1 - share)))
    assert pair.difference.p_value == 2**-9
    assert pair.difference.verdict_at(2**-9) is Verdict.BETTER
    assert "separated" in interval.method
    assert [r.deciding.estimate for r in found.ratings] == [np.inf, -np.inf]
    assert rate(two_arms([0.0] * 10), ARMS[:2]).pairs[0].difference.deciding.high == -interval.low


def test_two_prompts_of_one_mind_prove_nothing() -> None:
    pair = rate(two_arms([1.0, 1.0]), ARMS[:2]).pairs[0]
    assert pair.difference.verdict_at(pair.difference.p_value) is Verdict.NOT_DISTINGUISHABLE


def test_arms_below_one_that_always_wins_are_rated_as_without_it() -> None:
    made = ballots()
    won = (made.first == 0) | (made.second == 0)
    score = np.where(made.first == 0, 1.0, np.where(made.second == 0, 0.0, made.score))
    found = rate(made._replace(score=score), ARMS)
    alone = Ballots(*(column[~won] for column in made))
    alone = alone._replace(first=alone.first - 1, second=alone.second - 1)
    one, other = found.pairs[2].difference, rate(alone, ARMS[1:]).pairs[0].difference
    assert one.deciding.estimate == pytest.approx(other.deciding.estimate, abs=1e-8)
    assert one.deciding.half_width == pytest.approx(other.deciding.half_width, rel=1e-8)
    assert [np.isinf(p.difference.deciding.estimate) for p in found.pairs] == [True, True, False]
    groups = separated(made._replace(score=score), 3)
    assert [g.tolist() for g in groups] == [[1, 2], [0]]


def test_ties_alone_are_no_difference() -> None:
    pair = rate(two_arms([0.5] * 10), ARMS[:2]).pairs[0]
    assert pair.difference.deciding.estimate == 0
    assert pair.difference.p_value == 1


def test_prompts_that_all_say_the_same_have_no_interval() -> None:
    prompt = np.repeat(np.arange(8), 2)
    zero = np.zeros(16, np.int64)
    made = Ballots(zero, zero + 1, np.tile([1.0, 0.5], 8), prompt, np.tile([0, 1], 8))
    found = rate(made, ARMS[:2]).pairs[0].difference
    assert found.deciding.estimate == pytest.approx(400 * np.log10(3))
    assert (found.deciding.low, found.deciding.high) == (-np.inf, np.inf)
    assert found.p_value == 2**-7


def test_one_prompt_says_nothing_of_others() -> None:
    made = two_arms([1.0, 0.0, 1.0])._replace(prompt=np.zeros(3))
    pair = rate(made, ARMS[:2]).pairs[0]
    assert pair.difference.deciding.low == -np.inf
    assert pair.difference.p_value == 1


def test_arms_that_no_votes_link_are_refused() -> None:
    with pytest.raises(InputError, match="links arm a with arm c"):
        rate(two_arms([1.0, 0.0]), ARMS)
    with pytest.raises(InputError, match="anchor: 'z' is no arm"):
        rate(two_arms([1.0, 0.0]), ARMS[:2], anchor="z")
