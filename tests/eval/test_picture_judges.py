"""Detector and OCR in `eval score`: their rows, their recipe, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.parquet import read_table
from safetensors.torch import save_file
from torchvision import models

from eval import artifacts, clip, clip_load, geneval, picture_judges
from eval import score as scoring
from eval.colours import BACKGROUND, ColourNamer, crop
from eval.config import DetectorConfig, PrimaryConfig, ScoreConfig
from eval.geneval import COLOURS, Detections, Thing
from eval.picture_judges import Asked, DetectorJudge, ScoreRow, WordsJudge, claim_rows
from eval.report_answers import answer
from eval.report_rows import Measure, ScoreTable
from eval.verdicts import Tally
from launch.errors import ArtifactError, ConfigError
from launch.manifest import Manifest
from launch.run import Run
from recap.claims import Claim, to_json
from t2i.artifacts import Prompt, Prompts, open_generations, write_prompts

RULES = DetectorConfig(architecture="maskrcnn_resnet50_fpn", weights=Path("unused"))

DOG, CAT = Claim(object="dog"), Claim(object="cat")


class FoundDogs:
    """A detector that finds as many dogs as the picture's first pixel is bright."""

    labels = ("dog", "cat", "remote")

    def __init__(self) -> None:
        self.num_seen = 0

    def detect(self, picture: np.ndarray) -> Detections:
        self.num_seen += 1
        num = int(picture[0, 0, 0])
        boxes = np.array([[10 * i, 0, 10 * i + 8, 8] for i in range(num)], np.float64)
        return Detections(boxes.reshape(-1, 4), np.full(num, 0.95), ["dog"] * num)

    def describe(self) -> dict[str, Any]:
        return {"architecture": "made for a test"}


def picture(num_dogs: int) -> np.ndarray:
    return np.full((16, 32, 3), num_dogs, np.uint8)


def prompt(name: str, text: str = "") -> Prompt:
    return Prompt(prompt_id=name, prompt=text, style="human", pair_id=name, claims=None)


@pytest.fixture(scope="module")
def clip_scorer(small_judge: Path) -> clip.ClipScorer:
    return clip_load.load_clip(small_judge / "clip")


def judge_of(claims: dict[str, list[Claim]], clip_scorer: clip.ClipScorer) -> DetectorJudge:
    return DetectorJudge(FoundDogs(), rules=RULES, clip=clip_scorer, claims=claims)


def test_a_prompt_gets_rows_by_axis_over_all_and_one_for_the_whole(
    clip_scorer: clip.ClipScorer,
) -> None:
    judge = judge_of({"a": [replace(DOG, count=2), CAT]}, clip_scorer)
    (rows,) = judge.rows(np.stack([picture(2)]), [Asked(0, prompt("a"))])
    found = {(row.metric, row.axis): row.value for row in rows}
    assert found == {
        ("claims_held", "object"): 1 / 2,
        ("claims_total", "object"): 2.0,
        ("claims_abstained", "object"): 0.0,
        ("claims_held", "count"): 1.0,
        ("claims_total", "count"): 1.0,
        ("claims_abstained", "count"): 0.0,
        ("claims_held", None): 2 / 3,
        ("claims_total", None): 3.0,
        ("claims_abstained", None): 0.0,
        ("geneval_correct", "counting"): 0.0,
    }


def test_a_picture_is_looked_at_once_however_many_prompts_it_serves(
    clip_scorer: clip.ClipScorer,
) -> None:
    judge = judge_of({"a": [DOG], "b": [replace(DOG, count=3)]}, clip_scorer)
    asked = [Asked(1, prompt("a")), Asked(0, prompt("a")), Asked(1, prompt("b"))]
    rows = judge.rows(np.stack([picture(0), picture(3)]), [*asked, Asked(0, prompt("no claims"))])
    correct = [[row.value for row in of if row.metric == "geneval_correct"] for of in rows]
    assert correct == [[1.0], [0.0], [1.0], []]
    assert isinstance(judge.detector, FoundDogs)
    assert judge.detector.num_seen == 2


def test_axes_that_are_not_pooled_have_rows_of_their_own_alone() -> None:
    rows = claim_rows({"object": Tally(2, 1, 0), "words": Tally(1, 0, 1)}, together=["object"])
    assert ScoreRow("claims_held", None, 0.5) in rows
    assert ScoreRow("claims_abstained", "words", 1.0) in rows
    assert all(row.axis is not None for row in claim_rows({"words": Tally(1, 1, 0)}, together=[]))


