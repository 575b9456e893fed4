"""Texts about scenes, written from their claims: every style has templates and words of its own.

    alt      what the web writes: the main subject at most, often wrong, sometimes useless
    ssc      an annotator's short caption: the main subject, always right
    dsc      an annotator's description: everything, always right
    human    what a person asks an image model for: short, medium or complete, always right
    truth    everything, always right, phrased as dsc or as a complete human prompt
    judge    any of these, always right (alt without its faults and with more attributes)

`recap.claims.read` inverts them all. Numbers that choose a phrasing come from `Draws`, which is
filled from keyed randomness: a text is a function of (claims, style, seed, sample_id).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final, Literal, NamedTuple, TypeVar, get_args

from launch import keyed
from recap.claims import OBJECTS, POSITIONS, QUADRANTS, Claim

Style = Literal["alt", "ssc", "dsc", "human", "truth", "judge"]
STYLES: Final[tuple[Style, ...]] = get_args(Style)

T = TypeVar("T")

# The web's faults. The paper names them (Betker et al. 2023, section 2) but gives no rates: these
# are ours, chosen so that alt text teaches kinds well, numbers a little and the rest hardly.
USELESS: Final = 0.20
"""Share of alt texts that say nothing of the picture: file names, advertisements and the like."""
WRONG_KIND: Final = 0.04
"""Share of the other alt texts that name a kind which is not the main subject's."""
COLOUR_GIVEN: Final = 0.20
"""Share of the other alt texts that give the main subject's colour."""
SIZE_GIVEN: Final = 0.08
"""Share that gives its size."""
PLAIN_SAID: Final = 0.1
"""Share of plain things that are called plain; stripes are always mentioned."""
TEXTURE_GIVEN: Final = 0.05
"""Share that gives its texture."""
NUMBER_GIVEN: Final = 0.35
"""Share that gives a number or an article; the others have a bare noun."""
NUMBER_WRONG: Final = 0.25
"""Share of the numbers given that are wrong."""
PLACE_GIVEN: Final = 0.10
"""Share that gives a place."""
PLACE_WRONG: Final = 0.5
"""Share of the places given that are wrong."""

JUDGE_MIX: Final[Mapping[Style, float]] = {"alt": 0.41, "ssc": 0.31, "human": 0.16, "dsc": 0.12}
"""How often `judge` takes each style: the inverse of its mean length, so that each has about as
many words in all and none is favoured."""

NUM_DRAWS: Final = 64
"""Numbers kept for one text; every text takes fewer."""


