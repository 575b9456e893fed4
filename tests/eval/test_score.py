"""Scores: every row recomputed, and every gap in the generations named."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import artifacts, clip, clip_load, recogniser
from eval import score as scoring
from eval.config import ScoreConfig
from eval.verdicts import tally, verdicts
from launch.errors import ArtifactError, ConfigError
from launch.run import Run
from recap.claims import from_json
from t2i.artifacts import GenerationRow, open_generations, open_prompts

STYLES = ("human", "dsc", "alt")


def score(out: Path, **settings: Any) -> artifacts.Scores:
    cfg = ScoreConfig(**{"threads": 1, "batch_size": 16, **settings})
    run = Run(out=out, verb="eval score", config=cfg)
    try:
        scoring.score(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


@pytest.fixture(scope="module")
def prompts(small_world: Any, make: Any) -> Path:
    return make.prompts(small_world, {style: small_world.texts(style) for style in STYLES})


@pytest.fixture(scope="module")
def generations(small_world: Any, make: Any, prompts: Path, tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("generations")
    return [
        make.generations(
            root / arm, small_world, prompts, arm=arm, styles=["human", "dsc"], num_seeds=2
        )
        for arm in ("real", "dsc")
    ]


@pytest.fixture(scope="module")
def settings(
    small_world: Any, small_judge: Path, small_autoencoder: Path, prompts: Path
) -> dict[str, Any]:
    return {
        "judge": small_judge,
        "prompts": prompts,
        "images": small_world.images,
        "autoencoder": small_autoencoder,
        "scoring_styles": ["dsc", "alt"],
    }


@pytest.fixture(scope="module")
def scores(
    settings: dict[str, Any], generations: list[Path], tmp_path_factory: Any
) -> artifacts.Scores:
    return score(tmp_path_factory.mktemp("scores") / "out", generations=generations, **settings)


def test_every_generation_has_a_row_for_every_scoring_text(scores: artifacts.Scores) -> None:
    rows = [r for r in scores.table.to_pylist() if r["metric"] == "clip_similarity"]
    counted = Counter((row["arm"], row["prompt_style"], row["scoring"]) for row in rows)
    for arm in ("real", "dsc"):
        for style in ("human", "dsc"):
            for text in ("prompt", "dsc", "alt"):
                assert counted[arm, style, text] == 12 * 2


def test_the_ceilings_cover_every_prompt(scores: artifacts.Scores) -> None:
    rows = [r for r in scores.table.to_pylist() if r["metric"] == "clip_distance"]
    for arm in (artifacts.PICTURES_ARM, artifacts.RECONSTRUCTIONS_ARM):
        own = [row for row in rows if row["arm"] == arm]
        assert len(own) == 12 * 3 * 3
        assert {(row["model_seed"], row["seed"], row["samples_seen"]) for row in own} == {
            (-1, -1, 0)
        }


def test_a_picture_scores_the_same_as_generation_and_as_ceiling(scores: artifacts.Scores) -> None:
    values: dict[Any, set[float]] = {}
    for row in scores.table.to_pylist():
        if row["arm"] != artifacts.RECONSTRUCTIONS_ARM:
            key = row["prompt_id"], row["metric"], row["scoring"], row["axis"]
            values.setdefault(key, set()).add(round(row["value"], 4))
    assert all(len(found) == 1 for found in values.values())


def test_clip_rows_are_the_cosines_of_picture_and_text(
    scores: artifacts.Scores, small_world: Any, small_judge: Path, prompts: Path
) -> None:
    scorer = clip_load.load_clip(small_judge / "clip")
    texts = open_prompts(prompts).texts("alt")
    row_of = {s: i for i, s in enumerate(small_world.sample_ids)}
    rows = [
        row
        for row in scores.table.to_pylist()
        if (row["arm"], row["scoring"], row["metric"]) == ("real", "alt", "clip_similarity")
    ]
    pictures = scorer.picture_features(small_world.pixels[[row_of[row["pair_id"]] for row in rows]])
    features = scorer.text_features([texts[row["pair_id"]] for row in rows]).features
    expected = clip.similarity(pictures, features)
    np.testing.assert_allclose([row["value"] for row in rows], expected, atol=1e-4)


def test_distance_is_one_minus_similarity_row_by_row(scores: artifacts.Scores) -> None:
    values = {
        (row["generation_id"], row["scoring"], row["metric"]): row["value"]
        for row in scores.table.to_pylist()
        if row["scoring"] is not None
    }
    for (generation_id, text, metric), value in values.items():
        if metric == "clip_distance":
            similarity = values[generation_id, text, "clip_similarity"]
            assert value == pytest.approx(1 - similarity / 100, abs=1e-12)


def test_claims_rows_are_the_recognisers_verdicts(
    scores: artifacts.Scores, small_world: Any, small_judge: Path, prompts: Path
) -> None:
    reader = recogniser.load_recogniser(small_judge / "recogniser")
    prompt = next(p for p in open_prompts(prompts).rows if p.style == "dsc")
    row = small_world.sample_ids.index(prompt.pair_id)
    reading = recogniser.read(reader, small_world.pixels[[row]])[0]
    claims = from_json(prompt.claims or "")
    expected = tally(verdicts(claims, reading))
    found = {
        (r["metric"], r["axis"]): r["value"]
        for r in scores.table.to_pylist()
        if r["arm"] == artifacts.PICTURES_ARM and r["prompt_id"] == prompt.prompt_id
    }
    for axis, counted in expected.items():
        assert found["claims_held", axis] == counted.held / counted.total
        assert found["claims_total", axis] == counted.total
        assert found["claims_abstained", axis] == counted.abstained
    together = [expected[a] for a in ("objects", "number_place", "colour_size") if a in expected]
    assert found["claims_total", None] == sum(t.total for t in together)  # words: not measurable
    assert found["claims_held", None] == sum(t.held for t in together) / found["claims_total", None]


def test_a_prompt_that_claims_nothing_has_no_claims_rows(
    scores: artifacts.Scores, prompts: Path
) -> None:
    silent = {p.prompt_id for p in open_prompts(prompts).rows if p.claims == "[]"}
    assert silent  # some alt texts are file names
    rows = [r for r in scores.table.to_pylist() if r["prompt_id"] in silent]
    assert {row["metric"] for row in rows} == {
        "clip_similarity", "clip_similarity_sentences", "clip_distance",
    }  # fmt: skip


def test_scores_name_their_scorers(scores: artifacts.Scores) -> None:
    scorers = scores.manifest.recipe["scorers"]
    assert set(scorers["clip"]["truncation_rate"]) == set(STYLES)
    assert scorers["clip"]["truncation_rate"]["dsc"] > 0  # 24 tokens are few
    assert scorers["claims"]["measurable"] == ["colour_size", "number_place", "objects"]
    assert not (scores.manifest.folder / "scratch").exists()


def test_a_killed_run_ends_in_the_same_bytes(
    scores: artifacts.Scores,
    settings: dict[str, Any],
    generations: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    score_arm, calls = scoring.score_arm, []

    def die_at_the_third(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score_arm(*args, **kwargs)

    monkeypatch.setattr(scoring, "score_arm", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "out", generations=generations, **settings)
    # The order in which generations are named is not part of what is scored.
    again = score(tmp_path / "out", generations=generations[::-1], **settings)
    assert again.manifest.digest == scores.manifest.digest
    assert len(calls) == 5  # two kept, one lost, two left


def without_first(rows: list[GenerationRow]) -> list[GenerationRow]:
    return rows[1:]


def first_twice(rows: list[GenerationRow]) -> list[GenerationRow]:
    return [rows[0], *rows]


def one_too_many(rows: list[GenerationRow]) -> list[GenerationRow]:
    return [*rows, rows[0]._replace(generation_id="f" * 32, seed=7)]


def of_another_pair(rows: list[GenerationRow]) -> list[GenerationRow]:
    return [rows[0]._replace(pair_id=rows[-1].pair_id), *rows[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_first, "1 of 12 generations are missing"),
        (first_twice, "occurs more than once"),
        (one_too_many, "one generation too many: prompt .* seed 7"),
        (of_another_pair, "which the prompts do not have"),
    ],
)
def test_generations_that_are_not_complete_are_refused(
    change: Any,
    message: str,
    make: Any,
    small_world: Any,
    prompts: Path,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    folder = make.generations(
        tmp_path / "g", small_world, prompts, arm="real", styles=["human"], change=change
    )
    with pytest.raises(ArtifactError, match=message):
        score(tmp_path / "out", generations=[folder], **settings)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_picture_is_named_and_nothing_is_scored(
    make: Any, small_world: Any, prompts: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = make.generations(tmp_path / "g", small_world, prompts, arm="real", styles=["human"])
    row = open_generations(folder).table.slice(5, 1).to_pylist()[0]
    shard = folder / row["shard"]
    whole = bytearray(shard.read_bytes())
    whole[row["offset"] : row["offset"] + row["num_bytes"]] = bytes(row["num_bytes"])
    shard.write_bytes(bytes(whole))
    message = f"generation {row['generation_id']} cannot be read as a picture"
    with pytest.raises(ArtifactError, match=message):
        score(tmp_path / "out", generations=[folder], **settings)
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_judge_whose_weights_have_changed_is_refused(
    generations: list[Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    judge = shutil.copytree(settings["judge"], tmp_path / "judge")
    weights = judge / "recogniser" / recogniser.WEIGHTS_NAME
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{weights.name}: is not what the manifest names"):
        score(tmp_path / "out", generations=generations, **{**settings, "judge": judge})
    assert not (tmp_path / "out").exists()


def test_arms_that_drew_different_prompts_are_refused(
    make: Any, small_world: Any, prompts: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    folders = [
        make.generations(tmp_path / arm, small_world, prompts, arm=arm, styles=[style])
        for arm, style in (("real", "human"), ("dsc", "dsc"))
    ]
    with pytest.raises(ArtifactError, match="are not paired"):
        score(tmp_path / "out", generations=folders, **settings)


def test_one_model_given_twice_is_refused(
    generations: list[Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="give each model once"):
        score(tmp_path / "out", generations=[generations[0]] * 2, **settings)


def test_generations_of_other_prompts_are_refused(
    make: Any, generations: list[Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    other = make.world(tmp_path / "other", num=8)
    prompts = make.prompts(other, {"human": other.texts("human")})
    with pytest.raises(ArtifactError, match="was drawn for other prompts"):
        score(
            tmp_path / "out",
            generations=generations[:1],
            **{**settings, "prompts": prompts, "scoring_styles": []},
        )


def test_a_scoring_style_that_is_absent_is_named(
    generations: list[Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'ssc'"):
        score(
            tmp_path / "out",
            generations=generations,
            **{**settings, "scoring_styles": ["ssc"]},
        )


def test_a_dry_run_writes_nothing(
    generations: list[Path], settings: dict[str, Any], tmp_path: Path, capsys: Any
) -> None:
    cfg = ScoreConfig(generations=generations, **settings)
    scoring.score(cfg, Run(out=tmp_path / "out", verb="eval score", config=cfg, is_dry=True))
    assert "generations: 96" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_pictures_are_scored_where_no_claims_are_known(
    make: Any, small_judge: Path, small_autoencoder: Path, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "photos", num=8, has_claims=False)
    prompts = make.prompts(made, {"human": ["a dog"] * 8})
    folder = make.generations(tmp_path / "g", made, prompts, arm="real", styles=["human"])
    found = score(
        tmp_path / "out",
        generations=[folder],
        judge=small_judge,
        prompts=prompts,
        scoring_styles=[],
    )
    assert set(found.table["metric"].to_pylist()) == {"clip_similarity", "clip_distance"}
    assert len(open_generations(folder)) == 2


def test_a_public_clip_scores_without_a_judge(
    scores: artifacts.Scores, settings: dict[str, Any], small_judge: Path, generations: list[Path],
    small_autoencoder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    public = tmp_path / "vae"  # as another made it: the same files without a manifest of ours
    shutil.copytree(small_autoencoder, public, ignore=shutil.ignore_patterns("manifest.json"))
    own = {**settings, "judge": None, "autoencoder": public}
    found = score(
        tmp_path / "out", generations=generations, clip_model=str(small_judge / "clip"), **own
    )

    def cosines(of: artifacts.Scores) -> dict[Any, float]:
        return {
            (r["generation_id"], r["scoring"]): r["value"]
            for r in of.table.to_pylist()
            if r["metric"] == "clip_similarity"
        }

    assert cosines(found) == pytest.approx(cosines(scores))
    assert "claims_held" not in found.table["metric"].unique().to_pylist()
    roles = {i.role: i.digest for i in found.manifest.inputs}
    assert "judge" not in roles
    assert len(roles["autoencoder"]) == 32
    with pytest.raises(ConfigError, match="give judge or clip_model"):
        score(tmp_path / "none", generations=generations, **own)