def test_classes_that_the_detector_lacks_are_refused_before_any_picture(
    clip_scorer: clip.ClipScorer,
) -> None:
    with pytest.raises(ConfigError, match="prompt b: speaks of 'unicorn'"):
        judge_of({"a": [DOG], "b": [Claim(object="unicorn")]}, clip_scorer)
    with pytest.raises(ConfigError, match="no prompt makes a claim"):
        judge_of({}, clip_scorer)


def test_a_detector_judge_names_thresholds_labels_and_colours(
    clip_scorer: clip.ClipScorer,
) -> None:
    facts = judge_of({"a": [Claim(object="tv remote", colour="red")]}, clip_scorer).describe()
    assert facts["classes"] == {"tv remote": "remote"}
    assert facts["rules"] == {
        "min_score": 0.3, "min_score_counting": 0.9, "max_objects": 16, "max_overlap": 1.0,
        "min_offset": 0.1,
    }  # fmt: skip
    assert facts["colour"]["clip"] == clip_scorer.weights_digest
    assert facts["axes"] == list(geneval.AXES)


# --------------------------------------------------------------------------- colours


def test_a_crop_is_the_box_with_grey_outside_the_mask() -> None:
    shown = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    box = (1.4, 2.0, 5.0, 4.6)
    np.testing.assert_array_equal(crop(shown, Thing(box)), shown[2:5, 1:5])
    mask = np.zeros((6, 8), bool)
    mask[3, 2] = True
    cut = crop(shown, Thing(box, mask))
    np.testing.assert_array_equal(cut[1, 1], shown[3, 2])
    assert (np.delete(cut.reshape(-1, 3), 5, axis=0) == BACKGROUND).all()


@pytest.mark.parametrize("box", [(3.0, 3.0, 3.0, 3.0), (-9.0, -9.0, -2.0, -2.0), (90, 90, 99, 99)])
def test_a_crop_has_one_pixel_at_least(box: tuple[float, float, float, float]) -> None:
    assert crop(np.zeros((6, 8, 3), np.uint8), Thing(box)).shape == (1, 1, 3)


def test_a_colour_is_that_whose_texts_lie_nearest(clip_scorer: clip.ClipScorer) -> None:
    namer = ColourNamer(replace(clip_scorer, prefix="ignored "), ["dog"])
    shown = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    things = [Thing((0, 0, 30, 30)), Thing((10, 10, 40, 40))]
    expected = []
    for thing in things:
        feature = clip_scorer.picture_features(crop(shown, thing)[None], batch_size=1)[0]
        nearness = []
        for colour in COLOURS:
            texts = [
                f"a photo of a {colour} dog", f"a photo of a {colour}-colored dog",
                f"a photo of a {colour} object",
            ]  # fmt: skip
            mean = clip_scorer.text_features(texts).features.mean(0)
            nearness.append(float(feature @ mean / np.linalg.norm(mean)))
        expected.append(COLOURS[int(np.argmax(nearness))])
    assert namer.name(shown, things, "dog") == expected


# --------------------------------------------------------------------------- words


class FoundLines:
    """A reader of one line."""

    def read(self, picture: np.ndarray) -> list[str]:
        return ["STOP it"]

    def describe(self) -> dict[str, Any]:
        return {"architecture": "made for a test"}


def test_words_are_scored_where_the_prompt_wants_some() -> None:
    prompts = [prompt("a", "a sign that says 'Stop it'"), prompt("b", "a dog"), prompt("c")]
    claims = {"c": [Claim(object="sign", text="stop")]}
    judge = WordsJudge(FoundLines(), prompts, claims=claims)
    rows = judge.rows(np.stack([picture(0)]), [Asked(0, p) for p in prompts])
    assert [[tuple(row) for row in of] for of in rows] == [
        [("words_exact", None, 1.0), ("words_error_rate", None, 0.0)],
        [],
        [("words_exact", None, 0.0), ("words_error_rate", None, 0.5)],
    ]
    assert judge.describe()["prompts"] == 2


