"""`eval score`: generations and the two ceilings -> scores, one row for every picture and metric.

What is scored is opened in `eval.score_arms`, what scores lies in `eval.scorer`; this module
resumes where a killed run stopped, and writes the artifact. Nothing is averaged here, and nothing
is scored that is not complete (`eval/complete.py`).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from eval import artifacts, picture_judges
from eval.artifacts import PROMPT_SCORING
from eval.complete import refuse_unpaired
from eval.config import ScoreConfig
from eval.score_arms import ceilings, open_arm, scoring_texts
from eval.scorer import describe, load_scorer, score_arm
from launch.components import locate
from launch.manifest import digest_file, is_complete, write_parquet
from launch.parts import pending
from launch.processes import noted_device, set_threads
from launch.run import Run
from recap.artifacts import IMAGES
from t2i.artifacts import AUTOENCODER, GENERATIONS, PROMPTS, open_prompts


def score(cfg: ScoreConfig, run: Run) -> None:
    """Score every generation and the two ceilings."""
    if cfg.judge is not None:
        run.input("judge", cfg.judge, artifact=artifacts.JUDGE)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    if cfg.images is not None:
        run.input("images", cfg.images, artifact=IMAGES)
    if cfg.autoencoder is not None:
        if is_complete(cfg.autoencoder):
            run.input("autoencoder", cfg.autoencoder, artifact=AUTOENCODER)
        else:
            found = locate(cfg.autoencoder, artifact=AUTOENCODER)
            run.external_input("autoencoder", found.source, found.digest)
    if cfg.clip_weights is not None and Path(cfg.clip_weights).is_file():
        weights = Path(cfg.clip_weights)
        run.external_input("clip_weights", weights, digest_file(weights))
    picture_judges.note_inputs(cfg, run)
    judge = None if cfg.judge is None else artifacts.open_judge(cfg.judge)
    prompts = open_prompts(cfg.prompts)
    scoring = scoring_texts(cfg, prompts)
    arms = [open_arm(folder, prompts=prompts, cfg=cfg) for folder in cfg.generations]
    refuse_unpaired(
        [(arm.name, arm.model_seed) for arm in arms],
        [arm.drawn for arm in arms],
        folders=cfg.generations,
    )
    arms += ceilings(cfg, prompts)

    num_rows = sum(len(arm) for arm in arms) * 2 * (1 + len(scoring))
    plan = {
        "generations": sum(len(arm) for arm in arms if arm.model_seed >= 0),
        "scoring texts": ", ".join([PROMPT_SCORING, *scoring]),
        "ceilings": ", ".join(arm.name for arm in arms if arm.model_seed < 0) or "none",
        "CLIP": cfg.clip_model or "the judge's own",
    }
    minutes, gib = num_rows / 5000 / 60, num_rows * 100 / 2**30
    if not run.start(plan, recipe=noted_device(), minutes=minutes, gib=gib):
        return
    set_threads(cfg.threads)

    scorer = load_scorer(cfg, judge, prompts=prompts, scoring=scoring)
    left = set(pending(run.out, [arm.part for arm in arms]))
    if (run.out / "scores.parquet").is_file():
        left = set()  # killed between the last part and the manifest
    with run.progress(sum(len(arm) for arm in arms), label="score") as progress:
        progress.resume(sum(len(arm) for arm in arms if arm.part not in left))
        for arm in arms:
            if arm.part in left:
                table = score_arm(arm, scorer, advance=progress.advance)
                write_parquet(run.out / arm.part, table)

    path = run.out / "scores.parquet"
    if not path.is_file():
        parts = [
            artifacts.read_table(run.out / arm.part, schema=artifacts.SCORES_SCHEMA) for arm in arms
        ]
        artifacts.write_scores(path, pa.concat_tables(parts))
    table = artifacts.read_table(path, schema=artifacts.SCORES_SCHEMA)
    run.finish(
        artifact=artifacts.SCORES,
        version=artifacts.SCORES_VERSION,
        counts={
            "rows_in": sum(len(arm) for arm in arms),
            "rows_out": len(set(table["generation_id"].to_pylist())),
            "scores": table.num_rows,
        },
        parts=["scores.parquet"],
        recipe={"scorers": describe(scorer, judge, prompts=prompts, scoring=scoring)},
    )