class Draws:
    """Uniform numbers of one text, taken one after the other."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values
        self._next = 0

    def uniform(self) -> float:
        """Take the next number in [0, 1)."""
        self._next += 1
        return self._values[self._next - 1]

    def chance(self, share: float) -> bool:
        """Decide with a probability."""
        return self.uniform() < share

    def pick(self, options: Sequence[T]) -> T:
        """Choose one of several, each equally likely."""
        return options[int(self.uniform() * len(options))]


def write(claims: Sequence[Claim], style: Style, draws: Draws) -> str:
    """Write one text about a scene.

    Args:
        claims: The whole truth, main subject first (`Scene.claims`).
        style: Whose text it is.
        draws: At least NUM_DRAWS numbers.
    """
    return _WRITERS[style](claims, draws)


def write_all(
    claims: Sequence[Sequence[Claim]], style: Style, *, sample_ids: Sequence[str], seed: int
) -> list[str]:
    """Write one text for each scene; a picture's text does not depend on the others.

    Args:
        claims: The whole truth about each scene.
        style: Whose texts.
        sample_ids: Identities of the pictures.
        seed: Seed of the phrasings.
    """
    ids = keyed.words(sample_ids)
    numbers = keyed.uniform(seed, f"text.{style}", epoch=0, ids=ids, count=NUM_DRAWS).tolist()
    return [write(c, style, Draws(row)) for c, row in zip(claims, numbers, strict=True)]


# --- Phrases -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """The words of one kind of writer."""

    numbers: Mapping[int, tuple[str, ...]]
    sizes: Mapping[str, tuple[str, ...]]
    textures: Mapping[str, tuple[str, ...]]
    textures_after: Mapping[str, tuple[str, ...]]
    """What may stand behind the noun instead."""
    nouns: Mapping[str, tuple[str, ...]]
    colours: Mapping[str, tuple[str, ...]]
    quadrant: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    says_upper: bool = False
    """Whether "upper" and "lower" stand for "top" and "bottom" at times."""

    plain_said: float = PLAIN_SAID
    """Share of the things known to be plain that are called so."""


_PLURAL: Final = {"cross": "crosses", "box": "boxes"}

_ANNOTATOR: Final = _Voice(
    numbers={1: ("a", "one"), 2: ("two",), 3: ("three",)},
    sizes={"small": ("small",), "large": ("large",)},
    textures={"plain": ("plain",), "striped": ("striped",)},
    textures_after={},
    nouns={},
    colours={},
    quadrant=("at the {}", "in the {} corner", "in the {}"),
    rows={
        "top": ("at the top", "along the top"),
        "bottom": ("at the bottom", "along the bottom"),
        "left": ("on the left", "along the left side"),
        "right": ("on the right", "along the right side"),
    },
)
_PERSON: Final = _Voice(
    numbers={
        1: ("a", "a single"),
        2: ("two", "a pair of"),
        3: ("three", "a trio of", "a group of three"),
    },
    sizes={"small": ("small", "tiny", "little"), "large": ("large", "big")},
    textures={"plain": ("plain", "solid"), "striped": ("striped", "stripy")},
    textures_after={
        "plain": ("without stripes", "with no stripes"),
        "striped": ("with stripes", "covered in stripes"),
    },
    nouns={"circle": ("circle", "disc"), "square": ("square", "box"), "ring": ("ring", "hoop")},
    colours={"purple": ("purple", "violet"), "grey": ("grey", "gray")},
    quadrant=("near the {} corner", "up in the {}", "towards the {}", "{}"),
    rows={
        "top": ("across the top", "in the upper half", "side by side near the top"),
        "bottom": ("across the bottom", "in the lower half", "side by side near the bottom"),
        "left": ("down the left side", "in the left half", "stacked on the left"),
        "right": ("down the right side", "in the right half", "stacked on the right"),
    },
    says_upper=True,
)
# For who says again what somebody said: a count may be wrong then, and "plain" was worth a word.
_REPEATING: Final = replace(
    _PERSON,
    numbers={**_PERSON.numbers, 4: ("four", "a group of four"), 5: ("five", "a group of five")},
    plain_said=1.0,
)
_WEB: Final = _Voice(
    numbers={1: ("a", "one"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")},
    sizes={"small": ("small", "little"), "large": ("large", "big")},
    textures=_PERSON.textures,
    textures_after={},
    nouns=_PERSON.nouns,
    colours={},
    quadrant=("{}", "{} corner"),
    rows={name: (f"{name} side", f"on the {name}") for name in ("top", "bottom", "left", "right")},
)

_UPPER: Final = {"top": "upper", "bottom": "lower"}


def _noun_phrase(claim: Claim, voice: _Voice, d: Draws, *, count: int | None = None) -> str:
    """Name a group: "two small red striped circles".

    Args:
        claim: What is said of it.
        voice: Whose words.
        d: Numbers that choose among them.
        count: How many there are, where the claim leaves it unsaid.
    """
    words = []
    if claim.count is not None:
        words.append(d.pick(voice.numbers[claim.count]))
    after = ""
    texture = []
    if claim.texture == "striped" or (claim.texture is not None and d.chance(voice.plain_said)):
        if voice.textures_after and d.chance(0.4):
            after = " " + d.pick(voice.textures_after[claim.texture])
        else:
            texture = [d.pick(voice.textures[claim.texture])]
    colour = [] if claim.colour is None else [_colour(claim.colour, voice, d)]
    if claim.size is not None:
        words.append(d.pick(voice.sizes[claim.size]))
    words += [*colour, *texture] if d.chance(0.5) else [*texture, *colour]
    noun = d.pick(voice.nouns.get(claim.object, (claim.object,)))
    if (claim.count or count or 1) > 1:
        noun = _PLURAL.get(noun, noun + "s")
    return " ".join([*words, noun]) + after


def _colour(name: str, voice: _Voice, d: Draws) -> str:
    return d.pick(voice.colours.get(name, (name,)))


def _place(position: str, voice: _Voice, d: Draws) -> str:
    if position not in QUADRANTS:
        return d.pick(voice.rows[position])
    vertical, horizontal = position.split()
    if voice.says_upper and d.chance(0.5):
        vertical = _UPPER[vertical]
    phrase = d.pick(voice.quadrant)
    if phrase == "up in the {}" and vertical not in {"top", "upper"}:
        phrase = "down in the {}"
    return phrase.format(f"{vertical} {horizontal}")


def _is(claim: Claim) -> str:
    return "is" if claim.count == 1 else "are"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


class _Parts:
    """Claims of one text, sorted by what they speak of."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.groups = [c for c in claims if c.object in OBJECTS]
        self.sign = next((c for c in claims if c.object == "sign"), None)
        self.background = next((c.colour for c in claims if c.object == "background"), None)


