"""What a text or a picture says: claims, the reader that finds them, and their comparison.

A claim speaks of one group of like objects ("two small red striped circles at the top"), of the
background, or of a sign and the text on it. The same shape serves the embedded world's truth, a
caption read back, and the questions of public benchmarks. The reader knows the words of the
world's language in every style and never fails: what it does not understand it leaves out.
Writing texts is not done here; see `recap.wishes` and `recap.sources.scenes.language`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import permutations
from typing import Final, NamedTuple

OBJECTS: Final = ("circle", "square", "triangle", "cross", "ring")
COLOURS: Final = ("red", "green", "blue", "yellow", "purple", "white")
SIZES: Final = ("small", "large")
TEXTURES: Final = ("plain", "striped")
QUADRANTS: Final = ("top left", "top right", "bottom left", "bottom right")
POSITIONS: Final = (*QUADRANTS, "top", "bottom", "left", "right")
BACKGROUNDS: Final = ("grey", "black", "brown", "pink")
"""Colours of backgrounds, which no object has."""
LETTERS: Final = ("C", "E", "H", "L", "T", "V", "X", "Z")
"""Letters that a sign may show."""

AXES: Final = ("objects", "number_place", "colour_size", "words")
"""The four ways in which the paper finds alt text wanting (Betker et al. 2023, section 2)."""

OBJECT_WORDS: Final = {
    "circle": "circle", "circles": "circle", "disc": "circle", "discs": "circle",
    "square": "square", "squares": "square", "box": "square", "boxes": "square",
    "triangle": "triangle", "triangles": "triangle",
    "cross": "cross", "crosses": "cross",
    "ring": "ring", "rings": "ring", "hoop": "ring", "hoops": "ring",
}  # fmt: skip
COLOUR_WORDS: Final = {name: name for name in (*COLOURS, *BACKGROUNDS)} | {
    "violet": "purple",
    "gray": "grey",
}
SIZE_WORDS: Final = {
    "small": "small", "tiny": "small", "little": "small", "large": "large", "big": "large",
}  # fmt: skip
TEXTURE_WORDS: Final = {
    "striped": "striped", "stripy": "striped", "stripes": "striped",
    "plain": "plain", "solid": "plain",
}  # fmt: skip
NUMBER_WORDS: Final = {
    "one": 1, "single": 1, "two": 2, "pair": 2, "three": 3, "trio": 3, "four": 4, "five": 5,
    "1": 1, "2": 2, "3": 3, "4": 4, "5": 5,
}  # fmt: skip
ARTICLES: Final = frozenset({"a", "an"})
SIGN_WORDS: Final = frozenset({"sign", "label", "board", "letter", "letters"})
BACKGROUND_WORDS: Final = frozenset({"background", "backdrop"})
SAYING_WORDS: Final = frozenset(
    {"reads", "reading", "says", "saying", "letter", "letters", "spells", "text"}
)
_VERTICAL: Final = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_HORIZONTAL: Final = frozenset({"left", "right"})
_STRONG: Final = frozenset({".", ";", "!", "?"})
_SOFT: Final = frozenset({",", "and", "while", "plus"})
_BEFORE_NOUN: Final = frozenset(
    {*ARTICLES, *NUMBER_WORDS, *SIZE_WORDS, *TEXTURE_WORDS, *COLOUR_WORDS, "of", "the", "group"}
) - {"stripes"}
_TOKEN: Final = re.compile(r'"[^"\n]{1,16}"|[a-z]+|[0-9]+|[.,;!?]', re.IGNORECASE)
_READ_CHARS: Final = 4000
"""Characters of a text that are read; a captioner that loops must not cost more than that."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that a text or a picture says. What is None is left unsaid."""

    object: str
    """What it is about: one of OBJECTS, "background", "sign", or any name of another benchmark."""

    count: int | None = None
    """How many of them."""

    colour: str | None = None
    """One of COLOURS; for the background one of BACKGROUNDS."""

    size: str | None = None
    """One of SIZES."""

    texture: str | None = None
    """One of TEXTURES."""

    position: str | None = None
    """One of POSITIONS: a quadrant for one object, a row or column for two."""

    of: int | None = None
    """Index, in the list of claims, of the one that `position` is relative to; None for the
    picture."""

    text: str | None = None
    """The text displayed on it."""


