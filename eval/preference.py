"""`eval preference`: a page on which people compare blinded pairs of pictures, and its key.

Writes

* `page.html`: the page, which opens from disk and asks for nothing else. It knows trials by ids
  that say nothing of arms or sides; hand out this file alone,
* `key.parquet`: which arm stands where, for `eval votes`.

Which pairs are shown is drawn in `eval.trials`; what a rater does on the page is
`templates/preference.js`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval.config import PreferenceConfig, Question
from eval.page import render
from eval.thumbnails import PIXELATED_SIDE, data_uri
from eval.trials import Shelf, compared_of, make_trials, pool_of, shelves
from eval.votes_artifact import (
    KEY,
    PAGE,
    PREFERENCE,
    PREFERENCE_VERSION,
    Trial,
    write_key,
)
from launch.errors import ArtifactError, ConfigError, InputError
from launch.manifest import canonical_json, digest_bytes, write_bytes
from launch.run import Run
from t2i.artifacts import (
    GENERATIONS,
    PROMPTS,
    Generations,
    Prompts,
    open_generations,
    open_prompts,
)

_QUALITY = 92
"""Quality of a larger picture's JPEG: above that of the report, since its faults are judged."""

_BYTES = 60_000
"""Bytes of one such picture, roughly; smaller ones take less."""


class Asked(NamedTuple):
    """How a question is put."""

    question: str
    advice: str
    shows_prompt: bool


QUESTIONS: dict[Question, Asked] = {
    "prompt_following": Asked(
        "Which picture follows the text better?",
        "Read the whole text. Count what it asks for that is there and as described, and what is "
        "missing or wrong. Leave aside which picture is prettier.",
        True,
    ),
    "style": Asked(
        "Which picture would you rather have?",
        "A program made both from one text, which you do not see. Go by looks and taste alone.",
        False,
    ),
    "coherence": Asked(
        "Which picture holds together better?",
        "Look for what could not be so: things malformed, cut off or run into each other, parts "
        "missing or too many. Leave aside which picture is prettier.",
        False,
    ),
}
"""The three questions that Betker et al. 2023, "Improving image generation with better captions",
section 4, put to their raters, in our words. The text is shown for the first alone."""


def preference(cfg: PreferenceConfig, run: Run) -> None:
    """Write the page of a blinded comparison and its key."""
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    generations = [open_generations(folder) for folder in cfg.generations]
    prompts = open_prompts(cfg.prompts)
    _refuse_other_prompts(generations, prompts, cfg)
    stock = {shelf.arm: shelf for shelf in shelves(generations, cfg.styles)}
    _refuse_named_arms(cfg.title, list(stock))
    trials = make_trials(stock, cfg)
    num_pictures = len({g for t in trials for g in (t.left_generation_id, t.right_generation_id)})
    pool = pool_of(compared_of(stock, cfg), cfg.styles)
    plan: dict[str, object] = {
        "arms": ", ".join(stock),
        "prompts": f"{cfg.num_prompts:,} drawn of {len(pool.pairs):,}; "
        f"{pool.num_without:,} lack a style",
        "questions": ", ".join(cfg.questions),
        "comparisons": sum(t.repeat_of is None for t in trials),
        "repeats": sum(t.repeat_of is not None for t in trials),
        "pictures": num_pictures,
    }
    if not run.start(plan, minutes=0.2, gib=num_pictures * _BYTES / 2**30):
        return

    pictures = _read_pictures(trials, stock, max_side=cfg.max_side)
    content = _content(trials, pictures, prompts, cfg)
    page = render(
        "preference.html.j2",
        styles=("report.css", "preference.css"),
        script="preference.js",
        title=cfg.title,
        content=content,
        picture_class="pixelated" if pictures.side <= PIXELATED_SIDE else "",
    )
    write_bytes(run.out / PAGE, page)
    write_key(run.out / KEY, trials)
    run.finish(
        artifact=PREFERENCE,
        version=PREFERENCE_VERSION,
        counts={
            "trials": len(trials),
            "repeats": sum(t.repeat_of is not None for t in trials),
            "pictures": num_pictures,
            "prompts": len(pool.pairs) + pool.num_without,
            "prompts_without_a_style": pool.num_without,
        },
        parts=[PAGE, KEY],
        recipe={"arms": list(stock), "page": content["page"]},
    )


