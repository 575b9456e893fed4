"""Mistakes on purpose: as many as asked, nested, and nothing else moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.errors import ConfigError
from recap.claims import Tally, compare, read
from recap.config import AnnotateConfig, MistakesConfig
from recap.sources.scenes import language, world
from recap.sources.scenes.mistakes import ATTRIBUTES, MAX_CLAIMS, Mistaken, mistake

IDS = [f"{n:032x}" for n in range(1, 4001)]
TRUTHS = [scene.claims for scene in world.compose(3, IDS)]


def mistaken(*, omission: float = 0.0, hallucination: float = 0.0) -> list[Mistaken]:
    return mistake(TRUTHS, sample_ids=IDS, omission=omission, hallucination=hallucination, seed=1)


def test_without_mistakes_the_truth_is_told() -> None:
    assert [m.claims for m in mistaken()] == TRUTHS
    assert max(map(len, TRUTHS)) == MAX_CLAIMS


def test_as_many_statements_are_false_as_was_asked() -> None:
    made = mistaken(hallucination=0.2)
    share = sum(m.num_wrong for m in made) / sum(m.num_statements for m in made)
    assert share == pytest.approx(
        0.2, abs=0.01
    )  # 40,000 statements: three standard errors are .006
    assert sum(m.num_omitted for m in made) == 0


def test_a_false_statement_differs_and_is_of_the_same_sort() -> None:
    for truth, m in zip(TRUTHS, mistaken(hallucination=1.0), strict=True):
        assert m.num_wrong == m.num_statements
        for was, said in zip(truth, m.claims, strict=True):
            for name in ATTRIBUTES:
                before, after = getattr(was, name), getattr(said, name)
                assert (before is None) == (after is None)
                if name == "object" and before in {"sign", "background"}:
                    assert after == before
                elif before is not None:
                    assert after != before
                    assert type(after) is type(before)


def test_what_is_left_out_is_unsaid_and_not_false() -> None:
    total = Tally()
    made = mistaken(omission=0.3)
    texts = language.write_all([m.claims for m in made], "truth", sample_ids=IDS, seed=1)
    for truth, text in zip(TRUTHS, texts, strict=True):
        for of_axis in compare(read(text), truth).values():
            total += of_axis
    assert total.false_positive == 0
    said = total.true_positive / (total.true_positive + total.false_negative)
    # First things and their numbers stay; with any other thing goes all that is said of it.
    assert 0.6 < said < 0.8
    assert all(m.claims[0].object == t[0].object for m, t in zip(made, TRUTHS, strict=True))


@settings(max_examples=20, deadline=None)
@given(low=st.floats(0, 1), high=st.floats(0, 1), style=st.sampled_from(["ssc", "dsc", "truth"]))
def test_mistakes_of_a_lower_rate_are_among_those_of_a_higher_one(
    low: float, high: float, style: language.Style
) -> None:
    low, high = sorted((low, high))
    few = mistake(TRUTHS[:60], sample_ids=IDS[:60], omission=0, hallucination=low, seed=1)
    many = mistake(TRUTHS[:60], sample_ids=IDS[:60], omission=0, hallucination=high, seed=1)
    for truth, a, b in zip(TRUTHS, few, many, strict=False):
        for was, less, more in zip(truth, a.claims, b.claims, strict=True):
            for name in ATTRIBUTES:
                if getattr(less, name) != getattr(was, name):
                    assert getattr(more, name) == getattr(less, name)
    omitted = mistake(TRUTHS[:60], sample_ids=IDS[:60], omission=high, hallucination=low, seed=1)
    said = [m.claims for m in omitted]
    assert all(language.write_all(said, style, sample_ids=IDS[:60], seed=0))


def test_a_picture_is_mistaken_alike_whichever_others_are_described() -> None:
    alone = mistake(TRUTHS[7:8], sample_ids=IDS[7:8], omission=0.4, hallucination=0.3, seed=1)
    assert alone[0] == mistaken(omission=0.4, hallucination=0.3)[7]


def test_only_the_teacher_that_knows_the_truth_can_be_mistaken_on_purpose() -> None:
    with pytest.raises(ConfigError, match="mistakes are made by the teacher `claims` alone"):
        AnnotateConfig(
            images=Path("images"),
            teacher="texts",
            kinds=["dsc"],
            mistakes=MistakesConfig(omission=0.1),
        )
