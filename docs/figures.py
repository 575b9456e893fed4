"""Draw the documentation's figures from the score rows in docs/data: `make docs-figures`.

Each `docs/data/NAME.scores.parquet` is `rows.parquet` of the report of study NAME; the figure is
the one that its report shows first, `docs/figures/NAME.png`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from eval.config import AlongConfig, PrimaryConfig
from eval.drawing import slug
from eval.published import read_rows
from eval.report_along import draw_along
from eval.report_answers import Answers, answer
from eval.report_figures import draw_curves
from eval.report_rows import ScoreTable, order_arms
from launch.config import Tree, build, load_tree
from recap.claims import AXES

DOCS = Path(__file__).parent
SUFFIX = ".scores.parquet"


def main(out: Path) -> None:
    """Draw every figure into a folder."""
    for rows in sorted((DOCS / "data").glob(f"*{SUFFIX}")):
        name = rows.name.removesuffix(SUFFIX)
        study = load_tree([f"studies/{name}.yaml"], [])
        shutil.copyfile(draw(rows, study), out / f"{name}.png")
        print(out / f"{name}.png")


def draw(rows: Path, study: Tree) -> Path:
    """Draw one study's first figure below a temporary folder, and return the PNG."""
    answers = answers_of(rows, study)
    folder = Path(tempfile.mkdtemp())
    (folder / "figures").mkdir()
    along = study["steps"]["report"]["set"].get("along")
    if along:
        drawing = draw_along(answers, build(AlongConfig, along[0], where="along"), folder, place=0)
    else:
        name = f"curves-{slug(answers.primary.style)}"
        drawings = draw_curves(answers.curves, answers.arms, folder)
        drawing = next(d for d in drawings if d.name == name)
    return folder / next(file for file in drawing.files if file.endswith(".png"))


def answers_of(rows: Path, study: Tree) -> Answers:
    """Compute what a report says of these rows, without resampling."""
    table = ScoreTable(read_rows(rows))
    primary = build(PrimaryConfig, study["primary"], where="primary")
    return answer(
        table,
        arms=order_arms(primary, [arm for arm in study["arms"] if arm in table.arms]),
        primary=primary,
        axes=AXES,
        is_control=bool(study["steps"]["report"]["set"].get("control", False)),
        withheld=None,
        changes=study["steps"]["report"]["set"].get("changes", {}),
        resamples=2,
        seed=0,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "figures")
