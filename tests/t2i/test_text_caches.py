from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.errors import ArtifactError
from launch.identities import packed
from launch.manifest import Manifest
from t2i.artifacts import TEXT_STATES, TextStates, text_digest, text_digests
from t2i.cache import encode
from t2i.config import EncodeConfig
from t2i.text_caches import TextCaches, open_text_caches

sys.path.insert(0, str(Path(__file__).parent))
from chain import Chain, chain, make_captions, run_verb


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain(tmp_path_factory.getbasetemp())


def cache(lengths: dict[str, int], *, width: int | None) -> TextStates:
    """States that name their text and place, or such token ids; no file behind them."""
    digests = sorted(map(text_digest, lengths))
    length_of = {text_digest(text): num for text, num in lengths.items()}
    nums = [length_of[digest] for digest in digests]
    ids = np.array(
        [int(d[:4], 16) + n for d, num in zip(digests, nums, strict=True) for n in range(num)],
        np.int32,
    )
    values = ids if width is None else np.repeat(ids[:, None], width, axis=1).astype(np.float32)
    manifest = Manifest(
        artifact=TEXT_STATES, version=2, recipe={}, inputs=[], counts={}, rejected={}, parts=[]
    )
    offsets = np.cumsum([0, *nums[:-1]]) if nums else np.zeros(0, np.int64)
    return TextStates(
        manifest, packed(digests), offsets, np.array(nums, np.int64), values, width or 3
    )


texts_and_places = st.dictionaries(
    st.text(max_size=4), st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=3, max_size=30
)


@given(texts_and_places, st.sampled_from([None, 2]), st.randoms())
def test_several_caches_give_what_one_of_all_texts_gives(
    texts: dict[str, tuple[int, int]], width: int | None, shuffle: object
) -> None:
    lengths = {text: num for text, (num, _) in texts.items()}
    whole = TextCaches((cache(lengths, width=width),))
    used = sorted({place for _, place in texts.values()})
    split = TextCaches(
        tuple(
            cache({t: num for t, (num, at) in texts.items() if at == place}, width=width)
            for place in used
        )
    )
    shuffled = list(lengths)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    digests = text_digests(shuffled)
    ours, theirs = split.rows(digests), whole.rows(digests)
    assert np.array_equal(split.digests[ours], whole.digests[theirs])
    for a, b in zip(split.gather(ours, length=16), whole.gather(theirs, length=16), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert len(split) == len(whole) == len(lengths)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 30))
def test_evenly_spaced_states_do_not_depend_on_the_cut(sizes: list[int], num: int) -> None:
    caches = [cache({f"{n}": size}, width=2) for n, size in enumerate(sizes)]
    every = max(1, sum(sizes) // num)
    together = np.concatenate([c.values for c in caches])
    assert np.array_equal(TextCaches(tuple(caches)).spaced_states(num), together[::every])


def test_a_text_in_two_caches_is_found_once() -> None:
    both = TextCaches((cache({"a": 1, "b": 2}, width=2), cache({"b": 2, "c": 3}, width=2)))
    rows = both.rows(text_digests("abc"))
    assert both.num_tokens[rows].tolist() == [1, 2, 3]
    with pytest.raises(ArtifactError, match="1 of 2 texts have no states"):
        both.rows(text_digests("ad"))


def test_caches_stay_on_the_disk_and_their_order_does_not_matter(
    made: Chain, tmp_path: Path
) -> None:
    more = make_captions(tmp_path / "more", kinds={"new": "a {colour} box, picture {number}"})
    cfg = EncodeConfig(
        images=made.images,
        text_encoder=made.text_encoder,
        captions=[more],
        beside=[made.text_states],
        max_tokens=32,
        batch_size=8,
    )
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    one, other = (
        open_text_caches([made.text_states, out]),
        open_text_caches([out, made.text_states]),
    )
    assert np.array_equal(one.digests, other.digests)
    assert all(isinstance(c.values, np.memmap) for c in one.caches)


@pytest.mark.parametrize("name", ["precision", "max_tokens", "kept"])
def test_caches_that_differ_are_refused_by_name(name: str, made: Chain, tmp_path: Path) -> None:
    settings = {
        "precision": {"precision": "float32"},
        "max_tokens": {"max_tokens": 16},
        "kept": {"budget_gib": 0.0},
    }[name]
    small = {"images": made.images, "text_encoder": made.text_encoder, "captions": [made.captions]}
    cfg = EncodeConfig(**{**small, "max_tokens": 32, "batch_size": 8, **settings})  # type: ignore[arg-type]
    out = run_verb("t2i encode", encode, cfg, tmp_path / "out")
    with pytest.raises(ArtifactError, match=rf"must agree, but differ\.\n  {name}: "):
        open_text_caches([made.text_states, out])
