"""Features are kept between runs, change no score, and are found by nothing else than their own."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import artifacts, clip, clip_folder, clip_load, kept_features
from eval import score as scoring
from eval.config import ClipSizeConfig, ScoreConfig
from eval.kept_features import KeptFeatures
from launch.errors import ArtifactError
from launch.run import Run


def score(out: Path, **settings: Any) -> artifacts.Scores:
    cfg = ScoreConfig(**{"threads": 1, "batch_size": 16, **settings})
    run = Run(out=out, verb="eval score", config=cfg)
    try:
        scoring.score(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


@pytest.fixture(scope="module")
def settings(
    small_judge: Path, small_autoencoder: Path, make: Any, tmp_path_factory: Any
) -> dict[str, Any]:
    world = make.world(tmp_path_factory.mktemp("kept") / "world", num=8)
    prompts = make.prompts(world, {style: world.texts(style) for style in ("human", "alt")})
    drawn = make.generations(
        tmp_path_factory.mktemp("drawn") / "real", world, prompts, arm="real",
        styles=["human"],
    )  # fmt: skip
    return {
        "judge": small_judge,
        "prompts": prompts,
        "generations": [drawn],
        "images": world.images,
        "autoencoder": small_autoencoder,
        "scoring_styles": ["alt"],
    }


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("encoded once more")


@pytest.fixture
def scorer(tmp_path: Path) -> clip.ClipScorer:
    tokenizer = clip_folder.train_tokenizer(["a red circle", "two blue rings"], vocab_size=60)
    size = ClipSizeConfig(
        width=8, image_layers=1, text_layers=1, num_heads=2, embed_dim=4, context_length=12
    )
    config = clip_folder.clip_config(size, image_size=16, vocab_size=tokenizer.get_vocab_size())
    model = clip_folder.build_clip(config["model_cfg"])
    return clip_load.scorer_of(model, config=config, tokenizer=tokenizer)


def test_scores_are_the_same_bytes_whether_features_were_kept_or_not(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = score(tmp_path / "without", **settings)
    folder = tmp_path / "features"
    first = score(tmp_path / "first", features=folder, **settings)
    monkeypatch.setattr(clip.ClipScorer, "picture_features", refuse)
    monkeypatch.setattr(clip.ClipScorer, "text_features", refuse)
    second = score(tmp_path / "second", features=folder, **settings)
    assert without.manifest.digest == first.manifest.digest == second.manifest.digest
    path = "scores.parquet"
    assert (tmp_path / "without" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


def test_another_scoring_style_encodes_no_picture_again(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(tmp_path / "first", features=tmp_path / "f", **settings)
    monkeypatch.setattr(clip.ClipScorer, "picture_features", refuse)
    other = {**settings, "scoring_styles": []}
    found = score(tmp_path / "second", features=tmp_path / "f", **other)
    assert set(found.table["scoring"].to_pylist()) - {None} == {"prompt"}


def test_within_a_run_every_picture_and_text_is_encoded_once(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[int] = []
    of_pictures, encode = clip.ClipScorer.picture_features, clip.ClipScorer.text_features
    texts: list[list[str]] = []

    def count(self: Any, pixels: np.ndarray, **more: Any) -> Any:
        pictures.append(len(pixels))
        return of_pictures(self, pixels, **more)

    def note(self: Any, asked: list[str], **more: Any) -> Any:
        texts.append(list(asked))
        return encode(self, asked, **more)

    monkeypatch.setattr(clip.ClipScorer, "picture_features", count)
    monkeypatch.setattr(clip.ClipScorer, "text_features", note)
    found = score(tmp_path / "out", **settings)
    by_pair = set(found.table["pair_id"].to_pylist())
    assert pictures == [len(by_pair)] * 3  # the arm and both ceilings, whatever scores them
    assert 1 <= len(texts) <= 2  # whole, and where any is cut by sentences
    assert all(len(set(asked)) == len(asked) for asked in texts)


@pytest.mark.parametrize(
    "change",
    [{"weights_digest": "0" * 32}, {"precision": "bfloat16"}, {"mean": (0.4, 0.4, 0.4)}],
)
def test_another_scorer_never_finds_the_features(
    change: dict[str, Any], scorer: clip.ClipScorer, tmp_path: Path
) -> None:
    kept = KeptFeatures(tmp_path, scorer, batch_size=8, threads=1)
    kept.keep_pictures(["drawn"], np.ones((3, 4), np.float32))
    assert kept.pictures(["drawn"], num=3) is not None
    other = KeptFeatures(tmp_path, replace(scorer, **change), batch_size=8, threads=1)
    assert other.pictures(["drawn"], num=3) is None


def test_another_batch_size_number_of_threads_or_source_never_finds_them(
    scorer: clip.ClipScorer, tmp_path: Path
) -> None:
    kept = KeptFeatures(tmp_path, scorer, batch_size=8, threads=1)
    kept.keep_pictures(["drawn"], np.ones((3, 4), np.float32))
    assert kept.pictures(["drawn", "more"], num=3) is None
    assert replace(kept, batch_size=16).pictures(["drawn"], num=3) is None
    assert replace(kept, threads=2).pictures(["drawn"], num=3) is None


def test_another_version_or_device_never_finds_them(
    scorer: clip.ClipScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptFeatures(tmp_path, scorer, batch_size=8, threads=1)
    kept.keep_pictures(["drawn"], np.ones((3, 4), np.float32))
    for name, other in (
        ("FORM", kept_features.FORM + 1),
        ("version", lambda package: "0" if package == "pillow" else version(package)),
        ("device", lambda: torch.device("meta")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kept_features, name, other)
            assert kept.pictures(["drawn"], num=3) is None
    assert kept.pictures(["drawn"], num=3) is not None


def test_a_prefix_shapes_texts_and_not_pictures(scorer: clip.ClipScorer, tmp_path: Path) -> None:
    kept = KeptFeatures(tmp_path, scorer, batch_size=8, threads=1)
    kept.keep_pictures(["drawn"], np.ones((3, 4), np.float32))
    other = replace(kept, model=replace(scorer, prefix="two "))
    assert other.pictures(["drawn"], num=3) is not None
    assert not np.array_equal(kept.texts(["a red circle"]), other.texts(["a red circle"]))
    assert len(list(tmp_path.iterdir())) == 3


def test_changed_weights_have_another_name(scorer: clip.ClipScorer) -> None:
    before = clip_load.weights_digest(scorer.model, "vocabulary")
    next(scorer.model.parameters()).data.add_(1e-3)
    assert clip_load.weights_digest(scorer.model, "vocabulary") != before


def test_a_file_that_is_not_what_its_name_says_is_refused(
    scorer: clip.ClipScorer, tmp_path: Path
) -> None:
    kept = KeptFeatures(tmp_path, scorer, batch_size=8, threads=1)
    kept.keep_pictures(["one"], np.ones((3, 4), np.float32))
    (one,) = tmp_path.iterdir()
    with pytest.raises(ArtifactError, match="do not belong to its name; expected 4"):
        kept.pictures(["one"], num=4)
    kept.keep_pictures(["other"], np.zeros((3, 4), np.float32))
    (other,) = set(tmp_path.iterdir()) - {one}
    other.write_bytes(one.read_bytes())
    with pytest.raises(ArtifactError, match="do not belong to its name"):
        kept.pictures(["other"], num=3)
    one.write_bytes(one.read_bytes()[:-4] + bytes(4))
    with pytest.raises(ArtifactError, match="the file has changed"):
        kept.pictures(["one"], num=3)
    one.write_bytes(one.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="cannot be read as features"):
        kept.pictures(["one"], num=3)
