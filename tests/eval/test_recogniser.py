"""The recogniser: targets, loss, reading and what is kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eval import recogniser
from eval.reading import UNREAD, Cell, Reading
from launch.errors import ArtifactError
from launch.manifest import digest_bytes
from recap.claims import BACKGROUNDS, LETTERS, Claim
from recap.sources.scenes import draw, world

LOST = Cell(UNREAD)


def scenes(num: int) -> tuple[list[str], list[world.Scene]]:
    ids = [digest_bytes(f"recogniser{i}".encode()) for i in range(num)]
    return ids, world.compose(0, ids)


def test_targets_name_every_class() -> None:
    claims = [
        Claim(
            object="ring", count=1, colour="green", size="large", texture="plain",
            position="top right",
        ),
        Claim(object="sign", text="Z", position="bottom left"),
        Claim(object="background", colour="pink"),
    ]  # fmt: skip
    found = recogniser.targets(claims)
    assert found.background == BACKGROUNDS.index("pink")
    first = found.cells[0]
    assert (found.cells == first).all()  # one layout, repeated
    heads = recogniser.CELL_HEADS
    assert heads["object"][first[1, 0]] == "ring"
    assert heads["colour"][first[1, 1]] == "green"
    assert heads["letter_1"][first[2, 4]] == "Z"
    assert heads["letter_2"][first[2, 5]] == ""
    assert (first[0] == [0, -1, -1, -1, -1, -1]).all()  # an empty quadrant has nothing else to read


def test_claims_of_another_world_cannot_be_learned() -> None:
    with pytest.raises(ArtifactError, match="0 arrangements"):
        recogniser.targets([Claim(object="ring", count=5)])


def network() -> recogniser.Recogniser:
    torch.manual_seed(0)
    return recogniser.Recogniser(recogniser.RecogniserConfig(channels=(8, 16), width=16))


def test_the_loss_takes_the_likeliest_layout_for_true() -> None:
    logits = network()(torch.zeros(1, 3, 32, 32))
    empty = [0, -1, -1, -1, -1, -1]
    circle = [1, 0, 0, 0, -1, -1]
    layouts = torch.tensor([[[circle, empty, empty, empty], [empty, circle, empty, empty]]])
    background = torch.tensor([0])
    both = recogniser.loss(logits, cells=layouts, background=background)
    each = [
        recogniser.loss(logits, cells=layouts[:, [i, i]], background=background) for i in (0, 1)
    ]
    assert both == min(each)


def test_a_picture_that_says_nothing_has_no_loss() -> None:
    logits = network()(torch.zeros(2, 3, 32, 32))
    cells = torch.full((2, 4, 4, 6), -1)
    assert recogniser.loss(logits, cells=cells, background=torch.tensor([-1, -1])) == 0


def test_a_reading_does_not_depend_on_its_neighbours_or_the_batch() -> None:
    ids, drawn = scenes(5)
    pixels = draw.render(drawn, seed=0, sample_ids=ids)
    model = network().eval()
    whole = recogniser.read(model, pixels, batch_size=8)
    assert len(whole) == 5
    assert recogniser.read(model, pixels[3:4], batch_size=8) == whole[3:4]


def test_an_unsure_recogniser_abstains() -> None:
    config = recogniser.RecogniserConfig(channels=(8, 16), width=16, min_confidence=1.1)
    found = recogniser.read(recogniser.Recogniser(config), np.zeros((1, 32, 32, 3), np.uint8))[0]
    assert found == Reading(cells=(LOST, LOST, LOST, LOST), background=UNREAD)


def test_pictures_of_another_size_are_brought_to_the_networks() -> None:
    pixels = np.full((2, 64, 64, 3), 255, np.uint8)
    images = recogniser.to_input(pixels, image_size=32)
    assert images.shape == (2, 3, 32, 32)
    torch.testing.assert_close(images, torch.ones_like(images))


def test_a_saved_recogniser_reads_the_same(tmp_path: Path) -> None:
    ids, drawn = scenes(4)
    pixels = draw.render(drawn, seed=0, sample_ids=ids)
    model = network().eval()
    recogniser.save_recogniser(tmp_path, model)
    loaded = recogniser.load_recogniser(tmp_path)
    assert recogniser.read(loaded, pixels) == recogniser.read(model, pixels)


def test_a_recogniser_of_other_classes_is_refused(tmp_path: Path) -> None:
    recogniser.save_recogniser(tmp_path, network())
    path = tmp_path / recogniser.CONFIG_NAME
    path.write_text(path.read_text().replace('"ring"', '"star"'))
    with pytest.raises(ArtifactError, match="other classes"):
        recogniser.load_recogniser(tmp_path)


def test_signs_are_read_letter_by_letter() -> None:
    assert set(recogniser.CELL_HEADS["letter_1"]) == set(LETTERS)
