from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
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

from launch.errors import ArtifactError, ConfigError, InputError
from t2i.conditioning import (
    NUM_SENTINELS,
    Corpus,
    Document,
    TextEncoder,
    corrupt_spans,
    fit,
    length_batches,
    mask_other,
    train_tokenizer,
)
from t2i.config import TextEncoderConfig

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, payload, run_verb

TEXTS = ["a red box", "a grey picture with a blue box at the left", ""]
FIRST = 3


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


@given(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(50, 99), min_size=n, max_size=n),
            st.lists(st.floats(0, 1, exclude_max=True), min_size=2 * n + 2, max_size=2 * n + 2),
        )
    )
)
def test_spans_and_rest_make_the_text_again(drawn: tuple[list[int], list[float]]) -> None:
    body, uniform = drawn
    tokens = [*body, 1]
    spans = corrupt_spans(tokens, np.array(uniform), first=FIRST)
    last = FIRST + NUM_SENTINELS
    pieces: dict[int, list[int]] = {}
    for token in spans.targets[:-1]:
        if FIRST <= token < last:
            pieces[token] = []
        else:
            pieces[max(pieces)].append(token)
    whole = [t for token in spans.inputs for t in pieces.get(token, [token])]
    assert whole == tokens
    num_masked = sum(map(len, pieces.values()))
    assert num_masked <= max(1, round(0.15 * len(body)))
    assert spans.targets[-1] == 1
    assert all(piece for piece in list(pieces.values())[:-1])  # the last sentinel ends the list


def test_every_place_of_a_text_can_be_masked() -> None:
    tokens = [*range(50, 60), 1]
    masked: set[int] = set()
    for seed in range(200):
        uniform = np.random.default_rng(seed).random(22)
        masked |= set(tokens) - set(corrupt_spans(tokens, uniform, first=FIRST).inputs)
    assert masked == set(range(50, 60))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_length_batches_hold_every_text_once(lengths: list[int], batch_size: int) -> None:
    batches = list(length_batches(lengths, batch_size=batch_size))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch.rows) <= batch_size
        assert all(batch.length - 8 < lengths[row] <= batch.length for row in batch.rows)


def test_a_document_has_two_texts_of_one_picture_and_the_second_is_masked_whole() -> None:
    corpus = Corpus([{"a": [50, 51, 1], "b": [52, 1]}, {"a": [60, 61, 62, 1]}])
    document = corpus.document(0, "a", 0.5)
    assert document == Document([50, 51, 1], [60, 61, 62, 1])
    assert corpus.document(0, "b", 0.5) == Document([52, 1], None)
    spans = mask_other(document, first=FIRST)
    assert spans.inputs == [50, 51, FIRST, 1]
    assert spans.targets == [FIRST, 60, 61, 62, FIRST + 1, 1]
    assert corpus.draw(1, batch_size=9, seed=0) == corpus.draw(1, batch_size=9, seed=0)


def test_the_quality_of_a_fit_is_stated(made: Chain) -> None:
    quality = json.loads((made.text_encoder / "quality.json").read_text())
    assert 0 <= quality["masked_token_accuracy"] <= 1
    assert quality["num_masked_tokens"] > 0


def config(made: Chain, **settings: object) -> TextEncoderConfig:
    small = {
        "texts": [made.captions],
        "kinds": ["dsc"],
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 128,
        "samples": 48,
        "batch_size": 8,
        "checkpoint_samples": 16,
        "threads": 1,
    }
    return TextEncoderConfig(**{**small, **settings})  # type: ignore[arg-type]


def test_a_fit_that_was_stopped_ends_in_the_same_bytes(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import t2i.conditioning as module

    cfg = config(made)
    whole = run_verb("t2i text-encoder", fit, cfg, tmp_path / "whole")
    span_batch, calls = module.span_batch, []

    def stop_at_the_fourth(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return span_batch(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "span_batch", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_verb("t2i text-encoder", fit, cfg, tmp_path / "stopped")
    resumed = run_verb("t2i text-encoder", fit, cfg, tmp_path / "stopped")
    assert payload(whole) == payload(resumed)


def test_a_kind_that_no_artifact_holds_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind 'tags' is in none of"):
        run_verb("t2i text-encoder", fit, config(made, kinds=["tags"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
