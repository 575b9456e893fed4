"""Verify: a sound study passes, and each way of being unsound is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from launch.errors import ArtifactError
from launch.manifest import Manifest, write_json
from launch.verify import refuse_unpaired, verify

MakeArtifact = Callable[..., Manifest]

NUM_STEPS = 40
BATCH = 8


def ledger(dsc: int, **changed: list[Any]) -> pa.Table:
    """A ledger in which each step drew `dsc` descriptive captions, with columns replaced."""
    steps = list(range(1, NUM_STEPS + 1))
    columns = {
        "step": steps,
        "samples_seen": [BATCH * s for s in steps],
        "epoch": [s // 10 for s in steps],
        "shared_hash": [f"shared-{s}" for s in steps],
        "caption_hash": [f"captions-{dsc}-{s}" for s in steps],
        "kinds": [json.dumps({"dsc": dsc, "alt": BATCH - dsc}) for _ in steps],
        "tensor_hash": [f"tensors-{s}" if s % 10 == 0 else None for s in steps],
    }
    return pa.table({**columns, **changed})


@pytest.fixture
def study(tmp_path: Path, make_artifact: MakeArtifact) -> Callable[..., Path]:
    """Give a function that writes a study of two arms, the second with parts replaced."""

    def make(**second: Any) -> Path:
        store = tmp_path / "store"
        images = make_artifact(store / "images", files={"shards/shard-00000.tar": b"tar"})
        captions = make_artifact(
            store / "captions",
            "captions",
            inputs={"images": images},
            files={"parts/part-00000.parquet": b"rows"},
            counts={"rows_in": 5, "rows_out": 3},
            rejected={"repeats": 2},
        )
        steps = {"ingest": "../store/images", "caption": "../store/captions"}
        arms = {
            "real": {"mix": {"alt": 1.0}, "ledger": ledger(0), "inputs": {"images": images}},
            "dsc": {
                "mix": {"dsc": 0.75, "alt": 0.25},
                "ledger": ledger(6),
                "inputs": {"images": images, "captions": captions},
                "recipe": {},
                **second,
            },
        }
        for arm, given in arms.items():
            folder = store / f"train-{arm}"
            make_artifact(
                folder,
                "model",
                inputs=given["inputs"],
                tables={"ledger.parquet": given["ledger"]},
                counts={"samples_seen": BATCH * NUM_STEPS},
                recipe={
                    "arm": arm,
                    "caption_mix": given["mix"],
                    "lr": 1,
                    **given.get("recipe", {}),
                },
                config={"arm": arm, "seed": 0, "caption_mix": given["mix"]},
            )
            steps[f"train[{arm},0]"] = f"../store/train-{arm}"
        write_json(tmp_path / "study" / "plan.json", {"name": "small", "steps": steps})
        return tmp_path / "study"

    return make


def failures(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert verify(folder) == 1
    return capsys.readouterr().out.partition("failures\n")[2]


def test_a_sound_study_passes(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(study()) == 0
    out = capsys.readouterr().out
    assert "4 artifacts complete, 4 parts equal their digests, rows conserved" in out
    assert "seed 0: dsc, real are paired in all 40 steps" in out


def test_the_realised_mix_stands_beside_the_configured_one(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    verify(study())
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dsc", "0", "dsc", "75.00%", "75.00%", "240", "+0.0", "sd"] in words
    assert ["real", "0", "alt", "100.00%", "100.00%", "320", "+0.0", "sd"] in words


def test_a_mix_that_chance_cannot_explain_is_found(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = failures(study(ledger=ledger(4)), capsys)
    assert "50.00% of the captions are dsc, configured are 75.00%" in out


def test_a_caption_of_a_kind_that_the_arm_excludes_is_found(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = [json.dumps({"dsc": 6, "alt": 2})] * (NUM_STEPS - 1)
    changed = ledger(6, kinds=[*kinds, json.dumps({"dsc": 6, "alt": 1, "ssc": 1})])
    assert "are ssc, configured are 0.00%" in failures(study(ledger=changed), capsys)


def test_arms_that_saw_different_draws_are_not_paired(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = [f"shared-{s}" if s < 7 else "other" for s in range(1, NUM_STEPS + 1)]
    out = failures(study(ledger=ledger(6, shared_hash=hashes)), capsys)
    assert "not paired: shared_hash differs in 34 of 40 steps, first in step 7" in out


def test_arms_whose_tensors_differed_are_not_paired(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = [
        f"other-{s}" if s == 30 else f"tensors-{s}" if s % 10 == 0 else None for s in range(1, 41)
    ]
    out = failures(study(ledger=ledger(6, tensor_hash=hashes)), capsys)
    assert "tensor_hash differs in 1 of 40 steps, first in step 30" in out


def test_arms_of_different_length_are_not_paired(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "40 steps and 20" in failures(study(ledger=ledger(6).slice(0, 20)), capsys)


def test_a_ledger_with_a_missing_step_is_found(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ledger(6)
    cut = pa.concat_tables([whole.slice(0, 10), whole.slice(11)])
    assert "not consecutive" in failures(study(ledger=cut), capsys)


def test_a_ledger_without_its_column_is_found(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = failures(study(ledger=ledger(6).drop_columns(["shared_hash"])), capsys)
    assert "cannot be read as a ledger" in out


def test_arms_that_differ_in_more_than_captions_are_found(
    study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lr is 1 and 2" in failures(study(recipe={"lr": 2}), capsys)


def test_arms_that_read_other_pictures_are_found(
    study: Callable[..., Path],
    tmp_path: Path,
    make_artifact: MakeArtifact,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_artifact(tmp_path / "store" / "other", files={"a": b"other"})
    out = failures(study(inputs={"images": other}), capsys)
    assert "read other images" in out


def test_arms_of_two_training_steps_are_not_held_against_each_other(
    study: Callable[..., Path],
) -> None:
    folder = study(recipe={"lr": 2})
    plan = json.loads((folder / "plan.json").read_text())
    plan["steps"]["longer[dsc,0]"] = plan["steps"].pop("train[dsc,0]")
    write_json(folder / "plan.json", plan)
    assert verify(folder) == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"tax", "its bytes have digest"), (b"ta", "has 2 bytes"), (None, "absent")],
)
def test_a_changed_part_is_found(
    study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes | None,
    message: str,
) -> None:
    folder = study()
    part = tmp_path / "store" / "images" / "shards" / "shard-00000.tar"
    part.unlink() if data is None else part.write_bytes(data)
    out = failures(folder, capsys)
    assert "shard-00000.tar" in out
    assert message in out


def test_an_incomplete_step_is_found(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study()
    (tmp_path / "store" / "captions" / "manifest.json").unlink()
    assert "caption: " in failures(folder, capsys)


def test_rows_that_vanish_are_found(
    tmp_path: Path, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(
        tmp_path / "a", counts={"rows_in": 10, "rows_out": 7}, rejected={"empty": 1, "repeats": 1}
    )
    assert "1 rows are not accounted for" in failures(tmp_path / "a", capsys)


def test_rows_that_an_artifact_added_are_accounted_for(
    tmp_path: Path, make_artifact: MakeArtifact, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(tmp_path / "a", counts={"rows_in": 10, "rows_added": 5, "rows_out": 15})
    assert verify(tmp_path / "a") == 0
    make_artifact(tmp_path / "b", counts={"rows_in": 10, "rows_added": 5, "rows_out": 14})
    assert "1 rows are not accounted for" in failures(tmp_path / "b", capsys)


def test_an_input_made_anew_with_other_content_is_found(
    study: Callable[..., Path],
    tmp_path: Path,
    make_artifact: MakeArtifact,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = study()
    make_artifact(tmp_path / "store" / "images", files={"shards/shard-00000.tar": b"new"})
    assert "captions: was made from images" in failures(folder, capsys)


def test_an_edited_manifest_is_found(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study()
    path = tmp_path / "store" / "captions" / "manifest.json"
    path.write_text(path.read_text().replace('"repeats": 2', '"repeats": 1'))
    assert "it was edited" in failures(folder, capsys)


def test_one_artifact_can_be_verified_alone(
    study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    assert verify(tmp_path / "store" / "train-dsc") == 0
    assert "75.00%" in capsys.readouterr().out


def test_a_folder_that_is_neither_study_nor_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        verify(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not the plan of a study"):
        verify(tmp_path)


def test_a_study_gives_no_answer_about_arms_that_are_not_paired(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    folders = lambda: {f"train[{a},0]": tmp_path / "store" / f"train-{a}" for a in ("real", "dsc")}  # noqa: E731
    study()
    refuse_unpaired({**folders(), "ingest": tmp_path / "store" / "images"})
    shutil.rmtree(tmp_path / "store")
    hashes = [f"shared-{s}" if s < 7 else "other" for s in range(1, NUM_STEPS + 1)]
    study(ledger=ledger(6, shared_hash=hashes))
    with pytest.raises(
        ArtifactError, match="not one of captions alone; train the arms on the same"
    ):
        refuse_unpaired(folders())
