"""The verb: every figure computed again from what it keeps, and no set smaller than another."""

from __future__ import annotations

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from eval import clip, clip_load, kept_features
from eval import distribution as measuring
from eval.config import DistributionConfig
from eval.distribution_artifact import SUMMARY, Distribution, open_distribution
from eval.distribution_numbers import measure as measure_sets
from eval.distribution_sets import PictureSet, refuse_lonely_reference
from launch.errors import ArtifactError, ConfigError, InputError
from launch.manifest import MANIFEST, Input, Manifest, Part, write_manifest
from launch.run import Run
from t2i.artifacts import GenerationRow

STYLES = ["human", "dsc"]


def measure(out: Path, **settings: Any) -> Distribution:
    cfg = DistributionConfig(**{"threads": 1, "batch_size": 16, "groups": 8, **settings})
    run = Run(out=out, verb="eval distribution", config=cfg)
    try:
        measuring.distribution(cfg, run)
    finally:
        run.close()
    return open_distribution(out)


def exchanged(rows: list[GenerationRow]) -> list[GenerationRow]:
    """Give every prompt the picture of the next one of its style."""
    moved = []
    for style in STYLES:
        own = [row for row in rows if row.style == style]
        for row, other in zip(own, [*own[2:], *own[:2]], strict=True):
            moved.append(row._replace(offset=other.offset, num_bytes=other.num_bytes))
    return moved


def all_alike(rows: list[GenerationRow]) -> list[GenerationRow]:
    """Give all prompts one of four pictures."""
    return [
        row._replace(offset=rows[i % 4].offset, num_bytes=rows[i % 4].num_bytes)
        for i, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def prompts(small_world: Any, make: Any, tmp_path_factory: Any) -> Path:
    here = replace(small_world, root=tmp_path_factory.mktemp("here"))
    return make.prompts(here, {style: small_world.texts(style) for style in STYLES})


@pytest.fixture(scope="module")
def generations(small_world: Any, make: Any, prompts: Path, tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("generations")
    changes = {"real": lambda rows: rows, "exchanged": exchanged, "alike": all_alike}
    return [
        make.generations(
            root / arm, small_world, prompts, arm=arm, styles=STYLES, num_seeds=2, change=change
        )
        for arm, change in changes.items()
    ]


@pytest.fixture(scope="module")
def settings(small_world: Any, small_judge: Path, prompts: Path) -> dict[str, Any]:
    return {"judge": small_judge, "prompts": prompts, "images": small_world.images}


@pytest.fixture(scope="module")
def found(settings: dict[str, Any], generations: list[Path], tmp_path_factory: Any) -> Distribution:
    out = tmp_path_factory.mktemp("distribution") / "out"
    return measure(out, generations=generations, **settings)


def value(found: Distribution, arm: str, metric: str, style: str = "human") -> float:
    (row,) = (
        r
        for r in found.distances.to_pylist()
        if (r["arm"], r["metric"], r["style"], r["model_seed"]) == (arm, metric, style, 0)
    )
    return float(row["value"])


def kept(found: Distribution, arm: str | None, style: str | None) -> tuple[np.ndarray, list[str]]:
    """Return features and prompts of a set from the artifact alone."""
    rows = [
        r for r in found.pictures.to_pylist() if r["arm"] == arm and style in (None, r["style"])
    ]
    features = load_file(found.manifest.folder / rows[0]["file"])["features"].astype(np.float64)
    return features[[r["row"] for r in rows]], [r["pair_id"] for r in rows]


@pytest.mark.parametrize("style", STYLES)
def test_every_distance_is_computed_again_from_the_features_kept(
    found: Distribution, style: str
) -> None:
    real, real_pairs = kept(found, None, None)
    for arm in ("exchanged", "alike"):
        x, pairs = kept(found, arm, style)
        assert np.linalg.norm(x, axis=1) == pytest.approx(1, abs=1e-6)
        step = x.mean(0) - real.mean(0)
        # Four pictures have no covariance of full rank; their own products need none.
        a, b = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, real))
        overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        fid = step @ step + (a**2).sum() + (b**2).sum() - 2 * overlap
        assert value(found, arm, "fid", style) == pytest.approx(fid, rel=1e-6, abs=1e-9)

        def mean(u: np.ndarray, p: list[str], v: np.ndarray, q: list[str]) -> float:
            kernel = np.exp(-((u[:, None] - v[None]) ** 2).sum(-1) / 200)
            return float(kernel[np.array(p)[:, None] != np.array(q)[None]].mean())

        cmmd = 1000 * (
            mean(x, pairs, x, pairs)
            + mean(real, real_pairs, real, real_pairs)
            - 2 * mean(x, pairs, real, real_pairs)
        )
        assert value(found, arm, "cmmd", style) == pytest.approx(cmmd, rel=1e-6, abs=1e-9)


def test_the_reference_itself_has_no_distance(found: Distribution) -> None:
    assert abs(value(found, "real", "cmmd")) < 1e-6
    assert value(found, "alike", "cmmd") > 1e-3


