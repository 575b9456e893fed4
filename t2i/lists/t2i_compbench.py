"""T2I-CompBench: a folder with the prompts of each category in a text file, `color_val.txt`.

Source: Huang et al. 2023, arXiv:2307.06350, section 3; 3D places and numbers are of its later,
extended version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from launch.errors import InputError
from t2i.config import ListConfig
from t2i.lists.item import Item, PromptList, lines_of, read_text, text_files

CATEGORIES: Final = (
    "color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex",
)  # fmt: skip
_ENDING: Final = "_val.txt"


def validation_files(folder: Path) -> list[Path]:
    """Return the file of each category.

    Raises:
        InputError: One is missing, or there is one of no known category.
    """
    found = {p.name.removesuffix(_ENDING) for p in text_files(folder) if p.name.endswith(_ENDING)}
    if found != set(CATEGORIES):
        missing, unknown = sorted(set(CATEGORIES) - found), sorted(found - set(CATEGORIES))
        raise InputError(
            f"{folder}: files NAME{_ENDING} are missing of {', '.join(missing) or 'no category'}, "
            f"and not known of {', '.join(unknown) or 'none'}; expected one for each of "
            f"{', '.join(CATEGORIES)}. A mean over other categories would be another number."
        )
    return [folder / f"{category}{_ENDING}" for category in CATEGORIES]


def read_t2i_compbench(cfg: ListConfig) -> PromptList:
    """Read the validation split; a key is category and line."""
    items = [
        Item(
            key=f"{category}:{number}",
            prompt=line,
            file=path.name,
            line=number,
            category=category,
        )
        for category, path in zip(CATEGORIES, validation_files(cfg.path), strict=True)
        for number, line in enumerate(lines_of(read_text(path)), start=1)
    ]
    return PromptList(path=cfg.path, items=items, is_by_number=False)
