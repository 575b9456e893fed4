"""The power that a plan promises is the power that simulated studies find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from eval.components import Components, Estimate, estimate_components
from eval.intervals import t_interval
from eval.pairing import Matched
from eval.power import Design, detectable, fewest_prompts, power_of
from eval.two_way import two_way_p
from launch.errors import InputError

TRIALS = 2000
EFFECTS = Components(seed=0.04, prompt=1.0, noise=0.3, prompt_by_seed=0.4, rest=0.5)


def draw(
    c: Components, design: Design, generator: np.random.Generator, *, studies: int = 1
) -> np.ndarray:
    """Draw the differences [studies, S, P, G] of studies whose arms are alike on average."""
    prompts, images, seeds = design
    parts = [
        (c.seed, (seeds, 1, 1)),
        (c.prompt, (1, prompts, 1)),
        (c.noise, (1, prompts, images)),
        (c.prompt_by_seed, (seeds, prompts, 1)),
        (c.rest, (seeds, prompts, images)),
    ]
    return sum(np.sqrt(v) * generator.normal(size=(studies, *shape)) for v, shape in parts)


def matched(differences: np.ndarray) -> Matched:
    row, column, seed = np.indices(differences.shape).reshape(3, -1)
    seeds, pairs, _ = differences.shape
    return Matched(
        difference=differences.ravel(),
        row=row,
        column=column,
        prompt=column,
        seed=seed,
        model_seeds=np.arange(seeds),
        pairs=np.arange(pairs),
    )


# ------------------------------------------------------------------ power


@pytest.mark.parametrize("design", [Design(40, 1, 4), Design(60, 3, 5), Design(120, 2, 8)], ids=str)
def test_the_power_promised_for_new_models_is_the_power_found(design: Design) -> None:
    difference = float(detectable(EFFECTS, design))
    studies = draw(EFFECTS, design, np.random.default_rng(1), studies=TRIALS).mean(axis=-1)
    assert np.mean(two_way_p(studies + difference) < 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("design", [Design(15, 2, 1), Design(60, 1, 3)], ids=str)
def test_the_power_promised_given_the_models_is_the_power_found(design: Design) -> None:
    difference = float(detectable(EFFECTS, design, power=0.6))
    as_trained = EFFECTS._replace(seed=0.0)
    studies = draw(as_trained, design, np.random.default_rng(2), studies=TRIALS).mean(axis=(1, 3))
    found = [t_interval(s + difference).is_above_zero for s in studies]
    assert np.mean(found) == pytest.approx(0.6, abs=0.035)


def test_given_the_models_power_is_that_of_the_noncentral_t() -> None:
    design, difference = Design(25, 1, 1), 0.7
    sd = np.sqrt(sum(EFFECTS) - EFFECTS.seed)
    critical, shift = stats.t.ppf(0.975, 24), difference / (sd / 5)
    expected = stats.nct.sf(critical, 24, shift) + stats.nct.cdf(-critical, 24, shift)
    assert power_of(EFFECTS, design, difference) == pytest.approx(expected, abs=0.002)


def test_a_difference_of_zero_is_found_no_more_often_than_the_level_allows() -> None:
    assert power_of(EFFECTS, Design(100, 1, 2), 0.0) == pytest.approx(0.05, abs=0.002)
    assert 0.03 < power_of(EFFECTS, Design(100, 1, 4), 0.0) <= 0.05


def test_the_smallest_detectable_difference_has_the_power_asked_for() -> None:
    for design in (Design(30, 1, 2), Design(300, 4, 6)):
        difference = float(detectable(EFFECTS, design, power=0.9, level=0.995))
        assert power_of(EFFECTS, design, difference, level=0.995) == pytest.approx(0.9, abs=1e-6)


def test_more_prompts_images_or_seeds_find_smaller_differences() -> None:
    small = float(detectable(EFFECTS, Design(50, 1, 4)))
    for design in (Design(100, 1, 4), Design(50, 2, 4), Design(50, 1, 8)):
        assert detectable(EFFECTS, design) < small


def test_prompts_cannot_make_up_for_training_seeds() -> None:
    floor = np.sqrt(EFFECTS.seed / 4) * stats.t.ppf(0.975, 3)
    assert detectable(EFFECTS, Design(1_000_000, 4, 4)) > floor
    assert fewest_prompts(EFFECTS, 0.5 * floor, images=4, seeds=4, most=1_000_000) is None


def test_the_fewest_prompts_are_enough_and_one_fewer_is_not() -> None:
    prompts = fewest_prompts(EFFECTS, 0.6, images=2, seeds=5, most=10_000)
    assert prompts is not None
    assert power_of(EFFECTS, Design(prompts, 2, 5), 0.6) >= 0.8
    assert power_of(EFFECTS, Design(prompts - 1, 2, 5), 0.6) < 0.8


# ------------------------------------------------------------------ components


def estimates(design: Design, *, trials: int) -> list[Estimate]:
    generator = np.random.default_rng(4)
    made = (matched(d) for d in draw(EFFECTS, design, generator, studies=trials))
    return [estimate_components(m, num_draws=200) for m in made]


def test_components_come_out_right_on_average() -> None:
    found = [e.components for e in estimates(Design(80, 3, 6), trials=150)]
    for name, truth in EFFECTS._asdict().items():
        values = [float(getattr(c, name)) for c in found]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(truth, abs=4 * error + 1e-3)


def test_the_ranges_of_components_hold_the_truth_as_often_as_they_say() -> None:
    found = estimates(Design(40, 2, 4), trials=250)
    for name, truth in EFFECTS._asdict().items():
        held = [low <= truth <= high for low, high in (e.interval(name) for e in found)]
        assert np.mean(held) >= 0.92, name


def test_prompts_with_different_numbers_of_pictures_are_told_apart_as_well() -> None:
    generator = np.random.default_rng(6)
    found = []
    for differences in draw(EFFECTS, Design(60, 4, 4), generator, studies=100):
        whole = matched(differences)
        keep = whole.seed < 1 + whole.column % 4  # one to four pictures of a prompt
        columns = ("difference", "row", "column", "prompt", "seed")
        uneven = whole._replace(**{n: getattr(whole, n)[keep] for n in columns})
        found.append(estimate_components(uneven, num_draws=2).components)
    for name in ("prompt", "noise", "prompt_by_seed", "rest"):
        values = [float(getattr(c, name)) for c in found]
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(getattr(EFFECTS, name), abs=4 * error)


def test_what_cannot_be_told_apart_is_not_averaged_away() -> None:
    c, generator = EFFECTS._replace(seed=0.0), np.random.default_rng(8)
    (study,) = draw(c, Design(4000, 1, 1), generator)
    found = estimate_components(matched(study), num_draws=10)
    assert found.told_apart == {"prompt"}
    assert found.components.prompt == pytest.approx(sum(c), rel=0.1)
    one, four = (float(detectable(found.components, Design(100, g, 1))) for g in (1, 4))
    assert one == four


def test_training_seeds_with_different_pictures_are_refused() -> None:
    study = matched(draw(EFFECTS, Design(5, 2, 2), np.random.default_rng(0))[0])
    other = study._replace(prompt=study.prompt + study.row)
    with pytest.raises(InputError, match="different pictures"):
        estimate_components(other)
    with pytest.raises(InputError, match="expected at least 2"):
        estimate_components(matched(np.zeros((4, 1, 2))))
