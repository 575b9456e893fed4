"""One question to a chat server: paced, paid, sent again, and noted whatever comes of it.

Several threads ask through one `Asker`; they share a clock, a purse and the count of requests in a
row for which the server gave nothing.
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any, Final

from launch import keyed
from launch.errors import InputError, StoppedError
from recap.answer_ledger import Ledger
from recap.answers import (
    LOST_RULES,
    MODEL_RULES,
    SERVER_RULES,
    Answer,
    Body,
    Identity,
    Request,
    identity,
    judged,
    read_body,
)
from recap.chat import Chat, Refused, Reply, Unanswered, sampling_of
from recap.config import EndpointConfig
from recap.pace import Most, Pace, Purse, Stopped, most_of, price

IN_A_ROW: Final = 8
"""Requests in a row that the server gave nothing for, after which the job stops."""
LONGEST_WAIT_S: Final = 60.0
"""Longest wait of ours before a retry; a server may ask for more."""
LONGEST_ASKED_S: Final = 900.0
"""Longest wait that a server may ask for; beyond it the job stops."""

ADVICE: Final = {
    "html": "base_url seems to be a web page; it usually ends with /v1",
    "not_chat": "base_url seems to be another interface than OpenAI's chat; it usually ends with "
    "/v1",
    "bad_request": "change what the message names: temperature=null or seed=null for a model that "
    "takes neither, or a lower max_output_tokens",
    "picture_too_large": "send smaller pictures, or raise the server's limit",
    "no_answer": "see whether the server runs and base_url is right, lower concurrency, or raise "
    "timeout_s",
}
"""What to do, by the server's rule."""


