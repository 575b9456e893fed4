"""A chat server asked: what is paid, what is kept, what is said when something is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from recap import teacher
from recap.answers import Body, fits, judged, read_objects, refuse_schema
from recap.asking import Asker, read_key
from recap.chat import asked_wait, data_url
from recap.config import EndpointConfig
from recap.endpoint import Answer, Answers, Asking, Request, ask_all, expect, served_by
from recap.pace import Pace, Purse, Stopped
from recap.pictures import as_jpeg
from recap.served import NOTES
from tests.recap.chat_server import KEY, ChatServer

SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def config(server: ChatServer | str, **options) -> EndpointConfig:
    base_url = server if isinstance(server, str) else server.url
    options = {"retry_wait_s": 0.002, "timeout_s": 5.0, "key_variable": "TEST_KEY", **options}
    return EndpointConfig(**{"model": "seer", "base_url": base_url, **options})


def questions(num: int, **options) -> Iterator[Request]:
    for i in range(num):
        yield Request(key=str(i), instruction="Say yes or no.", text=f"{i}?", **options)


def ask(
    folder: Path, cfg: EndpointConfig, requests: Iterator[Request]
) -> tuple[Answers, dict[str, Answer]]:
    found: dict[str, Answer] = {}
    done = ask_all(
        requests,
        cfg=cfg,
        ledger=folder / "ledger.jsonl",
        on_answer=lambda answer: found.update({answer.key: answer}),
    )
    return done, found


def texts(**options) -> ChatServer:
    saying = options.pop("saying", lambda number: '{"yes": true}')
    return ChatServer(has_schema=False, has_picture=False, saying=saying, **options)


def test_every_question_is_answered_once_and_never_asked_again(tmp_path: Path) -> None:
    with texts() as server:
        done, found = ask(tmp_path, config(server), questions(30, schema=SCHEMA))
        assert (done.num_asked, done.num_old) == (30, 0)
        assert all(answer.value == {"yes": True} for answer in found.values())
        again, same = ask(tmp_path, config(server), questions(40, schema=SCHEMA))
    assert (again.num_asked, again.num_old) == (10, 30)
    assert set(server.answered.values()) == {1}
    assert all(same[key].is_old and same[key].text == found[key].text for key in found)


@pytest.mark.parametrize(
    "change",
    [{"text": "other"}, {"instruction": "other"}, {"key": "other"}, {"schema": SCHEMA}],
    ids=lambda change: next(iter(change)),
)
def test_another_question_is_asked_though_the_rest_is_the_same(tmp_path: Path, change) -> None:
    same = {"key": "a", "instruction": "Say.", "text": "?"}
    with texts() as server:
        ask(tmp_path, config(server), iter([Request(**same)]))
        done, _ = ask(tmp_path, config(server), iter([Request(**{**same, **change})]))
    assert done.num_asked == 1


def test_a_ledger_that_has_everything_needs_neither_key_nor_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with texts() as server:
        ask(tmp_path, config(server), questions(5))
    monkeypatch.delenv("TEST_KEY")
    done, _ = ask(tmp_path, config("http://127.0.0.1:9/v1"), questions(5))
    assert done.num_old == 5


@pytest.mark.parametrize("kind", [429, 500, 502, 503, "cut", "hang", "drip", "drip head"])
def test_what_passes_is_tried_again(tmp_path: Path, kind) -> None:
    trouble = lambda number, asking: kind if asking < 2 else None  # noqa: E731
    with texts(trouble=trouble) as server:
        # Short only where it must end: a busy machine may be slow to hand on an answer.
        timeout_s = 5.0 if isinstance(kind, int) or kind == "cut" else 0.5
        done, found = ask(tmp_path, config(server, timeout_s=timeout_s), questions(6))
    assert done.num_retries == 12
    assert {answer.rule for answer in found.values()} == {None}
    assert set(server.answered.values()) == {1}


def test_concurrency_is_used_and_never_passed(tmp_path: Path) -> None:
    with texts(delay_s=0.02) as server:
        ask(tmp_path, config(server, concurrency=5), questions(30))
    assert 2 <= server.most_at_once <= 5


PRICES = {"usd_per_million_input_tokens": 1.0, "usd_per_million_output_tokens": 10.0}


@pytest.mark.parametrize("usage", [(60, 40), None], ids=["counted", "uncounted"])
def test_the_budget_is_never_passed_and_a_larger_one_goes_on(tmp_path: Path, usage) -> None:
    trouble = lambda number, asking: "cut" if asking == 0 and number % 7 == 0 else None  # noqa: E731
    with texts(trouble=trouble, usage=usage, delay_s=0.002) as server:
        cfg = config(
            server, **PRICES, budget_usd=0.02, max_output_tokens=50, concurrency=16, max_retries=9
        )
        with pytest.raises(StoppedError, match=r"budget_usd=0\.02.*raise budget_usd"):
            ask(tmp_path, cfg, questions(200))
        # The most that every request sent could have cost, a connection that was cut among them.
        most = 60e-6 + 400e-6 if usage else 80e-6 + 500e-6
        paid = sum(server.answered.values())
        assert 10 < paid < 60
        assert paid * most <= 0.02 * (1.0 if usage else 1.05)
        lines = [json.loads(s) for s in (tmp_path / "ledger.jsonl").read_text().splitlines()]
        assert sum(line.get("cost", 0) for line in lines) <= 0.02 * 1e12
        larger = config(server, **PRICES, budget_usd=1.0, max_output_tokens=50)
        done, found = ask(tmp_path, larger, questions(80))
    assert len(found) == 80
    assert done.num_old == paid
    assert set(server.answered.values()) == {1}


def test_a_request_under_way_at_a_kill_counts_with_the_most_it_may_cost(tmp_path: Path) -> None:
    with texts() as server:
        cfg = config(server, **PRICES, budget_usd=1.0)
        done, _ = ask(tmp_path, cfg, questions(3))
        path = tmp_path / "ledger.jsonl"
        line = json.loads(path.read_text().splitlines()[0])
        assert line["event"] == "sent"
        with path.open("a") as file:
            file.write(json.dumps({**line, "attempt": "killed", "most": 10**12}) + "\n")
        assert done.spent_usd == pytest.approx(3 * (60 + 400) * 1e-6)
        with pytest.raises(StoppedError, match="budget_usd"):
            ask(tmp_path, cfg, questions(4))


def test_a_server_that_counts_more_tokens_than_expected_stops_a_budgeted_job(
    tmp_path: Path,
) -> None:
    with texts(usage=(9000, 40)) as server:
        cfg = config(server, **PRICES, budget_usd=1.0)
        with pytest.raises(StoppedError, match=r"counted 9,000 input.*tokens_per_picture"):
            ask(tmp_path, cfg, questions(20))
    assert sum(server.answered.values()) == 1


def test_a_torn_last_line_is_asked_for_again_and_a_broken_one_inside_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.jsonl"
    with texts() as server:
        ask(tmp_path, config(server), questions(5))
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        done, found = ask(tmp_path, config(server), questions(5))
        assert (done.num_asked, len(found)) == (1, 5)
        path.write_bytes(whole[: len(whole) // 2] + b"\n" + whole)
        with pytest.raises(ArtifactError, match="is no event of a ledger"):
            ask(tmp_path, config(server), questions(5))


SAYINGS = {
    "refusal": {"content": None, "refusal": "I cannot do that."},
    "empty": {"content": "  "},
    "unfinished": {"content": '{"yes": t', "finish_reason": "length"},
    "broken_json": {"content": '{"yes": t'},
    "wrong_schema": {"content": '{"yes": "perhaps"}'},
}


@pytest.mark.parametrize("rule", SAYINGS)
def test_what_the_model_does_wrong_has_a_name_and_is_final(tmp_path: Path, rule: str) -> None:
    with texts(saying=lambda number: dict(SAYINGS[rule])) as server:
        done, found = ask(tmp_path, config(server), questions(10, schema=SCHEMA))
        assert done.rejected == {rule: 10}
        assert {answer.rule for answer in found.values()} == {rule}
        again, _ = ask(tmp_path, config(server), questions(10, schema=SCHEMA))
    assert (again.num_asked, again.rejected) == (0, {rule: 10})


def test_a_content_filter_s_refusal_is_final_whichever_way_the_server_tells_it(
    tmp_path: Path,
) -> None:
    said = "The response was filtered: content_filter"
    with texts() as server:
        ask(tmp_path, config(server), questions(1))
        server.trouble = lambda number, asking: (400, said)
        done, found = ask(tmp_path, config(server), questions(4, schema=SCHEMA))
        assert done.rejected == {"refusal": 4}
        asked = sum(server.asked.values())
        again, same = ask(tmp_path, config(server), questions(4, schema=SCHEMA))
        assert sum(server.asked.values()) == asked
    assert (again.num_asked, again.num_old, again.rejected) == (0, 4, {"refusal": 4})
    assert {answer.text for answer in same.values()} == {found["0"].text}
    assert said in found["0"].text


@pytest.mark.parametrize("schema", [None, SCHEMA], ids=["words", "schema"])
@pytest.mark.parametrize("has_picture", [False, True], ids=["text", "picture"])
def test_a_plan_tells_at_most_what_the_purse_sets_aside(
    tmp_path: Path, schema, has_picture: bool
) -> None:
    picture = as_jpeg(Image.new("RGB", (9, 9)), longest_px=9) if has_picture else None
    said = '{"yes": true}'
    with ChatServer(saying=lambda n: said, has_schema=False, has_picture=has_picture) as server:
        cfg = config(server, **PRICES)
        request = Request(
            key="a", instruction="Sag, was du siehst: ä.", text="ö?", picture=picture, schema=schema
        )
        ask(tmp_path, cfg, iter([request]))
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    told = expect(
        cfg,
        num=3,
        num_bytes=len((request.instruction + request.text).encode()),
        has_pictures=has_picture,
        output_tokens=9,
        schema=schema,
    )
    assert told.most_usd == 3 * lines[0]["most"] / 1e12
    assert told.usd < told.most_usd


def test_answers_are_counted_by_the_model_that_gave_them_though_a_run_was_killed(
    tmp_path: Path,
) -> None:
    out, old = tmp_path / "out", []

    def asked(server: ChatServer, num: int) -> dict[str, int]:
        requests = (r for r in questions(num) if r.key not in old)
        ask_all(requests, cfg=config(server), ledger=tmp_path / "ledger.jsonl", out=out)
        return served_by(out)

    with texts(version="seer-1") as server:
        assert asked(server, 3) == {"seer-1": 3}
        old += ["0", "1"]  # whose part was written before the kill
        with (out / NOTES).open("a") as file:
            file.write('{"key": "to')
        server.version = "seer-2"
        assert asked(server, 5) == {"seer-1": 3, "seer-2": 2}
        server.version = None
        assert asked(server, 6) == {"not told": 1, "seer-1": 3, "seer-2": 2}
        server.trouble = lambda number, asking: 400
        assert asked(server, 8) == {"not told": 1, "seer-1": 3, "seer-2": 2}


@pytest.mark.parametrize(
    ("kind", "rule", "advice"),
    [
        ("html", "html", "ends with /v1"),
        (413, "picture_too_large", "smaller pictures"),
        ((400, "image exceeds 5 MB"), "picture_too_large", "smaller pictures"),
        ((400, "temperature is not supported"), "bad_request", "temperature=null"),
        (500, "no_answer", "lower concurrency"),
    ],
    ids=["html", "413", "400 size", "400", "500"],
)
def test_what_the_server_does_wrong_is_counted_told_and_asked_again(
    tmp_path: Path, kind, rule: str, advice: str
) -> None:
    with texts() as server:
        ask(tmp_path, config(server), questions(1))
        server.trouble = lambda number, asking: kind if number % 3 == 0 else None
        done, found = ask(tmp_path, config(server, max_retries=1), questions(12))
        bad = [key for key, answer in found.items() if answer.rule is not None]
        assert 0 < len(bad) < 12
        assert done.rejected == {rule: len(bad)}
        server.trouble = lambda number, asking: None
        again, _ = ask(tmp_path, config(server), questions(12))
        assert (again.num_asked, again.rejected) == (len(bad), {})
        server.trouble = lambda number, asking: kind
        requests = (Request(key=f"new {i}", instruction="Say.") for i in range(50))
        kinds = (InputError, StoppedError)
        with pytest.raises(kinds, match=rf"{rule}(.|\n)*{advice}(.|\n)*is kept"):
            ask(tmp_path, config(server, max_retries=0), requests)
    assert KEY not in (tmp_path / "ledger.jsonl").read_text()


def test_no_key_is_told_by_the_name_of_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY")
    with texts() as server, pytest.raises(InputError, match=r"TEST_KEY is not set.*Export it"):
        ask(tmp_path, config(server), questions(3))
    assert not server.asked


def test_a_wrong_key_is_told_without_telling_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-another-one-987654")
    with texts() as server, pytest.raises(InputError, match="TEST_KEY") as error:
        ask(tmp_path, config(server), questions(3))
    assert "sk-another" not in str(error.value)
    assert "sk-another" not in (tmp_path / "ledger.jsonl").read_text()


def test_an_unknown_model_is_told_with_those_that_the_server_names(tmp_path: Path) -> None:
    with texts() as server, pytest.raises(InputError, match=r"'blind' is unknown.*names seer"):
        ask(tmp_path, config(server, model="blind"), questions(3))


def test_a_wrong_address_is_told_after_one_question(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no_answer: 'ConnectError.*base_url is right"):
        ask(tmp_path, config("http://127.0.0.1:9/v1", max_retries=1), questions(30))


def test_a_server_without_schemas_is_told_in_words(tmp_path: Path) -> None:
    said = 'Sure:\n```json\n{"yes": false}\n```'
    with texts(saying=lambda number: said, knows_schemas=False) as server:
        done, found = ask(tmp_path, config(server), questions(5, schema=SCHEMA))
    assert {str(answer.value) for answer in found.values()} == {"{'yes': False}"}
    told = [text for text in server.answered if '"required": ["yes"]' in text]
    assert len(told) == 5
    assert done.rejected == {}


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with texts() as server, pytest.raises(InputError, match="comes twice"):
        ask(tmp_path, config(server), iter([Request(key="a", instruction="Say.")] * 2))


def test_a_callers_error_stops_the_job_and_keeps_the_answers(tmp_path: Path) -> None:
    def stop(answer: Answer) -> None:
        raise RuntimeError("enough")

    with texts() as server:
        with pytest.raises(RuntimeError, match="enough"):
            ask_all(
                questions(9), cfg=config(server), ledger=tmp_path / "ledger.jsonl", on_answer=stop
            )
        done, _ = ask(tmp_path, config(server), questions(9))
    assert done.num_old >= 1
    assert set(server.answered.values()) == {1}


def test_moments_keep_both_limits() -> None:
    now = [0.0]
    cfg = config("http://x/v1", requests_per_minute=60, tokens_per_minute=6000)
    pace = Pace(cfg, now=lambda: now[0])
    assert [pace.moment(tokens=n) for n in (10, 500, 10, 10)] == [0.0, 1.0, 6.0, 7.0]
    now[0] = 100.0
    assert pace.moment(tokens=1) == 0.0
    pace.hold(3.0)
    assert pace.held() == 3.0


def test_rates_budget_and_waits_hold_over_all_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Asker, "_wait", lambda self, seconds: waits.append(seconds))
    with texts() as server:
        cfg = config(server, **PRICES, requests_per_minute=1, budget_usd=1.0, concurrency=1)
        with Asking(cfg, ledger=tmp_path / "ledger.jsonl") as asking:
            for key in "abc":
                asking.ask(iter([Request(key=key, instruction="Say.")]))
        done = asking.answers
    # One a minute, each a call of its own; nothing here really waits.
    assert waits[0] == 0 < 30 < waits[1] <= 60 < 90 < waits[2] <= 120
    assert (done.num_asked, done.input_tokens) == (3, 180)
    assert done.spent_usd == pytest.approx(3 * (60 + 400) * 1e-6)


def test_a_purse_waits_for_change_and_lets_go_when_closed() -> None:
    purse, log = Purse(1e-12 * 10, spent=0), []
    purse.set_aside(8)

    def buy() -> None:
        purse.set_aside(5)
        log.append("bought")
        try:
            purse.set_aside(9)
        except Stopped:
            log.append("closed")

    thread = threading.Thread(target=buy)
    thread.start()
    purse.settle(8, cost=2)
    while not log:
        thread.join(0.001)
    purse.close()
    thread.join()
    assert log == ["bought", "closed"]
    assert purse.spent == 2


def test_a_servers_wait_is_read_as_number_or_date() -> None:
    assert asked_wait({"retry-after": "2.5"}) == 2.5
    assert asked_wait({"retry-after-ms": "20"}) == pytest.approx(0.02)
    assert asked_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert asked_wait({"retry-after": "soon"}) is None
    assert asked_wait({}) is None


def test_an_object_is_found_alone_fenced_or_among_words() -> None:
    for text in ('{"a": 1}', 'Here {it} is: {"a": 1}. Bye', '```json\n{"a": 1}\n```'):
        assert next(read_objects(text)) == {"a": 1}
    assert not list(read_objects("[1, 2]"))
    assert not list(read_objects("{" * 3000))


def test_a_value_fits_exactly_what_its_schema_says() -> None:
    assert fits(3, {"type": "integer", "minimum": 1, "maximum": 3})
    assert not fits(True, {"type": "integer"})
    assert not fits(4, {"type": "number", "maximum": 3})
    assert not fits({"b": 1}, {"type": "object", "required": ["a"]})
    assert not fits({"b": 1}, {"type": "object", "additionalProperties": False})
    assert not fits(["x"], {"type": "array", "items": {"enum": ["y"]}})
    assert fits(None, {"anyOf": [{"type": "string"}, {"type": "null"}]})
    with pytest.raises(ConfigError, match="'pattern' is not checked"):
        refuse_schema({"type": "object", "properties": {"a": {"pattern": "x"}}})


def test_only_pictures_are_sent_as_pictures() -> None:
    assert data_url(b"\x89PNG...").startswith("data:image/png;base64,")
    with pytest.raises(InputError, match="expected a PNG, JPEG, WebP or GIF"):
        data_url(b"hello")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "localhost:8000"}, "expected an address"),
        ({"base_url": "http://me:secret@host/v1"}, "environment variable"),
        ({"key_variable": "sk-123"}, "never the key itself"),
        ({"budget_usd": 1.0}, "needs usd_per_million"),
        ({"budget_usd": 1.0, "usd_per_million_output_tokens": 2.0}, r"got None and 2\.0; write 0"),
        ({"usd_per_million_input_tokens": 2.0}, "a price alone needs usd_per_million"),
        ({"concurrency": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        EndpointConfig(**{"model": "seer", **options})
    assert "secret" not in str(error.value)
    assert "sk-123" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["sk-FIRSTSECRET\nsk-SECONDSECRET", "sk-secret\u2026more", "sk secret key"]
)
def test_what_is_no_key_is_refused_and_never_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(InputError, match="SOME_KEY holds blanks, line ends or letters") as raised:
        read_key(EndpointConfig(model="m", key_variable="SOME_KEY"))
    assert "SECRET" not in str(raised.value).upper()


def test_an_answer_after_thoughts_is_found_and_half_letters_are_replaced() -> None:
    schema = {
        "type": "object",
        "properties": {"ssc": {"type": "string"}},
        "required": ["ssc"],
        "additionalProperties": False,
    }
    text = '<think>maybe {} or {"dsc": 1}</think> {"ssc": "a dog \\ud83d"}'
    value, rule = judged("key", Body(text, None, None, None), schema=schema)
    assert (value, rule) == ({"ssc": "a dog \ufffd"}, None)
    value["ssc"].encode()
    only_thoughts = Body("<think>{}</think>", None, None, None)
    assert judged("key", only_thoughts, schema=schema) == (None, "wrong_schema")


def test_several_processes_do_not_ask_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started; a server is asked by one"):
        teacher.refuse_processes()
