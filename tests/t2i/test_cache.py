from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

import t2i.cache as module
from launch.components import locate
from launch.errors import ArtifactError, ConfigError, InputError, StoppedError
from launch.identities import unpacked
from launch.manifest import read_manifest
from recap.artifacts import open_images
from t2i.artifacts import AUTOENCODER, open_latents, open_text_states, text_digest, text_digests
from t2i.autoencoder import Autoencoder
from t2i.cache import distinct_texts, encode, refuse_not_finite
from t2i.conditioning import TextEncoder
from t2i.config import EncodeConfig

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, make_captions, payload, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def latents_config(made: Chain, **settings: object) -> EncodeConfig:
    small = {"images": made.images, "autoencoder": made.autoencoder, "image_size": 16}
    return EncodeConfig(**{**small, "batch_size": 8, "threads": 1, **settings})  # type: ignore[arg-type]


def texts_config(made: Chain, **settings: object) -> EncodeConfig:
    small = {"images": made.images, "text_encoder": made.text_encoder, "captions": [made.captions]}
    small |= {"max_tokens": 32, "batch_size": 8, "threads": 1}
    return EncodeConfig(**{**small, **settings})  # type: ignore[arg-type]


def test_latents_are_the_posterior_of_each_training_picture(made: Chain) -> None:
    images, latents = open_images(made.images), open_latents(made.latents)
    rows = images.rows("train")
    assert unpacked(latents.ids) == [images.sample_ids[row] for row in rows]
    found = Autoencoder.load(made.autoencoder).encode(images.pixels(rows, size=16))
    np.testing.assert_allclose(latents.mean, found.mean.numpy(), atol=1e-4)
    np.testing.assert_allclose(latents.std, found.std.numpy(), atol=1e-4)
    assert latents.mean.dtype == np.float32


def test_text_states_are_those_of_the_encoder_unpadded(made: Chain) -> None:
    states, images = open_text_states(made.text_states), open_images(made.images)
    encoder = TextEncoder.load(made.text_encoder, max_tokens=32)
    texts = distinct_texts(images, [made.captions])
    assert "" in texts
    assert len(states.digests) == len(texts) == len(set(texts))
    for text in texts[::7]:
        (row,) = states.find(text_digests([text]))
        start, num = states.offsets[row], states.num_tokens[row]
        expected = encoder.encode([text])
        assert num == expected.text_mask.sum()
        np.testing.assert_allclose(
            states.values[start : start + num], expected.text_embeds[0, :num], atol=5e-3
        )


def test_texts_of_other_splits_are_not_encoded(made: Chain) -> None:
    images = open_images(made.images)
    texts = distinct_texts(images, [made.captions])
    assert not any("number 79." in text for text in texts)
    assert any("number 0." in text for text in texts)


def test_the_finished_folder_holds_payload_and_records_alone(made: Chain) -> None:
    for folder in (made.latents, made.text_states):
        left = {p.name for p in folder.iterdir()} - set(payload(folder))
        assert left <= {"manifest.json", "config.yaml", "run.log.jsonl", ".lock"}


