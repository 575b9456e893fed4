"""Claims: read from texts, compared, written as JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recap.claims import (
    AXES,
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    OBJECTS,
    POSITIONS,
    SIZES,
    TEXTURES,
    Claim,
    Tally,
    compare,
    from_json,
    read,
    to_json,
    without,
)


def maybe(values):
    return st.none() | st.sampled_from(values)


GROUPS = st.builds(
    Claim,
    object=st.sampled_from(OBJECTS),
    count=maybe([1, 2, 3]),
    colour=maybe(COLOURS),
    size=maybe(SIZES),
    texture=maybe(TEXTURES),
    position=maybe(POSITIONS),
)
SIGNS = st.builds(
    Claim,
    object=st.just("sign"),
    text=st.text(LETTERS, min_size=1, max_size=2),
    position=maybe(POSITIONS),
)
GROUNDS = st.builds(Claim, object=st.just("background"), colour=st.sampled_from(BACKGROUNDS))
CLAIMS = st.lists(GROUPS | SIGNS | GROUNDS, max_size=4)

CIRCLES = Claim(
    object="circle", count=2, colour="red", size="small", texture="striped", position="top"
)
SQUARE = Claim(
    object="square", count=1, colour="blue", size="large", texture="plain", position="bottom left"
)
SIGN = Claim(object="sign", text="CX", position="bottom right")
GREY = Claim(object="background", colour="grey")
TRUTH = [CIRCLES, SQUARE, SIGN, GREY]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two small red striped circles at the top", [CIRCLES]),
        ("At the top there are two small red striped circles.", [CIRCLES]),
        ("a pair of tiny red discs with stripes in the upper half", [CIRCLES]),
        ("Two circles at the top. They are small, red and striped.", [CIRCLES]),
        ("2 little stripy red circles, top", [CIRCLES]),
        (
            "a big solid blue box near the lower left corner, gray backdrop",
            [SQUARE, GREY],
        ),
        ("the background is grey. one large plain blue square in the bottom left", [GREY, SQUARE]),
        ("on grey, a large blue square without stripes bottom left", [GREY, SQUARE]),
        ('a sign in the bottom right reads "CX"', [SIGN]),
        ('the letters "CX" written in the bottom right', [SIGN]),
        ('"CX" on a label in the bottom right', [SIGN]),
        ("a sign in the bottom right that reads c x", [SIGN]),
        (
            "two small red striped circles at the top, a large plain blue square at the bottom "
            'left and a sign saying "CX" at the bottom right on a grey background',
            TRUTH,
        ),
        ("circle", [Claim(object="circle")]),
        ("rings", [Claim(object="ring")]),
        ("IMG_2041", []),
        ("free shipping - buy now", []),
        ("", []),
    ],
)
def test_the_reader_finds_what_a_text_says(text: str, expected: list[Claim]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a a a red red circle circle", 2),
        ("the sign the sign the sign", 1),
        ("a grey circle", 1),
        ('there is a sign at the top left "', 1),
        ("background background is", 0),
        ("red blue top left and and , . two", 0),
    ],
)
def test_malformed_captions_are_read_as_far_as_they_go(text: str, expected: int) -> None:
    assert len(read(text)) == expected


SENTENCE = (
    'a the two grey red small striped circle squares sign background "CX" " reads top left and , . '
    "with stripes behind is are letters without IMG_20 pair of"
)
WORDS = st.sampled_from(SENTENCE.split())


@given(st.text() | st.lists(WORDS, max_size=60).map(" ".join))
@settings(max_examples=100, deadline=None)
def test_the_reader_never_fails(text: str) -> None:
    for claim in read(text):
        assert claim.object in {*OBJECTS, "sign", "background"}


def test_a_text_without_end_is_read_only_to_a_bound() -> None:
    assert len(read("a red circle. " * 100_000)) < 1000


@given(CLAIMS)
def test_json_gives_the_claims_back(claims: list[Claim]) -> None:
    assert from_json(to_json(claims)) == claims


def test_json_leaves_out_what_is_unsaid() -> None:
    assert to_json([GREY]) == '[{"object":"background","colour":"grey"}]'


@pytest.mark.parametrize(
    "text", ['{"object":"ring"}', '[{"colour":"red"}]', '[{"object":"a","b":1}]']
)
def test_json_that_is_not_a_list_of_claims_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="claim"):
        from_json(text)


@given(CLAIMS)
@settings(deadline=None)
def test_saying_the_truth_makes_no_mistake(claims: list[Claim]) -> None:
    for tally in compare(claims, claims).values():
        assert tally.false_positive == tally.false_negative == 0


@given(CLAIMS)
@settings(deadline=None)
def test_saying_nothing_leaves_everything_unsaid(claims: list[Claim]) -> None:
    silent, whole = compare([], claims), compare(claims, claims)
    for axis in AXES:
        assert silent[axis] == Tally(0, 0, whole[axis].true_positive)


@given(CLAIMS, CLAIMS)
@settings(deadline=None)
def test_precision_of_one_side_is_recall_of_the_other(a: list[Claim], b: list[Claim]) -> None:
    there, back = compare(a, b), compare(b, a)
    for axis in AXES:
        # Ties between equally good matches may fall differently, but never in what is stated.
        assert there[axis].true_positive + there[axis].false_positive == (
            back[axis].true_positive + back[axis].false_negative
        )


@given(st.permutations(TRUTH))
def test_the_order_of_what_is_said_does_not_matter(said: list[Claim]) -> None:
    assert compare(said, TRUTH) == compare(TRUTH, TRUTH)


@given(st.lists(st.sampled_from(["count", "colour", "size", "texture", "position"]), unique=True))
def test_what_is_left_out_is_never_a_false_statement(names: list[str]) -> None:
    tallies = compare([without(CIRCLES, *names)], [CIRCLES])
    assert all(tally.false_positive == 0 for tally in tallies.values())
    assert sum(tally.false_negative for tally in tallies.values()) == len(names)


def test_a_wrong_kind_is_one_mistake_and_not_an_invention_of_everything_else() -> None:
    said = Claim(
        object="ring", count=2, colour="red", size="small", texture="striped", position="top"
    )
    tallies = compare([said], [CIRCLES])
    assert tallies["objects"] == Tally(0, 1, 1)
    assert tallies["colour_size"] == Tally(3, 0, 0)
    assert tallies["number_place"] == Tally(2, 0, 0)


def test_an_invented_group_is_false_in_all_that_it_says() -> None:
    tallies = compare([*TRUTH, SQUARE], TRUTH)
    assert tallies["objects"].false_positive == 1
    assert tallies["number_place"].false_positive == 2
    assert tallies["colour_size"].false_positive == 2


def test_to_be_plain_goes_without_saying() -> None:
    plain, unsaid = Claim(object="ring", texture="plain"), Claim(object="ring")
    striped = Claim(object="ring", texture="striped")
    assert compare([unsaid], [plain])["colour_size"] == Tally(0, 0, 0)
    assert compare([unsaid], [striped])["colour_size"] == Tally(0, 0, 1)


def test_a_wrong_background_is_a_mistake_of_objects_and_not_of_colour() -> None:
    tallies = compare([Claim(object="background", colour="pink")], [GREY])
    assert tallies["objects"] == Tally(0, 1, 1)
    assert tallies["colour_size"] == Tally()


def test_wrong_words_are_both_said_falsely_and_left_unsaid() -> None:
    tallies = compare([Claim(object="sign", text="CE", position="bottom right")], [SIGN])
    assert tallies["words"] == Tally(0, 1, 1)
    assert tallies["number_place"] == Tally(1, 0, 0)


def test_a_tally_knows_precision_and_recall() -> None:
    tally = Tally(3, 1, 0) + Tally(0, 0, 3)
    assert tally == Tally(3, 1, 3)
    assert (tally.precision, tally.recall) == (0.75, 0.5)
    assert Tally().precision != Tally().precision  # NaN: nothing was said


def test_a_claim_may_be_placed_by_another_one() -> None:
    claims = [
        Claim(object="teddy bear"),
        Claim(object="dog", position="left of", of=0),
    ]
    assert to_json(claims) == (
        '[{"object":"teddy bear"},{"object":"dog","position":"left of","of":0}]'
    )
    assert from_json(to_json(claims)) == claims


@given(CLAIMS, CLAIMS)
def test_the_worlds_comparison_knows_nothing_of_other_claims(
    said: list[Claim], true: list[Claim]
) -> None:
    placed = [replace(claim, of=0) for claim in said]
    assert compare(placed, [replace(claim, of=0) for claim in true]) == compare(said, true)
