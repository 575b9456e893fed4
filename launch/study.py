"""Run a study: refuse and price everything first, then start the stages, then say what came out.

Stages run as processes, several at a time (`launch/workers.py`). This module knows of their work
only what the plan says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import manifest as manifests
from launch.config import (
    Tree,
    find_config,
    merge,
    parse_override,
    read_yaml,
    set_path,
)
from launch.errors import ConfigError
from launch.manifest import RUN_LOG
from launch.plan import Instance, Plan, make_plan
from launch.run import tidy
from launch.run_log import read_log
from launch.screen import Screen
from launch.verify import refuse_unpaired
from launch.workers import predict, run_all

OPTIONAL = frozenset({"seeds", "jobs", "store", "name"})
"""Settings that a study need not mention to have."""


def study(
    files: Sequence[str | Path],
    overrides: Sequence[str],
    *,
    out: Path | None = None,
    is_dry: bool = False,
) -> int:
    """Plan, price, check and run a study; running it again resumes it.

    Args:
        files: Study YAML files, merged in order.
        overrides: `key=value` settings of the study, for example `seeds=4`.
        out: Folder of the study; its artifacts then lie under it. By default the study lies in
            `runs/studies/NAME` and shares the artifacts in `runs/store` with other studies.
        is_dry: Stop after the plan and the check of every step's settings.

    Returns:
        The exit code.
    """
    tree = laid_over(files, overrides)
    _refuse_unknown(laid_over(files), overrides)
    name = str(tree.get("name", "study"))
    store = Path(tree.get("store", "runs/store")) if out is None else out / "store"
    folder = Path("runs/studies") / name if out is None else out
    plan = make_plan(tree, store=store)
    _check_settings(plan)
    _print_plan(plan)
    if is_dry:
        return 0
    _refuse_small_disk(plan, store)
    _write_index(plan, folder, tree)
    for step in plan.instances:
        if manifests.is_complete(step.folder):
            tidy(step.folder)
    _run_all(plan)
    # A step that was made anew may have come out otherwise than what was made from it before.
    _check_settings(plan)
    refuse_unpaired({i.name: i.folder for i in plan.instances})
    _write_links(plan, folder)
    if plan.show is not None:
        print(f"\n{plan.show.read_text().rstrip()}\n\n{plan.show.parent}", flush=True)
    return 0


def laid_over(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Tree:
    """Return files and overrides merged; an `overlay` speaks only of steps that there are."""
    tree: Tree = {}
    for name in files:
        over = read_yaml(find_config(name))
        if over.pop("overlay", False):
            present = {n for n, spec in (tree.get("steps") or {}).items() if spec is not None}
            steps = over.get("steps") or {}
            over["steps"] = {n: spec for n, spec in steps.items() if n in present}
        tree = merge(tree, over)
    for text in overrides:
        path, value = parse_override(text)
        tree = set_path(tree, path, value)
    return tree


def _refuse_unknown(given: Tree, overrides: Sequence[str]) -> None:
    """Refuse an override of something that the study does not have: `seed=4` for `seeds=4`."""
    for text in overrides:
        path, _ = parse_override(text)
        below: object = given
        for depth, key in enumerate(path):
            if (path[0] == "steps" and depth > 2) or ".".join(path[:depth]) in {"data", "arms"}:
                break  # the stage itself checks the settings of a step
            if not isinstance(below, dict) or (key not in below and key not in OPTIONAL):
                here = ".".join(path[:depth]) or "a study"
                known = ", ".join(map(str, below)) if isinstance(below, dict) else "a single value"
                raise ConfigError(f"{text}: {here} has no `{key}`; it has {known}.")
            below = below.get(key)


def _check_settings(plan: Plan) -> None:
    """Let every stage refuse wrong settings of any of its steps before the first one runs."""
    for stage in dict.fromkeys(i.words[0] for i in plan.instances):
        lines = "".join(
            json.dumps([2 if i.started_by else 1, *i.words[1:]]) + "\n"
            for i in plan.instances
            if i.words[0] == stage
        )
        done = subprocess.run(
            [sys.executable, "-m", stage, "check"], input=lines, text=True, stderr=subprocess.PIPE
        )
        if done.returncode:
            message = done.stderr.strip()
            raise ConfigError(message.partition(": ")[2] or message)


def _past_costs(store: Path) -> dict[str, tuple[float, float]]:
    """Return cost key -> (minutes, GiB) of what this store already holds."""
    found = {}
    for path in sorted(store.glob("*/" + RUN_LOG)):
        work = read_log(path)
        if work.cost_key and work.seconds is not None and work.num_bytes is not None:
            found[work.cost_key] = (work.seconds / 60, work.num_bytes / 2**30)
    return found


def _priced(plan: Plan) -> dict[str, tuple[float, float]]:
    """Return instance name -> (minutes, GiB): measured here before, else as the study states."""
    past = _past_costs(plan.instances[0].folder.parent)
    return {i.name: past.get(i.cost_key, (i.minutes, i.gib)) for i in plan.instances}


def _print_plan(plan: Plan) -> None:
    prices = _priced(plan)
    left = {i.name for i in plan.to_do()}
    print(f"study {plan.name}: {len(plan.instances)} steps, {len(left)} to do")
    for step in dict.fromkeys(i.step for i in plan.instances):
        group = [i for i in plan.instances if i.step == step]
        todo = [i for i in group if i.name in left]
        minutes = sum(prices[i.name][0] for i in todo)
        gib = sum(prices[i.name][1] for i in todo)
        state = f"{_time(minutes)}  {gib:5.2f} GiB" if todo else "complete"
        if not todo or minutes or gib or group[0].priced_by:
            state += f"  ({how})" if todo and (how := group[0].priced_by) else ""
        else:
            state = "no price stated, none measured here yet"
        print(f"  {step:<16} x{len(group):<3} {' '.join(group[0].words[:2]):<18} {state}")
    gib = sum(prices[n][1] for n in left)
    minutes = predict(
        plan.to_do(), num_workers=plan.num_workers, minutes={n: p[0] for n, p in prices.items()}
    )
    if any(i.priced_by for i in plan.instances):
        machine = plan.machine
        print(
            f"  counted for {machine.get('num_gpus')} x {machine.get('name')}, "
            f"{machine.get('tflops')} TFLOP/s each, of which {machine.get('utilisation')} is "
            "assumed to be used, by the steps that are started on all of them; the others have one"
        )
    unknown = sum(not (any(prices[n]) or i.priced_by) for i in plan.to_do() for n in [i.name])
    without = f" ({unknown} steps without a price left out)" if unknown else ""
    if unknown == len(left) and left:
        print("  predicted: nothing; no step has a price yet", flush=True)
        return
    print(
        f"  predicted{without}: {_time(minutes).strip()}, {plan.num_workers} steps at a time, "
        f"and {gib:.2f} GiB",
        flush=True,
    )


def _time(minutes: float) -> str:
    return f"{minutes:6.1f} min" if minutes < 2880 else f"{minutes / 1440:6.1f} days"


def _refuse_small_disk(plan: Plan, store: Path) -> None:
    prices = _priced(plan)
    need = sum(prices[i.name][1] for i in plan.to_do())
    free = manifests.free_gib(store)
    if need > free:
        raise ConfigError(
            f"{store}: the study needs about {need:.1f} GiB and {free:.1f} GiB are free. "
            "Free some space, or give --out on another disk."
        )


def _write_index(plan: Plan, folder: Path, tree: Tree) -> None:
    """Write which folder holds which step, for `verify`, `trace` and people."""
    steps = {i.name: os.path.relpath(i.folder, folder) for i in plan.instances}
    manifests.write_json(folder / "plan.json", {"name": plan.name, "steps": steps})
    import yaml

    text = yaml.safe_dump(tree, sort_keys=False)
    manifests.write_bytes(folder / "study.yaml", text.encode())


def _run_all(plan: Plan) -> None:
    # Two steps with the same settings share a folder, which is filled once.
    todo = list({i.folder: i for i in reversed(plan.to_do())}.values())[::-1]
    minutes = {name: price[0] for name, price in _priced(plan).items()}
    screen = Screen(total=len(todo), minutes=sum(minutes[i.name] for i in todo))

    def finished(step: Instance) -> None:
        with (step.folder / RUN_LOG).open("a") as file:
            file.write(json.dumps({"event": "priced", "cost_key": step.cost_key}) + "\n")
        screen.finished(step.name, minutes=minutes[step.name])

    with screen:
        run_all(
            todo, num_workers=plan.num_workers, minutes=minutes, finished=finished, show=screen.show
        )


def _write_links(plan: Plan, folder: Path) -> None:
    """Link each artifact under the study's folder by the name of its step."""
    for instance in plan.instances:
        link = folder / instance.name.replace("[", "-").replace(",", "-").rstrip("]")
        target = os.path.relpath(instance.folder, folder)
        if not link.is_symlink() or os.readlink(link) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
