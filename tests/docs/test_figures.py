"""The documentation's figures are what `make docs-figures` draws from the rows in docs/data."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def figures() -> Any:
    spec = importlib.util.spec_from_file_location("figures_of_docs", DOCS / "figures.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_alike(new: np.ndarray, old: np.ndarray) -> bool:
    """Let another release of matplotlib smooth an edge otherwise; see a line that moved."""
    return bool((np.abs(new - old).max(axis=-1) > 64).mean() < 1e-4)


def test_a_line_that_moved_is_seen(figures: Any, tmp_path: Path) -> None:
    rows = pq.read_table(DOCS / "data/mixing.scores.parquet")
    values = rows["value"].to_numpy().copy()
    arm, metric = rows["arm"].to_numpy(False), rows["metric"].to_numpy(False)
    values[(arm == "dsc_50") & (metric == "claims_held")] -= 0.03
    at = rows.schema.get_field_index("value")
    pq.write_table(
        rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type)),
        tmp_path / "mixing.scores.parquet",
    )
    figures.main(tmp_path, tmp_path)
    new, old = (
        np.asarray(Image.open(d / "mixing.png"), float) for d in (tmp_path, DOCS / "figures")
    )
    assert not is_alike(new, old)


def test_every_figure_is_drawn_from_its_rows(figures: Any, tmp_path: Path) -> None:
    figures.main(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in (DOCS / "figures").glob("*.png")}
    for name in drawn:
        new, old = (np.asarray(Image.open(d / name), float) for d in (tmp_path, DOCS / "figures"))
        assert new.shape == old.shape
        assert is_alike(new, old), name


def test_a_study_has_a_figure_for_each_number_and_one_of_its_seeds(
    figures: Any, tmp_path: Path
) -> None:
    primary = {"better": "dsc", "than": "dsc", "style": "human", "metric": "prompt_following"}
    numbers = [{"title": name, "arms": {"real": 0, "dsc": 95}} for name in ("share", "words")]
    for name, along in (("seeds", []), ("shares", numbers)):
        study = {
            "name": name,
            "arms": {"real": None, "dsc": None},
            "primary": primary,
            "steps": {"report": {"set": {"along": along}}},
        }
        (tmp_path / f"{name}.study.yaml").write_text(json.dumps(study))
        rows = DOCS / "data/real_vs_ssc_vs_dsc.scores.parquet"
        shutil.copyfile(rows, tmp_path / f"{name}.scores.parquet")
    figures.main(tmp_path, tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {"seeds.png", "shares.png", "shares_2.png"}