# --- The annotator -------------------------------------------------------------------------------


def _ssc(claims: Sequence[Claim], d: Draws) -> str:
    main = replace(_Parts(claims).groups[0], texture=None, position=None)
    template = d.pick(
        (
            "a picture of {np}",
            "there {is} {np} here",
            "{np} in a picture",
            "the picture shows {np}",
            "this is a picture of {np}",
            "the main subject is {np}",
        )
    )
    return _sentence(template.format(np=_noun_phrase(main, _ANNOTATOR, d), **{"is": _is(main)}))


def _dsc(claims: Sequence[Claim], d: Draws) -> str:
    parts = _Parts(claims)
    groups = parts.groups
    if len(groups) == 2 and d.chance(0.3):
        groups = groups[::-1]
    together = len(groups) == 2 and d.chance(0.4)
    # Where the background is told: 0 first, 1 within the first sentence, 2 and 3 last.
    place = None if parts.background is None else int(d.uniform() * 4)
    sentences = []
    opening = ""
    if place == 0:
        sentences.append(_annotated_background(parts.background, d))
    elif place == 1:
        opening = d.pick(("on a {} background ", "against a {} background "))
        opening = opening.format(parts.background)
    if together:
        first, second = (_annotated_group(g, d) for g in groups)
        lead = f"there {_is(groups[0])} " if opening else d.pick(("the picture shows ", ""))
        if not lead:
            lead = f"there {_is(groups[0])} "
        joint = d.pick((" and ", ", and there {} ")).format(_is(groups[1]))
        sentences.append(f"{opening}{lead}{first}{joint}{second}")
    else:
        for index, group in enumerate(groups):
            sentences.append(_annotated_sentence(group, d, opening=opening if not index else ""))
    if parts.sign is not None:
        told = _annotated_sign(parts.sign, d)
        sentences.insert(1 if place == 0 and d.chance(0.3) else len(sentences), told)
    if place in {2, 3}:
        sentences.append(_annotated_background(parts.background, d))
    return " ".join(map(_sentence, sentences))


def _annotated_group(group: Claim, d: Draws) -> str:
    phrase = _noun_phrase(group, _ANNOTATOR, d)
    return phrase if group.position is None else f"{phrase} {_place(group.position, _ANNOTATOR, d)}"


def _annotated_sentence(group: Claim, d: Draws, *, opening: str) -> str:
    phrase, verb = _noun_phrase(group, _ANNOTATOR, d), _is(group)
    if opening or group.position is None:
        where = ""
        if group.position is not None:
            where = " " + _place(group.position, _ANNOTATOR, d)
        plain = opening or d.chance(0.5)
        return f"{opening}there {verb} {phrase}{where}" if plain else f"the picture shows {phrase}"
    where = _place(group.position, _ANNOTATOR, d)
    template = d.pick(
        (
            "there {verb} {np} {where}",
            "{np} {verb} {where}",
            "{np} can be seen {where}",
            "{where} there {verb} {np}",
            "the picture shows {np} {where}",
        )
    )
    return template.format(np=phrase, verb=verb, where=where)


