"""Lengths of captions in tokens: CLIP's own vocabulary, saved tokenizers, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from eval.tokens import open_encoder, split_limit
from launch.errors import ArtifactError, ConfigError


def save(folder: Path, *, limit: int | None) -> Path:
    """Save a tokenizer of whole words that ends every text with `</s>`."""
    vocabulary = {"</s>": 0, "<unk>": 1, "a": 2, "ring": 3}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    given = {} if limit is None else {"model_max_length": limit}
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **given).save_pretrained(
        folder
    )
    return folder


def test_tokens_are_counted_before_the_cut_with_the_end_token(tmp_path: Path) -> None:
    encoder = open_encoder(str(save(tmp_path / "words", limit=3)))
    assert encoder.max_tokens == 3
    assert encoder.count(["a ring", "a a a ring", ""]).tolist() == [3, 5, 1]
    assert encoder.count([]).tolist() == []


def test_a_stated_limit_goes_before_the_tokenizers_own(tmp_path: Path) -> None:
    folder = save(tmp_path / "words", limit=3)
    assert open_encoder(f"{folder}:8").max_tokens == 8


def test_the_name_of_a_tokenizer_says_nothing_of_its_folder(tmp_path: Path) -> None:
    one, two = (open_encoder(str(save(tmp_path / name, limit=3))) for name in ("one", "two"))
    assert (one.name, one.digest) == (two.name, two.digest)
    assert "one" not in one.name


def test_clip_counts_start_and_end() -> None:
    encoder = open_encoder("clip")
    assert encoder.max_tokens == 77
    assert encoder.count(["a cat", ""]).tolist() == [4, 2]
    assert open_encoder("clip:20").max_tokens == 20


def test_a_tokenizer_without_a_limit_needs_one(tmp_path: Path) -> None:
    folder = save(tmp_path / "words", limit=None)
    with pytest.raises(ConfigError, match="states no longest text"):
        open_encoder(str(folder))


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no tokenizer that transformers can load"):
        open_encoder(str(tmp_path))


def test_a_limit_is_a_whole_number() -> None:
    assert split_limit("google/t5-v1_1-small:77") == ("google/t5-v1_1-small", 77)
    assert split_limit("google/t5-v1_1-small") == ("google/t5-v1_1-small", None)
    for wrong in ("clip:", "clip:0", "clip:many", ":77"):
        with pytest.raises(ConfigError, match=r"FOLDER_OR_HUB_ID\[:MAX_TOKENS\]"):
            split_limit(wrong)