_FIELDS: Final = tuple(field.name for field in fields(Claim))
_ATTRIBUTES: Final = tuple(name for name in _FIELDS if name not in {"object", "of"})
"""What the world says of an object; it places every object in the picture, none by another."""


class Tally(NamedTuple):
    """Statements counted against the truth."""

    true_positive: int = 0
    """Said and true."""

    false_positive: int = 0
    """Said and not true."""

    false_negative: int = 0
    """True and not said, or said wrongly."""

    def __add__(self, other: object) -> Tally:  # a sum, not tuples joined
        """Add two tallies place by place."""
        if not isinstance(other, Tally):
            return NotImplemented
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        """Share of what was said that is true; NaN where nothing was said."""
        said = self.true_positive + self.false_positive
        return self.true_positive / said if said else float("nan")

    @property
    def recall(self) -> float:
        """Share of what is true that was said; NaN where nothing is true."""
        true = self.true_positive + self.false_negative
        return self.true_positive / true if true else float("nan")


def to_json(claims: Iterable[Claim]) -> str:
    """Write claims as compact JSON, leaving out what is unsaid."""
    rows = [
        {name: value for name in _FIELDS if (value := getattr(claim, name)) is not None}
        for claim in claims
    ]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> list[Claim]:
    """Read claims written by `to_json`.

    Raises:
        ValueError: The text is not a JSON list of objects with the fields of a claim.
    """
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"claims must be a JSON list of objects, got {text[:80]!r}")
    claims = []
    for row in rows:
        unknown = sorted(set(row) - set(_FIELDS))
        if unknown or "object" not in row:
            raise ValueError(f"a claim has `object` and any of {_FIELDS[1:]}, got {row!r}")
        claims.append(Claim(**row))
    return claims


# --- Reading -------------------------------------------------------------------------------------


@dataclass
class _Noun:
    """A token that a claim hangs on, and what stands directly before it."""

    object: str
    start: int
    """Index of the first word of its phrase."""
    end: int
    """Index after the noun."""
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    count: int | None = None
    text: str | None = None


def read(text: str) -> list[Claim]:
    """Read the claims that a text makes, in the order of their nouns.

    Every noun opens a claim. Adjectives and numbers directly before it belong to it; so does what
    stands elsewhere in its part of the text. Parts are divided between nouns: at the last end of a
    sentence, or else at the first comma or "and", or else where the next noun's phrase begins.
    """
    tokens = [t if t[0] == '"' else t.lower() for t in _TOKEN.findall(text[:_READ_CHARS])]
    nouns = _merge_signs(_find_nouns(tokens), tokens)
    claims = []
    for index, noun in enumerate(nouns):
        start = 0 if index == 0 else _boundary(tokens, nouns[index - 1].end, noun.start)
        last = index + 1 == len(nouns)
        end = len(tokens) if last else _boundary(tokens, noun.end, nouns[index + 1].start)
        claim = _claim(noun, tokens, start, end)
        if claim is not None:
            claims.append(claim)
    return claims


def _find_nouns(tokens: Sequence[str]) -> list[_Noun]:
    nouns: list[_Noun] = []
    for index, token in enumerate(tokens):
        name = _noun_name(token)
        if name is not None:
            nouns.append(_noun_phrase(name, tokens, index))
        elif token in COLOUR_WORDS and COLOUR_WORDS[token] in BACKGROUNDS:
            if not _is_bare(tokens, index):
                continue
            before = nouns[-1] if nouns else None
            if before is not None and not _STRONG & set(tokens[before.end : index]):
                if before.object == "background" and before.colour is None:
                    before.colour = COLOUR_WORDS[token]
                    continue
                if tokens[index - 1] in {"is", "are"}:  # "the circle is grey"
                    continue
            colour = COLOUR_WORDS[token]
            nouns.append(_Noun("background", index, index + 1, colour=colour))
    return nouns


def _noun_name(token: str) -> str | None:
    if token in OBJECT_WORDS:
        return OBJECT_WORDS[token]
    if token in SIGN_WORDS or _display(token) is not None:
        return "sign"
    return "background" if token in BACKGROUND_WORDS else None


