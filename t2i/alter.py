"""The same wishes in altered form: prompts with one more style for each way of altering them.

Synthetic captions are alike in letter case, punctuation and length, and a model may come to rely on
it; the paper mixes in real captions to prevent that (Betker et al. 2023, section 3.1). Here a style
of a prompt table is altered in form by named rules, under the same `pair_id`, so that what a model
loses is a paired difference. One rule writes a text anew: its claims in the words of people.

What a rule takes away is no longer asked for: claims are read anew from a text of which words were
dropped. Elsewhere they are the original's.

N sentences of a prompt
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int64

from launch import keyed
from launch.errors import ConfigError, InputError
from launch.run import Run
from recap import claims
from recap.wishes import wish_for
from t2i.artifacts import PROMPTS, VERSIONS, Prompt, open_prompts, prompt_id, write_prompts
from t2i.config import ANEW, AlterConfig

_QUOTED: Final = re.compile(r'("[^"\n]*"|\u201c[^\u201d\n]*\u201d)')
_ARTICLE: Final = re.compile(r"^(\W*)(?:a|an|the)\s+", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_STREAM: Final = "alter.sentences"

CODE = 1
"""Version of the rules; raised whenever the same settings give other prompts."""


class Original(NamedTuple):
    """The prompt that is altered, and the seed of what is drawn for it."""

    row: Prompt
    seed: int

    @property
    def is_read(self) -> bool:
        """Whether its claims are those that are read from its text, and not a list's own."""
        return self.row.claims == claims.to_json(claims.read(self.row.prompt))

    def order(self, num: int) -> Int64[np.ndarray, "N"]:
        """Return the order that so many of its sentences are brought into."""
        ids = keyed.words([self.row.prompt_id])
        return np.argsort(np.ravel(keyed.uniform(self.seed, _STREAM, epoch=0, ids=ids, count=num)))


def alter(cfg: AlterConfig, run: Run) -> None:
    """Write the prompts with a style more for each alteration."""
    prompts = open_prompts(cfg.prompts)
    run.input("prompts", cfg.prompts, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    _refuse(cfg, prompts.styles)
    originals = [row for row in prompts.rows if row.style == cfg.style]
    _refuse_unread(cfg, originals)
    plan = {"prompts": len(originals), "style": cfg.style, "alterations": ", ".join(cfg.rules)}
    recipe: dict[str, object] = {"code": CODE}
    if before := prompts.rewritten_from:
        recipe["rewritten_before"] = before
    if not run.start(plan, recipe=recipe):
        return
    table = list(prompts.rows)
    counts = {"rows_in": len(table)}
    for name, rules in cfg.rules.items():
        rows = [altered(row, rules=rules, name=name, seed=cfg.seed) for row in originals]
        table += rows
        changed = (new.prompt != old.prompt for new, old in zip(rows, originals, strict=True))
        counts[f"changed_{name}"] = sum(changed)
    write_prompts(run.out / "prompts.parquet", table)
    run.finish(
        artifact=PROMPTS,
        version=VERSIONS[PROMPTS],
        counts={
            **counts,
            "rows_added": len(table) - len(prompts.rows),
            "rows_out": len(table),
            "prompts": len(table),
        },
        parts=["prompts.parquet"],
    )


def _refuse(cfg: AlterConfig, styles: Sequence[str]) -> None:
    known = ", ".join(styles)
    if cfg.style not in styles:
        raise ConfigError(
            f"{cfg.prompts}: has no prompts of style {cfg.style!r}; its styles are {known}. "
            "Correct style=."
        )
    if taken := [name for name in cfg.rules if name in styles]:
        raise ConfigError(
            f"{cfg.prompts}: has a style {taken[0]!r} already; its styles are {known}. Give the "
            "alteration another name in rules."
        )


def _refuse_unread(cfg: AlterConfig, originals: Sequence[Prompt]) -> None:
    name = next((name for name, rules in cfg.rules.items() if ANEW in rules), None)
    unread = [row for row in originals if row.claims is None]
    if name is not None and unread:
        raise InputError(
            f"{cfg.prompts}: {len(unread):,} of {len(originals):,} prompts of style {cfg.style!r} "
            f"have no claims, the first is {unread[0].prompt[:80]!r}; {ANEW} says claims again and "
            f"needs those of every prompt, as the embedded world has them. Leave rules.{name} out."
        )


def altered(row: Prompt, *, rules: Sequence[str], name: str, seed: int) -> Prompt:
    """Return a prompt in altered form, with what it still asks for.

    Args:
        row: The original.
        rules: Names of RULES, applied one after the other.
        name: Style of the new row.
        seed: Seed of the order of sentences and of phrasings.
    """
    original = Original(row, seed)
    text = row.prompt
    for rule in rules:
        # A rule that would leave nothing leaves the text as it is.
        text = RULES[rule](text, original) or text
    new = row._replace(
        prompt_id=prompt_id(style=name, pair_id=row.pair_id, prompt=text), prompt=text, style=name
    )
    if text == row.prompt or not set(rules) & DROPPING:
        return new
    return new._replace(
        claims=claims.to_json(claims.read(text)) if original.is_read else None, questions=None
    )


def lower_case(text: str, of: Original) -> str:
    """Write everything small but what a sign is to show."""
    parts = _QUOTED.split(text)
    return "".join(part if n % 2 else part.lower() for n, part in enumerate(parts))


def upper_case(text: str, of: Original) -> str:
    """Write everything in capitals but what a sign is to show."""
    parts = _QUOTED.split(text)
    return "".join(part if n % 2 else part.upper() for n, part in enumerate(parts))


def no_final_punctuation(text: str, of: Original) -> str:
    """Leave out the mark at the end."""
    return text.rstrip(" .!?")


def no_leading_article(text: str, of: Original) -> str:
    """Leave out a, an or the at the beginning of every sentence, and begin it as it began."""

    def without(sentence: str) -> str:
        found = _ARTICLE.match(sentence)
        if found is None:
            return sentence
        rest = sentence[found.end() :]
        is_capital = sentence[found.end(1)].isupper()
        return found.group(1) + (rest[:1].upper() + rest[1:] if is_capital else rest)

    return " ".join(map(without, _SENTENCE_END.split(text)))


def shuffled_sentences(text: str, of: Original) -> str:
    """Bring the sentences into another order, where there are several."""
    sentences = _SENTENCE_END.split(text)
    places = of.order(len(sentences))
    if all(place == n for n, place in enumerate(places)):
        places = [*places[1:], *places[:1]]
    return " ".join(sentences[place] for place in places)


def first_sentence(text: str, of: Original) -> str:
    """Keep the first sentence alone."""
    return _SENTENCE_END.split(text)[0]


def as_people_write(text: str, of: Original) -> str:
    """Ask for the same things in the words of people, where they have words for all of them."""
    if not of.is_read:
        return text
    return wish_for(text, sample_id=of.row.pair_id, seed=of.seed) or text


RULES: Final[Mapping[str, Callable[[str, Original], str]]] = {
    rule.__name__: rule
    for rule in (
        lower_case,
        upper_case,
        no_final_punctuation,
        no_leading_article,
        shuffled_sentences,
        first_sentence,
        as_people_write,
    )
}
"""Everything that can be done to a prompt's form."""

DROPPING: Final = frozenset({"first_sentence", "no_leading_article"})
"""Rules after which a text may say less than before: "a ring" is one, "ring" any number."""