def _refuse_other_prompts(
    generations: Sequence[Generations], prompts: Prompts, cfg: PreferenceConfig
) -> None:
    """Refuse generations that answer other prompts than those given."""
    for made in generations:
        if prompts.manifest.digest not in {i.digest for i in made.manifest.inputs}:
            raise ArtifactError(
                f"{made.manifest.folder}: was not sampled from the prompts of "
                f"{prompts.manifest.folder} (digest {prompts.manifest.digest[:12]}); raters would "
                "read texts that the pictures do not answer. Name the prompts it was made from."
            )
    unknown = [style for style in cfg.styles if style not in prompts.styles]
    if unknown:
        raise InputError(
            f"{prompts.manifest.folder}: has no prompts of style {unknown[0]!r}; it has "
            f"{', '.join(prompts.styles)}. Name one of these in styles."
        )


def _refuse_named_arms(title: str, arms: Sequence[str]) -> None:
    for arm in arms:
        if re.search(rf"(?<![a-z0-9]){re.escape(arm.lower())}(?![a-z0-9])", title.lower()):
            raise ConfigError(
                f"title: {title!r} names arm {arm!r}, and raters read it; give a heading that "
                "says nothing of what is compared."
            )


# --------------------------------------------------------------------------- content


class Pictures(NamedTuple):
    """The pictures of a page."""

    uris: dict[str, str]
    """By `generation_id`."""

    side: int
    """Longer side in pixels, before any is made smaller."""


def _read_pictures(
    trials: Sequence[Trial], stock: Mapping[str, Shelf], *, max_side: int
) -> Pictures:
    """Read every picture of some trials once.

    Raises:
        InputError: Pictures of two arms differ in size, which would tell one from the other.
    """
    wanted = {g for t in trials for g in (t.left_generation_id, t.right_generation_id)}
    uris: dict[str, str] = {}
    sizes: dict[tuple[int, int], str] = {}
    for arm, shelf in stock.items():
        for spot, (generation, _) in shelf.ids.items():
            if generation not in wanted:
                continue
            made, row = shelf.places[spot]
            pixels = made.pixels([row])[0]
            sizes.setdefault((pixels.shape[0], pixels.shape[1]), arm)
            uris[generation] = data_uri(pixels, max_side=max_side, quality=_QUALITY)
    if len(sizes) > 1:
        shown = ", ".join(f"{w} by {h} (arm {arm})" for (h, w), arm in sizes.items())
        raise InputError(
            f"generations: pictures differ in size, {shown}; raters could tell arms apart by it. "
            "Sample all arms at one size."
        )
    return Pictures(uris=uris, side=int(np.max(list(sizes))))


def _content(
    trials: Sequence[Trial], pictures: Pictures, prompts: Prompts, cfg: PreferenceConfig
) -> dict[str, Any]:
    """Return what the page's script reads, with the digest by which votes name it.

    Pictures are numbered as they first appear, so their order says nothing of arms.
    """
    numbers: dict[str, int] = {}
    for trial in trials:
        for generation in (trial.left_generation_id, trial.right_generation_id):
            numbers.setdefault(generation, len(numbers))
    texts = {style: prompts.texts(style) for style in cfg.styles}
    shown: list[dict[str, Any]] = []
    for trial in trials:
        asked = {
            "id": trial.trial_id,
            "question": trial.question,
            "left": numbers[trial.left_generation_id],
            "right": numbers[trial.right_generation_id],
        }
        if QUESTIONS[trial.question].shows_prompt:
            asked["prompt"] = texts[trial.style][trial.pair_id]
        shown.append(asked)
    content: dict[str, Any] = {
        "questions": {q: QUESTIONS[q]._asdict() for q in cfg.questions},
        "trials": shown,
        "pictures": [pictures.uris[generation] for generation in numbers],
    }
    return {"page": digest_bytes(canonical_json(content)), **content}
