"""Doctor: what shadows our names, and which extras are absent."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from launch import doctor as module
from launch.doctor import doctor, extras, shadows


def install(folder: Path, distribution: str, package: str) -> None:
    """Lay down what pip would leave of a distribution with one package."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(f"{package}\n")
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("")


def test_another_distribution_with_one_of_our_names_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "other-eval", "eval")
    install(tmp_path, "harmless", "harmless")
    monkeypatch.syspath_prepend(tmp_path)
    found = [fault for fault in shadows() if fault.startswith("the distribution")]
    assert len(found) == 1
    assert "'other-eval' also installs a package 'eval'" in found[0]
    assert "pip uninstall other-eval" in found[0]


def test_a_package_found_in_place_of_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_found_in", lambda name: tmp_path / name)
    assert any(f"finds {tmp_path / 'eval'}" in fault for fault in shadows({}))


def test_our_own_distribution_shadows_nothing() -> None:
    assert not [
        f
        for f in shadows({"eval": ["captionmix", "captionmix"]})
        if f.startswith("the distribution")
    ]


def test_an_absent_extra_comes_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        if name in {"submitit", "openai"}:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    found = {extra.name: extra for extra in extras()}
    assert {"gpu", "endpoint", "ocr", "cluster", "docs", "dev"} <= found.keys()
    assert found["cluster"].absent == ["submitit"]
    assert found["cluster"].present == ["ray 1.0"]
    assert (
        found["endpoint"].line().endswith("[endpoint]'") or "[endpoint]" in found["endpoint"].line()
    )
    assert "-m pip install" in found["endpoint"].line()
    assert "install" not in found["gpu"].line()


def test_extras_are_known_without_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    lines = ["torch>=2", "ray>=2.40; extra == 'cluster'", 'submitit[x]>=1; extra == "cluster"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert [extra.name for extra in extras()] == ["cluster"]
    assert "'captionmix[cluster]'" in module._pip("cluster")


def test_the_doctor_tells_what_a_reader_must_know(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "shadows", lambda: [])
    assert doctor() == 0
    out = capsys.readouterr().out
    for word in ("cores", "memory", "disk", "torch", "device", "bf16", "extra gpu"):
        assert f"\n{word}" in f"\n{out}"
    monkeypatch.setattr(module, "shadows", lambda: ["eval is another's"])
    assert doctor() == 1
    assert "FAULT: eval is another's" in capsys.readouterr().out
