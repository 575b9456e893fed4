"""Teachers: which pictures they write about, and what."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from launch.errors import ConfigError, InputError
from launch.run import Run
from recap import artifacts
from recap.annotate import annotate, choose_rows, tidy
from recap.artifacts import Captions
from recap.claims import compare, read
from recap.config import (
    AnnotateConfig,
    IngestConfig,
    MistakesConfig,
    ScenesConfig,
    SplitConfig,
)
from recap.ingest import ingest


def ingested(cfg: IngestConfig, out: Path) -> Path:
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = IngestConfig(
        source="scenes",
        name="world",
        scenes=ScenesConfig(num_pictures=120),
        split=SplitConfig(judge=0.3, test=0.2),
        pictures_per_shard=50,
        num_workers=1,
    )
    return ingested(cfg, tmp_path_factory.mktemp("world") / "images")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rows = []
    for index in range(30):
        Image.new("RGB", (12, 12)).save(root / f"{index}.png")
        texts = [f"alt {index}", f"a dog {index} .", f"two  dogs {index}", f"dogs run {index} !"]
        rows.append(json.dumps({"file_name": f"{index}.png", "captions": texts}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    cfg = IngestConfig(source="folder", name="photos", root=root, num_workers=1)
    return ingested(cfg, tmp_path_factory.mktemp("out") / "images")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[AnnotateConfig], Captions]:
    def write(cfg: AnnotateConfig) -> Captions:
        out = tmp_path / f"captions-{len(list(tmp_path.iterdir()))}"
        run = Run(out=out, verb="recap annotate", config=cfg)
        try:
            annotate(cfg, run)
        finally:
            run.close()
        return artifacts.open_captions(out)

    return write


def config(images: Path, *kinds: str, **options) -> AnnotateConfig:
    return AnnotateConfig(
        **{"images": images, "teacher": "claims", "kinds": list(kinds), **options}
    )


def test_every_picture_of_the_split_gets_one_text_of_each_kind(world: Path, written) -> None:
    kinds = ["ssc", "dsc", "human", "truth", "shuffled", "judge"]
    captions = written(config(world, *kinds, split="all"))
    images = artifacts.open_images(world)
    assert captions.kinds == sorted(kinds)
    for kind in kinds:
        assert captions.texts(kind).keys() == set(images.sample_ids)
    assert captions.manifest.counts == {"rows_in": 720, "rows_out": 720, "pictures": 120}


def test_only_the_chosen_split_is_annotated(world: Path, written) -> None:
    images = artifacts.open_images(world)
    captions = written(config(world, "human", split="test"))
    assert captions.texts("human").keys() == {images.sample_ids[r] for r in images.rows("test")}


def test_texts_tell_the_truth_about_their_own_pictures(world: Path, written) -> None:
    images = artifacts.open_images(world)
    for sample_id, text in written(config(world, "dsc")).texts("dsc").items():
        said = compare(read(text), images.claims[images.row_of(sample_id)])
        assert not any(t.false_positive or t.false_negative for t in said.values())


def test_shuffled_texts_are_the_true_texts_of_other_pictures_of_the_split(
    world: Path, written
) -> None:
    captions = written(config(world, "truth", "shuffled", split="all"))
    images = artifacts.open_images(world)
    truth, shuffled = captions.texts("truth"), captions.texts("shuffled")
    assert sorted(truth.values()) == sorted(shuffled.values())
    for split in artifacts.SPLITS:
        ids = [images.sample_ids[row] for row in images.rows(split)]
        assert sorted(truth[i] for i in ids) == sorted(shuffled[i] for i in ids)
    assert all(truth[sample_id] != shuffled[sample_id] for sample_id in truth)


def test_smaller_choices_are_part_of_larger_ones(world: Path) -> None:
    images = artifacts.open_images(world)
    few, many = (
        set(choose_rows(images, config(world, "dsc", num_pictures=num))) for num in (10, 30)
    )
    assert len(few) == 10
    assert few < many


def test_a_picture_gets_the_same_text_in_a_smaller_choice(world: Path, written) -> None:
    few = written(config(world, "dsc", num_pictures=5)).texts("dsc")
    many = written(config(world, "dsc")).texts("dsc")
    assert all(many[sample_id] == text for sample_id, text in few.items())


def test_another_seed_gives_other_phrasings(world: Path, written) -> None:
    cfg = config(world, "dsc")
    assert written(cfg).texts("dsc") != written(replace(cfg, seed=1)).texts("dsc")


def test_the_same_run_gives_the_same_digest(world: Path, written) -> None:
    cfg = config(world, "ssc", "judge")
    assert written(cfg).manifest.digest == written(cfg).manifest.digest


def test_there_is_one_part_for_each_shard(world: Path, written) -> None:
    captions = written(config(world, "ssc", num_pictures=1))
    assert len(captions.manifest.parts) == len(artifacts.open_images(world).shards) == 3


def test_peoples_texts_become_short_and_descriptive_captions(photos: Path, written) -> None:
    captions = written(config(photos, "ssc", "dsc", "human", teacher="texts", split="all"))
    images = artifacts.open_images(photos)
    sample_id = images.sample_ids[7]
    assert images.alt[7] == "alt 7"
    assert captions.texts("ssc")[sample_id] == "A dog 7."
    assert captions.texts("dsc")[sample_id] == "A dog 7. Two dogs 7. Dogs run 7!"
    assert captions.texts("human")[sample_id] == "Dogs run 7!"


def test_the_judge_hears_all_of_peoples_texts(photos: Path, written) -> None:
    texts = written(config(photos, "judge", teacher="texts", split="all")).texts("judge")
    assert {text.split()[0] for text in texts.values()} == {"A", "Two", "Dogs"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["poem"]}, "writes ssc, dsc, human, truth"),
        ({"kinds": ["dsc", "dsc"]}, "each at most once"),
        ({"kinds": []}, "each at most once"),
        ({"kinds": ["truth"], "teacher": "texts"}, "writes ssc, dsc, human, judge"),
        ({"kinds": ["dsc"], "teacher": "texts"}, "have no further texts"),
        ({"kinds": ["dsc"], "num_pictures": 1000}, "num_pictures asks for 1,000"),
    ],
)
def test_what_a_teacher_cannot_write_is_refused(
    world: Path, written, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        written(replace(config(world), **options))


def test_pictures_without_claims_are_refused_by_name(photos: Path, written) -> None:
    with pytest.raises(InputError, match="have no claims"):
        written(config(photos, "dsc"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog runs .", "A dog runs."),
        ("A dog ,  a cat", "A dog, a cat."),
        ("what is it ?", "What is it?"),
        ("dogs,", "Dogs."),
        ("", ""),
    ],
)
def test_a_persons_text_becomes_a_sentence(text: str, expected: str) -> None:
    assert tidy(text) == expected


def test_mistakes_on_purpose_are_made_counted_and_change_only_their_own_captions(
    world: Path, written: Callable[[AnnotateConfig], Captions]
) -> None:
    plain = AnnotateConfig(images=world, teacher="claims", kinds=["dsc"])
    true = written(plain)
    wrong = written(replace(plain, mistakes=MistakesConfig(hallucination=0.5)))
    made = wrong.manifest.recipe["mistakes_made"]
    assert made["omitted"] == 0
    assert 0.35 < made["wrong"] / made["statements"] < 0.65
    assert "mistakes_made" not in true.manifest.recipe
    images = artifacts.open_images(world)
    claims = dict(zip(images.sample_ids, images.claims, strict=True))
    tallies = [compare(read(text), claims[i] or []) for i, text in wrong.texts("dsc").items()]
    assert sum(axis.false_positive for t in tallies for axis in t.values()) > made["wrong"] / 2


def test_captions_may_be_stored_under_another_kind(
    world: Path, written: Callable[[AnnotateConfig], Captions]
) -> None:
    plain = AnnotateConfig(images=world, teacher="claims", kinds=["dsc", "ssc"])
    found = written(replace(plain, stored_as={"dsc": "dsc_20"}))
    assert sorted(found.kinds) == ["dsc_20", "ssc"]
    assert found.texts("dsc_20") == written(plain).texts("dsc")
    with pytest.raises(ConfigError, match="two kinds would be stored under one name"):
        replace(plain, stored_as={"dsc": "ssc"})
    with pytest.raises(ConfigError, match=r"stored_as\.human: is none of the kinds"):
        replace(plain, stored_as={"human": "x"})
    with pytest.raises(ConfigError, match="kind must be letters"):
        replace(plain, stored_as={"dsc": "alt"})
