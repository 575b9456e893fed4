"""One walk through all three stages: a handful of pictures from alt text to a figure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

# It takes a minute or two, and lies in a folder that comes first: the other worker has the rest.
pytestmark = pytest.mark.timeout(900)

SMALL = [
    "sizes.pictures=300",
    "sizes.annotated=64",
    "sizes.base_samples=64",
    "sizes.ssc_samples=64",
    "sizes.dsc_samples=64",
    "sizes.autoencoder_samples=64",
    "sizes.text_encoder_samples=64",
    "sizes.clip_samples=256",
    "sizes.recogniser_samples=256",
    "sizes.train_samples=64",
    "sizes.snapshots=2",
    "sizes.pairs=12",
    "sizes.curve_pairs=2",
    "sizes.resamples=100",
]


START = (Path(__file__).parents[2] / "docs" / "start.md").read_text()
LOOKS = re.findall(r"python -m launch (\w+) runs/studies/smoke(\S*)", START)
"""What the page for beginners does after its study: verb, and place in the study."""


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    config = "configs/studies/smoke.yaml"
    done = call("launch", "study", "--config", config, "--out", str(out), *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def test_a_caption_is_followed_from_alt_text_to_report(study: Path) -> None:
    traced = call("launch", "trace", str(study / "report"))
    assert traced.returncode == 0, traced.stderr
    for artifact in ("report", "scores", "generations", "model", "captions", "captioner", "images"):
        assert artifact in traced.stdout


def test_the_study_proves_itself(study: Path) -> None:
    verified = call("launch", "verify", str(study))
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize(("verb", "place"), LOOKS)
def test_what_beginners_do_next_works(study: Path, verb: str, place: str) -> None:
    done = call("launch", verb, f"{study}{place}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def test_beginners_look_at_their_study_in_three_ways() -> None:
    assert {verb for verb, _ in LOOKS} == {"show", "trace", "verify"}


def test_every_model_of_a_seed_saw_the_same_pictures_noise_and_dropout(study: Path) -> None:
    ledgers = [pq.read_table(p) for p in sorted(study.glob("train-*/ledger.parquet"))]
    assert len(ledgers) == 3
    shared = {tuple(t["shared_hash"].to_pylist()) for t in ledgers}
    captions = {tuple(t["caption_hash"].to_pylist()) for t in ledgers}
    assert (len(shared), len(captions)) == (1, 3)


def test_a_study_that_is_complete_is_left_alone(study: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in study.rglob("manifest.json")}
    config = "configs/studies/smoke.yaml"
    again = call("launch", "study", "--config", config, "--out", str(study), *SMALL)
    assert again.returncode == 0
    assert "0 to do" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in study.rglob("manifest.json")}


def test_a_changed_byte_is_found(study: Path) -> None:
    index = study / "images" / "index.parquet"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    try:
        index.write_bytes(data)
        verified = call("launch", "verify", str(study))
        assert verified.returncode == 1
        assert "index.parquet" in verified.stdout + verified.stderr
    finally:
        data[len(data) // 2] ^= 1
        index.write_bytes(data)


def test_report_and_rows_agree_on_the_number_of_pictures(study: Path) -> None:
    rows = pq.read_table(study / "score" / "scores.parquet")
    manifest = json.loads((study / "score" / "manifest.json").read_text())
    assert manifest["counts"]["scores"] == rows.num_rows
