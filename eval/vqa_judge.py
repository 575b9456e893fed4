"""B-VQA: the product over a prompt's noun phrases of how probable "yes" is to "<phrase>?".

Pictures are looked at in parts, and a part that is written is not looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from eval.blip_vqa import BlipVqa
from eval.config import VqaConfig
from eval.judge_artifact import answers_table, read_answers
from eval.judged_pictures import Judged, Pictures, Source
from eval.phrases import Phrases, phrases_of
from launch.errors import ArtifactError, ConfigError, StoppedError
from launch.manifest import SCRATCH, write_parquet
from launch.parts import pending
from launch.run import Run
from recap.pictures import NO_LIMIT, PictureError, decode
from t2i.artifacts import Prompt

METRIC: Final = "phrases_yes"

CODE: Final = 1
"""Version of phrases, questions and reading; raised whenever the same model and pictures give other
scores."""

PART: Final = 256
"""Pictures of a part."""


class Block(NamedTuple):
    """A part of the work: some pictures of one source."""

    name: str
    """File of its answers."""

    source: Source
    places: range


def find_phrases(
    prompts: Mapping[str, tuple[Prompt, str]],
    *,
    given: Mapping[str, Sequence[str]] | None,
    cfg: VqaConfig,
) -> dict[str, Phrases]:
    """Return the phrases of every prompt that has any, by `prompt_id`.

    Raises:
        ConfigError: More prompts have none than the limit allows.
    """
    found = {
        prompt_id: phrases_of(prompt, text=text, given=given)
        for prompt_id, (prompt, text) in prompts.items()
    }
    none = [prompt_id for prompt_id, phrases in found.items() if not phrases.texts]
    if len(none) > cfg.max_rejected_share * len(found) or len(none) == len(found):
        raise ConfigError(
            f"vqa: {len(none):,} of {len(found):,} prompts have no noun phrase, first "
            f"{prompts[none[0]][1][:80]!r}; at most vqa.max_rejected_share="
            f"{cfg.max_rejected_share:g} may have none. Give them in a file (vqa.phrases), or "
            "raise the limit."
        )
    return {prompt_id: phrases for prompt_id, phrases in found.items() if phrases.texts}


def blocks_of(pictures: Pictures) -> list[Block]:
    """Cut the work into parts; they are the same whenever it is started again."""
    return [
        Block(
            f"{SCRATCH}/vqa/{source.name}-{start // PART:05d}.parquet",
            source,
            range(start, min(start + PART, len(source.judged))),
        )
        for source in pictures.sources
        for start in range(0, len(source.judged), PART)
    ]


def look(
    run: Run, *, model: BlipVqa, pictures: Pictures, phrases: Mapping[str, Phrases]
) -> pa.Table:
    """Ask about every phrase of every picture and return all answers."""
    blocks = blocks_of(pictures)
    left = set(pending(run.out, [block.name for block in blocks]))
    with run.progress(len(pictures), label="judge") as progress:
        progress.resume(sum(len(b.places) for b in blocks if b.name not in left))
        for block in blocks:
            if block.name not in left:
                continue
            rows: list[dict[str, Any]] = []
            places = [p for p in block.places if _prompt_id(block.source, p) in phrases]
            for start in range(0, len(places), model.cfg.batch_size):
                batch = places[start : start + model.cfg.batch_size]
                rows += _batch(model, block.source, batch, phrases=phrases)
                progress.advance(len(batch))
            progress.advance(len(block.places) - len(places))
            write_parquet(run.out / block.name, answers_table(rows))
    return pa.concat_tables([read_answers(run.out / block.name) for block in blocks])


def _prompt_id(source: Source, place: int) -> str:
    return source.judged[place].prompt.prompt_id


def _batch(
    model: BlipVqa, source: Source, places: Sequence[int], *, phrases: Mapping[str, Phrases]
) -> list[dict[str, Any]]:
    """Ask about a batch of pictures."""
    states = model.picture_states([_open(source, place) for place in places])
    asked = [
        (number, place, text)
        for number, place in enumerate(places)
        for text in phrases[_prompt_id(source, place)].texts
    ]
    answers = model.yes_probability(
        states,
        about=[number for number, *_ in asked],
        questions=[f"{text}?" for *_, text in asked],
    )
    rows: list[dict[str, Any]] = []
    count = Counter[int]()
    for (number, place, text), probability in zip(asked, answers.tolist(), strict=True):
        count[number] += 1
        rows.append(
            {
                **source.judged[place].columns,
                "number": count[number],
                "question": f"{text}?",
                "probability": probability,
            }
        )
    return rows


def _open(source: Source, place: int) -> Image.Image:
    data = source.read(place)
    try:
        return decode(data, max_pixels=NO_LIMIT)
    except PictureError as error:
        raise ArtifactError(
            f"generation {source.judged[place].generation_id} cannot be read as a picture "
            f"({error}); sample it again"
        ) from error


class Scored(NamedTuple):
    """Score rows, and what became of pictures."""

    rows: list[dict[str, Any]]
    rejected: Counter[str]


def score_rows(judged: Sequence[Judged], answers: pa.Table) -> Scored:
    """Multiply the probabilities of every picture's phrases.

    Raises:
        StoppedError: A probability is no finite number.
    """
    products: dict[str, float] = {}
    columns = (answers[name].to_pylist() for name in ("generation_id", "probability"))
    for generation_id, probability in zip(*columns, strict=True):
        if not np.isfinite(probability):
            raise StoppedError(
                f"generation {generation_id}: the model's probability is {probability}; its "
                "weights or its precision do not suit it. Try vqa.precision=float32."
            )
        products[generation_id] = products.get(generation_id, 1.0) * probability
    rows = [
        {
            **picture.columns, "metric": METRIC, "scoring": None, "axis": None,
            "value": products[picture.generation_id],
        }
        for picture in judged
        if picture.generation_id in products
    ]  # fmt: skip
    return Scored(rows, Counter({"no_phrase": len(judged) - len(rows)}))


def describe(
    model: BlipVqa,
    *,
    weights: str,
    phrases: Mapping[str, Phrases],
    originals: Mapping[str, str],
) -> dict[str, Any]:
    """Return everything that the scores depend on, for a recipe."""
    texts = sorted({f"{text}?" for found in phrases.values() for text in found.texts})
    return {
        **model.describe(),
        "weights": weights,
        "phrases_from": dict(sorted(Counter(f.source for f in phrases.values()).items())),
        "truncation_rate": model.read(texts).num_cut / len(texts),
        "judged_by": dict(originals),
    }
