"""Taggers as captioners: thresholds, categories, spelling, and a tiny tagger of timm."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf

from launch.errors import ArtifactError, ConfigError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import open_captions, open_images
from recap.caption import caption
from recap.captioner_source import find_captioner
from recap.config import (
    CaptionConfig,
    GateConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
    TagsConfig,
    VlmConfig,
)
from recap.ingest import ingest
from recap.pictures import MIDDLE, Square, made_square
from recap.tagger.tag_list import TagList, read_tag_list, tag_list_csv
from recap.taggers import chosen_tags, spelled, written_tags

NAMES = ["general", "1girl", "long_hair", "^_^", "hatsune_miku", "red_eyes", "solo"]
CATEGORIES = ["rating", "general", "general", "general", "character", "general", "general"]
TAGS = TagList(names=NAMES, categories=CATEGORIES, counts=[9] * 7, thresholds=None)
SURE = np.array([0.99, 0.9, 0.4, 0.5, 0.8, 0.3, 0.95], dtype=np.float32)


def text(cfg: TagsConfig, sure: np.ndarray = SURE, tags: TagList = TAGS) -> str:
    written = written_tags(tags, cfg)
    chosen = chosen_tags(sure, written, min_tags=cfg.min_tags, max_tags=cfg.max_tags)
    return cfg.separator.join(written.texts[tag] for tag in chosen)


def test_tags_are_ordered_by_confidence_and_ratings_are_left_out() -> None:
    assert text(TagsConfig()) == "solo, 1girl, hatsune miku, ^_^, long hair"


def test_categories_have_thresholds_of_their_own() -> None:
    assert text(TagsConfig(thresholds={"character": 0.85})) == "solo, 1girl, ^_^, long hair"
    assert text(TagsConfig(threshold=0.6)) == "solo, 1girl, hatsune miku"
    assert text(TagsConfig(categories=["rating", "character"])) == "general, hatsune miku"


def test_underscores_become_blanks_but_faces_stay() -> None:
    assert spelled("long_hair", spaces=True) == "long hair"
    assert spelled("long_hair", spaces=False) == "long_hair"
    for face in ("^_^", "o_o", ">_<", "(o)_(o)", "||_||"):
        assert spelled(face, spaces=True) == face


def test_excluded_tags_are_never_written_however_they_are_spelled() -> None:
    assert text(TagsConfig(exclude=["long hair", "hatsune_miku"])) == "solo, 1girl, ^_^"


def test_the_number_of_tags_has_bounds() -> None:
    assert text(TagsConfig(max_tags=2)) == "solo, 1girl"
    assert text(TagsConfig(threshold=0.97)) == ""
    assert text(TagsConfig(threshold=0.97, min_tags=1)) == "solo"
    # Of those that miss their thresholds the nearest joins, wherever its confidence stands.
    own = TAGS._replace(thresholds=[0.5, 0.99, 0.41, 0.9, 0.9, 0.9, 0.999])
    assert text(TagsConfig(min_tags=1), tags=own) == "long hair"


def test_equal_confidences_keep_the_order_of_the_list() -> None:
    assert text(TagsConfig(), sure=np.full(7, 0.5, dtype=np.float32)) == (
        "1girl, long hair, ^_^, hatsune miku, red eyes, solo"
    )


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (TagsConfig(categories=["artist"]), "no category 'artist'; it has character, general"),
        (TagsConfig(thresholds={"meta": 0.5}), "tags.thresholds: the tagger has no category"),
        (TagsConfig(exclude=["blue_eyes"]), "has no tag 'blue_eyes'"),
        (TagsConfig(categories=["rating"], exclude=["general"]), "none of 7 tags"),
    ],
)
def test_settings_that_the_list_does_not_know_are_refused(cfg: TagsConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        written_tags(TAGS, cfg)


def test_a_tag_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    for tags in (TAGS, TAGS._replace(thresholds=[0.25] * 7)):
        (tmp_path / "selected_tags.csv").write_text(tag_list_csv(tags))
        assert read_tag_list(tmp_path / "selected_tags.csv", num_expected=7) == tags


def test_padding_shows_the_whole_picture_and_a_crop_its_middle() -> None:
    wide = Image.fromarray(
        np.repeat(np.arange(0, 240, 10, np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    )
    padded = np.asarray(made_square(wide, Square(fit="pad", share=1.0), size=24))
    assert (padded[0] == 255).all()
    assert padded[12, 1, 0] < 20
    assert padded[12, -2, 0] > 210
    middle = np.asarray(made_square(wide, MIDDLE, size=8))
    assert middle.min() >= 80
    inner = np.asarray(made_square(wide, Square(fit="crop", share=0.5), size=8))
    assert inner.min() > middle.min()


# A tagger of timm.


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT in timm's own folder format, with a tag list beside it."""
    folder = tmp_path_factory.mktemp("taggers") / "wd"
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, **size)
    with torch.no_grad():
        model.head.weight.normal_(std=1.0)
    save_for_hf(model, folder, model_args=size, safe_serialization=True)
    (folder / "selected_tags.csv").write_text(tag_list_csv(TAGS))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=40, image_size=16),
        split=SplitConfig(judge=0.1, test=0.3),
        num_workers=1,
    )
    out = tmp_path_factory.mktemp("images") / "images"
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return out