def _is_bare(tokens: Sequence[str], index: int) -> bool:
    """Whether an adjective belongs to no noun that follows it."""
    after = index + 1
    while after < len(tokens) and tokens[after] in _BEFORE_NOUN - ARTICLES - {"the"}:
        after += 1
    return after == len(tokens) or _noun_name(tokens[after]) is None or tokens[after][0] == '"'


def _noun_phrase(name: str, tokens: Sequence[str], index: int) -> _Noun:
    start = index
    noun = _Noun(name, index, index + 1, text=_display(tokens[index]))
    has_article = False
    while start > 0 and tokens[start - 1] in _BEFORE_NOUN and noun.text is None:
        start -= 1
        token = tokens[start]
        has_article |= token in ARTICLES
        noun.colour = noun.colour or COLOUR_WORDS.get(token)
        noun.size = noun.size or SIZE_WORDS.get(token)
        noun.texture = noun.texture or TEXTURE_WORDS.get(token)
        noun.count = noun.count or NUMBER_WORDS.get(token)
    if noun.count is None and has_article:
        noun.count = 1
    noun.start = start
    return noun


def _display(token: str) -> str | None:
    """Give the displayed text that a quoted token holds, or None."""
    if token[0] != '"':
        return None
    return "".join(token.strip('"').split()).upper() or None


def _merge_signs(nouns: Sequence[_Noun], tokens: Sequence[str]) -> list[_Noun]:
    """Join the words of one sign: 'a sign with the letters "CX"' has three nouns and one sign."""
    merged: list[_Noun] = []
    for noun in nouns:
        before = merged[-1] if merged else None
        if noun.object == "sign" and noun.text is None:
            noun.text = _unquoted(tokens, noun.end - 1)
        if (
            before is not None
            and noun.object == before.object == "sign"
            and not _STRONG & set(tokens[before.end : noun.start])
            and (before.text is None or noun.text is None or before.text == noun.text)
        ):
            before.text = before.text or noun.text
            before.end = noun.end
        else:
            merged.append(noun)
    return merged


def _unquoted(tokens: Sequence[str], index: int) -> str | None:
    """Find displayed text without quotation marks, after "reads" and its like."""
    for place in range(index, min(index + 8, len(tokens) - 1)):
        token = tokens[place]
        if token in _STRONG or (place > index and _noun_name(token) not in {None, "sign"}):
            return None
        if token in SAYING_WORDS:
            letters = ""
            for word in tokens[place + 1 : place + 3]:
                if len(word) > 2 or not set(word.upper()) <= set(LETTERS):
                    break
                letters += word.upper()
            if letters:
                return letters
    return None


def _boundary(tokens: Sequence[str], start: int, end: int) -> int:
    """Find where the part of the noun before `start` ends and that of the noun at `end` begins."""
    between = range(start, end)
    strong = [i for i in between if tokens[i] in _STRONG]
    if strong:
        return strong[-1]
    return next((i for i in between if tokens[i] in _SOFT), end)


def _claim(noun: _Noun, tokens: Sequence[str], start: int, end: int) -> Claim | None:
    if noun.object == "background":
        colour = noun.colour or _first(COLOUR_WORDS, tokens[noun.end : end])
        return None if colour is None else Claim(object="background", colour=colour)
    rest = [*tokens[start : noun.start], *tokens[noun.end : end]]
    position = _position(tokens[start:end])
    if noun.object == "sign":
        return Claim(object="sign", position=position, text=noun.text)
    return Claim(
        object=noun.object,
        count=noun.count,
        colour=noun.colour or _first(COLOUR_WORDS, rest),
        size=noun.size or _first(SIZE_WORDS, rest),
        texture=noun.texture or _texture(rest),
        position=position,
    )


def _first(words: dict[str, str], tokens: Iterable[str]) -> str | None:
    return next((words[token] for token in tokens if token in words), None)


def _texture(tokens: Sequence[str]) -> str | None:
    for index, token in enumerate(tokens):
        if token in TEXTURE_WORDS:
            if token == "stripes" and index and tokens[index - 1] in {"no", "without"}:
                return "plain"
            return TEXTURE_WORDS[token]
    return None


def _position(tokens: Sequence[str]) -> str | None:
    for index, token in enumerate(tokens):
        if token in _VERTICAL:
            after = tokens[index + 1] if index + 1 < len(tokens) else ""
            return f"{_VERTICAL[token]} {after}" if after in _HORIZONTAL else _VERTICAL[token]
        if token in _HORIZONTAL:
            return token
    return None


