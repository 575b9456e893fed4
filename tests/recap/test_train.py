"""Training a captioner: what it reads, how it resumes, what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.errors import ConfigError, InputError, StoppedError
from launch.manifest import is_complete, read_manifest
from launch.run import Run
from recap import train as module
from recap.annotate import annotate
from recap.artifacts import CaptionRow, caption_part_name, open_images, write_caption_part
from recap.captioner.folder import load_captioner
from recap.captioner.validation import written_captions
from recap.config import (
    AnnotateConfig,
    CaptionerSizeConfig,
    CaptionerTrainConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
)
from recap.ingest import ingest
from recap.train import train

SIZE = CaptionerSizeConfig(
    image_size=16,
    patch_size=8,
    width=16,
    num_heads=2,
    image_layers=1,
    text_layers=1,
    multimodal_layers=1,
    context_length=80,
    vocab_size=400,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and annotated captions of a tiny world."""
    folder = tmp_path_factory.mktemp("world")
    scenes = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=96, image_size=16),
        split=SplitConfig(judge=0.1, test=0.2),
        num_workers=1,
    )
    ingest(scenes, Run(out=folder / "images", verb="recap ingest", config=scenes))
    corpus = AnnotateConfig(
        images=folder / "images", teacher="claims", kinds=["ssc", "dsc"], num_pictures=40
    )
    annotate(corpus, Run(out=folder / "corpus", verb="recap annotate", config=corpus))
    return folder


def settings(world: Path, **changes: Any) -> CaptionerTrainConfig:
    base = CaptionerTrainConfig(
        images=world / "images",
        tokenizer_texts=[world / "corpus"],
        kind="alt",
        model=SIZE,
        samples=64,
        batch_size=16,
        warmup_samples=32,
        checkpoint_samples=16,
        log_samples=16,
        max_left_out_share=0.5,
        validation_pictures=8,
        threads=1,
    )
    return replace(base, **changes)


def start(cfg: CaptionerTrainConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap train", config=cfg)
    try:
        train(cfg, run)
    finally:
        run.close()
    return out


@pytest.fixture(scope="module")
def base(world: Path) -> Path:
    return start(settings(world), world / "base")


def payload(folder: Path) -> dict[str, str]:
    return {part.name: part.digest for part in read_manifest(folder).parts}


def test_pretraining_leaves_a_captioner_that_loads(base: Path) -> None:
    manifest = read_manifest(base, artifact="captioner", version=1)
    assert set(payload(base)) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "validation.json",
        "validation.html",
    }
    assert manifest.counts["samples_seen"] == 64
    model, tokenizer = load_captioner(base)
    assert model.size == SIZE
    assert tokenizer.vocab_size <= 400
    assert not (base / "scratch").exists()


def test_claims_are_compared_with_the_pictures_whose_truth_is_known(
    base: Path, world: Path
) -> None:
    model, tokenizer = load_captioner(base)
    images = open_images(world / "images")
    rows = images.rows("test")[:4]
    pixels = torch.from_numpy(images.pixels(rows, size=SIZE.image_size))

    def written(chosen: list[int], claims: list[Any]) -> dict[str, Any]:
        return written_captions(
            model.eval(), tokenizer, pixels[chosen], claims=claims,
            sample_ids=[images.sample_ids[rows[i]] for i in chosen], references=[None] * len(chosen),
        )  # fmt: skip

    truth = [images.claims[row] for row in rows]
    mixed = written([0, 1, 2, 3], [truth[0], None, truth[2], None])
    assert (mixed["num_captions"], mixed["num_with_claims"]) == (4, 2)
    assert mixed["claims"] == written([0, 2], [truth[0], truth[2]])["claims"]
    assert "claims" not in written([0, 1], [None, None])


def test_rows_in_are_rows_out_and_those_left_out(base: Path, world: Path) -> None:
    manifest = read_manifest(base)
    images = open_images(world / "images")
    rows = images.rows("train")
    num_empty = sum(not images.alt[row].strip() for row in rows)
    assert manifest.counts["rows_in"] == len(rows)
    assert manifest.counts["rows_out"] == len(rows) - num_empty
    assert sum(manifest.rejected.values()) == num_empty


