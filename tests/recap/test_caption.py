"""Captioning an images artifact: parts, quarantine, resume."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launch.errors import ConfigError, InputError, StoppedError
from launch.manifest import is_complete, read_manifest
from launch.run import Run, refuse_stale
from recap import caption as module
from recap.artifacts import open_captions, open_images
from recap.caption import caption
from recap.captioners import Caption, CoCaCaptioner, open_captioner
from recap.config import (
    CaptionConfig,
    CaptionerSizeConfig,
    CaptionerTrainConfig,
    DecodeConfig,
    GateConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
)
from recap.ingest import ingest
from recap.reading import pixel_groups
from recap.timing import Timing
from recap.train import train

ROOT = Path(__file__).parents[2]
LENIENT = GateConfig(max_gated_share=1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in four shards and a barely trained captioner."""
    folder = tmp_path_factory.mktemp("world")
    scenes = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=96, image_size=16),
        split=SplitConfig(judge=0.2, test=0.2),
        pictures_per_shard=24,
        num_workers=1,
    )
    ingest(scenes, Run(out=folder / "images", verb="recap ingest", config=scenes))
    training = CaptionerTrainConfig(
        images=folder / "images",
        kind="alt",
        model=CaptionerSizeConfig(
            image_size=16,
            patch_size=8,
            width=16,
            num_heads=2,
            image_layers=1,
            text_layers=1,
            multimodal_layers=1,
            context_length=16,
            vocab_size=320,
        ),
        samples=160,
        batch_size=16,
        lr=5e-3,
        warmup_samples=32,
        max_left_out_share=0.9,
        validation_pictures=8,
        threads=1,
    )
    train(training, Run(out=folder / "captioner", verb="recap train", config=training))
    return folder


def settings(world: Path, **changes: Any) -> CaptionConfig:
    base = CaptionConfig(
        images=world / "images",
        captioner=world / "captioner",
        kind="ssc",
        gates=LENIENT,
        decode=DecodeConfig(method="sample", max_tokens=8),
        batch_size=8,
        threads=1,
    )
    return replace(base, **changes)


