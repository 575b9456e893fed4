"""A chat server asked politely: rates, retries, a budget, and a ledger of every answer.

For whoever has questions for a model behind OpenAI's chat interface (OpenAI, vLLM, SGLang,
llama.cpp, ...), with pictures or without:

    from recap.endpoint import Answer, EndpointConfig, Request, ask_all, expect

    requests = (Request(key=name, instruction=told, text=prompt, schema=SCHEMA) for ...)
    done = ask_all(requests, cfg=cfg.endpoint, ledger=run.out / "ledger.jsonl", on_answer=keep)

`on_answer` gets one `Answer` for each request, in the order in which they come; those that the
ledger has come at once and cost nothing. `answer.rule` names what is wrong with an answer and
`answer.value` holds the object where nothing is. Requests are drawn from their iterable only as
they are sent. What stops the job (no key, wrong address, budget, ...) is raised once the requests
under way have ended and their answers are in the ledger. The first request goes alone, so that a
wrong setting costs one request.

Everything is kept by (model, instruction with schema and sampling, item), see `recap.answers`: a
caller may stop anywhere and start again. Whoever asks in several calls opens one `Asking` for all,
so that rates and budget hold over them. A caller that gives its run folder can say afterwards who
answered (`served_by`): a name may be given to another model between two starts. The key is read
from the environment, and cut out of whatever a server says. Torch-free; the client comes
with the extra `endpoint`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from launch.errors import InputError, StoppedError
from recap.answer_ledger import Ledger
from recap.answers import LOST_RULES, Answer, Request, Sampling, refuse_schema
from recap.asking import Asker, read_line
from recap.config import EndpointConfig
from recap.pace import OVERHEAD_TOKENS, USD, most_of, price, schema_bytes
from recap.served import NOT_TOLD, Served, served_by

__all__ = [
    "LOST_RULES",
    "Answer",
    "Answers",
    "Asking",
    "EndpointConfig",
    "Expected",
    "Request",
    "Sampling",
    "ask_all",
    "expect",
    "plan_of",
    "served_by",
    "stop_if_lost",
    "tell",
]


@dataclass(frozen=True)
class Answers:
    """What came of all questions."""

    num_asked: int
    """Questions that the server was asked now."""

    num_old: int
    """Questions that the ledger had an answer to."""

    num_retries: int
    """Requests sent again."""

    rejected: dict[str, int] = field(default_factory=dict)
    """Answers by the rule that they break, old ones included."""

    input_tokens: int = 0
    """Of the answers that came now, as the server counts."""

    output_tokens: int = 0
    """The same."""

    spent_usd: float = 0.0
    """Cost of the whole ledger, with the most that requests without a known end may have cost."""


class Expected(NamedTuple):
    """What questions will take."""

    input_tokens: int
    output_tokens: int
    usd: float
    most_usd: float


def expect(
    cfg: EndpointConfig,
    *,
    num: int,
    num_bytes: int,
    has_pictures: bool,
    output_tokens: int,
    schema: Mapping[str, Any] | None = None,
    attempts: int = 1,
) -> Expected:
    """Estimate tokens and cost.

    Args:
        cfg: Holds prices and limits.
        num: Requests.
        num_bytes: Bytes of instruction and text of the longest request; about four make a token.
        has_pictures: Each has a picture, counted with the most that it may take.
        output_tokens: Tokens of a usual answer.
        schema: Of the answers, or None.
        attempts: Times that each may be asked, as a question of its own; of these the estimate has
            one, and the most all.
    """
    picture = cfg.tokens_per_picture if has_pictures else 0
    told = num_bytes + (0 if schema is None else schema_bytes(schema))
    sent = num * (-(-told // 4) + OVERHEAD_TOKENS + picture)
    said = num * min(output_tokens, cfg.max_output_tokens)
    usd = price(cfg, input_tokens=sent, output_tokens=said)
    one = most_of(cfg, num_bytes=num_bytes, schema=schema, has_picture=has_pictures).cost
    return Expected(sent, said, usd / USD, num * attempts * one / USD)


def plan_of(
    cfg: EndpointConfig,
    *,
    num: int,
    num_bytes: int,
    output_tokens: int,
    has_pictures: bool = False,
    schema: Mapping[str, Any] | None = None,
    attempts: int = 1,
) -> dict[str, object]:
    """Say in a plan's words what questions will take; arguments are those of `expect`."""
    cost = expect(
        cfg,
        num=num,
        num_bytes=num_bytes,
        has_pictures=has_pictures,
        output_tokens=output_tokens,
        schema=schema,
        attempts=attempts,
    )
    tries = f" in {attempts} attempts" if attempts > 1 else ""
    usd = f"about {cost.usd:.2f} USD, at most {cost.most_usd:.2f}{tries} without retries"
    return {
        "asked": f"{cfg.model} at {cfg.base_url}",
        "expected tokens": f"about {cost.input_tokens:,} in, {cost.output_tokens:,} out",
        "expected cost": usd if cost.most_usd else "no prices given",
        "budget": "none" if cfg.budget_usd is None else f"{cfg.budget_usd:.2f} USD",
    }


@runtime_checkable
class Telling(Protocol):
    """What `tell` needs of a run folder, which imports torch."""

    verb: str
    out: Path

    def log(self, event: str, **fields: object) -> None:
        """Write a line into the run's log."""


