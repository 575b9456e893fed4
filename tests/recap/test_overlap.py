"""BLEU and CIDEr-D, against the COCO caption evaluation and by hand."""

from __future__ import annotations

import pytest

from recap.overlap import bleu, cider_d
from recap.words import words_of


def corpus() -> tuple[list[list[str]], list[list[list[str]]]]:
    """Give 60 captions of 0 to 13 words, each with 1 to 5 references that share some of them."""
    state = 1

    def draw(below: int) -> int:
        nonlocal state
        state = (state * 1_103_515_245 + 12_345) % 2**31
        return (state >> 16) % below

    def words(num: int) -> list[str]:
        return [f"w{draw(40)}" for _ in range(num)]

    captions = [words(draw(14)) for _ in range(60)]
    references = [
        [words(1 + draw(14)) + caption[2:7] for _ in range(1 + draw(5))] for caption in captions
    ]
    return captions, references


GOLDEN_CIDER_D = 2.140933247752837
GOLDEN_BLEU = [0.5440232366258999, 0.43884919330424904, 0.38200243499966885, 0.33253415808225445]
"""What pycocoevalcap 1.2 says of `corpus`."""


def test_scores_are_those_of_the_coco_caption_evaluation() -> None:
    captions, references = corpus()
    assert cider_d(captions, references).mean == pytest.approx(GOLDEN_CIDER_D, abs=1e-9)
    assert bleu(captions, references) == pytest.approx(GOLDEN_BLEU, abs=1e-9)


def test_scores_are_those_of_the_coco_caption_evaluation_where_it_is_installed() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    theirs_bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    captions, references = corpus()
    truth = {n: [" ".join(words) for words in some] for n, some in enumerate(references)}
    said = {n: [" ".join(words)] for n, words in enumerate(captions)}
    _, each = cider.Cider().compute_score(truth, said)
    assert cider_d(captions, references).each == pytest.approx(list(each), abs=1e-9)
    expected, _ = theirs_bleu.Bleu(4).compute_score(truth, said, verbose=0)
    assert bleu(captions, references) == pytest.approx(expected, abs=1e-9)


def test_a_caption_equal_to_its_only_reference_scores_ten_and_one() -> None:
    captions = [words_of("a red ring above a small blue square"), words_of("two green stars")]
    captions.append(words_of("nothing else at all here"))
    references = [[words] for words in captions]
    assert cider_d(captions[:1] + captions[2:], references[:1] + references[2:]).each == (
        pytest.approx([10, 10])
    )
    assert bleu(captions, references) == pytest.approx([1, 1, 1, 1])


def test_nothing_shared_scores_zero() -> None:
    captions, references = [["a"] * 6, ["b"] * 6], [[["c"] * 6], [["d"] * 6]]
    assert cider_d(captions, references).mean == 0
    assert bleu(captions, references) == pytest.approx([0, 0, 0, 0], abs=1e-4)


def test_words_are_cut_without_case_and_punctuation() -> None:
    assert words_of("A man's  hat, (RED); naïve!") == ["a", "man's", "hat", "red", "naïve"]


def test_a_picture_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="picture 1 has no reference"):
        cider_d([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="2 captions and references of 1 pictures"):
        bleu([["a"], ["b"]], [[["a"]]])
