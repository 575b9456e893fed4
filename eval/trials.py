"""Which pairs of pictures are shown, in which order, and on which sides: all of it drawn by key.

A *comparison* is one question about two arms on one prompt; both pictures share prompt, noise seed
and training seed, so that only the captions of training differ. A *trial* is a comparison as it
stands on the page. Some comparisons are asked a second time with sides swapped; those repeats
measure the rater and enter no rating.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eval.config import PreferenceConfig
from eval.votes_artifact import Trial
from launch.errors import InputError
from launch.keyed import integers, permutation, uniform, words
from launch.manifest import canonical_json, digest_bytes
from t2i.artifacts import Generations


class Spot(NamedTuple):
    """What two pictures share that may be compared."""

    pair_id: str
    style: str
    model_seed: int
    seed: int


@dataclass(frozen=True)
class Shelf:
    """The pictures of one arm at its last snapshot, by what they share with other arms."""

    arm: str
    places: dict[Spot, tuple[Generations, int]]
    """Where each lies: artifact and row of its index."""

    ids: dict[Spot, tuple[str, str]]
    """`generation_id` and `prompt_id` of each."""


def shelves(generations: Sequence[Generations], styles: Sequence[str]) -> list[Shelf]:
    """Sort the last snapshot's pictures in some prompt styles by arm.

    Raises:
        InputError: Two artifacts hold the same arm and training seed, or arms differ in training.
    """
    found: dict[str, Shelf] = {}
    moments: dict[str, int] = {}
    for made in generations:
        shelf = found.setdefault(made.arm, Shelf(made.arm, {}, {}))
        last = made.samples_seen[-1] if made.samples_seen else 0
        moments[str(made.manifest.folder)] = last
        names = ("pair_id", "style", "seed", "samples_seen", "generation_id", "prompt_id")
        for row, (pair, style, seed, seen, generation, prompt) in enumerate(
            zip(*(made.table[n].to_pylist() for n in names), strict=True)
        ):
            if seen != last or style not in styles:
                continue
            spot = Spot(pair, style, made.model_seed, seed)
            if spot in shelf.places:
                raise InputError(
                    f"{made.manifest.folder}: arm {made.arm}, training seed {made.model_seed} has "
                    "two pictures of one prompt and noise seed; name every generations folder once."
                )
            shelf.places[spot] = (made, row)
            shelf.ids[spot] = (generation, prompt)
    if len(set(moments.values())) > 1:
        shown = ", ".join(f"{folder} {seen:,}" for folder, seen in moments.items())
        raise InputError(
            f"generations: models have seen different numbers of pictures ({shown}); a comparison "
            "of arms needs the same training. Name generations of models trained alike."
        )
    return list(found.values())


def arm_pairs(arms: Sequence[str], asked: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Return the pairs of arms that are compared, each once, in the order of `arms`.

    Raises:
        InputError: A pair names an arm without generations, or there are not two arms.
    """
    unknown = sorted({arm for pair in asked for arm in pair} - set(arms))
    if unknown:
        raise InputError(
            f"pairs: arm {unknown[0]!r} has no generations here; given are {', '.join(arms)}. "
            "Name its generations folder, or another arm."
        )
    if len(arms) < 2:
        raise InputError(
            f"generations: hold one arm, {', '.join(arms)}; a comparison needs two. Name the "
            "generations of another arm."
        )
    wanted = {frozenset(pair) for pair in asked}
    return [
        (one, other)
        for one, other in itertools.combinations(arms, 2)
        if not wanted or frozenset((one, other)) in wanted
    ]


def compared_of(stock: Mapping[str, Shelf], cfg: PreferenceConfig) -> list[Shelf]:
    """Return the arms that any comparison shows."""
    pairs = arm_pairs(list(stock), cfg.pairs)
    return [shelf for arm, shelf in stock.items() if any(arm in pair for pair in pairs)]


def make_trials(stock: Mapping[str, Shelf], cfg: PreferenceConfig) -> list[Trial]:
    """Draw the trials of a page, in its order.

    Args:
        stock: Pictures by arm.
        cfg: What is compared, how often, and the seed of every draw.

    Raises:
        InputError: An arm lacks pictures that another has, or fewer prompts than asked for have a
            picture in every style.
    """
    pairs = arm_pairs(list(stock), cfg.pairs)
    spots = _draw_spots(compared_of(stock, cfg), cfg)
    trials: list[Trial] = []
    for number, question in enumerate(cfg.questions):
        asked = [
            _trial(question, spot, stock[one], stock[other])
            for spot in spots
            for one, other in pairs
        ]
        ids = words([trial.trial_id for trial in asked])
        asked = [asked[i] for i in permutation(cfg.seed, "preference order", epoch=number, ids=ids)]
        ids = words([trial.trial_id for trial in asked])
        is_swapped = uniform(cfg.seed, "preference sides", epoch=0, ids=ids) < 0.5
        asked = [_swap(t) if s else t for t, s in zip(asked, is_swapped, strict=True)]
        trials += _with_repeats(asked, share=cfg.repeats)
    return [trial._replace(place=place) for place, trial in enumerate(trials)]


