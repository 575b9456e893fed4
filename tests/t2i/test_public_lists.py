"""The public lists themselves, where they are at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from launch.config import build
from recap.claims import Claim, from_json, to_json
from t2i.config import ListConfig
from t2i.lists.item import PromptList
from t2i.lists.t2i_compbench import CATEGORIES
from t2i.prompt_list import pair, read_list, refuse_unequal

LISTS = Path(__file__).parents[2].parent / "shared" / "data" / "prompts"

pytestmark = pytest.mark.skipif(not LISTS.is_dir(), reason="needs the public lists")


def read(name: str, format_: str, **settings: Any) -> PromptList:
    return read_list(
        build(ListConfig, {"path": str(LISTS / name), "format": format_, **settings}, where="")
    )


def test_drawbench_has_200_prompts_in_11_categories_and_their_rewritten_ones() -> None:
    original = read("drawbench/drawbench_with_category.csv", "csv", category_column="category")
    rewritten = read("drawbench/drawbench_upsampled.txt", "lines")
    plain = read("drawbench/drawbench.txt", "lines")
    assert [i.prompt for i in original.items] == [i.prompt for i in plain.items]
    lists = {"original": original, "rewritten": rewritten}
    refuse_unequal(lists)
    pairs = pair(lists)
    assert len(pairs.items) == 200
    assert not pairs.counts
    categories = Counter(of["rewritten"].category for of in pairs.items.values())
    assert (len(categories), categories["Colors"], categories["Reddit"]) == (11, 25, 38)
    begins = [
        of["rewritten"].prompt.startswith(of["original"].prompt) for of in pairs.items.values()
    ]
    assert sum(begins) == 199


def test_the_dalle3_list_has_170_prompts() -> None:
    found = read("dalle3_eval/dalle3_eval.txt", "lines")
    assert len({item.prompt for item in found.items}) == len(found.items) == 170
    assert not any(item.is_blank for item in found.items)


def test_21_of_8213_coco_captions_are_blank_and_hold_their_place() -> None:
    found = read("dalle3_eval/8k_coco.txt", "lines")
    assert len(found.items) == 8213
    blank = [item.line for item in found.items if item.is_blank]
    assert (len(blank), blank[:2], blank[-1]) == (21, [357, 378], 7979)
    assert found.items[-1].key == "8213"


def test_geneval_has_553_prompts_in_six_tasks_and_claims_for_all() -> None:
    found = read("geneval/evaluation_metadata.jsonl", "geneval")
    assert Counter(item.category for item in found.items) == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    claims = {
        task: [item.claims or [] for item in found.items if item.category == task]
        for task in ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    }
    assert {len(said) for said in claims["single_object"]} == {1}
    assert {len(said) for said in claims["two_object"]} == {2}
    assert Counter(said[0].count for said in claims["counting"]) == {3: 28, 2: 26, 4: 26}
    for task in claims.keys() - {"counting"}:
        assert {claim.count for said in claims[task] for claim in said} == {None}
    assert all(said[0].colour for said in claims["colors"])
    assert all(said[0].colour and said[1].colour for said in claims["color_attr"])
    places = Counter(said[1].position for said in claims["position"])
    assert places == {"below": 28, "right of": 27, "above": 26, "left of": 19}
    assert {said[1].of for said in claims["position"]} == {0}
    for item in found.items:
        assert item.claims is not None
        assert from_json(to_json(item.claims)) == item.claims
    dog = next(i for i in found.items if i.prompt == "a photo of a dog right of a teddy bear")
    assert dog.claims == [
        Claim(object="teddy bear"),
        Claim(object="dog", position="right of", of=0),
    ]


def test_t2i_compbench_has_300_prompts_in_each_of_8_categories() -> None:
    found = read("t2i_compbench", "t2i_compbench")
    assert Counter(item.category for item in found.items) == dict.fromkeys(CATEGORIES, 300)
    assert not any("\r" in item.prompt or item.is_blank for item in found.items)


def test_partiprompts_has_1632_prompts_in_12_categories() -> None:
    columns = {"prompt_column": "Prompt", "category_column": "Category"}
    found = read("partiprompts/PartiPrompts.tsv", "tsv", **columns)
    categories = Counter(item.category for item in found.items)
    assert (len(found.items), len(categories)) == (1632, 12)
    assert (categories["Animals"], categories["Indoor Scenes"]) == (314, 40)
    assert sum(item.prompt.startswith('"G I G G L E" painted') for item in found.items) == 1


def test_dsg1k_has_1060_prompts_and_8182_questions_of_which_62_cells_are_noted() -> None:
    found = read("dsg1k/dsg-1k-anns.csv", "dsg")
    assert len(found.items) == 1060
    assert len({item.category for item in found.items}) == 10
    asked = [question for item in found.items for question in item.questions or ()]
    assert len(asked) == 8182
    assert Counter(note.rule for note in found.notes) == {
        "malformed_dependency": 10,
        "own_dependency": 44,
        "unknown_dependency": 8,
    }
    first = next(note for note in found.notes if note.rule == "malformed_dependency")
    assert (first.key, first.line, first.detail) == ("posescript_69", 185, "question 9: '5, right'")
    for item in found.items:
        known = {question.id for question in item.questions or ()}
        for question in item.questions or ():
            assert set(question.depends_on) <= known - {question.id}
