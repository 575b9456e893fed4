"""Captions by a vision-language model behind an endpoint: one question a picture, for all kinds.

Each caption goes through the gates. A picture whose answer broke a rule of `recap.answers` has its
captions quarantined under that rule, with what the model said as their text; so that rows in are
rows out and rows quarantined. A part is written when the last of its pictures is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int64

from launch.errors import ConfigError
from launch.parts import pending
from launch.processes import world_size
from launch.run import Run
from recap import endpoint
from recap.artifacts import CaptionRow, Images
from recap.config import GateConfig, TeacherConfig
from recap.endpoint import LOST_RULES, Answer, Request, ask_all
from recap.gates import Written, broken_rules_of_part
from recap.pictures import as_jpeg
from recap.quarantine import Finished, store

CODE: Final = 1
"""Version of questions, reading and gates; raised whenever the same settings and answers give other
captions or flags."""
LEDGER: Final = "ledger.jsonl"
"""The answers, in the run folder; in no digest, since they stand in the order of their coming."""
USUAL_TOKENS: Final = {"ssc": 30}
"""Tokens of a usual caption of a kind, for the estimate of a plan alone."""
MANY_TOKENS: Final = 130
"""The same of any other kind: a description, or a list of tags."""


def plan_of(cfg: TeacherConfig, *, kinds: Sequence[str], num_pictures: int) -> dict[str, object]:
    """Say in a plan's words what pictures will cost."""
    return endpoint.plan_of(
        cfg.endpoint,
        num=num_pictures,
        num_bytes=len(cfg.instruction.encode()),
        schema=schema_of(kinds),
        has_pictures=True,
        output_tokens=sum(USUAL_TOKENS.get(kind, MANY_TOKENS) for kind in kinds),
    )


def schema_of(kinds: Sequence[str]) -> dict[str, Any]:
    """Return the form of an answer: one text of each kind."""
    return {
        "type": "object",
        "properties": {kind: {"type": "string"} for kind in kinds},
        "required": list(kinds),
        "additionalProperties": False,
    }


class Counts(NamedTuple):
    """What became of all captions."""

    rows_out: int
    gated: int
    by_rule: dict[str, int]
    served_by: dict[str, int]
    """Questions by the model that the server named."""


def refuse_processes() -> None:
    """Refuse several processes: one ledger is written by one, which asks many things at once.

    Raises:
        ConfigError: There are several.
    """
    if world_size() > 1:
        raise ConfigError(
            f"{world_size()} processes were started; a server is asked by one. Start the command "
            "without a launcher, and raise endpoint.concurrency."
        )


def write_parts(
    vlm: TeacherConfig,
    run: Run,
    *,
    kinds: Sequence[str],
    images: Images,
    shards: Mapping[str, Int64[np.ndarray, "_"]],
) -> Counts:
    """Ask for the captions of every picture, and write the parts that are not there.

    Args:
        vlm: Who is asked, and how.
        run: The run folder.
        kinds: Kinds of caption that each answer has.
        images: Opened images.
        shards: Rows of each part by its name.

    Raises:
        StoppedError: For some pictures the server only failed; their parts are not written.
    """
    names = list(shards)
    finished = Finished(run.out, vlm.gates)
    left = {name: len(shards[name]) for name in pending(run.out, names)}
    part_of = {images.sample_ids[row]: name for name in left for row in shards[name]}
    answers: dict[str, dict[str, Answer]] = {name: {} for name in left}
    lost: list[Answer] = []

    def requests() -> Iterator[Request]:
        form = schema_of(kinds)
        for name in left:
            for row in shards[name]:
                yield Request(
                    key=images.sample_ids[row],
                    instruction=vlm.instruction,
                    picture=as_jpeg(images.picture(int(row)), longest_px=vlm.picture_px),
                    schema=form,
                )

    with run.progress(sum(map(len, shards.values())), label=run.name) as progress:
        progress.resume(sum(map(len, shards.values())) - sum(left.values()))

        def keep(answer: Answer) -> None:
            name = part_of[answer.key]
            answers[name][answer.key] = answer
            progress.advance(1)
            if answer.rule in LOST_RULES:
                lost.append(answer)
            if len(answers[name]) == left[name]:
                found = answers.pop(name)
                if any(answer.rule in LOST_RULES for answer in found.values()):
                    return
                in_order = [found[images.sample_ids[row]] for row in shards[name]]
                store(run.out, name, captions_of(in_order, kinds=kinds, limits=vlm.gates))
                finished.look(names)

        # Empty shards have nobody to wait for.
        for name in [name for name, num in left.items() if not num]:
            store(run.out, name, [])
        done = ask_all(
            requests(),
            cfg=vlm.endpoint,
            ledger=vlm.ledger or run.out / LEDGER,
            on_answer=keep,
            out=run.out,
        )
    endpoint.tell(run, done)
    endpoint.stop_if_lost(lost, out=run.out, what="pictures")
    finished.look(names, is_final=True)
    return Counts(
        rows_out=finished.num_captions - finished.num_gated,
        gated=finished.num_gated,
        by_rule=dict(sorted(finished.rules.items())),
        served_by=endpoint.served_by(run.out),
    )


def captions_of(
    answers: Sequence[Answer], *, kinds: Sequence[str], limits: GateConfig
) -> list[CaptionRow]:
    """Return the captions of a part as they are stored, with the rules that each breaks as flags.

    Args:
        answers: One for each picture of the part.
        kinds: Kinds that each answer should have.
        limits: Of the rules.
    """
    rows = []
    good = [answer for answer in answers if answer.value is not None]
    for kind in kinds:
        texts = [" ".join(str((answer.value or {})[kind]).split()) for answer in good]
        flags = broken_rules_of_part([Written(text, "end") for text in texts], limits=limits)
        written = {
            answer.key: CaptionRow(
                sample_id=answer.key, kind=kind, text=text, stop_reason="end", flags=tuple(broken)
            )
            for answer, text, broken in zip(good, texts, flags, strict=True)
        }
        for answer in answers:
            lost = CaptionRow(sample_id=answer.key, kind=kind, text=answer.text)
            rule = str(answer.rule)
            rows.append(written.get(answer.key) or replace(lost, flags=(rule,)))
    return rows
