"""Noun phrases of a prompt, for questions of the kind "a red car?".

They come from where they are surest:

1. a file that gives them, one list a prompt;
2. the prompt's claims: each is one phrase of number, size, colour, texture and object;
3. a rule about English function words.

The rule cuts a text at punctuation and function words. A phrase begins at the start of the text,
after a comma, a conjunction or a preposition, and at every article, number or possessive; it ends
before the next function word, before a word in -ing behind a noun ("a dog sleeping") and before a
participle with "by" ("a frog hidden by"). After a verb of being, a relative word or a pronoun, only
an article, number or possessive begins one, so that "the cat is black" asks for the cat alone. A
comma between adjectives ("a long, narrow kitchen") is passed over.

What the rule cannot see is other verbs: of "a dog chases a cat" it makes "a dog chases" and "a
cat". T2I-CompBench takes noun chunks of spaCy's `en_core_web_sm`, a parser, and the first eight of
them; the two agree on lists like its own ("a green bench and a blue bowl").
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from launch.errors import InputError
from recap.claims import Claim, from_json
from t2i.artifacts import Prompt

FILE, CLAIMS, RULE = "file", "claims", "rule"
"""Where phrases come from."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TOKEN: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_")  # noqa: RUF001
_DETERMINERS: Final = _set(
    "a an the this that these those some any each every another no both either all "
    "my your his her its our their one two three four five six seven eight nine ten several "
    "many few"
)
_LINKS: Final = _set(
    "and or but nor plus with without on in at by of to from into onto inside outside over under "
    "above below behind beneath beside besides between among near next against along across "
    "around through toward towards upon underneath atop off for as like than per via about "
    "including while has have had having"
)
_STOPS: Final = _set(
    "is are was were be been being am has have had having do does did can could will would shall "
    "should may might must which who whom whose where when what that's there here it he she they "
    "we you i him them us me itself himself herself themselves not very too so then also just "
    "up down out away"
)
_NOUNS_IN_ING: Final = _set(
    "ring king wing thing string spring swing sling building ceiling painting clothing earring "
    "evening morning wedding drawing railing lightning pudding icing stuffing bedding lighting "
    "crossing sting meeting herring dumpling gosling duckling sapling"
)


class Phrases(NamedTuple):
    """Phrases of a prompt."""

    texts: tuple[str, ...]
    source: str
    """One of `file`, `claims` and `rule`."""


def phrases_of(
    prompt: Prompt, *, text: str, given: Mapping[str, Sequence[str]] | None = None
) -> Phrases:
    """Return the phrases of a prompt.

    Args:
        prompt: The prompt, whose claims are those of its pair.
        text: Text that its picture is judged by: that of the original where it was rewritten.
        given: Text -> phrases, from a file; a text that is absent there has none.
    """
    if given is not None:
        return Phrases(tuple(given.get(text, ())), FILE)
    claims = from_json(prompt.claims) if prompt.claims is not None else []
    said = tuple(dict.fromkeys(phrase for c in claims if (phrase := of_claim(c)) is not None))
    return Phrases(said, CLAIMS) if said else Phrases(tuple(by_rule(text)), RULE)


def of_claim(claim: Claim) -> str | None:
    """Return the phrase of one claim; None where it is about displayed words."""
    if claim.text is not None:
        return None
    words = [w for w in (claim.size, claim.colour, claim.texture) if w is not None]
    if claim.count is None or claim.count == 1:
        first = (words or [claim.object])[0]
        article = "an" if first[:1].lower() in "aeiou" else "a"
        return " ".join([article, *words, claim.object])
    return " ".join([_number(claim.count), *words, plural(claim.object)])


def _number(count: int) -> str:
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return names[count] if 0 <= count < len(names) else str(count)


def plural(noun: str) -> str:
    """Return the plural by the rules of spelling; irregular nouns keep theirs in lists alone."""
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if re.search(r"[^aeiou]y$", noun) else f"{noun}s"


def by_rule(text: str) -> list[str]:
    """Return the noun phrases of a text as it is written, each once, in order."""
    found: list[str] = []
    phrase: list[str] = []
    is_open = True

    def close() -> None:
        nonlocal phrase
        if any(word.casefold() not in _DETERMINERS for word in phrase):
            found.append(" ".join(phrase))
        phrase = []

    words = _TOKEN.findall(text)
    for word, after in zip(words, (*words, ".")[1:], strict=True):
        lower = word.casefold()
        nouns = [w for w in phrase if w.casefold() not in _DETERMINERS]
        if lower in _DETERMINERS:
            if nouns:
                close()
            phrase, is_open = [*phrase, word], True
        elif word == "," and len(nouns) == 1 and len(phrase) > 1 and _is_plain(after):
            continue  # "a long, narrow kitchen"
        elif lower in _LINKS or not word[0].isalnum():
            close()
            is_open = True
        elif lower in _STOPS or _is_verb(lower, after=after, phrase=phrase, nouns=nouns):
            close()
            is_open = False
        elif is_open:
            phrase.append(word)
    close()
    return list(dict.fromkeys(found))


def _is_plain(word: str) -> bool:
    return word[0].isalnum() and word.casefold() not in _DETERMINERS | _LINKS | _STOPS


def _is_verb(lower: str, *, after: str, phrase: Sequence[str], nouns: Sequence[str]) -> bool:
    """Tell participles by where they stand: behind a noun, or where no phrase has begun."""
    if lower.endswith("ing") and lower not in _NOUNS_IN_ING:
        return bool(nouns) or not phrase
    return bool(nouns) and after.casefold() == "by"


# --------------------------------------------------------------------------- from a file


def read_phrases(path: Path) -> dict[str, list[str]]:
    """Read text -> phrases: a JSON object of lists, or JSONL or CSV with `prompt` and `phrases`.

    A CSV's `phrases` are separated by `|`.

    Raises:
        InputError: The file is absent, of another form, or gives one text twice.
    """
    try:
        rows = _rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    found: dict[str, list[str]] = {}
    for number, (text, phrases) in enumerate(rows, start=1):
        if not isinstance(text, str) or not _are_phrases(phrases):
            raise InputError(
                f"{path}: entry {number} is {text!r}: {phrases!r}; expected a `prompt` and a list "
                "of `phrases`, none of them empty."
            )
        if text in found:
            raise InputError(f"{path}: {text!r} comes twice; give the phrases of a prompt once.")
        found[text] = [" ".join(phrase.split()) for phrase in phrases]
    return found


def _rows(path: Path) -> list[tuple[Any, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    match path.suffix.lower():
        case ".json":
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("expected a JSON object: prompt -> list of phrases")
            return list(found.items())
        case ".jsonl":
            lines = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(line, dict) for line in lines):
                raise ValueError("expected a JSON object in every line")
            return [(line.get("prompt"), line.get("phrases")) for line in lines]
        case ".csv":
            rows = csv.DictReader(text.splitlines())
            split = [(r.get("prompt"), (r.get("phrases") or "").split("|")) for r in rows]
            return [(prompt, [p for p in phrases if p.strip()]) for prompt, phrases in split]
        case other:
            raise ValueError(f"ends in {other!r}, expected .json, .jsonl or .csv")


def _are_phrases(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(p, str) and p.strip() for p in value)