def start(cfg: CaptionConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap caption", config=cfg)
    try:
        caption(cfg, run)
    finally:
        run.close()
    return out


@pytest.fixture(scope="module")
def captioned(world: Path) -> Path:
    return start(settings(world), world / "captions")


def test_every_picture_of_the_splits_is_captioned_or_quarantined(
    world: Path, captioned: Path
) -> None:
    images, captions = open_images(world / "images"), open_captions(captioned)
    wanted = {images.sample_ids[r] for s in ("train", "test") for r in images.rows(s)}
    accepted = captions.table["sample_id"].to_pylist()
    gated = captions.quarantined()["sample_id"].to_pylist()
    assert sorted(accepted + gated) == sorted(wanted)
    manifest = read_manifest(captioned)
    assert manifest.counts == {"rows_in": len(wanted), "rows_out": len(accepted)}
    assert manifest.rejected == {"gated": len(gated)}


def test_there_is_one_part_and_one_quarantine_per_shard(captioned: Path) -> None:
    names = [part.name for part in read_manifest(captioned).parts]
    assert sum(name.startswith("parts/") for name in names) == 4
    assert sum(name.startswith("quarantine/") for name in names) == 4


def test_quarantined_captions_carry_their_rules_and_accepted_ones_none(captioned: Path) -> None:
    captions = open_captions(captioned)
    flags = captions.quarantined()["flags"].to_pylist()
    assert flags
    assert all(flags)
    assert not any(captions.table["flags"].to_pylist())
    by_rule = read_manifest(captioned).recipe["gated_by_rule"]
    assert sum(by_rule.values()) == sum(map(len, flags))


def test_captions_keep_length_reason_and_log_probability(captioned: Path) -> None:
    captions = open_captions(captioned)
    rows = captions.table.to_pylist() + captions.quarantined().to_pylist()
    assert {row["kind"] for row in rows} == {"ssc"}
    assert all(row["stop_reason"] in {"end", "length"} for row in rows)
    assert all(0 <= row["num_tokens"] <= 8 for row in rows)
    assert all(row["mean_logprob"] < 0 for row in rows)


def payload(folder: Path) -> dict[str, str]:
    return {part.name: part.digest for part in read_manifest(folder).parts}


class Killed(BaseException):
    """What a signal does to a process, as far as files are concerned."""


def test_a_job_stopped_in_its_third_part_ends_in_the_same_bytes_as_one_never_stopped(
    world: Path, captioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = CoCaCaptioner.write, []

    def die_in_the_third_part(*args: Any, **kwargs: Any) -> Iterator[tuple[str, Caption]]:
        calls.append(1)
        for number, found in enumerate(real(*args, **kwargs)):
            if len(calls) == 3 and number == 5:
                raise Killed
            yield found

    monkeypatch.setattr(CoCaCaptioner, "write", die_in_the_third_part)
    with pytest.raises(Killed):
        start(settings(world), world / "killed")
    assert not is_complete(world / "killed")
    finished = list((world / "killed" / "parts").glob("*.parquet"))
    assert 0 < len(finished) < 4
    times = {path.name: path.stat().st_mtime_ns for path in finished}
    monkeypatch.setattr(CoCaCaptioner, "write", real)
    start(settings(world), world / "killed")
    assert payload(world / "killed") == payload(captioned)
    assert read_manifest(world / "killed").digest == read_manifest(captioned).digest
    assert all(
        (world / "killed" / "parts" / name).stat().st_mtime_ns == time
        for name, time in times.items()
    ), "finished parts must not be written again"


def test_a_mostly_bad_job_stops_and_keeps_its_quarantine(world: Path, tmp_path: Path) -> None:
    cfg = settings(world, gates=GateConfig(min_words=50, max_gated_share=0.5))
    with pytest.raises(StoppedError, match=r"broke a rule .*too_short"):
        start(cfg, tmp_path / "bad")
    assert not is_complete(tmp_path / "bad")
    assert len(list((tmp_path / "bad" / "quarantine").glob("*.parquet"))) == 4


def test_one_text_on_many_pictures_of_a_part_is_quarantined(world: Path, tmp_path: Path) -> None:
    # Exactly one word, of which there are fewer than pictures.
    decode = DecodeConfig(method="greedy", min_tokens=1, max_tokens=2)
    gates = GateConfig(rules=["same_text"], max_pictures_per_text=1, max_gated_share=1.0)
    limited = replace(gates, max_pictures_per_text=10_000)
    folders = [
        start(settings(world, decode=decode, gates=g), tmp_path / name)
        for name, g in (("gated", gates), ("open", limited))
    ]
    gated, whole = map(open_captions, folders)
    flags = gated.quarantined()["flags"].to_pylist()
    assert flags
    assert all(found == ["same_text"] for found in flags)
    assert gated.table.num_rows + len(flags) == whole.table.num_rows


def test_another_seed_samples_other_captions(world: Path, captioned: Path, tmp_path: Path) -> None:
    assert payload(start(settings(world, seed=1), tmp_path / "other")) != payload(captioned)


def test_splits_without_pictures_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no picture is in splits \(none\)"):
        start(settings(world, splits=[]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_size_that_is_no_multiple_of_8_is_refused(world: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        settings(world, batch_size=20)


def test_a_loaded_captioner_writes_text_for_pictures(world: Path) -> None:
    cpu = torch.device("cpu")
    captioner = open_captioner(world / "captioner", batch_size=8, device=cpu)
    images = open_images(world / "images")
    groups = pixel_groups(
        images,
        np.arange(3),
        image_size=captioner.image_size,
        group_size=captioner.group_size,
        num_workers=1,
    )
    written = dict(
        captioner.write(groups, config=DecodeConfig(max_tokens=8), seed=0, timing=Timing())
    )
    assert set(written) == set(images.sample_ids[:3])
    assert all(isinstance(found.text, str) for found in written.values())


def test_a_part_is_complete_only_with_its_quarantine(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[str] = []
    real = module.artifacts.write_caption_part

    def note(path: Path, rows: Any) -> None:
        written.append(path.parent.name)
        real(path, rows)

    monkeypatch.setattr(module.artifacts, "write_caption_part", note)
    start(settings(world), tmp_path / "out")
    assert written == ["quarantine", "parts"] * 4


def overrides(world: Path) -> list[str]:
    """Give the words of a command that has the settings of `settings`."""
    return [
        *(f"images={world / 'images'}", f"captioner={world / 'captioner'}", "kind=ssc"),
        *("decode.method=sample", "decode.max_tokens=8", "batch_size=8"),
        *("gates.max_gated_share=1", "threads=1"),
    ]


def launched(world: Path, out: Path) -> list[str]:
    """Give the command that captions with two processes, each with one thread."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "launch/accelerate/cpu_2.yaml"), "--main_process_port", "0"),
        *("-m", "recap", "caption", "--out", str(out)),
        *overrides(world),
    ]


@pytest.mark.timeout(300)
def test_two_processes_write_the_same_bytes_as_one(world: Path, captioned: Path) -> None:
    out = world / "two"
    done = subprocess.run(launched(world, out), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert payload(out) == payload(captioned)
    assert read_manifest(out).digest == read_manifest(captioned).digest
    assert not (out / "scratch").exists()


def test_it_says_where_the_time_went_and_what_bounds_it(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(settings(world), tmp_path / "captions")
    line = next(line for line in capsys.readouterr().out.splitlines() if " time: " in line)
    for stage in (
        "writing words",
        "looking at pictures",
        "waiting for pictures",
        "gates and files",
    ):
        assert stage in line
    assert "the bottleneck is" in line


def test_bfloat16_is_a_recipe_of_its_own(world: Path, captioned: Path, tmp_path: Path) -> None:
    half = start(settings(world, precision="bfloat16"), tmp_path / "captions")
    assert read_manifest(half).recipe["precision"] == "bfloat16"
    assert read_manifest(half).counts["rows_in"] == read_manifest(captioned).counts["rows_in"]
    with pytest.raises(ConfigError, match="precision"):
        start(settings(world), half)


def test_bfloat16_is_the_precision_of_all_weights(world: Path) -> None:
    cpu = torch.device("cpu")
    captioner = open_captioner(world / "captioner", batch_size=8, device=cpu, precision="bfloat16")
    assert isinstance(captioner, CoCaCaptioner)
    assert {parameter.dtype for parameter in captioner.model.parameters()} == {torch.bfloat16}


def test_captions_of_another_version_of_the_decoder_are_never_mixed_in(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = start(settings(world), tmp_path / "captions")
    monkeypatch.setattr(module, "CODE", module.CODE + 1)
    with pytest.raises(ConfigError, match="code"):
        start(settings(world), out)


def test_captions_gated_when_a_sentence_without_blanks_was_one_word_are_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = settings(world, gates=GateConfig(rules=["empty"], script="cjk"))
    with monkeypatch.context() as before:
        before.setattr(GateConfig, "ALSO_IN_RECIPE", ())
        out = start(cfg, tmp_path / "captions")
    with pytest.raises(ConfigError, match=r"gates\.words: '\(absent\)' -> 'letters'"):
        start(cfg, out)
    with pytest.raises(ConfigError, match=r"gates\.words"):
        refuse_stale(out, verb="recap caption", config=cfg)