def _annotated_sign(sign: Claim, d: Draws) -> str:
    where = "" if sign.position is None else " " + _place(sign.position, _ANNOTATOR, d)
    template = d.pick(
        (
            'a sign{where} reads "{text}"',
            'the sign{where} says "{text}"',
            'there is a sign{where} with the {letters} "{text}"',
        )
    )
    text = sign.text or ""
    letters = "letter" if len(text) == 1 else "letters"
    return template.format(where=where, text=text, letters=letters)


def _annotated_background(colour: str | None, d: Draws) -> str:
    template = d.pick(
        (
            "the background is {}",
            "the picture has a {} background",
            "all of it is on a {} background",
        )
    )
    return template.format(colour)


def _leave_out(claims: Sequence[Claim], d: Draws, *, kept: float) -> list[Claim]:
    """Keep each attribute and each thing but one group with a probability."""
    said = []
    for index, claim in enumerate(claims):
        if index and not d.chance(kept):
            continue
        if claim.object == "background":
            said.append(claim)
            continue
        names: tuple[str, ...] = ("colour", "size", "texture", "position")
        if claim.object == "sign":
            names = ("position",)
        dropped = [name for name in names if not d.chance(kept)]
        said.append(replace(claim, **dict.fromkeys(dropped)))  # type: ignore[arg-type]
    return said


# --- The person with a wish ----------------------------------------------------------------------


def _human(claims: Sequence[Claim], d: Draws) -> str:
    level = d.uniform()
    if level < 1 / 3:
        return _wish(_short(claims, d), d)
    if level < 2 / 3:
        return _wish(_leave_out(claims, d, kept=0.6), d)
    return _wish(claims, d)


def _short(claims: Sequence[Claim], d: Draws) -> list[Claim]:
    """Keep the main subject with its colour, some of its attributes and perhaps the background."""
    main = claims[0]
    unsaid = [
        name
        for name, share in (("size", 0.5), ("texture", 0.3), ("position", 0.3))
        if not d.chance(share)
    ]
    said = [replace(main, **dict.fromkeys(unsaid))]  # type: ignore[arg-type]
    return said + [c for c in claims if c.object == "background" and d.chance(0.2)]


def wish_again(claims: Sequence[Claim], draws: Draws) -> str:
    """Ask for what a text says, whoever wrote it, and leave nothing out.

    Args:
        claims: What the text says; at least one group of objects, and a sign only with its text.
        draws: At least NUM_DRAWS numbers.
    """
    return _wish(claims, draws, voice=_REPEATING)


def _wish(claims: Sequence[Claim], d: Draws, *, voice: _Voice = _PERSON) -> str:
    parts = _Parts(claims)
    groups = parts.groups
    if len(groups) == 2 and d.chance(0.3):
        groups = groups[::-1]
    things = []
    for group in groups:
        phrase = _noun_phrase(group, voice, d)
        if group.position is not None:
            phrase += " " + _place(group.position, voice, d)
        things.append(phrase)
    text = d.pick((" and ", ", ", " plus ", " with ", ", also ")).join(things)
    lead = d.pick(
        ("", "", "draw ", "please draw ", "make an image of ", "show me ", "i want ", "a scene of ")
    )
    before_group = parts.background is not None and d.chance(0.25)
    if before_group:
        colour = _colour(parts.background or "", _PERSON, d)
        lead = d.pick(("a {} scene with ", "on {}, ", "{} backdrop, ")).format(colour)
    text = lead + text
    if parts.sign is not None:
        text += _wished_sign(parts.sign, d)
    if parts.background is not None and not before_group:
        colour = _colour(parts.background, _PERSON, d)
        template = d.pick(
            (
                " on a {} backdrop",
                ", {} backdrop",
                " with {} behind",
                ", all on {}",
                ", make it {} behind",
            )
        )
        text += template.format(colour)
    return text[0].upper() + text[1:] + "." if d.chance(0.2) else text


def _wished_sign(sign: Claim, d: Draws) -> str:
    text = sign.text or ""
    template = d.pick(
        (
            ' and a label saying "{text}"{where}',
            ', a board that spells "{text}"{where}',
            ', "{text}" on a label{where}',
            ' and the {letters} "{text}" written{where}',
        )
    )
    where = "" if sign.position is None else " " + _place(sign.position, _PERSON, d)
    letters = "letter" if len(text) == 1 else "letters"
    return template.format(text=text, where=where, letters=letters)


