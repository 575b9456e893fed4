"""The reference pages are what `make docs-reference` writes, and leave no setting unexplained."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from launch.config import describe
from launch.verbs import load_name

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_of_docs", DOCS / "reference.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_says_what_the_code_says(reference: ModuleType, tmp_path: Path) -> None:
    reference.main(tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    pages = {path.name: path.read_text(encoding="utf-8") for path in reference.FOLDER.iterdir()}
    assert written == pages, "run `make docs-reference`"


def test_every_setting_of_every_verb_is_explained(reference: ModuleType) -> None:
    silent = [
        f"{stage} {verb.name} {key}"
        for stage in reference.STAGES
        for verb in importlib.import_module(f"{stage}.__main__").VERBS
        for key, *_, note in describe(load_name(verb.config))
        if not note
    ]
    assert not silent


def test_every_table_of_the_artifacts_is_on_its_page(reference: ModuleType) -> None:
    schemas = {
        name
        for module in reference.MODULES
        for name in vars(importlib.import_module(module))
        if name.endswith("_SCHEMA")
    }
    page = (reference.FOLDER / "artifacts.md").read_text(encoding="utf-8")
    assert {name for name in schemas if f"### `{name}`" in page} == schemas
    sources = {
        ".".join(path.relative_to(DOCS.parent).with_suffix("").parts)
        for stage in reference.STAGES
        for path in (DOCS.parent / stage).rglob("*.py")
        if re.search(r"^\w*SCHEMA(: Final)? = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert sources <= set(reference.MODULES)
