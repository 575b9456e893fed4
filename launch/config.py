"""YAML files and `key=value` overrides -> one frozen dataclass tree.

Files merge left to right, then overrides, then the dataclasses check themselves. A file may name
another it stands on with `extends: other.yaml` (relative to itself, or to the shipped configs).
Lists, and the mappings named in ALWAYS_REPLACED, are replaced by a later file, never merged: a
caption mix that kept an entry of an earlier file would no longer sum to 1, or worse, would.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from launch.errors import ConfigError

T = TypeVar("T")
Tree = dict[str, Any]


def shipped_configs() -> Path:
    """Return the folder of the YAML files that come with captionmix."""
    return Path(__file__).resolve().parent.parent / "configs"


def find_config(name: str | Path, *, beside: Path | None = None) -> Path:
    """Return the file that `name` means: beside `beside`, as given, or among the shipped ones.

    Raises:
        ConfigError: No such file; the message lists where it was looked for.
    """
    name = Path(name)
    places = [] if beside is None else [beside.parent / name]
    shipped = name.relative_to("configs") if name.parts[:1] == ("configs",) else name
    places += [name, shipped_configs() / shipped]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(p) for p in places)
    raise ConfigError(f"{name}: no such configuration file. Looked at {looked}.")


def read_yaml(path: Path) -> Tree:
    """Return one YAML file as plain data, with the files that it extends merged under it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(raw).__name__}")
    tree: Tree = {str(k): v for k, v in raw.items()}
    base = tree.pop("extends", None)
    return tree if base is None else merge(read_yaml(find_config(base, beside=path)), tree)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its path and its value, which is read as YAML."""
    import yaml

    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"{text!r}: an override is written key=value, for example seed=1")
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not readable YAML: {error}") from error


ALWAYS_REPLACED = frozenset({"caption_mix", "arms"})
"""Mappings whose names are the user's own, so that merging them would add up two lists."""


def merge(under: Tree, over: Tree) -> Tree:
    """Return `under` with the values of `over` laid on it; nested mappings merge by key."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        if both and key not in ALWAYS_REPLACED:
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def set_path(tree: Tree, path: Sequence[str], value: Any) -> Tree:
    """Return `tree` with `value` at the dotted `path`."""
    head, *rest = path
    if not rest:
        return merge(tree, {head: value})
    below = tree.get(head)
    return {**tree, head: set_path(below if isinstance(below, dict) else {}, rest, value)}


def load_tree(files: Sequence[str | Path], overrides: Sequence[str]) -> Tree:
    """Return files and overrides merged, as plain data."""
    tree: Tree = {}
    for name in files:
        tree = merge(tree, read_yaml(find_config(name)))
    for text in overrides:
        path, value = parse_override(text)
        tree = set_path(tree, path, value)
    return tree


def load(cls: type[T], files: Sequence[str | Path], overrides: Sequence[str]) -> T:
    """Return a `cls` built from files and overrides.

    Raises:
        ConfigError: An unknown key (named, with the near ones), a missing one, a value of the wrong
            type, or whatever the dataclass itself refuses.
    """
    return build(cls, load_tree(files, overrides), where="")


def build(cls: type[T], tree: Mapping[str, Any], *, where: str) -> T:
    """Return the dataclass `cls` from plain data; `where` is the dotted path, for messages."""
    import difflib

    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=3)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise ConfigError(
                f"unknown configuration key `{where}{key}`. {hint}"
                f"Valid keys here: {', '.join(sorted(fields))}."
            )
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(tree[name], hints[name], where=where + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"missing configuration key `{where}{name}`: give {where}{name}=VALUE "
                "or name it in a --config file."
            )
    return cls(**values)


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    """Return `value` as the type `hint`, or refuse it by name."""
    origin, args = get_origin(hint), get_args(hint)
    wrong = ConfigError(f"{where} must be {_spell(hint)}, got {value!r}")
    if origin in (Union, types.UnionType):
        if value is None:
            if type(None) in args:
                return None
            raise wrong
        kept = [a for a in args if a is not type(None)]
        for option in kept[:-1]:
            try:
                return _convert(value, option, where=where)
            except ConfigError:
                continue
        return _convert(value, kept[-1], where=where)
    if origin is Literal:
        if value not in args:
            raise wrong
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise wrong
        return build(typing.cast(type, hint), value, where=where + ".")
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise wrong
        item = args[0] if args else Any
        return [_convert(v, item, where=f"{where}[{i}]") for i, v in enumerate(value)]
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise wrong
        item = args[1] if args else Any
        return {str(k): _convert(v, item, where=f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is Path:
        if not isinstance(value, str | Path) or not str(value):
            raise wrong
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as text
            return float(value)
        except ValueError:
            raise wrong from None
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise wrong
    return value


def _spell(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " | ".join(_spell(a) for a in args)
    if args:
        return f"{_spell(origin)}[{', '.join(_spell(a) for a in args)}]"
    return "None" if hint is type(None) else hint.__name__


def to_plain(value: Any) -> Any:
    """Return a dataclass tree as JSON-ready data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return value


