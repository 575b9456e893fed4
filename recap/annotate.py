"""Captions from a teacher for a subset of pictures: fine-tuning corpora, prompts, judge's texts.

Three teachers. `claims` writes the embedded world's language from the truth of each picture, or
with mistakes at stated rates, to learn what they cost.
`texts` takes what people wrote: one text alone is short, all of them joined are descriptive.
`endpoint` asks a vision-language model that looks at the picture (`recap.teacher`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from launch import keyed
from launch.errors import ConfigError, InputError
from launch.parts import pending
from launch.run import Run
from recap import artifacts, teacher
from recap.artifacts import CaptionRow, Images
from recap.claims import Claim
from recap.config import AnnotateConfig, MistakesConfig
from recap.quarantine import quarantine_of
from recap.sources.scenes.mistakes import Mistaken, mistake

Rows = Sequence[int] | Int64[np.ndarray, "N"]

CLAIMS_KINDS: Final = ("ssc", "dsc", "human", "truth", "shuffled", "judge")
"""Kinds that the `claims` teacher writes."""
TEXTS_KINDS: Final = ("ssc", "dsc", "human", "judge")
"""Kinds that the `texts` teacher writes."""
ENDPOINT_KINDS: Final = ("ssc", "dsc")
"""Kinds that the `endpoint` teacher writes."""
_KINDS: Final = {"claims": CLAIMS_KINDS, "texts": TEXTS_KINDS, "endpoint": ENDPOINT_KINDS}


def annotate(cfg: AnnotateConfig, run: Run) -> None:
    """Choose pictures, write each kind of caption for them, one part per image shard."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    images = artifacts.open_images(cfg.images)
    rows = choose_rows(images, cfg)
    _refuse(images, rows, cfg)
    shards = _by_shard(images, rows)
    plan: dict[str, object] = {
        "pictures": len(rows),
        "of the split": f"{cfg.split}, {len(_split_rows(images, cfg)):,} pictures",
        "teacher": cfg.teacher,
        "kinds": ", ".join(cfg.kinds),
    }
    if cfg.vlm is not None:
        teacher.refuse_processes()
        plan |= teacher.plan_of(cfg.vlm, kinds=cfg.kinds, num_pictures=len(rows))
    if not run.start(plan, recipe=None if cfg.vlm is None else {"code": teacher.CODE}):
        return

    names = [artifacts.caption_part_name(index) for index in range(len(shards))]
    if cfg.vlm is not None:
        _from_endpoint(cfg, run, images, dict(zip(names, shards, strict=True)))
        return
    partners = _partners(images, rows, cfg) if "shuffled" in cfg.kinds else {}
    left = set(pending(run.out, names))
    with run.progress(len(rows), label="annotate", unit="img") as progress:
        for name, shard_rows in zip(names, shards, strict=True):
            if name in left:
                captions = [
                    CaptionRow(
                        sample_id=images.sample_ids[row],
                        kind=cfg.stored_as.get(kind, kind),
                        text=text,
                    )
                    for kind in cfg.kinds
                    for row, text in zip(
                        shard_rows, _write(kind, images, shard_rows, partners, cfg), strict=True
                    )
                ]
                artifacts.write_caption_part(run.out / name, captions)
            progress.advance(len(shard_rows))
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={
            "rows_in": len(rows) * len(cfg.kinds),
            "rows_out": len(rows) * len(cfg.kinds),
            "pictures": len(rows),
        },
        parts=names,
        recipe=_mistakes_made(images, rows, cfg),
    )


def _from_endpoint(
    cfg: AnnotateConfig, run: Run, images: Images, shards: Mapping[str, Int64[np.ndarray, "_"]]
) -> None:
    """Write what a model behind an endpoint says; what breaks a rule is quarantined."""
    assert cfg.vlm is not None
    found = teacher.write_parts(cfg.vlm, run, kinds=cfg.kinds, images=images, shards=shards)
    num_pictures = sum(map(len, shards.values()))
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={
            "rows_in": num_pictures * len(cfg.kinds),
            "rows_out": found.rows_out,
            "pictures": num_pictures,
        },
        rejected={"gated": found.gated},
        parts=[path for name in shards for path in (run.out / name, quarantine_of(run.out, name))],
        recipe={"gated_by_rule": found.by_rule, "served_by": found.served_by},
    )


def _split_rows(images: Images, cfg: AnnotateConfig) -> Int64[np.ndarray, "N"]:
    return images.rows(None if cfg.split == "all" else cfg.split)


def choose_rows(images: Images, cfg: AnnotateConfig) -> Int64[np.ndarray, "N"]:
    """Choose the pictures to annotate, ascending; a smaller choice is part of a larger one.

    Raises:
        InputError: The split has fewer pictures than are asked for.
    """
    rows = _split_rows(images, cfg)
    if cfg.num_pictures is None:
        return rows
    if cfg.num_pictures > len(rows):
        raise InputError(
            f"{cfg.images}: split {cfg.split} has {len(rows):,} pictures, num_pictures asks for "
            f"{cfg.num_pictures:,}. Ask for fewer, or leave it out to take all."
        )
    sample_ids = [images.sample_ids[row] for row in rows]
    order = keyed.permutation(cfg.seed, "annotate.choice", epoch=0, ids=keyed.words(sample_ids))
    return np.sort(rows[order[: cfg.num_pictures]])


