"""Scores of public lists, which have no pictures and may claim what the world does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eval import artifacts
from eval import score as scoring
from eval.config import ScoreConfig
from launch.run import Run
from recap.claims import Claim, to_json
from t2i.artifacts import Prompt, prompt_id, write_prompts


def score(out: Path, **settings: Any) -> artifacts.Scores:
    cfg = ScoreConfig(**{"threads": 1, "batch_size": 16, **settings})
    run = Run(out=out, verb="eval score", config=cfg)
    try:
        scoring.score(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


def test_claims_of_another_world_are_not_read_and_are_counted(
    small_world: Any, small_judge: Path, make: Any, tmp_path: Path
) -> None:
    """A public list needs no pictures of its own: CLIP scores it, the recogniser leaves it be."""
    foreign = [Claim(object="teddy bear"), Claim(object="ring", position="left of", of=0)]
    said = {"original": foreign, "world": [Claim(object="ring")]}
    test = small_world.of_split("test")
    rows = [
        Prompt(
            prompt_id=prompt_id(style=style, pair_id=small_world.sample_ids[i], prompt=style),
            prompt=style,
            style=style,
            pair_id=small_world.sample_ids[i],
            claims=to_json(claims),
        )
        for i in test
        for style, claims in said.items()
    ]
    write_prompts(tmp_path / "prompts/prompts.parquet", rows)
    prompts = make.finish(tmp_path / "prompts", "prompts")
    generations = make.generations(
        tmp_path / "drawn", small_world, prompts, arm="a", styles=list(said)
    )
    found = score(
        tmp_path / "out",
        generations=[generations],
        judge=small_judge,
        prompts=prompts,
        images=None,
        scoring_styles=[],
    )
    metrics = {(row["prompt_style"], row["metric"]) for row in found.table.to_pylist()}
    clip_metrics = {"clip_similarity", "clip_distance"}
    assert {m for style, m in metrics if style == "original"} == clip_metrics
    assert {m for style, m in metrics if style == "world"} > clip_metrics
    described = found.manifest.recipe["scorers"]["claims"]
    assert described["prompts_of_another_world"] == len(test)
