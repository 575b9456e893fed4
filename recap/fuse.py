"""Alt text and synthetic caption of a picture joined by a language model, so that names survive.

The model gets both texts and no picture. Its text goes through the gates and must keep the quoted
words, numbers and names of the alt text (`recap.kept_words`), or is quarantined under the rules
that it breaks. Where the alt text has nothing to add, nobody is asked and the caption stands as it
is. One question serves all pictures with the same two texts. A part is written when the last of
its pictures has its answer; one with a picture for which the server only failed is not.

Source: Yu et al., CapsFusion: Rethinking Image-Text Data at Scale (2023), for the idea.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int64

from launch.errors import InputError
from launch.parts import pending
from launch.run import Run
from recap import artifacts, endpoint
from recap.artifacts import CaptionRow, Images
from recap.caption import rows_by_part
from recap.config import FuseConfig
from recap.endpoint import LOST_RULES, Answer, Request, ask_all
from recap.gates import Written, broken_rules_of_part
from recap.kept_words import is_heading, lost
from recap.quarantine import Finished, quarantine_of, store

CODE: Final = 1
"""Version of questions and rules; raised whenever the same settings give other texts or flags."""

LEDGER: Final = "ledger.jsonl"
"""The answers, in the run folder; in no digest, since they stand in the order of their coming."""

USUAL_TOKENS: Final = 130
"""Tokens of a usual fused text, for the estimate of a plan alone."""

_FILE_NAME: Final = re.compile(
    r".*\.(?:jpe?g|png|webp|gif|bmp|tiff?|heic|avif|svg)|(?:img|dsc[nf]?|pict?|pxl|mvimg)[\W_]*\d\S*",
    re.IGNORECASE,
)


class Pair(NamedTuple):
    """The two texts of one picture."""

    sample_id: str
    alt: str
    caption: str

    @property
    def key(self) -> str:
        """Name of the question, equal for equal texts."""
        return blake2b(f"{self.alt}\0{self.caption}".encode(), digest_size=16).hexdigest()

    @property
    def is_asked(self) -> bool:
        """The alt text may have something to add."""
        alt = self.alt.lower()
        return bool(alt) and alt != self.caption.lower() and not _FILE_NAME.fullmatch(alt)


def fuse(cfg: FuseConfig, run: Run) -> None:
    """Fuse the texts of every picture of the chosen splits that has a caption."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    run.input("captions", cfg.captions, artifact=artifacts.CAPTIONS)
    images = artifacts.open_images(cfg.images)
    rows_of = rows_by_part(images, cfg.splits)
    num_pictures = sum(map(len, rows_of.values()))
    pairs_of = pairs_by_part(cfg, images=images, rows_of=rows_of)
    pairs = [pair for part in pairs_of.values() for pair in part]
    if not pairs:
        raise InputError(
            f"{cfg.captions}: none of the {num_pictures:,} pictures of {cfg.images} in splits "
            f"{', '.join(cfg.splits) or '(none)'} has a caption of kind {cfg.caption_kind!r}; "
            "give the captions of these pictures."
        )
    asked = {pair.key: pair for pair in pairs if pair.is_asked}
    kept = sum(not pair.is_asked for pair in pairs)
    plan: dict[str, object] = {
        "kind": cfg.kind,
        "pictures": num_pictures,
        "without a caption": num_pictures - len(pairs),
        "kept captions": kept,
        "questions": len(asked),
    }
    longest = max((len(_text(pair).encode()) for pair in asked.values()), default=0)
    plan |= endpoint.plan_of(
        cfg.endpoint,
        num=len(asked),
        num_bytes=len(cfg.instruction.encode()) + longest,
        output_tokens=USUAL_TOKENS,
    )
    if not run.start(plan, recipe={"code": CODE}):
        return
    finished = write_parts(cfg, run, pairs_of=pairs_of)
    rules = dict(sorted(finished.rules.items()))
    headings = sum(pair.is_asked and is_heading(pair.alt) for pair in pairs)
    counts = {"kept_caption": kept, "heading": headings, "by_rule": rules}
    run.log("fused", **counts)
    print(
        f"{run.verb}: {len(pairs):,} pictures, {kept:,} kept_caption, {finished.num_gated:,} gated"
        + "".join(f", {num:,} {rule}" for rule, num in rules.items()),
        flush=True,
    )
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={"rows_in": num_pictures, "rows_out": len(pairs) - finished.num_gated},
        rejected={"gated": finished.num_gated, "no_caption": num_pictures - len(pairs)},
        parts=[path for name in rows_of for path in (run.out / name, quarantine_of(run.out, name))],
        recipe={
            "gated_by_rule": rules,
            "kept_caption": kept,
            "headings": headings,
            "served_by": endpoint.served_by(run.out),
        },
    )


