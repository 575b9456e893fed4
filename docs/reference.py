"""Write the reference pages from the code: `make docs-reference`.

`docs/reference/settings.md` has every key of every verb, as `--help` tells it;
`docs/reference/artifacts.md` has every artifact's reader and table, with the docstrings beside
them. Neither is edited by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from launch.config import describe
from launch.verbs import load_name

FOLDER = Path(__file__).parent / "reference"
STAGES = ("recap", "t2i", "eval")
MODULES = (
    "recap.artifacts",
    "recap.artifacts.images",
    "recap.artifacts.captions",
    "t2i.artifacts",
    "t2i.artifacts.prompts",
    "t2i.artifacts.generations",
    "t2i.artifacts.models",
    "t2i.artifacts.caches",
    "t2i.ledger",
    "eval.artifacts",
    "eval.judge_artifact",
    "eval.distribution_artifact",
    "eval.published",
    "eval.votes_artifact",
)
"""Modules that describe artifacts."""

BY_HAND = "Written from the code by `make docs-reference`; a test holds it to what the code says."


def main(out: Path) -> None:
    """Write both pages into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, page in (("settings.md", settings()), ("artifacts.md", artifacts())):
        (out / name).write_text(page, encoding="utf-8")
        print(out / name)


def settings() -> str:
    """Return the page of every configuration key."""
    parts = [
        "# Every setting",
        f"{BY_HAND} Keys are given as `key=value` or in YAML, nested ones dotted or indented; "
        "`NAME` stands for a name of your own.",
    ]
    for stage in STAGES:
        for verb in importlib.import_module(f"{stage}.__main__").VERBS:
            cls = load_name(verb.config)
            rows = [
                [
                    f"`{key}`",
                    f"`{kind}`",
                    "required" if default == "required" else f"`{default}`",
                    note,
                ]
                for key, kind, default, note in describe(cls)
            ]
            parts += [f"## {stage} {verb.name}", inspect.cleandoc(cls.__doc__)]
            parts.append(_table(["key", "type", "default", "what it is"], rows))
    return "\n\n".join(parts) + "\n"


def artifacts() -> str:
    """Return the page of every artifact and table."""
    parts = [
        "# Artifacts and their tables",
        f"{BY_HAND} An artifact is a folder with a `manifest.json`, which is written last. The "
        "schema of a table carries the artifact's name and version.",
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        doc = inspect.cleandoc(module.__doc__ or "")
        parts += [f"## {name}", f"```text\n{doc}\n```"]
        for title, said, schema in _described(module):
            parts.append(f"### {title}")
            if said:
                parts.append(said)
            if schema is not None:
                rows = [[f"`{f.name}`", f"`{f.type}`", "yes" if f.nullable else ""] for f in schema]
                parts.append(_table(["column", "type", "may be null"], rows))
    return "\n\n".join(parts) + "\n"


def _described(module: ModuleType) -> Iterator[tuple[str, str, pa.Schema | None]]:
    """Yield title, docstring and schema of what a module describes, in its order."""
    body = ast.parse(inspect.getsource(module)).body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.ClassDef):
            cls = getattr(module, node.name)
            if dataclasses.is_dataclass(cls) and "manifest" in cls.__dataclass_fields__:
                yield f"`{node.name}`", inspect.cleandoc(cls.__doc__ or ""), None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = getattr(module, ast.unparse(target), None)
            if isinstance(value, pa.Schema):
                found = {
                    key.decode().removeprefix("captionmix."): said.decode()
                    for key, said in value.metadata.items()
                }
                contract = f"{found['artifact']} {found['version']}"
                is_said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                said = inspect.cleandoc(str(after.value.value)) if is_said else ""
                yield f"`{ast.unparse(target)}`, {contract}", said, value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    shown = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in shown)


if __name__ == "__main__":
    sys.exit(main(FOLDER))
