"""Gating of questions, on graphs made by hand and at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.dependencies import ancestors, circle, gate, parents, refuse_broken
from launch.errors import ArtifactError
from t2i.questions import Question


def asked(**depends_on: tuple[int, ...]) -> list[Question]:
    """Make questions by number: q2=(1,) depends on the first."""
    return [Question(int(name[1:]), f"{name}?", of) for name, of in depends_on.items()]


CHAIN = asked(q1=(), q2=(1,), q3=(2,), q4=())


def by_parents(questions: list[Question], answers: dict[int, bool | None]) -> list[bool | None]:
    return list(gate(questions, answers, gates=parents(questions)).values())


def by_ancestors(questions: list[Question], answers: dict[int, bool | None]) -> list[bool | None]:
    return list(gate(questions, answers, gates=ancestors(questions)).values())


def test_a_no_reaches_the_questions_that_name_it_and_by_ancestors_all_below() -> None:
    answers = {1: False, 2: True, 3: True, 4: True}
    assert by_parents(CHAIN, answers) == [False, False, True, True]
    assert by_ancestors(CHAIN, answers) == [False, False, False, True]


def test_one_no_among_several_parents_is_enough() -> None:
    questions = asked(q1=(), q2=(), q3=(1, 2))
    assert by_parents(questions, {1: True, 2: False, 3: True}) == [True, False, False]
    assert by_parents(questions, {1: True, 2: True, 3: True}) == [True, True, True]


def test_an_unknown_answer_makes_unknown_only_what_it_decides() -> None:
    questions = asked(q1=(), q2=(1,), q3=(1,), q4=(1, 2))
    answers = {1: None, 2: False, 3: True, 4: True}
    assert by_parents(questions, answers) == [None, False, None, False]
    assert by_parents(questions, {1: False, 2: None, 3: None, 4: None}) == [False] * 4


def test_the_order_of_a_list_decides_nothing() -> None:
    questions = list(reversed(CHAIN))
    answers = {1: False, 2: True, 3: True, 4: True}
    assert by_ancestors(questions, answers) == [True, False, False, False]


def test_a_parent_that_is_not_there_is_named() -> None:
    with pytest.raises(ArtifactError, match="prompt p: question 2 depends on question 9, which is"):
        refuse_broken(asked(q1=(), q2=(1, 9)), where="prompt p")


@pytest.mark.parametrize("number", [1, 0, -3])
def test_a_number_that_comes_twice_or_lies_below_one_is_named(number: int) -> None:
    with pytest.raises(ArtifactError, match=f"question {number} "):
        refuse_broken([Question(1, "a?"), Question(number, "b?")], where="p")


@pytest.mark.parametrize(
    ("questions", "names"),
    [
        (asked(q1=(), q2=(1,), q3=(2, 1)), None),
        (asked(q1=(1,)), [1, 1]),
        (asked(q1=(), q2=(3,), q3=(2,)), [2, 3, 2]),
        (asked(q1=(2,), q2=(3,), q3=(4,), q4=(2,)), [2, 3, 4, 2]),
    ],
)
def test_a_circle_is_named_question_by_question(
    questions: list[Question], names: list[int] | None
) -> None:
    assert circle(questions) == names


@st.composite
def lists(draw: st.DrawFn) -> tuple[list[Question], dict[int, bool]]:
    num = draw(st.integers(1, 8))
    questions = [
        Question(i, "?", tuple(sorted(draw(st.sets(st.integers(1, i - 1), max_size=3)))))
        if i > 1
        else Question(1, "?")
        for i in range(1, num + 1)
    ]
    return questions, {q.id: draw(st.booleans()) for q in questions}


@given(lists())
def test_ancestors_gate_as_a_list_that_is_gated_in_place(
    made: tuple[list[Question], dict[int, bool]],
) -> None:
    """Where parents stand before children, going down the list once gates by all ancestors."""
    questions, answers = made
    assert circle(questions) is None
    in_place = dict(answers)
    for question in questions:
        if not all(in_place[parent] for parent in question.depends_on):
            in_place[question.id] = False
    assert by_ancestors(questions, dict(answers)) == list(in_place.values())


@given(lists())
def test_parents_gate_by_the_answers_as_they_were_given(
    made: tuple[list[Question], dict[int, bool]],
) -> None:
    questions, answers = made
    expected = [answers[q.id] and all(answers[p] for p in q.depends_on) for q in questions]
    assert by_parents(questions, dict(answers)) == expected
    deep = by_ancestors(questions, dict(answers))
    assert all(one or not other for one, other in zip(expected, deep, strict=True))