def read_key(cfg: EndpointConfig) -> str | None:
    """Read the key from the environment.

    Raises:
        InputError: It is not there, is too short to be told from other text, or is no key.
    """
    if cfg.key_variable is None:
        return None
    key = os.environ.get(cfg.key_variable, "").strip()
    if len(key) < 8:
        what = "is shorter than 8 characters" if key else "is not set"
        raise InputError(
            f"the environment variable {cfg.key_variable} {what}; expected the key of "
            f"{cfg.base_url}. Export it, name another one with key_variable, or give "
            "key_variable=null for a server that asks for none."
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        # Such a key is quoted in other letters by whoever refuses it, and could not be cut out.
        raise InputError(
            f"the environment variable {cfg.key_variable} holds blanks, line ends or letters that "
            "no key has; expected one key and nothing else. What it holds is not shown here."
        )
    return key


def most_for(request: Request, cfg: EndpointConfig) -> Most:
    """Return the most that a request may take."""
    return most_of(
        cfg,
        num_bytes=len(request.instruction.encode()) + len(request.text.encode()),
        schema=request.schema,
        has_picture=request.picture is not None,
    )


def read_line(request: Request, line: dict[str, Any], *, is_old: bool = False) -> Answer:
    """Read a ledger's line as the answer to a question."""
    # A refusal by the server has no reply of a model, but its rule.
    body = Body(line["body"], line["rule"], 0, 0) if "rule" in line else read_body(line["body"])
    value, rule = judged(request.key, body, schema=request.schema)
    return Answer(
        key=request.key,
        text=body.text,
        value=value,
        rule=rule,
        input_tokens=line["input_tokens"],
        output_tokens=line["output_tokens"],
        is_old=is_old,
        served_by=body.model,
    )


def refused_line(request: Request, found: Refused) -> dict[str, Any]:
    """Return the ledger's line of a question that a content filter refused, as it would again."""
    return {
        "key": request.key,
        "body": found.detail,
        "rule": found.rule,
        "status": found.status,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost": 0,
    }


class Asker:
    """Asks from several threads.

    Args:
        cfg: The server.
        book: Open ledger.
    """

    def __init__(self, cfg: EndpointConfig, book: Ledger) -> None:
        self._cfg, self._book = cfg, book
        self._pace = Pace(cfg)
        self._chat: Chat | None = None
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._in_a_row = 0
        self.purse = Purse(cfg.budget_usd, spent=book.spent)
        self.has_answers = False
        """The server has answered, be it badly."""
        self.num_asked = self.num_retries = self.input_tokens = self.output_tokens = 0

    def open(self) -> None:
        """Connect, unless done: a ledger that has everything needs neither client nor key."""
        if self._chat is None:
            self._chat = Chat(self._cfg, key=read_key(self._cfg))

    def stop(self) -> None:
        """Send nothing more."""
        self._stop.set()
        self.purse.close()

    def close(self) -> None:
        """Disconnect."""
        if self._chat is not None:
            self._chat.close()

    def identity(self, request: Request) -> Identity:
        """Return what makes a question one."""
        cfg = self._cfg
        return identity(
            request,
            model=cfg.model,
            **sampling_of(request, cfg)._asdict(),
            max_tokens=cfg.max_output_tokens,
        )

    def ask(self, request: Request, asked: Identity) -> Answer:
        """Ask one question until there is an answer or no retry is left."""
        with self._lock:
            self.num_asked += 1
        attempt = 0
        while True:
            found = self._send(request, asked)
            if isinstance(found, Answer):
                return self._counted(found)
            if attempt == self._cfg.max_retries:
                return self._counted(Answer(key=request.key, text=found.detail, rule="no_answer"))
            with self._lock:
                self.num_retries += 1
            self._wait(self._before_retry(asked, attempt, found))
            attempt += 1

    def _send(self, request: Request, asked: Identity) -> Answer | Unanswered:
        """Send a request once, within rates and budget, and note what came and what it cost."""
        cfg, chat = self._cfg, self._chat
        assert chat is not None
        most_in, most_out, most = most_for(request, cfg)
        self._wait(self._pace.moment(tokens=most_in + most_out))
        while (held := self._pace.held()) > 0:
            self._wait(held)
        self.purse.set_aside(most)
        attempt, cost = uuid.uuid4().hex, 0
        try:
            if self._stop.is_set():
                raise Stopped
            cost = most  # until it is known better: it may be paid whatever ends this
            if most:
                self._book.sent(asked, attempt=attempt, most=most)
            found = chat.ask(request)
            if not isinstance(found, Reply):
                cost = most if isinstance(found, Unanswered) and found.may_be_paid else 0
                status, said = found.status, found.detail
                if isinstance(found, Refused) and found.rule in MODEL_RULES:
                    line = refused_line(request, found)
                    self._book.answered(asked, is_final=True, attempt=attempt, **line)
                    return read_line(request, line)
                self._book.failed(asked, attempt=attempt, status=status, said=said, cost=cost)
                if isinstance(found, Refused):
                    if found.error is not None:
                        raise found.error
                    return Answer(key=request.key, text=said, rule=found.rule)
                return found
            body = read_body(found.raw)
            told = (body.input_tokens, body.output_tokens)
            tokens_in, tokens_out = (
                mine if n is None else n for n, mine in zip(told, (most_in, most_out), strict=True)
            )
            cost = price(cfg, input_tokens=tokens_in, output_tokens=tokens_out)
            line = {
                "key": request.key,
                "body": found.raw,
                "input_tokens": tokens_in,
                "output_tokens": tokens_out,
                "cost": cost,
            }
            is_final = body.rule not in SERVER_RULES
            self._book.answered(asked, is_final=is_final, attempt=attempt, **line)
        finally:
            self.purse.settle(most, cost=cost)
        with self._lock:
            self.input_tokens += tokens_in
            self.output_tokens += tokens_out
        if cost > most and cfg.budget_usd is not None:
            raise StoppedError(
                f"{cfg.base_url}: counted {tokens_in:,} input and {tokens_out:,} output tokens for "
                f"request {request.key!r}, of which at most {most_in:,} and {most_out:,} were "
                "expected, so that the budget could be passed. The answer is kept. Raise "
                "tokens_per_picture, or use a server that heeds max_output_tokens, and start the "
                "same command again."
            )
        return read_line(request, line)

    def _counted(self, answer: Answer) -> Answer:
        """Count what the server gave nothing for, and stop when that is all it does."""
        with self._lock:
            is_lost = answer.rule in SERVER_RULES
            self._in_a_row = self._in_a_row + 1 if is_lost else 0
            # At the very first request these three say that no chat server is there at all.
            is_nobody = not self.has_answers and answer.rule in LOST_RULES
            self.has_answers = self.has_answers or not is_lost
            num = self._in_a_row
        if is_lost and (is_nobody or num >= IN_A_ROW):
            kind = InputError if is_nobody else StoppedError
            times = "the first request" if is_nobody else f"{num} requests in a row"
            raise kind(
                f"{self._cfg.base_url}: nothing came of {times} ({answer.rule}: "
                f"{answer.text[:300]!r}); {ADVICE[str(answer.rule)]}. Every answer so far is kept."
            )
        return answer

    def _before_retry(self, asked: Identity, attempt: int, last: Unanswered) -> float:
        """Return the seconds to wait, and hold everybody back where the server asks for it."""
        cfg = self._cfg
        u = float(
            keyed.uniform(0, "endpoint.retry", epoch=attempt, ids=keyed.words([asked.item]))[0]
        )
        ours = min(LONGEST_WAIT_S, cfg.retry_wait_s * 2.0**attempt) * (0.5 + u)
        if last.wait_s is None:
            return ours
        if last.wait_s > LONGEST_ASKED_S:
            raise StoppedError(
                f"{cfg.base_url}: asks to wait {last.wait_s:,.0f} s ({last.detail[:300]}); at most "
                f"{LONGEST_ASKED_S:,.0f} s are waited. Every answer so far is kept: start the same "
                "command again later."
            )
        self._pace.hold(last.wait_s)
        return last.wait_s + min(ours, cfg.retry_wait_s)

    def _wait(self, seconds: float) -> None:
        """Wait, unless the job stops.

        Raises:
            Stopped: The job stops.
        """
        if self._stop.wait(max(0.0, seconds)):
            raise Stopped
