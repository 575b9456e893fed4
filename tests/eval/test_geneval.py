"""GenEval's rules on boxes made by hand: each task, each threshold, each refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import geneval
from eval.config import DetectorConfig
from eval.geneval import Detections, Thing, check_claims, judge, kept, overlap, relations, task_of
from launch.errors import ConfigError
from recap.claims import Claim, from_json, to_json

RULES = DetectorConfig(architecture="maskrcnn_resnet50_fpn", weights=Path("unused"))

DOG, DOG_LEFT, CAT = (100, 100, 140, 140), (0, 100, 40, 140), (200, 100, 240, 140)


def boxes(*found: tuple[str, tuple[float, ...], float]) -> Detections:
    """Make what a detector found: (label, box, score) each."""
    return Detections(
        boxes=np.array([box for _, box, _ in found], np.float64).reshape(-1, 4),
        scores=np.array([score for *_, score in found], np.float64),
        labels=[label for label, *_ in found],
    )


def verdicts(
    claims: Sequence[Claim],
    found: Detections,
    *,
    colours: dict[tuple[float, ...], str] | None = None,
    rules: DetectorConfig = RULES,
) -> dict[tuple[int, str], bool | None]:
    """Judge, with the colour of every box as said."""

    def colours_of(things: Sequence[Thing], name: str) -> list[str]:
        return [(colours or {})[thing.box] for thing in things]

    judged = judge(claims, found, labels={}, rules=rules, colours_of=colours_of)
    return {(v.claim, v.axis): v.is_held for v in judged}


def is_correct(*args: Any, **kwargs: Any) -> bool:
    return all(verdicts(*args, **kwargs).values())


A_DOG, A_CAT = Claim(object="dog"), Claim(object="cat")


def test_a_single_object_must_be_there() -> None:
    assert is_correct([A_DOG], boxes(("dog", DOG, 0.5)))
    assert not is_correct([A_DOG], boxes(("cat", CAT, 0.99)))
    assert not is_correct([A_DOG], boxes())


def test_of_two_objects_both_must_be_there() -> None:
    both = boxes(("dog", DOG, 0.5), ("cat", CAT, 0.5))
    assert verdicts([A_DOG, A_CAT], both) == {(0, "object"): True, (1, "object"): True}
    alone = boxes(("dog", DOG, 0.5))
    assert verdicts([A_DOG, A_CAT], alone) == {(0, "object"): True, (1, "object"): False}


def test_a_number_is_exact() -> None:
    two = [Claim(object="dog", count=2)]
    dogs = [("dog", (50 * i, 0, 50 * i + 40, 40), 0.95) for i in range(3)]
    assert not is_correct(two, boxes(*dogs[:1]))
    assert is_correct(two, boxes(*dogs[:2]))
    # One too many fails the number; the dogs are there all the same.
    assert verdicts(two, boxes(*dogs)) == {(0, "object"): True, (0, "count"): False}


def test_counting_asks_for_more_confidence_than_the_other_tasks() -> None:
    sure_and_unsure = boxes(("dog", DOG, 0.91), ("dog", DOG_LEFT, 0.89))
    assert is_correct([Claim(object="dog", count=1)], sure_and_unsure)
    assert not is_correct([Claim(object="dog", count=2)], sure_and_unsure)
    assert is_correct([A_DOG], boxes(("dog", DOG, 0.31)))
    assert not is_correct([Claim(object="dog", count=1)], boxes(("dog", DOG, 0.31)))


@pytest.mark.parametrize(("score", "counts"), [(0.3, False), (0.3001, True)])
def test_confidence_must_lie_above_its_threshold(score: float, counts: bool) -> None:
    assert is_correct([A_DOG], boxes(("dog", DOG, score))) is counts


def test_a_colour_is_that_of_the_most_confident_object() -> None:
    red_dog = [Claim(object="dog", colour="red")]
    found = boxes(("dog", DOG_LEFT, 0.4), ("dog", DOG, 0.9))
    assert is_correct(red_dog, found, colours={DOG: "red", DOG_LEFT: "blue"})
    assert not is_correct(red_dog, found, colours={DOG: "blue", DOG_LEFT: "red"})


def test_every_object_of_a_number_has_the_colour() -> None:
    red_dogs = [Claim(object="dog", count=2, colour="red")]
    found = boxes(("dog", DOG, 0.95), ("dog", DOG_LEFT, 0.95))
    assert is_correct(red_dogs, found, colours={DOG: "red", DOG_LEFT: "red"})
    assert verdicts(red_dogs, found, colours={DOG: "red", DOG_LEFT: "blue"}) == {
        (0, "object"): True,
        (0, "count"): True,
        (0, "colour"): False,
    }


def test_colours_of_two_objects_must_not_be_exchanged() -> None:
    claims = [Claim(object="dog", colour="red"), Claim(object="cat", colour="blue")]
    found = boxes(("dog", DOG, 0.9), ("cat", CAT, 0.9))
    assert is_correct(claims, found, colours={DOG: "red", CAT: "blue"})
    exchanged = verdicts(claims, found, colours={DOG: "blue", CAT: "red"})
    assert exchanged[0, "binding"] is exchanged[1, "binding"] is False
    assert exchanged[0, "object"] is exchanged[1, "object"] is True


def test_what_is_said_of_an_absent_object_fails() -> None:
    claims = [A_CAT, Claim(object="dog", colour="red", position="left of", of=0)]
    assert verdicts(claims, boxes(("cat", CAT, 0.9))) == {
        (0, "object"): True,
        (1, "object"): False,
        (1, "colour"): False,
        (1, "position"): False,
    }


@pytest.mark.parametrize(
    ("relation", "is_held"),
    [("left of", True), ("right of", False), ("above", False), ("below", False)],
)
def test_a_place_is_relative_to_the_other_object(relation: str, is_held: bool) -> None:
    claims = [A_CAT, Claim(object="dog", position=relation, of=0)]
    found = boxes(("dog", DOG, 0.9), ("cat", CAT, 0.9))
    assert verdicts(claims, found)[1, "position"] is is_held
    # The one that it is relative to may come later in the list.
    turned = [replace(claims[1], of=1), A_CAT]
    assert verdicts(turned, found)[0, "position"] is is_held


def test_a_place_relative_to_what_is_absent_fails() -> None:
    claims = [A_CAT, Claim(object="dog", position="left of", of=0)]
    assert not is_correct(claims, boxes(("dog", DOG, 0.9)))


@pytest.mark.parametrize(
    ("shift", "is_left"),
    [(8.0, False), (15.9, False), (16.1, True), (40.0, True)],
)
def test_a_shift_counts_where_what_exceeds_the_offset_is_half_of_it(
    shift: float, is_left: bool
) -> None:
    # Both boxes are 40 wide: 0.1 * 80 = 8 is taken off, and (shift - 8) / shift > 1/2 from 16 on.
    box = (100 - shift, 100, 140 - shift, 140)
    assert ("left of" in relations(box, DOG, min_offset=0.1)) is is_left


def test_a_diagonal_place_is_both_relations() -> None:
    assert relations((0, 0, 40, 40), (400, 400, 440, 440), min_offset=0.1) == {"left of", "above"}


def test_boxes_on_each_other_have_no_relation() -> None:
    assert relations(DOG, DOG, min_offset=0.1) == frozenset()
    assert relations(DOG, DOG, min_offset=0) == frozenset()


box = st.tuples(*[st.integers(0, 200)] * 2, *[st.integers(1, 200)] * 2).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@given(a=box, b=box)
def test_relations_turn_round_with_their_boxes(a: Any, b: Any) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    there, back = relations(a, b, min_offset=0.1), relations(b, a, min_offset=0.1)
    assert {opposite[name] for name in there} == back


@given(a=box, b=box)
def test_overlap_is_symmetric_and_one_only_for_equal_boxes(a: Any, b: Any) -> None:
    first, second = np.array(a), np.array(b)
    assert overlap(first, second) == overlap(second, first)
    assert 0 <= overlap(first, second) <= 1
    assert (overlap(first, second) == 1) is (a == b)


def test_doubles_of_an_object_count_once_where_overlap_is_bounded() -> None:
    doubled = boxes(("dog", DOG, 0.95), ("dog", (102, 101, 141, 142), 0.93))
    one = [Claim(object="dog", count=1)]
    assert not is_correct(one, doubled)  # the original's default keeps them
    assert is_correct(one, doubled, rules=replace(RULES, max_overlap=0.5))
    # Boxes of other classes and boxes apart are no doubles.
    others = boxes(("dog", DOG, 0.95), ("cat", DOG, 0.96), ("dog", DOG_LEFT, 0.92))
    assert len(kept(others, "dog", min_score=0.9, rules=replace(RULES, max_overlap=0.5))) == 2


def test_of_doubles_the_most_confident_is_kept() -> None:
    near = (102.0, 101.0, 141.0, 142.0)
    found = boxes(("dog", DOG, 0.5), ("dog", near, 0.9))
    (thing,) = kept(found, "dog", min_score=0.3, rules=replace(RULES, max_overlap=0.5))
    assert thing.box == near


def test_no_more_than_the_stated_number_of_boxes_is_looked_at() -> None:
    dogs = boxes(*[("dog", (50 * i, 0, 50 * i + 40, 40), 0.99 - i / 1000) for i in range(20)])
    assert not is_correct([Claim(object="dog", count=20)], dogs)
    assert is_correct([Claim(object="dog", count=16)], dogs)


def test_a_class_is_found_by_the_name_that_the_detector_has_for_it() -> None:
    assert geneval.label_of("tv remote", ("remote", "dog")) == "remote"
    assert geneval.label_of("tv remote", ("tv remote", "remote")) == "tv remote"
    assert geneval.label_of("unicorn", ("remote", "dog")) is None
    judged = judge(
        [Claim(object="tv remote")],
        boxes(("remote", DOG, 0.9)),
        labels={"tv remote": "remote"},
        rules=RULES,
        colours_of=lambda things, name: [],
    )
    assert [v.is_held for v in judged] == [True]


def test_words_to_display_are_left_to_ocr() -> None:
    claims = [Claim(object="sign", text="STOP"), A_DOG]
    assert verdicts(claims, boxes(("dog", DOG, 0.9))) == {(1, "object"): True}
    check_claims(claims, labels=("dog",), where="prompt 1")


def test_the_task_is_told_by_what_is_said() -> None:
    red_dog, blue_cat = replace(A_DOG, colour="red"), replace(A_CAT, colour="blue")
    told = {
        "single_object": [A_DOG],
        "two_object": [A_DOG, A_CAT],
        "counting": [replace(A_DOG, count=2)],
        "colors": [red_dog],
        "position": [A_DOG, replace(A_CAT, position="above", of=0)],
        "color_attr": [red_dog, blue_cat],
    }
    assert tuple(told) == geneval.TASKS
    for task, claims in told.items():
        assert task_of(claims) == task


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        (
            [Claim(object="unicorn")],
            "speaks of 'unicorn', which is none of the detector's 2 labels",
        ),
        ([replace(A_DOG, texture="striped")], "says texture 'striped' of 'dog'"),
        ([replace(A_DOG, colour="teal")], "says colour 'teal', which is no candidate"),
        ([replace(A_DOG, count=0)], "says 0 of 'dog'"),
        ([A_DOG, replace(A_CAT, position="top", of=0)], "says position 'top' of claim 0"),
        ([replace(A_DOG, position="above")], "says position 'above' of claim None"),
        ([replace(A_DOG, position="above", of=0)], "says position 'above' of claim 0"),
        ([A_DOG, replace(A_CAT, position="above", of=2)], "index of another of its 2 claims"),
    ],
)
def test_claims_that_the_rules_cannot_check_are_refused(claims: list[Claim], message: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt 7: .*{message}"):
        check_claims(claims, labels=("dog", "cat"), where="prompt 7")


def test_claims_keep_what_they_are_relative_to() -> None:
    claims = [A_DOG, replace(A_CAT, position="above", of=0)]
    assert from_json(to_json(claims)) == claims


METADATA = Path(__file__).parents[3] / "shared/data/prompts/geneval/evaluation_metadata.jsonl"


@pytest.mark.skipif(not METADATA.is_file(), reason="GenEval's prompts are not here")
def test_every_prompt_of_the_benchmark_is_told_its_own_task_and_can_be_checked() -> None:
    import json

    from torchvision.models import get_model_weights

    labels = get_model_weights("maskrcnn_resnet50_fpn").DEFAULT.meta["categories"]
    rows = [json.loads(line) for line in METADATA.read_text().splitlines()]
    for row in rows:
        claims = [
            Claim(
                object=asked["class"],
                count=asked["count"] if row["tag"] == "counting" else None,
                colour=asked.get("color"),
                position=asked.get("position", [None])[0],
                of=asked.get("position", [None, None])[1],
            )
            for asked in row["include"]
        ]
        check_claims(claims, labels=labels, where=row["prompt"])
        assert task_of(claims) == row["tag"]
    assert len(rows) == 553
