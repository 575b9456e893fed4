from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    T5EncoderModel,
)

from launch.errors import ArtifactError, ConfigError
from t2i.conditioning import TextEncoder, length_batches
from t2i.fit_text_encoder import train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain

TEXTS = ["a red box", "a grey picture with a blue box at the left", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def test_the_folder_loads_with_transformers_own_classes(made: Chain) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made.text_encoder, local_files_only=True)
    model = T5EncoderModel.from_pretrained(made.text_encoder, local_files_only=True).eval()
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    found = TextEncoder.load(made.text_encoder).encode(TEXTS)
    real = inputs["attention_mask"].bool()
    assert found.text_mask.sum(dim=1).tolist() == real.sum(dim=1).tolist()
    torch.testing.assert_close(found.text_embeds[found.text_mask], states[real])


def test_states_of_padding_are_zero_and_lengths_a_multiple_of_eight(made: Chain) -> None:
    found = TextEncoder.load(made.text_encoder).encode(TEXTS)
    assert found.text_embeds.shape[1] % 8 == 0
    assert not found.text_embeds[~found.text_mask].any()
    assert found.text_mask[2].sum() == 1  # the empty text is an end token


def test_a_text_has_the_same_states_in_any_company(made: Chain) -> None:
    encoder = TextEncoder.load(made.text_encoder)
    alone, together = encoder.encode(TEXTS[:1]), encoder.encode(TEXTS)
    num = int(alone.text_mask.sum())
    torch.testing.assert_close(alone.text_embeds[0, :num], together.text_embeds[0, :num])


def test_a_long_text_is_cut_before_its_end_token_and_counted(made: Chain) -> None:
    encoder = TextEncoder.load(made.text_encoder, max_tokens=6)
    tokens, is_cut = encoder.tokenize(TEXTS)
    assert is_cut == [False, True, False]
    assert len(tokens[1]) == 6
    assert tokens[1][-1] == encoder.tokenizer.eos_token_id


def test_a_limit_beyond_the_encoders_own_is_refused(made: Chain) -> None:
    with pytest.raises(ConfigError, match="more than the 32 tokens"):
        TextEncoder.load(made.text_encoder, max_tokens=4096)


@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_other_encoders_load_by_folder(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=96, max_tokens=20)
    shared = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "clip":
        config = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=8, max_position_embeddings=20, **shared
        )
        CLIPTextModel(config).save_pretrained(tmp_path)
    else:
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=8, max_position_embeddings=20, **shared
        )
        BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder.load(tmp_path)
    assert encoder.width == 8
    assert encoder.max_tokens == 20
    assert encoder.encode(TEXTS).text_embeds.shape == (3, 16, 8)


def test_a_folder_that_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a text encoder"):
        TextEncoder.load(tmp_path)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_length_batches_hold_every_text_once(lengths: list[int], batch_size: int) -> None:
    batches = list(length_batches(lengths, batch_size=batch_size))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch.rows) <= batch_size
        assert all(batch.length - 8 < lengths[row] <= batch.length for row in batch.rows)