def test_a_rewrite_is_read_for_the_words_that_its_original_quotes(tmp_path: Path) -> None:
    original = Prompt("a-human", "a sign that says 'Stop it'", "human", "a", None)
    once = Prompt("a-long", "a red sign with the word 'Halt'", "long", "a", None)
    twice = Prompt("a-longer", "a tall red sign", "longer", "a", None)
    unquoted = Prompt("b-human", "a dog", "human", "b", None)
    invented = Prompt("b-long", "a dog with a collar that says 'Stop it'", "long", "b", None)
    rows = [original, once, twice, unquoted, invented]
    write_prompts(tmp_path / "prompts.parquet", rows)
    # The second of two runs of `t2i upsample`: what the first rewrote is in its recipe.
    recipe = {"verb": "t2i upsample", "name": "longer", "style": "long"}
    made = Manifest(
        artifact="prompts",
        version=1,
        recipe={**recipe, "rewritten_before": {"long": "human"}},
        inputs=[],
        counts={},
        rejected={},
        parts=[],
    )
    prompts = Prompts(made, read_table(tmp_path / "prompts.parquet"))
    judge = WordsJudge(FoundLines(), rows, claims={}, asked_for=prompts.asked_for())
    found = judge.rows(np.stack([picture(0)]), [Asked(0, p) for p in rows])
    right = [("words_exact", None, 1.0), ("words_error_rate", None, 0.0)]
    assert [[tuple(row) for row in of] for of in found] == [right, right, right, [], []]
    assert judge.describe()["prompts"] == 3
    assert judge.describe()["judged_by_originals"] == 3


def test_prompts_that_want_no_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="no prompt quotes words"):
        WordsJudge(FoundLines(), [prompt("a", "a dog's tail")], claims={})


# --------------------------------------------------------------------------- eval score