def _refuse(images: Images, rows: Int64[np.ndarray, "N"], cfg: AnnotateConfig) -> None:
    """Refuse kinds that the teacher cannot write and pictures that it knows nothing of."""
    known = _KINDS[cfg.teacher]
    wrong = [kind for kind in cfg.kinds if kind not in known]
    if wrong or not cfg.kinds or len(set(cfg.kinds)) < len(cfg.kinds):
        raise ConfigError(
            f"kinds: teacher {cfg.teacher} writes {', '.join(known)}, each at most once; got "
            f"{cfg.kinds}."
        )
    if not len(rows):
        raise InputError(f"{cfg.images}: split {cfg.split} has no pictures.")
    if "shuffled" in cfg.kinds and len(rows) < 2:
        raise InputError(f"{cfg.images}: shuffled captions need at least two pictures.")
    if cfg.teacher == "endpoint":
        return
    told = images.claims if cfg.teacher == "claims" else images.texts
    silent = [row for row in rows if not told[row]]
    if silent:
        what = "claims" if cfg.teacher == "claims" else "further texts"
        raise InputError(
            f"{cfg.images}: {len(silent):,} of {len(rows):,} pictures have no {what}, first "
            f"{images.sample_ids[silent[0]]}; teacher {cfg.teacher} needs them. Choose another "
            "teacher, or ingest a source that has them."
        )


def _by_shard(images: Images, rows: Int64[np.ndarray, "N"]) -> list[Int64[np.ndarray, "_"]]:
    return [np.intersect1d(images.shard_rows(shard), rows) for shard in images.shards]


def _write(
    kind: str,
    images: Images,
    rows: Int64[np.ndarray, "N"],
    partners: Mapping[int, int],
    cfg: AnnotateConfig,
) -> list[str]:
    """Write one kind of caption for some rows."""
    if cfg.teacher == "texts":
        return _from_texts(kind, images, rows, seed=cfg.seed)
    # A shuffled text is the very text that its own picture has as `truth`.
    of = [partners[int(row)] for row in rows] if kind == "shuffled" else rows
    return _from_claims("truth" if kind == "shuffled" else kind, images, of, cfg)


def _from_claims(kind: str, images: Images, rows: Rows, cfg: AnnotateConfig) -> list[str]:
    from recap.sources.scenes import language

    said: list[list[Claim]] = [images.claims[row] or [] for row in rows]
    if cfg.mistakes != MistakesConfig():
        said = [mistaken.claims for mistaken in _mistaken(images, rows, cfg)]
    sample_ids = [images.sample_ids[row] for row in rows]
    style = next(style for style in language.STYLES if style == kind)
    return language.write_all(said, style, sample_ids=sample_ids, seed=cfg.seed)


def _mistaken(images: Images, rows: Rows, cfg: AnnotateConfig) -> list[Mistaken]:
    return mistake(
        [images.claims[row] or [] for row in rows],
        sample_ids=[images.sample_ids[row] for row in rows],
        omission=cfg.mistakes.omission,
        hallucination=cfg.mistakes.hallucination,
        seed=cfg.seed,
    )


def _mistakes_made(images: Images, rows: Rows, cfg: AnnotateConfig) -> dict[str, Any]:
    """Return how many statements were left out and falsified; nothing where none were to be."""
    if cfg.mistakes == MistakesConfig():
        return {}
    made = _mistaken(images, rows, cfg)
    return {
        "mistakes_made": {
            "statements": sum(m.num_statements for m in made),
            "omitted": sum(m.num_omitted for m in made),
            "wrong": sum(m.num_wrong for m in made),
        }
    }


def _from_texts(kind: str, images: Images, rows: Rows, *, seed: int) -> list[str]:
    u = keyed.uniform(
        seed, f"text.{kind}", epoch=0, ids=keyed.words([images.sample_ids[row] for row in rows])
    )
    choose: Callable[[list[str], float], str]
    match kind:
        case "ssc":
            choose = lambda texts, _: tidy(texts[0])  # noqa: E731
        case "dsc":
            choose = lambda texts, _: " ".join(map(tidy, texts))  # noqa: E731
        case "human":
            choose = lambda texts, _: tidy(texts[-1])  # noqa: E731
        case "judge":
            choose = lambda texts, u: tidy(texts[int(u * len(texts))])  # noqa: E731
        case _:
            raise AssertionError(kind)
    return [choose(images.texts[row] or [], number) for row, number in zip(rows, u, strict=True)]


def tidy(text: str) -> str:
    """Give a person's text as a sentence: single spaces, a capital, one full stop and no more."""
    text = " ".join(text.split())
    for mark in ".,!?;":
        text = text.replace(f" {mark}", mark)
    text = text.rstrip(",;: ")
    if text and text[-1] not in '.!?"':
        text += "."
    return text[:1].upper() + text[1:]


def _partners(images: Images, rows: Int64[np.ndarray, "N"], cfg: AnnotateConfig) -> dict[int, int]:
    """Pair each row with another of its split: along a keyed circle, each takes the next one's."""
    splits = np.array([images.split[row] for row in rows], dtype=object)
    partners: dict[int, int] = {}
    for split in artifacts.SPLITS:
        of_split = rows[splits == split]
        if len(of_split) == 1:
            raise InputError(
                f"{cfg.images}: split {split} has one picture; shuffled captions need another."
            )
        if not len(of_split):
            continue
        ids = keyed.words([images.sample_ids[row] for row in of_split])
        circle = of_split[keyed.permutation(cfg.seed, "annotate.shuffled", epoch=0, ids=ids)]
        partners.update(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    return partners