def _truth(claims: Sequence[Claim], d: Draws) -> str:
    return _dsc(claims, d) if d.chance(0.5) else _wish(claims, d)


# --- The web -------------------------------------------------------------------------------------


class _Given(NamedTuple):
    """How often a text of the web gives what."""

    number: float
    colour: float
    size: float
    texture: float
    place: float


_FAULTY: Final = _Given(NUMBER_GIVEN, COLOUR_GIVEN, SIZE_GIVEN, TEXTURE_GIVEN, PLACE_GIVEN)
# For `judge`, which needs the web's phrasings and not its silence.
_FAITHFUL: Final = _Given(number=0.7, colour=0.7, size=0.5, texture=0.4, place=0.4)


def _alt(claims: Sequence[Claim], d: Draws) -> str:
    if d.chance(USELESS):
        return _useless(d)
    return _web(claims, d, faulty=True)


def _web(claims: Sequence[Claim], d: Draws, *, faulty: bool) -> str:
    """Write of the main subject as the web does, with or without its mistakes."""
    main = _Parts(claims).groups[0]
    kind, count, position = main.object, main.count, main.position
    given = _FAULTY if faulty else _FAITHFUL
    wrong_kind = d.chance(WRONG_KIND) and faulty
    other = d.pick([name for name in OBJECTS if name != kind])
    wrong_number = d.chance(NUMBER_WRONG) and faulty
    other_number = d.pick([number for number in (1, 2, 3, 4) if number != count])
    wrong_place = d.chance(PLACE_WRONG) and faulty
    other_place = d.pick([name for name in POSITIONS if name != position])
    if wrong_place:
        position = other_place
    said = Claim(
        object=other if wrong_kind else kind,
        count=(other_number if wrong_number else count) if d.chance(given.number) else None,
        colour=main.colour if d.chance(given.colour) else None,
        size=main.size if d.chance(given.size) else None,
        texture=main.texture if d.chance(given.texture) else None,
    )
    phrase = _noun_phrase(said, _WEB, d, count=count)
    if d.chance(given.place) and position is not None:
        phrase += " " + _place(position, _WEB, d)
    template = d.pick(
        (
            "{}", "{}", "{} photo", "photo of {}", "{} - stock image", "buy {} online",
            "{} for sale", "free {} wallpaper", "my {}", "new {} 2019", "{} | best price",
            "{} download",
        )
    )  # fmt: skip
    text = template.format(phrase)
    case = d.uniform()
    if case < 0.25:
        return text.title()
    return text.upper() if case < 0.3 else text


def _useless(d: Draws) -> str:
    kind = d.uniform()
    number = int(d.uniform() * 10_000)
    if kind < 0.4:
        template = d.pick(("IMG_{:04d}", "DSC_{:04d}.JPG", "img{:04d}.jpg", "image-{:04d}"))
        return template.format(number)
    if kind < 0.65:
        return d.pick(
            (
                "free shipping - buy now", "best price online", "click here to subscribe",
                "new in our shop", "sale! half price today",
            )
        )  # fmt: skip
    if kind < 0.85:
        return d.pick(
            (
                "holiday with friends", "monday morning coffee", "my summer in the garden",
                "happy birthday", "how to cook rice",
            )
        )  # fmt: skip
    # A text without content; really empty ones would be rejected by every other source.
    return d.pick(("untitled", "photo", "image", "no title"))


def _judge(claims: Sequence[Claim], d: Draws) -> str:
    bounds = accumulate(JUDGE_MIX.values())
    u = d.uniform()
    style: Style = next((s for s, end in zip(JUDGE_MIX, bounds, strict=True) if u < end), "dsc")
    if style == "alt":
        return _web(claims, d, faulty=False)
    return _WRITERS[style](claims, d)


_WRITERS: Final[Mapping[Style, Callable[[Sequence[Claim], Draws], str]]] = {
    "alt": _alt,
    "ssc": _ssc,
    "dsc": _dsc,
    "human": _human,
    "truth": _truth,
    "judge": _judge,
}