@pytest.fixture(scope="module")
def photographs(
    make: Any, small_judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Settings of a score: prompts with claims of classes, two arms, a detector of random weights."""
    root = tmp_path_factory.mktemp("photographs")
    made = make.world(root, num=16, has_claims=False)
    said = [[DOG], [replace(CAT, count=2)], [replace(DOG, colour="red")], [DOG, CAT]]
    texts = ["a dog and a sign 'Stop it'", "two cats", "a red dog", "a dog and a cat"]
    rows = [
        Prompt(f"p{i}", texts[n % 4], "list", made.sample_ids[i], to_json(said[n % 4]))
        for n, i in enumerate(made.of_split("test"))
    ]
    (root / "prompts").mkdir()
    write_prompts(root / "prompts/prompts.parquet", rows)
    prompts = make.finish(root / "prompts", "prompts")
    torch.manual_seed(0)
    name = "ssdlite320_mobilenet_v3_large"
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
    save_file(model.state_dict(), root / "detector.safetensors")
    (root / "labels.txt").write_text("nothing\ndog\ncat\n")
    return {
        "judge": small_judge,
        "prompts": prompts,
        "generations": [
            make.generations(root / arm, made, prompts, arm=arm, styles=["list"])
            for arm in ("one", "other")
        ],
        "scoring_styles": [],
        "threads": 1,
        "batch_size": 16,
        "detector": DetectorConfig(
            architecture=name,
            weights=root / "detector.safetensors",
            labels=root / "labels.txt",
            min_score=0.0,
            min_score_counting=0.0,
        ),
    }


def score(out: Path, settings: dict[str, Any]) -> artifacts.Scores:
    cfg = ScoreConfig(**settings)
    run = Run(out=out, verb="eval score", config=cfg)
    try:
        scoring.score(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


@pytest.fixture(scope="module")
def scores(photographs: dict[str, Any], tmp_path_factory: Any) -> artifacts.Scores:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_judges, "load_reader", lambda *, threads: FoundLines())
        out = tmp_path_factory.mktemp("detected") / "out"
        return score(out, {**photographs, "ocr": True})


def test_every_generation_is_judged_by_the_detector(
    scores: artifacts.Scores, photographs: dict[str, Any]
) -> None:
    rows = scores.table.to_pylist()
    correct = [row for row in rows if row["metric"] == "geneval_correct"]
    num = sum(len(open_generations(folder)) for folder in photographs["generations"])
    assert len({row["generation_id"] for row in correct}) == len(correct) == num == 8
    assert {row["axis"] for row in correct} == {"single_object", "counting", "colors", "two_object"}
    held = {row["axis"] for row in rows if row["metric"] == "claims_held"}
    assert held == {None, "object", "count", "colour"}
    assert {row["value"] for row in rows if row["axis"] == "object"} >= {1.0}


def test_words_have_rows_where_a_prompt_quotes_some(scores: artifacts.Scores) -> None:
    rows = [row for row in scores.table.to_pylist() if row["metric"].startswith("words_")]
    assert {(row["prompt_id"], row["metric"], row["value"]) for row in rows} == {
        ("p1", "words_exact", 1.0),
        ("p1", "words_error_rate", 0.0),
    }
    assert {row["arm"] for row in rows} == {"one", "other"}


def test_equal_pictures_of_two_arms_are_judged_alike(scores: artifacts.Scores) -> None:
    values: dict[str, list[Any]] = {"one": [], "other": []}
    for row in scores.table.to_pylist():
        values[row["arm"]].append((row["prompt_id"], row["metric"], row["axis"], row["value"]))
    assert sorted(values["one"], key=str) == sorted(values["other"], key=str)


def test_the_recipe_names_the_detector_and_not_the_recogniser(
    scores: artifacts.Scores, photographs: dict[str, Any]
) -> None:
    recipe = scores.manifest.recipe["scorers"]
    assert set(recipe) == {"clip", "detector", "ocr"}
    assert recipe["ocr"] == {"architecture": "made for a test", "prompts": 1}
    assert recipe["detector"]["architecture"].startswith("torchvision ssdlite320")
    inputs = {i.role: i.digest for i in scores.manifest.inputs}
    assert inputs["detector_weights"] == recipe["detector"]["weights"]
    assert "detector_labels" in inputs


def test_a_picture_that_cannot_be_read_is_named(
    photographs: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(photographs["generations"][0], folder)
    generations = open_generations(folder)
    row = generations.table.slice(2, 1).to_pylist()[0]
    shard = folder / row["shard"]
    data = bytearray(shard.read_bytes())
    data[row["offset"] + 40 : row["offset"] + row["num_bytes"]] = b"x" * (row["num_bytes"] - 40)
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"generation {row['generation_id']} cannot be read"):
        generations.pixels([0, 1, 2])


def test_missing_weights_stop_the_score_before_it_begins(
    photographs: dict[str, Any], tmp_path: Path
) -> None:
    detector = replace(photographs["detector"], weights=tmp_path / "absent.pth")
    with pytest.raises(ConfigError, match=r"absent\.pth: no such file"):
        score(tmp_path / "out", {**photographs, "detector": detector})
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------- the report's numbers


def scored(values: dict[tuple[str, str], list[float]]) -> ScoreTable:
    """Make score rows of (arm, task) -> value of every prompt."""
    rows = [
        {
            "generation_id": f"{arm}{task}{i}", "arm": arm, "model_seed": 0, "seed": 0,
            "samples_seen": 1, "pair_id": f"{task}{i}", "prompt_id": f"{task}{i}",
            "prompt_style": "list", "metric": "geneval_correct", "scoring": None, "axis": task,
            "value": value,
        }
        for (arm, task), of in values.items()
        for i, value in enumerate(of)
    ]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in artifacts.SCORES_SCHEMA.names}
    return ScoreTable(artifacts.scores_table(columns))


def test_the_score_is_the_mean_of_the_tasks_means_whatever_their_sizes() -> None:
    table = scored({
        ("one", "counting"): [1, 0, 0, 0], ("one", "colors"): [1, 1],
        ("other", "counting"): [1, 1, 0, 0], ("other", "colors"): [1, 0],
    })  # fmt: skip
    answers = answer(
        table,
        arms=["one", "other"],
        primary=PrimaryConfig(better="other", than="one", style="list", metric="clip_similarity"),
        axes=list(geneval.AXES),
        is_control=False,
        withheld=None,
        changes={},
        resamples=10,
        seed=0,
    )
    cells = {cell.measure.axis: cell for cell in answers.checks}
    assert set(cells) == {None, "counting", "colors"}
    score = cells[None]
    assert score.measure == Measure("geneval_correct", "list")
    assert score.means["one"].estimate == pytest.approx(100 * (1 / 4 + 1) / 2)
    assert score.means["other"].estimate == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    (difference,) = score.differences
    assert difference.comparison.difference == pytest.approx(-12.5)
    assert answers.num_secondary == 3
