"""The report in a browser: for people without a mouse, with a phone, in the dark, and with script."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.artifacts import open_captions_report
from eval.captions_page import CAPTIONS_PAGE, write_page
from eval.config import PrimaryConfig, ReportConfig
from eval.summary import PAGE, SUMMARY
from recap.artifacts import open_images

sys.path.insert(0, str(Path(__file__).parent))
from made_up import SCRIPT, Study, build, write_report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")

HOSTILE = Study(
    effects={"real": 0.0, SCRIPT: 0.2, "dsc & <b>": 0.1},
    pairs=8,
    moments=(100, 300),
    text=lambda style, i: f"{style} {i} {SCRIPT}",
    primary=PrimaryConfig(better=SCRIPT, than="real", style="human", metric="prompt_following"),
)
"""Names and texts that a page must show and never run."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportConfig]:
    root = tmp_path_factory.mktemp("hostile")
    cfg = replace(build(root, HOSTILE), study=f"study {SCRIPT}", question=f"Why {SCRIPT}?")
    return write_report(root / "report", cfg), cfg


@pytest.fixture(scope="module")
def captions(report: tuple[Path, ReportConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, cfg = report
    folder = tmp_path_factory.mktemp("captions")
    found = open_captions_report(cfg.captions)
    rules = {SCRIPT: {"num": 1, "examples": [{"text": SCRIPT}]}}
    gated = {"captions": SCRIPT, "kind": SCRIPT, "num_gated": 1, "num_captions": 9, "rules": rules}
    hostile = replace(
        found,
        regularities={kind: {"num_missing": 1, **v} for kind, v in found.regularities.items()},
        gates={"captions": [gated]},
    )
    write_page(folder, hostile, images=open_images(cfg.images), split="test")
    return folder / CAPTIONS_PAGE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page in a window of its own; nothing may be asked of a network, no alert raised."""
    contexts, asked, alerts = [], [], []

    def go(path: Path, **window: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **window})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
        page.on("dialog", lambda d: (alerts.append(d.message), d.dismiss()))
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert not asked
    assert not alerts


WINDOWS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")


def barriers(page: Any) -> list[str]:
    """Return what axe finds that keeps people out."""
    from axe_playwright_python.sync_playwright import Axe

    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    # Without this, thousands of cells that pass are told of one by one.
    options = {"runOnly": {"type": "tag", "values": tags}, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{v['id']}: {node['html'][:200]}" for v in found for node in v["nodes"]]


@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing_that_keeps_people_out(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any], window: str
) -> None:
    page = visit(report[0] / PAGE, **WINDOWS[window])
    if window == "light":  # colours and widths of the rest are those of what lies open
        unfold(page)
    assert barriers(page) == []


def test_axe_finds_nothing_on_the_page_of_captions(
    captions: Path, visit: Callable[..., Any]
) -> None:
    page = visit(captions, **WINDOWS["phone"])
    unfold(page)
    assert barriers(page) == []


def test_axe_would_find_a_barrier(captions: Path, visit: Callable[..., Any]) -> None:
    page = visit(captions)
    page.evaluate(
        """() => { document.querySelector("main img").removeAttribute("alt");
        document.querySelector("h1").style.color = "#ccc"; }"""
    )
    assert {b.split(":")[0] for b in barriers(page)} == {"image-alt", "color-contrast"}


@pytest.mark.parametrize("which", ["report", "captions"])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    report: tuple[Path, ReportConfig], captions: Path, visit: Callable[..., Any], which: str
) -> None:
    page = visit(report[0] / PAGE if which == "report" else captions, **WINDOWS["phone"])
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = page.evaluate(
        """() => [...document.querySelectorAll("p, h1, h2, li, dd, img")].filter((e) =>
        e.getClientRects().length && e.getBoundingClientRect().right > 391
        && !e.closest(".scroll, figure")).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert not cut


def test_in_the_dark_ink_is_light_and_paper_dark(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any]
) -> None:
    brightness = """(e) => getComputedStyle(document.body)[e].match(/\\d+/g).slice(0, 3)
        .reduce((a, b) => a + Number(b), 0) / 3"""
    page = visit(report[0] / PAGE, **WINDOWS["dark"])
    assert page.evaluate(brightness, "backgroundColor") < 64
    assert page.evaluate(brightness, "color") > 192
    # Figures take the page's colours: no text of theirs keeps the ink of paper.
    fills = page.evaluate(
        "[...document.querySelectorAll('svg text')].map((t) => getComputedStyle(t).fill)"
    )
    assert fills
    assert all(sum(map(int, f[4:-1].split(","))) / 3 > 128 for f in set(fills))


def test_tables_sort_both_ways_by_keyboard(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any]
) -> None:
    page = visit(report[0] / PAGE)
    table = page.locator("#table-pairs")

    def differences() -> list[float]:
        cells = table.locator("tbody td:nth-child(2)")
        return [float(c.get_attribute("data-sort")) for c in cells.all()]

    head = table.locator("thead th:nth-child(2)")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert differences() == sorted(differences())
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert differences() == sorted(differences(), reverse=True)
    assert len(set(differences())) == 3


