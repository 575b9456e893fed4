"""A chat server as the captioner of all pictures, for one kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launch.errors import ConfigError
from launch.manifest import read_manifest
from launch.run import Run
from recap.artifacts import open_captions
from recap.caption import caption, refuse_unfit
from recap.captioner_settings import READERS, refuse_unread
from recap.captioner_source import Family, Source
from recap.config import (
    CaptionConfig,
    DecodeConfig,
    EndpointConfig,
    GateConfig,
    IngestConfig,
    SplitConfig,
    TagsConfig,
    VlmConfig,
)
from recap.ingest import ingest
from tests.recap.chat_server import KEY, ChatServer


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for index in range(30):
        pixels = rng.integers(0, 256, (10, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{index}.png")
        (folder / "pictures" / f"{index}.txt").write_text(f"square {index}")
    cfg = IngestConfig(
        source="folder",
        name="squares",
        root=folder / "pictures",
        split=SplitConfig(judge=0.0, test=0.2),
        pictures_per_shard=10,
        num_workers=1,
    )
    ingest(cfg, Run(out=folder / "images", verb="recap ingest", config=cfg))
    return folder / "images"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def settings(images: Path, url: str) -> CaptionConfig:
    return CaptionConfig(
        images=images,
        captioner=Path("endpoint"),
        kind="mood",
        vlm=VlmConfig(instruction="Tell the mood of the picture.", picture_px=24),
        endpoint=EndpointConfig(
            model="seer", base_url=url, key_variable="TEST_KEY", retry_wait_s=0.002
        ),
        gates=GateConfig(max_gated_share=0.9),
    )


def start(cfg: CaptionConfig, out: Path, *, is_dry: bool = False) -> Path:
    run = Run(out=out, verb="recap caption", config=cfg, is_dry=is_dry)
    try:
        caption(cfg, run)
    finally:
        run.close()
    return out


def saying(number: int) -> object:
    return "" if number % 7 == 0 else json.dumps({"mood": f"A calm picture, number {number}."})


def test_every_picture_has_a_caption_of_the_kind_or_a_rule(images: Path, tmp_path: Path) -> None:
    with ChatServer(saying=saying) as server:
        out = start(settings(images, server.url), tmp_path / "out")
        assert server.wrong == []
    made = read_manifest(out)
    captions = open_captions(out)
    assert captions.kinds == ["mood"]
    assert made.counts["rows_in"] == 30
    assert made.counts["rows_out"] == captions.table.num_rows < 30
    assert made.rejected == {"gated": captions.quarantined().num_rows}
    assert captions.table.num_rows + captions.quarantined().num_rows == 30
    assert sum(part.name.startswith("parts/") for part in made.parts) == 3
    assert made.recipe["endpoint"]["model"] == "seer"
    assert made.recipe["vlm"]["instruction"] == "Tell the mood of the picture."
    assert "base_url" not in made.recipe["endpoint"]
    assert made.recipe["served_by"] == {"not told": 30}


def test_answers_of_an_earlier_run_cost_nothing_again(images: Path, tmp_path: Path) -> None:
    kept = tmp_path / "answers.jsonl"
    with ChatServer(saying=saying) as server:
        cfg = settings(images, server.url)
        cfg = replace(cfg, vlm=replace(cfg.vlm, ledger=kept))
        first = start(cfg, tmp_path / "first")
        asked = sum(server.asked.values())
        second = start(cfg, tmp_path / "second")
        assert sum(server.asked.values()) == asked
    assert read_manifest(first).digest == read_manifest(second).digest


def test_a_dry_run_tells_the_price_and_asks_nobody(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = settings(images, "http://localhost:1/v1")
    start(cfg, tmp_path / "out", is_dry=True)
    said = capsys.readouterr().out
    assert "expected tokens: about" in said
    assert "seer at http://localhost:1/v1" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("endpoint", {"seed": 3}, r"seed=3: .*Leave it out, or give endpoint\.seed"),
        ("endpoint", {"batch_size": 8}, r"batch_size=8: .*or give endpoint\.concurrency"),
        ("endpoint", {"num_workers": 2}, "num_workers=2: .*taggers of"),
        ("endpoint", {"threads": 2}, "threads=2: .* does not read it"),
        ("timm", {"precision": "bfloat16"}, "precision=bfloat16: .*for captioners of .*transform"),
        ("tagger", {"seed": 3}, r"seed=3: .*transformers models\. Leave it out\.$"),
        ("tagger", {"tags": TagsConfig(channels="bgr")}, "tags.channels=bgr: .*for timm's"),
        ("transformers", {"vlm": VlmConfig(ledger=Path("a"))}, "vlm.ledger=a: .*for endpoints"),
        ("transformers", {"decode": DecodeConfig(num_beams=2)}, "decode.num_beams=2: "),
    ],
)
def test_a_setting_that_the_captioner_does_not_read_is_refused_by_name(
    family: Family, change: dict[str, Any], said: str
) -> None:
    plain = CaptionConfig(images=Path("i"), captioner=Path("some/captioner"), kind="dsc")
    source = Source(family, plain.captioner, plain.captioner, {})
    refuse_unread(plain, source)
    with pytest.raises(ConfigError, match=said):
        refuse_unfit(replace(plain, **change), source)
    refuse_unread(replace(plain, **change), source._replace(family=READERS[said_name(said)][0]))


def said_name(said: str) -> str:
    return said.split("=")[0]


def test_an_endpoint_needs_an_instruction_and_no_decoding(images: Path, tmp_path: Path) -> None:
    cfg = settings(images, "http://localhost:1/v1")
    with pytest.raises(ConfigError, match=r"vlm\.instruction: say what the model"):
        start(replace(cfg, vlm=VlmConfig()), tmp_path / "out")
    with pytest.raises(ConfigError, match="decode: chooses the words of captioners that write on"):
        start(replace(cfg, decode=DecodeConfig(max_tokens=9)), tmp_path / "out")
    with pytest.raises(ConfigError, match="endpoint describes the captioner `endpoint`"):
        replace(cfg, endpoint=None)
