"""The documentation's figures are what `make docs-figures` draws from the rows in docs/data."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
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


def test_every_figure_is_drawn_from_its_rows(figures: Any, tmp_path: Path) -> None:
    figures.main(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in (DOCS / "figures").glob("*.png")}
    for name in drawn:
        new, old = (np.asarray(Image.open(d / name), float) for d in (tmp_path, DOCS / "figures"))
        # Another release of matplotlib may smooth an edge otherwise; a line that moved is seen.
        assert new.shape == old.shape
        assert np.abs(new - old).mean() < 1


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