def test_pictures_exchanged_among_prompts_have_the_same_fid(found: Distribution) -> None:
    assert value(found, "exchanged", "fid") == pytest.approx(value(found, "real", "fid"), rel=1e-6)


def test_a_difference_is_that_of_the_distances_and_leaves_out_the_same_groups(
    found: Distribution,
) -> None:
    left = {
        (r["arm"], r["style"], r["metric"], r["group"]): r["value"]
        for r in found.left_out.to_pylist()
    }
    rows = [r for r in found.differences.to_pylist() if r["model_seed"] == 0]
    assert {(r["arm"], r["than"]) for r in rows} == {
        ("exchanged", "real"), ("alike", "real"), ("alike", "exchanged")
    }  # fmt: skip
    for r in rows:
        expected = [value(found, r[a], r["metric"], r["style"]) for a in ("arm", "than")]
        assert r["value"] == pytest.approx(expected[0] - expected[1], abs=1e-12)
        replicates = [
            left[r["arm"], r["style"], r["metric"], g] - left[r["than"], r["style"], r["metric"], g]
            for g in range(8)
        ]
        error = np.sqrt(7 / 8 * ((replicates - np.mean(replicates)) ** 2).sum())
        assert r["standard_error"] == pytest.approx(error, rel=1e-6)
        assert r["low"] <= r["value"] <= r["high"]


def test_sizes_are_stated(found: Distribution) -> None:
    for row in [*found.distances.to_pylist(), *found.differences.to_pylist()]:
        assert (row["n"], row["n_reference"], row["num_prompts"]) == (24, 12, 12)
    sizes = {(r["num_parts"], r["n"], r["n_reference"]) for r in found.sizes.to_pylist()}
    assert (1, 24, 12) in sizes
    assert len(sizes) == 3
    assert "24 pictures a model against 12" in (found.manifest.folder / SUMMARY).read_text()


def test_a_recipe_names_the_scorer(found: Distribution, small_judge: Path) -> None:
    scorer = found.manifest.recipe["scorer"]
    judge = clip_load.load_clip(small_judge / "clip").describe()
    for key in ("architecture", "weights", "preprocessing", "precision"):
        assert scorer["features"][key] == judge[key]
    assert set(scorer["formula"]) == {"fid", "fid_infinity", "cmmd"}
    assert found.manifest.recipe["device"] == "cpu"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(clip.ClipScorer, "picture_features", fail)


