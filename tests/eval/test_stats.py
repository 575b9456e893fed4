"""Statistics: identities, parity with scipy, coverage in simulation, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from eval import stats
from eval.stats import Rows, Verdict
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


# ------------------------------------------------------------------ pairing


def test_pairing_goes_by_key_and_not_by_order() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 2, 30, 3))
    one, other = make_rows(a, seeds=2, noise=3), make_rows(b, seeds=2, noise=3)
    straight = stats.pair_rows(one, other)
    mixed = stats.pair_rows(shuffled(one, 1), shuffled(other, 2))
    np.testing.assert_allclose(straight.matrix, (a - b).mean(axis=-1), atol=1e-14)
    np.testing.assert_allclose(mixed.matrix, straight.matrix, atol=1e-14)
    assert mixed.num_pictures == 180


def test_a_missing_picture_is_named() -> None:
    one, other = make_rows(np.zeros(12)), make_rows(np.zeros(12))
    shorter = Rows(*(np.delete(c, 4) for c in other))
    with pytest.raises(InputError, match=r"arm ssc lacks prompt prompt00004, noise seed 0"):
        stats.pair_rows(one, shorter, names=("dsc", "ssc"))
    with pytest.raises(InputError, match=r"arm dsc lacks prompt prompt00004"):
        stats.pair_rows(shorter, one, names=("dsc", "ssc"))


def test_two_rows_for_one_picture_are_refused() -> None:
    one = make_rows(np.zeros(5))
    double = Rows(*(np.concatenate([c, c[:1]]) for c in one))
    with pytest.raises(InputError, match="arm dsc: two rows for prompt prompt00000"):
        stats.pair_rows(double, one, names=("dsc", "ssc"))


def test_only_training_seeds_that_both_arms_have_are_compared() -> None:
    one = make_rows(np.arange(30.0), seeds=3)
    paired = stats.pair_rows(one, make_rows(np.zeros(20), seeds=2))
    assert paired.model_seeds.tolist() == [0, 1]
    assert paired.matrix.shape == (2, 10)


def test_arms_without_a_common_training_seed_are_refused() -> None:
    one = make_rows(np.zeros(5))
    with pytest.raises(InputError, match="no training seed in common"):
        stats.pair_rows(one, one._replace(model_seed=one.model_seed + 1))


def test_swapping_the_arms_changes_the_sign_alone() -> None:
    generator = np.random.default_rng(3)
    one, other = (make_rows(v, seeds=4) for v in generator.normal(size=(2, 4, 40)))
    there = stats.compare(stats.pair_rows(one, other), resamples=200)
    back = stats.compare(stats.pair_rows(other, one), resamples=200)
    assert there.deciding.low == pytest.approx(-back.deciding.high)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.p_sign_flip == pytest.approx(back.p_sign_flip, abs=0.02)


def test_a_shift_that_prompts_share_leaves_the_difference_alone() -> None:
    generator = np.random.default_rng(4)
    a, b, shift = generator.normal(size=(3, 50))
    plain = stats.compare(stats.pair_rows(make_rows(a), make_rows(b)))
    moved = stats.compare(stats.pair_rows(make_rows(a + 9 * shift), make_rows(b + 9 * shift)))
    assert moved.given_models.low == pytest.approx(plain.given_models.low)


# ------------------------------------------------------------------ intervals


def test_the_t_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=40)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = stats.t_interval(values)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert stats.t_p(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_agrees_with_scipy(method: str) -> None:
    values = np.random.default_rng(1).gamma(0.7, size=60)
    ours = stats.bootstrap_interval(values, resamples=20_000, seed=0, method=method)  # type: ignore[arg-type]
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method.replace("bca", "BCa"),
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.02 * values.std())


def test_the_same_seed_gives_the_same_bootstrap() -> None:
    values = np.random.default_rng(2).normal(size=30)
    first, second, other = (
        stats.bootstrap_interval(values, resamples=300, seed=s) for s in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_blocks_do_not_change_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).normal(size=16)
    whole = stats.bootstrap_interval(values, resamples=64, seed=1)
    monkeypatch.setattr(stats, "_BLOCK", 64)
    assert stats.bootstrap_interval(values, resamples=64, seed=1) == whole


def test_the_two_way_interval_contains_the_one_over_seed_means() -> None:
    generator = np.random.default_rng(7)
    for _ in range(20):
        matrix = generator.normal(size=(5, 1)) + generator.normal(size=(5, 30))
        two_way = stats.two_way_interval(matrix)
        seeds = stats.t_interval(matrix.mean(axis=1))
        assert two_way.low <= seeds.low + 1e-12
        assert two_way.high >= seeds.high - 1e-12


def test_without_seed_effects_the_two_way_interval_is_the_one_over_prompts() -> None:
    prompts = np.random.default_rng(8).normal(size=100)
    two_way = stats.two_way_interval(np.tile(prompts, (4, 1)))
    assert two_way.low == pytest.approx(stats.t_interval(prompts).low)


def test_the_two_way_p_is_where_the_interval_touches_zero() -> None:
    generator = np.random.default_rng(9)
    matrix = 0.2 + 0.1 * generator.normal(size=(4, 1)) + generator.normal(size=(4, 60))
    p = stats.two_way_p(matrix)
    assert stats.two_way_interval(matrix, level=1 - p).low == pytest.approx(0, abs=1e-9)


def test_fewer_than_four_training_seeds_are_listed_and_not_pooled() -> None:
    generator = np.random.default_rng(1)
    rows = [make_rows(v, seeds=3) for v in generator.normal(size=(2, 3, 40))]
    comparison = stats.compare(stats.pair_rows(*rows))
    assert comparison.with_seeds is None
    assert [s for s, _ in comparison.by_seed] == [0, 1, 2]
    mean = np.mean([d for _, d in comparison.by_seed])
    assert comparison.difference == pytest.approx(mean)


def test_one_prompt_alone_decides_nothing() -> None:
    comparison = stats.compare(stats.pair_rows(make_rows(np.ones(1)), make_rows(np.zeros(1))))
    assert comparison.verdict is Verdict.NOT_DISTINGUISHABLE
    assert comparison.p_value == 1


def test_the_ratio_interval_treats_the_picture_as_the_unit() -> None:
    generator = np.random.default_rng(0)
    right = generator.random(200) < 0.8  # a caption is right or wrong as a whole
    four = stats.ratio_interval(right * 4.0, np.full(200, 4.0))
    one = stats.ratio_interval(right * 1.0, np.ones(200))
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    assert one.standard_error == pytest.approx(right.std(ddof=1) / np.sqrt(200))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_a_ratio_and_its_interval_stay_between_zero_and_one(counts: list[tuple[int, int]]) -> None:
    top = np.array([min(a, b) for a, b in counts], float)
    bottom = np.array([b for _, b in counts], float)
    interval = stats.ratio_interval(top, bottom)
    if bottom.any():
        assert 0 <= interval.low <= interval.estimate + 1e-12
        assert interval.estimate - 1e-12 <= interval.high <= 1
    else:
        assert np.isnan(interval.estimate)


# ------------------------------------------------------------------ coverage


def coverage(*, trials: int, seeds: int, prompts: int, sd: tuple[float, float, float]) -> dict:
    generator = np.random.default_rng(11)
    held = {"with_seeds": 0, "given_models": 0, "pictures": 0}
    for _ in range(trials):
        between_seeds = sd[0] * generator.normal(size=(seeds, 1))
        between_prompts = sd[1] * generator.normal(size=(1, prompts))
        matrix = between_seeds + between_prompts + sd[2] * generator.normal(size=(seeds, prompts))
        prompt_mean = between_seeds.mean()  # the truth once the models are given
        two_way, clustered = stats.two_way_interval(matrix), stats.t_interval(matrix.mean(axis=0))
        naive = stats.t_interval(matrix.ravel())
        held["with_seeds"] += two_way.low <= 0 <= two_way.high
        held["given_models"] += clustered.low <= prompt_mean <= clustered.high
        held["pictures"] += naive.low <= prompt_mean <= naive.high
    return {name: count / trials for name, count in held.items()}


@pytest.mark.parametrize("sd", [(0.1, 1.0, 1.0), (0.5, 1.0, 0.5)])
def test_intervals_cover_the_truth_as_often_as_they_say(sd: tuple[float, float, float]) -> None:
    held = coverage(trials=600, seeds=4, prompts=80, sd=sd)
    assert 0.93 <= held["with_seeds"] <= 0.985
    assert 0.93 <= held["given_models"] <= 0.97


def test_taking_pictures_for_independent_is_too_sure_of_itself() -> None:
    assert coverage(trials=300, seeds=4, prompts=80, sd=(0.0, 1.0, 0.5))["pictures"] < 0.8


def test_corrected_null_comparisons_rarely_raise_a_false_alarm() -> None:
    generator = np.random.default_rng(5)
    alarms = [
        (stats.holm([stats.t_p(v) for v in generator.normal(size=(10, 50))]) < 0.05).any()
        for _ in range(300)
    ]
    assert np.mean(alarms) <= 0.08


# ------------------------------------------------------------------ tests and power


def test_holm_matches_a_case_done_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=50)
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_few_clusters_are_permuted_exactly() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert stats.sign_flip_p(values, resamples=1000, seed=0) == 2 / 32
    theirs = scipy_stats.permutation_test(
        (values, np.zeros(5)), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True,
    )  # fmt: skip
    assert theirs.pvalue == 2 / 32


def test_random_sign_flips_agree_with_the_t_test() -> None:
    values = np.random.default_rng(0).normal(0.15, 1, size=150)
    flipped = stats.sign_flip_p(values, resamples=8000, seed=0)
    assert flipped == pytest.approx(stats.t_p(values), abs=0.015)
    assert stats.sign_flip_p(np.ones(100), resamples=100, seed=0) == 1 / 101


def test_the_smallest_detectable_difference_is_found_with_the_stated_power() -> None:
    interval = stats.t_interval(np.random.default_rng(0).normal(size=40))
    shift = stats.smallest_detectable(interval) / interval.standard_error
    critical = scipy_stats.t.ppf(0.975, interval.df)
    power = scipy_stats.nct.sf(critical, interval.df, shift)
    assert power == pytest.approx(0.8, abs=0.01)


def test_a_corrected_p_can_take_a_verdict_back() -> None:
    values = np.random.default_rng(1).normal(0.35, 1, size=60)
    comparison = stats.compare(stats.pair_rows(make_rows(values), make_rows(np.zeros(60))))
    assert comparison.verdict is Verdict.BETTER
    assert comparison.verdict_at(comparison.p_value) is Verdict.BETTER
    assert comparison.verdict_at(0.2) is Verdict.NOT_DISTINGUISHABLE