# --- Comparing -----------------------------------------------------------------------------------

_MAX_MATCHED: Final = 6
"""Claims of one side that are matched; of a longer list the first. Scenes have at most 4."""

_OF_AXIS: Final = {
    "number_place": ("count", "position"),
    "colour_size": ("colour", "size", "texture"),
    "words": ("text",),
}


def compare(said: Sequence[Claim], true: Sequence[Claim]) -> dict[str, Tally]:
    """Count what was said rightly, what wrongly and what not at all, on each axis.

    `objects` counts what is there: kinds, the sign, and the background with its colour. The other
    axes count attributes. Groups are matched so that most agrees. Groups of unlike kinds are
    matched only where two attributes agree: then the kind alone is the mistake, and not an
    invention and an omission of everything else. What an unmatched group says is false, and what
    an unmatched true group has went unsaid.
    """
    tallies = dict.fromkeys(AXES, Tally())
    for mine, theirs in _match(tuple(said), tuple(true)):
        for axis in AXES:
            tallies[axis] += _tally(axis, mine, theirs)
    return tallies


def _tally(axis: str, said: Claim | None, true: Claim | None) -> Tally:
    if axis == "objects":
        keys = ("object", "colour") if _is_background(said) or _is_background(true) else ("object",)
        return _tally_value(
            None if said is None else tuple(getattr(said, key) for key in keys),
            None if true is None else tuple(getattr(true, key) for key in keys),
        )
    if _is_background(said) or _is_background(true):
        return Tally()
    total = Tally()
    for name in _OF_AXIS[axis]:
        total += _tally_value(_value(said, name), _value(true, name))
    return total


def _value(claim: Claim | None, name: str) -> object:
    """Give an attribute; to be plain is what goes without saying, so it counts as unsaid."""
    value = getattr(claim, name, None)
    return None if value == "plain" else value


def _is_background(claim: Claim | None) -> bool:
    return claim is not None and claim.object == "background"


def _tally_value(said: object, true: object) -> Tally:
    if said == true:
        return Tally(true_positive=int(true is not None))
    return Tally(false_positive=int(said is not None), false_negative=int(true is not None))


def _agreement(said: Claim, true: Claim) -> int:
    """Score a pair: kind above all, then attributes; negative where they must not be matched."""
    attributes = sum(
        int(getattr(said, name) is not None and getattr(said, name) == getattr(true, name))
        for name in _ATTRIBUTES
    )
    if said.object == true.object:
        return 10 + attributes
    special = {"background", "sign"}
    if attributes < 2 or {said.object, true.object} & special:
        return -1
    return attributes


@lru_cache(maxsize=65536)
def _match(
    said: tuple[Claim, ...], true: tuple[Claim, ...]
) -> tuple[tuple[Claim | None, Claim | None], ...]:
    """Pair said with true claims for the greatest agreement; what is left stands alone."""
    few, many = (said, true) if len(said) <= len(true) else (true, said)
    spare = many[_MAX_MATCHED:]
    few, many = few[:_MAX_MATCHED], many[:_MAX_MATCHED]
    swapped = len(said) > len(true)
    score = [[_agreement(m, f) if swapped else _agreement(f, m) for m in many] for f in few]
    best_total, best = -1, ()  # type: tuple[int, tuple[int, ...]]
    for order in permutations(range(len(many)), len(few)):
        total = sum(max(score[i][j], 0) for i, j in enumerate(order))
        if total > best_total:
            best_total, best = total, order
    pairs: list[tuple[Claim | None, Claim | None]] = []
    used = set()
    for i, j in enumerate(best):
        if score[i][j] > 0:
            used.add(j)
            pairs.append((many[j], few[i]) if swapped else (few[i], many[j]))
        else:
            pairs.append((None, few[i]) if swapped else (few[i], None))
    alone = [claim for j, claim in enumerate(many) if j not in used] + list(spare)
    pairs.extend((claim, None) if swapped else (None, claim) for claim in alone)
    return tuple(pairs)


def without(claim: Claim, *names: str) -> Claim:
    """Give the claim with some of its attributes unsaid."""
    return replace(claim, **dict.fromkeys(names))  # type: ignore[arg-type]
