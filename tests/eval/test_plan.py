"""`eval plan`: from scores or from numbers given by hand to the cheapest design, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from eval.artifacts import PLAN, SCORES, SCORES_SCHEMA, scores_table, write_scores
from eval.config import PlanConfig, PrimaryConfig, SpreadConfig
from eval.plan import plan
from eval.summary import SUMMARY
from launch.errors import ConfigError, InputError
from launch.manifest import Manifest, describe_parts, read_manifest, write_manifest
from launch.run import Run

PRIMARY = PrimaryConfig(better="dsc", than="real", style="human", metric="clip_similarity")
BY_HAND = SpreadConfig(seed=0.3, prompt=3.0, noise=2.0)


def write_study(folder: Path, *, seeds: int, images: int, prompts: int = 60) -> Path:
    """Write CLIP scores whose difference has known spreads: prompt 3, noise 2, seed 0.5."""
    generator = np.random.default_rng(0)
    s, p, g = np.indices((seeds, prompts, images)).reshape(3, -1)
    effect = 0.5 * generator.normal(size=seeds)[s] + 3 * generator.normal(size=prompts)[p]
    effect = effect + 2 * generator.normal(size=(prompts, images))[p, g]
    columns: dict[str, list[Any]] = {name: [] for name in SCORES_SCHEMA.names}
    for arm, values in (("real", np.zeros(len(s))), ("dsc", 1 + effect)):
        columns["generation_id"] += [f"{arm}:{a}:{b}:{c}" for a, b, c in zip(s, p, g, strict=True)]
        columns["arm"] += [arm] * len(s)
        columns["model_seed"] += s.tolist()
        columns["seed"] += g.tolist()
        columns["samples_seen"] += [64] * len(s)
        for name in ("pair_id", "prompt_id"):
            columns[name] += [f"{name}{i:04d}" for i in p]
        columns["prompt_style"] += ["human"] * len(s)
        columns["metric"] += ["clip_similarity"] * len(s)
        columns["scoring"] += ["prompt"] * len(s)
        columns["axis"] += [None] * len(s)
        columns["value"] += values.tolist()
    folder.mkdir()
    write_scores(folder / "scores.parquet", scores_table(columns))
    write_manifest(
        folder,
        Manifest(
            artifact=SCORES, version=1, recipe={}, inputs=[], counts={}, rejected={},
            parts=describe_parts(folder, ["scores.parquet"]),
        ),
    )  # fmt: skip
    return folder


def run_plan(out: Path, **settings: Any) -> str:
    cfg = PlanConfig(**{"difference": 1.0, "prompts": [50, 200], "seeds": [1, 4], **settings})
    run = Run(out=out, verb="eval plan", config=cfg)
    try:
        plan(cfg, run)
    finally:
        run.close()
    return " ".join((out / SUMMARY).read_text().split())


def test_a_plan_by_hand_lists_every_design_and_its_cost(tmp_path: Path) -> None:
    text = run_plan(tmp_path / "plan", spread=BY_HAND, arms=3)
    assert read_manifest(tmp_path / "plan", artifact=PLAN).counts == {"designs": 8}
    rows = pq.read_table(tmp_path / "plan" / "designs.parquet").to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["models"] == 3 * row["seeds"]
        assert row["pictures"] == 3 * row["seeds"] * row["prompts"] * row["images"]
        assert row["includes_seeds"] == (row["seeds"] >= 4)
        assert (row["power"] >= 0.8) == (row["detectable"] <= 1)
    assert "conditional on the models as trained" in text


def test_a_plan_from_scores_finds_the_spreads_they_were_made_with(tmp_path: Path) -> None:
    scores = write_study(tmp_path / "scores", seeds=4, images=3)
    text = run_plan(tmp_path / "plan", scores=scores, primary=PRIMARY)
    found = json.loads((tmp_path / "plan" / "components.json").read_text())["components"]
    for name, truth in (("prompt", 3.0), ("noise", 2.0), ("seed", 0.5)):
        low, high = found[name]["interval"]
        assert low <= truth**2 <= high
    assert found["rest"]["variance"] == pytest.approx(0, abs=1e-9)
    assert "rests on 4 of them, 3 degrees of freedom" in text


def test_what_scores_cannot_tell_is_said(tmp_path: Path) -> None:
    scores = write_study(tmp_path / "scores", seeds=1, images=1)
    text = run_plan(tmp_path / "plan", scores=scores, primary=PRIMARY)
    assert "One training seed tells nothing of another" in text
    assert "It is left in the latter" in text
    rows = pq.read_table(tmp_path / "plan" / "designs.parquet").to_pylist()
    by_images = {
        r["images"]: r["detectable"] for r in rows if (r["prompts"], r["seeds"]) == (50, 1)
    }
    assert by_images[1] == by_images[4]


def test_the_cheapest_design_keeps_to_the_limits(tmp_path: Path) -> None:
    few = run_plan(tmp_path / "a", spread=BY_HAND, max_models=8, seeds=[4, 8])
    assert "4 training seeds" in few
    none = run_plan(tmp_path / "b", spread=BY_HAND, max_pictures=500, seeds=[4])
    assert "No design within the limits finds a difference of 1" in none


def test_models_that_cost_next_to_nothing_are_trained_instead_of_drawn_from(
    tmp_path: Path,
) -> None:
    spread = SpreadConfig(seed=1.0, prompt=1.0, prompt_by_seed=2.0)
    settings: dict[str, Any] = {"spread": spread, "seeds": [12, 16], "images": [1]}
    assert "12 training seeds" in run_plan(tmp_path / "few", **settings)
    assert "16 training seeds" in run_plan(tmp_path / "many", **settings, model_price=1.0)


def test_more_comparisons_ask_for_more(tmp_path: Path) -> None:
    for name, comparisons in (("one", 1), ("ten", 10)):
        run_plan(tmp_path / name, spread=BY_HAND, comparisons=comparisons)
    one, ten = (
        pq.read_table(tmp_path / n / "designs.parquet")["detectable"].to_pylist()
        for n in ("one", "ten")
    )
    assert all(a < b for a, b in zip(one, ten, strict=True))


def test_a_comparison_that_was_not_scored_is_refused(tmp_path: Path) -> None:
    scores = write_study(tmp_path / "scores", seeds=2, images=1, prompts=5)
    other = PrimaryConfig(better="ssc", than="real", style="human", metric="clip_similarity")
    with pytest.raises(InputError, match="arm 'ssc' has no rows"):
        run_plan(tmp_path / "plan", scores=scores, primary=other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs to know the spread"),
        ({"scores": Path("runs/scores")}, "go together"),
        ({"spread": BY_HAND, "power": 1.0}, "power must lie"),
        ({"spread": BY_HAND, "prompts": [1]}, "numbers from 2 on"),
    ],
)
def test_settings_that_plan_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlanConfig(difference=1.0, **settings)
