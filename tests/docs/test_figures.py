"""The documentation's figures are what `make docs-figures` draws from the rows in docs/data."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


def test_every_figure_is_drawn_from_its_rows(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("figures_of_docs", DOCS / "figures.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    figures.main(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {path.name for path in (DOCS / "figures").glob("*.png")}
    for name in drawn:
        new, old = (np.asarray(Image.open(d / name), float) for d in (tmp_path, DOCS / "figures"))
        # Another release of matplotlib may smooth an edge otherwise; a line that moved is seen.
        assert new.shape == old.shape
        assert np.abs(new - old).mean() < 1
