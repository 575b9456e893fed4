"""The embedded world: what is in a scene, how it is drawn, what is written of it."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from launch.manifest import digest_bytes
from recap.artifacts import make_sample_id
from recap.claims import AXES, BACKGROUNDS, COLOURS, OBJECTS, Claim, Tally, compare, read
from recap.config import IngestConfig, ScenesConfig
from recap.sources.scenes import draw, language, world
from recap.sources.scenes.source import open_scenes

NUM = 2000
NUM_READ = 600
"""Of them, texts that are read back, which takes the longest."""

IDS = [make_sample_id("test", str(index)) for index in range(NUM)]


@cache
def scenes() -> list[world.Scene]:
    return world.compose(0, IDS)


@cache
def truths() -> list[list[Claim]]:
    return [scene.claims for scene in scenes()]


@cache
def texts(style: language.Style) -> list[str]:
    return language.write_all(truths(), style, sample_ids=IDS, seed=0)


def unordered(claims: list[Claim]) -> Counter[Claim]:
    return Counter(claims)


def total(style: language.Style) -> dict[str, Tally]:
    sums = dict.fromkeys(AXES, Tally())
    for text, truth in zip(texts(style), truths(), strict=True):
        for axis, tally in compare(read(text), truth).items():
            sums[axis] += tally
    return sums


# --- Contents ------------------------------------------------------------------------------------


def test_no_quadrant_holds_two_things() -> None:
    for scene in scenes():
        used = [q for group in scene.groups for q in group.quadrants]
        used += [] if scene.sign_quadrant is None else [scene.sign_quadrant]
        assert len(used) == len(set(used)) <= world.MAX_OBJECTS


def test_two_groups_of_a_scene_differ_in_kind_or_colour() -> None:
    for scene in scenes():
        assert len({(g.kind, g.colour) for g in scene.groups}) == len(scene.groups)


def test_no_object_has_a_colour_of_the_background() -> None:
    assert not set(COLOURS) & set(BACKGROUNDS)
    assert {g.colour for s in scenes() for g in s.groups} == set(COLOURS)


def test_two_objects_stand_in_a_row_or_column_and_three_have_no_place() -> None:
    for scene in scenes():
        for group in scene.groups:
            assert (group.claim.position is None) == (len(group.quadrants) == 3)


def test_the_main_subject_can_be_seen_to_be_it() -> None:
    for scene in scenes():
        ranks = [(g.size != "large", -len(g.quadrants), g.quadrants) for g in scene.groups]
        assert ranks == sorted(ranks)


def test_every_kind_and_background_is_about_equally_frequent() -> None:
    kinds = Counter(g.kind for s in scenes() for g in s.groups)
    grounds = Counter(s.background for s in scenes())
    assert set(kinds) == set(OBJECTS)
    assert max(kinds.values()) < 1.25 * min(kinds.values())
    assert max(grounds.values()) < 1.25 * min(grounds.values())


def test_signs_are_as_frequent_as_stated() -> None:
    share = np.mean([scene.sign is not None for scene in scenes()])
    assert abs(share - world.SIGN_SHARE) < 0.02


# --- Pixels --------------------------------------------------------------------------------------


def test_a_picture_does_not_depend_on_the_others_drawn_with_it() -> None:
    alone = draw.render(scenes()[5:6], seed=0, sample_ids=IDS[5:6])
    among = draw.render(scenes()[:9][::-1], seed=0, sample_ids=IDS[:9][::-1])
    assert np.array_equal(alone[0], among[3])


def test_equal_scenes_look_different_under_other_names() -> None:
    scene = scenes()[0]
    pictures = draw.render([scene] * 50, seed=0, sample_ids=IDS[:50])
    assert len({picture.tobytes() for picture in pictures}) == 50


def test_pictures_are_drawn_as_they_always_were() -> None:
    pictures = draw.render(scenes()[:64], seed=0, sample_ids=IDS[:64])
    assert digest_bytes(pictures.tobytes()) == GOLDEN_PIXELS


@pytest.mark.parametrize("size", [16, 32, 48, 64])
def test_objects_stand_in_their_quadrants_at_every_size(size: int) -> None:
    for scene, picture in zip(
        scenes()[:100],
        draw.render(scenes()[:100], seed=0, sample_ids=IDS[:100], size=size),
        strict=True,
    ):
        half = size // 2
        used = {q for g in scene.groups for q in g.quadrants} | {scene.sign_quadrant}
        for quadrant in range(4):
            y, x = half * (quadrant // 2), half * (quadrant % 2)
            part = picture[y : y + half, x : x + half].astype(int)
            # The background is a gentle slope; an object is an edge.
            edge = max(abs(np.diff(part, axis=axis)).max() for axis in (0, 1))
            assert (edge > 20) == (quadrant in used)


def test_the_two_sizes_of_an_object_differ_in_area() -> None:
    def area(size: str) -> float:
        group = world.Group(kind="circle", colour="red", size=size, texture="plain", quadrants=(0,))
        scene = world.Scene(background="black", groups=(group,))
        picture = draw.render([scene], seed=0, sample_ids=IDS[:1])[0]
        return float((picture[..., 0] > 120).sum())

    assert area("large") > 2.5 * area("small")


def test_an_odd_or_tiny_side_is_refused() -> None:
    for size in (33, 8):
        with pytest.raises(ValueError, match="image_size"):
            ScenesConfig(image_size=size)


# --- Texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["dsc", "truth"])
def test_a_complete_text_read_back_is_the_truth(style: language.Style) -> None:
    for text, truth in zip(texts(style)[:NUM_READ], truths()[:NUM_READ], strict=True):
        said = compare(read(text), truth)
        assert len(read(text)) == len(truth), text
        assert not any(t.false_positive or t.false_negative for t in said.values()), text


@pytest.mark.parametrize("style", ["ssc", "human", "judge"])
def test_a_text_that_claims_to_be_right_says_nothing_false(style: language.Style) -> None:
    for text, truth in zip(texts(style)[:NUM_READ], truths()[:NUM_READ], strict=True):
        said = compare(read(text), truth)
        assert read(text), text
        assert not any(tally.false_positive for tally in said.values()), text


def test_a_short_caption_gives_the_main_subject_with_number_colour_and_size() -> None:
    for text, truth in zip(texts("ssc"), truths(), strict=True):
        main = truth[0]
        expected = Claim(object=main.object, count=main.count, colour=main.colour, size=main.size)
        assert read(text) == [expected]


def test_human_prompts_have_several_lengths() -> None:
    lengths = [len(text.split()) for text in texts("human")]
    assert np.percentile(lengths, 10) <= 6
    assert np.percentile(lengths, 90) >= 24


def test_human_phrasings_are_used_by_no_annotator() -> None:
    def openings(style: language.Style) -> set[tuple[str, ...]]:
        return {tuple(text.lower().split()[:3]) for text in texts(style)}

    shared = openings("human") & (openings("ssc") | openings("dsc"))
    of_all = Counter(tuple(text.lower().split()[:3]) for text in texts("human"))
    assert sum(of_all[opening] for opening in shared) < 0.25 * NUM


def test_alt_text_is_useless_as_often_as_stated() -> None:
    silent = np.mean([not read(text) for text in texts("alt")])
    assert abs(silent - language.USELESS) < 0.03


def test_alt_text_names_a_wrong_kind_as_rarely_as_stated() -> None:
    said = total("alt")["objects"]
    assert abs(1 - said.precision - language.WRONG_KIND) < 0.02


def test_alt_text_gives_the_main_subject_alone_and_no_words_or_background() -> None:
    for text in texts("alt"):
        claims = read(text)
        assert len(claims) <= 1
        assert all(claim.object in OBJECTS and claim.text is None for claim in claims)


def test_alt_text_gives_colours_as_rarely_as_stated() -> None:
    spoken = [claims[0] for text in texts("alt") if (claims := read(text))]
    share = np.mean([claim.colour is not None for claim in spoken])
    assert abs(share - language.COLOUR_GIVEN) < 0.03


def test_the_language_has_about_150_words() -> None:
    signs = {scene.sign for scene in scenes()}
    words = {
        word
        for style in language.STYLES
        for text in texts(style)
        for word in re.findall("[a-z]+", text.lower())
    }
    assert 100 <= len({word for word in words if word.upper() not in signs}) <= 170


def test_the_judge_hears_about_as_many_words_of_each_style() -> None:
    numbers = np.random.default_rng(0).random((NUM, language.NUM_DRAWS)).tolist()
    lengths = {}
    for style in language.JUDGE_MIX:
        written = texts(style)
        if style == "alt":
            written = [
                language._web(truth, language.Draws(row), faulty=False)
                for truth, row in zip(truths(), numbers, strict=True)
            ]
        lengths[style] = np.mean([len(text.split()) for text in written])
    shares = [share * lengths[style] for style, share in language.JUDGE_MIX.items()]
    assert sum(language.JUDGE_MIX.values()) == pytest.approx(1)
    assert max(shares) < 1.4 * min(shares)


def test_texts_of_one_scene_vary() -> None:
    numbers = np.random.default_rng(0).random((200, language.NUM_DRAWS)).tolist()
    truth = next(scene.claims for scene in scenes() if len(scene.groups) == 2)
    written = {language.write(truth, "dsc", language.Draws(row)) for row in numbers}
    assert len(written) > 150


def test_a_text_does_not_depend_on_the_others_written_with_it() -> None:
    alone = language.write_all(truths()[7:8], "dsc", sample_ids=IDS[7:8], seed=0)
    assert alone == [texts("dsc")[7]]


@pytest.mark.parametrize("style", language.STYLES)
def test_texts_are_phrased_as_they_always_were(style: language.Style) -> None:
    assert texts(style)[3] == GOLDEN_TEXTS[style]


def test_a_chunk_of_the_world_is_the_same_however_the_world_is_cut() -> None:
    def rows(per_shard: int) -> list[tuple[str, bytes, str]]:
        cfg = IngestConfig(
            source="scenes",
            name="w",
            scenes=ScenesConfig(num_pictures=20),
            pictures_per_shard=per_shard,
        )
        chunks = open_scenes(cfg).chunks
        return [(row.key, row.data, row.alt) for chunk in chunks for row in chunk.read()]

    assert rows(20) == rows(7)


GOLDEN_PIXELS = "7a882dc5c442055a84d7596b6da234a4"
GOLDEN_TEXTS: dict[str, str] = {
    "alt": "buy three discs online",
    "ssc": "The main subject is three large white circles.",
    "dsc": "There are three large striped white circles and a small yellow triangle in the top right corner. The picture has a black background.",
    "human": "a black scene with a single yellow triangle plus three big circles with stripes",
    "truth": "a group of three big white discs with stripes and a little yellow triangle up in the top right on a black backdrop",
    "judge": "All of it is on a black background. One small yellow triangle can be seen in the top right. The picture shows three large striped white circles.",
}
