"""What every captioner gives back: one text for one picture."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Caption(NamedTuple):
    """One text written for one picture."""

    text: str
    num_tokens: int
    """Text tokens of its writer, without start and end; tags of a tagger."""

    stop_reason: Literal["end", "length"]
    mean_logprob: float | None
    """Mean log-probability per token in nats; None where the writer does not tell."""
