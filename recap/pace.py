"""How fast and how dearly a server may be asked: one clock for rates, one purse for money.

Money is counted in whole picodollars (1e-12 USD), a price per million tokens being a whole number
of them per token, so that no sum rounds. The purse sets the most that a request may cost aside
before it is sent, and gives back what it did not cost; what is spent and set aside together never
exceeds the budget.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from launch.errors import StoppedError
from recap.config import EndpointConfig

USD: Final = 10**12
"""Picodollars of a dollar."""
OVERHEAD_TOKENS: Final = 64
"""Tokens that a chat template may add to a message."""


def price(cfg: EndpointConfig, *, input_tokens: int, output_tokens: int) -> int:
    """Return what tokens cost, picodollars; 0 without prices."""
    sent, said = cfg.usd_per_million_input_tokens or 0.0, cfg.usd_per_million_output_tokens or 0.0
    return input_tokens * round(sent * 1e6) + output_tokens * round(said * 1e6)


class Most(NamedTuple):
    """The most that one request may take."""

    input_tokens: int
    output_tokens: int
    cost: int
    """Picodollars."""


def most_of(
    cfg: EndpointConfig, *, num_bytes: int, schema: Mapping[str, Any] | None, has_picture: bool
) -> Most:
    """Return the most that a request may take: what a plan tells and what the purse sets aside.

    No token is shorter than a byte. A schema counts twice: a server may be told it as the form of
    its answer and put it into the model's words as well.

    Args:
        cfg: Holds prices and limits.
        num_bytes: Bytes of the instruction and the item's own text.
        schema: Of the answer, or None.
        has_picture: The request has a picture.
    """
    form = 0 if schema is None else 2 * schema_bytes(schema)
    picture = cfg.tokens_per_picture if has_picture else 0
    sent, said = num_bytes + form + OVERHEAD_TOKENS + picture, cfg.max_output_tokens
    return Most(sent, said, price(cfg, input_tokens=sent, output_tokens=said))


def schema_bytes(schema: Mapping[str, Any]) -> int:
    """Return the bytes of a schema as it is sent."""
    return len(repr(schema).encode())


class Stopped(Exception):  # noqa: N818 - not an error: other work has already failed
    """Waiting ended because the whole job stops."""


class Pace:
    """Hands out the moments at which requests may be sent, evenly over each minute.

    Args:
        cfg: Holds the limits.
        now: Clock, seconds.
    """

    def __init__(self, cfg: EndpointConfig, *, now: Callable[[], float] = time.monotonic) -> None:
        self._per_request = 60.0 / cfg.requests_per_minute if cfg.requests_per_minute else 0.0
        self._per_token = 60.0 / cfg.tokens_per_minute if cfg.tokens_per_minute else 0.0
        self._now, self._next, self._held_until = now, now(), now()
        self._lock = threading.Lock()

    def moment(self, *, tokens: int) -> float:
        """Take the next moment for a request of so many tokens; return the seconds until then."""
        with self._lock:
            now = self._now()
            at = max(now, self._next)
            # Whoever keeps the dearer of the two limits with every request keeps both.
            self._next = at + max(self._per_request, tokens * self._per_token)
            return at - now

    def hold(self, seconds: float) -> None:
        """Let nobody begin for so long: the server asked for it."""
        with self._lock:
            self._held_until = max(self._held_until, self._now() + seconds)

    def held(self) -> float:
        """Return for how many seconds nobody may begin."""
        with self._lock:
            return self._held_until - self._now()


class Purse:
    """Money spent and set aside.

    Args:
        budget_usd: Most that may be spent; None is no limit.
        spent: Picodollars spent before.
    """

    def __init__(self, budget_usd: float | None, *, spent: int) -> None:
        self._budget = None if budget_usd is None else round(budget_usd * USD)
        self.spent = spent
        self._aside = 0
        self._changed = threading.Condition()
        self._is_closed = False

    def set_aside(self, most: int) -> None:
        """Set the most that a request may cost aside; wait while others may give some back.

        Raises:
            StoppedError: What is left would not do even if nothing else were under way.
            Stopped: The job stops.
        """
        with self._changed:
            while not self._is_closed:
                if self._budget is None or self.spent + self._aside + most <= self._budget:
                    self._aside += most
                    return
                if not self._aside:
                    raise StoppedError(
                        f"budget_usd={self._budget / USD:g}: {self.spent / USD:.6f} USD are spent, "
                        f"and the next request may cost {most / USD:.6f}. Every answer so far is "
                        "kept: raise budget_usd and start the same command again, or lower "
                        "max_output_tokens."
                    )
                self._changed.wait()
            raise Stopped

    def settle(self, most: int, *, cost: int) -> None:
        """Give back what was set aside and spend what it cost."""
        with self._changed:
            self._aside -= most
            self.spent += cost
            self._changed.notify_all()

    def close(self) -> None:
        """Wake whoever waits: the job stops."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
