"""Pictures of rewritten prompts are judged by what was asked for, not by what was added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eval import artifacts
from eval import score as scoring
from eval.config import ScoreConfig
from launch.components import Component
from launch.config import build
from launch.manifest import digest_bytes
from launch.run import Run
from t2i import upsample
from t2i.artifacts import open_prompts
from t2i.config import UpsampleConfig

ADDED = "A huge violet dragon reads a book. "


class Adds:
    """A rewriter that adds what nobody asked for."""

    def rewrite(self, texts: Sequence[str], attempt: int) -> list[str]:
        return [f"{text}. {ADDED}" for text in texts]


@pytest.fixture(scope="module")
def rows(
    small_world: Any, make: Any, small_judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Scores of the same pictures for the prompts of people and for their rewrites."""
    root = tmp_path_factory.mktemp("rewritten")
    made = make.world(root / "world", num=48)
    before = make.prompts(made, {"human": made.texts("human"), "dsc": made.texts("dsc")})
    tree = {"prompts": str(before), "rewriter": "r", "limits": {"min_words": 1}}
    cfg = build(UpsampleConfig, tree, where="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsample, "open_rewriter", lambda cfg, *, device: Adds())
        patch.setattr(
            upsample, "find_rewriter", lambda source: Component("r", digest_bytes(b"rewriter"))
        )
        run = Run(out=root / "prompts", verb="t2i upsample", config=cfg)
        upsample.upsample(cfg, run)
        run.close()
    styles = ["human", "upsampled"]
    drawn = make.generations(root / "generations", made, root / "prompts", arm="dsc", styles=styles)
    score_cfg = ScoreConfig(
        generations=[drawn],
        judge=small_judge,
        prompts=root / "prompts",
        scoring_styles=styles,
        batch_size=16,
    )
    run = Run(out=root / "scores", verb="eval score", config=score_cfg)
    scoring.score(score_cfg, run)
    run.close()
    texts = open_prompts(root / "prompts").texts("upsampled")
    assert all(ADDED.strip() in text for text in texts.values())
    found: list[dict[str, Any]] = artifacts.open_scores(root / "scores").table.to_pylist()
    return found


def values(rows: list[dict[str, Any]], *, style: str, metric: str, scoring: str | None) -> Any:
    return {
        (row["pair_id"], row["axis"]): round(row["value"], 5)
        for row in rows
        if (row["prompt_style"], row["metric"], row["scoring"]) == (style, metric, scoring)
    }


@pytest.mark.parametrize("metric", ["claims_held", "claims_total", "claims_abstained"])
def test_the_claims_that_hold_are_those_of_the_original(
    rows: list[dict[str, Any]], metric: str
) -> None:
    original = values(rows, style="human", metric=metric, scoring=None)
    assert len(original) >= 12
    assert values(rows, style="upsampled", metric=metric, scoring=None) == original


def test_the_text_of_the_original_scores_pictures_of_the_rewrite(
    rows: list[dict[str, Any]],
) -> None:
    of = {"metric": "clip_similarity", "rows": rows}
    original = values(style="human", scoring="prompt", **of)
    assert len(original) == 12
    assert values(style="upsampled", scoring="human", **of) == original
    assert values(style="upsampled", scoring="prompt", **of) != original
