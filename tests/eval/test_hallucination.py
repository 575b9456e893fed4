"""The estimate of hallucination: margins, fit, held-out folds, correlations, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eval.hallucination import (
    NUM_FOLDS,
    assess,
    by_caption,
    calibration,
    carried_over,
    correlations,
    estimate,
    fit,
    held_out,
    margins,
    shuffled_pictures,
    why_none_usable,
)
from launch import keyed
from launch.manifest import digest_bytes

NUM = 300
IDS = keyed.words(sorted(digest_bytes(str(i).encode()) for i in range(NUM)))


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    values = generator.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@given(st.integers(2, 40), st.integers(1, 8))
def test_a_picture_is_never_compared_with_itself(num: int, others: int) -> None:
    drawn = shuffled_pictures(IDS[:num], num=others)
    assert drawn.shape == (num, others)
    assert drawn.min() >= 0
    assert drawn.max() < num
    assert not (drawn == np.arange(num)[:, None]).any()


def test_two_pictures_have_each_other() -> None:
    assert shuffled_pictures(IDS[:2], num=3).tolist() == [[1] * 3, [0] * 3]
    with pytest.raises(ValueError, match="at least two pictures, got 1"):
        shuffled_pictures(IDS[:1])


def test_the_margin_is_the_own_cosine_less_the_mean_of_the_others() -> None:
    generator = np.random.default_rng(0)
    pictures, sentences = unit(generator, 9, 5), unit(generator, 4, 5)
    own, others = np.array([3, 3, 0, 8]), shuffled_pictures(IDS[:9], num=6)
    found = margins(sentences, pictures, own=own, others=others)
    for row, place in enumerate(own):
        cosines = pictures.astype(float) @ sentences[row].astype(float)
        expected = 100 * (cosines[place] - np.mean([cosines[i] for i in others[place]]))
        assert found[row] == pytest.approx(expected)


def test_equal_pictures_have_no_margin() -> None:
    pictures = np.tile(unit(np.random.default_rng(0), 1, 5), (6, 1))
    found = margins(pictures[:3], pictures, own=np.arange(3), others=shuffled_pictures(IDS[:6]))
    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_a_caption_is_the_weighted_mean_of_its_sentences() -> None:
    values, weights = np.array([1.0, 0.0, np.nan, 0.5]), np.array([3.0, 1.0, 2.0, 0.0])
    found = by_caption(values, caption=np.array([0, 0, 1, 2]), weights=weights, num=4)
    np.testing.assert_array_equal(found, [0.75, np.nan, np.nan, np.nan])


def world(*, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a signal, and claims that are false with a probability that falls with it."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=NUM)
    claims = generator.integers(1, 9, NUM).astype(float)
    false = generator.binomial(claims.astype(int), 1 / (1 + np.exp(1 + slope * signal)))
    return signal, false.astype(float), claims


def test_the_fit_finds_the_slope_that_made_the_claims() -> None:
    signal, false, claims = world(slope=2.0)
    model = fit(signal[:, None], false=false, claims=claims, signals=["margin"])
    assert model["slopes"][0] / model["scale"][0] == pytest.approx(-2.0, abs=0.35)
    total = (estimate(signal[:, None], model) * claims).sum()
    assert total == pytest.approx(false.sum(), rel=1e-3)  # an intercept makes the totals agree


def test_a_held_out_estimate_does_not_see_its_own_truth() -> None:
    signal, false, claims = world(slope=1.0)
    fold = np.floor(NUM_FOLDS * keyed.uniform(0, "captions.folds", epoch=0, ids=IDS))
    here = fold == 2
    changed = np.where(here, claims - false, false)
    one, two = (
        held_out(signal[:, None], false=f, claims=claims, ids=IDS) for f in (false, changed)
    )
    np.testing.assert_array_equal(one[here], two[here])
    assert (one[~here] != two[~here]).all()


def test_correlations_are_those_of_scipy_and_lie_in_their_intervals() -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(size=80)
    b = np.round(a + generator.normal(size=80), 1)  # ties
    found = correlations(a, b, resamples=200)
    for name, value in (
        ("pearson", stats.pearsonr(a, b)[0]),
        ("spearman", stats.spearmanr(a, b)[0]),
    ):
        assert found[name]["value"] == pytest.approx(value)
        low, high = found[name]["interval"]
        assert low < value < high


def test_what_does_not_vary_has_no_correlation() -> None:
    flat = correlations(np.ones(20), np.arange(20.0), resamples=10)
    assert flat == {"spearman": None, "pearson": None}


@settings(max_examples=20)
@given(st.integers(10, 300), st.integers(0, 5))
def test_bins_hold_every_caption_once_in_order(num: int, seed: int) -> None:
    estimates, truth = np.random.default_rng(seed).uniform(size=(2, num))
    bins = calibration(estimates, truth)
    assert sum(b["num"] for b in bins) == num
    means = [b["mean_estimate"] for b in bins]
    assert means == sorted(means)
    assert np.average([b["mean_truth"] for b in bins], weights=[b["num"] for b in bins]) == (
        pytest.approx(truth.mean())
    )


def test_a_signal_that_knows_correlates_and_noise_does_not() -> None:
    signal, false, claims = world(slope=2.0)
    noise = np.random.default_rng(5).normal(size=NUM)
    signals = {"agreement": signal, "margin": noise}
    found = assess(signals, false=false, claims=claims, ids=IDS, resamples=100)
    assert found is not None
    sets = found.facts["sets"]
    assert set(sets) == {"agreement", "margin", "agreement and margin"}
    assert sets["agreement"]["correlation"]["spearman"]["interval"][0] > 0.4
    low, high = sets["margin"]["correlation"]["spearman"]["interval"]
    assert low < 0.2
    assert high < 0.4
    carried = carried_over({"agreement": signal}, sets)
    assert carried is not None
    assert carried.name == "agreement"
    assert carried.estimates.mean() == pytest.approx((false / claims).mean(), abs=0.03)
    assert carried_over({}, sets) is None
    knows_nothing = {"spearman": {"value": 0.01, "interval": [-0.1, 0.1]}}
    told = {"agreement": {**sets["agreement"], "correlation": knows_nothing}}
    assert carried_over({"agreement": signal}, told) is None
    undefined = {"agreement": {**sets["agreement"], "correlation": {"spearman": None}}}
    assert carried_over({"agreement": signal}, undefined) is None


def test_why_no_fit_can_be_carried_over_is_told() -> None:
    knows = {"spearman": {"value": 0.5, "interval": [0.4, 0.6]}}
    guesses = {"spearman": {"value": 0.01, "interval": [-0.1, 0.1]}}
    good, bad = (
        {"agreement": {"model": {"signals": ["agreement"]}, "correlation": found}}
        for found in (knows, guesses)
    )
    assert why_none_usable(["agreement", "margin"], good) is None
    assert "no fit of this kind" in str(why_none_usable(["agreement"], {}))
    assert "is from agreement, and these captions have margin" in str(
        why_none_usable(["margin"], good)
    )
    assert "no better than chance" in str(why_none_usable(["agreement"], bad))


def test_captions_without_claim_or_signal_are_left_out_and_counted() -> None:
    signal, false, claims = world(slope=2.0)
    signal[:5], claims[5:9], false[5:9] = np.nan, 0, 0
    found = assess({"agreement": signal}, false=false, claims=claims, ids=IDS, resamples=10)
    assert found is not None
    assert (found.facts["num_captions"], found.facts["num_left_out"]) == (NUM - 9, 9)
    assert np.isnan(found.estimates[:9]).all()
    few = {"false": false[:40], "claims": claims[:40], "ids": IDS[:40]}
    assert assess({"agreement": signal[:40]}, **few) is None


def test_a_bin_in_which_nothing_is_invented_is_not_said_to_be_certain() -> None:
    (only,) = calibration(np.linspace(0, 1, 10), np.zeros(10))
    low, high = only["interval"]
    assert only["mean_truth"] == 0
    assert low == 0
    assert 0 < high < 1
