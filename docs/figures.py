"""Draw the documentation's figures from the score rows in docs/data: `make docs-figures`.

Each `docs/data/NAME.scores.parquet` is `rows.parquet` of the report of study NAME, whose resolved
configuration may lie beside it as `NAME.study.yaml`; without it `configs/studies/NAME.yaml` is
read. The figures are those that its report shows first, `docs/figures/NAME.png`, `NAME_2.png` and
so on: one for each number that the study is drawn along, the spread of seeds where an arm is
compared with itself, the curves otherwise. What is drawn along measured captions needs more than
rows and is left out.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from eval.drawing import Drawing, slug
from eval.from_rows import FromRows, answer_rows
from eval.report_along import draw_along, lines_along
from eval.report_figures import draw_curves, draw_seeds
from eval.report_rows import primary_measure
from eval.seed_noise import seed_noise_of
from launch.config import load_tree

DOCS = Path(__file__).parent
SUFFIX = ".scores.parquet"


def main(out: Path, data: Path = DOCS / "data") -> None:
    """Draw every figure into a folder."""
    for rows in sorted(data.glob(f"*{SUFFIX}")):
        name = rows.name.removesuffix(SUFFIX)
        resolved = data / f"{name}.study.yaml"
        study = load_tree([resolved if resolved.is_file() else f"studies/{name}.yaml"], [])
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "figures").mkdir()
            drawn = draw(answer_rows(rows, study, resamples=2), folder)
            for i, drawing in enumerate(drawn, start=1):
                png = next(file for file in drawing.files if file.endswith(".png"))
                target = out / (f"{name}.png" if i == 1 else f"{name}_{i}.png")
                shutil.copyfile(folder / png, target)
                print(target)


def draw(found: FromRows, folder: Path) -> list[Drawing]:
    """Draw one study's figures below a folder, the first one first."""
    answers = found.answers
    if found.along:
        return [
            draw_along(lines_along(found.table, answers, along), along, folder, place=place)
            for place, along in enumerate(found.along)
        ]
    if answers.primary.better == answers.primary.than:
        measure = primary_measure(answers.primary)
        noise = seed_noise_of(found.table, measure, [answers.primary.better])
        return [draw_seeds(noise, measure, folder)]
    name = f"curves-{slug(answers.primary.style)}"
    drawings = draw_curves(answers.curves, answers.arms, folder)
    return [d for d in drawings if d.name == name]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "figures")
