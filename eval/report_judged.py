"""The report's section on yes-or-no judges: what they answered, and some answers in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import pyarrow as pa

from eval.artifacts import Scores
from eval.judge_artifact import ANSWERS_FILE, read_answers
from eval.table import Table, Value
from eval.words import CEILING_NAMES, number
from eval.yes_no import NO, YES

SHOWN: Final = 4
"""Answers shown in full of each arm and reading."""

WORDS: Final = (
    "What each judge was asked and answered. An answer that is neither yes nor no is counted under "
    "its rule, never as a no. The question is then left out for the pictures of all models with "
    "the same prompt, noise and moment, so that arms stay paired. A judge errs, and may "
    "err in favour of one arm: its answers on real pictures, where they were judged, say how often "
    "it denies what is there."
)


def answers_of(judged: Sequence[Scores]) -> list[tuple[str, pa.Table]]:
    """Return the answers of every judge with its name."""
    found = []
    for scores in judged:
        folder = scores.manifest.folder
        scorer = next(iter(scores.manifest.recipe.get("scorers", {}).values()), {})
        name = scorer.get("model") or scorer.get("architecture", {}).get("class")
        found.append((str(name or folder.name), read_answers(folder / ANSWERS_FILE)))
    return found


def counts_table(judges: Sequence[tuple[str, pa.Table]]) -> Table:
    """Count answers by judge, arm and reading."""
    rows, records = [], []
    for judge, table in judges:
        answers = table.to_pylist()
        for arm in _arms(table):
            of_arm = [row for row in answers if row["arm"] == arm]
            verdicts = Counter(row["verdict"] for row in of_arm if row["verdict"] is not None)
            probabilities = [r["probability"] for r in of_arm if r["probability"] is not None]
            mean = sum(probabilities) / len(probabilities) if probabilities else None
            unclear = {rule: n for rule, n in verdicts.items() if rule not in (YES, NO)}
            told = ", ".join(f"{rule} {n:,}" for rule, n in sorted(unclear.items()))
            shown = [f"{verdicts[YES]:,}", f"{verdicts[NO]:,}"] if verdicts else ["", ""]
            rows.append(
                [
                    Value(judge),
                    Value(CEILING_NAMES.get(arm, arm)),
                    Value(f"{len(of_arm):,}", len(of_arm)),
                    *(Value(text) for text in shown),
                    Value(f"{sum(unclear.values()):,}" if verdicts else "", note=told),
                    Value("" if mean is None else number(mean, 3)),
                ]
            )
            records.append(
                {
                    "judge": judge, "arm": arm, "answers": len(of_arm), "yes": verdicts[YES],
                    "no": verdicts[NO], "mean_probability": mean,
                    **{f"unclear_{rule}": n for rule, n in sorted(unclear.items())},
                }
            )  # fmt: skip
    return Table(
        name="judge_answers",
        title="Answers by arm",
        columns=["judge", "arm", "questions", "yes", "no", "neither", "mean P(yes)"],
        rows=rows,
        numeric=frozenset({2, 3, 4, 5, 6}),
        records=records,
    )


def examples_table(judges: Sequence[tuple[str, pa.Table]]) -> Table:
    """Show some answers of every judge, arm and reading, drawn by a digest and not by hand."""
    rows, records = [], []
    for judge, table in judges:
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            groups.setdefault((row["arm"], row["verdict"] or "probability"), []).append(row)
        for (arm, verdict), of_group in groups.items():
            for row in sorted(of_group, key=_place)[:SHOWN]:
                answer = row["answer"]
                if row["probability"] is not None:
                    answer = f"P(yes) {number(row['probability'], 3)}"
                cells = [judge, CEILING_NAMES.get(arm, arm), row["question"], answer, verdict]
                rows.append([Value(str(text or "")) for text in cells])
                names = ("generation_id", "prompt_id", "arm", "question", "answer", "verdict",
                         "probability")  # fmt: skip
                records.append({"judge": judge, **{name: row[name] for name in names}})
    return Table(
        name="judge_examples",
        title="Some answers in full",
        columns=["judge", "arm", "question", "answer", "read as"],
        rows=rows,
        records=records,
    )


def _arms(table: pa.Table) -> list[str]:
    return list(dict.fromkeys(table["arm"].to_pylist()))


def _place(row: dict[str, Any]) -> bytes:
    name = f"{row['generation_id']} {row['number']}".encode()
    return blake2b(name, digest_size=8, person=b"captionmix.shown").digest()
