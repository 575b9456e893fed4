"""Judges of photographs that `eval score` may ask beside CLIP: a detector, and OCR.

A judge gets pictures and the prompts that each of them serves, and gives rows of scores; a picture
is looked at once, however many prompts it serves. What a judge cannot check it refuses before the
first picture.

N pictures, H height, W width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from eval import geneval
from eval.clip import ClipScorer
from eval.colours import ColourNamer
from eval.config import DetectorConfig, ScoreConfig
from eval.detect import Detector, files_of, load_detector
from eval.text import Reader, compare, displayed_words, load_reader
from eval.verdicts import Tally, tally
from launch.errors import ConfigError
from launch.manifest import digest_file
from launch.run import Run
from recap.claims import Claim
from t2i.artifacts import Prompt, Prompts


class ScoreRow(NamedTuple):
    """One score of one picture for one prompt."""

    metric: str
    axis: str | None
    value: float


class Asked(NamedTuple):
    """A prompt whose picture is asked about."""

    picture: int
    """Place of its picture among those given."""

    prompt: Prompt


@runtime_checkable
class PictureJudge(Protocol):
    """Scores pictures by looking at them."""

    name: str
    """Its key in the recipe."""

    def rows(
        self, pixels: UInt8[np.ndarray, "N H W 3"], asked: Sequence[Asked]
    ) -> list[list[ScoreRow]]:
        """Return the rows of every prompt that was asked about, in the same order."""

    def describe(self) -> dict[str, Any]:
        """Return everything that its scores depend on, for a recipe."""


def note_inputs(cfg: ScoreConfig, run: Run) -> None:
    """Note the detector's files among the inputs of a run, and refuse those that are missing."""
    if cfg.detector is not None:
        for name, path in files_of(cfg.detector).items():
            run.external_input(f"detector_{name}", path, digest_file(path))


def load_judges(
    cfg: ScoreConfig,
    *,
    clip: ClipScorer,
    prompts: Prompts,
    claims: dict[str, list[Claim]],
) -> list[PictureJudge]:
    """Load the judges that the settings name.

    Args:
        cfg: Settings.
        clip: The CLIP that scores; it tells colours, and its device is the detector's.
        prompts: The prompts artifact.
        claims: Claims of the prompts that make any, by `prompt_id`.

    Raises:
        ConfigError: A file or package is missing, or a prompt says what the judge cannot check.
    """
    judges: list[PictureJudge] = []
    if cfg.detector is not None:
        device = next(clip.model.parameters()).device
        detector = load_detector(cfg.detector, device=device)
        judges.append(DetectorJudge(detector, rules=cfg.detector, clip=clip, claims=claims))
    if cfg.ocr:
        reader, asked_for = load_reader(threads=cfg.threads), prompts.asked_for()
        judges.append(WordsJudge(reader, prompts.rows, claims=claims, asked_for=asked_for))
    return judges


def claim_rows(by_axis: dict[str, Tally], *, together: Sequence[str]) -> list[ScoreRow]:
    """Return the rows of claims that hold, by axis and, with axis null, `together`.

    Args:
        by_axis: Statements of one prompt, counted by axis.
        together: Axes that are pooled; others only have rows of their own.
    """
    counts: dict[str | None, Tally] = dict(by_axis)
    pooled = [by_axis[axis] for axis in by_axis if axis in together]
    if pooled:
        counts[None] = Tally(*map(sum, zip(*pooled, strict=True)))
    rows = []
    for axis, found in counts.items():
        rows.append(ScoreRow("claims_held", axis, found.held / found.total))
        rows.append(ScoreRow("claims_total", axis, float(found.total)))
        rows.append(ScoreRow("claims_abstained", axis, float(found.abstained)))
    return rows


