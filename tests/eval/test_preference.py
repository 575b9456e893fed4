"""The page of blinded pairs: what it hides, what it keeps, and what comes back from it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.ballot_box import read_votes
from eval.config import PreferenceConfig
from eval.preference import preference
from eval.votes_artifact import PAGE, Preference, Trial, open_preference
from launch.errors import ArtifactError, ConfigError, InputError
from launch.run import Run
from t2i.artifacts import open_generations, open_prompts

ARMS = ("quokka", "wombat", "numbat")
SCRIPT = "<script>alert(1)</script> two rings & 'a \"box\"'"
FLAGS = ["--no-sandbox", "--disable-gpu"]

needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs Debian's chromium"
)


@pytest.fixture(scope="module")
def cfg(make: Any, tmp_path_factory: pytest.TempPathFactory) -> PreferenceConfig:
    """Three arms with two noise seeds each, on twelve prompts that would be scripts if they could."""
    # The name of the folder shapes the ids, and these the draws.
    made = make.world(tmp_path_factory.mktemp("preference") / "zoo", num=48)
    texts = [f"{SCRIPT} {i}" for i in range(48)]
    prompts = make.prompts(made, {"human": texts, "dsc": texts})
    generations = [
        make.generations(
            made.root / arm, made, prompts, arm=arm, styles=["human", "dsc"], num_seeds=2
        )
        for arm in ARMS
    ]
    return PreferenceConfig(
        generations=generations, prompts=prompts, styles=["human"], num_prompts=4, repeats=0.25
    )


def write(cfg: PreferenceConfig, out: Path) -> Preference:
    preference(cfg, Run(out=out, verb="eval preference", config=cfg))
    return open_preference(out)


@pytest.fixture(scope="module")
def made(cfg: PreferenceConfig, tmp_path_factory: pytest.TempPathFactory) -> Preference:
    return write(cfg, tmp_path_factory.mktemp("preference") / "page")


@pytest.fixture(scope="module")
def short(cfg: PreferenceConfig, tmp_path_factory: pytest.TempPathFactory) -> Preference:
    """Two pairs in each question."""
    few = replace(cfg, pairs=[["quokka", "wombat"]], num_prompts=2, repeats=0.0)
    return write(few, tmp_path_factory.mktemp("preference") / "short")


def page_of(made: Preference) -> str:
    return (made.manifest.folder / PAGE).read_text()


def content_of(made: Preference) -> dict[str, Any]:
    (found,) = re.findall(r'id="content">(.*?)</script>', page_of(made))
    return json.loads(found)


def originals(made: Preference) -> list[Trial]:
    return [trial for trial in made.trials.values() if trial.repeat_of is None]


# ------------------------------------------------------------------ what is compared


def test_every_pair_of_arms_meets_on_every_prompt_in_every_question(made: Preference) -> None:
    asked = {(t.question, t.pair_id, frozenset((t.left_arm, t.right_arm))) for t in originals(made)}
    assert len(asked) == len(originals(made)) == 3 * 4 * 3


def test_both_pictures_of_a_pair_share_prompt_noise_and_training_seed(
    made: Preference, cfg: PreferenceConfig
) -> None:
    rows = {}
    for folder in cfg.generations:
        opened = open_generations(folder)
        rows |= {
            row["generation_id"]: (
                opened.arm, row["pair_id"], row["prompt_id"], row["style"], row["seed"],
                opened.model_seed,
            )
            for row in opened.table.to_pylist()
        }  # fmt: skip
    shared = ([t.pair_id, t.prompt_id, t.style, t.seed, t.model_seed] for t in made.trials.values())
    for trial, what in zip(made.trials.values(), shared, strict=True):
        assert rows[trial.left_generation_id] == (trial.left_arm, *what)
        assert rows[trial.right_generation_id] == (trial.right_arm, *what)
    assert {t.seed for t in made.trials.values()} == {0, 1}


def test_repeats_are_swapped_and_come_long_after(made: Preference) -> None:
    again = [t for t in made.trials.values() if t.repeat_of is not None]
    assert len(again) == 3 * 3
    for trial in again:
        first = made.trials[trial.repeat_of]
        assert trial.left_generation_id == first.right_generation_id
        assert trial.right_generation_id == first.left_generation_id
        assert trial.place - first.place > 12 // 2
        assert trial.question == first.question


def test_sides_and_prompts_follow_the_seed_and_nothing_else(
    made: Preference, cfg: PreferenceConfig, tmp_path: Path
) -> None:
    turned = write(replace(cfg, generations=cfg.generations[::-1]), tmp_path / "turned")
    same = [t._replace(place=0) for t in turned.trials.values()]
    assert same == [t._replace(place=0) for t in made.trials.values()]
    other = write(replace(cfg, seed=1), tmp_path / "other")
    assert other.page_digest != made.page_digest
    lefts = [t.left_arm < t.right_arm for t in originals(made)]
    assert 5 < sum(lefts) < len(lefts) - 5


def test_chosen_pairs_alone_are_compared(cfg: PreferenceConfig, tmp_path: Path) -> None:
    chosen = write(
        replace(cfg, pairs=[["numbat", "quokka"]], questions=["style"], styles=["human", "dsc"]),
        tmp_path / "page",
    )
    assert {frozenset((t.left_arm, t.right_arm)) for t in chosen.trials.values()} == {
        frozenset(("numbat", "quokka"))
    }
    assert len(originals(chosen)) == 4 * 2


# ------------------------------------------------------------------ what is hidden


def test_no_arm_is_named_on_the_page(made: Preference, cfg: PreferenceConfig) -> None:
    page = page_of(made)
    assert not [arm for arm in ARMS if arm in page.lower()]
    for trial in made.trials.values():
        assert trial.left_generation_id not in page
        assert trial.trial_id in page


def test_pictures_carry_no_name_in_their_files(made: Preference) -> None:
    import base64

    from PIL import Image

    for uri in content_of(made)["pictures"]:
        picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert not picture.info


def test_pictures_on_the_page_are_those_that_the_key_names(
    made: Preference, cfg: PreferenceConfig
) -> None:
    import base64

    from PIL import Image

    content = content_of(made)
    pixels = {}
    for folder in cfg.generations:
        opened = open_generations(folder)
        pixels |= dict(
            zip(opened.table["generation_id"].to_pylist(), opened.pixels(range(len(opened))),
                strict=True)
        )  # fmt: skip
    for shown in content["trials"]:
        trial = made.trials[shown["id"]]
        for side in ("left", "right"):
            data = content["pictures"][shown[side]].split(",")[1]
            found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            assert np.array_equal(found, pixels[getattr(trial, f"{side}_generation_id")])


def test_the_prompt_is_told_for_prompt_following_alone(
    made: Preference, cfg: PreferenceConfig
) -> None:
    texts = open_prompts(cfg.prompts).texts("human")
    for shown in content_of(made)["trials"]:
        trial = made.trials[shown["id"]]
        if shown["question"] == "prompt_following":
            assert shown["prompt"] == texts[trial.pair_id]
        else:
            assert "prompt" not in shown


def test_the_page_asks_for_nothing_and_holds_no_foreign_script(made: Preference) -> None:
    page = page_of(made)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert len(re.findall(r"<script", page)) == 2
    assert "alert(1)" in page
    assert "<script>alert" not in page


# ------------------------------------------------------------------ refusals


def test_what_cannot_be_compared_is_refused_by_name(
    make: Any, cfg: PreferenceConfig, tmp_path: Path
) -> None:
    def refused(error: type[Exception], words: str, **changed: Any) -> None:
        with pytest.raises(error, match=words):
            write(replace(cfg, **changed), tmp_path / "never")

    refused(InputError, "12 prompts have a picture of every arm", num_prompts=13)
    refused(InputError, "holds? one arm, quokka", generations=cfg.generations[:1])
    refused(InputError, "arm 'koala' has no generations", pairs=[["quokka", "koala"]])
    refused(InputError, "no prompts of style 'alt'", styles=["alt"])
    refused(InputError, "every generations folder once", generations=[*cfg.generations] * 2)
    refused(ConfigError, "names arm 'wombat'", title="Better than Wombat?")
    other = make.world(tmp_path / "other", num=8)
    prompts = make.prompts(other, {"human": ["a ring"] * 8})
    refused(ArtifactError, "was not sampled from the prompts", prompts=prompts)
    assert not (tmp_path / "never").exists()


def test_a_prompt_that_an_arm_lacks_is_an_error_and_is_named(
    make: Any, cfg: PreferenceConfig, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "zoo", num=8)
    prompts = make.prompts(made, {"human": ["a ring"] * 8})
    folders = [
        make.generations(
            tmp_path / arm, made, prompts, arm=arm, styles=["human"],
            change=lambda rows, arm=arm: rows[1:] if arm == "wombat" else rows,
        )
        for arm in ("quokka", "wombat")
    ]  # fmt: skip
    few = replace(cfg, generations=folders, prompts=prompts, num_prompts=1)
    with pytest.raises(InputError, match=r"1 prompts have no picture .* arm wombat lacks prompt"):
        write(few, tmp_path / "never")


def test_prompts_without_every_style_are_left_out_and_counted(
    make: Any, cfg: PreferenceConfig, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "zoo", num=12)
    prompts = make.prompts(made, {"human": ["a ring"] * 12, "dsc": ["a red ring"] * 12})
    first: list[str] = []

    def without_one(rows: Any) -> Any:
        first.append(min(row.pair_id for row in rows))
        return [row for row in rows if (row.style, row.pair_id) != ("dsc", first[0])]

    folders = [
        make.generations(
            tmp_path / arm, made, prompts, arm=arm, styles=["human", "dsc"], change=without_one
        )
        for arm in ("quokka", "wombat")
    ]
    both = replace(
        cfg, generations=folders, prompts=prompts, styles=["human", "dsc"], num_prompts=1
    )
    found = write(both, tmp_path / "page")
    assert found.manifest.counts["prompts_without_a_style"] == 1
    assert first[0] not in {trial.pair_id for trial in found.trials.values()}


def test_settings_that_unblind_or_waste_are_refused(cfg: PreferenceConfig) -> None:
    for changed, words in (
        ({"questions": ["prompt_following", "style"]}, "must come last"),
        ({"questions": ["style", "style"]}, "names one twice"),
        ({"repeats": 0.6}, "repeats must lie"),
        ({"pairs": [["quokka", "quokka"]]}, "two different arms"),
        ({"generations": []}, "at least one"),
    ):
        with pytest.raises(ConfigError, match=words):
            replace(cfg, **changed)


def test_arms_trained_for_different_times_are_not_compared(
    make: Any, cfg: PreferenceConfig, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "zoo", num=8)
    prompts = make.prompts(made, {"human": ["a ring"] * 8})
    folders = [
        make.generations(
            tmp_path / arm, made, prompts, arm=arm, styles=["human"],
            change=lambda rows, seen=seen: [r._replace(samples_seen=seen) for r in rows],
        )
        for arm, seen in (("quokka", 64), ("wombat", 128))
    ]  # fmt: skip
    with pytest.raises(InputError, match="different numbers of pictures"):
        write(replace(cfg, generations=folders, prompts=prompts, num_prompts=1), tmp_path / "never")


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield opened
        opened.close()


class Rater:
    """A rater who works by keyboard."""

    def __init__(self, browser: Any, made: Preference, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append("dialog") or dialog.dismiss())
        self.page.goto((made.manifest.folder / PAGE).as_uri())

    def begin(self, name: str) -> None:
        self.page.fill("#rater", name)
        self.page.keyboard.press("Enter")

    def press(self, key: str) -> None:
        """Press a key, going past an introduction first."""
        if self.page.locator("#intro").is_visible():
            self.page.keyboard.press("Enter")
        self.page.keyboard.press(key)

    def count(self) -> str:
        return self.page.inner_text("#count")


KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie"}


@needs_browser
def test_twenty_votes_survive_a_reload_and_come_back(
    browser: Any, made: Preference, tmp_path: Path
) -> None:
    rater = Rater(browser, made)
    rater.begin("  Ada <b>&  ")
    pressed = [list(KEYS)[i % 3] for i in range(20)]
    for key in pressed[:11]:
        rater.press(key)
    assert rater.count() == "11 of 45"
    rater.page.reload()
    assert rater.count() == "11 of 45"
    for key in pressed[11:]:
        rater.press(key)
    rater.press("Backspace")  # the last vote is changed
    assert rater.page.get_attribute("#tie", "aria-pressed") == "false"
    assert rater.page.get_attribute("[data-choice=right]", "aria-pressed") == "true"
    rater.press("ArrowDown")
    assert rater.count() == "20 of 45"
    with rater.page.expect_download() as download:
        rater.page.click("#download")
    file = tmp_path / "votes.jsonl"
    download.value.save_as(file)
    rater.page.click("#raw summary")
    assert rater.page.input_value("#lines") == file.read_text()
    box = read_votes([file], made)
    expected = [KEYS[key] for key in pressed[:-1]] + ["tie"]
    assert [vote.choice for vote in box.votes] == expected
    assert [vote.trial for vote in box.votes] == list(made.trials.values())[:20]
    assert {vote.rater for vote in box.votes} == {"Ada <b>&"}
    assert all(vote.milliseconds is not None for vote in box.votes)
    assert not rater.said
    rater.page.click("#leave")  # another rater starts with nothing, and the first goes on
    rater.begin("Bo")
    assert rater.count() == "0 of 45"
    rater.page.click("#leave")
    rater.begin("Ada <b>&")
    assert rater.count() == "20 of 45"
    rater.context.close()


@needs_browser
def test_a_prompt_is_text_and_stands_with_its_question_alone(
    browser: Any, short: Preference, cfg: PreferenceConfig
) -> None:
    rater = Rater(browser, short)
    rater.begin("Ada")
    texts = open_prompts(cfg.prompts).texts("human")
    for trial in short.trials.values():
        if rater.page.locator("#intro").is_visible():
            rater.page.click("#go")
        if trial.question == "prompt_following":
            assert rater.page.inner_text("#prompt") == texts[trial.pair_id]
            rater.page.click("#tie")
        else:
            assert not rater.page.locator("#prompt").is_visible()
            assert SCRIPT not in rater.page.inner_text("main")
            rater.page.keyboard.press("ArrowLeft")
    assert rater.page.locator("#done").is_visible()
    assert not rater.said
    rater.context.close()


@needs_browser
@pytest.mark.parametrize(
    ("scheme", "width", "height"), [("light", 1200, 840), ("dark", 390, 840), ("dark", 840, 390)]
)
def test_every_screen_passes_the_accessibility_check(
    browser: Any, short: Preference, scheme: str, width: int, height: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    viewport = {"width": width, "height": height}
    rater = Rater(browser, short, color_scheme=scheme, viewport=viewport)

    def check() -> None:
        found = axe.run(rater.page)
        assert found.violations_count == 0, found.generate_report()
        assert rater.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    check()
    rater.begin("Ada")
    check()
    for at in range(len(short.trials)):
        rater.press("ArrowRight")
        if at in (0, len(short.trials) - 2):
            if rater.page.locator("#intro").is_visible():
                rater.page.click("#go")
            check()
    check()
    rater.context.close()
