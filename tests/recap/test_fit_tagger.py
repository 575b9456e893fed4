"""A tagger fitted on the words of annotated pictures, and captions made of its tags."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.checkpoint import Checkpoints
from launch.errors import ArtifactError, InputError, StoppedError
from launch.manifest import read_manifest
from launch.run import Run
from recap.annotate import annotate
from recap.artifacts import open_captions, open_images
from recap.caption import caption
from recap.config import (
    AnnotateConfig,
    CaptionConfig,
    FitTaggerConfig,
    GateConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
    TaggerSizeConfig,
    TagsConfig,
)
from recap.fit_tagger import fit_tagger
from recap.ingest import ingest
from recap.tagger.quality import choose_thresholds, learned, measure
from recap.tagger.tag_list import read_tag_list
from recap.tagger.words import TagFinder, choose_vocabulary, label_table


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and the annotated texts of most training pictures."""
    folder = tmp_path_factory.mktemp("world")
    scenes = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=320, image_size=16),
        split=SplitConfig(judge=0.1, test=0.1),
        pictures_per_shard=128,
        num_workers=1,
    )
    ingest(scenes, Run(out=folder / "images", verb="recap ingest", config=scenes))
    notes = AnnotateConfig(
        images=folder / "images", teacher="claims", kinds=["ssc", "dsc"], num_pictures=240
    )
    annotate(notes, Run(out=folder / "corpus", verb="recap annotate", config=notes))
    return folder


def settings(world: Path, **changes: Any) -> FitTaggerConfig:
    base = FitTaggerConfig(
        images=world / "images",
        captions=[world / "corpus"],
        kinds=["ssc", "dsc"],
        model=TaggerSizeConfig(image_size=16, channels=[16, 32], width=32),
        samples=1280,
        batch_size=16,
        lr=4e-3,
        warmup_samples=64,
        held_out_pictures=48,
        min_f1=0.3,
        ema_decay=0.9,
        checkpoint_samples=320,
    )
    return replace(base, **changes)


def fit(cfg: FitTaggerConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap fit-tagger", config=cfg)
    try:
        fit_tagger(cfg, run)
    finally:
        run.close()
    return out


@pytest.fixture(scope="module")
def tagger(world: Path) -> Path:
    return fit(settings(world), world / "tagger")


# Words.


def test_tags_are_content_words_and_plurals_count_as_singulars() -> None:
    texts = ["There are two red circles on the left.", 'A circle. The sign says "RED".']
    find = TagFinder(texts, phrase_words=1)
    assert find([texts[0]]) == {"two", "red", "circle", "left"}
    assert find([texts[1]]) == {"circle", "sign", "says"}


def test_a_word_that_ends_like_a_plural_but_has_no_singular_stays() -> None:
    assert TagFinder(["two crosses, a cross"], phrase_words=1)(["crosses"]) == {"cross"}
    assert TagFinder(["a bus"], phrase_words=1)(["a bus"]) == {"bus"}


def test_phrases_do_not_reach_over_marks_and_words_that_build_sentences() -> None:
    text = "a small red circle, green ring at the left"
    found = TagFinder([text], phrase_words=2)([text])
    assert {"small red", "red circle", "green ring"} <= found
    assert not {"circle green", "ring left"} & found


def test_words_of_few_and_of_nearly_all_pictures_are_no_tags() -> None:
    found = [{"always", "half", "even"}, {"always", "half"}, {"always"}, {"always", "once", "even"}]
    vocabulary = choose_vocabulary(found, min_share=0.3, max_share=0.9, max_tags=8)
    assert vocabulary.tags == ["even", "half"]
    assert vocabulary.counts == [2, 2]
    assert vocabulary.left_out == {"too_rare": 1, "too_common": 1, "beyond_max_tags": 0}
    assert label_table(found, vocabulary.tags).sum(axis=0).tolist() == [2, 2]


# Thresholds.


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=12))
def test_no_other_threshold_has_a_higher_f1(rows: list[tuple[int, bool]]) -> None:
    confidence = np.array([[value / 8 + 0.05] for value, _ in rows], dtype=np.float32)
    has_tag = np.array([[yes] for _, yes in rows])
    chosen = choose_thresholds(confidence, has_tag)

    def f1(threshold: float) -> float:
        said = confidence >= threshold
        return float(2 * (said & has_tag).sum() / max(1, said.sum() + has_tag.sum()))

    best = max(f1(threshold) for threshold in np.linspace(0, 1, 81))
    assert f1(float(chosen.thresholds[0])) == pytest.approx(best)
    assert chosen.f1[0] == pytest.approx(best)


