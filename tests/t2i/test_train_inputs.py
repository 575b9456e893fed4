"""Training from token ids, from several caches, and from several latents of a picture."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.errors import ArtifactError, ConfigError
from launch.manifest import read_manifest
from recap.artifacts import open_captions, open_images
from t2i.artifacts import open_latents
from t2i.cache import encode
from t2i.config import EncodeConfig
from t2i.data import TrainingSet
from t2i.join import join
from t2i.ledger import row_of
from t2i.text_caches import open_text_caches

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, ledger, losses, make_captions, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def mirrored(made: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_latents(made, tmp_path_factory.mktemp("mirrored") / "out", flip=True)


def encode_latents(made: Chain, out: Path, **settings: Any) -> Path:
    small = {"images": made.images, "autoencoder": made.autoencoder, "image_size": 16}
    cfg = EncodeConfig(**{**small, "batch_size": 8, **settings})
    return run_verb("t2i encode", encode, cfg, out)


def encode_texts(made: Chain, out: Path, **settings: Any) -> Path:
    small = {"images": made.images, "text_encoder": made.text_encoder, "captions": [made.captions]}
    cfg = EncodeConfig(**{**small, "max_tokens": 32, "batch_size": 8, **settings})
    return run_verb("t2i encode", encode, cfg, out)


def joined(made: Chain, latents: list[Path]) -> TrainingSet:
    return join(
        images=open_images(made.images),
        captions=[open_captions(made.captions)],
        latents=[open_latents(folder) for folder in latents],
        text=open_text_caches([made.text_states]),
        caption_mix={"dsc": 0.5, "alt": 0.5},
        required_kinds=["alt", "dsc"],
        fallback={},
        seed=0,
        batch_size=16,
        text_dropout=0.2,
    )


def test_training_from_token_ids_is_training_from_states(made: Chain, tmp_path: Path) -> None:
    states = encode_texts(made, tmp_path / "states", precision="float32")
    tokens = encode_texts(made, tmp_path / "tokens", precision="float32", budget_gib=0.0)
    found = {
        folder: made.train(tmp_path / f"model-{folder.name}", text_states=[str(folder)])
        for folder in (states, tokens)
    }
    assert ledger(found[states]) == ledger(found[tokens])
    assert len(losses(found[states])) == 6
    np.testing.assert_allclose(losses(found[states]), losses(found[tokens]), atol=1e-4)


def test_training_from_two_caches_is_training_from_one(made: Chain, tmp_path: Path) -> None:
    more = make_captions(tmp_path / "more", kinds={"new": "box {number} is {colour}"})
    both = [made.captions, more]
    whole = encode_texts(made, tmp_path / "whole", captions=both)
    beside = encode_texts(made, tmp_path / "new", captions=both, beside=[made.text_states])
    settings = {"captions": [str(f) for f in both], "caption_mix": {"new": 0.5, "dsc": 0.5}}
    one = made.train(tmp_path / "one", text_states=[str(whole)], **settings)
    caches = [str(made.text_states), str(beside)]
    two = made.train(tmp_path / "two", text_states=caches, **settings)
    assert ledger(one) == ledger(two)
    np.testing.assert_allclose(losses(one), losses(two), atol=1e-3)


def test_states_of_captions_that_other_arms_lack_do_not_move_where_a_denoiser_starts(
    made: Chain, tmp_path: Path
) -> None:
    more = make_captions(tmp_path / "more", kinds={"tags": "box, {number}, {colour}"})
    new = encode_texts(made, tmp_path / "new", captions=[more], beside=[made.text_states])
    alone = made.train(tmp_path / "alone")
    shared = made.train(tmp_path / "shared", further_text_states=[str(new)])
    for found in (alone, shared):
        assert len(losses(found)) == 6
    assert losses(alone) == losses(shared)
    roles = [given.role for given in read_manifest(shared).inputs]
    assert roles.count("further_text_states") == 1


def test_no_text_states_are_refused(made: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one text states artifact"):
        made.train(tmp_path / "out", text_states=[])


def test_the_latents_of_a_picture_are_drawn_evenly_and_anew_in_each_epoch(
    made: Chain, mirrored: Path
) -> None:
    data = joined(made, [made.latents, mirrored])
    plain = joined(made, [made.latents])
    entries: dict[int, list[int]] = {}
    for step in range(1, 61):
        draw, batch = data.draw(step), data.gather(data.draw(step))
        assert draw.entries is not None
        for row, entry in zip(draw.rows.tolist(), draw.entries.tolist(), strict=True):
            entries.setdefault(row, []).append(entry)
        expected = plain.gather(plain.draw(step))
        is_plain = draw.entries == 0
        same = (batch.unscaled_latents == expected.unscaled_latents).all(axis=(1, 2, 3))
        assert np.array_equal(same, is_plain)
        assert np.array_equal(batch.noise, expected.noise)
    drawn = np.concatenate(list(entries.values()))
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / len(drawn) ** 0.5
    assert sum(len(set(each)) == 2 for each in entries.values()) > 60


def test_slices_of_augmented_latents_make_the_whole_batch(made: Chain, mirrored: Path) -> None:
    data = joined(made, [made.latents, mirrored])
    draw = data.draw(2)
    halves = [data.gather(draw, here).unscaled_latents for here in (slice(8), slice(8, 16))]
    assert np.array_equal(np.concatenate(halves), data.gather(draw).unscaled_latents)


def test_the_order_in_which_augmentations_are_named_does_not_matter(
    made: Chain, mirrored: Path
) -> None:
    one = joined(made, [made.latents, mirrored, made.latents])
    other = joined(made, [made.latents, made.latents, mirrored])
    ours, theirs = (data.gather(data.draw(1)).unscaled_latents for data in (one, other))
    assert np.array_equal(ours, theirs)


def test_the_ledger_knows_which_latents_were_drawn_only_where_there_is_a_choice(
    made: Chain, mirrored: Path
) -> None:
    plain, chosen = joined(made, [made.latents]), joined(made, [made.latents, mirrored])
    draw = chosen.draw(1)
    other = draw._replace(entries=1 - draw.entries)
    hashes = [
        row_of(d, kinds=chosen.kinds, seed=0, tensor_hash=None).shared_hash
        for d in (plain.draw(1), draw, draw._replace(entries=None), other)
    ]
    assert hashes[0] == hashes[2]
    assert len(set(hashes)) == 3


def test_arms_share_the_latents_drawn(made: Chain, mirrored: Path, tmp_path: Path) -> None:
    settings = {"augmented_latents": [str(mirrored)], "samples": 16, "snapshots": 1}
    dsc = made.train(tmp_path / "dsc", **settings)
    ssc = made.train(tmp_path / "ssc", arm="ssc", caption_mix={"ssc": 1.0}, **settings)
    for a, b in zip(ledger(dsc), ledger(ssc), strict=True):
        assert (a["shared_hash"], a["tensor_hash"]) == (b["shared_hash"], b["tensor_hash"])


def test_latents_of_another_autoencoder_or_size_cannot_augment(made: Chain, tmp_path: Path) -> None:
    larger = encode_latents(made, tmp_path / "larger", image_size=32)
    with pytest.raises(ArtifactError, match=r"cannot augment .*\n  image_size: 16 -> 32"):
        made.train(tmp_path / "out", augmented_latents=[str(larger)])
    assert not (tmp_path / "out").exists()


def test_pictures_that_an_augmentation_lacks_are_refused(made: Chain, mirrored: Path) -> None:
    whole = open_latents(mirrored)
    fewer = replace(whole, ids=whole.ids[2:], row_of_id=whole.row_of_id[2:])
    with pytest.raises(ArtifactError, match="2 of 70 pictures have no latents"):
        join(
            images=open_images(made.images),
            captions=[open_captions(made.captions)],
            latents=[open_latents(made.latents), fewer],
            text=open_text_caches([made.text_states]),
            caption_mix={"dsc": 1.0},
            required_kinds=["dsc"],
            fallback={},
            seed=0,
            batch_size=16,
            text_dropout=0.2,
        )
