"""Sentences, content words and how far samples agree, on texts whose answer can be seen."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.agreement import agreement, content_grams, content_words, sentences

TEXTS = st.text(alphabet="abc .,;!?\"' ", max_size=40)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A red ring. Two boxes!", ["A red ring.", "Two boxes!"]),
        ("a ring, and a box, with a sign", ["a ring", "and a box", "with a sign"]),
        ("a small, red ring", ["a small, red ring"]),
        ('The sign says "EX." A ring.', ['The sign says "EX.', "A ring."]),
        ("3.5 rings; ... !", ["3.5 rings;"]),
        ("", []),
    ],
)
def test_texts_are_cut_at_sentences_and_joined_clauses(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@given(TEXTS)
def test_cutting_loses_no_content_word(text: str) -> None:
    together = [word for part in sentences(text) for word in content_words(part)]
    joined = [w for w in content_words(text) if w not in ("but", "and", "while", "with", "plus")]
    assert together == joined


def test_content_leaves_function_words_out_and_runs_stay_in_a_sentence() -> None:
    assert content_words("There is a Red ring on the left") == ["red", "ring", "left"]
    assert content_grams("a red ring. A box") == {
        ("red",), ("ring",), ("box",), ("red", "ring"),
    }  # fmt: skip


def test_a_sentence_agrees_wholly_with_itself_and_not_with_another() -> None:
    said = "a red ring on the left"
    assert agreement(said, [content_grams(said)] * 3) == 1.0
    assert agreement(said, [content_grams("two blue boxes")]) == 0.0


def test_agreement_is_the_mean_share_of_samples_over_runs_of_words() -> None:
    samples = [content_grams("a red ring"), content_grams("a blue ring")]
    # red in one of two, ring in both, "red ring" in one: (1/2 + 1 + 1/2) / 3
    assert agreement("a red ring", samples) == pytest.approx(2 / 3)


def test_a_run_sees_which_noun_an_adjective_stands_before() -> None:
    right, swapped = content_grams("a red ring and a blue box"), "a blue ring and a red box"
    assert agreement("a red ring and a blue box", [right]) == 1.0
    assert agreement(swapped, [right]) < 1.0


def test_without_samples_or_content_there_is_no_agreement() -> None:
    assert math.isnan(agreement("a red ring", []))
    assert math.isnan(agreement("there is a", [content_grams("a ring")]))