class DetectorJudge:
    """Checks the claims of prompts against a detector's boxes, by GenEval's rules."""

    name = "detector"

    def __init__(
        self,
        detector: Detector,
        *,
        rules: DetectorConfig,
        clip: ClipScorer,
        claims: dict[str, list[Claim]],
    ) -> None:
        if not claims:
            raise ConfigError(
                "detector: no prompt makes a claim, so there is nothing to check; make prompts "
                "with claims, or score without a detector"
            )
        for prompt_id, said in claims.items():
            geneval.check_claims(said, labels=detector.labels, where=f"prompt {prompt_id}")
        self.detector = detector
        self.rules = rules
        self.claims = {
            prompt_id: said
            for prompt_id, said in claims.items()
            if any(claim.text is None for claim in said)
        }
        every = [claim for said in self.claims.values() for claim in said if claim.text is None]
        self.labels = {
            claim.object: label
            for claim in every
            if (label := geneval.label_of(claim.object, detector.labels)) is not None
        }
        self.colours = ColourNamer(clip, {c.object for c in every if c.colour is not None})

    def rows(
        self, pixels: UInt8[np.ndarray, "N H W 3"], asked: Sequence[Asked]
    ) -> list[list[ScoreRow]]:
        """Return the claims that hold, by axis, and whether all of them do."""
        found: dict[int, geneval.Detections] = {}
        scores = []
        for number, prompt in asked:
            claims = self.claims.get(prompt.prompt_id)
            if claims is None:
                scores.append([])
                continue
            if number not in found:
                found[number] = self.detector.detect(pixels[number])
            scores.append(self._rows_of(claims, pixels[number], found[number]))
        return scores

    def _rows_of(
        self,
        claims: Sequence[Claim],
        picture: UInt8[np.ndarray, "H W 3"],
        found: geneval.Detections,
    ) -> list[ScoreRow]:
        verdicts = geneval.judge(
            claims,
            found,
            labels=self.labels,
            rules=self.rules,
            colours_of=lambda things, name: self.colours.name(picture, things, name),
        )
        is_correct = all(verdict.is_held for verdict in verdicts)
        return [
            *claim_rows(tally(verdicts, axes=geneval.AXES), together=geneval.AXES),
            ScoreRow("geneval_correct", geneval.task_of(claims), float(is_correct)),
        ]

    def describe(self) -> dict[str, Any]:
        """Return everything that its scores depend on, for a recipe."""
        return {
            **self.detector.describe(),
            "classes": self.labels,
            "rules": {
                "min_score": self.rules.min_score,
                "min_score_counting": self.rules.min_score_counting,
                "max_objects": self.rules.max_objects,
                "max_overlap": self.rules.max_overlap,
                "min_offset": self.rules.min_offset,
            },
            "axes": list(geneval.AXES),
            "colour": self.colours.describe(),
            "formula": geneval.FORMULA,
        }


class WordsJudge:
    """Compares displayed words with those that prompts want shown; a rewrite, its original."""

    name = "ocr"

    def __init__(
        self,
        reader: Reader,
        prompts: Sequence[Prompt],
        *,
        claims: dict[str, list[Claim]],
        asked_for: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        wanted = {
            p.prompt_id: displayed_words(
                asked_for.get(p.prompt_id, p.prompt), claims.get(p.prompt_id, ())
            )
            for p in prompts
        }
        self.num_rewritten = sum(asked_for.get(p.prompt_id, p.prompt) != p.prompt for p in prompts)
        self.reader = reader
        self.wanted = {prompt_id: words for prompt_id, words in wanted.items() if words}
        if not self.wanted:
            raise ConfigError(
                "ocr: no prompt quotes words or makes a claim of text, so there is nothing to "
                "read; score without ocr"
            )

    def rows(
        self, pixels: UInt8[np.ndarray, "N H W 3"], asked: Sequence[Asked]
    ) -> list[list[ScoreRow]]:
        """Return how well the words of each prompt are shown; nothing where it wants none."""
        lines: dict[int, list[str]] = {}
        scores = []
        for number, prompt in asked:
            wanted = self.wanted.get(prompt.prompt_id)
            if wanted is None:
                scores.append([])
                continue
            if number not in lines:
                lines[number] = self.reader.read(pixels[number])
            words = compare(wanted, lines[number])
            scores.append(
                [
                    ScoreRow("words_exact", None, words.exact),
                    ScoreRow("words_error_rate", None, words.error_rate),
                ]
            )
        return scores

    def describe(self) -> dict[str, Any]:
        """Return everything that its scores depend on, for a recipe."""
        told = {**self.reader.describe(), "prompts": len(self.wanted)}
        # Of a rewrite, the original's words are looked for; tables without any are as before.
        return told | ({"judged_by_originals": self.num_rewritten} if self.num_rewritten else {})
