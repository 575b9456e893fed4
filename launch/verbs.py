"""How a stage declares its verbs, and the one command line that they all share.

    python -m STAGE VERB --config FILE... --out DIR [--dry-run] key=value...

A verb names its configuration class and its function as `module:name`, so that `--help` imports
neither torch nor the verb's own module.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import config as configs
from launch.errors import CaptionmixError, InputError
from launch.manifest import is_complete
from launch.processes import end_with_launcher, world_size
from launch.run import Run, refuse_stale

ANSWER = "\x1eexit code "
"""Begins the line with which a stage answers a study that a step ended."""


@dataclass(frozen=True)
class Verb:
    """One verb of a stage."""

    name: str
    """What the user types."""

    config: str
    """Configuration dataclass as `module:Class`; its docstring is the verb's help."""

    function: str
    """Function `(cfg, run)` as `module:name`."""

    source: str | None = None
    """Function `(cfg)` as `module:name` that digests an input which is no artifact, as it is now,
    or returns None where it is no longer at hand; the run notes it under a role of `SOURCES`."""

    is_parallel: bool = False
    """Several processes may do it together."""


def main(stage: str, verbs: Sequence[Verb], argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code (0 done, 1 failed, 2 the user's input is wrong)."""
    words = list(sys.argv[1:] if argv is None else argv)
    table = {v.name: v for v in verbs}
    if not words or words[0] in {"-h", "--help"}:
        print(_stage_help(stage, verbs))
        return 0 if words else 2
    if words[0] == "check":
        return guarded(lambda: _check(stage, table))
    if words[0] == "sequence":
        return _sequence(stage, table)
    if words[0] not in table:
        print(
            f"{stage}: unknown verb {words[0]!r}; expected one of {', '.join(table)}.",
            file=sys.stderr,
        )
        return 2
    verb = table[words[0]]
    arguments = _parser(stage, verb).parse_args(words[1:])
    arguments.words = words[1:]
    return guarded(lambda: _run(stage, verb, arguments))


def guarded(work: Any) -> int:
    """Run `work`; turn the errors that a user can act on into one message and an exit code."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for name in ("httpx", "httpx2"):  # the hub's and openai's: a line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        result = work()
        return result if isinstance(result, int) else 0
    except CaptionmixError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno != 28:
            raise
        print(
            f"StoppedError: {error.filename or 'writing'}: the disk is full. What was complete is "
            "kept; free some space and give the same command again.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        # safetensors wraps the system's error in one of its own, which is no OSError.
        if type(error).__name__ != "SafetensorError" or "os error 28" not in str(error):
            raise
        print(
            "StoppedError: the disk is full. What was complete is kept; free some space and give "
            "the same command again.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 1


def _run(stage: str, verb: Verb, arguments: argparse.Namespace) -> None:
    end_with_launcher()
    _refuse_processes(stage, verb, num=world_size())
    cfg = _load(verb, arguments)
    if arguments.out is None:
        raise InputError(f"{stage} {verb.name}: give --out DIR, the folder to write.")
    # Before the first import of torch: libraries read these once. No stage may reach a hub
    # silently; hub ids are still resolved, by the functions that are asked to.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    threads = getattr(cfg, "threads", None)
    if isinstance(threads, int):
        os.environ["OMP_NUM_THREADS"] = str(threads)
    run = Run(
        out=arguments.out,
        verb=f"{stage} {verb.name}",
        config=cfg,
        is_dry=arguments.dry_run,
        command=shlex.join(["python", "-m", stage, verb.name, *arguments.words]),
    )
    try:
        load_name(verb.function)(cfg, run)
    finally:
        run.close()


def _load(verb: Verb, arguments: argparse.Namespace) -> Any:
    # `--config a.yaml seed=1`: argparse takes the override for a second file.
    files = [c for c in arguments.config if "=" not in c]
    overrides = [c for c in arguments.config if "=" in c] + arguments.overrides
    return configs.load(load_name(verb.config), files, overrides)


def _refuse_processes(stage: str, verb: Verb, *, num: int) -> None:
    """Refuse several processes that would each do the same work in one folder."""
    if num > 1 and not verb.is_parallel:
        raise InputError(
            f"{stage} {verb.name}: is done by one process, and {num} were started. Start it "
            "without a launcher; in a study, take `started_by` from its step."
        )


def _check(stage: str, table: dict[str, Verb]) -> None:
    """Refuse wrong settings of many runs at once: JSON lists on standard input, of the number of
    processes and the words of each.

    A study asks this before it starts anything, so that its last step is not refused after hours,
    and a folder that is complete is not taken for what other settings or inputs would make.
    """
    for line in sys.stdin:
        num, name, *words = json.loads(line)
        if name not in table:
            raise InputError(f"unknown verb {name!r}; expected one of {', '.join(table)}.")
        verb = table[name]
        _refuse_processes(stage, verb, num=num)
        arguments = _parser("check", verb).parse_args(words)
        cfg = _load(verb, arguments)
        if arguments.out is not None and is_complete(arguments.out):
            source = None if verb.source is None else load_name(verb.source)(cfg)
            refuse_stale(arguments.out, verb=f"{stage} {name}", config=cfg, source=source)


def _sequence(stage: str, table: dict[str, Verb]) -> int:
    """Run verbs as a study sends them, one JSON list of words a line, answering with exit codes."""
    for line in sys.stdin:
        name, *words = json.loads(line)
        arguments = _parser(stage, table[name]).parse_args(words)
        arguments.words = words
        code = guarded(functools.partial(_run, stage, table[name], arguments))
        sys.stderr.flush()
        print(f"{ANSWER}{code}", flush=True)
    return 0


def load_name(name: str) -> Any:
    """Return the object that `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _parser(stage: str, verb: Verb) -> argparse.ArgumentParser:
    cls = load_name(verb.config)
    rows = configs.describe(cls)
    width = max(len(key) for key, *_ in rows)
    keys = "\n".join(f"  {key:<{width}}  {note} [{default}]" for key, _, default, note in rows)
    parser = argparse.ArgumentParser(
        prog=f"{stage} {verb.name}",
        description=cls.__doc__,
        epilog=f"keys [default]:\n{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", nargs="+", default=[], help="YAML files, merged in order")
    parser.add_argument("--out", type=Path, help="folder to write; the same command resumes")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single settings")
    return parser


def _stage_help(stage: str, verbs: Sequence[Verb]) -> str:
    width = max(len(v.name) for v in verbs)
    lines = [f"usage: {stage} VERB --config FILE... --out DIR [--dry-run] key=value...", ""]
    for verb in verbs:
        first = (load_name(verb.config).__doc__ or "").strip().splitlines()[0]
        lines.append(f"  {verb.name:<{width}}  {first}")
    lines += ["", f"`{stage} VERB --help` lists the keys of a verb."]
    return "\n".join(lines)
