"""A study's YAML -> the list of commands to run, each with its folder. Pure: reads only YAML.

A study is a YAML file of `steps`. A step names a verb and its settings; `<name>` in a setting
means the folder of another step, a loop variable (`<arm>`, `<seed>`, `<arm.caption_mix>`), or a
value of the study itself (`<sizes.pictures>`); a loop value may stand inside a longer text
(`dsc_<annotated>`). `foreach` repeats a step for each arm and seed.
Between repeated steps `<name>` is the one of the same loop values, of which it may have fewer;
`<name.*>` is the list of all folders of a repeated step. `per_arm` of a step says where an arm
finds captions that the other arms do not read, so that a further arm leaves those as they are.

A step's folder is named by a digest of its verb, settings and inputs' names, so whatever two arms,
seeds or studies have in common is made once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import manifest as manifests
from launch.arms import check_primary, checked_arms, settings_of_arm
from launch.config import Tree, load_tree, to_plain
from launch.errors import ConfigError
from launch.manifest import canonical_json, digest_bytes
from launch.price import count_price
from launch.references import Names, lookup, references, short

STEP_KEYS = (
    *("run", "config", "set", "foreach", "per_arm", "started_by"),
    *("minutes", "gib", "at", "price"),
)
"""What a study may say of a step."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One folder to be made by one command."""

    name: str
    """Step and loop values, for example `train[dsc,0]`."""

    step: str
    """Name of the step."""

    words: list[str]
    """Stage, verb and arguments, without `python -m`."""

    folder: Path
    """Where its artifact goes."""

    reads: list[Path]
    """Folders of other steps that it reads."""

    cost_key: str
    """Equal for runs that cost the same: everything but arm, seed and which inputs are read."""

    minutes: float
    """Predicted time."""

    gib: float
    """Predicted disk use."""

    priced_by: str = ""
    """How the time was counted, where it was counted and not measured."""

    started_by: str = ""
    """File from which `accelerate launch` starts the processes of this step; otherwise it is one
    process."""

    point: Mapping[str, str] = field(default_factory=dict)
    """Loop variable -> name of its value here."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every command of a study, in an order that respects what reads what."""

    name: str
    """Name of the study."""

    instances: list[Instance]
    """In running order."""

    show: Path | None
    """Text file printed at the end."""

    num_workers: int = 1
    """Steps run at a time."""

    machine: Mapping[str, Any] = field(default_factory=dict)
    """What counted prices assume."""

    def to_do(self) -> list[Instance]:
        """Return what is not complete yet."""
        return [i for i in self.instances if not manifests.is_complete(i.folder)]


def make_plan(tree: Tree, *, store: Path) -> Plan:
    """Return the commands of a study.

    Raises:
        ConfigError: Arms that differ in more than captions, an unknown name in a step, a circle.
    """
    arms = checked_arms(tree)
    check_primary(tree, arms)
    seeds = list(range(_count(tree, "seeds")))
    num_workers = _count(tree, "jobs")
    steps = tree.get("steps")
    if isinstance(steps, dict):  # a study drops a step of its base by giving nothing for it
        steps = {name: spec for name, spec in steps.items() if spec is not None}
    if not isinstance(steps, dict) or not steps:
        raise ConfigError("a study needs `steps`: name -> {run, config, set}")
    for name in steps:
        if name in {"arm", "seed", "kinds"}:
            raise ConfigError(f"steps.{name}: this name is a loop variable; call the step another")
        if not isinstance(steps[name], dict) or not isinstance(steps[name].get("set", {}), dict):
            raise ConfigError(f"steps.{name}: expected run, config, set; got {steps[name]!r}")
    values = {k: v for k, v in tree.items() if k != "steps"}
    values["kinds"] = sorted({k for arm in arms.values() for k in arm.get("caption_mix", {})})
    if tree.get("stated_prices") is False:  # they were measured at sizes that are not this study's
        stated = {"minutes", "gib", "at"}
        steps = {n: {k: v for k, v in s.items() if k not in stated} for n, s in steps.items()}
    loops: dict[str, list[Any]] = {"arm": list(arms), "seed": seeds}
    made: dict[str, list[Instance]] = {}
    for step in _in_order(steps):
        made[step] = [
            _instance(step, steps[step], point, values=values, arms=arms, made=made, store=store)
            for point in _points(step, steps[step], loops, values)
        ]
        _refuse_equal_names(step, made[step])
    instances = [i for group in made.values() for i in group]
    shown = tree.get("show")
    show = None
    if shown is not None:
        step, _, file = str(shown).partition("/")
        if step not in made:
            raise ConfigError(f"show: {shown!r} names no step; steps are {', '.join(made)}")
        if not made[step]:
            raise ConfigError(f"show: {shown!r} names a step that repeats over nothing")
        show = made[step][0].folder / file
    return Plan(
        name=str(tree.get("name", "study")),
        instances=instances,
        show=show,
        num_workers=num_workers,
        machine=tree.get("machine") or {},
    )


def _refuse_equal_names(step: str, group: list[Instance]) -> None:
    names = [instance.name for instance in group]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"steps.{step}: two of its runs would be called {name}; a run is named by the "
                "first value of each row of its `foreach`, so let these differ."
            )


def _count(tree: Tree, key: str) -> int:
    value = tree.get(key, 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key} must be a whole number of at least 1, got {value!r}")
    return value


