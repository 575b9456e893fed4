"""Pages name only what exists: files of the repository, studies, and each page in the navigation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
FILE = re.compile(r"`((?:tests|configs|recap|t2i|eval|launch)/[\w./-]+\.(?:py|yaml|sbatch))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = set(FILE.findall(page.read_text(encoding="utf-8"))) - {"tests/benchmarks/x.py"}
    assert not [name for name in named if not (REPOSITORY / name).exists()]


def test_every_page_is_in_the_navigation() -> None:
    listed = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [p.name for p in PAGES if f": {p.relative_to(DOCS)}\n" not in listed]


def test_every_shipped_study_is_described_and_no_other() -> None:
    page = (DOCS / "studies.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    bases = {"scenes", "rewriting", "gpu"}
    shipped = {path.stem for path in (REPOSITORY / "configs/studies").glob("*.yaml")} - bases
    assert told == shipped
