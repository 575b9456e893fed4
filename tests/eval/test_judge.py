"""`eval judge` against a chat server that fails in every way: scores, pairs, restarts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eval import artifacts
from eval.config import JudgeConfig
from eval.judge import judge
from eval.judge_artifact import read_answers
from launch.config import find_config, load
from launch.errors import ArtifactError, CaptionmixError, ConfigError, InputError, StoppedError
from launch.manifest import read_manifest
from launch.run import Run
from recap.pictures import decode
from t2i.artifacts import Prompt, prompt_id, write_prompts
from t2i.questions import Question, to_json
from tests.recap.chat_server import KEY, ChatServer, failing_once

REPOSITORY = Path(__file__).parents[2]
ADDED = "A huge violet dragon reads a book."
QUESTIONS = [
    Question(1, "Is there a thing?", (), "entity - whole"),
    Question(2, "Is it red?", (1,), "attribute - color"),
    Question(3, "Is its edge sharp?", (2,), "attribute - other"),
]


class Drawn(NamedTuple):
    prompts: Path
    generations: list[Path]
    num: int
    """Prompts of one style."""


def drawn_at(
    root: Path,
    make: Any,
    *,
    num: int = 48,
    questions: Sequence[Question] = QUESTIONS,
    recipe: dict[str, Any] | None = None,
) -> Drawn:
    """Draw two arms, the second in negative, for prompts in two styles."""
    made = make.world(root / "world", num=num)
    texts = made.texts("human")
    rows = []
    for i in made.of_split("test"):
        for style, text in (("original", texts[i]), ("rewritten", f"{texts[i]}. {ADDED}")):
            pair = made.sample_ids[i]
            name = prompt_id(style=style, pair_id=pair, prompt=text)
            rows.append(Prompt(name, text, style, pair, None, None, to_json(questions)))
    (root / "prompts").mkdir()
    write_prompts(root / "prompts/prompts.parquet", rows)
    prompts = make.finish(root / "prompts", "prompts", recipe=recipe or {"verb": "t2i prompt-list"})
    styles = ["original", "rewritten"]
    worlds = {"one": made, "other": replace(made, pixels=255 - made.pixels)}
    folders = [
        make.generations(root / arm, of, prompts, arm=arm, styles=styles)
        for arm, of in worlds.items()
    ]
    return Drawn(prompts, folders, len(rows) // 2)


@pytest.fixture(scope="module")
def drawn(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return drawn_at(tmp_path_factory.mktemp("drawn"), make)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def overrides(drawn: Drawn, server: ChatServer, *words: str) -> list[str]:
    return [
        f"prompts={drawn.prompts}",
        f"generations=[{','.join(map(str, drawn.generations))}]",
        "asked.ask=[prompt,questions]",
        "asked.picture_px=24",
        "asked.endpoint.model=seer",
        f"asked.endpoint.base_url={server.url}",
        "asked.endpoint.key_variable=TEST_KEY",
        "asked.endpoint.retry_wait_s=0.002",
        "asked.endpoint.timeout_s=1.5",
        *words,
    ]


def config(drawn: Drawn, server: ChatServer, *words: str) -> JudgeConfig:
    files = [find_config("configs/eval/judge_questions.yaml")]
    return load(JudgeConfig, files, overrides(drawn, server, *words))


def judged(cfg: JudgeConfig, out: Path) -> artifacts.Scores:
    run = Run(out=out, verb="eval judge", config=cfg)
    try:
        judge(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


def served(**settings: Any) -> ChatServer:
    return ChatServer(has_schema=False, by_text=True, **settings)


def clear(number: int, text: str) -> str:
    """Answer yes or no by what is asked about."""
    return ("Yes.", "no", "**Yes**", "No, it is not.")[number % 4]


def some_unclear(number: int, text: str) -> Any:
    odd: dict[int, Any] = {
        0: "Perhaps <script>alert(1)</script>",
        1: {"content": None, "refusal": "I can't."},
        2: "",
        3: {"content": "Ye", "finish_reason": "length"},
    }
    return odd.get(number % 23, clear(number, text))


def trouble(number: int, asking: int) -> object:
    kinds = {0: 429, 1: 500, 2: "cut", 3: 503}
    if asking == 0 and number % 61 == 5:
        return "hang"
    return kinds.get(number % 12) if asking < 1 + number % 2 else None


def expected_scores(out: Path) -> dict[tuple[str, str, str | None], float]:
    """Compute scores again from the answers, as plainly as can be."""
    answers: dict[str, dict[int, bool | None]] = {}
    cell_of: dict[str, tuple[str, int]] = {}
    for row in read_answers(out / "answers.parquet").to_pylist():
        verdict = {"yes": True, "no": False}.get(row["verdict"])
        answers.setdefault(row["generation_id"], {})[row["number"]] = verdict
        cell_of[row["generation_id"]] = (row["prompt_id"], row["seed"])
    gates = {
        "questions_yes": {1: [], 2: [1], 3: [2]},
        "questions_yes_ancestors": {1: [], 2: [1], 3: [1, 2]},
    }
    found: dict[tuple[str, str, str | None], float] = {}
    for name, cell in cell_of.items():
        together = [other for other, its in cell_of.items() if its == cell]
        if all(answers[other][0] is not None for other in together):
            found[name, "judge_yes", None] = float(answers[name][0] is True)
        for metric, of in gates.items():

            def gated(who: str, number: int, of: Any = of) -> bool | None:
                needed = [answers[who][n] for n in (number, *of[number])]
                return False if False in needed else None if None in needed else True

            kept = [n for n in of if all(gated(other, n) is not None for other in together)]
            axes = {None: kept}
            if metric == "questions_yes":
                axes |= {"entity": [n for n in kept if n == 1]}
                axes |= {"attribute": [n for n in kept if n > 1]}
            for axis, numbers in axes.items():
                if numbers:
                    held = [gated(name, n) is True for n in numbers]
                    found[name, metric, axis] = sum(held) / len(held)
    return found


def test_scores_come_through_every_trouble_and_follow_from_the_answers(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(trouble=trouble, saying=some_unclear, version="seer-2026-01") as server:
        cfg = config(drawn, server, "asked.max_unclear_share=0.6")
        scores = judged(cfg, tmp_path / "out")
        assert server.wrong == []
        assert set(server.answered.values()) == {1}
        # Pictures of a rewritten prompt are the same here, and are asked about by the same text.
        assert len(server.answered) == 2 * drawn.num * 4
        assert sum(server.asked.values()) > len(server.answered)
        assert not any(ADDED in text for text in server.texts)
    found = {
        (row["generation_id"], row["metric"], row["axis"]): row["value"]
        for row in scores.table.to_pylist()
    }
    assert found == expected_scores(tmp_path / "out")
    counts = scores.manifest.counts
    assert counts["rows_in"] == 4 * drawn.num
    assert counts["rows_in"] == counts["rows_out"] + sum(scores.manifest.rejected.values())
    rules = ("neither", "refusal", "empty", "unfinished")
    assert all(counts[f"answers_{rule}"] > 0 for rule in rules)
    assert counts["answers"] == 16 * drawn.num
    assert counts["answers"] == sum(counts[f"answers_{v}"] for v in ("yes", "no", *rules))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in "".join(capsys.readouterr())


def test_arms_stay_paired_where_one_of_them_has_an_unclear_answer(
    drawn: Drawn, tmp_path: Path
) -> None:
    with served(saying=some_unclear) as server:
        scores = judged(config(drawn, server, "asked.max_unclear_share=1"), tmp_path / "out")
    cells: dict[tuple[Any, ...], set[str]] = {}
    for row in scores.table.to_pylist():
        key = (row["metric"], row["axis"], row["prompt_id"], row["seed"])
        cells.setdefault(key, set()).add(row["arm"])
    assert cells
    assert all(arms == {"one", "other"} for arms in cells.values())
    whole = [key for key in cells if key[0] == "judge_yes"]
    assert 0 < len(whole) < 2 * drawn.num


def test_the_recipe_names_model_version_instruction_temperature_and_picture_size(
    drawn: Drawn, tmp_path: Path
) -> None:
    with served(saying=clear, version="seer-2026-01") as server:
        cfg = config(drawn, server, "asked.ask=[prompt]")
        scores = judged(cfg, tmp_path / "out")
    assert cfg.asked is not None
    scorer = scores.manifest.recipe["scorers"]["vlm"]
    assert scorer["model"] == "seer"
    assert scorer["version"] == {"seer-2026-01": 2 * drawn.num}
    assert scorer["instruction"] == cfg.asked.instruction
    assert scorer["prompt_question"] == cfg.asked.prompt_question
    assert (scorer["temperature"], scorer["max_output_tokens"]) == (0.0, 16)
    assert "longer side 24 px" in scorer["picture"]
    assert scorer["judged_by"] == {"original": "original", "rewritten": "original"}


def test_an_original_may_be_named_and_a_study_s_styles_are_their_own(
    make: Any, tmp_path: Path
) -> None:
    made = drawn_at(tmp_path, make, num=8, recipe={"verb": "t2i prompts"})
    with served(saying=clear) as server:
        words = ["asked.ask=[prompt]", "styles=[rewritten]"]
        judged(config(made, server, *words), tmp_path / "own")
        assert all(ADDED in text for text in server.texts)
        server.texts.clear()
        words.append("originals.rewritten=original")
        scores = judged(config(made, server, *words), tmp_path / "named")
        assert not any(ADDED in text for text in server.texts)
        with pytest.raises(ConfigError, match=r"originals: .* has no style 'first'"):
            judged(config(made, server, "originals.rewritten=first"), tmp_path / "absent")
        with pytest.raises(ConfigError, match="no prompts of style 'first'"):
            judged(config(made, server, "styles=[first]"), tmp_path / "absent")
    assert set(scores.table["prompt_style"].to_pylist()) == {"rewritten"}


def test_the_style_that_an_upsampling_made_is_judged_by_what_it_rewrote(
    make: Any, tmp_path: Path
) -> None:
    recipe = {"verb": "t2i upsample", "style": "original", "name": "rewritten"}
    made = drawn_at(tmp_path, make, num=8, recipe=recipe)
    with served(saying=clear) as server:
        scores = judged(config(made, server), tmp_path / "out")
        assert not any(ADDED in text for text in server.texts)
    assert scores.manifest.recipe["scorers"]["vlm"]["judged_by"]["rewritten"] == "original"


def test_real_pictures_are_judged_as_a_ceiling(make: Any, tmp_path: Path) -> None:
    made = drawn_at(tmp_path, make, num=8)
    with served(saying=clear) as server:
        images = f"images={tmp_path / 'world/images'}"
        scores = judged(config(made, server, images, "asked.ask=[prompt]"), tmp_path / "out")
    arms = scores.table["arm"].to_pylist()
    assert arms.count("(pictures)") == 2 * made.num


def test_pictures_of_any_size_that_was_ingested_or_drawn_are_judged(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = drawn_at(tmp_path, make, num=8)
    # Whoever names no limit has one that none of these pictures passes.
    monkeypatch.setattr("recap.pictures.decode", partial(decode, max_pixels=100))
    with served(saying=clear) as server:
        images = f"images={tmp_path / 'world/images'}"
        scores = judged(config(made, server, images, "asked.ask=[prompt]"), tmp_path / "out")
        assert server.wrong == []
    assert scores.manifest.counts["rows_out"] == 6 * made.num


# --------------------------------------------------------------------------- starting again


def test_what_the_ledger_has_is_never_asked_again(drawn: Drawn, tmp_path: Path) -> None:
    shared = f"asked.ledger={tmp_path / 'answers.jsonl'}"
    with served(saying=clear) as server:
        words = [shared, "asked.ask=[prompt]"]
        first = judged(config(drawn, server, *words), tmp_path / "first")
        before = server.asked.copy()
        again = judged(config(drawn, server, *words), tmp_path / "again")
        assert server.asked == before
        assert again.manifest.digest == first.manifest.digest
        other = config(drawn, server, *words, "asked.instruction=Say yes or no.")
        judged(other, tmp_path / "other")
        assert sum(server.asked.values()) == 2 * sum(before.values()) == 4 * drawn.num


def test_a_killed_judge_goes_on_and_ends_in_the_same_scores(drawn: Drawn, tmp_path: Path) -> None:
    env = {**os.environ, "TEST_KEY": KEY, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    total = 8 * drawn.num
    with served(saying=clear, delay_s=0.05) as server:
        words = ["asked.endpoint.concurrency=4", "asked.endpoint.timeout_s=20"]
        command = [
            *(sys.executable, "-m", "eval", "judge", "--out", str(tmp_path / "killed")),
            *("--config", "configs/eval/judge_questions.yaml"),
            *overrides(drawn, server, *words),
        ]
        with (tmp_path / "told").open("wb") as told:
            process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=told, stderr=told)
        while sum(server.answered.values()) < 30:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "HTTP Request" not in (tmp_path / "told").read_text()  # a line for each
        assert not (tmp_path / "killed/manifest.json").exists()
        kept = (tmp_path / "killed/ledger.jsonl").read_bytes().count(b'"event": "answered"')
        assert 20 <= kept < total
        server.delay_s = 0.0
        before = server.asked.copy()
        scores = judged(config(drawn, server, *words), tmp_path / "killed")
        # The four requests under way at the kill may have come to the server's ears already.
        assert total - kept <= sum((server.asked - before).values()) <= total - kept + 4
        whole = judged(config(drawn, server, *words), tmp_path / "whole")
    assert scores.manifest.digest == whole.manifest.digest


def test_too_many_unclear_answers_stop_the_job_and_a_higher_limit_asks_nothing(
    drawn: Drawn, tmp_path: Path
) -> None:
    with served(saying=some_unclear) as server:
        words = ["asked.max_unclear_share=0.02", "asked.endpoint.concurrency=1"]
        with pytest.raises(StoppedError, match=r"neither yes nor no \(.*max_unclear_share=0.02"):
            judged(config(drawn, server, *words), tmp_path / "out")
        assert 0 < sum(server.asked.values()) < 8 * drawn.num
        words[0] = "asked.max_unclear_share=0.9"
        judged(config(drawn, server, *words), tmp_path / "out")
        assert set(server.asked.values()) == {1}


def test_a_question_that_the_server_only_failed_for_is_asked_again_at_the_next_start(
    make: Any, tmp_path: Path
) -> None:
    made = drawn_at(tmp_path, make, num=8)
    with served(saying=clear) as server:
        server.trouble = failing_once(server, after=3)
        words = ["asked.endpoint.max_retries=0", "asked.max_unclear_share=1"]
        cfg = config(made, server, *words)
        with pytest.raises(StoppedError, match=r"1 questions are unanswered.*no_answer"):
            judged(cfg, tmp_path / "out")
        total = sum(server.asked.values())
        scores = judged(cfg, tmp_path / "out")
        assert sum(server.asked.values()) == total + 1
    assert "answers_no_answer" not in scores.manifest.counts


def test_a_picture_without_a_clear_answer_has_no_row_and_is_counted(
    make: Any, tmp_path: Path
) -> None:
    made = drawn_at(tmp_path, make, num=8)
    with served(saying=lambda number, text: "maybe" if number % 2 else "yes") as server:
        words = ["asked.ask=[prompt]", "asked.max_unclear_share=1", "styles=[original]"]
        scores = judged(config(made, server, *words), tmp_path / "out")
    counts = scores.manifest.counts
    assert counts["rows_in"] == 4
    assert scores.manifest.rejected.get("unclear", 0) == 4 - counts["rows_out"]
    assert set(scores.table["value"].to_pylist()) <= {1.0}


# --------------------------------------------------------------------------- refusals


def refused_folder(make: Any, root: Path, questions: Sequence[Question]) -> Drawn:
    return drawn_at(root, make, num=8, questions=questions)


@pytest.mark.parametrize(
    ("questions", "told"),
    [
        ([Question(1, "a?", (7,))], r"question 1 depends on question 7, which is not there"),
        ([Question(1, "a?", (2,)), Question(2, "b?", (1,))], r"questions 1 -> 2 -> 1 depend on"),
        ([], "no prompt carries questions"),
    ],
)
def test_broken_lists_are_refused_before_anything_is_asked(
    make: Any, tmp_path: Path, questions: list[Question], told: str
) -> None:
    made = refused_folder(make, tmp_path, questions)
    with served(saying=clear) as server:
        with pytest.raises((ArtifactError, ConfigError), match=told):
            judged(config(made, server, "asked.circles=refuse"), tmp_path / "out")
        assert not server.asked
    assert not (tmp_path / "out").exists()


def test_prompts_in_a_circle_lack_the_metric_of_ancestors_alone(make: Any, tmp_path: Path) -> None:
    circle = [Question(1, "a?", (2,)), Question(2, "b?", (1,))]
    made = refused_folder(make, tmp_path, circle)
    with served(saying=lambda number, text: "yes") as server:
        left_out = judged(config(made, server), tmp_path / "left_out")
        by_parents = judged(
            config(made, server, "asked.gating=[parents]", "asked.circles=refuse"),
            tmp_path / "parents",
        )
    metrics = set(left_out.table["metric"].to_pylist())
    assert metrics == {"judge_yes", "questions_yes"} == set(by_parents.table["metric"].to_pylist())
    assert left_out.manifest.counts["prompts_in_circles"] == 2 * made.num


BEFORE: dict[str, tuple[Callable[[pytest.MonkeyPatch], object], list[str], str]] = {
    "no key": (lambda patch: patch.delenv("TEST_KEY"), [], "TEST_KEY is not set"),
    "a wrong key": (lambda patch: patch.setenv("TEST_KEY", "sk-wrong-0123456789"), [], "401"),
    "an unknown model": (lambda _: None, ["asked.endpoint.model=nobody"], "names? seer|nobody"),
    "a wrong address": (
        lambda _: None,
        ["asked.endpoint.base_url=http://127.0.0.1:9/v1", "asked.endpoint.max_retries=0"],
        "127.0.0.1:9",
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_wrong_with_the_server_costs_one_request_and_is_named(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, words, told = BEFORE[name]
    with served(saying=clear) as server:
        change(monkeypatch)
        with pytest.raises(CaptionmixError, match=told) as error:
            judged(config(drawn, server, *words), tmp_path / "out")
        assert sum(server.asked.values()) <= 1
    assert KEY not in str(error.value)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_page_in_place_of_a_chat_server_is_told_apart(drawn: Drawn, tmp_path: Path) -> None:
    with (
        served(saying=clear, trouble=lambda number, asking: "html") as server,
        pytest.raises(InputError, match="seems to be a web page"),
    ):
        judged(config(drawn, server), tmp_path / "out")


def test_a_judge_is_either_asked_or_run_here(drawn: Drawn) -> None:
    given = {"prompts": drawn.prompts, "generations": drawn.generations}
    with pytest.raises(ConfigError, match="give one judge"):
        JudgeConfig(**given)
    with served() as server, pytest.raises(ConfigError, match="prompt_question must say"):
        config(drawn, server, "asked.prompt_question=Is it there?")


def test_generations_of_other_prompts_are_refused(drawn: Drawn, make: Any, tmp_path: Path) -> None:
    other = drawn_at(tmp_path / "other", make, num=8)
    with served(saying=clear) as server:
        cfg = replace(config(drawn, server), prompts=other.prompts)
        with pytest.raises(ArtifactError, match="was drawn for other prompts"):
            judged(cfg, tmp_path / "out")


def test_a_dry_run_tells_questions_and_cost_and_needs_no_key(
    drawn: Drawn,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TEST_KEY")
    prices = ["asked.endpoint.usd_per_million_input_tokens=2.5"]
    prices += ["asked.endpoint.usd_per_million_output_tokens=10"]
    with served() as server:
        cfg = config(drawn, server, *prices)
        judge(cfg, Run(out=tmp_path / "out", verb="eval judge", config=cfg, is_dry=True))
        assert not server.asked
    said = capsys.readouterr().out
    assert f"questions: {16 * drawn.num}\n" in said
    assert "judged by: rewritten by the text of original" in said
    assert re.search(r"expected cost: about \d+\.\d\d USD", said)
    assert not (tmp_path / "out").exists()


def test_the_settings_that_shape_answers_are_in_the_recipe_and_limits_are_not(
    drawn: Drawn, tmp_path: Path
) -> None:
    with served(saying=clear) as server:
        judged(config(drawn, server, "asked.ask=[prompt]"), tmp_path / "out")
        changed = config(drawn, server, "asked.ask=[prompt]", "asked.picture_px=20")
        with pytest.raises(ConfigError, match="picture_px"):
            judged(changed, tmp_path / "out")
    recipe = read_manifest(tmp_path / "out").recipe
    assert "max_unclear_share" not in recipe["asked"]
    assert KEY not in str(recipe)
