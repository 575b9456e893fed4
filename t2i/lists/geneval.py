"""GenEval: JSON lines of prompts with the objects that a picture must and must not show.

Source: Ghosh et al. 2023, arXiv:2310.11513, section 3; `evaluation_metadata.jsonl` of its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from recap.claims import Claim
from t2i.config import ListConfig
from t2i.lists.item import Item, PromptList, complaint
from t2i.lists.tables import json_rows

POSITIONS: Final = ("left of", "right of", "above", "below")
"""Places of one object relative to another."""

_ROW: Final = frozenset({"tag", "include", "exclude", "prompt"})
_INCLUDE: Final = frozenset({"class", "count", "color", "position"})
_EXCLUDE: Final = frozenset({"class", "count"})


def read_geneval(cfg: ListConfig) -> PromptList:
    """Read GenEval's metadata; the category is its tag, and claims say what it asks for.

    Raises:
        InputError: A row is malformed, or asks for something that claims cannot say.
    """
    items = []
    for row in json_rows(cfg.path):
        if row.values is None:
            items.append(Item(key=str(row.line), prompt="", line=row.line))
            continue
        _check_keys(row.values, _ROW, cfg.path, row.line, needed=_ROW - {"exclude"})
        texts = [row.values["prompt"], row.values["tag"]]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise complaint(cfg.path, row.line, found=f"prompt and tag {texts}", expected="texts")
        items.append(
            Item(
                key=str(row.line),
                prompt=row.values["prompt"],
                line=row.line,
                category=row.values["tag"],
                claims=claims_of(row.values, path=cfg.path, line=row.line),
            )
        )
    return PromptList(path=cfg.path, items=items, is_by_number=True)


def claims_of(row: Mapping[str, Any], *, path: Path, line: int) -> list[Claim]:
    """Return what a row asks for, one claim for each object of `include`, in its order.

    A number is claimed only where `exclude` says that one more is too many; otherwise a picture
    must show at least one.

    Raises:
        InputError: The row is malformed, or means another number than exactly n or at least one.
    """
    include = _objects(row, "include", _INCLUDE, path, line)
    too_many = {}
    for found in _objects({"exclude": [], **row}, "exclude", _EXCLUDE, path, line):
        name = found["class"]
        if name in too_many or name not in {item["class"] for item in include}:
            raise complaint(
                path, line, found=f"exclude of {name!r}", expected="each class of include once"
            )
        too_many[name] = _count(found, path, line)
    return [_claim(i, include, too_many, path, line) for i in range(len(include))]


def _claim(
    index: int, include: list[dict[str, Any]], too_many: Mapping[str, int], path: Path, line: int
) -> Claim:
    item = include[index]
    name, least = item["class"], _count(item, path, line)
    expected = least + 1 if name in too_many else None
    if too_many.get(name) != expected or (expected is None and least != 1):
        raise complaint(
            path,
            line,
            found=f"{name}: at least {least}, fewer than {too_many.get(name, 'any number')}",
            expected="at least 1, or n with an exclude of n + 1",
        )
    colour = item.get("color")
    if colour is not None and not isinstance(colour, str):
        raise complaint(path, line, found=f"the color {colour!r}", expected="a text")
    position, of = None, None
    if "position" in item:
        match item["position"]:
            case [str(position), int(of)] if (
                position in POSITIONS and 0 <= of < len(include) and of != index
            ):
                pass
            case other:
                raise complaint(
                    path,
                    line,
                    found=f"the position {other!r}",
                    expected=f"one of {', '.join(POSITIONS)} and the index of another object",
                )
    count = None if expected is None else least
    return Claim(object=name, count=count, colour=colour, position=position, of=of)


def _objects(
    row: Mapping[str, Any], key: str, names: frozenset[str], path: Path, line: int
) -> list[dict[str, Any]]:
    objects = row[key]
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise complaint(path, line, found=f"{key}: {objects!r}", expected="a list of objects")
    if key == "include" and not objects:
        raise complaint(path, line, found="nothing to include", expected="at least one object")
    for item in objects:
        _check_keys(item, names, path, line, needed=_EXCLUDE)
        if not isinstance(item["class"], str) or not item["class"].strip():
            raise complaint(path, line, found=f"the class {item['class']!r}", expected="a name")
    return objects


def _check_keys(
    found: Mapping[str, Any],
    known: frozenset[str],
    path: Path,
    line: int,
    *,
    needed: frozenset[str],
) -> None:
    """Refuse a key that is missing, or that nobody here would heed."""
    if not needed <= found.keys() <= known:
        raise complaint(
            path,
            line,
            found=f"the keys {', '.join(found)}",
            expected=f"{', '.join(sorted(needed))}, and of {', '.join(sorted(known))} no other",
        )


def _count(item: Mapping[str, Any], path: Path, line: int) -> int:
    count = item["count"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise complaint(path, line, found=f"the count {count!r}", expected="a number from 1")
    return count
