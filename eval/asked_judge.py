"""A vision-language model behind an endpoint as a judge: each question once, each answer read.

A question is known by the picture's bytes, its own words, the instruction and the model: equal
pictures are asked about once, whoever drew them, and what the ledger has is never asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from eval.config import AskedConfig
from eval.judge_artifact import LONGEST_ANSWER
from eval.judge_rows import FORMULA, Asked
from eval.judged_pictures import Judged, Pictures
from eval.yes_no import NO, YES, read_answer, truth
from launch.errors import ArtifactError, StoppedError
from launch.manifest import digest_bytes
from launch.run import Run
from recap.endpoint import (
    LOST_RULES,
    Answer,
    Expected,
    Request,
    ask_all,
    expect,
    served_by,
    stop_if_lost,
    tell,
)
from recap.pictures import JPEG_QUALITY, NO_LIMIT, PictureError, shrink

LEDGER: Final = "ledger.jsonl"
"""The answers as they came, in the run folder; in no digest, for they stand in that order."""

READING: Final = (
    "the first word decides; anything but yes and no has a rule's name (eval/yes_no.py)"
)


class Read(NamedTuple):
    """An answer as it was read."""

    verdict: str
    """`yes`, `no`, or the rule by which it is neither."""

    words: str


@dataclass
class Verdicts:
    """What was answered."""

    key_of: dict[tuple[str, int], str] = field(default_factory=dict)
    """(generation_id, number of the question) -> key of the request that it shares."""

    read: dict[str, Read] = field(default_factory=dict)
    """By key."""

    served_by: dict[str, int] = field(default_factory=dict)
    """Answers by the model that the server named."""

    def of(self, picture: Judged, number: int) -> Read:
        """Return what was answered about a picture."""
        return self.read[self.key_of[picture.generation_id, number]]

    def truth(self, picture: Judged, number: int) -> bool | None:
        """Return True for yes, False for no, None for neither."""
        return truth(self.of(picture, number).verdict)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many requests were answered yes, no, and by each rule neither."""
        return dict(sorted(Counter(read.verdict for read in self.read.values()).items()))


def expected(cfg: AskedConfig, *, asked: Mapping[str, list[Asked]], num: int) -> Expected:
    """Estimate tokens and cost of so many questions."""
    lengths = [len(a.question.encode()) for of_prompt in asked.values() for a in of_prompt]
    return expect(
        cfg.endpoint,
        num=num,
        num_bytes=len(cfg.instruction.encode()) + max(lengths, default=0),
        has_pictures=True,
        output_tokens=2,
    )


def ask(
    cfg: AskedConfig, run: Run, *, pictures: Pictures, asked: Mapping[str, list[Asked]]
) -> Verdicts:
    """Ask every question about every picture.

    Args:
        cfg: The judge.
        run: The run folder.
        pictures: What is judged.
        asked: Questions by `prompt_id`.

    Raises:
        StoppedError: For some questions the server only failed, or more answers are neither yes
            nor no than the limit allows.
    """
    found = Verdicts()
    total = sum(len(asked[j.prompt.prompt_id]) for j in pictures.judged)
    waiting: dict[str, int] = {}
    num_unclear = 0
    lost: list[Answer] = []

    def requests() -> Iterator[Request]:
        for source in pictures.sources:
            for place, picture in enumerate(source.judged):
                of_prompt = asked[picture.prompt.prompt_id]
                if not of_prompt:
                    continue
                data = source.read(place)
                name, jpeg = digest_bytes(data), _sent(data, picture, cfg)
                for question in of_prompt:
                    key = f"{name}:{digest_bytes(question.question.encode())}"
                    found.key_of[picture.generation_id, question.number] = key
                    if key in found.read:
                        progress.advance(1)
                    elif key in waiting:
                        waiting[key] += 1
                    else:
                        waiting[key] = 1
                        yield Request(
                            key=key,
                            instruction=cfg.instruction,
                            text=question.question,
                            picture=jpeg,
                        )

    def keep(answer: Answer) -> None:
        nonlocal num_unclear
        verdict = read_answer(answer.text, rule=answer.rule)
        found.read[answer.key] = Read(verdict, answer.text[:LONGEST_ANSWER])
        num = waiting.pop(answer.key)
        progress.advance(num)
        if answer.rule in LOST_RULES:
            lost.append(answer)
            return
        num_unclear += num * (truth(verdict) is None)
        if num_unclear > cfg.max_unclear_share * total:
            raise _too_unclear(cfg, found, num_unclear, total)

    with run.progress(total, label="judge", unit="question") as progress:
        done = ask_all(
            requests(),
            cfg=cfg.endpoint,
            ledger=cfg.ledger or run.out / LEDGER,
            on_answer=keep,
            out=run.out,
        )
    tell(run, done)
    stop_if_lost(lost, out=run.out, what="questions")
    found.served_by = served_by(run.out)
    num_unclear = sum(found.truth(j, a.number) is None
                      for j in pictures.judged for a in asked[j.prompt.prompt_id])  # fmt: skip
    if num_unclear > cfg.max_unclear_share * total:
        raise _too_unclear(cfg, found, num_unclear, total)
    return found


def _sent(data: bytes, picture: Judged, cfg: AskedConfig) -> bytes:
    try:
        return shrink(data, longest_px=cfg.picture_px, max_pixels=NO_LIMIT)
    except PictureError as error:
        raise ArtifactError(
            f"generation {picture.generation_id} cannot be read as a picture ({error}); sample it "
            "again"
        ) from error


def _too_unclear(cfg: AskedConfig, found: Verdicts, num: int, total: int) -> StoppedError:
    rules = {rule: n for rule, n in found.counts.items() if rule not in (YES, NO, *LOST_RULES)}
    told = ", ".join(f"{rule} {n:,}" for rule, n in rules.items())
    example = next(read for read in found.read.values() if read.verdict in rules)
    return StoppedError(
        f"{num:,} of {total:,} answers are neither yes nor no ({told}; one says "
        f"{example.words[:200]!r}), at most asked.max_unclear_share={cfg.max_unclear_share:g} may "
        "be. Every answer is kept. Change asked.instruction or asked.endpoint.max_output_tokens, "
        "which asks all anew, or raise the limit, which asks nothing that was answered."
    )


def answer_rows(
    pictures: Pictures, *, asked: Mapping[str, list[Asked]], verdicts: Verdicts
) -> list[dict[str, Any]]:
    """Return the rows of `answers.parquet`."""
    rows = []
    for picture in pictures.judged:
        for question in asked[picture.prompt.prompt_id]:
            read = verdicts.of(picture, question.number)
            told = {"answer": read.words, "verdict": read.verdict}
            rows.append({**picture.columns, **question._asdict(), **told})
    return rows


def describe(
    cfg: AskedConfig, verdicts: Verdicts, *, originals: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that the scores depend on, for a recipe."""
    return {
        "model": cfg.endpoint.model,
        "version": verdicts.served_by,
        "instruction": cfg.instruction,
        "prompt_question": cfg.prompt_question if "prompt" in cfg.ask else None,
        "temperature": cfg.endpoint.temperature,
        "seed": cfg.endpoint.seed,
        "max_output_tokens": cfg.endpoint.max_output_tokens,
        "picture": f"JPEG of quality {JPEG_QUALITY}, longer side {cfg.picture_px} px at most",
        "reading": READING,
        "judged_by": dict(originals),
        "formula": FORMULA,
    }