def test_every_table_can_be_downloaded_as_its_own_file(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any]
) -> None:
    folder, _ = report
    page = visit(folder / PAGE, accept_downloads=True)
    unfold(page)
    names = {path.stem for path in (folder / "tables").glob("*.csv")}
    links = {link.get_attribute("download"): link for link in page.locator("a.csv").all()}
    assert {name.removesuffix(".csv") for name in links} >= names | {"cost", "provenance", "arms"}
    for name in ("grid", "pairs", "pictures", "cost"):
        with page.expect_download() as download:
            links[f"{name}.csv"].click()
        told = Path(download.value.path()).read_bytes()
        own = folder / ("cost.csv" if name == "cost" else f"tables/{name}.csv")
        assert told == own.read_bytes()
    assert len(page.locator("table").all()) + 1 == len(links)  # and the prompts shown
    shown = page.locator("#table-grid tbody tr")
    rows = list(csv.DictReader(io.StringIO((folder / "tables/grid.csv").read_text())))
    # A row of the page is a text that scored; its numbers are the rounded ones of the file.
    assert shown.count() == len({(r["prompt_style"], r["scoring"]) for r in rows})
    first = shown.first.locator("td")
    mean = next(
        float(r["mean"])
        for r in rows
        if (r["prompt_style"], r["scoring"], r["arm"], r["than"])
        == (first.nth(0).inner_text(), first.nth(1).locator("span").inner_text(), "real", "")
    )
    assert first.nth(2).locator("span").inner_text() == f"{mean:.2f}"


def test_pictures_flip_between_arms_and_prompts_by_keyboard(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any]
) -> None:
    page = visit(report[0] / PAGE)
    viewer = page.locator("#viewer")
    shots = page.locator("button.shot")
    shots.nth(1).focus()
    page.keyboard.press("Enter")
    assert viewer.evaluate("(v) => v.open")
    label, prompt = viewer.locator(".label"), viewer.locator(".prompt")
    seen = [label.inner_text()]
    first = viewer.locator("img").get_attribute("src")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        seen.append(label.inner_text())
    arms = [seen[0].split()[0], *(s.split(" ·")[0] for s in seen[1:])]
    assert arms[0] == "real"
    assert seen[4] == seen[0]
    assert len(set(seen)) == 4
    assert viewer.locator("img").get_attribute("src") == first
    said = prompt.inner_text()
    page.keyboard.press("ArrowDown")
    assert prompt.inner_text() != said
    assert label.inner_text() == seen[0]
    page.keyboard.press("Escape")
    assert not viewer.evaluate("(v) => v.open")
    # The reader is back at the picture that was shown last, one prompt further down.
    assert page.evaluate("document.activeElement.dataset.row") == "1"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    inside = "document.getElementById('viewer').contains(document.activeElement)"
    assert page.evaluate(inside)


def test_everything_is_reached_by_keyboard_and_seen_to_be(
    report: tuple[Path, ReportConfig], visit: Callable[..., Any]
) -> None:
    page = visit(report[0] / PAGE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    wanted = page.locator("a[href], button, summary, [tabindex='0']").evaluate_all(
        "(all) => all.filter((e) => !e.closest('dialog') && e.checkVisibility()).length"
    )
    page.reload()
    page.evaluate(
        """() => { window.reached = new Map(); document.addEventListener("focusin", (event) =>
        reached.set(event.target, getComputedStyle(event.target).outlineStyle)); }"""
    )
    for _ in range(wanted):
        page.keyboard.press("Tab")
    outlines = page.evaluate("[...reached.values()]")
    assert len(outlines) == wanted
    assert set(outlines) == {"solid"}


def test_hostile_texts_are_shown_as_texts_everywhere(
    report: tuple[Path, ReportConfig], captions: Path, visit: Callable[..., Any]
) -> None:
    folder, _ = report
    for path in (folder / PAGE, captions):
        assert SCRIPT not in path.read_text()
        page = visit(path)
        unfold(page)
        assert page.locator("script").count() == 1
        assert SCRIPT in page.locator("body").inner_text()
    page = visit(folder / PAGE)
    unfold(page)
    for place in ("h1", ".question", ".kicker", "#pictures .prompt", "#captions dd", "#table-arms",
                  "#table-grid thead", "#table-regularities", "figure svg"):  # fmt: skip
        found = " ".join(page.locator(place).all_text_contents())
        assert SCRIPT in found, place
    page.locator("button.shot").nth(1).click()
    assert SCRIPT in page.locator("#viewer .prompt").inner_text()
    # Files that a browser may be pointed at are read as what they are.
    for path in (folder / "figures").glob("*.svg"):
        assert SCRIPT not in path.read_text()
    assert visit(folder / "figures/pairs.svg").locator("script").count() == 0
    assert SCRIPT in (folder / SUMMARY).read_text()  # plain text needs no escape


def test_the_page_of_a_study_stays_small(report: tuple[Path, ReportConfig]) -> None:
    assert (report[0] / PAGE).stat().st_size < 12 << 20