def test_a_tag_is_learned_only_if_it_beats_saying_it_always() -> None:
    noise = np.tile(np.array([[0.1], [0.9]], dtype=np.float32), (50, 1))
    has_tag = np.arange(100)[:, None] % 10 < 8
    exact = has_tag.astype(np.float32)
    chosen = choose_thresholds(np.hstack([noise, exact]), np.hstack([has_tag, has_tag]))
    assert learned(chosen, min_f1=0.5, min_gain=0.05).tolist() == [1]


def test_precision_and_recall_are_counted_by_tag_and_together() -> None:
    confidence = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6], [0.1, 0.2]])
    has_tag = np.array([[True, False], [False, True], [True, True], [False, True]])
    found = measure(confidence, has_tag, tags=["a", "b"], thresholds=np.array([0.5, 0.5]))
    assert found["tags"]["a"] | {"threshold": 0, "pictures": 0} == {
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "threshold": 0, "pictures": 0
    }  # fmt: skip
    assert found["tags"]["b"]["precision"] == 1.0
    assert found["tags"]["b"]["recall"] == pytest.approx(2 / 3, abs=1e-6)
    assert found["together"]["precision"] == 0.75
    assert found["together"]["recall"] == 0.6
    assert found["pictures_without_a_tag"] == 1


# The verb.


def test_a_tagger_learns_words_of_pictures_that_it_was_not_fitted_on(tagger: Path) -> None:
    quality = json.loads((tagger / "quality.json").read_text())
    assert quality["pictures"] == 24
    # Saying each of its tags of every picture has an F1 of 0.43 here.
    assert quality["together"]["f1"] > 0.45
    assert {"black", "blue"} <= set(quality["tags"])
    tags = read_tag_list(tagger / "selected_tags.csv", num_expected=count(tagger))
    assert set(tags.names) == set(quality["tags"])
    assert tags.thresholds == [quality["tags"][name]["threshold"] for name in tags.names]


def test_fitting_resumed_after_a_kill_ends_in_the_same_bytes(
    world: Path, tagger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Checkpoints.save, []

    def die_after_the_second(self: Checkpoints, *arguments: Any) -> None:
        real(self, *arguments)
        calls.append(arguments[0])
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", die_after_the_second)
    with pytest.raises(KeyboardInterrupt):
        fit(settings(world), world / "killed")
    monkeypatch.setattr(Checkpoints, "save", real)
    fit(settings(world), world / "killed")
    assert read_manifest(world / "killed").digest == read_manifest(tagger).digest


def test_its_tags_are_captions_with_recipe_parts_and_digest(world: Path, tagger: Path) -> None:
    cfg = CaptionConfig(
        images=world / "images",
        captioner=tagger,
        kind="tags",
        gates=GateConfig(rules=["empty"], max_gated_share=0.0),
        tags=TagsConfig(min_tags=1),
        batch_size=32,
    )
    run = Run(out=world / "tags", verb="recap caption", config=cfg)
    caption(cfg, run)
    run.close()
    made = read_manifest(world / "tags")
    assert made.recipe["tags"]["min_tags"] == 1
    assert ("captioner", read_manifest(tagger).digest) in {(i.role, i.digest) for i in made.inputs}
    texts = open_captions(world / "tags").texts("tags")
    images = open_images(world / "images")
    assert set(texts) == {images.sample_ids[r] for s in ("train", "test") for r in images.rows(s)}
    known = set(read_tag_list(tagger / "selected_tags.csv", num_expected=count(tagger)).names)
    assert {tag for text in texts.values() for tag in text.split(", ")} <= known


def count(tagger: Path) -> int:
    return int(json.loads((tagger / "config.json").read_text())["num_tags"])


def test_settings_of_tags_leave_recipes_of_captioners_as_they_were(world: Path) -> None:
    from launch.config import recipe_of

    cfg = CaptionConfig(images=world / "images", captioner=world / "tagger", kind="dsc")
    assert not {"tags", "vlm", "endpoint"} & set(recipe_of(cfg))


def test_too_few_annotated_pictures_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"240 pictures .* expected at least eight batches of 64"):
        fit(settings(world, batch_size=64), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tagger_that_learns_nothing_stops_and_names_the_best_word(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoppedError, match=r"none of .* words was learned; the best is"):
        fit(settings(world, samples=16, min_f1=1.0, min_gain=0.9), tmp_path / "out")


def test_a_tag_list_of_another_length_than_the_network_is_refused(
    tagger: Path, tmp_path: Path
) -> None:
    lines = (tagger / "selected_tags.csv").read_text().splitlines()
    short = tmp_path / "selected_tags.csv"
    short.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ArtifactError, match=r"selected_tags.csv: lists .* outputs"):
        read_tag_list(short, num_expected=len(lines) - 1)
