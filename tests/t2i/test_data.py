from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.errors import ArtifactError, InputError
from launch.identities import packed
from recap.artifacts import open_captions, open_images
from t2i.artifacts import open_latents, open_text_states, text_digest, text_digests
from t2i.data import TrainingSet, padded_length
from t2i.join import join, kind_digests
from t2i.text_caches import open_text_caches

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, make_captions, make_images, texts_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def joined(made: Chain, captions: Path | None = None, **settings: Any) -> TrainingSet:
    plain: dict[str, Any] = {
        "images": open_images(made.images),
        "captions": [open_captions(captions or made.captions)],
        "latents": [open_latents(made.latents)],
        "text": open_text_caches([made.text_states]),
        "caption_mix": {"dsc": 0.5, "alt": 0.5},
        "required_kinds": ["alt", "dsc", "ssc"],
        "fallback": {},
        "seed": 0,
        "batch_size": 16,
        "text_dropout": 0.2,
    }
    return join(**{**plain, **settings})


def test_an_epoch_trains_every_picture_once(made: Chain) -> None:
    data = joined(made)
    assert len(data) == 70
    draws = [data.draw(step) for step in range(1, 10)]
    rows = np.concatenate([d.rows for d in draws])
    epochs = np.concatenate([d.epochs for d in draws])
    assert sorted(rows[epochs == 0]) == list(range(70))
    assert sorted(rows[epochs == 1]) == list(range(70))


def test_a_draw_is_a_function_of_its_step(made: Chain) -> None:
    first, second = joined(made), joined(made)
    first.draw(9)  # another history
    for a, b in zip(first.draw(3), second.draw(3), strict=True):
        assert np.array_equal(a, b)


def test_slices_of_a_batch_make_the_whole_batch(made: Chain) -> None:
    data = joined(made)
    draw = data.draw(2)
    whole = data.gather(draw)
    halves = [data.gather(draw, slice(0, 8)), data.gather(draw, slice(8, 16))]
    for name in whole._fields:
        parts = np.concatenate([getattr(half, name) for half in halves])
        assert np.array_equal(getattr(whole, name), parts), name


def test_the_draw_of_a_picture_does_not_depend_on_the_other_pictures(
    made: Chain, tmp_path: Path
) -> None:
    data = joined(made)
    fewer = make_captions(
        tmp_path / "fewer",
        kinds={"dsc": "A grey picture with a {colour} box at the {place}, number {number}.", "ssc": "a {colour} box"},
        without={"dsc": tuple(range(0, 40))},
    )  # fmt: skip
    less = joined(made, fewer)
    ours, theirs = data.draw(1), less.draw(1)
    for row, (id_, uniform) in enumerate(zip(theirs.ids, theirs.uniform, strict=True)):
        for step in range(1, 5):
            other = data.draw(step)
            match = np.flatnonzero((other.ids == id_) & (other.epochs == 0))
            if len(match):
                assert other.uniform[match[0]] == uniform
                assert other.kinds[match[0]] == theirs.kinds[row]
                assert other.is_dropped[match[0]] == theirs.is_dropped[row]
    assert ours.step == 1


def test_states_belong_to_the_caption_drawn(made: Chain) -> None:
    data = joined(made)
    draw = data.draw(1)
    batch = data.gather(draw)
    texts = texts_of(made)
    states = open_text_states(made.text_states)
    for i, sample_id in enumerate(data.sample_ids_of(draw)):
        text = texts[data.kinds[draw.kinds[i]]][sample_id]
        assert draw.text_digests[i].tobytes().hex() == text_digest(text)
        (state,) = states.find(text_digests(["" if draw.is_dropped[i] else text]))
        num = states.num_tokens[state]
        assert batch.text_mask[i].sum() == num
        start = states.offsets[state]
        assert np.array_equal(batch.text[i, :num], states.values[start : start + num])
        assert not batch.text[i, num:].any()
    assert batch.text.shape[1] % 8 == 0


def test_latents_are_mean_and_std_times_a_keyed_normal(made: Chain) -> None:
    from launch import keyed

    data = joined(made)
    draw = data.draw(1)
    batch = data.gather(draw)
    (latents,) = data.latents
    shape = latents.mean.shape[1:]
    noise = keyed.normal(0, "latent", epoch=0, ids=draw.ids, shape=shape)
    rows = latents.rows(packed(data.sample_ids_of(draw)))
    expected = latents.mean[rows] + latents.std[rows] * noise
    assert np.array_equal(batch.unscaled_latents, expected)


def test_a_second_epoch_draws_anew(made: Chain) -> None:
    data = joined(made)
    seen: dict[int, dict[int, float]] = {}
    for step in range(1, 10):
        draw = data.draw(step)
        for row, epoch, uniform in zip(draw.rows, draw.epochs, draw.uniform, strict=True):
            seen.setdefault(int(row), {})[int(epoch)] = float(uniform)
    assert all(both[0] != both[1] for both in seen.values() if len(both) > 1)


def test_pictures_without_a_required_caption_are_left_out_and_counted(
    made: Chain, tmp_path: Path
) -> None:
    captions = make_captions(
        tmp_path / "captions",
        kinds={"dsc": "A grey picture with a {colour} box at the {place}, number {number}.", "ssc": "a {colour} box"},
        without={"dsc": (0, 1, 2), "ssc": (2, 3)},
    )  # fmt: skip
    data = joined(made, captions)
    assert len(data) == 66
    assert data.missing == {"missing_alt": 0, "missing_dsc": 3, "missing_ssc": 1}
    assert sum(data.missing.values()) + len(data) == 70


def test_an_empty_alt_text_is_no_caption(tmp_path: Path) -> None:
    images = open_images(make_images(tmp_path / "images", num=16, no_alt=(3,)))
    assert (
        kind_digests(images, [], "alt", ids=np.sort(packed(images.sample_ids))).has_text.sum() == 15
    )


def test_a_kind_that_is_nowhere_is_refused_with_what_there_is(made: Chain) -> None:
    with pytest.raises(InputError, match=r"'tags' is in none .* they hold alt, dsc, same, ssc"):
        joined(made, required_kinds=["tags"])


def test_fewer_pictures_than_a_batch_are_refused(made: Chain) -> None:
    with pytest.raises(InputError, match="at least one batch of 128"):
        joined(made, batch_size=128)


def test_a_caption_that_was_never_encoded_is_refused(made: Chain, tmp_path: Path) -> None:
    captions = make_captions(
        tmp_path / "captions", kinds={"dsc": "new {number}", "ssc": "a {colour} box"}
    )
    with pytest.raises(ArtifactError, match="70 of 70 texts have no states"):
        joined(made, captions)


@pytest.mark.parametrize(("num", "length"), [(0, 8), (1, 8), (8, 8), (9, 16)])
def test_lengths_are_rounded_up_to_eights(num: int, length: int) -> None:
    assert padded_length(num) == length