def tell(run: Telling, done: Answers) -> None:
    """Log and print what came of all questions.

    Where models of more than one name answered, of this start or of an earlier one, a line says so.
    """
    told = {
        "asked": done.num_asked,
        "from_ledger": done.num_old,
        "retries": done.num_retries,
        "input_tokens": done.input_tokens,
        "output_tokens": done.output_tokens,
    }
    spent, served = done.spent_usd, served_by(run.out)
    run.log("endpoint", **told, rejected=done.rejected, spent_usd=spent, served_by=served)
    print(
        f"{run.verb}: asked {told['asked']:,}, from the ledger {told['from_ledger']:,}, sent again "
        f"{told['retries']:,}, {told['input_tokens']:,} tokens in, {told['output_tokens']:,} out, "
        f"{spent:.4f} USD in all",
        flush=True,
    )
    if len(served.keys() - {NOT_TOLD}) > 1:
        shown = ", ".join(f"{model} {num:,}" for model, num in served.items())
        print(
            f"{run.verb}: more than one model answered under this name ({shown}); the recipe has "
            "it. For answers of one model alone, start with a new folder and ledger.",
            flush=True,
        )


def stop_if_lost(lost: Sequence[Answer], *, out: Path, what: str) -> None:
    """Stop where the server only failed for some questions: a start later may have their answers.

    Args:
        lost: Answers with a rule of `LOST_RULES`.
        out: The run folder.
        what: What the questions are about, such as `pictures`.

    Raises:
        StoppedError: There are some.
    """
    if lost:
        raise StoppedError(
            f"{out}: {len(lost):,} {what} are unanswered, because the server only failed for them "
            f"(the first: {lost[0].key}, {lost[0].rule}: {lost[0].text[:300]!r}). Every answer is "
            f"kept, and the same command asks for these {what} again."
        )


class Asking:
    """An open ledger and a server that is asked call after call; a context manager.

    Rates, a wait that the server asked for, the budget and the count of failures in a row hold over
    all calls. A call that raises ends it.

    Args:
        cfg: The server.
        ledger: File that keeps the answers.
        out: Run folder, in which is noted who answered.
    """

    def __init__(self, cfg: EndpointConfig, *, ledger: Path, out: Path | None = None) -> None:
        self._cfg, self._ledger, self._out = cfg, ledger, out
        self._rejected, self._num_old = Counter[str](), 0

    def __enter__(self) -> Asking:
        with ExitStack() as stack:
            self._book = stack.enter_context(Ledger(self._ledger))
            self._served = stack.enter_context(Served(self._out))
            self._pool = stack.enter_context(ThreadPoolExecutor(self._cfg.concurrency))
            self._asker = Asker(self._cfg, self._book)
            stack.callback(self._asker.close)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._asker.stop()
        self._open.close()

    @property
    def answers(self) -> Answers:
        """What came of all questions so far."""
        asker = self._asker
        return Answers(
            num_asked=asker.num_asked,
            num_old=self._num_old,
            num_retries=asker.num_retries,
            rejected=dict(sorted(self._rejected.items())),
            input_tokens=asker.input_tokens,
            output_tokens=asker.output_tokens,
            spent_usd=asker.purse.spent / USD,
        )

    def ask(
        self, requests: Iterable[Request], *, on_answer: Callable[[Answer], None] | None = None
    ) -> None:
        """Ask every question that the ledger has no answer to; see `ask_all`."""
        cfg, book, asker = self._cfg, self._book, self._asker
        under_way: set[Future[Answer]] = set()
        keys: set[str] = set()

        def hand_on(answer: Answer) -> None:
            if answer.rule is not None:
                self._rejected[answer.rule] += 1
            self._served.note(answer)  # before the caller writes what is not asked for again
            if on_answer is not None:
                on_answer(answer)

        def harvest() -> None:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                under_way.discard(future)
                hand_on(future.result())

        try:
            for request in requests:
                if request.key in keys:
                    raise InputError(f"request {request.key!r} comes twice; keys must differ")
                keys.add(request.key)
                if request.schema is not None:
                    refuse_schema(request.schema)
                asked = asker.identity(request)
                if asked in book:
                    self._num_old += 1
                    hand_on(read_line(request, book.reply(asked), is_old=True))
                    continue
                asker.open()
                under_way.add(self._pool.submit(asker.ask, request, asked))
                # The first goes alone: what is wrong with the settings is wrong with all.
                while len(under_way) >= (cfg.concurrency if asker.has_answers else 1):
                    harvest()
            while under_way:
                harvest()
        except BaseException:
            asker.stop()
            raise
        finally:
            wait(under_way)


def ask_all(
    requests: Iterable[Request],
    *,
    cfg: EndpointConfig,
    ledger: Path,
    on_answer: Callable[[Answer], None] | None = None,
    out: Path | None = None,
) -> Answers:
    """Ask every question that the ledger has no answer to.

    Args:
        requests: Questions with keys of their own.
        cfg: The server.
        ledger: File that keeps the answers.
        on_answer: Called in this thread with the answer to each question.
        out: Run folder, in which is noted who answered.

    Raises:
        InputError: A key, an address, a name or a right is missing or wrong; or one key comes
            twice.
        StoppedError: The budget is spent, or the server gives nothing any more.
        ArtifactError: The ledger is damaged.
    """
    with Asking(cfg, ledger=ledger, out=out) as asking:
        asking.ask(requests, on_answer=on_answer)
    return asking.answers
