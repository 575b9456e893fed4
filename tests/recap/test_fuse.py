"""Alt text and caption joined by a chat server: what must be kept, counted and never asked twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.errors import InputError, StoppedError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import open_captions, open_images
from recap.config import EndpointConfig, FuseConfig, GateConfig, ImportConfig, IngestConfig
from recap.exchange import import_captions
from recap.fuse import Pair, fuse
from recap.ingest import ingest
from recap.kept_words import lost, names_in
from tests.recap.chat_server import KEY, ChatServer, failing_once

REPOSITORY = Path(__file__).parents[2]
CAPTION = "A woman stands beside a boat."
FUSED = 'In Oslo Anna stands beside boat 7 with the sign "Open late".'
ALTS = [
    "holiday at sea.jpg",
    "IMG_2041.jpg",
    CAPTION.lower(),
    'Portrait of Anna in Oslo, boat 7, sign "open late"',
    'Portrait of Anna in Oslo, boat 7, sign "open late"',
    "a boat in Bergen",
    "a boat of 1987",
    'a boat called "Sea Bird"',
    "a boat without a caption",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    rows = ["file_name\tcaption"]
    for index, alt in enumerate([*ALTS, *(f"boat 7 near place {n}" for n in range(31))]):
        pixels = rng.integers(0, 256, (10, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index:02}.png")
        (folder / "pictures" / f"{index:02}.txt").write_text(alt)
        if "without" not in alt:
            rows.append(f"{index:02}.png\t{CAPTION}")
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n")
    cfg = IngestConfig(
        source="folder",
        name="boats",
        root=folder / "pictures",
        pictures_per_shard=10,
        num_workers=1,
    )
    ingest(cfg, Run(out=folder / "images", verb="recap ingest", config=cfg))
    told = ImportConfig(images=folder / "images", file=folder / "captions.tsv", kind="dsc")
    import_captions(told, Run(out=folder / "dsc", verb="recap import", config=told))
    return folder


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def server_saying_the_same(delay_s: float = 0.0) -> ChatServer:
    return ChatServer(
        saying=lambda number: FUSED, has_schema=False, has_picture=False, delay_s=delay_s
    )


def settings(world: Path, url: str) -> FuseConfig:
    return FuseConfig(
        images=world / "images",
        captions=world / "dsc",
        caption_kind="dsc",
        splits=["train", "judge", "test"],
        endpoint=EndpointConfig(
            model="seer", base_url=url, key_variable="TEST_KEY", retry_wait_s=0.002
        ),
        gates=GateConfig(max_gated_share=1.0),
    )


def start(cfg: FuseConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap fuse", config=cfg)
    try:
        fuse(cfg, run)
    finally:
        run.close()
    return out


def test_every_picture_is_fused_kept_or_counted_under_a_rule(world: Path, tmp_path: Path) -> None:
    with server_saying_the_same() as server:
        out = start(settings(world, server.url), tmp_path / "out")
        assert server.wrong == []
        # Two pictures share both texts; three keep their caption, one has none.
        assert sum(server.asked.values()) == len(server.asked) == 40 - 3 - 1 - 1
    made, captions = read_manifest(out), open_captions(out)
    assert captions.kinds == ["fused"]
    assert made.counts["rows_in"] == 40
    gated = captions.quarantined().to_pylist()
    assert made.rejected == {"gated": len(gated), "no_caption": 1}
    assert made.recipe["kept_caption"] == 3
    images = open_images(world / "images")
    alts = dict(zip(images.sample_ids, images.alt, strict=True))
    fused = {alts[s]: text for s, text in captions.texts("fused").items()}
    assert [fused[alt] for alt in ALTS[:5]] == [CAPTION] * 3 + [FUSED] * 2
    broken = {alts[row["sample_id"]]: row["flags"] for row in gated}
    assert broken["a boat in Bergen"] == ["lost_names"]
    assert broken["a boat of 1987"] == ["lost_numbers"]
    assert "lost_quoted" in broken['a boat called "Sea Bird"']
    assert made.recipe["gated_by_rule"]["lost_names"] == 2
    assert made.recipe["served_by"] == {"not told": 35}
    assert not any(KEY.encode() in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_refusal_and_an_empty_answer_are_quarantined(world: Path, tmp_path: Path) -> None:
    def saying(number: int) -> object:
        return "" if number % 2 else {"content": None, "refusal": "I'm sorry, I can't."}

    with ChatServer(saying=saying, has_schema=False, has_picture=False) as server:
        out = start(settings(world, server.url), tmp_path / "out")
    assert set(read_manifest(out).recipe["gated_by_rule"]) == {"empty", "refusal"}
    assert set(open_captions(out).texts("fused").values()) == {CAPTION}


def test_a_part_whose_question_the_server_only_failed_for_waits_for_the_next_start(
    world: Path, tmp_path: Path
) -> None:
    with server_saying_the_same() as server:
        whole = start(settings(world, server.url), tmp_path / "whole")
        server.asked.clear()
        server.answered.clear()
        server.trouble = failing_once(server, after=5)
        cfg = settings(world, server.url)
        cfg = replace(cfg, endpoint=replace(cfg.endpoint, max_retries=0))
        with pytest.raises(StoppedError, match=r"1 questions are unanswered.*no_answer"):
            start(cfg, tmp_path / "out")
        assert sum(server.asked.values()) == 35
        assert len(list((tmp_path / "out").glob("parts/*.parquet"))) == 3
        out = start(cfg, tmp_path / "out")
        assert sum(server.asked.values()) == 36
    assert read_manifest(out).digest == read_manifest(whole).digest
    assert "no_answer" not in read_manifest(out).recipe["gated_by_rule"]


@pytest.mark.timeout(900)
def test_a_killed_fusion_goes_on_and_asks_nothing_twice(world: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed_now = threading.Event()
    ledger = tmp_path / "killed" / "ledger.jsonl"
    with server_saying_the_same(delay_s=0.1) as server:
        command = [
            *(sys.executable, "-m", "recap", "fuse", "--out", str(tmp_path / "killed")),
            *(f"images={world / 'images'}", f"captions={world / 'dsc'}", "caption_kind=dsc"),
            *(
                "splits=[train,judge,test]",
                "endpoint.model=seer",
                f"endpoint.base_url={server.url}",
            ),
            *("endpoint.key_variable=TEST_KEY", "endpoint.concurrency=1"),
            "gates.max_gated_share=1.0",
        ]

        def saying_until_killed(number: int) -> object:
            # However slow this machine is, the job is not done before it is killed.
            if sum(server.answered.values()) >= 12:
                killed_now.wait()
            return FUSED

        server.saying = saying_until_killed
        process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        try:
            while sum(server.answered.values()) < 12:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
            killed_now.set()
        num_kept = ledger.read_bytes().count(b'"event": "answered"')
        assert 11 <= num_kept < 35
        server.delay_s = 0.0
        cfg = settings(world, server.url)
        cfg = replace(cfg, endpoint=replace(cfg.endpoint, concurrency=1, retry_wait_s=1.0))
        killed = start(cfg, tmp_path / "killed")
        # Only the one question that was under way at the kill may have been asked twice.
        assert sum(server.asked.values()) <= 35 + 1
        asked = sum(server.asked.values())
        again = start(replace(cfg, ledger=ledger), tmp_path / "again")
        assert sum(server.asked.values()) == asked
    assert read_manifest(killed).digest == read_manifest(again).digest


def test_captions_of_other_pictures_are_refused(world: Path, tmp_path: Path) -> None:
    cfg = replace(settings(world, "http://localhost:1/v1"), splits=[])
    with pytest.raises(InputError, match="none of the 0 pictures"):
        start(cfg, tmp_path / "out")


def test_nobody_is_asked_about_an_empty_alt_text() -> None:
    assert not Pair("a", "", CAPTION).is_asked
    assert Pair("a", "boat", CAPTION).is_asked


def test_names_are_words_with_a_capital_inside_a_sentence() -> None:
    said = "Photo of Dr. Smith's dog. Nice weather - Sunny day"
    assert names_in(said) == ["dr", "smith"]
    assert names_in("Vintage Red Bicycle For Sale") == []
    assert names_in("Barack Obama") == ["obama"]


def test_what_is_kept_may_stand_in_other_words() -> None:
    assert lost("the yacht of Anna, 1,000 tons", "Anna's yacht of 1000 tons.") == []
    assert lost("the yacht of Anna", "A yacht of Hannah.") == ["lost_names"]
    assert lost('a sign "No Entry"', "A sign says no one has entry.") == ["lost_quoted"]
