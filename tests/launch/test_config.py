"""Configuration: files, overrides, refusals by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from launch import config
from launch.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner settings."""

    width: int = 4
    """Width."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Outer settings."""

    samples: int
    """Samples seen."""

    rate: float = 0.5
    """Rate."""

    data: Path | None = None
    """Data."""

    caption_mix: dict[str, float] = field(default_factory=dict)
    """Mix."""

    inner: Inner = field(default_factory=Inner)
    """Inner."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Settings of a group."""

    file: Path
    """File."""

    size: int = 1
    """Size."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Settings with a group that may be left out."""

    inner: Inner | None = None
    """Inner."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_overrides_win_over_files_and_later_files_over_earlier(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "samples: 1\nrate: 1\ninner: {width: 8}\n")
    two = write(tmp_path / "two.yaml", "rate: 2\n")
    loaded = config.load(Outer, [one, two], ["samples=3"])
    assert (loaded.samples, loaded.rate, loaded.inner.width) == (3, 2.0, 8)


def test_a_caption_mix_is_replaced_and_never_merged(tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", "samples: 1\ncaption_mix: {alt: 1.0}\n")
    loaded = config.load(Outer, [one], ["caption_mix={ssc: 0.95, dsc: 0.05}"])
    assert loaded.caption_mix == {"ssc": 0.95, "dsc": 0.05}


def test_a_file_stands_on_the_one_it_extends(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "samples: 1\ninner: {width: 8}\n")
    top = write(tmp_path / "top.yaml", "extends: base.yaml\nsamples: 2\n")
    loaded = config.load(Outer, [top], [])
    assert (loaded.samples, loaded.inner.width) == (2, 8)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["samples=1", "sampels=2"], "Did you mean samples"),
        ([], "missing configuration key `samples`"),
        (["samples=many"], "samples must be int"),
        (["samples=1", "inner.widht=2"], "`inner.widht`"),
        (["samples=1", "inner=3"], "inner must be"),
        (["samples"], "key=value"),
        (["samples=true"], "samples must be int"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match="(?s)" + said.replace("(", r"\(")):
        config.load(Outer, [], words)


def test_a_rate_written_as_yaml_1_1_text_is_a_number() -> None:
    assert config.load(Outer, [], ["samples=1", "rate=1e-3"]).rate == 1e-3


def test_paths_stay_out_of_a_recipe() -> None:
    loaded = config.load(Outer, [], ["samples=1", "data=/somewhere"])
    assert "data" not in config.recipe_of(loaded)
    assert config.to_plain(loaded)["data"] == "/somewhere"


def test_a_group_that_may_be_left_out_is_described_as_a_whole_and_by_key() -> None:
    assert [key for key, *_ in config.describe(Holder)] == ["inner", "inner.width"]


@dataclass(frozen=True, kw_only=True)
class Named:
    """Settings with groups under names of the user's own."""

    groups: dict[str, Limits] = field(default_factory=dict)
    """Groups."""


def test_groups_under_names_are_described_once_and_leave_paths_out_of_a_recipe() -> None:
    keys = [key for key, *_ in config.describe(Named)]
    assert keys == ["groups", "groups.NAME.file", "groups.NAME.size"]
    tree = {"groups": {"a": {"file": "somewhere"}, "b": {"file": "x", "size": 3}}}
    named = config.build(Named, tree, where="")
    assert named.groups["b"] == Limits(file=Path("x"), size=3)
    assert config.recipe_of(named) == {"groups": {"a": {"size": 1}, "b": {"size": 3}}}
    assert config.to_plain(named)["groups"]["a"]["file"] == "somewhere"


def test_every_key_is_described_with_its_docstring() -> None:
    rows = config.describe(Outer)
    assert ("inner.width", "int", "4", "Width.") in rows
    assert rows[0] == ("samples", "int", "required", "Samples seen.")


def test_differences_name_each_changed_key() -> None:
    old, new = {"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}
    assert config.differences(old, new) == ["b.c: 2 -> 3", "d: '(absent)' -> 4"]


def test_every_shipped_yaml_is_readable() -> None:
    files = sorted(config.shipped_configs().rglob("*.yaml"))
    assert files
    for file in files:
        assert isinstance(config.read_yaml(file), dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Settings with one that cannot change a byte."""

    NOT_IN_RECIPE: ClassVar = frozenset({"limit"})

    limit: int = 1
    """Share that stops."""

    size: int = 2
    """Size."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Settings around it, with another one."""

    NOT_IN_RECIPE: ClassVar = frozenset({"workers"})

    part: Part = field(default_factory=Part)
    """Part."""

    workers: int = 3
    """Workers."""


def test_a_setting_that_cannot_change_a_byte_is_no_part_of_a_recipe() -> None:
    assert config.recipe_of(Whole()) == {"part": {"size": 2}}
    assert config.to_plain(Whole()) == {"part": {"limit": 1, "size": 2}, "workers": 3}


@dataclass(frozen=True, kw_only=True)
class Grown:
    """Settings of a verb that was given two more."""

    SINCE_LATER: ClassVar = frozenset({"method", "words"})

    size: int = 2
    """Size."""

    method: str = "greedy"
    """Method."""

    words: list[str] = field(default_factory=list)
    """Words."""


def test_a_later_setting_enters_a_recipe_only_where_it_differs_from_its_default() -> None:
    assert config.recipe_of(Grown()) == {"size": 2}
    assert config.recipe_of(Grown(words=["a"])) == {"size": 2, "words": ["a"]}
    assert config.recipe_of(Grown(method="beam")) == {"size": 2, "method": "beam"}


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """Settings of which the code makes something by a rule that was another once."""

    ALSO_IN_RECIPE: ClassVar = ("rule",)

    size: int = 2
    """Size."""

    @property
    def rule(self) -> str | None:
        """Rule."""
        return "new" if self.size > 2 else None


def test_a_rule_enters_a_recipe_only_where_it_is_another_than_before() -> None:
    assert config.recipe_of(Ruled()) == {"size": 2}
    assert config.recipe_of(Ruled(size=3)) == {"size": 3, "rule": "new"}
    assert config.to_plain(Ruled(size=3)) == {"size": 3}


def test_numbers_out_of_range_are_refused_by_name() -> None:
    given = SimpleNamespace(samples=0, batch_size=12)
    with pytest.raises(ConfigError, match="samples must be at least 1, got 0"):
        config.require_positive(given, "samples")
    with pytest.raises(ConfigError, match="batch_size must be a multiple of 8, got 12"):
        config.require_multiple_of_8(given, "batch_size")


def test_a_folder_made_with_a_later_setting_is_not_taken_for_one_made_without() -> None:
    made = config.comparable({"verb": "x", "size": 2, "method": "beam", "own": 1}, Grown())
    assert config.differences(made, {"verb": "x", **config.recipe_of(Grown())}) == [
        "method: 'beam' -> '(absent)'"
    ]
