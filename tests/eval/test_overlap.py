"""Prompts found in captions: against a plain search, and through `eval captions`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import artifacts, overlap
from eval.captions import captions
from eval.captions_page import CAPTIONS_PAGE
from eval.captions_summary import summary_text
from eval.captions_tables import overlap as overlap_table
from eval.config import CaptionsConfig
from eval.overlap import RUN, occurrences, shares
from launch.errors import ConfigError
from launch.run import Run
from recap.artifacts import Captions, Images, open_captions, open_images
from recap.words import words_of
from t2i.artifacts import Prompt, open_prompts, write_prompts

texts = st.lists(st.sampled_from(["a", "b", "it's", "dog,"]), max_size=12).map(" ".join)


def by_searching(prompt: str, found_in: list[str]) -> tuple[int, int, bool]:
    """Runs, runs found, and whether a caption equals the prompt, by comparing words."""
    words = words_of(prompt)
    length = min(RUN, len(words))
    runs = (
        {tuple(words[i : i + length]) for i in range(len(words) - length + 1)} if words else set()
    )
    captions = [words_of(caption) for caption in found_in]
    here = {
        run
        for run in runs
        if any(
            tuple(c[i : i + length]) == run for c in captions for i in range(len(c) - length + 1)
        )
    }
    return len(runs), len(here), bool(words) and words in captions


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_found_is_what_a_plain_search_finds(
    prompts: list[str], captions: list[str]
) -> None:
    found = occurrences(prompts, captions)
    assert found.num_captions == len(captions)
    for row, prompt in enumerate(prompts):
        values = found.num_runs[row], found.num_found[row], found.is_exact[row]
        assert tuple(values) == by_searching(prompt, captions)


def test_case_punctuation_and_apostrophes_do_not_matter() -> None:
    found = occurrences(["A dog\N{RIGHT SINGLE QUOTATION MARK}s bowl."], ["a DOG'S  bowl!"])
    assert (found.num_found.tolist(), found.is_exact.tolist()) == ([1], [True])


def test_words_in_another_order_are_not_found() -> None:
    found = occurrences(["a red cube left of a blue ball"], ["a blue ball left of a red cube"])
    assert found.num_found.tolist() == [0]


def test_a_short_prompt_is_found_within_a_longer_caption_and_does_not_equal_it() -> None:
    found = occurrences(["red dog"], ["there is a red dog here"])
    assert (found.num_found.tolist(), found.is_exact.tolist()) == ([1], [False])


def test_a_run_does_not_go_on_from_one_caption_into_the_next() -> None:
    assert occurrences(["red dog"], ["it is red", "dog here"]).num_found.tolist() == [0]


def test_a_prompt_without_words_occurs_nowhere() -> None:
    found = occurrences(["?!", ""], ["", "?!", "a"])
    assert found.num_runs.tolist() == [0, 0]
    assert not found.is_exact.any()


def test_captions_are_read_once_in_blocks_whose_size_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stream() -> Iterator[str]:
        for number in range(50):
            yield f"picture {number} of a small red ring beside two large blue squares"

    prompts = ["a small red ring beside two large blue squares", "picture 49", "picture 50"]
    whole = occurrences(prompts, stream())
    monkeypatch.setattr(overlap, "_BLOCK", 7)
    blocks = occurrences(prompts, stream())
    assert whole.num_found.tolist() == blocks.num_found.tolist() == [2, 1, 0]
    assert blocks.num_captions == 50


# --------------------------------------------------------------------------- through eval captions


@pytest.fixture(scope="module")
def measured(small_world: Any, make: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A list whose prompts are a training caption, a test caption and neither."""
    root = tmp_path_factory.mktemp("overlap")
    train, test = small_world.of_split("train"), small_world.of_split("test")
    dsc = {
        i: f"this is the long description of picture number {i} in the world" for i in train + test
    }
    written = small_world.write_captions("described", {"dsc": dsc})
    prompts = [
        dsc[train[0]].upper(), dsc[test[0]], "not one of them has ever been seen", "number 1000"
    ]  # fmt: skip
    folder = root / "prompts"
    folder.mkdir()
    rows = [
        Prompt(f"{i:032x}", text, "original", f"{i:032x}", None) for i, text in enumerate(prompts)
    ]
    write_prompts(folder / "prompts.parquet", rows)
    make.finish(folder, "prompts", recipe={"name": "a list"})
    found = measure(root / "out", small_world, written, [folder])
    return {
        "report": found,
        "root": root,
        "world": small_world,
        "captions": written,
        "list": folder,
    }


def measure(out: Path, made: Any, written: Path, prompts: list[Path]) -> artifacts.CaptionsReport:
    cfg = CaptionsConfig(images=made.images, captions=[written], prompts=prompts)
    run = Run(out=out, verb="eval captions", config=cfg)
    try:
        captions(cfg, run)
    finally:
        run.close()
    return artifacts.open_captions_report(out)


def test_only_captions_of_the_training_split_are_looked_at(measured: Any) -> None:
    by_kind = {share.kind: share for share in shares(measured["report"].overlap)}
    assert set(by_kind) == {"alt", "dsc"}
    assert by_kind["dsc"].num_captions == by_kind["alt"].num_captions == 12
    assert by_kind["dsc"].num_prompts == 4
    # The test picture's caption shares the beginning with those of training, not its number.
    assert by_kind["dsc"].counts == {"exact": 1, "all": 1, "any": 2}
    assert by_kind["alt"].counts == {"exact": 0, "all": 0, "any": 0}
    rows = measured["report"].overlap.to_pylist()
    assert [row["is_exact"] for row in rows if row["kind"] == "dsc"] == [True, False, False, False]


def test_training_texts_are_never_all_in_memory(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a whole table was read")

    for of, name in (
        (Captions, "table"), (Captions, "texts"), (Images, "table"), (Images, "_column")
    ):  # fmt: skip
        monkeypatch.setattr(of, name, property(refuse) if name == "table" else refuse)
    found = overlap.overlap(
        [open_prompts(measured["list"])],
        images=open_images(measured["world"].images),
        captions=[open_captions(measured["captions"])],
    )
    assert found.equals(measured["report"].overlap)


def test_shares_stand_in_summary_page_and_table(measured: Any) -> None:
    report = measured["report"]
    table = overlap_table(report)
    record = next(r for r in table.records if (r["kind"], r["measure"]) == ("dsc", "any"))
    assert record["value"] == 0.5
    assert record["low"] < 0.5 < record["high"]
    assert "a list: original" in summary_text(report)
    page = (measured["root"] / "out" / CAPTIONS_PAGE).read_text()
    assert 'id="table-overlap"' in page


def test_without_prompts_nothing_is_written_or_said(measured: Any, tmp_path: Path) -> None:
    report = measure(tmp_path / "out", measured["world"], measured["captions"], [])
    assert report.overlap.num_rows == 0
    assert not (tmp_path / "out" / artifacts.OVERLAP_FILE).exists()
    assert "training captions" not in summary_text(report)


def test_two_lists_of_one_name_and_style_are_refused(measured: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both hold a list in style 'original'"):
        measure(
            tmp_path / "out",
            measured["world"],
            measured["captions"],
            [measured["list"], measured["list"]],
        )
