"""What captions have in common: hand-made counts and the identities of rarefaction."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.regularities import distinct_share, rarefied_entropy, regularities

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 6), min_size=1)


def entropy(counts: dict[str, int]) -> float:
    share = np.array(list(counts.values())) / sum(counts.values())
    return float(-(share * np.log2(share)).sum())


def test_regularities_of_hand_made_captions() -> None:
    found = regularities(
        ["A red ring.", "A red ring.", "a red square", "TWO RINGS!", "An Old House", " ring"]
    )
    assert found["num_captions"] == 6
    assert found["distinct"] == 5 / 6
    assert found["starts_with_article"] == 4 / 6
    assert found["leading_space"] == 1 / 6
    assert found["ending"] == {
        "full_stop": 2 / 6, "none": 3 / 6, "other_punctuation": 1 / 6,
    }  # fmt: skip
    assert found["letter_case"] == {
        "lower": 2 / 6, "sentence": 2 / 6, "title": 1 / 6, "upper": 1 / 6,
    }  # fmt: skip
    assert found["openings"][0] == {"opening": "a red ring.", "share": 2 / 6}
    assert found["share_of_commonest_openings"] == 1.0
    assert found["words"]["mean"] == (3 + 3 + 3 + 2 + 3 + 1) / 6


def test_no_captions_have_no_regularities() -> None:
    assert regularities([]) == {"num_captions": 0}


@settings(max_examples=20)
@given(COUNTS)
def test_all_captions_have_the_plain_entropy(counts: dict[str, int]) -> None:
    assert rarefied_entropy(counts, size=sum(counts.values())) == pytest.approx(entropy(counts))


@settings(max_examples=20)
@given(COUNTS)
def test_one_caption_has_no_entropy_and_more_never_have_less(counts: dict[str, int]) -> None:
    curve = [rarefied_entropy(counts, size=n) for n in range(1, sum(counts.values()) + 1)]
    assert curve[0] == 0
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))


def test_rarefied_entropy_is_the_mean_over_all_subsamples() -> None:
    values = "aaabbc"
    drawn = [entropy(Counter(s)) for s in itertools.combinations(values, 4)]
    assert rarefied_entropy(Counter(values), size=4) == pytest.approx(np.mean(drawn))


def test_a_subsample_larger_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size must lie in \[0, 2\]"):
        rarefied_entropy({"a": 2}, size=3)


def test_distinct_ngrams_are_counted_without_case() -> None:
    captions = [["A", "red", "ring"], ["a", "red", "box"]]
    assert distinct_share(captions, n=1) == 4 / 6
    assert distinct_share(captions, n=2) == 3 / 4
    assert distinct_share(captions, n=3) == 1.0
    assert distinct_share([["a"]], n=2) is None


def test_kinds_of_different_numbers_are_rarefied_to_one() -> None:
    few, many = ["a ring", "a box"], ["a ring", "a box"] * 50
    sparse, dense = (regularities(texts, rarefied_to=2) for texts in (few, many))
    assert sparse["entropy_of_openings"] == {"bits": 1.0, "captions": 2}
    # Two drawn of a hundred are the same opening in 49 of 99 cases.
    assert dense["entropy_of_openings"]["bits"] == pytest.approx(50 / 99)
