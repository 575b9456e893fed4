from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launch.config import build
from launch.errors import ConfigError, InputError
from recap.claims import Claim
from t2i import questions
from t2i.config import ListConfig
from t2i.lists.asked import MALFORMED, OTHER_TEXT, OWN, UNKNOWN
from t2i.lists.item import PromptList
from t2i.lists.t2i_compbench import CATEGORIES
from t2i.prompt_list import read_list
from t2i.questions import Question

ASKED = [
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad",
    "category_detailed", "tuple", "question_natural_language",
]  # fmt: skip


def read(
    path: Path, format_: str, content: str | bytes | None = None, **settings: Any
) -> PromptList:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    tree = {"path": str(path), "format": format_, **settings}
    return read_list(build(ListConfig, tree, where=""))


def prompts(found: PromptList) -> list[str]:
    return [item.prompt for item in found.items]


def questions_csv(rows: Sequence[Sequence[object]]) -> str:
    """One row a question: item, text, number, dependency."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(ASKED)
    for item, text, number, dependency in rows:
        kind = ("entity", "whole", f"entity - whole (thing {number})")
        writer.writerow([item, text, "thing", number, dependency, *kind, f"Is there {number}?"])
    return out.getvalue()


# --------------------------------------------------------------------------- lines and tables


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_line_is_a_prompt_whatever_ends_it(
    tmp_path: Path, end: str, is_ended: bool, mark: str
) -> None:
    text = mark + end.join(["a dog", "", "a cat\u2028on a mat"]) + (end if is_ended else "")
    found = read(tmp_path / "a.txt", "lines", text)
    assert prompts(found) == ["a dog", "", "a cat\u2028on a mat"]
    assert [(item.key, item.line) for item in found.items] == [("1", 1), ("2", 2), ("3", 3)]
    assert [item.is_blank for item in found.items] == [False, True, False]


def test_a_csv_row_may_span_lines_and_hold_commas(tmp_path: Path) -> None:
    text = 'prompt,category\n"a dog, ""Rex""\non a mat",Animals\n\na car,\n'
    found = read(tmp_path / "a.csv", "csv", text, category_column="category")
    assert prompts(found) == ['a dog, "Rex"\non a mat', "", "a car"]
    assert [(item.key, item.line) for item in found.items] == [("1", 2), ("2", 4), ("3", 5)]
    assert [item.category for item in found.items] == ["Animals", None, None]


def test_quotation_marks_of_tsv_belong_to_the_prompt(tmp_path: Path) -> None:
    text = 'Prompt\tCategory\n"G O" in red\tArts\nsay "no"\tArts\n'
    columns = {"prompt_column": "Prompt", "category_column": "Category"}
    found = read(tmp_path / "a.tsv", "tsv", text, **columns)
    assert prompts(found) == ['"G O" in red', 'say "no"']
    assert {item.category for item in found.items} == {"Arts"}


def test_json_lines_are_read_by_key(tmp_path: Path) -> None:
    lines = [json.dumps({"id": 7 + i, "text": text}) for i, text in enumerate(["é", "b"])]
    columns = {"prompt_column": "text", "key_column": "id"}
    found = read(tmp_path / "a.jsonl", "jsonl", "\n\n".join(lines), **columns)
    assert [(item.key, item.prompt) for item in found.items if not item.is_blank] == [
        ("7", "é"),
        ("8", "b"),
    ]
    assert not found.is_by_number
    assert sum(item.is_blank for item in found.items) == 1


@pytest.mark.parametrize(
    ("format_", "content", "settings", "message"),
    [
        (
            "csv",
            "prompt,b\na,1\nb\n",
            {},
            r"line 3: found 1 cells; expected 2, as in the header: p",
        ),
        ("csv", 'prompt\na\n"b" c\n', {}, r"line 3: found .*; expected a row of CSV"),
        ("csv", 'prompt\na\n"b\n', {}, r"line 3: found .*; expected a row of CSV"),
        ("csv", "text\na\n", {}, r"line 2: found the columns text; expected the column 'prompt'"),
        ("csv", "prompt,prompt\na,b\n", {}, r"line 1: found the header .*; expected distinct"),
        ("csv", "k,prompt\na,b\na,c\n", {"key_column": "k"}, "line 3: found the key 'a', which l"),
        ("csv", "k,prompt\n,b\n", {"key_column": "k"}, "line 2: found no k; expected a key"),
        ("tsv", "prompt\tb\na\t1\t2\n", {}, "line 2: found 3 cells; expected 2"),
        ("jsonl", '{"prompt": "a"}\n{"prompt": \n', {}, "line 2: found .*; expected one JSON obj"),
        ("jsonl", '["a"]\n', {}, "line 1: found a JSON list; expected one JSON object"),
        ("jsonl", '{"prompt": null}\n', {}, "line 1: found prompt: null; expected a text"),
        ("lines", b"a\nb\xff\n", {}, "line 2: found the byte 0xff; expected text in UTF-8"),
        ("lines", "", {}, "0 rows, none with a prompt"),
        ("lines", "\n \n", {}, "2 rows, none with a prompt"),
        ("csv", "prompt\n", {}, "0 rows, none with a prompt"),
        ("dsg", questions_csv([]), {}, "0 rows, none with a prompt"),
    ],
)
def test_a_malformed_list_is_refused_by_file_and_line(
    tmp_path: Path, format_: str, content: str | bytes, settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "the_list"
    with pytest.raises(InputError, match=message) as error:
        read(path, format_, content, **settings)
    assert str(path) in str(error.value)


def test_an_absent_list_is_refused(tmp_path: Path) -> None:
    for format_ in ("lines", "csv", "geneval", "t2i_compbench", "dsg", "dpg"):
        with pytest.raises(InputError, match="nowhere"):
            read(tmp_path / "nowhere", format_)


def test_settings_that_a_format_would_not_heed_are_refused(tmp_path: Path) -> None:
    for settings in ({"key_column": "k"}, {"category_column": "c"}, {"prompt_column": "p"}):
        with pytest.raises(ConfigError, match="format lines has its own"):
            read(tmp_path / "a", "lines", "a", **settings)
    with pytest.raises(ConfigError, match="questions is for format dpg, got format dsg"):
        read(tmp_path / "a", "dsg", "a", questions="b")


# --------------------------------------------------------------------------- GenEval


def geneval(tmp_path: Path, **row: Any) -> list[Claim] | None:
    row = {"tag": "any", "prompt": "a photo", **row}
    (item,) = read(tmp_path / "geneval.jsonl", "geneval", json.dumps(row)).items
    assert item.category == "any"
    return item.claims


def test_one_object_is_claimed_without_a_number(tmp_path: Path) -> None:
    assert geneval(tmp_path, include=[{"class": "cow", "count": 1}]) == [Claim(object="cow")]


def test_a_number_is_claimed_where_one_more_is_too_many(tmp_path: Path) -> None:
    claims = geneval(
        tmp_path,
        include=[{"class": "clock", "count": 2}],
        exclude=[{"class": "clock", "count": 3}],
    )
    assert claims == [Claim(object="clock", count=2)]


def test_a_place_is_relative_to_another_claim(tmp_path: Path) -> None:
    dog = {"class": "dog", "count": 1, "position": ["left of", 0], "color": "brown"}
    claims = geneval(tmp_path, include=[{"class": "teddy bear", "count": 1}, dog])
    assert claims == [
        Claim(object="teddy bear"),
        Claim(object="dog", colour="brown", position="left of", of=0),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"include": []}, "found nothing to include"),
        ({"include": [{"class": "cow"}]}, "found the keys class; expected class, count"),
        ({"include": [{"class": "cow", "count": 0}]}, "found the count 0"),
        ({"include": [{"class": "cow", "count": 2}]}, "at least 2, fewer than any number"),
        ({"include": [{"class": "cow", "count": 1, "size": "big"}]}, "keys class, count, size"),
        ({"include": [{"class": "cow", "count": 1, "position": ["on", 0]}]}, r"position \['on', 0"),
        ({"include": [{"class": "cow", "count": 1, "position": ["above", 0]}]}, "position"),
        ({"include": [{"class": "cow", "count": 1, "position": ["above", 1]}]}, "position"),
        (
            {
                "include": [{"class": "cow", "count": 2}],
                "exclude": [{"class": "cow", "count": 4}],
            },
            "cow: at least 2, fewer than 4",
        ),
        (
            {
                "include": [{"class": "cow", "count": 1}],
                "exclude": [{"class": "dog", "count": 1}],
            },
            "exclude of 'dog'",
        ),
        ({"include": "cow"}, "include: 'cow'"),
        ({"include": [{"class": "cow", "count": 1}], "prompt": " "}, "prompt and tag"),
    ],
)
def test_what_claims_cannot_say_is_refused(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=rf"geneval\.jsonl, line 1: .*{message}"):
        geneval(tmp_path, **row)


# --------------------------------------------------------------------------- folders and questions


def compbench(folder: Path) -> Path:
    folder.mkdir()
    for category in CATEGORIES:
        (folder / f"{category}_val.txt").write_text(f"{category} one\r\n{category} two\r\n")
        (folder / f"{category}_train.txt").write_text("not read\n")
    (folder / "License.txt").write_text("not read\n")
    return folder


def test_every_category_of_a_folder_is_read_from_its_validation_file(tmp_path: Path) -> None:
    found = read(compbench(tmp_path / "bench"), "t2i_compbench")
    assert prompts(found)[:2] == ["color one", "color two"]
    assert [item.key for item in found.items][-1] == "complex:2"
    assert {item.category for item in found.items} == set(CATEGORIES)
    assert len(found.items) == 16


def test_a_folder_that_lacks_a_category_is_refused(tmp_path: Path) -> None:
    folder = compbench(tmp_path / "bench")
    (folder / "shape_val.txt").rename(folder / "form_val.txt")
    with pytest.raises(InputError, match="missing of shape, and not known of form"):
        read(folder, "t2i_compbench")


def test_questions_of_a_prompt_are_gathered_with_what_they_depend_on(tmp_path: Path) -> None:
    rows = [
        ("tifa_1", "a red dog", 1, "0"),
        ("coco_2_9", "a cat", 1, 0),
        ("tifa_1", "a red dog", 2, 1),
    ]
    found = read(tmp_path / "dsg.csv", "dsg", questions_csv(rows))
    assert [(i.key, i.category, i.prompt) for i in found.items] == [
        ("tifa_1", "tifa", "a red dog"),
        ("coco_2_9", "coco_2", "a cat"),
    ]
    asked = found.items[0].questions
    assert asked is not None
    assert [(q.id, q.depends_on) for q in asked] == [(1, ()), (2, (1,))]
    assert (asked[0].kind, asked[0].tuple) == ("entity - whole", "entity - whole (thing 1)")
    assert asked[1].question == "Is there 2?"
    assert not found.notes


@pytest.mark.parametrize(
    ("cell", "depends_on", "rules"),
    [
        ("0,1", (1,), []),
        (" 1 , 2 ", (1, 2), []),
        ("1, 1", (1,), []),
        ("2, right", (), [MALFORMED]),
        ("", (), [MALFORMED]),
        ("1;2", (), [MALFORMED]),
        ("1,3", (1,), [OWN]),
        ("9", (), [UNKNOWN]),
        ("1,3,9", (1,), [OWN, UNKNOWN]),
    ],
)
def test_a_malformed_dependency_is_named_and_its_question_kept(
    tmp_path: Path, cell: str, depends_on: tuple[int, ...], rules: list[str]
) -> None:
    rows = [("a_1", "a", 1, 0), ("a_1", "a", 2, 0), ("a_1", "a", 3, cell)]
    found = read(tmp_path / "dsg.csv", "dsg", questions_csv(rows))
    asked = found.items[0].questions
    assert asked is not None
    assert asked[2].depends_on == depends_on
    assert [note.rule for note in found.notes] == rules
    for note in found.notes:
        assert (note.key, note.line) == ("a_1", 4)
        assert repr(cell) in note.detail


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a_1", "a", 1, 0), ("a_1", "b", 2, 0)], "line 3: found item 'a_1' with another text"),
        ([("a_1", "a", 1, 0), ("a_1", "a", 1, 0)], "line 3: found item 'a_1', proposition 1, whi"),
        ([("a_1", "a", "one", 0)], "line 2: found proposition_id 'one'"),
        ([("", "a", 1, 0)], "line 2: found no item_id"),
    ],
)
def test_questions_that_disagree_are_refused(
    tmp_path: Path, rows: list[tuple[object, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "dsg.csv", "dsg", questions_csv(rows))


def test_a_folder_of_prompts_is_joined_with_its_questions(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "b7.txt").write_text("A cat.\n")
    (folder / "12.txt").write_text("A dog\nin a field.")
    table = tmp_path / "dpg.csv"
    rows = [("12", "A dog in a field.", 1, 0), ("b7", "A hat.", 1, 0), ("b7", "A hat.", 2, "1")]
    table.write_text(questions_csv(rows))
    found = read(folder, "dpg", questions=str(table))
    assert [(item.key, item.prompt) for item in found.items] == [
        ("12", "A dog\nin a field."),
        ("b7", "A cat."),
    ]
    assert [len(item.questions or ()) for item in found.items] == [1, 2]
    assert [(note.key, note.rule) for note in found.notes] == [("b7", OTHER_TEXT)]
    assert read(folder, "dpg").items[0].questions is None
    (folder / "b8.txt").write_text("A hat.")
    with pytest.raises(InputError, match="1 keys are in one of them only, 'b8' first"):
        read(folder, "dpg", questions=str(table))


def test_questions_come_back_as_they_were_written() -> None:
    asked = [
        Question(1, "Is there a dog?", kind="entity", tuple="entity (dog)"),
        Question(2, "Ist er groß?", (1,)),
    ]
    assert questions.from_json(questions.to_json(asked)) == asked
    for text in ("{}", '[{"id": 1}]', '[{"id": 1, "question": "a", "answer": "b"}]'):
        with pytest.raises(ValueError, match="question"):
            questions.from_json(text)
