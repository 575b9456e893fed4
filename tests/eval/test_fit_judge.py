"""Fitting the judge: what it writes, that it resumes exactly, and how its quality is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import artifacts, clip_folder, clip_load, fit_judge, recogniser
from eval.config import ClipSizeConfig, FitJudgeConfig
from eval.reading import UNREAD, Cell, Reading, layouts
from launch.checkpoint import Checkpoints
from launch.errors import ArtifactError, ConfigError, StoppedError
from launch.run import Run
from recap.claims import AXES

TINY = ClipSizeConfig(
    width=16, image_layers=1, text_layers=1, num_heads=2, embed_dim=8, context_length=48
)


def config(small_world: Any, texts: Path, autoencoder: Path, **changes: Any) -> FitJudgeConfig:
    settings: dict[str, Any] = {
        "images": small_world.images,
        "captions": [texts],
        "kinds": ["judge", "human"],
        "autoencoder": autoencoder,
        "clip": TINY,
        "clip_samples": 64,
        "recogniser_samples": 64,
        "batch_size": 8,
        "threads": 1,
    }
    return FitJudgeConfig(**{**settings, **changes})


def fit(cfg: FitJudgeConfig, out: Path) -> artifacts.Judge:
    run = Run(out=out, verb="eval fit-judge", config=cfg)
    try:
        fit_judge.fit_judge(cfg, run)
    finally:
        run.close()
    return artifacts.open_judge(out)


@pytest.fixture(scope="module")
def texts(small_world: Any) -> Path:
    written = {kind: small_world.texts(kind) for kind in ("judge", "human")}
    return small_world.write_captions(
        "judge_texts", {kind: dict(enumerate(of_kind)) for kind, of_kind in written.items()}
    )


@pytest.fixture(scope="module")
def judge(
    small_world: Any, texts: Path, small_autoencoder: Path, tmp_path_factory: Any
) -> artifacts.Judge:
    out = tmp_path_factory.mktemp("fit") / "judge"
    return fit(config(small_world, texts, small_autoencoder), out)


def test_a_fitted_judge_loads_and_says_how_good_it_is(judge: artifacts.Judge) -> None:
    assert clip_load.load_clip(judge.clip_folder).context_length == 48
    assert judge.recogniser_folder is not None
    recogniser.load_recogniser(judge.recogniser_folder)
    retrieval = judge.quality["retrieval"]
    assert retrieval["kind"] == "judge"
    assert retrieval["num_pictures"] == 12
    for direction in ("text_to_image", "image_to_text"):
        low, high = retrieval[direction]["interval"]
        assert low <= retrieval[direction]["r_at_1"] <= high
        assert retrieval[direction]["chance"] == 1 / 12
    assert set(judge.quality["recogniser"]["renders"]) == set(AXES)
    assert set(judge.measurable) == set(AXES)
    assert judge.quality["clip"]["scorer"]["precision"] == "float32"


def test_only_judge_pictures_are_fitted_and_no_checkpoint_is_left(judge: artifacts.Judge) -> None:
    assert judge.manifest.counts == {"rows_in": 24, "rows_out": 24, "test_pictures": 12}
    assert not (judge.folder / "scratch").exists()
    names = {part.name for part in judge.manifest.parts}
    assert {"quality.json", f"clip/{clip_folder.WEIGHTS_NAME}", "recogniser/config.json"} <= names


@pytest.mark.parametrize("label", ["clip", "recogniser"])
def test_a_killed_fit_ends_in_the_same_bytes(
    judge: artifacts.Judge,
    small_world: Any,
    texts: Path,
    small_autoencoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
) -> None:
    cfg = config(small_world, texts, small_autoencoder)
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        if self.folder.name == label and step >= 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit(cfg, tmp_path / "judge")
    monkeypatch.setattr(Checkpoints, "save", save)
    again = fit(cfg, tmp_path / "judge")
    assert again.manifest.digest == judge.manifest.digest


def test_without_claims_there_is_a_clip_and_no_recogniser(
    make: Any, small_autoencoder: Path, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "photos", num=16, has_claims=False)
    folder = made.write_captions("texts", {"human": dict(enumerate(made.texts("human")))})
    cfg = config(made, folder, small_autoencoder, kinds=["human"], recogniser_samples=0)
    judge = fit(cfg, tmp_path / "judge")
    assert judge.recogniser_folder is None
    assert judge.measurable == {}
    with pytest.raises(ConfigError, match="nothing to learn to read"):
        fit(
            config(made, folder, small_autoencoder, kinds=["human"], recogniser_samples=8),
            tmp_path / "other",
        )


def test_a_kind_that_is_absent_is_named(
    small_world: Any, texts: Path, small_autoencoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'dsc' is in none of"):
        fit(config(small_world, texts, small_autoencoder, kinds=["dsc"]), tmp_path / "judge")
    assert not (tmp_path / "judge").exists()


def test_a_split_without_texts_is_refused(
    small_world: Any, small_autoencoder: Path, tmp_path: Path
) -> None:
    some = dict.fromkeys(small_world.of_split("judge"), "a ring")
    folder = small_world.write_captions("judge_only", {"judge": some})
    with pytest.raises(ArtifactError, match="test split have a text"):
        fit(config(small_world, folder, small_autoencoder, kinds=["judge"]), tmp_path / "judge")


def test_a_loss_that_is_no_number_stops_the_fit(
    small_world: Any, texts: Path, small_autoencoder: Path, tmp_path: Path
) -> None:
    cfg = config(small_world, texts, small_autoencoder, lr=1e30)
    with pytest.raises(StoppedError, match=r"loss is (nan|inf)"):
        fit(cfg, tmp_path / "judge")


# --------------------------------------------------------------------------- quality


def test_ties_in_retrieval_count_as_a_fair_draw() -> None:
    cosines = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    found = fit_judge._recall_at_1(cosines)
    assert found["r_at_1"] == (0.5 + 1 + 0) / 3
    assert found["chance"] == 1 / 3


@pytest.mark.parametrize(
    ("successes", "num", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 100, 0.0018, 0.0545)],
)  # fmt: skip
def test_the_interval_of_a_share_is_wilsons(
    successes: int, num: int, low: float, high: float
) -> None:
    assert fit_judge.wilson_interval(successes, num) == pytest.approx((low, high), abs=1e-4)


def test_a_perfect_reading_is_accurate_and_accepts_nothing_false(small_world: Any) -> None:
    true = [scene.claims for scene in small_world.scenes]
    found = fit_judge.read_accuracy([layouts(claims)[0] for claims in true], true)
    for axis in ("objects", "number_place", "colour_size"):
        assert found[axis]["accuracy"] == 1.0
        assert found[axis]["false_accept"] == 0.0
        assert found[axis]["num_false"] > 0


def test_a_blind_recogniser_abstains_and_is_not_accurate(small_world: Any) -> None:
    true = [scene.claims for scene in small_world.scenes]
    lost = Cell(UNREAD)
    blind = Reading(cells=(lost, lost, lost, lost))
    found = fit_judge.read_accuracy([blind] * len(true), true)
    assert found["objects"]["accuracy"] == 0.0
    assert found["objects"]["abstained"] == 1.0