def test_a_run_stopped_at_its_end_computes_no_feature_again(
    found: Distribution, settings: dict[str, Any], generations: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    again = tmp_path / "again"
    shutil.copytree(found.manifest.folder, again)
    said = json.loads((again / MANIFEST).read_text())
    state = {"recipe": {k: v for k, v in said["recipe"].items() if k != "scorer"},
             "inputs": [[i["role"], i["digest"]] for i in said["inputs"]]}  # fmt: skip
    (again / "begun.json").write_text(json.dumps(state))
    (again / MANIFEST).unlink()
    (again / "distances.parquet").unlink()
    forbid(monkeypatch)
    made = measure(again, generations=generations, **settings)
    assert made.manifest.digest == found.manifest.digest


def test_other_groups_take_the_features_of_an_earlier_run(
    found: Distribution, settings: dict[str, Any], generations: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forbid(monkeypatch)
    settings = {**settings, "generations": generations, "groups": 4}
    made = measure(tmp_path / "out", features=found.manifest.folder, **settings)
    assert value(made, "alike", "cmmd") == pytest.approx(value(found, "alike", "cmmd"), rel=1e-9)
    assert made.manifest.recipe["groups"] == 4


def test_features_of_other_versions_or_another_device_are_computed_anew(
    found: Distribution, settings: dict[str, Any], generations: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forbid(monkeypatch)
    settings = {**settings, "generations": generations[:1], "features": found.manifest.folder}
    measure(tmp_path / "same", **settings)
    for number, (name, other) in enumerate(
        (("version", lambda _: "0"), ("device", lambda: torch.device("meta")))
    ):
        with monkeypatch.context() as patch:
            patch.setattr(kept_features, name, other)
            with pytest.raises(AssertionError, match="features were computed again"):
                measure(tmp_path / str(number), **settings)


def test_one_models_features_are_in_memory_at_a_time() -> None:
    held: list[weakref.ref[np.ndarray]] = []
    in_memory: list[int] = []
    pairs = [f"{i}" for i in range(6)]
    sets = [
        PictureSet(f"arm {i}", 0, [f"{i}"], pairs, pairs, ["human"] * 6, [0] * 6, lambda n: None)
        for i in range(4)
    ]

    def read(pictures: PictureSet) -> np.ndarray:
        in_memory.append(sum(of() is not None for of in held))
        features = np.random.default_rng(int(pictures.source[0])).normal(size=(6, 3))
        features = features.astype(np.float32)
        held.append(weakref.ref(features))
        return features

    groups = {pair: i % 3 for i, pair in enumerate(pairs)}
    made = measure_sets(sets[1:], sets[0], read=read, groups=groups, with_cmmd=True)
    assert {arm for arm, *_ in made.estimates} == {"arm 1", "arm 2", "arm 3"}
    assert in_memory == [0, 1, 1, 1]  # the reference stays


@pytest.mark.parametrize("in_both", [True, False])
def test_a_missing_picture_is_named(
    small_world: Any, make: Any, prompts: Path, settings: dict[str, Any], generations: list[Path],
    tmp_path: Path, in_both: bool,
) -> None:  # fmt: skip
    lacking: list[GenerationRow] = []

    def lose(rows: list[GenerationRow]) -> list[GenerationRow]:
        lacking.append(rows[5])
        return rows[:5] + rows[6:]

    folders = [
        make.generations(
            tmp_path / arm, small_world, prompts, arm=arm, styles=STYLES, num_seeds=2,
            change=lose if in_both or arm == "b" else list,
        )
        for arm in ("a", "b")
    ]  # fmt: skip
    with pytest.raises(ArtifactError, match="missing") as raised:
        measure(tmp_path / "out", generations=folders, **settings)
    assert lacking[0].prompt_id in str(raised.value)


def test_arms_of_different_size_are_refused_by_name(
    small_world: Any, make: Any, prompts: Path, settings: dict[str, Any], generations: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    fewer = make.generations(
        tmp_path / "fewer", small_world, prompts, arm="fewer", styles=STYLES, num_seeds=1
    )
    with pytest.raises(ArtifactError, match="are not paired") as raised:
        measure(tmp_path / "out", generations=[generations[0], fewer], **settings)
    assert str(raised.value).startswith(str(fewer))
    with pytest.raises(ArtifactError, match="give each model once"):
        measure(tmp_path / "out", generations=[generations[0]] * 2, **settings)


def test_pictures_of_another_resolution_are_refused_by_name(
    small_world: Any, make: Any, prompts: Path, settings: dict[str, Any], generations: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    large = replace(small_world, pixels=small_world.pixels.repeat(2, axis=1).repeat(2, axis=2))
    other = make.generations(tmp_path / "o", large, prompts, arm="o", styles=STYLES, num_seeds=2)
    with pytest.raises(
        ArtifactError, match=r"its pictures have 64 x 64 pixels, those of .* 32 x 32"
    ):
        measure(tmp_path / "out", generations=[generations[0], other], **settings)


def test_features_that_an_earlier_run_no_longer_has_whole_are_refused(
    found: Distribution, settings: dict[str, Any], generations: list[Path], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(found.manifest.folder, earlier)
    for file in (earlier / "features").iterdir():
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    with pytest.raises(ArtifactError, match="the file has changed"):
        measure(tmp_path / "out", features=earlier, generations=generations, **settings)


def test_arms_without_a_training_seed_in_common_are_refused(
    small_world: Any, make: Any, prompts: Path, settings: dict[str, Any], generations: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    other = make.generations(
        tmp_path / "o", small_world, prompts, arm="o", styles=STYLES, num_seeds=2
    )
    said = json.loads((other / MANIFEST).read_text())
    said.pop("digest")
    said["recipe"]["model_seed"] = 7
    parts = [Part(**part) for part in said.pop("parts")]
    inputs = [Input(**i) for i in said.pop("inputs")]
    write_manifest(other, Manifest(**said, parts=parts, inputs=inputs))
    with pytest.raises(InputError, match="no training seed in common"):
        measure(tmp_path / "out", generations=[generations[0], other], **settings)


def test_a_reference_that_one_group_holds_is_refused() -> None:
    rows = ["a", "b", "c"]
    reference = PictureSet(None, None, [], rows, rows, [None] * 3, [None] * 3, lambda n: None)
    refuse_lonely_reference(reference, {"a": 0, "b": 1, "c": 2}, where=Path("images"))
    with pytest.raises(InputError, match="2 of the 3 reference pictures"):
        refuse_lonely_reference(reference, {"a": 0, "b": 0, "c": 1}, where=Path("images"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"styles": ["alt"]}, "no pictures of style 'alt'"),
        ({"split": "validation"}, "0 pictures of split"),
    ],
)
def test_what_is_not_there_is_refused(
    wrong: dict[str, Any], said: str, settings: dict[str, Any], generations: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        measure(tmp_path / "out", generations=generations, **{**settings, **wrong})


def test_features_come_from_exactly_one_model() -> None:
    paths = {"prompts": Path("p"), "images": Path("i"), "generations": [Path("g")]}
    with pytest.raises(ConfigError, match="none of them"):
        DistributionConfig(**paths)
    with pytest.raises(ConfigError, match="judge and clip_model"):
        DistributionConfig(**paths, judge=Path("j"), clip_model="ViT-B-32")