def settings(images: Path, captioner: Path, **changes: Any) -> CaptionConfig:
    base = CaptionConfig(
        images=images,
        captioner=captioner,
        kind="tags",
        splits=["test"],
        gates=GateConfig(rules=["empty"], max_gated_share=1.0),
        batch_size=8,
    )
    return replace(base, **changes)


def start(cfg: CaptionConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap caption", config=cfg)
    try:
        caption(cfg, run)
    finally:
        run.close()
    return out


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_a_tagger_of_timm_says_what_timm_itself_says(
    tagger: Path, images: Path, tmp_path: Path, channels: Any
) -> None:
    cfg = TagsConfig(channels=channels, threshold=0.5, fit="pad")
    out = start(settings(images, tagger, tags=cfg), tmp_path / "tags")
    texts = open_captions(out).texts("tags")
    config = json.loads((tagger / "config.json").read_text())
    model = timm.create_model(config["architecture"], **config["model_args"]).eval()
    model.load_state_dict(load_file(tagger / "model.safetensors"))
    opened = open_images(images)
    for sample_id, found in texts.items():
        row = opened.row_of(sample_id)
        pixels = torch.from_numpy(opened.pixels([row], size=16)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            sure = model(pixels if channels == "rgb" else pixels.flip(1)).sigmoid()[0].numpy()
        assert found == text(cfg, sure=sure)
    assert len(set(texts.values())) > 1


def test_the_digest_of_weights_and_list_is_an_input(
    tagger: Path, images: Path, tmp_path: Path
) -> None:
    def digest(folder: Path, out: Path) -> str:
        made = read_manifest(start(settings(images, folder), out))
        return next(given.digest for given in made.inputs if given.role == "captioner")

    other = tmp_path / "other"
    shutil.copytree(tagger, other)
    listed = (other / "selected_tags.csv").read_text()
    (other / "selected_tags.csv").write_text(listed.replace("solo", "duo"))
    assert digest(tagger, tmp_path / "a") != digest(other, tmp_path / "b")


def refused(cfg: CaptionConfig, out: Path, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        start(cfg, out)
    assert not out.exists()


def test_a_list_of_another_length_than_the_classifier_is_refused(
    tagger: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tagger, folder)
    lines = (folder / "selected_tags.csv").read_text().splitlines()
    (folder / "selected_tags.csv").write_text("\n".join(lines[:-1]) + "\n")
    said = "lists 6 tags, but the network has 7 outputs.*one version"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)
    (folder / "selected_tags.csv").unlink()
    said = "no such file; a tagger needs its tag list"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)


def test_pickled_weights_and_unknown_networks_are_refused(
    tagger: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tagger, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    said = r"has no model\.safetensors \(pytorch_model\.bin\); only safetensors"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "hf-hub:somebody/something"
    (folder / "config.json").write_text(json.dumps(config))
    said = "architecture 'hf-hub:somebody/something' is none of timm"
    refused(settings(images, folder), tmp_path / "out", ConfigError, said)


def test_a_folder_that_would_make_timm_load_other_files_is_refused(
    tagger: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "loading"
    shutil.copytree(tagger, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= {"checkpoint_path": "other.pth", "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    said = "model_args has checkpoint_path, pretrained_cfg, by which timm would load other files"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)


def test_instructions_for_a_tagger_are_refused(tagger: Path, images: Path, tmp_path: Path) -> None:
    cfg = settings(images, tagger, vlm=VlmConfig(instruction="tag it"))
    refused(cfg, tmp_path / "out", ConfigError, "vlm: .* takes no instruction")


def test_a_folder_of_timm_is_known_by_its_settings(tagger: Path) -> None:
    assert find_captioner(tagger).family == "timm"
