from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from launch.errors import ArtifactError, ConfigError
from t2i.conditioning import TextEncoder, length_batches
from t2i.data import padded_length

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


def word_tokenizer(*, start: str | None, end: str, pad: str, max_tokens: int) -> Any:
    """One token a word, between a start and an end token where the architecture has them."""
    special = list(dict.fromkeys(token for token in (pad, start, end, "<unk>") if token))
    words = sorted({word for text in TEXTS for word in text.split()})
    made = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate([*special, *words])}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}" if start else f"$A {end}",
        special_tokens=[(token, special.index(token)) for token in (start, end) if token],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        unk_token="<unk>",
        model_max_length=max_tokens,
    )


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
KINDS = ("t5 encoder", "t5", "clip text", "clip", "bert")


class Saved(NamedTuple):
    """An encoder's folder in the library's format, and what the library itself says."""

    folder: Path
    states: Callable[..., torch.Tensor]
    """Of input_ids, without padding."""


def save_encoder(kind: str, folder: Path) -> Saved:
    """Save a small random encoder; CLIP and BERT have 20 positions, T5 takes 512 tokens."""
    torch.manual_seed(0)
    if kind.startswith("t5"):
        tokenizer = word_tokenizer(start=None, end="</s>", pad="<pad>", max_tokens=512)
        layers = {"d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
        config = T5Config(vocab_size=len(tokenizer), d_model=8, **layers)
        model = (T5EncoderModel if kind == "t5 encoder" else T5ForConditionalGeneration)(config)
        encoder = model.encoder
    elif kind.startswith("clip"):
        # As OpenAI's: padding is the end token.
        tokenizer = word_tokenizer(start="<start>", end="<end>", pad="<end>", max_tokens=20)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 8, "max_position_embeddings": 20}
        if kind == "clip text":
            model = encoder = CLIPTextModel(CLIPTextConfig(**sizes, **SMALL))
        else:
            vision = {"hidden_size": 8, "image_size": 8, "patch_size": 4, **SMALL}
            config = CLIPConfig(text_config={**sizes, **SMALL}, vision_config=vision)
            model = CLIPModel(config)
            encoder = model.text_model
    else:
        tokenizer = word_tokenizer(start="[CLS]", end="[SEP]", pad="[PAD]", max_tokens=20)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 8, "max_position_embeddings": 20}
        model = encoder = BertModel(BertConfig(**sizes, **SMALL))
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Saved(folder, lambda ids: encoder(input_ids=ids).last_hidden_state)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_that_the_library_gives(kind: str, tmp_path: Path) -> None:
    saved = save_encoder(kind, tmp_path)
    encoder = TextEncoder.load(tmp_path)
    tokens, _ = encoder.tokenize(TEXTS)
    found = encoder.encode(TEXTS)
    assert encoder.width == 8
    for row, ids in enumerate(tokens):
        with torch.no_grad():
            (expected,) = saved.states(torch.tensor([ids]))
        torch.testing.assert_close(found.text_embeds[row, : len(ids)], expected)
        assert found.text_mask[row].sum() == len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_states_of_a_text(kind: str, tmp_path: Path) -> None:
    save_encoder(kind, tmp_path)
    encoder = TextEncoder.load(tmp_path)
    tokens, _ = encoder.tokenize(TEXTS)
    for ids in tokens:
        bare = encoder.encode_tokens([ids], length=len(ids)).text_embeds[0]
        padded = encoder.encode_tokens([ids], length=24).text_embeds[0]
        torch.testing.assert_close(padded[: len(ids)], bare)
        assert not padded[len(ids) :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_keeps_the_end_token(kind: str, tmp_path: Path) -> None:
    save_encoder(kind, tmp_path)
    encoder = TextEncoder.load(tmp_path)
    assert encoder.max_tokens == (512 if kind.startswith("t5") else 20)
    tokens, is_cut = encoder.tokenize(["a red box " * 200, "a red box"])
    assert is_cut == [True, False]
    assert len(tokens[0]) == encoder.max_tokens
    assert tokens[0][-1] == tokens[1][-1] == encoder.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_fills_all_positions_is_encoded(kind: str, tmp_path: Path) -> None:
    """20 positions and a padded length of 24, as CLIP's 77 and 80."""
    saved = save_encoder(kind, tmp_path)
    encoder = TextEncoder.load(tmp_path)
    tokens, _ = encoder.tokenize(["a red box " * 200])
    found = encoder.encode(["a red box " * 200])
    assert found.text_embeds.shape[1] == padded_length(encoder.max_tokens)
    with torch.no_grad():
        expected = saved.states(torch.tensor(tokens))
    torch.testing.assert_close(found.text_embeds[:, : len(tokens[0])], expected)


def test_an_encoder_stored_in_half_precision_computes_in_float32_on_a_cpu(tmp_path: Path) -> None:
    save_encoder("t5", tmp_path)
    model = T5EncoderModel.from_pretrained(tmp_path).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    encoder = TextEncoder.load(tmp_path).to(torch.device("cpu"))
    exact = TextEncoder.wrap(model.to(torch.float32), encoder.tokenizer)
    assert encoder.encode(TEXTS).text_embeds.dtype == torch.float32
    torch.testing.assert_close(encoder.encode(TEXTS), exact.encode(TEXTS))


def test_code_that_a_folder_brings_is_not_run(tmp_path: Path) -> None:
    folder = save_encoder("bert", tmp_path / "encoder").folder
    config = json.loads((folder / "config.json").read_text())
    theirs = {"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"}
    config |= {"model_type": "theirs", "auto_map": theirs}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')")
    with pytest.raises(ArtifactError, match="not a text encoder"):
        TextEncoder.load(folder)
    assert not (tmp_path / "was_run").exists()


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
