from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from launch.errors import ArtifactError, ConfigError
from launch.manifest import Manifest, digest_file, is_complete, write_manifest
from t2i import painter
from t2i import sample as sampling
from t2i.artifacts import Generations, open_generations, open_prompts
from t2i.painter import batches, noise_of
from t2i.pipeline import CaptionmixPipeline

MakePrompts = Callable[[int], Path]
RunSample = Callable[..., Path]


@pytest.fixture(scope="module")
def prompts(make_prompts: MakePrompts) -> Path:
    return make_prompts(10)


@pytest.fixture(scope="module")
def curve(run_sample: RunSample, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of the model and 3 of each earlier snapshot."""
    out = tmp_path_factory.mktemp("curve") / "out"
    return run_sample(out, prompts, curve_styles=["human"], curve_pairs=3)


def pictures(generations: Generations) -> dict[str, bytes]:
    png = generations.encoded(range(len(generations)))
    return dict(zip(generations.table["generation_id"].to_pylist(), png, strict=True))


def payload(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest_file(path)
        for path in folder.rglob("*")
        if path.suffix in {".tar", ".parquet"}
    }


def test_every_prompt_is_drawn_once_in_the_order_of_the_table(curve: Path, prompts: Path) -> None:
    table = open_generations(curve).table.to_pylist()
    final = [row["prompt_id"] for row in table if row["samples_seen"] == 300]
    assert final == open_prompts(prompts).table["prompt_id"].to_pylist()


def test_earlier_snapshots_draw_the_curve_styles_of_the_first_pairs(
    curve: Path, prompts: Path
) -> None:
    first = open_prompts(prompts).pair_ids[:3]
    table = open_generations(curve).table.to_pylist()
    for seen in (100, 200):
        rows = [(r["style"], r["pair_id"]) for r in table if r["samples_seen"] == seen]
        assert rows == [("human", pair) for pair in first]


def test_snapshots_draw_with_their_own_weights(curve: Path) -> None:
    generations = open_generations(curve)
    table = generations.table.to_pylist()
    pair = table[0]["pair_id"]
    rows = [i for i, r in enumerate(table) if (r["style"], r["pair_id"]) == ("human", pair)]
    assert len({generations.pixels([row]).tobytes() for row in rows}) == 3


def test_the_recipe_names_arm_and_seed_of_the_model(curve: Path) -> None:
    generations = open_generations(curve)
    assert (generations.arm, generations.model_seed) == ("dsc", 7)


def test_rows_are_conserved_and_nothing_is_left_behind(curve: Path) -> None:
    counts = open_generations(curve).manifest.counts
    assert counts["rows_in"] == counts["rows_out"] == 26
    kept = {path.name for path in curve.iterdir() if not path.name.startswith((".", "run"))}
    assert kept == {"config.yaml", "index.parquet", "manifest.json", "shards"}


def test_a_generation_does_not_depend_on_which_others_are_drawn(
    curve: Path, run_sample: RunSample, make_prompts: MakePrompts, tmp_path: Path
) -> None:
    fewer = run_sample(tmp_path / "out", make_prompts(3), styles=["human"], images_per_shard=16)
    found, all_of_them = pictures(open_generations(fewer)), pictures(open_generations(curve))
    assert len(found) == 3
    assert found.items() <= all_of_them.items()


def test_with_texts_of_several_padded_lengths_it_does_not_either(
    run_sample: RunSample,
    prompts: Path,
    make_prompts: MakePrompts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(painter, "LENGTH_STEP", 8)
    many = pictures(open_generations(run_sample(tmp_path / "many", prompts, images_per_shard=16)))
    few = pictures(open_generations(run_sample(tmp_path / "few", make_prompts(7))))
    assert len(few) == 14
    assert few.items() <= many.items()


@pytest.mark.slow
def test_compiled_it_draws_the_same_pictures_up_to_rounding(
    run_sample: RunSample, make_prompts: MakePrompts, tmp_path: Path
) -> None:
    plain = run_sample(tmp_path / "plain", make_prompts(3), images_per_shard=16)
    compiled = run_sample(tmp_path / "out", make_prompts(3), images_per_shard=16, compile=True)
    again = run_sample(tmp_path / "again", make_prompts(3), images_per_shard=16, compile=True)
    found, expected = open_generations(compiled), open_generations(plain)
    rows = range(len(expected))
    difference = found.pixels(rows).astype(int) - expected.pixels(rows).astype(int)
    assert np.abs(difference).max() <= 1
    assert pictures(found) == pictures(open_generations(again))


def test_more_seeds_add_pictures_and_change_none(
    curve: Path, run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    out = run_sample(tmp_path / "out", prompts, styles=["human"], seeds_per_prompt=2)
    generations = open_generations(out)
    found, before = pictures(generations), pictures(open_generations(curve))
    assert len(found) == 20
    assert len(found.items() & before.items()) == 10
    assert generations.table["seed"].to_pylist() == [0, 1] * 10


def test_a_killed_run_resumes_to_the_same_bytes(
    curve: Path,
    run_sample: RunSample,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []

    def killed(path: Path, **of: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        sampling_write(path, **of)  # type: ignore[arg-type]

    sampling_write = sampling.write_generation_shard
    settings = {"curve_styles": ["human"], "curve_pairs": 3}
    monkeypatch.setattr(sampling, "write_generation_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run_sample(tmp_path / "out", prompts, **settings)
    monkeypatch.undo()
    assert not is_complete(tmp_path / "out")
    run_sample(tmp_path / "out", prompts, **settings)
    assert payload(tmp_path / "out") == payload(curve)
    assert (
        open_generations(tmp_path / "out").manifest.digest
        == open_generations(curve).manifest.digest
    )


def test_shards_drawn_elsewhere_in_another_order_have_the_same_bytes(
    curve: Path,
    run_sample: RunSample,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def elsewhere(work: Callable[..., None], items: list[object], **_: object) -> None:
        for item in reversed(items):
            work(pickle.loads(pickle.dumps(item)))

    monkeypatch.setattr(sampling, "map_parts", elsewhere)
    settings = {"curve_styles": ["human"], "curve_pairs": 3, "num_workers": 2}
    assert payload(run_sample(tmp_path / "out", prompts, **settings)) == payload(curve)


@pytest.mark.slow  # two fresh interpreters import torch
def test_worker_processes_draw_the_same_bytes(
    curve: Path, run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    settings = {"curve_styles": ["human"], "curve_pairs": 3, "num_workers": 2}
    assert payload(run_sample(tmp_path / "out", prompts, **settings)) == payload(curve)


def test_drawing_agrees_with_the_pipeline(
    curve: Path, prompts: Path, components: CaptionmixPipeline
) -> None:
    generations = open_generations(curve)
    table = generations.table.to_pylist()
    row = next(i for i, r in enumerate(table) if r["samples_seen"] == 300 and r["style"] == "human")
    prompt = next(p for p in open_prompts(prompts).rows if p.prompt_id == table[row]["prompt_id"])
    noise = noise_of([prompt.pair_id], [0], shape=components.latent_shape)
    drawn = components(prompt.prompt, latents=torch.from_numpy(noise), num_inference_steps=2)
    difference = np.asarray(drawn.images[0], np.int16) - generations.pixels([row])[0]
    assert np.abs(difference).max() <= 1


def test_noise_is_a_function_of_seed_and_pair_alone(prompts: Path) -> None:
    pairs = [row.pair_id for row in open_prompts(prompts).rows[:4] for _ in range(2)]
    keys = list(zip(pairs, [0, 1] * 4, strict=True))
    noise = noise_of(pairs, [0, 1] * 4, shape=(2, 3, 3))
    for i, one in enumerate(keys):
        for j, other in enumerate(keys):
            assert np.array_equal(noise[i], noise[j]) == (one == other)


def test_texts_of_one_padded_length_share_batches() -> None:
    lengths = np.array([24, 128, 24, 24, 128])
    assert list(batches(lengths, batch_size=2)) == [(24, [0, 2]), (24, [3]), (128, [1, 4])]


def test_planning_needs_no_torch(model_folder: Path, prompts: Path, tmp_path: Path) -> None:
    words = ["sample", "--dry-run", "--out", "x", f"model={model_folder}", f"prompts={prompts}"]
    code = (
        "import sys; from t2i.__main__ import VERBS, main; "
        f"assert main('t2i', VERBS, {words!r}) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_style_that_the_prompts_lack_is_refused_before_anything_is_written(
    run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no prompts of style haiku; its styles are alt, human"):
        run_sample(tmp_path / "out", prompts, curve_styles=["haiku"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings", [{"batch_size": 12}, {"num_steps": 0}, {"seed": -1}, {"num_workers": 0}]
)
def test_settings_that_cannot_work_are_refused(
    run_sample: RunSample, prompts: Path, tmp_path: Path, settings: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        run_sample(tmp_path / "out", prompts, **settings)


def test_a_solver_that_does_not_fit_the_model_is_refused_before_anything_is_written(
    run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="which learned a flow; choose flow-euler"):
        run_sample(tmp_path / "out", prompts, solver="ddim")
    assert not (tmp_path / "out").exists()


def test_a_run_killed_after_its_scratch_was_removed_still_completes(
    curve: Path, run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    settings = {"curve_styles": ["human"], "curve_pairs": 3}
    out = run_sample(tmp_path / "out", prompts, **settings)
    whole = (out / "manifest.json").read_bytes()
    (out / "manifest.json").unlink()
    manifest = json.loads(whole)
    begun = {
        "recipe": manifest["recipe"],
        "inputs": [[i["role"], i["digest"]] for i in manifest["inputs"]],
    }
    (out / "begun.json").write_text(json.dumps(begun))
    run_sample(out, prompts, **settings)
    assert json.loads((out / "manifest.json").read_text())["digest"] == manifest["digest"]


def test_a_snapshot_of_another_shape_stops_with_its_path(
    model_folder: Path, run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model_folder, broken)
    weights = next(broken.glob("snapshots/100/*"))
    weights.write_bytes(next(broken.glob("vae/*.safetensors")).read_bytes())
    with pytest.raises(ArtifactError, match="snapshots/100"):
        run_sample(tmp_path / "out", prompts, model=str(broken), curve_styles=["human"])


def test_a_model_without_its_configuration_is_refused(
    model_folder: Path, run_sample: RunSample, prompts: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    raw = json.loads((model_folder / "manifest.json").read_text())
    del raw["digest"]
    write_manifest(
        tmp_path / "model", Manifest(**{**raw, "inputs": [], "parts": [], "folder": tmp_path})
    )
    with pytest.raises(ArtifactError, match=r"scheduler_config\.json: cannot be read"):
        run_sample(tmp_path / "out", prompts, model=str(tmp_path / "model"))