class Pool(NamedTuple):
    """What prompts are drawn from."""

    seeds: dict[tuple[str, str], list[tuple[int, int]]]
    """(pair, style) -> training and noise seeds of which every arm has a picture."""

    pairs: list[str]
    """Pairs with pictures in every style, sorted."""

    num_without: int
    """Pairs left out, for which no arm drew every style."""


def pool_of(compared: Sequence[Shelf], styles: Sequence[str]) -> Pool:
    """Return the prompts of which every arm has a picture in every style.

    Raises:
        InputError: An arm lacks pictures of prompts that another arm has.
    """
    shared = set.intersection(*(set(shelf.places) for shelf in compared))
    seeds: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for spot in sorted(shared):
        seeds.setdefault((spot.pair_id, spot.style), []).append((spot.model_seed, spot.seed))
    drawn = {(spot.pair_id, spot.style) for shelf in compared for spot in shelf.places}
    lacking = sorted(drawn - seeds.keys())
    if lacking:
        pair, style = lacking[0]
        spots = {shelf.arm: {s for s in shelf.places if s[:2] == lacking[0]} for shelf in compared}
        absent = min(spots, key=lambda arm: len(spots[arm]))
        raise InputError(
            f"generations: {len(lacking):,} prompts have no picture of one training and noise seed "
            f"in every arm, expected none; arm {absent} lacks prompt {pair}, style {style}, first. "
            "Sample the missing pictures: a comparison over what happens to be there is none."
        )
    pairs = {pair for pair, _ in seeds}
    whole = sorted(p for p in pairs if all((p, style) in seeds for style in styles))
    return Pool(seeds=seeds, pairs=whole, num_without=len(pairs) - len(whole))


def _draw_spots(compared: Sequence[Shelf], cfg: PreferenceConfig) -> list[Spot]:
    """Draw the prompts, and for each prompt and style one training seed and noise seed."""
    seeds, candidates, num_without = pool_of(compared, cfg.styles)
    if len(candidates) < cfg.num_prompts:
        raise InputError(
            f"generations: {len(candidates):,} prompts have a picture of every arm "
            f"({', '.join(s.arm for s in compared)}) in every style ({', '.join(cfg.styles)}) and "
            f"{num_without:,} lack a style, expected at least num_prompts={cfg.num_prompts:,}. "
            "Ask for fewer prompts or styles, or sample more."
        )
    ids = words([digest_bytes(p.encode()) for p in candidates])
    order = permutation(cfg.seed, "preference prompts", epoch=0, ids=ids)[: cfg.num_prompts]
    spots = []
    for pair in (candidates[i] for i in order):
        for style in cfg.styles:
            choices = seeds[pair, style]
            key = words([digest_bytes(canonical_json([pair, style]))])
            at = integers(cfg.seed, "preference seeds", epoch=0, ids=key, high=len(choices))
            model_seed, seed = choices[int(at[0])]
            spots.append(Spot(pair, style, model_seed, seed))
    return spots


def _trial(question: str, spot: Spot, one: Shelf, other: Shelf) -> Trial:
    """Return a trial whose id, which is on the page, is the same whatever the sides."""
    one, other = sorted((one, other), key=lambda shelf: shelf.arm)
    left, prompt = one.ids[spot]
    right, _ = other.ids[spot]
    what = [question, *spot, one.arm, other.arm]
    return Trial(
        trial_id=digest_bytes(canonical_json(what)),
        place=0,
        question=question,
        style=spot.style,
        pair_id=spot.pair_id,
        prompt_id=prompt,
        seed=spot.seed,
        model_seed=spot.model_seed,
        left_arm=one.arm,
        right_arm=other.arm,
        left_generation_id=left,
        right_generation_id=right,
        repeat_of=None,
    )


def _swap(trial: Trial) -> Trial:
    return trial._replace(
        left_arm=trial.right_arm,
        right_arm=trial.left_arm,
        left_generation_id=trial.right_generation_id,
        right_generation_id=trial.left_generation_id,
    )


def _with_repeats(asked: Sequence[Trial], *, share: float) -> list[Trial]:
    """Put swapped repeats of some trials of the first half among those of the second.

    Every repeat follows its original by at least half of the trials, so that memory fades.
    """
    num, half = round(share * len(asked)), (len(asked) + 1) // 2
    num = min(num, len(asked) - half)
    again: dict[int, Trial] = {}
    for place in np.linspace(0, len(asked) - half, num, endpoint=False).astype(int).tolist():
        trial = asked[place]
        again[place + half] = _swap(trial)._replace(
            trial_id=digest_bytes(canonical_json([trial.trial_id, "again"])),
            repeat_of=trial.trial_id,
        )
    found: list[Trial] = []
    for place, trial in enumerate(asked):
        found.append(trial)
        if place in again:
            found.append(again[place])
    return found