def recipe_of(value: Any) -> Any:
    """Return the settings of a dataclass tree that shape the payload, as JSON-ready data.

    Left out are paths, which say where inputs lie (what they hold enters a recipe by digest); the
    fields that a class names in `NOT_IN_RECIPE`, which cannot change a byte: a resumed run may have
    others; and those in `SINCE_LATER` at their default, which leaves everything as it was before
    the class had them. Added are the properties named in `ALSO_IN_RECIPE`, except where they are
    None: what the code makes of the settings by a rule that was another once.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        harmless = getattr(value, "NOT_IN_RECIPE", ())
        later = getattr(value, "SINCE_LATER", ())
        recipe = {
            f.name: recipe_of(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name not in harmless
            and not _holds_paths(hints[f.name])
            and not (f.name in later and getattr(value, f.name) == _default_of(f))
        }
        derived = {name: getattr(value, name) for name in getattr(value, "ALSO_IN_RECIPE", ())}
        return recipe | {name: found for name, found in derived.items() if found is not None}
    if isinstance(value, Mapping):
        return {str(k): recipe_of(v) for k, v in value.items()}
    return to_plain(value)


def comparable(recipe: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the entries of an earlier run's recipe that settings of `config`'s class could make.

    What a verb itself added to its recipe is left out. A setting of `SINCE_LATER` stays: the
    earlier run may have had another than the default, at which it is absent now.
    """
    known = {"verb", *recipe_of(config), *getattr(config, "SINCE_LATER", ())}
    return {key: value for key, value in recipe.items() if key in known}


def _default_of(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _holds_paths(hint: Any) -> bool:
    return hint is Path or any(_holds_paths(a) for a in get_args(hint))


def require_positive(config: Any, *names: str) -> None:
    """Refuse fields of a configuration that are below 1.

    Raises:
        ConfigError: It names the field and its value.
    """
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(config, name)}")


def require_share(config: Any, *names: str) -> None:
    """Refuse fields of a configuration that are no share.

    Raises:
        ConfigError: It names the field and its value.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} must lie in [0, 1], got {getattr(config, name):g}")


def require_multiple_of_8(config: Any, *names: str) -> None:
    """Refuse batch sizes that are not a multiple of 8: results then depend on what fills the rest.

    Raises:
        ConfigError: It names the field and its value.
    """
    for name in names:
        if getattr(config, name) < 8 or getattr(config, name) % 8:
            raise ConfigError(f"{name} must be a multiple of 8, got {getattr(config, name)}")


def differences(old: Any, new: Any, *, where: str = "") -> list[str]:
    """Return one line for each value that differs between two trees of plain data."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            path = f"{where}.{key}" if where else key
            lines += differences(old.get(key, "(absent)"), new.get(key, "(absent)"), where=path)
        return lines
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def describe(cls: type) -> list[tuple[str, str, str, str]]:
    """Return (key, type, default, explanation) for every field below `cls`, nested ones dotted.

    The explanations are the fields' docstring lines, read from the source.
    """
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    notes: dict[str, str] = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            note = ast.literal_eval(after.value) if isinstance(after.value, ast.Constant) else ""
            notes[ast.unparse(field.target)] = " ".join(str(note).split())
    hints, rows = get_type_hints(cls), []
    for f in dataclasses.fields(cls):
        group = _group(hints[f.name])
        below = [] if group is None else describe(group)
        # Groups under names of the user's own are told once.
        path = f"{f.name}.NAME" if get_origin(hints[f.name]) is dict else f.name
        nested = [(f"{path}.{key}", *rest) for key, *rest in below]
        if group is hints[f.name]:
            rows += nested
            continue
        if f.default is not dataclasses.MISSING:
            default = str(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            default = str(f.default_factory())
        else:
            default = "required"
        # A group that may be left out is told first as a whole.
        rows += [(f.name, _spell(hints[f.name]), default, notes.get(f.name, "")), *nested]
    return rows  # type: ignore[return-value]


def _group(hint: Any) -> type | None:
    """Return the dataclass that a field holds, or may hold, or holds under names."""
    holders = (Union, types.UnionType, dict)
    options = get_args(hint) if get_origin(hint) in holders else (hint,)
    return next((typing.cast(type, a) for a in options if dataclasses.is_dataclass(a)), None)
