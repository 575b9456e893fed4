"""Which claims hold in a reading: what is checked, what is not, and how claims find their objects."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import recogniser
from eval.reading import EMPTY, UNREAD, Cell, Reading, layouts
from eval.verdicts import AXIS_OF, Tally, holds, tally, verdicts
from launch.manifest import digest_bytes
from recap.claims import AXES, Claim
from recap.sources.scenes import world

RED = Cell("circle", "red", "small", "plain")
BLUE = Cell("circle", "blue", "large", "striped")
RING = Cell("ring", "green", "large", "plain")
SIGN = Cell("sign", text="CX")
NONE = Cell()
LOST = Cell(UNREAD)


def reading(*cells: Cell, background: str = "grey") -> Reading:
    a, b, c, d = cells
    return Reading(cells=(a, b, c, d), background=background)


def verdict(claim: Claim, found: Reading) -> dict[str, bool | None]:
    return {v.name: v.is_held for v in verdicts([claim], found)}


def scenes(num: int, seed: int = 0) -> tuple[list[str], list[world.Scene]]:
    ids = [digest_bytes(f"recogniser{i}".encode()) for i in range(num)]
    return ids, world.compose(seed, ids)


def test_everything_true_holds() -> None:
    claim = Claim(
        object="circle", count=1, colour="red", size="small", texture="plain", position="top left"
    )
    found = verdict(claim, reading(RED, RING, NONE, NONE))
    assert set(found.values()) == {True}
    assert set(found) == {"object", "count", "position", "colour", "size", "texture"}


def test_only_what_is_said_is_checked() -> None:
    assert verdict(Claim(object="circle"), reading(RED, BLUE, RED, RING)) == {"object": True}


def test_objects_beyond_those_claimed_do_not_count_against_a_picture() -> None:
    claim = Claim(object="circle", count=1, colour="red")
    assert set(verdict(claim, reading(RED, BLUE, RING, SIGN)).values()) == {True}


def test_attributes_must_hold_on_the_same_object() -> None:
    claim = Claim(object="circle", colour="red", size="large")
    found = verdict(claim, reading(RED, BLUE, NONE, NONE))
    assert found["object"]
    assert [found["colour"], found["size"]].count(True) == 1


def test_an_absent_object_fails_in_all_that_is_said_of_it() -> None:
    claim = Claim(object="square", count=2, colour="red", position="top")
    assert set(verdict(claim, reading(RED, RED, NONE, NONE)).values()) == {False}


def test_two_claims_never_share_an_object() -> None:
    claims = [Claim(object="circle", colour="red"), Claim(object="circle", colour="blue")]
    found = verdicts(claims, reading(RED, NONE, NONE, NONE))
    assert [v.is_held for v in found if v.claim == 0] == [True, True]
    assert [v.is_held for v in found if v.claim == 1] == [False, False]


def test_claims_and_objects_are_matched_favourably() -> None:
    claims = [Claim(object="circle", count=1), Claim(object="circle", count=1, colour="red")]
    found = verdicts(claims, reading(RED, BLUE, NONE, NONE))
    assert all(v.is_held for v in found)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("top", True), ("top left", False), ("bottom", False), ("left", False), ("right", False),
    ],
)  # fmt: skip
def test_a_group_stands_where_all_of_it_stands(position: str, expected: bool) -> None:
    claim = Claim(object="circle", count=2, colour="red", position=position)
    assert verdict(claim, reading(RED, RED, NONE, RING))["position"] is expected


def test_a_coarse_place_holds_for_an_object_within_it() -> None:
    found = reading(NONE, RED, NONE, NONE)
    assert holds(Claim(object="circle", position="top"), found, axis="number_place")
    assert holds(Claim(object="circle", position="right"), found, axis="number_place")
    assert not holds(Claim(object="circle", position="left"), found, axis="number_place")


def test_a_wrong_number_fails_and_the_colour_still_holds() -> None:
    claim = Claim(object="circle", count=3, colour="red")
    assert verdict(claim, reading(RED, RED, NONE, NONE)) == {
        "object": True,
        "count": False,
        "colour": True,
    }


def test_a_number_without_colour_counts_all_of_the_kind() -> None:
    claim = Claim(object="circle", count=3)
    assert verdict(claim, reading(RED, BLUE, BLUE, NONE))["count"]
    assert verdict(Claim(object="circle", count=2), reading(RED, BLUE, BLUE, NONE))["count"]


def test_an_attribute_holds_if_most_of_the_objects_have_it() -> None:
    large = Cell("circle", "red", "large", "plain")
    claim = Claim(object="circle", count=3, colour="red", size="small")
    assert verdict(claim, reading(RED, RED, large, NONE))["size"]
    # One is small, or three are circles; never both.
    other = verdict(claim, reading(RED, large, large, NONE))
    assert (other["count"], other["size"]).count(True) == 1


def test_background_and_words() -> None:
    found = reading(NONE, NONE, NONE, SIGN)
    assert verdict(Claim(object="background", colour="grey"), found) == {"background": True}
    assert verdict(Claim(object="background", colour="pink"), found) == {"background": False}
    sign = Claim(object="sign", text="CX", position="bottom right")
    assert verdict(sign, found) == {"object": True, "position": True, "text": True}
    assert holds(Claim(object="sign", text="XC"), found, axis="words") is False


def test_what_is_unread_is_neither_held_nor_refuted() -> None:
    lost = reading(LOST, NONE, NONE, NONE, background=UNREAD)
    claim = Claim(object="circle", count=1, colour="red")
    assert set(verdict(claim, lost).values()) == {None}
    assert verdict(Claim(object="background", colour="grey"), lost) == {"background": None}
    vague = reading(Cell("circle", UNREAD, "small", "plain"), NONE, NONE, NONE)
    assert verdict(claim, vague) == {"object": True, "count": True, "colour": None}
    half = reading(RED, LOST, NONE, NONE)
    assert verdict(Claim(object="circle", count=2), half)["count"] is None
    assert verdict(Claim(object="circle", count=3), half)["count"] is False


def test_an_object_of_another_world_is_not_judged() -> None:
    found = verdict(Claim(object="dog", count=1), reading(RED, NONE, NONE, NONE))
    assert set(found.values()) == {None}


def test_an_axis_of_which_nothing_is_said_has_no_answer() -> None:
    assert holds(Claim(object="circle"), reading(RED, NONE, NONE, NONE), axis="words") is None


def test_tallies_count_held_and_abstained_statements() -> None:
    claims = [Claim(object="circle", count=1, colour="red"), Claim(object="square")]
    found = tally(verdicts(claims, reading(RED, LOST, NONE, NONE)))
    assert found == {
        "objects": Tally(total=2, held=1, abstained=1),
        "number_place": Tally(total=1, held=1, abstained=0),
        "colour_size": Tally(total=1, held=1, abstained=0),
    }


def test_all_true_claims_hold_in_every_layout_that_fits_them() -> None:
    for scene in scenes(300)[1]:
        fitting = layouts(scene.claims)
        assert 1 <= len(fitting) <= recogniser.MAX_LAYOUTS
        for layout in fitting:
            assert all(v.is_held for v in verdicts(scene.claims, layout))


def test_the_layouts_of_claims_contain_the_scene_itself() -> None:
    for scene in scenes(200)[1]:
        shown = {q: g.kind for g in scene.groups for q in g.quadrants}
        if scene.sign_quadrant is not None:
            shown[scene.sign_quadrant] = "sign"
        kinds = tuple(shown.get(q, EMPTY) for q in range(4))
        fitting = [tuple(c.object for c in r.cells) for r in layouts(scene.claims)]
        assert kinds in fitting


@settings(max_examples=30)
@given(st.integers(0, 299), st.integers(0, 299))
def test_another_pictures_claims_never_all_hold_unless_they_are_true(a: int, b: int) -> None:
    drawn = scenes(300)[1]
    true = layouts(drawn[a].claims)[0]
    all_hold = all(v.is_held for v in verdicts(drawn[b].claims, true))
    assert all_hold == any(true == layout for layout in layouts(drawn[b].claims))


def test_every_statement_has_an_axis() -> None:
    assert set(AXIS_OF.values()) == set(AXES)
