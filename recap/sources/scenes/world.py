"""What each scene of the embedded world contains: a pure function of (seed, sample_id).

A scene has a background, one or two groups of like objects on a grid of four quadrants, and
sometimes a sign with one or two letters. Drawing it is `draw`'s business, telling of it
`language`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Final, TypeVar

import numpy as np
from jaxtyping import Float

from launch import keyed
from recap.claims import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    OBJECTS,
    QUADRANTS,
    SIZES,
    Claim,
)

T = TypeVar("T")

SIGN_SHARE: Final = 0.15
"""Share of scenes with a sign."""
TWO_GROUPS_SHARE: Final = 0.6
"""Share of scenes with two groups."""
STRIPED_SHARE: Final = 0.25
"""Share of groups with stripes; the others are plain."""
MAX_OBJECTS: Final = 4
"""Objects and sign together fill at most the four quadrants."""

_LINES: Final = {"top": (0, 1), "bottom": (2, 3), "left": (0, 2), "right": (1, 3)}
_STREAM: Final = "scene"
_NUM_DRAWS: Final = 16


@dataclass(frozen=True, kw_only=True)
class Group:
    """Like objects and the quadrants that they stand in (0 to 3 in reading order)."""

    kind: str
    colour: str
    size: str
    texture: str
    quadrants: tuple[int, ...]

    @property
    def claim(self) -> Claim:
        """What is true of the group."""
        return Claim(
            object=self.kind,
            count=len(self.quadrants),
            colour=self.colour,
            size=self.size,
            texture=self.texture,
            position=place(self.quadrants),
        )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that a picture shows; the main subject is the first group."""

    background: str
    groups: tuple[Group, ...]
    sign: str | None = None
    sign_quadrant: int | None = None

    @property
    def claims(self) -> list[Claim]:
        """The whole truth: groups, main subject first, then the sign, then the background."""
        claims = [group.claim for group in self.groups]
        if self.sign is not None and self.sign_quadrant is not None:
            claims.append(
                Claim(object="sign", text=self.sign, position=QUADRANTS[self.sign_quadrant])
            )
        return [*claims, Claim(object="background", colour=self.background)]


def place(quadrants: Sequence[int]) -> str | None:
    """Name where objects stand: a quadrant for one, a row or column for two, nothing for more."""
    if len(quadrants) == 1:
        return QUADRANTS[quadrants[0]]
    return next((name for name, line in _LINES.items() if line == tuple(quadrants)), None)


@cache
def _layouts(num_groups: int, has_sign: bool) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """List ways to share out the quadrants, once per choice of counts and then all placements."""
    blocks = [
        block
        for size in (1, 2, 3)
        for block in combinations(range(4), size)
        if size != 2 or place(block) is not None
    ]
    capacity = MAX_OBJECTS - has_sign
    layouts: list[tuple[tuple[int, ...], ...]] = [(block,) for block in blocks]
    if num_groups == 2:
        layouts = [(a, b) for a in blocks for b in blocks if not set(a) & set(b)]
    return tuple(x for x in layouts if sum(map(len, x)) <= capacity)


@cache
def _layouts_by_counts(
    num_groups: int, has_sign: bool
) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]:
    by_counts: dict[tuple[int, ...], list[tuple[tuple[int, ...], ...]]] = {}
    for layout in _layouts(num_groups, has_sign):
        by_counts.setdefault(tuple(map(len, layout)), []).append(layout)
    return tuple(tuple(layouts) for _, layouts in sorted(by_counts.items()))


def compose(seed: int, sample_ids: Sequence[str]) -> list[Scene]:
    """Decide what each picture of a world shows.

    Args:
        seed: Seed of the world.
        sample_ids: Identities of the pictures, 32 hexadecimal digits each.
    """
    ids = keyed.words(sample_ids)
    draws = keyed.uniform(seed, _STREAM, epoch=0, ids=ids, count=_NUM_DRAWS)
    return [_scene(row) for row in draws]


def _pick(options: Sequence[T], u: float) -> T:
    return options[int(u * len(options))]


def _scene(u: Float[np.ndarray, "16"]) -> Scene:
    has_sign = u[0] < SIGN_SHARE
    num_groups = 2 if u[1] < TWO_GROUPS_SHARE else 1
    layout = _pick(_pick(_layouts_by_counts(num_groups, bool(has_sign)), u[2]), u[3])
    groups: list[Group] = []
    for index, quadrants in enumerate(layout):
        kind, colour, size, texture = u[4 + 4 * index : 8 + 4 * index]
        name = _pick(OBJECTS, kind)
        # Two groups of one kind must differ in colour, or they would be one group.
        taken = [group.colour for group in groups if group.kind == name]
        groups.append(
            Group(
                kind=name,
                colour=_pick([c for c in COLOURS if c not in taken], colour),
                size=_pick(SIZES, size),
                texture="striped" if texture < STRIPED_SHARE else "plain",
                quadrants=quadrants,
            )
        )
    # The main subject must be visible in the picture: the larger, then the more numerous, then
    # the first in reading order.
    groups.sort(key=lambda g: (g.size != "large", -len(g.quadrants), g.quadrants))
    sign = sign_quadrant = None
    if has_sign:
        free = sorted(set(range(4)).difference(*layout))
        sign_quadrant = _pick(free, u[12])
        num_letters = 1 if u[13] < 0.5 else 2
        sign = "".join(_pick(LETTERS, x) for x in u[14 : 14 + num_letters])
    return Scene(
        background=_background(u[0]),
        groups=tuple(groups),
        sign=sign,
        sign_quadrant=sign_quadrant,
    )


def _background(u: float) -> str:
    """Choose the background from the part of the number that did not decide about the sign."""
    share = u / SIGN_SHARE if u < SIGN_SHARE else (u - SIGN_SHARE) / (1 - SIGN_SHARE)
    return _pick(BACKGROUNDS, share)
