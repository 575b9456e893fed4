"""Settings of a chat server, and of the vision-language model behind one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from launch.config import require_positive
from launch.errors import ConfigError
from recap.config.gates import GateConfig


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A server that speaks OpenAI's chat interface, and how hard it may be asked."""

    NOT_IN_RECIPE: ClassVar = frozenset(
        {
            "base_url",
            "key_variable",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout_s",
            "max_retries",
            "retry_wait_s",
            "budget_usd",
            "usd_per_million_input_tokens",
            "usd_per_million_output_tokens",
            "tokens_per_picture",
        }
    )

    model: str
    """Name under which the server knows the model."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, up to and with `/v1`; it may move, answers are kept by model."""

    key_variable: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; None for a server that asks for none."""

    concurrency: int = 8
    """Requests under way at once."""

    requests_per_minute: int | None = None
    """Limit that the server sets; None is no limit of ours."""

    tokens_per_minute: int | None = None
    """The same, in tokens of input and output; a request counts with the most it may take."""

    timeout_s: float = 120.0
    """Seconds after which a request without a whole answer is given up and sent again."""

    max_retries: int = 6
    """Times that one request is sent again."""

    retry_wait_s: float = 1.0
    """Wait before the first retry, about; each further one waits about twice as long, a minute at
    most, and never less than the server asks for."""

    budget_usd: float | None = None
    """Most that all answers of a ledger may cost together; needs both prices."""

    usd_per_million_input_tokens: float | None = None
    """Price of what is sent; given together with the other one, 0 for what is free."""

    usd_per_million_output_tokens: float | None = None
    """Price of what is answered; the same."""

    tokens_per_picture: int = 2000
    """Most input tokens that the server counts for one picture; the budget relies on it."""

    max_output_tokens: int = 512
    """Longest answer; a longer one is cut off and rejected."""

    temperature: float | None = 0.0
    """Of sampling; None leaves it to the server, as some models demand."""

    seed: int | None = 0
    """Seed sent to the server, which may or may not heed it; None sends none."""

    def __post_init__(self) -> None:
        require_positive(self, "concurrency", "max_output_tokens", "tokens_per_picture")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        for name in ("timeout_s", "retry_wait_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name):g}")
        prices = (self.usd_per_million_input_tokens, self.usd_per_million_output_tokens)
        for limit in (self.max_retries, self.budget_usd, *prices):
            if limit is not None and not limit >= 0:
                raise ConfigError("max_retries, budget_usd and prices must be 0 or more")
        if None in prices and (self.budget_usd is not None or prices != (None, None)):
            told = "a price alone" if self.budget_usd is None else f"budget_usd={self.budget_usd:g}"
            raise ConfigError(
                f"{told} needs usd_per_million_input_tokens and usd_per_million_output_tokens, as "
                f"the server's price list has them, got {prices[0]} and {prices[1]}; write 0 for "
                "what is free"
            )
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(
                f"base_url: expected an address such as http://localhost:8000/v1, got "
                f"{self.base_url!r}"
            )
        if address.username or address.password or address.query:
            raise ConfigError(
                "base_url carries a name, a password or a query, which would be written into the "
                "run folder; put the key into the environment variable that key_variable names"
            )
        if self.key_variable is not None and not re.fullmatch(
            r"[A-Z_][A-Z0-9_]*", self.key_variable
        ):
            raise ConfigError(
                "key_variable must be the name of an environment variable in capitals, such as "
                "OPENAI_API_KEY, never the key itself; what was given is not shown here"
            )


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """A vision-language model behind an endpoint that looks at pictures and captions them."""

    endpoint: EndpointConfig
    """The server."""

    instruction: str = (
        "Caption the picture twice. ssc: one short sentence on the main subject. dsc: a "
        "descriptive caption of several sentences on every subject with its number, colours, "
        "material and place, on the background, on displayed words and on the style. Tell only "
        "what can be seen, without an opening such as 'The image shows'."
    )
    """What the teacher is told; the kinds are named as they are in the answer."""

    picture_px: int = 512
    """Longer side of the pictures that are sent, at most."""

    ledger: Path | None = None
    """File that keeps every answer; several runs may share one. None is `ledger.jsonl` in the run
    folder."""

    gates: GateConfig = field(default_factory=GateConfig)
    """Rules that quarantine a caption."""

    def __post_init__(self) -> None:
        require_positive(self, "picture_px")
