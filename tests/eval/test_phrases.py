"""Noun phrases from claims, from files and by the rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.phrases import Phrases, by_rule, of_claim, phrases_of, read_phrases
from launch.errors import InputError
from recap.claims import Claim, to_json
from t2i.artifacts import Prompt

LISTS = Path(__file__).parents[2].parent / "shared" / "data" / "prompts" / "t2i_compbench"


def prompt(text: str, *claims: Claim) -> Prompt:
    return Prompt("p", text, "list", "p", to_json(list(claims)) if claims else None)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("The fluffy cat was sleeping on the soft rug.", ["The fluffy cat", "the soft rug"]),
        ("the cat is black", ["the cat"]),
        ("A long, narrow kitchen with white tiles", ["A long narrow kitchen", "white tiles"]),
        ("two dogs, three cats and one ring", ["two dogs", "three cats", "one ring"]),
        ("a frog hidden by a candle", ["a frog", "a candle"]),
        ("a smiling man holding his hat", ["a smiling man", "his hat"]),
        ("cat and dog", ["cat", "dog"]),
        ("a man's well-worn boots", ["a man's well-worn boots"]),
        ("a cat, a cat", ["a cat"]),
        ("It is not there.", []),
        ("", []),
    ],
)
def test_the_rule_cuts_a_text_at_function_words(text: str, phrases: list[str]) -> None:
    assert by_rule(text) == phrases


@pytest.mark.parametrize(
    ("claim", "phrase"),
    [
        (Claim(object="square", colour="red", size="large"), "a large red square"),
        (Claim(object="umbrella"), "an umbrella"),
        (Claim(object="bench", colour="orange"), "an orange bench"),
        (Claim(object="bench", count=2, colour="red"), "two red benches"),
        (Claim(object="cherry", count=12), "12 cherries"),
        (Claim(object="toy", count=3, texture="striped"), "three striped toys"),
        (Claim(object="dog", count=1), "a dog"),
        (Claim(object="sign", text="E"), None),
    ],
)
def test_a_claim_is_one_phrase(claim: Claim, phrase: str | None) -> None:
    assert of_claim(claim) == phrase


def test_phrases_come_from_a_file_then_from_claims_then_from_the_rule() -> None:
    claimed = prompt("a dog", Claim(object="cat"), Claim(object="cat"))
    assert phrases_of(claimed, text="a dog") == Phrases(("a cat",), "claims")
    assert phrases_of(prompt("a dog"), text="a red dog") == Phrases(("a red dog",), "rule")
    of_words = prompt("a sign", Claim(object="sign", text="E"))
    assert phrases_of(of_words, text="a sign") == Phrases(("a sign",), "rule")
    given = {"a dog": ["the dog"]}
    assert phrases_of(claimed, text="a dog", given=given) == Phrases(("the dog",), "file")
    assert phrases_of(claimed, text="another", given=given) == Phrases((), "file")


def test_every_form_of_a_file_says_the_same(tmp_path: Path) -> None:
    given = {"a dog, and a cat": ["a dog", "a cat"], "rain": []}
    (tmp_path / "a.json").write_text(json.dumps(given))
    lines = [json.dumps({"prompt": p, "phrases": of}) for p, of in given.items()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "a.csv").write_text('prompt,phrases\n"a dog, and a cat",a dog|a  cat\nrain,\n')
    for name in ("a.json", "a.jsonl", "a.csv"):
        assert read_phrases(tmp_path / name) == given


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "[1]", "expected a JSON object"),
        ("a.json", '{"a dog": "a dog"}', "entry 1 is 'a dog'"),
        ("a.jsonl", '{"prompt": "a", "phrases": [""]}', "entry 1 is 'a'"),
        ("a.jsonl", "[]", "an object|a JSON object"),
        ("a.jsonl", '{"prompt": "a", "phrases": []}\n{"prompt": "a", "phrases": []}', "twice"),
        ("a.txt", "a", "ends in '.txt'"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_phrases(tmp_path / name)


@pytest.mark.skipif(not LISTS.is_dir(), reason="the public lists are not here")
def test_two_things_of_a_public_list_are_two_phrases() -> None:
    lines = [line.strip() for line in (LISTS / "color_val.txt").read_text().splitlines()]
    plain = [line for line in lines if len(line.split()) == 7 and " and a " in line]
    assert len(plain) > 100
    for line in plain:
        assert by_rule(line) == line.split(" and "), line
