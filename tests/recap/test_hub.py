"""What `datasets` loads, tried on folders written here in the same formats."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from launch.errors import InputError
from launch.run import Run
from recap import artifacts
from recap.config import IngestConfig
from recap.ingest import ingest
from recap.sources.hub import open_dataset
from recap.sources.source import Rejected

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(shade: int) -> bytes:
    buffer = BytesIO()
    PILImage.new("RGB", (16, 16), (shade, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def table(num: int = 5, first: int = 0):
    rows = range(first, first + num)
    return datasets.Dataset.from_dict(
        {
            "picture": [{"bytes": png(i), "path": None} for i in rows],
            "caption": [f"text {i}" for i in rows],
            "captions": [[f"one {i}", f"two {i}"] for i in rows],
            "name": [f"n{i}" for i in rows],
        },
        features=datasets.Features(
            {
                "picture": datasets.Image(),
                "caption": datasets.Value("string"),
                "captions": datasets.List(datasets.Value("string")),
                "name": datasets.Value("string"),
            }
        ),
    )


def config(root: Path, **options) -> IngestConfig:
    return IngestConfig(source="datasets", name="hub", root=root, num_workers=1, **options)


def run(cfg: IngestConfig, out: Path) -> artifacts.Images:
    started = Run(out=out, verb="recap ingest", config=cfg)
    try:
        ingest(cfg, started)
    finally:
        started.close()
    return artifacts.open_images(out)


def parquet(root: Path) -> Path:
    root.mkdir()
    table().to_parquet(str(root / "train-00000.parquet"))
    return root


def test_a_folder_of_parquet_is_read(tmp_path: Path) -> None:
    images = run(config(parquet(tmp_path / "in"), pictures_per_shard=2), tmp_path / "out")
    assert len(images) == 5
    assert images.alt[4] == "text 4"
    assert images.texts[4] == ["one 4", "two 4"]
    assert images.read(4) == png(4)
    assert len(images.shards) == 3


def test_a_saved_arrow_folder_is_read_with_all_its_splits(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": table(3), "validation": table(2, first=3)})
    both.save_to_disk(str(tmp_path / "in"))
    images = run(config(tmp_path / "in"), tmp_path / "out")
    assert images.table["key"].to_pylist() == [
        "train/000000000",
        "train/000000001",
        "train/000000002",
        "validation/000000000",
        "validation/000000001",
    ]
    assert np.array_equal(
        images.pixels([3], size=16)[0], np.full((16, 16, 3), (3, 0, 0), dtype=np.uint8)
    )


def test_rows_can_be_read_in_another_process(tmp_path: Path) -> None:
    table(4).save_to_disk(str(tmp_path / "in"))
    _, second = open_dataset(config(tmp_path / "in", pictures_per_shard=2)).chunks
    sent = pickle.loads(pickle.dumps(second))
    assert [row.alt for row in sent.read()] == ["text 2", "text 3"]


def test_a_key_column_names_the_rows(tmp_path: Path) -> None:
    table(2).save_to_disk(str(tmp_path / "in"))
    images = run(config(tmp_path / "in", key_column="name"), tmp_path / "out")
    assert images.table["key"].to_pylist() == ["n0", "n1"]
    assert images.sample_ids[1] == artifacts.make_sample_id("hub", "n1")


def test_a_row_without_picture_or_text_is_rejected(tmp_path: Path) -> None:
    rows = table(3).to_list()
    rows[0]["picture"] = None
    rows[1]["caption"] = None
    rows[2]["picture"] = {"bytes": b"no picture", "path": None}
    datasets.Dataset.from_list(rows, features=table(1).features).save_to_disk(str(tmp_path / "in"))
    (chunk,) = open_dataset(config(tmp_path / "in")).chunks
    found = list(chunk.read())
    assert [row.reason for row in found if isinstance(row, Rejected)] == [
        "missing_image",
        "missing_caption",
    ]
    assert found[2].data == b"no picture"


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load"):
        open_dataset(config(tmp_path / "none"))


def test_a_data_set_without_pictures_is_refused(tmp_path: Path) -> None:
    table(2).remove_columns("picture").save_to_disk(str(tmp_path / "in"))
    with pytest.raises(InputError, match="one column of pictures, found 0"):
        open_dataset(config(tmp_path / "in"))


@pytest.mark.parametrize("setting", ["alt_column", "texts_column", "key_column"])
def test_an_unknown_column_is_named_with_the_available_ones(tmp_path: Path, setting: str) -> None:
    table(2).save_to_disk(str(tmp_path / "in"))
    with pytest.raises(InputError, match=r"'nope'.*caption, captions, name"):
        open_dataset(config(tmp_path / "in", **{setting: "nope"}))


def test_another_content_of_the_same_shape_is_another_source(tmp_path: Path) -> None:
    found = []
    for name, text in (("a", "dog"), ("b", "cat"), ("c", "dog")):
        rows = table(3).remove_columns("caption").add_column("caption", [text] * 3)
        rows.save_to_disk(str(tmp_path / name))
        found.append(open_dataset(config(tmp_path / name)).digest)
    assert found[0] == found[2] != found[1]
