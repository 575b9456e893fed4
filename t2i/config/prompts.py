"""Settings of `t2i prompts` and `t2i prompt-list`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launch.config import require_positive
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """Build a prompt table of held-out pictures in several styles."""

    images: Path
    """Images artifact."""

    captions: list[Path]
    """Captions artifacts that hold the styles."""

    styles: list[str]
    """Styles (caption kinds, or alt); rows of one picture share a `pair_id`."""

    split: Literal["train", "judge", "test"] = "test"
    """Split that the pictures come from."""

    num_pairs: int | None = None
    """How many pictures, chosen by key so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice."""

    def __post_init__(self) -> None:
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ConfigError(f"num_pairs must be at least 1, got {self.num_pairs}")


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """One style of a prompt list: where it lies and how it is read."""

    path: Path
    """The file; for `t2i_compbench` and `dpg` the folder."""

    format: Literal["lines", "csv", "tsv", "jsonl", "geneval", "t2i_compbench", "dsg", "dpg"]
    """`lines`: one prompt a line. `csv`, `tsv` (no quoting), `jsonl`: one prompt a row, by column.
    `geneval`: evaluation_metadata.jsonl. `t2i_compbench`: a folder of NAME_val.txt. `dsg`: the CSV
    of questions. `dpg`: a folder with a text file for each prompt."""

    prompt_column: str = "prompt"
    """Column or JSON key that holds the prompt."""

    key_column: str | None = None
    """Column or JSON key that names a row; None takes its number, counted from 1."""

    category_column: str | None = None
    """Column or JSON key that holds the category."""

    questions: Path | None = None
    """CSV of the questions that belong to a folder of format `dpg`."""

    def __post_init__(self) -> None:
        has_columns = self.format in {"csv", "tsv", "jsonl"}
        named = self.prompt_column != "prompt" or self.key_column or self.category_column
        if named and not has_columns:
            raise ConfigError(
                f"prompt_column, key_column and category_column are for csv, tsv and jsonl; format "
                f"{self.format} has its own. Leave them out"
            )
        if self.questions is not None and self.format != "dpg":
            raise ConfigError(f"questions is for format dpg, got format {self.format}")


@dataclass(frozen=True, kw_only=True)
class PromptListConfig:
    """Build a prompt table from a public list, in one style or several that belong together."""

    name: str
    """Name of the list; with an item's key it makes the `pair_id`, wherever the files lie."""

    lists: dict[str, ListConfig]
    """Style -> list; rows with one key are one pair. Lists without keys are paired row by row."""

    num_pairs: int | None = None
    """How many, chosen by key so that smaller choices nest; None takes all."""

    seed: int = 0
    """Seed of the choice and of the order."""

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.lists:
            raise ConfigError(
                "prompt-list: give the list a name and at least one style, "
                "lists.STYLE.path=FILE lists.STYLE.format=FORMAT"
            )
        if self.num_pairs is not None:
            require_positive(self, "num_pairs")
