from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch.errors import ConfigError, InputError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import open_images
from t2i import fit_rewriter
from t2i.config import FitRewriterConfig
from t2i.fit_rewriter import choose_pairs, fit, read_pairs

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, payload, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def config(made: Chain, **settings: object) -> FitRewriterConfig:
    small = {
        "images": made.images,
        "captions": [made.captions],
        "sources": ["ssc"],
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 128,
        "max_tokens": 40,
        "samples": 48,
        "batch_size": 8,
        "held_out_pictures": 4,
        "checkpoint_samples": 16,
    }
    return FitRewriterConfig(**{**small, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(made: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_verb("t2i fit-rewriter", fit, config(made), tmp_path_factory.mktemp("w") / "whole")


def pairs_of(cfg: FitRewriterConfig) -> list[fit_rewriter.Pair]:
    return read_pairs(cfg, Run(out=Path("nowhere"), verb="t2i fit-rewriter", config=cfg))


def test_only_texts_of_training_pictures_are_read(made: Chain) -> None:
    images = open_images(made.images)
    training = {images.sample_ids[int(row)] for row in images.rows("train")}
    assert {pair.sample_id for pair in pairs_of(config(made))} == training


def test_a_smaller_choice_of_pictures_is_part_of_a_larger_one(made: Chain) -> None:
    few, many = (
        {pair.sample_id for pair in pairs_of(config(made, num_pictures=num))} for num in (20, 40)
    )
    assert (len(few), len(many)) == (20, 40)
    assert few < many


def test_pairs_whose_caption_loses_something_are_left_out_and_counted(made: Chain) -> None:
    cfg = config(made, sources=["alt", "ssc"])  # "red thing": no caption speaks of a thing
    pairs = pairs_of(cfg)
    chosen = choose_pairs(pairs, cfg)
    assert {pair.kind for pair in pairs} == {"alt", "ssc"}
    assert {pair.kind for pair in chosen.train} == {"ssc"}
    # What is measured is measured on all pairs of the pictures held out.
    assert sorted(pair.kind for pair in chosen.held_out) == ["alt"] * 4 + ["ssc"] * 4
    assert chosen.rejected == {"lost_words": 66}
    assert not {p.sample_id for p in chosen.train} & {p.sample_id for p in chosen.held_out}


def test_a_rewriter_loads_with_transformers_and_its_quality_is_stated(whole: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained(whole)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    ids = tokenizer("a red box", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4).shape[0] == 1
    quality = json.loads((whole / "quality.json").read_text())
    assert quality["num_pairs"] == quality["num_pairs_of_loss"] == 4
    assert 0 <= quality["kept"]["ssc"] <= 1


def test_rows_in_are_rows_out_and_rejected(whole: Path) -> None:
    manifest = read_manifest(whole)
    rejected = sum(manifest.rejected.values())
    assert manifest.counts["rows_in"] == manifest.counts["rows_out"] + rejected == 70


def test_the_tokenizer_gives_a_caption_back_as_it_was(whole: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole)
    text = "A grey picture with a green box at the right, number 61."
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_fit_that_was_stopped_ends_in_the_same_bytes(
    made: Chain, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_batch, calls = fit_rewriter.pair_batch, []

    def stop_at_the_fourth(*args: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return pair_batch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fit_rewriter, "pair_batch", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run_verb("t2i fit-rewriter", fit, config(made), tmp_path / "stopped")
    resumed = run_verb("t2i fit-rewriter", fit, config(made), tmp_path / "stopped")
    assert payload(whole) == payload(resumed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ["tags"]}, r"no captions artifact holds \['tags'\]"),
        ({"sources": ["dsc"]}, "sources must be distinct kinds other than target='dsc'"),
        ({"sources": []}, "sources must be distinct kinds"),
        ({"width": 15}, "width must be a multiple of num_heads=2"),
    ],
)
def test_settings_that_cannot_be_learned_from_are_refused(
    made: Chain, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_verb("t2i fit-rewriter", fit, config(made, **settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_that_all_lose_something_are_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 pairs to learn from .*'lost_words': 66"):
        run_verb("t2i fit-rewriter", fit, config(made, sources=["alt"]), tmp_path / "out")


def test_held_out_pairs_that_are_too_long_are_refused_before_training(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_rewriter, "build", None)  # nothing may be trained

    def choose(pairs: list[fit_rewriter.Pair], cfg: FitRewriterConfig) -> fit_rewriter.Pairs:
        chosen = choose_pairs(pairs, cfg)
        return chosen._replace(
            held_out=[p._replace(target=f"{p.target} " * 40) for p in chosen.held_out]
        )

    monkeypatch.setattr(fit_rewriter, "choose_pairs", choose)
    with pytest.raises(InputError, match="each of 4 held-out pairs has a longer text"):
        run_verb("t2i fit-rewriter", fit, config(made), tmp_path / "out")