def _in_order(steps: Tree) -> list[str]:
    """Return step names so that each comes after what it reads, otherwise as written."""
    reads = {
        name: {
            r.split(".")[0].split("[")[0]
            for r in references([step.get("set", {}), step.get("per_arm", {})])
        }
        & set(steps)
        for name, step in steps.items()
    }
    order: list[str] = []
    while len(order) < len(steps):
        ready = [n for n in steps if n not in order and reads[n] <= set(order)]
        if not ready:
            left = ", ".join(n for n in steps if n not in order)
            raise ConfigError(f"steps read each other in a circle: {left}")
        order.append(ready[0])
    return order


def _points(
    step: str, spec: Tree, loops: Mapping[str, list[Any]], values: Tree
) -> list[dict[str, Any]]:
    """Return the loop values of each instance of a step."""
    names = spec.get("foreach") or []
    lists = []
    for name in names:
        options = loops.get(name, values.get(name))
        if not isinstance(options, list):
            raise ConfigError(
                f"steps.{step}.foreach: {name!r} is neither arm, seed nor a list of the study"
            )
        lists.append(options)
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*lists)]


def _instance(
    step: str,
    spec: Tree,
    point: dict[str, Any],
    *,
    values: Tree,
    arms: Mapping[str, Tree],
    made: Mapping[str, list[Instance]],
    store: Path,
) -> Instance:
    unknown = sorted(set(spec) - set(STEP_KEYS))
    if unknown or not isinstance(spec.get("run"), str):
        raise ConfigError(
            f"steps.{step}: expected {', '.join(STEP_KEYS)}; "
            + (f"found {unknown[0]!r}" if unknown else "`run` names no verb")
        )
    names = Names(step=step, point=point, values=values, arms=arms, made=made)
    given = {**spec.get("set", {}), **settings_of_arm(step, spec, point, arms)}
    settings = names.resolve(given)
    launcher = names.resolve(spec.get("started_by"))
    stage, *verb = str(spec["run"]).split()
    files = spec.get("config") or []
    files = [files] if isinstance(files, str) else list(files)
    below = _replace({str(f): f.name for f in names.folders}, settings)
    text = [stage, *verb, load_tree(files, []), below]
    # The number of processes is part of a run's recipe: another one is made in another folder.
    key = digest_bytes(canonical_json(to_plain([*text, launcher] if launcher else text)))
    costly = [*text[:-1], names.priced(given), spec.get("started_by"), values.get("sizes")]
    label = _label(step, point)
    counted = None
    if "price" in spec:
        counted = count_price(spec["price"], values=values, step=step, uses_all=bool(launcher))
    stem = "-".join([stage, *verb, key[:12]])
    words = [stage, *verb, *(["--config", *map(str, files)] if files else [])]
    return Instance(
        name=label,
        step=step,
        words=[*words, "--out", str(store / stem), *_overrides(settings)],
        folder=store / stem,
        reads=sorted(names.folders),
        cost_key=digest_bytes(canonical_json(to_plain(costly))),
        minutes=(
            _price(spec, "minutes", step=step, values=values)
            if counted is None
            else counted.minutes
        ),
        gib=_price(spec, "gib", step=step, values=values) if counted is None else counted.gib,
        priced_by="" if counted is None else counted.words,
        started_by=_launcher_file(launcher, step=step) if launcher else "",
        point={name: short(value) for name, value in point.items()},
    )


def _launcher_file(launcher: object, *, step: str) -> str:
    """Return the file that `accelerate launch` reads: one of launch/accelerate by name, or any."""
    shipped = Path(__file__).parent / "accelerate" / f"{launcher}.yaml"
    file = shipped if shipped.is_file() else Path(str(launcher))
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in shipped.parent.glob("*.yaml")))
        raise ConfigError(
            f"steps.{step}.started_by: there is no file {launcher}; expected one, or {names}"
        )
    return str(file)


def _price(spec: Tree, key: str, *, step: str, values: Tree) -> float:
    """Return stated minutes or GiB, in proportion to the sizes that they were measured `at`."""
    price = _number(spec.get(key) or 0, where=f"steps.{step}.{key}")
    for name, size in (spec.get("at") or {}).items():
        now = lookup(values, f"sizes.{name}", step)
        before = _number(size, where=f"steps.{step}.at.{name}")
        price *= _number(now, where=f"sizes.{name}") / before if before else 1
    return price


def _number(value: object, *, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where} must be a number of at least 0, got {value!r}")
    return float(value)


def _label(step: str, point: Mapping[str, Any]) -> str:
    return step + (f"[{','.join(map(short, point.values()))}]" if point else "")


def _replace(names: Mapping[str, str], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _replace(names, v) for k, v in value.items()}
    if isinstance(value, list):
        return [_replace(names, v) for v in value]
    return names.get(value, value) if isinstance(value, str) else value


def _overrides(settings: Tree, prefix: str = "") -> list[str]:
    """Return settings as `key=value` words; JSON is YAML."""
    words = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and not key.endswith("_mix"):
            words += _overrides(dict(value), f"{prefix}{key}.")
        else:
            spelled = value if _is_itself_in_yaml(value) else json.dumps(value, ensure_ascii=False)
            words.append(f"{prefix}{key}={spelled}")
    return words


def _is_itself_in_yaml(value: Any) -> bool:
    """Say whether a text without quotes is read back as that text."""
    import yaml

    try:
        return isinstance(value, str) and bool(yaml.safe_load(value) == value)
    except yaml.YAMLError:
        return False
