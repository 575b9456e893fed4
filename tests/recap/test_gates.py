"""Named rules for a bad caption."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.config import recipe_of
from launch.errors import ConfigError, StoppedError
from launch.manifest import digest_bytes
from recap.config import RULE_NAMES, SCRIPTS, SCRIPTS_WITHOUT_BLANKS, GateConfig
from recap.gates import (
    RULES,
    SAME_TEXT,
    SCRIPT_FAMILIES,
    Written,
    broken_rules,
    broken_rules_of_part,
    share_of_other_scripts,
    stop_if_too_many,
    words_of,
)
from recap.sources.scenes import language, world

LIMITS = GateConfig(min_words=2, max_words=12, max_repeats=3)


@pytest.mark.parametrize(
    ("text", "stop_reason", "rules"),
    [
        ("a red circle at the top", "end", []),
        ("", "end", ["empty"]),
        (" \n", "end", ["empty", "broken_text"]),
        ("circle", "end", ["too_short"]),
        ("one two three four five six seven eight nine ten eleven twelve 13", "end", ["too_long"]),
        ("a red red red circle", "end", ["loop"]),
        ("a ring, a ring, A RING. and", "end", ["loop"]),
        ("a ring, a ring, and a cross", "end", []),
        ("a red circle at", "length", ["unfinished"]),
        ("a red \ufffd circle", "end", ["broken_text"]),
        ("red red red", "length", ["loop", "unfinished"]),
    ],
)
def test_a_caption_is_flagged_with_every_rule_that_it_breaks(
    text: str, stop_reason: str, rules: list[str]
) -> None:
    assert broken_rules(text, stop_reason=stop_reason, limits=LIMITS) == rules


def test_every_rule_has_an_example_that_breaks_it() -> None:
    limits = replace(LIMITS, script="latin", required_words=["ring"], max_pictures_per_text=1)
    bad = [
        ("", "end"), ("x", "end"), ("x " * 20, "length"), ("a \x00 b", "end"),
        ("I cannot see the image", "end"), ("here is the caption: a ring", "end"), ("12 34", "end"),
        ("\u043a\u043e\u0442 ring", "end"), ("two men", "end"), ("two men", "end"),
    ]  # fmt: skip
    flags = broken_rules_of_part([Written(*caption) for caption in bad], limits=limits)
    assert {rule for broken in flags for rule in broken} == set(RULE_NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with identifying people.",
        "I\u2019m unable to view the picture.",
        "Sorry, I cannot describe this image.",
        "As an AI language model, I have no eyes.",
        "No image was provided.",
        "Please upload the image and I will describe it.",
        "I do not have access to the photo.",
    ],
)
def test_a_text_in_which_the_writer_declines_is_a_refusal(text: str) -> None:
    assert broken_rules(text, stop_reason="end", limits=GateConfig()) == ["refusal"]


@pytest.mark.parametrize(
    "text",
    [
        "Sure! A dog on a sofa.",
        "Here is a detailed description of the image: a dog.",
        "Caption: a dog on a sofa",
        "A dog on a sofa. Let me know if you need more detail.",
        "dog on a sofa - stock photo",
        "A dog. All rights reserved.",
        "see www.dogs.com for more",
    ],
)
def test_words_around_a_caption_are_boilerplate(text: str) -> None:
    assert broken_rules(text, stop_reason="end", limits=GateConfig()) == ["boilerplate"]


@pytest.mark.parametrize(
    "text",
    [
        'A sign that says "sorry, I cannot help" beside a road.',
        "A poster with the words \u201cclick here\u201d on it.",
        "A man who looks sorry for the dog that cannot see.",
        "I see a dog and I think it is tired.",
        "People provide food; a child can't reach the shelf.",
        "A caption below the photograph of a stock car on a race track.",
        "Of course the river bends here, and a boat is unable to turn.",
        "A stock of photos lies on a table, with a web page on a screen.",
    ],
)
def test_ordinary_captions_neither_refuse_nor_advertise(text: str) -> None:
    assert broken_rules(text, stop_reason="end", limits=GateConfig()) == []


ADVERTISEMENTS = ("stock image", "free shipping", "click here")


@pytest.mark.parametrize("style", language.STYLES)
def test_no_text_of_the_world_is_refused_but_its_advertisements(style: language.Style) -> None:
    ids = [digest_bytes(str(i).encode()) for i in range(200)]
    claims = [scene.claims for scene in world.compose(0, ids)]
    texts = language.write_all(claims, style, sample_ids=ids, seed=0)
    flagged = Counter(
        rule
        for text in texts
        if not any(phrase in text.lower() for phrase in ADVERTISEMENTS)
        for rule in broken_rules(text, stop_reason="end", limits=GateConfig(script="latin"))
    )
    assert not flagged


@pytest.mark.parametrize(
    ("text", "family", "share"),
    [
        ("a cat", "latin", 0.0),
        ("\u043a\u043e\u0442", "latin", 1.0),
        ("\u043a\u043e\u0442", "cyrillic", 0.0),
        ("\u732b\u3068\u30cd\u30b3", "cjk", 0.0),
        ("ab\u732b\u732b", "cjk", 0.5),
        ("\uff43\uff41\uff54 5 \xb5m", "latin", 0.2),  # wide letters are Latin, a mu is Greek
        ("12 - 34", "latin", 0.0),
    ],
)
def test_letters_of_another_script_are_counted(text: str, family: str, share: float) -> None:
    assert share_of_other_scripts(text, family) == share


def test_required_words_are_found_whole_and_in_any_case() -> None:
    limits = GateConfig(required_words=["photo of", "sks"])
    good, partly, inside = "A Photo, of (SKS) dog", "a photo of a dog", "a photo of asksa"
    assert broken_rules(good, stop_reason="end", limits=limits) == []
    assert broken_rules(partly, stop_reason="end", limits=limits) == ["missing_words"]
    assert broken_rules(inside, stop_reason="end", limits=limits) == ["missing_words"]


CAT = "\u4e00\u53ea\u732b\u5750\u5728\u6c99\u53d1\u4e0a"  # a cat sits on the sofa
DOG = "\u4e00\u53ea\u72d7\u5728\u8dd1"  # a dog is running
THAI_CAT = "\u0e41\u0e21\u0e27\u0e19\u0e31\u0e48\u0e07"  # a cat sits
BLUE, CYAN = "\u0e2a\u0e35\u0e1f\u0e49\u0e32", "\u0e2a\u0e35\u0e1f\u0e32"  # one tone mark apart


def broken(text: str, **limits: Any) -> list[str]:
    return broken_rules(text, stop_reason="end", limits=GateConfig(**limits))


def test_a_chinese_phrase_over_and_over_is_a_loop() -> None:
    assert broken(CAT * 30, script="cjk", max_words=1000) == ["loop"]
    assert broken(f"{CAT}\uff0c" * 30, script="cjk", max_words=1000) == ["loop"]
    assert broken(f"{CAT}\uff0c{DOG}\u3002" * 5, script="cjk") == ["loop"]
    assert broken(THAI_CAT * 4, script="thai") == ["loop"]
    assert broken(f"{CAT}\uff0c{DOG}\u3002", script="cjk") == []


def test_letters_are_counted_where_no_blank_stands_between_words() -> None:
    assert broken(f"{CAT}\u3002", script="cjk", min_words=5) == []
    assert broken(f"{CAT}\u3002", script="cjk", min_words=8, max_words=8) == []
    assert broken(f"{CAT}\u3002", script="cjk", max_words=7) == ["too_long"]
    assert broken(CAT[:4], script="cjk", min_words=5) == ["too_short"]
    assert broken(THAI_CAT, script="thai", min_words=5, max_words=5) == []  # marks are no letters
    assert broken(CAT, min_words=5) == broken(CAT, script="latin", min_words=5)[:1] == ["too_short"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u4e24\u53ea cats", ["\u4e24", "\u53ea", "cats"]),
        ("\u5e742024\u5e74", ["\u5e74", "2024", "\u5e74"]),
        ("\uff76\uff9e\u4eba\u3005", ["\u30ac", "\u4eba", "\u3005"]),  # composed; iteration
        (
            "\uace0\uc591\uc774 \ud55c \ub9c8\ub9ac",
            ["\uace0\uc591\uc774", "\ud55c", "\ub9c8\ub9ac"],
        ),
        ("\u3002\u3002", ["\u3002\u3002"]),
        ("", []),
    ],
)
def test_digits_other_scripts_and_korean_keep_their_words(text: str, words: list[str]) -> None:
    assert words_of(text, GateConfig(script="cjk")) == words


def test_required_words_are_found_where_no_blank_stands_between_words() -> None:
    chinese: dict[str, Any] = {"script": "cjk", "max_other_script_share": 0.5}
    assert broken(CAT, **chinese, required_words=["\u732b"]) == []
    assert broken(f"SKS{CAT}", **chinese, required_words=["sks", "\u6c99\u53d1"]) == []
    assert broken(CAT, **chinese, required_words=["\u72d7"]) == ["missing_words"]
    assert broken(BLUE, script="thai", required_words=[BLUE]) == []
    assert broken(BLUE, script="thai", required_words=[CYAN]) == ["missing_words"]


@pytest.mark.parametrize("script", [None, *sorted(set(SCRIPTS) - set(SCRIPTS_WITHOUT_BLANKS))])
def test_words_and_recipes_of_scripts_with_blanks_are_as_they_always_were(
    script: str | None,
) -> None:
    limits = GateConfig(script=script)
    assert recipe_of(limits) == {
        "rules": None, "min_words": 1, "max_words": 200, "max_repeats": 4, "script": script,
        "max_other_script_share": 0.2, "required_words": [], "max_pictures_per_text": None,
    }  # fmt: skip
    assert words_of(f"a \uff43at, {CAT}\u3000\u3002", limits) == ["a", "\uff43at,", CAT, "\u3002"]


@pytest.mark.parametrize("script", SCRIPTS_WITHOUT_BLANKS)
def test_a_recipe_says_that_letters_count_as_words(script: str) -> None:
    assert recipe_of(GateConfig(script=script))["words"] == "letters"


def test_a_text_on_more_pictures_than_allowed_is_flagged_on_all_of_them() -> None:
    part = [Written(t, "end") for t in ("a ring", "A  ring", "a ring", "a cross", "a cross", "")]
    flags = broken_rules_of_part(part, limits=GateConfig(max_pictures_per_text=2))
    assert flags == [[SAME_TEXT]] * 3 + [[], [], ["empty"]]


@given(st.permutations(["a ring"] * 3 + ["a cross"] * 2 + ["I cannot see it"]))
def test_the_order_of_a_part_changes_no_flag(texts: list[str]) -> None:
    limits = GateConfig(max_pictures_per_text=2)
    flags = broken_rules_of_part([Written(text, "end") for text in texts], limits=limits)
    expected = {"a ring": [SAME_TEXT], "a cross": [], "I cannot see it": ["refusal"]}
    assert flags == [expected[text] for text in texts]


def test_equal_captions_are_accepted_unless_a_limit_is_given() -> None:
    part = [Written("a ring", "end")] * 50
    assert not any(broken_rules_of_part(part, limits=GateConfig()))
    others = GateConfig(max_pictures_per_text=1, rules=["empty"])
    assert not any(broken_rules_of_part(part, limits=others))


def stop(num_captions: int, num_gated: int, *, is_final: bool) -> None:
    stop_if_too_many(
        where="runs/captions",
        num_captions=num_captions,
        gated={"loop": num_gated},
        num_gated=num_gated,
        limits=GateConfig(max_gated_share=0.1),
        is_final=is_final,
    )


def test_a_gated_share_above_the_limit_stops_the_job() -> None:
    with pytest.raises(StoppedError, match=r"runs/captions: 11 of 100.*loop 11.*max_gated_share"):
        stop(100, 11, is_final=True)


def test_a_gated_share_at_the_limit_does_not_stop_the_job() -> None:
    stop(100, 10, is_final=True)
    stop(0, 0, is_final=True)


def test_a_few_captions_do_not_stop_a_job_that_has_only_begun() -> None:
    stop(100, 50, is_final=False)
    with pytest.raises(StoppedError):
        stop(1000, 500, is_final=False)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_repeats"):
        GateConfig(max_repeats=1)
    with pytest.raises(ConfigError, match="max_gated_share"):
        GateConfig(max_gated_share=1.5)
    with pytest.raises(ConfigError, match="'klingon', expected one of arabic, cjk"):
        GateConfig(script="klingon")
    with pytest.raises(ConfigError, match="max_other_script_share"):
        GateConfig(max_other_script_share=-0.1)
    with pytest.raises(ConfigError, match="every entry needs a word"):
        GateConfig(required_words=["?"])
    with pytest.raises(ConfigError, match="max_pictures_per_text must be at least 1"):
        GateConfig(max_pictures_per_text=0)


def test_settings_know_the_rules_by_name() -> None:
    assert (*RULES, SAME_TEXT) == RULE_NAMES
    assert tuple(sorted(SCRIPT_FAMILIES)) == SCRIPTS
    with pytest.raises(ConfigError, match="unknown rule 'lopp'"):
        GateConfig(rules=["lopp"])
    looping = "a man with a hat with a hat with a hat with a hat with a hat"
    assert broken_rules(looping, stop_reason="end", limits=GateConfig()) == ["loop"]
    assert broken_rules(looping, stop_reason="end", limits=GateConfig(rules=["empty"])) == []
