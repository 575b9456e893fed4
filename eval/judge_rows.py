"""From answers to score rows: gating, means, and what becomes of answers that are neither.

A question that was answered neither yes nor no for one model's picture is left out for the pictures
of all models with that prompt, noise and moment, so that every mean is over the same questions and
arms stay paired. Nothing is counted as a "no" that was not one. A picture whose questions are all
left out has no row, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval.config import AskedConfig
from eval.dependencies import ancestors, circle, gate, parents, refuse_broken
from eval.judge_artifact import WHOLE
from eval.judged_pictures import Judged
from launch.errors import ArtifactError, ConfigError
from t2i.artifacts import Prompt
from t2i.questions import Question, from_json

WHOLE_METRIC = "judge_yes"
METRIC_OF_GATING = {"parents": "questions_yes", "ancestors": "questions_yes_ancestors"}

FORMULA = {
    "judge_yes": "1 where the judge says that the picture shows what the prompt asks for, else 0",
    "questions_yes": "mean over a picture's questions of 1 where it and all questions that it "
    "names are answered yes, else 0",
    "questions_yes_ancestors": "the same, with all that these depend on in turn",
    "unclear": "a question whose answer is neither yes nor no, or is decided by such an answer, is "
    "left out for the pictures of all models with the same prompt, noise and moment",
}


class Asked(NamedTuple):
    """One question about every picture of a prompt."""

    number: int
    question: str
    """As it is sent."""

    kind: str | None


class Lists(NamedTuple):
    """The questions that prompts carry, by `prompt_id`."""

    questions: dict[str, list[Question]]
    gates: dict[str, dict[str, Mapping[int, Any]]]
    """Gating -> prompt -> question -> those that must be "yes"; a prompt in a circle is absent."""

    num_in_circles: int
    """Prompts that have no order of ancestors and are left out of that metric."""


def read_lists(prompts: Sequence[Prompt], cfg: AskedConfig) -> Lists:
    """Read and check the questions of prompts.

    Raises:
        ArtifactError: A question depends on one that is not there, or, where circles are refused,
            on itself by a circle; the message names the prompt and the questions.
        ConfigError: No prompt has a question.
    """
    questions = {p.prompt_id: from_json(p.questions) for p in prompts if p.questions is not None}
    questions = {prompt_id: found for prompt_id, found in questions.items() if found}
    if not questions:
        raise ConfigError(
            "asked.ask: no prompt carries questions; make prompts from a list that has some (t2i "
            "prompt-list), or ask about the whole prompt with asked.ask=[prompt]"
        )
    gates: dict[str, dict[str, Mapping[int, Any]]] = {gating: {} for gating in cfg.gating}
    num_in_circles = 0
    for prompt in prompts:
        found = questions.get(prompt.prompt_id)
        if found is None:
            continue
        where = f"prompt {prompt.prompt_id} ({prompt.prompt[:60]!r})"
        refuse_broken(found, where=where)
        if "parents" in gates:
            gates["parents"][prompt.prompt_id] = parents(found)
        if "ancestors" not in gates:
            continue
        if (names := circle(found)) is None:
            gates["ancestors"][prompt.prompt_id] = ancestors(found)
        elif cfg.circles == "leave_out":
            num_in_circles += 1
        else:
            raise ArtifactError(
                f"{where}: questions {' -> '.join(map(str, names))} depend on one another in a "
                "circle, so they have no ancestors in order. Correct the list, gate by parents "
                "alone (asked.gating=[parents]), or leave such prompts out of that metric "
                "(asked.circles=leave_out)."
            )
    return Lists(questions, gates, num_in_circles)


def asked_of(prompt: Prompt, text: str, *, cfg: AskedConfig, lists: Lists | None) -> list[Asked]:
    """Return the questions about the pictures of one prompt.

    Args:
        prompt: The prompt.
        text: Text that its pictures are judged by.
        cfg: What is asked.
        lists: Questions that prompts carry, where they are asked.
    """
    found = []
    if "prompt" in cfg.ask:
        found.append(Asked(WHOLE, cfg.prompt_question.replace("{prompt}", text), None))
    if lists is not None:
        of_prompt = lists.questions.get(prompt.prompt_id, [])
        found += [Asked(q.id, q.question, q.kind) for q in of_prompt]
    return found


class Scored(NamedTuple):
    """Score rows, and what became of pictures."""

    rows: list[dict[str, Any]]
    rejected: Counter[str]
    """Pictures without any row, by rule."""

    num_unused: int
    """Clear answers of a list left out beside an unclear one."""


Truth = Callable[[Judged, int], bool | None]
"""What was answered about a picture to the question of a number; None is neither yes nor no."""


def score_rows(
    judged: Sequence[Judged], *, cfg: AskedConfig, lists: Lists | None, truth: Truth
) -> Scored:
    """Return the rows of all pictures.

    Args:
        judged: The pictures.
        cfg: What was asked.
        lists: Questions that prompts carry, where they were asked.
        truth: The answers.
    """
    cells: dict[tuple[int, str, int], list[Judged]] = {}
    for picture in judged:
        cells.setdefault(picture.cell, []).append(picture)
    rows: list[dict[str, Any]] = []
    rejected = Counter[str]()
    num_unused = 0
    for together in cells.values():
        before = len(rows)
        if "prompt" in cfg.ask:
            found = [truth(picture, WHOLE) for picture in together]
            if None not in found:
                for picture, is_yes in zip(together, found, strict=True):
                    rows.append(_row(picture, WHOLE_METRIC, float(bool(is_yes))))
        questions = lists.questions.get(together[0].prompt.prompt_id) if lists else None
        if lists is not None and questions:
            for gating, metric in METRIC_OF_GATING.items():
                gates = lists.gates.get(gating, {}).get(together[0].prompt.prompt_id)
                if gates is None:
                    continue
                new, unused = _of_list(together, questions, metric, gates=gates, truth=truth)
                rows += new
                num_unused += unused if gating == cfg.gating[0] else 0
        if len(rows) == before:
            is_asked = "prompt" in cfg.ask or questions
            rejected["unclear" if is_asked else "no_questions"] += len(together)
    return Scored(rows, rejected, num_unused)


def _of_list(
    together: Sequence[Judged],
    questions: Sequence[Question],
    metric: str,
    *,
    gates: Mapping[int, Any],
    truth: Truth,
) -> tuple[list[dict[str, Any]], int]:
    """Score one list for pictures that are compared: the mean of all questions, and by kind."""
    gated = [
        gate(questions, {q.id: truth(picture, q.id) for q in questions}, gates=gates)
        for picture in together
    ]
    clear = [q for q in questions if all(of[q.id] is not None for of in gated)]
    num_unused = sum(of[q.id] is not None for q in questions if q not in clear for of in gated)
    rows = []
    axes: dict[str | None, list[Question]] = {None: clear} if clear else {}
    if metric == METRIC_OF_GATING["parents"]:
        for question in clear:
            if question.kind is not None:
                axes.setdefault(question.kind.split(" - ")[0], []).append(question)
    for picture, of in zip(together, gated, strict=True):
        for axis, chosen in axes.items():
            value = sum(bool(of[q.id]) for q in chosen) / len(chosen)
            rows.append(_row(picture, metric, value, axis=axis))
    return rows, num_unused


def _row(picture: Judged, metric: str, value: float, *, axis: str | None = None) -> dict[str, Any]:
    return {
        **picture.columns, "metric": metric, "scoring": None, "axis": axis, "value": value
    }  # fmt: skip
