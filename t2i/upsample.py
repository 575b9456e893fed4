"""Prompt rewriting: a prompt table with one more style, the same wishes described at length.

A rewrite has the `pair_id` and the claims of its original: whatever it adds, a picture is judged by
what was asked for. A rewrite that loses something, is too short, too long or loops is tried again;
after the last attempt the original stands, and is counted (`t2i/rewrite_rules.py` has the rules).

Work is cut into parts of distinct prompts, so that a killed run goes on where it was; of a server,
every answer is kept as it comes. A part with a prompt for which the server only failed is not
written, and the prompt is not tried further: it would end otherwise than where nothing fails.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from launch.errors import ConfigError, StoppedError
from launch.manifest import SCRATCH, write_json
from launch.parts import pending, take
from launch.processes import device, set_threads, wait_for_everyone, world_size
from launch.run import Run
from recap.claims import Claim, from_json
from recap.endpoint import LOST_RULES, served_by, stop_if_lost, tell
from t2i.artifacts import (
    PROMPTS,
    VERSIONS,
    Attempt,
    Prompt,
    Prompts,
    open_prompts,
    prompt_id,
    write_attempts,
    write_prompts,
)
from t2i.config import UpsampleConfig
from t2i.endpoint_rewriter import EndpointRewriter, endpoint_plan, open_endpoint
from t2i.rewrite_rules import broken_rules
from t2i.rewriter_source import find_rewriter
from t2i.rewriters import Rewriter, Unwritten, open_rewriter

CODE = 2
"""Version of rules and choice of words; raised whenever the same settings give other rewrites."""


class Tried(NamedTuple):
    """One text that a rewriter gave."""

    text: str
    rules: tuple[str, ...]
    """Rules that it breaks."""

    @property
    def is_lost(self) -> bool:
        """The server only failed, which says nothing about the prompt."""
        return any(rule in LOST_RULES for rule in self.rules)


class Wish(NamedTuple):
    """A distinct prompt to rewrite."""

    text: str
    claims: str | None
    """As in the table."""

    @property
    def said(self) -> list[Claim] | None:
        """Return its claims."""
        return None if self.claims is None else from_json(self.claims)


def upsample(cfg: UpsampleConfig, run: Run) -> None:
    """Write the prompts with a style more: the rewrites of one of their styles."""
    prompts = open_prompts(cfg.prompts)
    run.input("prompts", cfg.prompts, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    recipe: dict[str, object] = {"code": CODE}
    if before := prompts.rewritten_from:
        recipe["rewritten_before"] = before
    if cfg.rewriter is not None:
        found = find_rewriter(cfg.rewriter)
        run.external_input("rewriter", found.source, found.digest)
        recipe["device"] = device().type
    elif world_size() > 1:
        raise ConfigError(
            f"endpoint: one process asks a server, and this is one of {world_size()}. Start the "
            "command without a launcher; endpoint.concurrency says how many requests go at once."
        )
    originals = chosen(cfg, prompts)
    wishes = list(dict.fromkeys(Wish(row.prompt, row.claims) for row in originals))
    plan: dict[str, object] = {
        "prompts": len(originals),
        "distinct": len(wishes),
        "style": f"{cfg.style} -> {cfg.name}",
        "words": f"{cfg.limits.min_words} to {cfg.limits.max_words}",
        "attempts": cfg.attempts,
    }
    if cfg.endpoint is not None:
        plan |= endpoint_plan(cfg, prompts=[wish.text for wish in wishes])
    if not run.start(plan, recipe=recipe):
        return

    set_threads(cfg.threads)
    tried = rewrite_all(cfg, wishes, run)
    if not run.is_main:
        return
    table = [
        rewritten(row, tried[Wish(row.prompt, row.claims)], name=cfg.name) for row in originals
    ]
    counts, by_rule = count(table, originals=originals, tried=tried)
    _refuse_fallbacks(cfg, counts=counts, by_rule=by_rule, run=run)
    write_prompts(run.out / "prompts.parquet", [*prompts.rows, *table])
    write_attempts(
        run.out / "rewrites.parquet",
        [
            Attempt(row.pair_id, row.prompt, text, number, rules)
            for row in originals
            for number, (text, rules) in enumerate(tried[Wish(row.prompt, row.claims)], start=1)
        ],
    )
    run.finish(
        artifact=PROMPTS,
        version=VERSIONS[PROMPTS],
        counts={
            "rows_in": len(prompts.rows),
            "rows_added": len(table),
            "rows_out": len(prompts.rows) + len(table),
            "prompts": len(prompts.rows) + len(table),
            **counts,
        },
        parts=["prompts.parquet", "rewrites.parquet"],
        recipe=None if cfg.endpoint is None else {"served_by": served_by(run.out)},
    )


def chosen(cfg: UpsampleConfig, prompts: Prompts) -> list[Prompt]:
    """Return the prompts to rewrite.

    Raises:
        ConfigError: The style is absent, or the new one is there already.
    """
    known = ", ".join(prompts.styles)
    if cfg.style not in prompts.styles:
        raise ConfigError(
            f"{cfg.prompts}: has no prompts of style {cfg.style!r}; its styles are {known}. "
            "Correct style=."
        )
    if cfg.name in prompts.styles:
        raise ConfigError(
            f"{cfg.prompts}: has a style {cfg.name!r} already; its styles are {known}. Give the "
            "rewrites another name=."
        )
    return [row for row in prompts.rows if row.style == cfg.style]


def rewrite_all(cfg: UpsampleConfig, wishes: Sequence[Wish], run: Run) -> dict[Wish, list[Tried]]:
    """Return what was tried for every prompt, writing the parts that are absent.

    Raises:
        StoppedError: For some prompts a server only failed; their parts are not written.
    """
    size = -(-cfg.prompts_per_part // cfg.batch_size) * cfg.batch_size
    parts = {
        f"{SCRATCH}/rewrites/part-{start // size:05d}.json": wishes[start : start + size]
        for start in range(0, len(wishes), size)
    }
    left = pending(run.out, list(parts))
    opened: AbstractContextManager[Rewriter | None] = _opened(cfg, run) if left else nullcontext()
    with run.progress(len(wishes), label="upsample", unit="prompt") as progress, opened as rewriter:
        progress.resume(len(wishes) - sum(len(parts[name]) for name in left))
        # Whoever takes a part must write it; the one process that asks a server may be unable to.
        for name in take(run.out, left) if cfg.endpoint is None else left:
            assert rewriter is not None, "opened where a part is left"
            tried = try_all(rewriter, parts[name], cfg=cfg)
            if not any(of[-1].is_lost for of in tried):
                write_json(run.out / name, tried)
                progress.advance(len(parts[name]))
    wait_for_everyone()
    if isinstance(rewriter, EndpointRewriter):
        tell(run, rewriter.asking.answers)
        stop_if_lost(rewriter.lost, out=run.out, what="prompts")
    return {
        wish: [Tried(text, tuple(rules)) for text, rules in tried]
        for name, part in parts.items()
        for wish, tried in zip(part, json.loads((run.out / name).read_text()), strict=True)
    }


def _opened(cfg: UpsampleConfig, run: Run) -> AbstractContextManager[Rewriter]:
    if cfg.endpoint is not None:
        return open_endpoint(cfg, out=run.out)
    return nullcontext(open_rewriter(cfg, device=device()))


def try_all(
    rewriter: Rewriter, wishes: Sequence[Wish], *, cfg: UpsampleConfig
) -> list[list[Tried]]:
    """Return the attempts at each prompt, the last of which is taken if it breaks no rule."""
    tried: list[list[Tried]] = [[] for _ in wishes]
    for attempt in range(1, cfg.attempts + 1):
        open_rows = [
            row for row, of in enumerate(tried) if not of or (of[-1].rules and not of[-1].is_lost)
        ]
        if not open_rows:
            break
        given = rewriter.rewrite([wishes[row].text for row in open_rows], attempt)
        for row, text in zip(open_rows, given, strict=True):
            if isinstance(text, Unwritten):
                tried[row].append(Tried(text.said, (text.rule,)))
                continue
            wish = wishes[row]
            rules = broken_rules(text, original=wish.text, claims=wish.said, limits=cfg.limits)
            tried[row].append(Tried(text, tuple(rules)))
    return tried


def rewritten(original: Prompt, tried: Sequence[Tried], *, name: str) -> Prompt:
    """Return the row of a rewrite, or of its original where no attempt kept the rules.

    Its claims and questions are those of the original, which a picture is judged by.
    """
    text = original.prompt if tried[-1].rules else tried[-1].text
    identity = prompt_id(style=name, pair_id=original.pair_id, prompt=text)
    return original._replace(prompt_id=identity, prompt=text, style=name)


class Counts(NamedTuple):
    """What became of the prompts."""

    counts: dict[str, int]
    """Rewritten prompts, by the attempt that was taken, and prompts that stayed as they were."""

    by_rule: dict[str, int]
    """Of the latter, how many broke a rule at the last attempt; one may break several."""


def count(
    table: Sequence[Prompt], *, originals: Sequence[Prompt], tried: Mapping[Wish, Sequence[Tried]]
) -> Counts:
    """Count prompts by what became of them."""
    attempts: Counter[int] = Counter()
    by_rule: Counter[str] = Counter()
    for row in originals:
        of = tried[Wish(row.prompt, row.claims)]
        if of[-1].rules:
            by_rule.update(of[-1].rules)
        else:
            attempts[len(of)] += 1
    num_rewritten = attempts.total()
    counts = {"rewritten": num_rewritten, "fallback": len(table) - num_rewritten}
    counts |= {f"attempt_{number}": attempts[number] for number in sorted(attempts)}
    counts |= {f"fallback_{rule}": by_rule[rule] for rule in sorted(by_rule)}
    return Counts(counts, dict(by_rule))


def _refuse_fallbacks(
    cfg: UpsampleConfig, *, counts: Mapping[str, int], by_rule: Mapping[str, int], run: Run
) -> None:
    num = counts["rewritten"] + counts["fallback"]
    if counts["fallback"] > cfg.max_fallback_share * num:
        rules = ", ".join(f"{rule} {of:,}" for rule, of in sorted(by_rule.items()))
        raise StoppedError(
            f"{run.out}: {counts['fallback']:,} of {num:,} prompts could not be rewritten in "
            f"{cfg.attempts} attempts ({rules}); at most max_fallback_share="
            f"{cfg.max_fallback_share:g} may stay as they were. Train the rewriter longer, give "
            "another one, or widen the limits."
        )