def pairs_by_part(
    cfg: FuseConfig, *, images: Images, rows_of: Mapping[str, Int64[np.ndarray, "_"]]
) -> dict[str, list[Pair]]:
    """Return the texts of each part's pictures that have a caption, blanks made one."""
    captions = artifacts.open_captions(cfg.captions).texts(cfg.caption_kind)
    return {
        name: [
            Pair(sample_id, " ".join(images.alt[row].split()), captions[sample_id])
            for row in rows
            if (sample_id := images.sample_ids[row]) in captions
        ]
        for name, rows in rows_of.items()
    }


def write_parts(cfg: FuseConfig, run: Run, *, pairs_of: Mapping[str, Sequence[Pair]]) -> Finished:
    """Ask for what the ledger has not, and write the parts that are not there.

    Raises:
        StoppedError: For some texts the server only failed; parts with them are not written.
    """
    names, num = list(pairs_of), sum(map(len, pairs_of.values()))
    finished = Finished(run.out, cfg.gates)
    left = pending(run.out, names)
    waiting: dict[str, set[str]] = {}
    parts_of: dict[str, list[str]] = defaultdict(list)
    texts: dict[str, str] = {}
    for name in left:
        asked = {pair.key: pair for pair in pairs_of[name] if pair.is_asked}
        waiting[name] = set(asked)
        for key, pair in asked.items():
            parts_of[key].append(name)
            texts[key] = _text(pair)
    answers: dict[str, Answer] = {}
    lost: list[Answer] = []

    def requests() -> Iterator[Request]:
        for key, text in texts.items():
            yield Request(key=key, instruction=cfg.instruction, text=text)

    def write(name: str) -> None:
        store(run.out, name, captions_of(pairs_of[name], answers, cfg=cfg))
        progress.advance(len(pairs_of[name]))

    with run.progress(num, label=run.name) as progress:
        progress.resume(num - sum(len(pairs_of[name]) for name in left))

        def keep(answer: Answer) -> None:
            if answer.rule in LOST_RULES:
                lost.append(answer)
                return  # whose parts go on waiting
            answers[answer.key] = answer
            for name in parts_of[answer.key]:
                waiting[name].discard(answer.key)
                if not waiting[name]:
                    write(name)
                    finished.look(names)

        for name in [name for name in left if not waiting[name]]:
            write(name)
        ledger = cfg.ledger or run.out / LEDGER
        done = ask_all(requests(), cfg=cfg.endpoint, ledger=ledger, on_answer=keep, out=run.out)
    endpoint.tell(run, done)
    endpoint.stop_if_lost(lost, out=run.out, what="questions")
    finished.look(names, is_final=True)
    return finished


def captions_of(
    pairs: Sequence[Pair], answers: Mapping[str, Answer], *, cfg: FuseConfig
) -> list[CaptionRow]:
    """Return the texts of a part as they are stored, with the rules that each breaks as flags.

    Args:
        pairs: Texts of the part's pictures.
        answers: By the key of the pair, for each that is asked.
        cfg: Holds the kind and the limits of the rules.
    """
    said = {p.key: " ".join(answers[p.key].text.split()) for p in pairs if p.is_asked}
    fused = [p for p in pairs if p.is_asked and answers[p.key].rule is None]
    flags = broken_rules_of_part([Written(said[p.key], "end") for p in fused], limits=cfg.gates)
    broken = {
        pair.sample_id: (*found, *lost(pair.alt, said[pair.key]))
        for pair, found in zip(fused, flags, strict=True)
    }
    rows = []
    for pair in pairs:
        if not pair.is_asked:
            rows.append(CaptionRow(sample_id=pair.sample_id, kind=cfg.kind, text=pair.caption))
            continue
        found = broken.get(pair.sample_id, (str(answers[pair.key].rule),))
        text = said[pair.key]
        rows.append(
            CaptionRow(
                sample_id=pair.sample_id, kind=cfg.kind, text=text, stop_reason="end", flags=found
            )
        )
    return rows


def _text(pair: Pair) -> str:
    return f"Alt text: {pair.alt}\nCaption: {pair.caption}"
