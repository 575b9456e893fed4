"""What a step of a study will cost where nobody has measured it: FLOP and bytes of its rows.

A step's `price` says how many rows it works on, what one of them computes and what one leaves on
the disk; the study's `machine` says what computes. Both are assumptions of the study's YAML, and
the plan prints them with the result.

    price: {rows: <sizes.pictures>, parameters: 4.8e9, tokens: 150, kib: 1200}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from launch.errors import ConfigError

KEYS = frozenset({"rows", "parameters", "tokens", "gflop", "passes", "kib", "gib"})
"""What a price may say: rows; parameters x tokens, or GFLOP, of a row; times that is computed; KiB
of a row on the disk, and GiB whatever the rows."""


class Price(NamedTuple):
    """Cost of one run of a step."""

    minutes: float
    gib: float
    words: str
    """What it is made of, for people."""


def count_price(price: Any, *, values: Mapping[str, Any], step: str, uses_all: bool) -> Price:
    """Return what a step costs: rows x passes x FLOP of a row / (GPUs x peak x share used).

    Args:
        price: The step's `price`; `<sizes.NAME>` is a value of the study.
        values: Values of the study, `machine` among them.
        step: Name of the step, for messages.
        uses_all: The step is done on all GPUs of the machine, and not on one.

    Raises:
        ConfigError: An unknown key, a value that is no number, or no machine to compute on.
    """
    where = f"steps.{step}.price"
    if not isinstance(price, Mapping) or not price.keys() <= KEYS or "rows" not in price:
        raise ConfigError(
            f"{where}: expected rows and some of {', '.join(sorted(KEYS - {'rows'}))}; "
            f"got {price!r}"
        )
    given = {k: _value(v, values, where=f"{where}.{k}") for k, v in price.items()}
    rows, passes = given["rows"], given.get("passes", 1.0)
    gib = rows * given.get("kib", 0.0) / 2**20 + given.get("gib", 0.0)
    if "gflop" in given:
        flop, how = given["gflop"] * 1e9, f"{given['gflop']:,.4g} GFLOP"
    elif "parameters" in given:
        tokens = given.get("tokens", 1.0)
        flop = 2 * given["parameters"] * tokens
        how = f"2 x {given['parameters']:,.4g} parameters x {tokens:,.4g} tokens"
    else:
        return Price(0.0, gib, f"{rows:,.0f} rows; no GPU")
    rate = 1e12
    for name in ("tflops", "utilisation"):
        rate *= _value(f"<machine.{name}>", values, where=where)
    gpu_days = rows * passes * flop / rate / 86_400
    days = gpu_days / (_value("<machine.num_gpus>", values, where=where) if uses_all else 1)
    times = "" if passes == 1 else f"{passes:g} passes x "
    return Price(days * 1440, gib, f"{gpu_days:,.3g} GPU-days = {rows:,.0f} rows x {times}{how}")


def _value(value: object, values: Mapping[str, Any], *, where: str) -> float:
    """Return a number, or the value of the study that `<name>` means."""
    found: Any = value
    if isinstance(value, str) and (name := re.fullmatch(r"<([\w.]+)>", value)):
        found = values
        for key in name.group(1).split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0:
        raise ConfigError(f"{where}: {value} must be a number of at least 0, got {found!r}")
    return float(found)
