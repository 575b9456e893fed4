"""Answers as they come from models: yes, no, and everything that is neither."""

from __future__ import annotations

import pytest

from eval.yes_no import NEITHER, NO, YES, read_answer, truth


@pytest.mark.parametrize(
    "text",
    ["yes", "Yes.", " YES\n", "**Yes**", "Answer: yes", "The answer is yes.", "yes, it does",
     "Yes, there is no cup.", '"yes"', "Final answer: **Yes**"],
)  # fmt: skip
def test_a_yes_is_read(text: str) -> None:
    assert read_answer(text, rule=None) == YES


@pytest.mark.parametrize("text", ["no", "No, the cup is green.", "- no", "answer is no", "NO!"])
def test_a_no_is_read(text: str) -> None:
    assert read_answer(text, rule=None) == NO


@pytest.mark.parametrize(
    "text",
    ["", "?", "maybe", "Yes and no.", "yes/no", "no or yes", "I'm sorry, I can't help with that.",
     "nope", "yesterday", "The picture shows a dog. Yes.", "unsure: no", "<b>maybe</b>", "nothing"],
)  # fmt: skip
def test_what_is_neither_is_never_a_no(text: str) -> None:
    assert read_answer(text, rule=None) == NEITHER
    assert truth(NEITHER) is None


@pytest.mark.parametrize("rule", ["refusal", "empty", "unfinished", "no_answer", "html"])
def test_an_answer_that_broke_a_rule_keeps_it_whatever_it_says(rule: str) -> None:
    assert read_answer("no", rule=rule) == rule
    assert truth(rule) is None
