"""A chat server as a rewriter: every prompt asked once an attempt, and answers kept in a ledger.

The first attempt is asked with the endpoint's own temperature and seed; further ones with the
temperature of the draws and another seed each, unless the endpoint's are null. A question belongs
to (model, instruction, sampling, attempt, prompt): what the ledger has is not asked for again,
however often the command was killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recap.endpoint import (
    LOST_RULES,
    Answer,
    Asking,
    EndpointConfig,
    Request,
    Sampling,
    plan_of,
)
from t2i.artifacts import text_digest
from t2i.config import UpsampleConfig
from t2i.rewriters import Unwritten, filled, one_line

LEDGER: Final = "ledger.jsonl"
"""The answers, in the run folder; in no digest, since they stand in the order of their coming."""

TOKENS_PER_WORD: Final = 1.4
"""Of English text, for the estimate of a plan alone."""


@dataclass(frozen=True, kw_only=True)
class EndpointRewriter:
    """A model behind OpenAI's chat interface, asked over one connection for all attempts."""

    asking: Asking
    """Opened."""

    endpoint: EndpointConfig
    instruction: str
    """What it is asked, {prompt} standing for the prompt."""

    temperature: float = 1.0
    """Of the attempts after the first."""

    lost: list[Answer] = field(default_factory=list)
    """Answers in whose place the server only failed."""

    def rewrite(self, texts: Sequence[str], attempt: int) -> list[str | Unwritten]:
        """Return one text for each prompt, or the rule that the answer broke.

        Raises:
            InputError: A key, an address or a model is missing or wrong.
            StoppedError: The budget is spent, or the server gives nothing any more.
        """
        found: dict[str, str | Unwritten] = {}
        sampling = self._sampling(attempt)

        def requests() -> Iterator[Request]:
            for text in dict.fromkeys(texts):
                asked = self.instruction.replace("{prompt}", text)
                yield Request(
                    key=_key(text, attempt), instruction="", text=asked, sampling=sampling
                )

        def keep(answer: Answer) -> None:
            if answer.rule in LOST_RULES:
                self.lost.append(answer)
            text = one_line(answer.text)
            found[answer.key] = text if answer.rule is None else Unwritten(answer.rule, text)

        self.asking.ask(requests(), on_answer=keep)
        return [found[_key(text, attempt)] for text in texts]

    def _sampling(self, attempt: int) -> Sampling:
        """Give the sampling of an attempt; what the endpoint leaves to the server stays so."""
        cfg = self.endpoint
        if attempt == 1:
            return Sampling(cfg.temperature, cfg.seed)
        return Sampling(
            temperature=None if cfg.temperature is None else self.temperature,
            seed=None if cfg.seed is None else cfg.seed + attempt - 1,
        )


def _key(text: str, attempt: int) -> str:
    return f"{text_digest(text)}-{attempt}"


@contextmanager
def open_endpoint(cfg: UpsampleConfig, *, out: Path) -> Iterator[EndpointRewriter]:
    """Give the rewriter of settings with an endpoint; the server is not asked yet.

    Args:
        cfg: Holds the endpoint.
        out: Run folder, in which is noted who answered.
    """
    assert cfg.endpoint is not None
    with Asking(cfg.endpoint, ledger=cfg.ledger or out / LEDGER, out=out) as asking:
        yield EndpointRewriter(
            asking=asking,
            endpoint=cfg.endpoint,
            instruction=filled(cfg.instruction, cfg.limits),
            temperature=cfg.temperature,
        )


def endpoint_plan(cfg: UpsampleConfig, *, prompts: Sequence[str]) -> dict[str, object]:
    """Say in a plan's words what the first attempt at every prompt will cost, and all at most."""
    assert cfg.endpoint is not None
    longest = max(len(text.encode()) for text in prompts)
    return plan_of(
        cfg.endpoint,
        num=len(prompts),
        num_bytes=len(filled(cfg.instruction, cfg.limits).encode()) + longest,
        output_tokens=round(TOKENS_PER_WORD * cfg.limits.max_words),
        attempts=cfg.attempts,
    )
