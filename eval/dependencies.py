"""Which of a prompt's questions count: a question whose parent is not answered "yes" is a "no".

Two readings exist. DSG-1k gates a question by the answers to the questions that it names.
DPG-Bench's code writes gated answers over the given ones as it goes down the list, so that a "no"
reaches every question below it: gating by all ancestors, where parents stand before children. Both
are offered, and they agree where dependencies are one level deep.

An answer may be unknown (None): neither yes nor no. A gated answer is unknown only where what is
unknown decides it (the three values of Kleene's logic).

Source: Cho et al. 2023, arXiv:2310.18235, section 3; Hu et al. 2024, arXiv:2403.05135.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch.errors import ArtifactError
from t2i.questions import Question


def refuse_broken(questions: Sequence[Question], *, where: str) -> None:
    """Refuse a list in which a number comes twice, or a question depends on one that is absent.

    Raises:
        ArtifactError: Naming the question.
    """
    known: set[int] = set()
    for question in questions:
        if question.id in known or question.id < 1:
            what = "comes twice" if question.id in known else "has no number from 1"
            raise ArtifactError(
                f"{where}: question {question.id} {what}; expected a number from 1 for every "
                "question of a prompt, each once. Correct the list and make the prompts again."
            )
        known.add(question.id)
    for question in questions:
        for parent in question.depends_on:
            if parent not in known:
                raise ArtifactError(
                    f"{where}: question {question.id} depends on question {parent}, which is not "
                    f"there; the prompt has {', '.join(map(str, sorted(known)))}. Correct the list "
                    "and make the prompts again."
                )


def circle(questions: Sequence[Question]) -> list[int] | None:
    """Return questions that depend on one another in a circle, the first again last; or None."""
    parents = {question.id: question.depends_on for question in questions}
    done: set[int] = set()
    for start in parents:
        path: list[int] = []
        ways = [iter((start,))]
        while ways:
            found = next(ways[-1], None)
            if found is None:
                ways.pop()
                if path:
                    done.add(path.pop())
            elif found in path:
                return [*path[path.index(found) :], found]
            elif found not in done:
                path.append(found)
                ways.append(iter(parents[found]))
    return None


def ancestors(questions: Sequence[Question]) -> dict[int, frozenset[int]]:
    """Return, for every question, all that it depends on, parents of parents included."""
    parents = {question.id: question.depends_on for question in questions}
    found = {}
    for start in parents:
        above: set[int] = set()
        left = list(parents[start])
        while left:
            name = left.pop()
            if name not in above:
                above.add(name)
                left += parents[name]
        found[start] = frozenset(above)
    return found


def gate(
    questions: Sequence[Question],
    answers: Mapping[int, bool | None],
    *,
    gates: Mapping[int, Sequence[int] | frozenset[int]],
) -> dict[int, bool | None]:
    """Return the answers after gating.

    Args:
        questions: Of one prompt.
        answers: By number; None is neither yes nor no.
        gates: The questions that must be "yes" for each question to count.
    """
    gated: dict[int, bool | None] = {}
    for question in questions:
        needed = [answers[question.id], *(answers[name] for name in gates[question.id])]
        if False in needed:
            gated[question.id] = False
        else:
            gated[question.id] = None if None in needed else True
    return gated


def parents(questions: Sequence[Question]) -> dict[int, Sequence[int]]:
    """Return, for every question, those that it names."""
    return {question.id: question.depends_on for question in questions}
