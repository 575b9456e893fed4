"""Study files: an overlay lies over any study, and every size of the paper's study is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.config import find_config
from launch.plan import make_plan
from launch.study import laid_over, study

EMBEDDED = (
    "real_vs_ssc_vs_dsc", "mixing", "seed_noise", "regularities", "controls", "captioner_quality",
    "upsampling", "rewriting",
)  # fmt: skip


def test_an_overlay_neither_adds_nor_brings_back_steps(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("steps: {a: {run: s v, set: {n: 1}}, gone: null}\n")
    (tmp_path / "over.yaml").write_text(
        "overlay: true\nsteps: {a: {set: {n: 2}}, gone: {set: {n: 2}}, other: {set: {n: 2}}}\n"
    )
    tree = laid_over([tmp_path / "base.yaml", tmp_path / "over.yaml"])
    assert tree["steps"] == {"a": {"run": "s v", "set": {"n": 2}}, "gone": None}
    assert "overlay" not in tree


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_gpu_overlay_lies_over_every_study_of_the_embedded_world(
    name: str, tmp_path: Path
) -> None:
    base, over = find_config(f"studies/{name}.yaml"), find_config("studies/gpu.yaml")
    if "arms" not in laid_over([base]):
        pytest.skip("a chain that other studies stand on")
    made = make_plan(laid_over([base, over]), store=tmp_path)
    assert {i.step for i in made.instances} == {
        i.step for i in make_plan(laid_over([base]), store=tmp_path).instances
    }
    assert not any(i.minutes for i in made.instances)
    assert len(made.instances) == len(make_plan(laid_over([base]), store=tmp_path).instances)


def test_the_gpu_overlay_enlarges_every_step_that_looks_at_pictures(tmp_path: Path) -> None:
    files = [find_config(f"studies/{name}.yaml") for name in ("upsampling", "gpu")]
    words = {i.step: i.words for i in make_plan(laid_over(files), store=tmp_path).instances}
    for step in ("images", "base", "tagger", "autoencoder", "latents", "judge"):
        assert any(word.endswith("image_size=64") for word in words[step]), step


@pytest.mark.parametrize("name", ["full", "mixing_full", "regularities_full", "seed_noise_full"])
def test_a_study_at_the_papers_size_is_checked_and_priced_without_data(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = find_config(f"studies/{name}.yaml")
    assert study([file], [], out=tmp_path / "full", is_dry=True) == 0
    said = capfd.readouterr().out
    assert "GPU-days = 1,024,000,000 rows x 4 passes x 276 GFLOP" in said
    assert "no price stated" not in said
    assert not (tmp_path / "full").exists()


def test_studies_at_the_papers_size_share_their_models(tmp_path: Path) -> None:
    def models(name: str) -> dict[str, Path]:
        made = make_plan(laid_over([find_config(f"studies/{name}.yaml")]), store=tmp_path)
        return {i.name: i.folder for i in made.instances if i.step == "train"}

    full = models("full")
    for name in ("mixing_full", "regularities_full", "seed_noise_full"):
        assert models(name)["train[dsc,0]"] == full["train[dsc,0]"]
