"""The captioner's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer

from recap.captioner.tokenizer import (
    CaptionTokenizer,
    clip_tokenizer,
    load_tokenizer,
    train_tokenizer,
)

CORPUS = ["a red circle at the top left", "Two small blue squares.", "a red ring"] * 4
TOKENIZER = train_tokenizer(CORPUS, vocab_size=300)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives_a_round_trip(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = TOKENIZER.encode([text])[0]
    assert TOKENIZER.decode(ids) == text


def test_leading_spaces_and_letter_case_survive() -> None:
    for text in ("  A Red circle ", "\ta\n", "É 圆 🟥"):
        assert TOKENIZER.decode(TOKENIZER.encode([text])[0]) == text


def test_captions_stand_between_start_and_end() -> None:
    special = TOKENIZER.special
    for ids in TOKENIZER.encode(["a red circle", ""]):
        assert ids[0] == special.start
        assert ids[-1] == special.end
        assert not {special.pad, special.start, special.end} & set(ids[1:-1])


@pytest.mark.parametrize("name", ["<pad>", "<start>", "<end>"])
def test_a_special_tokens_name_inside_a_text_is_only_text(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_json())
    for tokenizer in (TOKENIZER, load_tokenizer(tmp_path)):
        ids = tokenizer.encode([f"a {name} sign"])[0]
        special = tokenizer.special
        assert not {special.pad, special.start, special.end} & set(ids[1:-1])
        assert tokenizer.decode(ids) == f"a {name} sign"


def test_frequent_words_are_one_token() -> None:
    assert len(TOKENIZER.encode(["a red circle"])[0]) == 5


def test_training_twice_gives_the_same_file() -> None:
    assert train_tokenizer(CORPUS, vocab_size=300).to_json() == TOKENIZER.to_json()
    assert train_tokenizer(CORPUS[::-1], vocab_size=300).to_json() == TOKENIZER.to_json()


def test_a_saved_vocabulary_reads_back(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.to_json())
    loaded: CaptionTokenizer = load_tokenizer(tmp_path)
    assert loaded.encode(CORPUS) == TOKENIZER.encode(CORPUS)
    assert loaded.special == TOKENIZER.special
    assert loaded.vocab_size == TOKENIZER.vocab_size <= 300


def test_a_vocabulary_too_small_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(CORPUS, vocab_size=200)


CLIP, THEIRS = clip_tokenizer(), SimpleTokenizer()
PLAIN = st.text(
    st.sampled_from(" \n.,;:!?'\"-_()@#/0123456789abcdefgABCDEFGsStTéÜßñ日本語я"),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(PLAIN)
def test_clips_vocabulary_gives_the_tokens_that_open_clip_gives(text: str) -> None:
    assert CLIP.encode([text])[0][1:-1] == THEIRS.encode(text)


def test_curly_quotes_are_plain_ones_to_clip() -> None:
    text = "a man\u2019s \u201cnew\u201d hat"
    assert CLIP.encode([text])[0][1:-1] == THEIRS.encode(text)


@pytest.mark.parametrize(
    "text",
    [
        "a brown dog on a red sofa, and two cats.",
        "a man's hat; it isn't new!",
        "the sign says: stop (now)",
        "café 日本 🎉",
    ],
)
def test_captions_in_clips_vocabulary_read_as_people_write(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(CLIP.to_json())
    for tokenizer in (CLIP, load_tokenizer(tmp_path)):
        read = tokenizer.decode(tokenizer.encode([text])[0])
        assert read.replace("( ", "(") == text


def test_clips_special_tokens_are_those_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(CLIP.to_json())
    for tokenizer in (CLIP, load_tokenizer(tmp_path)):
        special = tokenizer.special
        assert (special.pad, special.start, special.end) == (0, 49406, 49407)
        assert tokenizer.vocab_size == 49408
