"""Score rows by what they measure: the one place where the report reads `scores.parquet`.

N rows of the table
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.artifacts import BY_SENTENCES, PICTURES_ARM, PROMPT_SCORING, RECONSTRUCTIONS_ARM
from eval.config import PrimaryConfig
from eval.metrics import COMPLEMENT, PRIMARY, PRINTED
from eval.pairing import Rows, match_rows, pair_rows
from launch.errors import InputError

CEILINGS = (PICTURES_ARM, RECONSTRUCTIONS_ARM)
"""Arms that are no models: what real pictures score, bare and through the autoencoder."""

CHECKS = {
    "geneval_correct": "all that the prompt says holds",
    "words_exact": "words shown exactly",
    "words_right": "characters of words shown right",
    "judge_yes": "judged to show what the prompt asks for",
    "questions_yes": "questions answered yes, gated by parents",
    "questions_yes_ancestors": "questions answered yes, gated by all ancestors",
    "phrases_yes": "noun phrases seen (B-VQA)",
}
"""What looks at pictures otherwise than by CLIP and claims, in printed order."""


BEYOND = " \N{MINUS SIGN} "
"""Between two prompt styles: what the first scores beyond the second, picture by picture."""


def change_of(style: str, base: str) -> str:
    """Name the change from pictures of one prompt style to those of another."""
    return f"{style}{BEYOND}{base}"


class Measure(NamedTuple):
    """What is measured: a metric on the pictures of one prompt style, or its change from another's.

    A change (`change_of`) is a difference of two pictures: same model, pair and number of the
    noise, prompts of two styles. Arms are compared in it like in anything else.
    """

    metric: str
    style: str
    scoring: str | None = None
    """Style of the text that scores; None for claims."""

    axis: str | None = None
    """Axis of claims, task of GenEval, or kind of question; None for all together."""


class ScoreTable:
    """The rows of `scores.parquet`, found by what they measure.

    A scoring caption that is the prompt itself goes by the prompt's style, so that it is printed
    once however it was stored.
    """

    def __init__(self, table: pa.Table) -> None:
        self._code: dict[str, np.ndarray] = {}
        self._names: dict[str, list[Any]] = {}
        scoring = pc.if_else(
            pc.equal(table["scoring"], PROMPT_SCORING), table["prompt_style"], table["scoring"]
        )
        strings = {n: table[n] for n in ("arm", "pair_id", "prompt_id", "prompt_style", "metric")}
        strings |= {"scoring": scoring, "axis": table["axis"]}
        for name, column in strings.items():
            encoded = pc.fill_null(column, "").combine_chunks()
            if isinstance(encoded, pa.ChunkedArray):
                encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([])
            encoded = encoded.cast(pa.string()).dictionary_encode()
            self._code[name] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
            self._names[name] = encoded.dictionary.to_pylist()
        for name in ("model_seed", "seed", "samples_seen", "value"):
            self._code[name] = table[name].to_numpy()
        self._groups = self._group()

    def _group(self) -> dict[tuple[Any, ...], np.ndarray]:
        """Return the row numbers of every (metric, style, scoring, axis, arm, samples_seen)."""
        names = ("metric", "prompt_style", "scoring", "axis", "arm", "samples_seen")
        columns = [self._code[n] for n in names]
        order = np.lexsort(columns[::-1])
        if not len(order):
            return {}
        stacked = np.stack([c[order] for c in columns])
        starts = np.flatnonzero(np.r_[True, (stacked[:, 1:] != stacked[:, :-1]).any(axis=0)])
        groups = {}
        for rows in np.split(order, starts[1:]):
            key = tuple(
                self._names[n][self._code[n][rows[0]]] if n in self._names
                else int(self._code[n][rows[0]])
                for n in names
            )  # fmt: skip
            groups[key] = rows
        return groups

    @cached_property
    def arms(self) -> list[str]:
        """Return the arms that are models, sorted."""
        return sorted({key[4] for key in self._groups} - set(CEILINGS))

    @cached_property
    def ceilings(self) -> list[str]:
        """Return the arms that are not."""
        found = {key[4] for key in self._groups}
        return [c for c in CEILINGS if c in found]

    @cached_property
    def measures(self) -> list[Measure]:
        """Return everything measured, in a fixed order."""
        found = {key[:4] for key in self._groups if key[4] not in CEILINGS}
        found |= {(m, s, c, "") for m, s, c, _ in found if m == "geneval_correct"}
        printed = {stored: metric for metric, stored in COMPLEMENT.items()}
        return [Measure(printed.get(m, m), s, c or None, a or None) for m, s, c, a in sorted(found)]

    @cached_property
    def moments(self) -> dict[str, list[int]]:
        """Return the snapshots of every arm, earliest first."""
        seen: dict[str, set[int]] = {}
        for key in self._groups:
            seen.setdefault(key[4], set()).add(key[5])
        return {arm: sorted(moments) for arm, moments in seen.items()}

    def prompt_name(self, code: int | np.integer) -> str:
        """Return the `prompt_id` behind a code."""
        return str(self._names["prompt_id"][int(code)])

    def pair_name(self, code: int | np.integer) -> str:
        """Return the `pair_id` behind a code."""
        return str(self._names["pair_id"][int(code)])

    def tasks(self, style: str) -> list[str]:
        """Return the tasks of GenEval that prompts of a style belong to."""
        return sorted({k[3] for k in self._groups if k[:2] == ("geneval_correct", style)})

    def rows(
        self,
        measure: Measure,
        arm: str,
        *,
        samples_seen: int | None = None,
        weighs_tasks: bool = True,
    ) -> Rows | None:
        """Return one arm's rows at one moment, or None if there are none.

        Args:
            measure: What is measured.
            arm: The arm.
            samples_seen: The moment, the last unless told.
            weighs_tasks: Weigh the rows of all tasks together so that their mean is that of the
                tasks' means; otherwise each is the picture's own score.

        Returns:
            Rows with codes for pairs and prompts; `pair_name` and `prompt_name` resolve them. A
            change is of pairs, which stand in the place of prompts.
        """
        if arm not in self.moments:
            return None
        moment = self.moments[arm][-1] if samples_seen is None else samples_seen
        if BEYOND in measure.style:
            return self._change(measure, arm, moment)
        if measure.metric == "geneval_correct" and measure.axis is None:
            return self._over_tasks(measure, arm, moment, is_weighted=weighs_tasks)
        stored = COMPLEMENT.get(measure.metric, measure.metric)
        key = (stored, measure.style, measure.scoring or "", measure.axis or "")
        at = self._groups.get((*key, arm, moment))
        if at is None:
            return None
        names = ("pair_id", "prompt_id", "model_seed", "seed", "value")
        pair, prompt, model_seed, seed, value = (self._code[n][at] for n in names)
        if measure.scoring == measure.style:
            # The prompt as scoring text may have been stored under both of its names.
            keep = self._first_of_each(prompt, model_seed, seed)
            pair, prompt, model_seed, seed, value = (
                c[keep] for c in (pair, prompt, model_seed, seed, value)
            )
        if measure.metric in COMPLEMENT:
            value = 1 - value
        return Rows(pair, prompt, model_seed, seed, value * _factor(measure))

    def _change(self, measure: Measure, arm: str, moment: int) -> Rows | None:
        """Return what every picture of one style scores beyond its partner of the other."""
        style, base = measure.style.split(BEYOND)
        new, old = (
            self.rows(measure._replace(style=name), arm, samples_seen=moment)
            for name in (style, base)
        )
        if new is None or old is None:
            return None
        # Prompts differ by design; the partner is the prompt of the same picture.
        matched = match_rows(
            new._replace(prompt=new.pair),
            old._replace(prompt=old.pair),
            names=(f"{arm} with {style} prompts", f"{arm} with {base} prompts"),
            name_of=self.pair_name,
        )
        pair = matched.pairs[matched.column]
        model_seed = matched.model_seeds[matched.row]
        return Rows(pair, pair, model_seed, matched.seed, matched.difference)

    def _over_tasks(
        self, measure: Measure, arm: str, moment: int, *, is_weighted: bool
    ) -> Rows | None:
        """Return the rows of all tasks, weighted so that each task weighs alike.

        The mean over prompts is then the mean of the tasks' means; it is GenEval's score only
        where all of `geneval.TASKS` are there.
        """
        of_task = [
            rows
            for task in self.tasks(measure.style)
            if (rows := self.rows(measure._replace(axis=task), arm, samples_seen=moment))
        ]
        if not of_task:
            return None
        sizes = [len(np.unique(rows.pair)) if is_weighted else 1 for rows in of_task]
        weighted = [
            rows._replace(value=rows.value * sum(sizes) / (len(sizes) * size))
            for rows, size in zip(of_task, sizes, strict=True)
        ]
        return Rows(*(np.concatenate(columns) for columns in zip(*weighted, strict=True)))

    @staticmethod
    def _first_of_each(*columns: Any) -> Any:
        """Return the places at which every combination of the columns first occurs."""
        key = np.zeros(len(columns[0]), np.int64)
        for column in columns:
            values, code = np.unique(column, return_inverse=True)
            key = key * len(values) + code
        return np.sort(np.unique(key, return_index=True)[1])

    def paired(self, measure: Measure, arm: str, than: str) -> Any:
        """Return the differences `arm` - `than` at the last moment, or None if either has none."""
        one, other = self.rows(measure, arm), self.rows(measure, than)
        if one is None and other is None:
            return None
        if one is None or other is None:
            absent = arm if one is None else than
            raise InputError(
                f"scores: arm {absent} has no rows for {describe(measure)}, arm "
                f"{than if one is None else arm} has. Score the generations of both."
            )
        name_of = self.pair_name if BEYOND in measure.style else self.prompt_name
        return pair_rows(one, other, names=(arm, than), name_of=name_of)


def _factor(measure: Measure) -> float:
    """Return the factor from stored to printed values; counts are not printed."""
    return PRINTED[measure.metric].factor if measure.metric in PRINTED else 1.0


def describe(measure: Measure) -> str:
    """Name a measure in words, for messages and tables."""
    match measure.metric:
        case "claims_held":
            what = f"claims that hold ({measure.axis or 'all axes'})"
        case "clip_similarity":
            what = f"CLIP similarity with the {measure.scoring} caption"
        case "clip_similarity_sentences":
            what = f"CLIP similarity with the sentences of the {measure.scoring} caption"
        case "clip_distance":
            what = f"CLIP distance to the {measure.scoring} caption"
        case "geneval_correct":
            what = f"{CHECKS[measure.metric]} ({measure.axis or 'mean of the tasks'})"
        case other:
            of = f" ({measure.axis})" if measure.axis else ""
            what = f"{CHECKS.get(other, other)}{of}"
    return f"{what}, {_spelled(measure.style)}"


def _spelled(style: str) -> str:
    if BEYOND not in style:
        return f"{style} prompts"
    return "change from {1} to {0} prompts".format(*style.split(BEYOND))


def primary_measure(primary: PrimaryConfig) -> Measure:
    """Return what the study named as its measure."""
    metric = PRIMARY[primary.metric]
    if primary.against is not None:
        scoring = primary.against if metric in ("clip_similarity", BY_SENTENCES) else None
        return Measure(metric, change_of(primary.style, primary.against), scoring)
    if metric not in ("clip_similarity", BY_SENTENCES):
        return Measure(metric, primary.style)
    scoring = primary.style if primary.scoring in (None, PROMPT_SCORING) else primary.scoring
    return Measure(metric, primary.style, scoring)


def order_arms(primary: PrimaryConfig, listed: Iterable[str]) -> list[str]:
    """Put the reference arm, that which the primary comparison starts from, first."""
    arms = list(dict.fromkeys(listed))
    for name in (primary.better, primary.than):
        if name not in arms:
            raise InputError(
                f"primary: no arm is called {name!r}; the scores hold {', '.join(arms) or 'none'}"
            )
    return [primary.than, *(a for a in arms if a != primary.than)]
