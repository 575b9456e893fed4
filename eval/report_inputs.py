"""What the report reads, opened and refused unless all of it belongs together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eval.artifacts import (
    CAPTIONS_REPORT,
    CAPTIONS_REPORT_VERSION,
    JUDGE,
    JUDGE_VERSION,
    SCORES,
    SCORES_VERSION,
    CaptionsReport,
    Judge,
    Scores,
    open_captions_report,
    open_judge,
    open_scores,
)
from eval.config import ReportConfig
from eval.report_provenance import Stage, walk
from eval.report_rows import CEILINGS, ScoreTable
from launch.errors import ArtifactError, InputError
from launch.run import Run
from recap.artifacts import CAPTIONER, IMAGES, Images, open_images
from recap.claims import AXES
from t2i.artifacts import (
    AUTOENCODER,
    GENERATIONS,
    PROMPTS,
    Generations,
    Prompts,
    open_generations,
    open_prompts,
)


@dataclass(frozen=True)
class Opened:
    """Everything that the report reads."""

    scores: Scores
    """With the rows of all judges."""

    judged: list[Scores]
    """Of `eval judge`, each by itself."""

    generations: list[Generations]
    prompts: Prompts
    images: Images
    captions: CaptionsReport
    judge: Judge | None
    """None where a public CLIP scored."""

    stages: list[Stage]

    @cached_property
    def table(self) -> ScoreTable:
        """Return the score rows by what they measure."""
        return ScoreTable(self.scores.table)

    @property
    def is_public_clip(self) -> bool:
        """Say whether CLIP scores are those of a public CLIP, with or without a judge beside it."""
        return self.judge is None or self.scores.manifest.recipe.get("clip_model") is not None

    @property
    def judge_quality(self) -> dict[str, Any]:
        """Return what the judge says of itself; of a public CLIP nothing is known here."""
        return {} if self.judge is None else self.judge.quality

    @cached_property
    def axes(self) -> dict[str, bool]:
        """Return the axes of claims, and whether they can be read, in printed order."""
        scorers = self.scores.manifest.recipe.get("scorers", {})
        if "detector" in scorers:
            return dict.fromkeys(scorers["detector"]["axes"], True)
        measurable = {} if self.judge is None else self.judge.measurable
        return {axis: measurable.get(axis, False) for axis in AXES if measurable}


def open_inputs(cfg: ReportConfig, run: Run) -> Opened:
    """Open every input, and name it in the manifest."""
    run.input("scores", cfg.scores, artifact=SCORES, version=SCORES_VERSION)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    run.input("images", cfg.images, artifact=IMAGES)
    run.input("captions", cfg.captions, artifact=CAPTIONS_REPORT, version=CAPTIONS_REPORT_VERSION)
    if cfg.judge is not None:
        run.input("judge", cfg.judge, artifact=JUDGE, version=JUDGE_VERSION)
    if cfg.autoencoder is not None:
        run.input("autoencoder", cfg.autoencoder, artifact=AUTOENCODER)
    for folder in cfg.captioners:
        run.input("captioner", folder, artifact=CAPTIONER)
    for folder in cfg.judged:
        run.input("judged", folder, artifact=SCORES, version=SCORES_VERSION)
    judged = [open_scores(folder) for folder in cfg.judged]
    return Opened(
        scores=_together(open_scores(cfg.scores), judged),
        judged=judged,
        generations=[open_generations(folder) for folder in cfg.generations],
        prompts=open_prompts(cfg.prompts),
        images=open_images(cfg.images),
        captions=open_captions_report(cfg.captions),
        judge=None if cfg.judge is None else open_judge(cfg.judge),
        stages=walk(run.inputs),
    )


def _together(scores: Scores, judged: Sequence[Scores]) -> Scores:
    """Return scores with the rows of judges.

    Raises:
        InputError: Two of them have the same metric.
    """
    metrics: dict[str, Path] = {}
    for found in (scores, *judged):
        for metric in found.table["metric"].unique().to_pylist():
            if metric in metrics:
                raise InputError(
                    f"judged: {metrics[metric]} and {found.manifest.folder} both have the metric "
                    f"{metric}; a report shows one judge of a kind. Leave one of them out."
                )
            metrics[metric] = found.manifest.folder
    table = pa.concat_tables([scores.table, *(found.table for found in judged)])
    return Scores(manifest=scores.manifest, table=table)


def refuse_other_scores(opened: Opened) -> None:
    """Refuse scores of other pictures, prompts or another judge than those given."""
    scores = opened.scores.manifest
    pictures = [("prompts", opened.prompts.manifest)]
    pictures += [("generations", g.manifest) for g in opened.generations]
    judge = [] if opened.judge is None else [("judge", opened.judge.manifest)]
    for made in (scores, *(judged.manifest for judged in opened.judged)):
        read = {i.digest for i in made.inputs}
        given = [*judge, *pictures] if made is scores else pictures
        for role, manifest in given:
            if manifest.digest not in read:
                raise ArtifactError(
                    f"{made.folder}: was not made with the {role} of {manifest.folder} "
                    f"(digest {manifest.digest[:12]}); scores of different inputs are never mixed. "
                    "Score again, or name the inputs that these scores were made with."
                )
    table = opened.scores.table
    scored = set(table["generation_id"].unique().to_pylist())
    known: dict[str, str] = {}
    for generations in opened.generations:
        columns = (generations.table[name].to_pylist() for name in ("generation_id", "style"))
        styles = dict(zip(*columns, strict=True))
        absent = sorted(styles.keys() - scored)
        if absent:
            raise ArtifactError(
                f"{scores.folder}: {len(absent):,} pictures of {generations.manifest.folder} have "
                f"no score, {absent[0]} first; a mean over what happens to be there is no mean. "
                "Score them again."
            )
        known |= styles
    _refuse_gaps(table, known, where=str(scores.folder))
    arms = set(opened.table.arms)
    unknown = sorted(arms - {g.arm for g in opened.generations})
    if unknown:
        raise InputError(
            f"{scores.folder}: holds arm {unknown[0]!r}, of which no generations are given; "
            "name the generations of every arm that was scored."
        )
    models = table.filter(pc.invert(pc.is_in(table["arm"], pa.array(CEILINGS))))
    extra = sorted(set(models["generation_id"].unique().to_pylist()) - known.keys())
    if extra:
        raise ArtifactError(
            f"{scores.folder}: holds {len(extra):,} pictures that are in none of the generations "
            f"given, {extra[0]} first; they would be averaged and never shown. Name the "
            "generations of every model that was scored."
        )


def _refuse_gaps(table: pa.Table, style_of: dict[str, str], *, where: str) -> None:
    """Refuse scores in which a text scored some pictures of a prompt style and not others."""
    rows = table.filter(pc.equal(table["metric"], "clip_similarity"))
    rows = rows.filter(pc.is_in(rows["generation_id"], pa.array(style_of, pa.string())))
    expected = Counter(style_of.values())
    counted = rows.group_by(["prompt_style", "scoring"]).aggregate([([], "count_all")])
    for found in counted.to_pylist():
        style, scoring = found["prompt_style"], found["scoring"]
        if found["count_all"] == expected[style]:
            continue
        same = pc.and_(pc.equal(rows["prompt_style"], style), pc.equal(rows["scoring"], scoring))
        has = set(rows.filter(same)["generation_id"].to_pylist())
        first = min(g for g, of in style_of.items() if of == style and g not in has)
        raise ArtifactError(
            f"{where}: {expected[style] - len(has):,} of {expected[style]:,} pictures of {style} "
            f"prompts have no CLIP score with text {scoring!r}, {first} first; a mean over what "
            "happens to be there is no mean. Score them again."
        )
