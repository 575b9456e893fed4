from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import ArtifactError, InputError
from t2i import fit_text_encoder
from t2i.config import TextEncoderConfig
from t2i.fit_text_encoder import (
    NUM_SENTINELS,
    Corpus,
    Document,
    corrupt_spans,
    fit,
    mask_other,
)

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, make_captions, payload, run_verb

FIRST = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


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
    cfg = config(made)
    whole = run_verb("t2i text-encoder", fit, cfg, tmp_path / "whole")
    span_batch, calls = fit_text_encoder.span_batch, []

    def stop_at_the_fourth(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return span_batch(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_text_encoder, "span_batch", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_verb("t2i text-encoder", fit, cfg, tmp_path / "stopped")
    resumed = run_verb("t2i text-encoder", fit, cfg, tmp_path / "stopped")
    assert payload(whole) == payload(resumed)


def test_a_kind_that_no_artifact_holds_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind 'tags' is in none of"):
        run_verb("t2i text-encoder", fit, config(made, kinds=["tags"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_text_of_one_kind_for_one_picture_is_refused(made: Chain, tmp_path: Path) -> None:
    again = make_captions(tmp_path / "again", kinds={"dsc": "a {colour} box"}, num=3)
    cfg = config(made, texts=[made.captions, again])
    with pytest.raises(ArtifactError, match=r"again: 3 pictures, .* of kind 'dsc' in another"):
        run_verb("t2i text-encoder", fit, cfg, tmp_path / "out")
    assert not (tmp_path / "out").exists()