@pytest.mark.parametrize("what", ["latents", "texts"])
def test_a_cache_that_was_stopped_ends_in_the_same_bytes(
    what: str, made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCHES_PER_BLOCK", 2)
    cfg = latents_config(made) if what == "latents" else texts_config(made)
    whole = run_verb("t2i encode", encode, cfg, tmp_path / "whole")
    marked, mark = [], module._mark

    def stop_at_the_third(out: Path, index: int, files: object) -> None:
        if len(marked) == 2:
            marked.append(-1)
            raise KeyboardInterrupt
        mark(out, index, files)  # type: ignore[arg-type]
        marked.append(index)

    monkeypatch.setattr(module, "_mark", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_verb("t2i encode", encode, cfg, tmp_path / "stopped")
    before = len(marked)
    resumed = run_verb("t2i encode", encode, cfg, tmp_path / "stopped")
    assert marked[:2] == [0, 1]
    assert marked[before] == 2  # finished blocks are not computed again
    assert payload(whole) == payload(resumed)


def test_stored_precision_is_as_configured(made: Chain, tmp_path: Path) -> None:
    cfg = texts_config(made, precision="float32")
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    assert open_text_states(out).values.dtype == np.float32
    assert open_text_states(made.text_states).values.dtype == np.float16


def test_states_beyond_the_budget_are_kept_as_token_ids(
    made: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_verb("t2i encode", encode, texts_config(made, budget_gib=0.0), tmp_path / "out")
    assert "GiB > budget_gib=0: token ids are kept, text is encoded in every step" in (
        capsys.readouterr().out
    )
    found, images = open_text_states(out), open_images(made.images)
    encoder = TextEncoder.load(made.text_encoder, max_tokens=32)
    texts = distinct_texts(images, [made.captions])
    tokens, _ = encoder.tokenize(texts)
    assert found.holds_tokens
    assert found.width == encoder.width
    for text, ids in zip(texts, tokens, strict=True):
        (row,) = found.find(text_digests([text]))
        start = found.offsets[row]
        assert found.values[start : start + found.num_tokens[row]].tolist() == ids
    assert set(payload(out)) == {"tokens.bin", "index.parquet"}


def test_the_share_of_texts_that_are_cut_is_printed(
    made: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run_verb("t2i encode", encode, texts_config(made, max_tokens=16), tmp_path / "out")
    texts = distinct_texts(open_images(made.images), [made.captions])
    _, is_cut = TextEncoder.load(made.text_encoder, max_tokens=16).tokenize(texts)
    assert 0 < sum(is_cut) < len(texts)
    share = f"truncated: {sum(is_cut)} ({sum(is_cut) / len(texts):.1%})"
    assert share in capsys.readouterr().out
    assert read_manifest(out).counts["truncated"] == sum(is_cut)


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["latents", "texts"])
def test_caches_made_on_a_gpu_are_those_of_the_cpu(
    what: str, made: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = latents_config(made) if what == "latents" else texts_config(made)
    gpu = run_verb("t2i encode", encode, cfg, tmp_path / "gpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    cpu = run_verb("t2i encode", encode, cfg, tmp_path / "cpu")
    assert [read_manifest(folder).recipe["device"] for folder in (gpu, cpu)] == ["cuda", "cpu"]
    if what == "latents":
        ours, theirs = (open_latents(folder).mean for folder in (gpu, cpu))
    else:
        ours, theirs = (open_text_states(folder).values for folder in (gpu, cpu))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_a_budget_that_changes_nothing_may_change(
    made: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run_verb("t2i encode", encode, texts_config(made, budget_gib=2.0), out)
    assert "GiB <= budget_gib=2: states are kept" in capsys.readouterr().out
    run_verb("t2i encode", encode, texts_config(made, budget_gib=1.0), out)
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="kept: 'states' -> 'tokens'"):
        run_verb("t2i encode", encode, texts_config(made, budget_gib=0.0), out)


def more_captions(folder: Path) -> Path:
    """New texts of every picture, and a kind whose texts were encoded before."""
    return make_captions(
        folder, kinds={"new": "a {colour} box, picture {number}", "ssc": "a {colour} box"}
    )


def test_texts_held_beside_are_not_encoded_again(
    made: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = more_captions(tmp_path / "more")
    cfg = texts_config(made, captions=[more], beside=[made.text_states])
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    texts = distinct_texts(open_images(made.images), [more])
    expected = {text_digest(text) for text in texts if "picture" in text}
    assert set(unpacked(open_text_states(out).digests)) == expected
    assert f"held beside: {len(texts) - len(expected)}" in capsys.readouterr().out


def test_states_beside_that_differ_are_refused(made: Chain, tmp_path: Path) -> None:
    more = more_captions(tmp_path / "more")
    for name, was in (("precision", "float32"), ("max_tokens", 16)):
        cfg = texts_config(made, captions=[more], beside=[made.text_states], **{name: was})
        with pytest.raises(ArtifactError, match=f"{name}: {was!r} -> "):
            run_verb("t2i encode", encode, cfg, tmp_path / "out")
    cfg = texts_config(made, captions=[more], beside=[made.text_states], budget_gib=0.0)
    with pytest.raises(ConfigError, match=r"more than budget_gib=0. Raise budget_gib"):
        run_verb("t2i encode", encode, cfg, tmp_path / "out")
    with pytest.raises(InputError, match="holds all of the"):
        run_verb("t2i encode", encode, texts_config(made, beside=[made.text_states]), tmp_path)


def test_new_texts_are_kept_as_those_beside_are(made: Chain, tmp_path: Path) -> None:
    tokens = run_verb("t2i encode", encode, texts_config(made, budget_gib=0.0), tmp_path / "tokens")
    cfg = texts_config(made, captions=[more_captions(tmp_path / "more")], beside=[tokens])
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    assert open_text_states(out).holds_tokens


def test_mirrored_latents_are_those_of_the_mirrored_pictures(made: Chain, tmp_path: Path) -> None:
    out = run_verb("t2i encode", encode, latents_config(made, flip=True), tmp_path / "out")
    images, latents = open_images(made.images), open_latents(out)
    pixels = images.pixels(images.rows("train"), size=16)
    found = Autoencoder.load(made.autoencoder).encode(pixels[:, :, ::-1])
    np.testing.assert_allclose(latents.mean, found.mean.numpy(), atol=1e-4)
    assert not np.allclose(latents.mean, open_latents(made.latents).mean, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_encoder": Path("t"), "flip": True}, "flip: true is for pictures"),
        ({"autoencoder": Path("a"), "beside": [Path("b")]}, "beside is for texts"),
        ({"text_encoder": Path("t"), "budget_gib": -1.0}, "budget_gib must be at least 0, got -1"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EncodeConfig(images=Path("i"), **settings)


def test_any_autoencoder_folder_of_diffusers_can_be_cached(made: Chain, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=3,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    vae.save_pretrained(tmp_path / "vae")
    cfg = latents_config(made, autoencoder=tmp_path / "vae")
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    assert open_latents(out).mean.shape == (70, 3, 8, 8)


def test_a_foreign_folder_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "x.safetensors").write_bytes(bytes([value]))
    digests = [locate(tmp_path / name, artifact=AUTOENCODER).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no safetensors file"):
        locate(tmp_path / "empty", artifact=AUTOENCODER)


def test_what_is_neither_folder_nor_hub_id_is_refused(made: Chain, tmp_path: Path) -> None:
    cfg = latents_config(made, autoencoder=tmp_path / "absent")
    with pytest.raises(InputError, match="neither a folder nor a hub id"):
        run_verb("t2i encode", encode, cfg, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_artifact_of_another_kind_is_refused(made: Chain, tmp_path: Path) -> None:
    cfg = latents_config(made, autoencoder=made.text_encoder)
    with pytest.raises(ArtifactError, match="is a text_encoder artifact, expected autoencoder"):
        run_verb("t2i encode", encode, cfg, tmp_path / "out")


def test_a_batch_that_is_no_multiple_of_eight_is_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 8"):
        run_verb("t2i encode", encode, latents_config(made, batch_size=12), tmp_path / "out")


def test_latents_that_are_no_numbers_name_their_pictures() -> None:
    values = np.zeros((3, 4, 2, 2), np.float32)
    values[1, 0, 0, 0] = np.inf
    with pytest.raises(StoppedError, match=r"for these pictures: b\. Look"):
        refuse_not_finite(values, ["a", "b", "c"])
    refuse_not_finite(values[:1], ["a"])
