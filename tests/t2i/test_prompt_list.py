from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.config import build, shipped_configs
from launch.errors import ArtifactError, ConfigError, InputError
from launch.run import Run, refuse_stale
from recap import claims
from recap.claims import Claim
from t2i import questions
from t2i.artifacts import Prompts, open_generations, open_prompts, pair_id_of, prompt_id
from t2i.config import PromptListConfig
from t2i.lists.item import Item, PromptList
from t2i.prompt_list import pair, prompt_list, refuse_unequal, source_digest


def configure(lists: dict[str, dict[str, Any]], **settings: Any) -> PromptListConfig:
    return build(PromptListConfig, {"name": "the list", "lists": lists, **settings}, where="")


def make(out: Path, lists: dict[str, dict[str, Any]], **settings: Any) -> Prompts:
    cfg = configure(lists, **settings)
    run = Run(out=out, verb="t2i prompt-list", config=cfg)
    try:
        prompt_list(cfg, run)
    finally:
        run.close()
    return open_prompts(out)


def lines(path: Path, *texts: str) -> dict[str, Any]:
    path.write_text("".join(f"{text}\n" for text in texts))
    return {"path": str(path), "format": "lines"}


def test_rows_with_one_number_are_one_pair(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("prompt,kind\na dog,animals\na car,things\n")
    original = {"path": str(table), "format": "csv", "category_column": "kind"}
    rewritten = lines(tmp_path / "b.txt", "a dog, brown", "a car, red")
    made = make(tmp_path / "out", {"original": original, "rewritten": rewritten})
    assert made.styles == ["original", "rewritten"]
    originals, others = made.texts("original"), made.texts("rewritten")
    assert originals.keys() == others.keys()
    assert {originals[key]: others[key] for key in originals} == {
        "a dog": "a dog, brown",
        "a car": "a car, red",
    }
    by_text = {row.prompt: row for row in made.rows}
    assert by_text["a dog, brown"].category == by_text["a dog"].category == "animals"
    for row in made.rows:
        assert row.prompt_id == prompt_id(style=row.style, pair_id=row.pair_id, prompt=row.prompt)
        assert len(row.pair_id) == 32
    assert made.manifest.counts["rows_in"] == made.manifest.counts["rows_out"] == 4


def test_a_pair_is_known_by_the_lists_name_and_its_key_alone(tmp_path: Path) -> None:
    first = make(tmp_path / "1", {"a": lines(tmp_path / "a.txt", "x", "y", "z")})
    other = make(tmp_path / "2", {"b": lines(tmp_path / "b.txt", "z", "y")}, seed=5)
    ids = {row.prompt: row.pair_id for row in first.rows}
    assert ids["y"] == {row.prompt: row.pair_id for row in other.rows}["y"]
    assert ids["z"] == pair_id_of(name="the list", key="3") != pair_id_of(name="other", key="3")


def test_a_blank_line_holds_its_place_and_is_counted(tmp_path: Path) -> None:
    lists = {
        "original": lines(tmp_path / "a.txt", "a", "", "c", "d"),
        "rewritten": lines(tmp_path / "b.txt", "a!", "b!", "c!", " "),
    }
    made = make(tmp_path / "out", lists)
    assert {row.prompt for row in made.rows} == {"a", "a!", "c", "c!"}
    manifest = made.manifest
    assert manifest.rejected == {"blank": 2, "missing_original": 1, "missing_rewritten": 1}
    assert manifest.counts["rows_in"] == 8 == 4 + sum(manifest.rejected.values())
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert [(i["style"], i["line"], i["rejected"]) for i in items if i["rejected"]] == [
        ("original", 2, "blank"),
        ("original", 4, "missing_rewritten"),
        ("rewritten", 2, "missing_original"),
        ("rewritten", 4, "blank"),
    ]
    alone = make(tmp_path / "alone", {"original": lists["original"]})
    assert {row.pair_id for row in made.rows} < {row.pair_id for row in alone.rows}


texts_of_two = st.lists(st.tuples(st.sampled_from(["", " ", "a", "b"]), st.sampled_from(["", "c"])))


@given(texts_of_two)
@settings(max_examples=50)
def test_blanks_never_move_what_stands_behind_them(rows: list[tuple[str, str]]) -> None:
    lists = {
        style: PromptList(
            path=Path(style),
            items=[
                Item(key=str(n), prompt=row[column], line=n) for n, row in enumerate(rows, start=1)
            ],
            is_by_number=True,
        )
        for column, style in enumerate(("one", "two"))
    }
    refuse_unequal(lists)
    pairs = pair(lists)
    kept = [key for key, rule in pairs.rejected.items() if rule is None]
    assert kept == [str(n) for n, row in enumerate(rows, 1) if row[0].strip() and row[1].strip()]
    for key in kept:
        assert tuple(item.prompt for item in pairs.items[key].values()) == rows[int(key) - 1]
    num_blank = sum(not text.strip() for row in rows for text in row)
    assert pairs.counts.get("blank", 0) == num_blank
    assert 2 * len(rows) == 2 * len(kept) + sum(pairs.counts.values())


def test_lists_of_unequal_length_are_not_paired_row_by_row(tmp_path: Path) -> None:
    lists = {"a": lines(tmp_path / "a.txt", "x", "y"), "b": lines(tmp_path / "b.txt", "x")}
    with pytest.raises(InputError, match=r"different numbers of rows: a 2 .*b 1 .*blank line"):
        make(tmp_path / "out", lists)
    assert not (tmp_path / "out").exists()


def test_lists_with_keys_are_paired_by_key_in_any_order(tmp_path: Path) -> None:
    lists = {}
    for style, rows in {"a": [("k1", "x"), ("k2", "y")], "b": [("k2", "Y"), ("k3", "Z")]}.items():
        path = tmp_path / f"{style}.jsonl"
        path.write_text("".join(json.dumps({"id": k, "prompt": p}) + "\n" for k, p in rows))
        lists[style] = {"path": str(path), "format": "jsonl", "key_column": "id"}
    made = make(tmp_path / "out", lists)
    assert [(row.style, row.prompt) for row in made.rows] == [("a", "y"), ("b", "Y")]
    assert made.manifest.rejected == {"missing_a": 1, "missing_b": 1}


def test_lists_that_share_no_key_are_refused(tmp_path: Path) -> None:
    lists = {}
    for style in ("a", "b"):
        (tmp_path / style).write_text(f"k,prompt\n{style},x\n")
        lists[style] = {"path": str(tmp_path / style), "format": "csv", "key_column": "k"}
    with pytest.raises(InputError, match="0 items have a prompt in every style"):
        make(tmp_path / "out", lists)


def test_smaller_choices_nest_and_the_others_are_counted(tmp_path: Path) -> None:
    lists = {"a": lines(tmp_path / "a.txt", *"abcdefgh")}
    few, many = (make(tmp_path / str(n), lists, num_pairs=n) for n in (3, 6))
    assert few.pair_ids == many.pair_ids[:3]
    assert few.manifest.rejected == {"not_chosen": 5}
    with pytest.raises(InputError, match=r"8 items .* expected at least 9"):
        make(tmp_path / "9", lists, num_pairs=9)


def test_what_the_list_says_of_a_pair_holds_for_its_rewritten_prompt(tmp_path: Path) -> None:
    path = tmp_path / "geneval.jsonl"
    row = {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a cow"}
    path.write_text(json.dumps(row))
    rewritten = lines(tmp_path / "b.txt", "a brown cow on a wide meadow")
    made = make(tmp_path / "out", {"a": {"path": str(path), "format": "geneval"}, "b": rewritten})
    for found in made.rows:
        assert found.claims is not None
        assert claims.from_json(found.claims) == [Claim(object="cow")]
        assert found.category == "single_object"


def test_notes_are_written_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "dsg.csv"
    head = "item_id,text,proposition_id,dependency,category_broad,category_detailed,tuple,question_"
    rows = ["s_1,a dog,1,0,entity,whole,t,A dog?", 's_1,a dog,2,"1, up",entity,whole,t,Up?']
    path.write_text("\n".join([f"{head}natural_language", *rows]))
    made = make(tmp_path / "out", {"original": {"path": str(path), "format": "dsg"}})
    assert made.manifest.counts["malformed_dependency"] == 1
    assert made.manifest.counts["questions"] == 2
    (note,) = pq.read_table(tmp_path / "out" / "notes.parquet").to_pylist()
    assert (note["key"], note["line"], note["rule"]) == ("s_1", 3, "malformed_dependency")
    (prompt,) = made.rows
    assert prompt.questions is not None
    assert [q.depends_on for q in questions.from_json(prompt.questions)] == [(), ()]


def test_no_path_enters_the_recipe_and_another_list_is_noticed(tmp_path: Path) -> None:
    lists = {"a": lines(tmp_path / "a.txt", "x", "y")}
    made = make(tmp_path / "out", lists)
    assert "path" not in made.manifest.recipe["lists"]["a"]
    elsewhere = {"a": lines(tmp_path / "b.txt", "x", "y")}
    assert make(tmp_path / "other", elsewhere).manifest.digest == made.manifest.digest
    cfg = configure(lists)
    verb = {"verb": "t2i prompt-list", "config": cfg}
    refuse_stale(tmp_path / "out", **verb, source=source_digest(cfg))
    lines(tmp_path / "a.txt", "x", "z")
    with pytest.raises(ConfigError, match="source"):
        refuse_stale(tmp_path / "out", **verb, source=source_digest(cfg))
    (tmp_path / "a.txt").unlink()
    assert source_digest(cfg) is None


def test_a_list_needs_a_name_and_a_style() -> None:
    for given_badly in ({"name": " "}, {"lists": {}}):
        with pytest.raises(ConfigError, match="give the list a name and at least one style"):
            build(PromptListConfig, {"name": "a", "lists": {}, **given_badly}, where="")


@pytest.mark.parametrize(
    "file", sorted((shipped_configs() / "prompts").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_shipped_list_lacks_only_its_paths(file: Path) -> None:
    from launch.config import load, load_tree

    styles = load_tree([file], [])["lists"]
    cfg = load(PromptListConfig, [file], [f"lists.{style}.path=somewhere" for style in styles])
    assert list(cfg.lists) == list(styles)
    with pytest.raises(ConfigError, match="missing configuration key `lists"):
        load(PromptListConfig, [file], [])


def test_a_broken_table_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, {"a": lines(tmp_path / "a.txt", "x")})
    (out / "prompts.parquet").write_bytes(b"no table")
    with pytest.raises(ArtifactError, match=r"prompts\.parquet"):
        open_prompts(out)


def test_a_list_is_drawn_in_every_style(run_sample: Callable[..., Path], tmp_path: Path) -> None:
    lists = {
        "original": lines(tmp_path / "a.txt", "red ring", "", "blue ring"),
        "long": lines(tmp_path / "b.txt", "a red ring at the top", "b", "a blue ring"),
    }
    made = make(tmp_path / "prompts", lists)
    drawn = open_generations(run_sample(tmp_path / "out", tmp_path / "prompts"))
    assert drawn.table["prompt_id"].to_pylist() == [row.prompt_id for row in made.rows]
    assert len(drawn) == 4
