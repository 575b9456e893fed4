"""Named rules for a bad caption."""

from __future__ import annotations

import pytest

from launch.errors import ConfigError, StoppedError
from recap.config import RULE_NAMES, GateConfig
from recap.gates import RULES, broken_rules, stop_if_too_many

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
    bad = [("", "end"), ("x", "end"), ("x " * 20, "length"), ("a \x00 b", "end")]
    flagged = {
        rule
        for text, reason in bad
        for rule in broken_rules(text, stop_reason=reason, limits=LIMITS)
    }
    assert flagged == set(RULES)


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


def test_settings_know_the_rules_by_name() -> None:
    assert tuple(RULES) == RULE_NAMES
    with pytest.raises(ConfigError, match="unknown rule 'lopp'"):
        GateConfig(rules=["lopp"])
    looping = "a man with a hat with a hat with a hat with a hat with a hat"
    assert broken_rules(looping, stop_reason="end", limits=GateConfig()) == ["loop"]
    assert broken_rules(looping, stop_reason="end", limits=GateConfig(rules=["empty"])) == []