def test_a_fine_tune_starts_from_its_base_and_keeps_its_vocabulary(
    world: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = settings(world, kind="dsc", init=base, captions=[world / "corpus"], samples=16, lr=1e-6)
    out = start(cfg, world / "dsc")
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert read_manifest(out).counts["rows_in"] == 40
    validation = json.loads((out / "validation.json").read_text())
    assert set(validation) >= {"alt", "alt_before", "captions", "written"}
    before = json.loads((base / "validation.json").read_text())["alt"]
    assert validation["alt_before"] == before
    said = f"by picture {before['retrieval_at_1']['image_to_text']:.3f} before -> "
    assert said in capsys.readouterr().out
    assert set(validation["written"]["claims"]) == {
        "objects",
        "number_place",
        "colour_size",
        "words",
        "all",
    }


class Stopped(BaseException):
    """What a signal does to a process, as far as files are concerned."""


def test_a_stopped_training_ends_in_the_same_bytes_as_one_never_stopped(
    world: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def die_in_the_fourth_step(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise Stopped
        return module_gradients(*args, **kwargs)

    module_gradients = module.gradients
    monkeypatch.setattr(module, "gradients", die_in_the_fourth_step)
    with pytest.raises(Stopped):
        start(settings(world), world / "stopped")
    assert not is_complete(world / "stopped")
    monkeypatch.setattr(module, "gradients", module_gradients)
    start(settings(world), world / "stopped")
    assert payload(world / "stopped") == payload(base)


@pytest.fixture(scope="module")
def measured(world: Path) -> Path:
    """The same training, measured on its way."""
    return start(settings(world, validation_samples=16), world / "measured")


def test_measuring_a_training_changes_no_bit_of_it(base: Path, measured: Path) -> None:
    assert payload(measured)["model.safetensors"] == payload(base)["model.safetensors"]


def test_a_training_measured_on_its_way_leaves_its_curve(base: Path, measured: Path) -> None:
    validation = json.loads((measured / "validation.json").read_text())
    curve = validation.pop("curve")
    assert [point["samples_seen"] for point in curve] == [16, 32, 48, 64]
    assert set(curve[0]) >= {"captioning_loss", "retrieval_at_1", "cider_d", "bleu_4"}
    assert curve[-1]["captioning_loss"] == validation["alt"]["captioning_loss"]
    assert validation == json.loads((base / "validation.json").read_text())


def test_the_log_has_what_was_measured_under_way(measured: Path) -> None:
    lines = map(json.loads, (measured / "run.log.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if line["event"] == "validation"]
    assert steps == [1, 2, 3, 4]


def test_a_stopped_training_resumes_with_the_curve_so_far(
    world: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = []

    def die_at_the_third_point(*args: Any, **kwargs: Any) -> Any:
        points.append(1)
        if len(points) == 3:
            raise Stopped
        return module_measure(*args, **kwargs)

    module_measure = module.measure
    cfg = settings(world, validation_samples=16)
    monkeypatch.setattr(module, "measure", die_at_the_third_point)
    with pytest.raises(Stopped):
        start(cfg, world / "stopped_measuring")
    monkeypatch.setattr(module, "measure", module_measure)
    assert payload(start(cfg, world / "stopped_measuring")) == payload(measured)


def test_how_often_training_logs_and_saves_is_no_part_of_the_recipe(
    world: Path, base: Path
) -> None:
    cfg = settings(world, log_samples=48, checkpoint_samples=1000)
    out = start(cfg, world / "rarely")
    assert payload(out) == payload(base)
    assert read_manifest(out).digest == read_manifest(base).digest


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_pictures(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.gradients

    def no_number(*args: Any, **kwargs: Any) -> Any:
        losses = real(*args, **kwargs)
        return losses._replace(total=losses.total * float("nan"))

    stepped = []
    monkeypatch.setattr(module, "gradients", no_number)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: stepped.append(1))
    with pytest.raises(StoppedError, match=r"step 1, rank 0.*not finite") as error:
        start(settings(world), world / "nan")
    assert not stepped
    images = open_images(world / "images")
    named = [word for word in str(error.value).split() if len(word) == 32]
    assert len(named) == 16
    assert set(named) <= set(images.sample_ids)


def test_training_lowers_the_loss(world: Path, tmp_path: Path) -> None:
    start(settings(world, samples=480, lr=5e-3), tmp_path / "longer")
    lines = (tmp_path / "longer" / "run.log.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines]
    captioning = [line["captioning"] for line in losses if line["event"] == "step"]
    assert captioning[-1] < 0.7 * captioning[0]


def test_captions_longer_than_the_context_are_left_out_and_counted(
    world: Path, tmp_path: Path
) -> None:
    size = replace(SIZE, context_length=16)
    out = start(settings(world, model=size, max_left_out_share=0.9), tmp_path / "short")
    manifest = read_manifest(out)
    assert manifest.rejected["longer_than_context"] > 0
    assert manifest.counts["rows_in"] == manifest.counts["rows_out"] + sum(
        manifest.rejected.values()
    )


def test_too_many_unusable_captions_are_refused_before_anything_is_written(
    world: Path, tmp_path: Path
) -> None:
    size = replace(SIZE, context_length=4)
    with pytest.raises(InputError, match=r"longer_than_context.*max_left_out_share=0\.1"):
        start(settings(world, model=size, max_left_out_share=0.1), tmp_path / "short")
    assert not (tmp_path / "short").exists()


def test_a_batch_larger_than_the_corpus_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch takes 1024"):
        start(settings(world, batch_size=1024), tmp_path / "out")


def test_a_kind_without_captions_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind=dsc needs captions"):
        start(settings(world, kind="dsc"), tmp_path / "out")


def test_captions_of_other_pictures_are_refused(world: Path, base: Path, tmp_path: Path) -> None:
    row = CaptionRow(sample_id="f" * 32, kind="dsc", text="a red circle")
    name = caption_part_name(0)
    cfg = settings(world)
    run = Run(out=tmp_path / "foreign", verb="recap annotate", config=cfg)
    run.start({})
    write_caption_part(run.out / name, [row])
    run.finish(artifact="captions", counts={"rows_in": 1, "rows_out": 1}, parts=[name])
    with pytest.raises(InputError, match="written for other pictures"):
        start(
            settings(world, kind="dsc", init=base, captions=[tmp_path / "foreign"]),
            tmp_path / "out",
        )


def test_one_picture_with_two_captions_of_the_kind_is_refused(
    world: Path, base: Path, tmp_path: Path
) -> None:
    twice = [world / "corpus", world / "corpus"]
    with pytest.raises(InputError, match="give each picture's caption once"):
        start(settings(world, kind="dsc", init=base, captions=twice), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 12}, "batch_size"),
        ({"samples": 0}, "samples"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"captioning_weight": 0.0}, "captioning_weight"),
        ({"num_length_groups": 0}, "num_length_groups"),
        ({"microbatch": 12}, "microbatch"),
        ({"validation_samples": 0}, "validation_samples"),
    ],
)
def test_settings_out_of_range_are_refused(
    world: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(world, **changes)
