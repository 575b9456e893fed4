"""Agreement of raters: Krippendorff's alpha against his worked examples, and metrics against votes."""

from __future__ import annotations

import numpy as np
import pytest

from eval.raters import Share, alpha, alpha_of, coincidences, metric_agreement

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": one string per observer, a dot
# where nothing was said; sections A, B and C/D.
BINARY = ("0100000010", "1110010000")
LETTERS = ("aabbdcccedda", "babbbcccedd" + "d")
FOUR = ("123321412...", "12332241 25.3".replace(" ", ""), ".33323422" + "51.", "12332441251.")


def reliability(rows: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return unit and value of every vote."""
    said = [(unit, c) for row in rows for unit, c in enumerate(row) if c != "."]
    names = sorted({c for _, c in said})
    return (
        np.array([unit for unit, _ in said]),
        np.array([names.index(c) for _, c in said]),
    )


def value_of(rows: tuple[str, ...], metric: str) -> float:
    unit, value = reliability(rows)
    matrices = coincidences(unit, value, num_values=int(value.max()) + 1)
    return float(alpha_of(matrices.sum(axis=0), metric=metric))


@pytest.mark.parametrize(
    ("rows", "metric", "published"),
    [
        (BINARY, "nominal", 0.095),
        (LETTERS, "nominal", 0.692),
        (FOUR, "nominal", 0.743),
        (FOUR, "ordinal", 0.815),
        (FOUR, "interval", 0.849),
    ],
)
def test_alpha_is_that_of_the_published_examples(
    rows: tuple[str, ...], metric: str, published: float
) -> None:
    assert round(value_of(rows, metric), 3) == published


def test_the_coincidences_are_those_of_the_published_example() -> None:
    unit, value = reliability(FOUR)
    found = coincidences(unit, value, num_values=5).sum(axis=0)
    assert found.sum(axis=0).tolist() == pytest.approx([9, 13, 10, 5, 3])
    assert np.allclose(found, found.T)


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
def test_full_agreement_is_one_and_opposed_raters_are_below_zero(metric: str) -> None:
    assert value_of(("0120120", "0120120", "0120120"), metric) == 1
    assert value_of(("0202", "2020"), metric) < -0.5


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
def test_raters_who_guess_agree_by_zero(metric: str) -> None:
    draw = np.random.default_rng(0)
    unit = np.repeat(np.arange(5000), 3)
    value = draw.choice(3, len(unit), p=[0.5, 0.2, 0.3])
    matrices = coincidences(unit, value, num_values=3)
    assert abs(alpha_of(matrices.sum(axis=0), metric=metric)) < 0.03


def test_two_values_make_all_metrics_one_and_turning_all_sides_changes_nothing() -> None:
    assert value_of(BINARY, "ordinal") == pytest.approx(value_of(BINARY, "nominal"))
    assert value_of(BINARY, "interval") == pytest.approx(value_of(BINARY, "nominal"))
    turned = tuple(row.translate(str.maketrans("01", "10")) for row in BINARY)
    assert value_of(turned, "ordinal") == pytest.approx(value_of(BINARY, "ordinal"))


def test_a_disagreement_across_a_tie_is_worse_than_one_with_a_tie() -> None:
    near, far = ("001122", "011122"), ("001122", "021122")
    assert value_of(near, "ordinal") > value_of(far, "ordinal")


def test_a_unit_that_one_rater_saw_says_nothing() -> None:
    alone = tuple(row + extra for row, extra in zip(LETTERS, ("e", "."), strict=True))
    assert value_of(alone, "nominal") == pytest.approx(value_of(LETTERS, "nominal"))
    with np.errstate(all="raise"):
        assert np.isnan(value_of(("012", "..."), "nominal"))
        assert np.isnan(value_of(("111", "111"), "ordinal"))


def test_the_interval_of_alpha_holds_it_and_shrinks_with_prompts() -> None:
    draw = np.random.default_rng(1)

    def width(prompts: int) -> float:
        truth = draw.integers(0, 3, prompts)
        unit = np.repeat(np.arange(prompts), 4)
        value = np.where(draw.random(len(unit)) < 0.7, truth[unit], draw.integers(0, 3, len(unit)))
        found = alpha(unit, value, unit, num_values=3, metric="ordinal", resamples=300, seed=0)
        assert found.low < found.estimate < found.high
        return found.high - found.low

    assert width(400) < 0.7 * width(60)


def test_units_of_one_prompt_are_drawn_together() -> None:
    unit, value = reliability(FOUR)
    found = alpha(
        unit, value, np.zeros(len(unit)), num_values=5, metric="nominal", resamples=10, seed=0
    )
    assert found.estimate == pytest.approx(0.743, abs=5e-4)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_metric_agrees_where_its_sign_is_that_of_the_vote_and_a_draw_counts_half() -> None:
    preferred = np.array([1.0, 1.0, -1.0, -1.0, 1.0])
    difference = np.array([0.3, -0.1, -2.0, 0.0, 0.0])
    found = metric_agreement(preferred, difference, np.array(list("aabbc")))
    assert found.estimate == pytest.approx((1 + 0 + 1 + 0.5 + 0.5) / 5)
    turned = metric_agreement(-preferred, -difference, np.array(list("aabbc")))
    assert turned.low == pytest.approx(found.low)
    against = metric_agreement(preferred, -difference, np.array(list("aabbc")))
    assert against.estimate == pytest.approx(1 - found.estimate)


def test_votes_of_one_prompt_are_not_independent_evidence_for_a_metric() -> None:
    draw = np.random.default_rng(0)
    prompt = np.repeat(np.arange(20), 10)
    right = np.where((draw.random(20) < 0.6)[prompt], 1.0, -1.0)
    ones = np.ones(200)
    clustered = metric_agreement(ones, right, prompt)
    single = metric_agreement(ones, right, np.arange(200))
    assert clustered.half_width > 2 * single.half_width


def test_a_share_of_nothing_is_unknown() -> None:
    assert np.isnan(Share(0, 0).value)
    assert Share(0, 0).ends == (0.0, 1.0)
