"""Captioning as real processes, killed by signals they cannot catch."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.manifest import is_complete, read_manifest
from launch.run import Run
from recap.artifacts import open_captions, open_images
from recap.config import IngestConfig, ScenesConfig, SplitConfig
from recap.ingest import ingest
from tests.recap import test_caption as captioning

ROOT = Path(__file__).resolve().parents[2]
NUM_KILLS = 5
world, captioned = captioning.world, captioning.captioned


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in so many shards that a job is killed several times before it is done."""
    folder = tmp_path_factory.mktemp("many") / "images"
    scenes = IngestConfig(
        source="scenes",
        name="many",
        scenes=ScenesConfig(num_pictures=480, image_size=16),
        split=SplitConfig(judge=0.2, test=0.2),
        pictures_per_shard=12,
        num_workers=1,
    )
    ingest(scenes, Run(out=folder, verb="recap ingest", config=scenes))
    return folder


def command(world: Path, images: Path, out: Path) -> list[str]:
    """Give the command that captions with two processes, slowly enough to be killed at it."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", "launch/accelerate/cpu_2.yaml", "--main_process_port", "0"),
        *("-m", "recap", "caption", "--out", str(out)),
        *(f"images={images}", f"captioner={world / 'captioner'}", "kind=ssc"),
        *("decode.method=beam", "decode.num_beams=4", "decode.min_tokens=12"),
        *("decode.max_tokens=15", "batch_size=8", "gates.max_gated_share=1", "threads=1"),
    ]


def num_parts(out: Path) -> int:
    return len(list((out / "parts").glob("*.parquet")))


def stored_bytes(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.parquet")}


# Seconds, not minutes; but nearly all of them import what the default suite has imported once.
@pytest.mark.slow
def test_a_process_killed_after_its_first_part_ends_in_the_same_bytes(
    world: Path, captioned: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "killed", tmp_path / "said.txt"
    words = [*("-m", "recap", "caption", "--out", str(out)), *captioning.overrides(world)]
    with said.open("w") as file:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file)
    try:
        while process.poll() is None and num_parts(out) == 0:
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, said.read_text()
    assert 0 < num_parts(out) < 4
    assert not is_complete(out)
    captioning.start(captioning.settings(world), out)
    assert stored_bytes(out) == stored_bytes(captioned)
    assert read_manifest(out).digest == read_manifest(captioned).digest


def kill_at_work(words: list[str], out: Path, *, new_parts: int, wait_s: float) -> None:
    """Kill the launcher this long after so many more parts are there, whatever it is doing."""
    wanted = num_parts(out) + new_parts
    with (out.parent / "said.txt").open("w+") as said:
        launcher = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 120
            while num_parts(out) < wanted and launcher.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(wait_s)
        finally:
            launcher.kill()
            launcher.wait()
        said.seek(0)
        assert launcher.returncode == -signal.SIGKILL, said.read()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_of_two_processes_killed_at_random_moments_ends_in_the_same_bytes(
    world: Path, images: Path, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    subprocess.run(command(world, images, calm), cwd=ROOT, check=True, capture_output=True)
    words, moments, seen = command(world, images, killed), random.Random(20), [0]
    for _ in range(NUM_KILLS):
        kill_at_work(words, killed, new_parts=moments.randint(1, 3), wait_s=moments.uniform(0, 0.3))
        assert not is_complete(killed)
        seen.append(num_parts(killed))
    assert seen == sorted(set(seen)), "each start must go on where the one before it was killed"
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    assert stored_bytes(killed) == stored_bytes(calm)
    assert captioning.payload(killed) == captioning.payload(calm)
    assert read_manifest(killed).digest == read_manifest(calm).digest
    assert not (killed / "scratch").exists()
    assert not list(killed.rglob("*.tmp"))
    pictures, captions = open_images(images), open_captions(killed)
    wanted = {pictures.sample_ids[r] for s in ("train", "test") for r in pictures.rows(s)}
    found = [t["sample_id"].to_pylist() for t in (captions.table, captions.quarantined())]
    assert sorted(found[0] + found[1]) == sorted(wanted)
    assert read_manifest(killed).counts["rows_in"] == len(wanted)
    assert read_manifest(killed).rejected == {"gated": len(found[1])}
