from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import t2i.train as module
from launch.config import build
from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from launch.manifest import read_manifest
from t2i import estimate
from t2i.artifacts import WEIGHTS_NAME, open_model
from t2i.config import TrainConfig
from t2i.estimate import Pass
from t2i.pipeline import CaptionmixPipeline
from t2i.train import snapshot_steps

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, ledger, make_images, payload, run_verb

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def model(made: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.train(tmp_path_factory.mktemp("models") / "dsc")


def test_the_model_folder_is_a_pipeline(model: Path) -> None:
    pipeline = CaptionmixPipeline.from_pretrained(model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red box", num_inference_steps=2).images[0]
    assert image.size == (16, 16)
    assert pipeline.tokenizer.model_max_length == 32


def test_the_last_snapshot_is_the_model_and_the_earlier_are_kept(model: Path) -> None:
    opened = open_model(model)
    assert opened.samples_seen == 48
    assert list(opened.snapshots) == [24]
    final = load_file(model / "denoiser" / WEIGHTS_NAME)
    early = load_file(opened.snapshots[24])
    assert final.keys() == early.keys()
    assert any(not torch.equal(final[name], early[name]) for name in final)


def test_every_step_has_a_row_in_the_ledger(model: Path) -> None:
    rows = ledger(model)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["samples_seen"] for row in rows] == [8, 16, 24, 32, 40, 48]
    assert all(sum(json.loads(row["kinds"]).values()) == 8 for row in rows)
    assert rows[0]["tensor_hash"] is not None


def test_a_dry_run_prices_the_inputs_that_exist(
    made: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counted = (1, Pass(flop=1, activation_bytes=1, checkpointed_bytes=1))
    monkeypatch.setattr(estimate, "fake_pass", lambda *_, **__: counted)
    cfg = build(TrainConfig, made.train_tree(), where="")
    run_verb("t2i train", module.train, cfg, tmp_path / "out", is_dry=True)
    shown = capsys.readouterr().out
    assert "disk, latents: 0.00 GiB = 70 pictures x mean and deviation of 4x4x4 numbers" in shown
    assert "expected" not in shown
    assert not (tmp_path / "out").exists()


def test_nothing_but_payload_and_records_is_left(model: Path) -> None:
    assert not (model / "scratch").exists()
    assert not (model / "ledger.jsonl").exists()


def test_two_arms_with_equal_captions_under_other_names_are_equal_to_the_bit(
    made: Chain, model: Path, tmp_path: Path
) -> None:
    other = made.train(tmp_path / "same", arm="same", caption_mix={"same": 0.75, "alt": 0.25})
    ours, theirs = payload(model), payload(other)
    assert ours.pop("ledger.parquet") != theirs.pop("ledger.parquet")  # it names the kinds
    assert ours == theirs
    for a, b in zip(ledger(model), ledger(other), strict=True):
        assert {k: v for k, v in a.items() if k != "kinds"} == {
            k: v for k, v in b.items() if k != "kinds"
        }


def test_arms_with_other_captions_differ_in_captions_alone(
    made: Chain, model: Path, tmp_path: Path
) -> None:
    other = made.train(tmp_path / "ssc", arm="ssc", caption_mix={"ssc": 0.75, "alt": 0.25})
    for a, b in zip(ledger(model), ledger(other), strict=True):
        assert a["shared_hash"] == b["shared_hash"]
        assert a["tensor_hash"] == b["tensor_hash"]
        assert a["num_dropped"] == b["num_dropped"]
    assert any(
        a["caption_hash"] != b["caption_hash"]
        for a, b in zip(ledger(model), ledger(other), strict=True)
    )
    name = f"denoiser/{WEIGHTS_NAME}"
    assert payload(model)[name] != payload(other)[name]


def command(made: Chain, out: Path, folder: Path) -> list[str]:
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(made.train_tree(checkpoint_samples=8)))
    verb = [sys.executable, str(Path(__file__).parent / "small.py"), "train"]
    return [*verb, "--config", str(config), "--out", str(out)]


def test_a_process_killed_while_training_resumes_to_equal_bytes(
    made: Chain, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    words = command(made, out, tmp_path)
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = out / "scratch" / "ledger.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        # After a checkpoint, with a step under way: its row is written, its checkpoint not.
        if (
            (out / "scratch" / "checkpoints").is_dir()
            and lines.is_file()
            and lines.read_text().count("\n") >= 3
        ):
            break
        time.sleep(0.002)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    assert not (out / "manifest.json").exists()
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert payload(model) == payload(out)


def test_a_run_stopped_in_this_process_resumes_with_its_optimizer(
    made: Chain, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws, real = [], module.prepare

    def stop_at_the_fourth(*args: Any, **kwargs: Any) -> Any:
        draws.append(1)
        if len(draws) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "prepare", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        made.train(tmp_path / "out")
    assert payload(made.train(tmp_path / "out")) == payload(model)


def test_a_finished_run_is_not_run_again(
    made: Chain, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "prepare", None)
    made.train(model)
    assert "is complete" in capsys.readouterr().out


def test_a_changed_key_stops_with_the_difference(made: Chain, model: Path) -> None:
    with pytest.raises(ConfigError, match="text_dropout"):
        made.train(model, text_dropout=0.3)


def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, steps = module.prepare, []

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        steps.append(1)
        found[0].x_t[0] = float("nan")
        return found

    monkeypatch.setattr(module, "prepare", poisoned)
    stepped: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: stepped.append(1))
    with pytest.raises(StoppedError, match=r"step 1: .* these pictures: [0-9a-f]{32}; or"):
        made.train(tmp_path / "out")
    assert not stepped


def test_the_objective_is_saved_with_its_scheduler(made: Chain, tmp_path: Path) -> None:
    out = made.train(tmp_path / "v", objective="velocity", samples=8, snapshots=1)
    config = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction"


def test_a_cache_of_other_pictures_is_refused(made: Chain, tmp_path: Path) -> None:
    other = make_images(tmp_path / "images", num=64)
    with pytest.raises(ArtifactError, match="was made from images"):
        made.train(tmp_path / "out", images=str(other))
    assert not (tmp_path / "out").exists()


def test_a_mix_naming_an_absent_kind_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'tags' is in none"):
        made.train(tmp_path / "out", caption_mix={"tags": 1.0})


def test_a_batch_that_is_no_multiple_of_eight_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        made.train(tmp_path / "out", batch_size=12)


@pytest.mark.parametrize(
    ("steps", "snapshots", "kept"), [(10, 1, set()), (10, 4, {2, 5, 8}), (2, 4, {1})]
)
def test_snapshots_are_evenly_spaced(steps: int, snapshots: int, kept: set[int]) -> None:
    assert snapshot_steps(steps, snapshots) == kept


def test_the_manifest_conserves_rows_and_says_what_was_left_out(model: Path) -> None:
    manifest = read_manifest(model, artifact="model")
    assert manifest.counts["rows_in"] == manifest.counts["rows_out"] + sum(
        manifest.rejected.values()
    )
    assert {i.role for i in manifest.inputs} == {"images", "captions", "latents", "text_states"}
    assert os.path.isabs(manifest.inputs[0].path) or manifest.inputs[0].path
