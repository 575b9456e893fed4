"""A vision-language model as a teacher: every picture asked for once, every caption accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.config import find_config, load
from launch.errors import ConfigError, InputError, StoppedError
from launch.run import Run
from recap import artifacts
from recap.annotate import annotate, choose_rows
from recap.config import AnnotateConfig, GateConfig, IngestConfig, SplitConfig
from recap.ingest import ingest
from recap.pictures import decode
from recap.teacher import CODE
from tests.recap.chat_server import KEY, ChatServer, good

REPOSITORY = Path(__file__).parents[2]


def ingested(folder: Path, num: int) -> Path:
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    for index in range(num):
        pixels = rng.integers(0, 256, (10, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
        (folder / "pictures" / f"{index}.txt").write_text(f"square {index}")
    cfg = IngestConfig(
        source="folder",
        name="squares",
        root=folder / "pictures",
        split=SplitConfig(judge=0.0, test=0.0),
        pictures_per_shard=50,
        num_workers=1,
    )
    ingest(cfg, Run(out=folder / "images", verb="recap ingest", config=cfg))
    return folder / "images"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested(tmp_path_factory.mktemp("world"), 120)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def config(server: ChatServer, images: Path, *words: str) -> AnnotateConfig:
    return load(
        AnnotateConfig,
        [find_config("configs/recap/teacher.yaml")],
        overrides(server, images, *words),
    )


def overrides(server: ChatServer, images: Path, *words: str) -> list[str]:
    return [
        f"images={images}",
        "vlm.endpoint.model=seer",
        f"vlm.endpoint.base_url={server.url}",
        "vlm.endpoint.key_variable=TEST_KEY",
        "vlm.endpoint.retry_wait_s=0.002",
        "vlm.endpoint.timeout_s=1.5",
        "vlm.picture_px=24",
        *words,
    ]


def written(cfg: AnnotateConfig, out: Path, *, is_dry: bool = False) -> None:
    run = Run(out=out, verb="recap annotate", config=cfg, is_dry=is_dry)
    try:
        annotate(cfg, run)
    finally:
        run.close()


def saying(number: int) -> object:
    """Refusals, broken JSON, empty answers, loops and good answers, by picture."""
    match number % 23:
        case 0:
            return {"content": None, "refusal": "I'm sorry, I can't."}
        case 1:
            return good(number)[:-9]
        case 2:
            return ""
        case 3:
            return json.dumps({"ssc": "A good one.", "dsc": "again " * 12})
    return good(number)


def trouble(place: int, asking: int) -> object:
    """One picture in four has troubles the first time, some also the second."""
    kinds = {0: 429, 1: 500, 2: "cut", 3: 503, 4: 429}
    if asking == 0 and place % 97 == 5:
        return "hang"
    return kinds.get(place % 20) if asking < 1 + place % 2 else None


class InOrder:
    """Goes wrong by the order in which items are first asked for, and counts each kind.

    An item's own number depends on how Pillow writes a JPEG, so it decides no count.
    """

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.injected = Counter[object]()
        self.lock = threading.Lock()

    def place(self, number: int) -> int:
        with self.lock:
            return self.places.setdefault(number, len(self.places))

    def trouble(self, number: int, asking: int) -> object:
        kind = trouble(self.place(number), asking)
        with self.lock:
            self.injected[kind] += 1
        return kind

    def saying(self, number: int) -> object:
        return saying(self.place(number))


def injected_into(num: int) -> Counter[object]:
    """Count what `trouble` does to so many items that are asked for until they are answered."""
    counts = Counter[object]()
    for place in range(num):
        asking = 0
        while kind := trouble(place, asking):
            counts[kind] += 1
            asking += 1
        counts[None] += 1
    return counts


def is_accounted_for(out: Path, *, num: int, server: ChatServer) -> None:
    assert server.wrong == []
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == num
    captions = artifacts.open_captions(out)
    assert captions.manifest.counts["rows_in"] == 2 * num
    gated = captions.quarantined()
    assert captions.manifest.counts["rows_out"] == 2 * num - gated.num_rows
    assert captions.manifest.rejected == {"gated": gated.num_rows}
    assert captions.table.num_rows == captions.manifest.counts["rows_out"]
    flags = [flag for row in gated["flags"].to_pylist() for flag in row]
    by_rule = {flag: flags.count(flag) for flag in set(flags)}
    assert captions.manifest.recipe["gated_by_rule"] == by_rule
    said = Counter(place % 23 for place in range(num))  # as `saying` does
    # Both captions of an answer; a loop is found in one of the two.
    assert {rule: by_rule.get(rule) for rule in ("refusal", "broken_json", "empty", "loop")} == {
        "refusal": 2 * said[0],
        "broken_json": 2 * said[1],
        "empty": 2 * said[2],
        "loop": said[3],
    }
    ids = [
        (row["sample_id"], row["kind"]) for t in (captions.table, gated) for row in t.to_pylist()
    ]
    assert len(set(ids)) == 2 * num


def is_silent_about_the_key(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def through_trouble(images: Path, out: Path, num: int) -> None:
    """Annotate within a budget that is soon spent, and then within a sufficient one."""
    order = InOrder()
    with ChatServer(trouble=order.trouble, saying=order.saying) as server:
        priced = ["vlm.endpoint.usd_per_million_input_tokens=1000"]
        priced += ["vlm.endpoint.usd_per_million_output_tokens=1000"]
        words = [*priced, "vlm.gates.max_gated_share=0.5", f"num_pictures={num}"]
        # An answer is 0.1 USD; a request that breaks off may have cost over 3, and counts so.
        low, enough = 12, 4 * num
        with pytest.raises(StoppedError, match="budget_usd"):
            written(config(server, images, *words, f"vlm.endpoint.budget_usd={low}"), out)
        assert 0 < sum(server.tokens) / 1000 <= low
        cfg = config(server, images, *words, f"vlm.endpoint.budget_usd={enough}")
        assert cfg.vlm is not None
        assert cfg.vlm.endpoint.concurrency == 16
        written(cfg, out)
        is_accounted_for(out, num=num, server=server)
        assert order.injected == injected_into(num)
        assert server.most_at_once <= 16
    is_silent_about_the_key(out)


def test_captions_come_through_every_trouble_and_all_are_accounted_for(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    through_trouble(images, tmp_path / "out", 120)
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_five_hundred_pictures_come_through_every_trouble(tmp_path: Path) -> None:
    through_trouble(ingested(tmp_path / "world", 500), tmp_path / "out", 500)


@pytest.mark.timeout(900)
def test_a_killed_teacher_goes_on_and_ends_in_the_same_captions(
    images: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "TEST_KEY": KEY, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed_now = threading.Event()
    with ChatServer(saying=saying, delay_s=0.05) as server:
        words = [
            *("vlm.gates.max_gated_share=0.5", "vlm.endpoint.concurrency=4"),
            "vlm.endpoint.timeout_s=300",
        ]
        command = [
            *(sys.executable, "-m", "recap", "annotate", "--out", str(tmp_path / "killed")),
            *("--config", "configs/recap/teacher.yaml", *overrides(server, images, *words)),
        ]

        def saying_until_killed(number: int) -> object:
            # However slow this machine is, the job is not done before it is killed.
            if sum(server.answered.values()) >= 60:
                killed_now.wait()
            return saying(number)

        server.saying = saying_until_killed
        process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        try:
            while sum(server.answered.values()) < 60:
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
            killed_now.set()
        ledger = tmp_path / "killed" / "ledger.jsonl"
        num_kept = ledger.read_bytes().count(b'"event": "answered"')
        assert 40 <= num_kept < 120
        before = server.answered.copy()

        server.delay_s = 0.0
        subprocess.run(command, env=env, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        asked_again = server.answered - before
        # What is kept is not asked for again; the four requests that were under way at the kill may
        # be answered, and counted, after it.
        assert 120 - num_kept <= sum(asked_again.values()) <= 120 - num_kept + 4
        assert sum(server.answered.values()) <= 120 + 4
        cfg = config(server, images, *words)
        written(cfg, tmp_path / "whole")
    killed, whole = (artifacts.open_captions(tmp_path / name) for name in ("killed", "whole"))
    assert killed.manifest.digest == whole.manifest.digest
    is_silent_about_the_key(tmp_path)


def test_a_ledger_may_serve_a_larger_choice_of_pictures(images: Path, tmp_path: Path) -> None:
    with ChatServer() as server:
        shared = f"vlm.ledger={tmp_path / 'answers.jsonl'}"
        for num in (10, 30):
            cfg = config(server, images, shared, f"num_pictures={num}")
            written(cfg, tmp_path / str(num))
    assert len(server.answered) == sum(server.answered.values()) == 30


def test_two_models_under_one_name_are_counted_and_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = f"vlm.ledger={tmp_path / 'answers.jsonl'}"
    with ChatServer(version="seer-1") as server:
        written(config(server, images, shared, "num_pictures=4"), tmp_path / "few")
        assert "more than one model" not in capsys.readouterr().out
        server.version = "seer-2"
        written(config(server, images, shared, "num_pictures=10"), tmp_path / "many")
    assert "more than one model answered under this name (seer-1 4, seer-2 6)" in (
        capsys.readouterr().out
    )
    few, many = (artifacts.open_captions(tmp_path / name) for name in ("few", "many"))
    assert few.manifest.recipe["served_by"] == {"seer-1": 4}
    assert many.manifest.recipe["served_by"] == {"seer-1": 4, "seer-2": 6}


def test_pictures_are_chosen_by_key_and_the_choice_nests(images: Path, tmp_path: Path) -> None:
    with ChatServer() as server:
        few, many = (config(server, images, f"num_pictures={num}") for num in (10, 30))
    opened = artifacts.open_images(images)
    assert set(choose_rows(opened, few)) < set(choose_rows(opened, many))


def test_a_dry_run_tells_pictures_tokens_and_cost_and_needs_no_key(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TEST_KEY")
    prices = ["vlm.endpoint.usd_per_million_input_tokens=2.5"]
    prices += ["vlm.endpoint.usd_per_million_output_tokens=10", "num_pictures=100"]
    with ChatServer() as server:
        written(config(server, images, *prices), tmp_path / "out", is_dry=True)
        assert not server.asked
    said = capsys.readouterr().out
    assert "pictures: 100\n" in said
    tokens_in = 100 * (2000 + 64 + 150)
    found = [line for line in said.splitlines() if "expected" in line]
    assert "16,000 out" in found[0]
    num = int(found[0].split("about ")[1].split(" in")[0].replace(",", ""))
    assert 0.9 * tokens_in < num < 1.1 * tokens_in
    assert f"about {num * 2.5e-6 + 16_000 * 10e-6:.2f} USD" in found[1]
    assert not (tmp_path / "out").exists()


def test_a_kind_that_the_teacher_does_not_write_is_refused(images: Path, tmp_path: Path) -> None:
    with ChatServer() as server, pytest.raises(ConfigError, match="writes ssc, dsc"):
        written(config(server, images, "kinds=[human]"), tmp_path / "out")


def test_a_teacher_without_its_settings_is_refused(images: Path) -> None:
    with pytest.raises(ConfigError, match=r"vlm\.endpoint\.model"):
        AnnotateConfig(images=images, teacher="endpoint", kinds=["ssc"])
    with pytest.raises(ConfigError, match="teacher is texts"):
        AnnotateConfig(
            images=images,
            teacher="texts",
            kinds=["ssc"],
            vlm=load(
                AnnotateConfig,
                [],
                [
                    "images=x",
                    "teacher=endpoint",
                    "kinds=[ssc]",
                    "vlm.endpoint.model=m",
                ],
            ).vlm,
        )


def test_the_shipped_settings_load_and_gate() -> None:
    cfg = load(
        AnnotateConfig,
        [find_config("configs/recap/teacher.yaml")],
        ["images=x", "vlm.endpoint.model=m"],
    )
    assert cfg.vlm is not None
    assert cfg.vlm.gates == GateConfig(min_words=2, max_words=300, script="latin")


def test_pictures_that_the_server_failed_for_are_asked_again_by_the_same_command(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("num_pictures=60", "vlm.endpoint.max_retries=0", "vlm.gates.max_gated_share=1")
    asked: list[int] = []

    def once(number: int, asking: int) -> object:
        asked.append(number)
        return 503 if len(asked) == 30 else None

    with ChatServer(trouble=once) as server:
        cfg = config(server, images, *words)
        with pytest.raises(StoppedError, match=r"1 pictures are unanswered.*same command"):
            written(cfg, out)
        assert not (out / "manifest.json").exists()
        written(cfg, out)
        assert set(server.answered.values()) == {1}
    captions = artifacts.open_captions(out)
    assert captions.table.num_rows == 120
    assert captions.manifest.recipe["code"] == CODE


def test_what_the_server_refuses_stays_in_its_part_and_another_folder_asks_for_it_alone(
    images: Path, tmp_path: Path
) -> None:
    words = ("num_pictures=12", "vlm.gates.max_gated_share=1", f"vlm.ledger={tmp_path / 'a.jsonl'}")
    trouble = lambda number, asking: 413 if number % 4 == 0 else None  # noqa: E731
    with ChatServer(trouble=trouble) as server:
        cfg = config(server, images, *words)
        written(cfg, tmp_path / "first")
        num = 12 - len(server.answered)
        server.trouble = lambda number, asking: None
        written(cfg, tmp_path / "first")
        assert sum(server.asked.values()) == 12
        written(cfg, tmp_path / "second")
        assert sum(server.asked.values()) == 12 + num
    first, second = (artifacts.open_captions(tmp_path / name) for name in ("first", "second"))
    assert first.manifest.recipe["gated_by_rule"] == {"picture_too_large": 2 * num}
    assert second.manifest.recipe["gated_by_rule"] == {}
    assert 0 < num < 8


def test_several_processes_are_refused_before_anything_is_asked(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recap.teacher.world_size", lambda: 2)
    with ChatServer() as server:
        with pytest.raises(InputError, match="2 processes were started"):
            written(config(server, images, "num_pictures=5"), tmp_path / "out")
        assert not server.asked


def test_pictures_of_any_size_that_was_ingested_are_sent(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever names no limit has one that all these pictures pass.
    monkeypatch.setattr("recap.pictures.decode", partial(decode, max_pixels=100))
    with ChatServer() as server:
        written(config(server, images, "num_pictures=5"), tmp_path / "out")
        assert len(server.answered) == 5
