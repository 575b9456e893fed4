from __future__ import annotations

import pytest

from recap.claims import Claim, read
from t2i.config import RewriteLimits
from t2i.rewrite_rules import broken_rules, losses

WIDE = RewriteLimits(min_words=1, max_words=100)


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        ("The picture shows two small red rings at the top left. The background is grey.", []),
        ("The picture shows two small red rings. The background is grey.", ["lost_claims"]),
        ("The picture shows three small red rings at the top left.", ["lost_claims"]),
        ("The picture shows two small blue rings at the top left.", ["lost_claims"]),
        ("The picture shows two small red circles at the top left.", ["lost_claims"]),
    ],
)
def test_a_rewrite_of_the_embedded_world_may_add_claims_and_lose_none(
    rewrite: str, expected: list[str]
) -> None:
    original = "a pair of tiny red hoops near the top left corner"
    assert losses(rewrite, original=original, claims=read(original)) == expected


def test_a_displayed_word_is_a_claim_like_any_other() -> None:
    original = 'a red ring and a sign that says "CX"'
    kept, lost = 'There is a red ring. A sign reads "CX".', 'There is a red ring. A sign reads "C".'
    assert losses(kept, original=original, claims=read(original)) == []
    assert "lost_claims" in losses(lost, original=original, claims=read(original))


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        ('On a table, 2 Dogs sit under a lamp beside the sign "OPEN", and it rains.', []),
        ('Two dogs\u2019 owner under a lamp, with a sign of "OPEN".', []),
        ('A dog under a lamp and a sign, "OPEN".', ["lost_numbers"]),
        ("Two dogs under a lamp and a sign, open.", ["lost_quoted"]),
        ('Two dogs above a lamp and a sign, "OPEN".', ["lost_words"]),
        ('Two dogs under a lamp, a sign "OPEN" and one "EXIT".', ["added_quoted"]),
        (
            'Three cats above it, "CLOSED".',
            ["lost_quoted", "lost_numbers", "lost_words", "added_quoted"],
        ),
    ],
)
def test_words_decide_where_no_claims_are_known(rewrite: str, expected: list[str]) -> None:
    original = 'please draw two dogs under the lamp with a sign "OPEN"'
    assert losses(rewrite, original=original, claims=None) == expected


def test_what_is_denied_stays_denied() -> None:
    assert losses("a street full of cars", original="a street without cars", claims=None)
    assert losses("a dog that runs", original="a dog that does not run", claims=None)


def test_words_decide_where_claims_are_not_what_the_reader_reads() -> None:
    claims = [Claim(object="dog", count=2)]
    assert losses("two dogs in a park", original="two dogs", claims=claims) == []
    assert losses("two cats in a park", original="two dogs", claims=claims) == ["lost_words"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["empty"]),
        ("a dog", ["too_short"]),
        ("dog " + "and a very long list of more animals, " * 2, ["too_long"]),
        ("a dog runs runs runs runs home", ["loop"]),
        ("Here is the description: a dog", ["preamble"]),
        ("a dog runs all the way home", []),
    ],
)
def test_every_rule_about_form_has_a_text_that_breaks_it(text: str, expected: list[str]) -> None:
    limits = RewriteLimits(min_words=4, max_words=12)
    assert broken_rules(text, original="a dog", claims=None, limits=limits) == expected


def test_a_text_is_its_own_faithful_rewrite() -> None:
    for text in ("three violet boxes down the left side", "Ella's 12 cats, 'meow'", "IMG_2041"):
        claims = read(text)
        assert broken_rules(text, original=text, claims=claims, limits=WIDE) == []


def test_words_that_nobody_asked_for_are_no_part_of_a_rewrite_with_claims() -> None:
    original = "a red ring"
    claims = read(original)
    assert claims
    text = "the picture shows a red ring"
    assert losses(text, original=original, claims=claims) == []
    added = losses(f"{text} and a sign saying \u201eSTOP\u201d", original=original, claims=claims)
    assert added == ["added_quoted"]
