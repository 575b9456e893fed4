"""What captions of a kind have in common beyond their content.

The paper's reason for keeping some original captions is that a model overfits such habits: leading
spaces, letter case, a final full stop, length, always beginning with "a". Pure functions of texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUM_OPENINGS = 5
"""Commonest openings whose share is reported; FACTS for people's captions are of five."""

OPENING_WORDS = 3
RAREFIED = 1000
"""Captions to which the entropy of openings is rarefied, or as many as the smallest kind has."""

WORD = re.compile(r"\S+")


def regularities(texts: Sequence[str], *, rarefied_to: int | None = None) -> dict[str, Any]:
    """Measure the habits of captions.

    Args:
        texts: Captions of one kind.
        rarefied_to: Captions that the entropy of openings is stated for, so that kinds with
            different numbers compare; None takes all, at most `RAREFIED`.
    """
    num = len(texts)
    if not num:
        return {"num_captions": 0}
    words = [WORD.findall(text) for text in texts]
    openings = Counter(" ".join(w[:OPENING_WORDS]).lower() for w in words if w)
    # By count, then by name: equal counts must not depend on the order of the pictures.
    commonest = sorted(openings.items(), key=lambda item: (-item[1], item[0]))[:NUM_OPENINGS]
    lengths = np.array([len(w) for w in words])
    cases = Counter(_case(text) for text in texts)
    ends = Counter(_ending(text) for text in texts)
    size = min(rarefied_to or RAREFIED, sum(openings.values()))
    return {
        "num_captions": num,
        "words": {
            "mean": float(lengths.mean()),
            "standard_deviation": float(lengths.std()),
            "quantiles": {
                name: float(np.quantile(lengths, q))
                for name, q in (("05", 0.05), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("95", 0.95))
            },
        },
        "openings": [{"opening": opening, "share": n / num} for opening, n in commonest],
        "share_of_commonest_openings": sum(n for _, n in commonest) / num,
        "entropy_of_openings": {"bits": rarefied_entropy(openings, size=size), "captions": size},
        "starts_with_article": sum(bool(w) and w[0].lower() in ("a", "an") for w in words) / num,
        "leading_space": sum(text[:1].isspace() for text in texts) / num,
        "letter_case": {name: cases[name] / num for name in sorted(cases)},
        "ending": {name: ends[name] / num for name in sorted(ends)},
        "distinct": len(set(texts)) / num,
        "distinct_ngrams": {str(n): distinct_share(words, n=n) for n in (1, 2, 3)},
        "vocabulary": len({word.lower() for w in words for word in w}),
    }


def distinct_share(captions: Sequence[Sequence[str]], *, n: int) -> float | None:
    """Return distinct n-grams over all n-grams, in lower case; None where there are none.

    It falls with the number of captions, so it compares kinds of equally many.

    Source: Li et al. 2016, arXiv:1510.03055, section 5.2 ("distinct-1", "distinct-2").
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for caption in captions:
        words = [word.lower() for word in caption]
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        seen.update(ngrams)
        total += len(ngrams)
    return len(seen) / total if total else None


def rarefied_entropy(counts: Mapping[str, int], *, size: int) -> float:
    """Return the expected entropy, in bits, of a subsample without replacement.

    A sample's entropy grows with its size; at one size, kinds compare. A value that occurs `c`
    times among `N` occurs `k` times among `size` with hypergeometric probability, so the
    expectation is a finite sum and nothing is drawn.

    Args:
        counts: How often each value occurs.
        size: Captions of the subsample, at most all.

    Source: Hurlbert 1971, "The nonconcept of species diversity", applied to Shannon's entropy.
    """
    from scipy.stats import hypergeom

    total = sum(counts.values())
    if not 0 <= size <= total:
        raise ValueError(f"size must lie in [0, {total}], got {size}")
    expected = 0.0
    for count, num_values in sorted(Counter(counts.values()).items()):
        k = np.arange(1, min(count, size) + 1)
        if len(k):
            share = k / size
            probability = hypergeom.pmf(k, total, count, size)
            expected -= num_values * float((probability * share * np.log2(share)).sum())
    return max(expected, 0.0)


def _case(text: str) -> str:
    """Name the letter case of a text: lower, upper, title, sentence, mixed or none."""
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return "none"
    if all(c.islower() for c in letters):
        return "lower"
    if all(c.isupper() for c in letters):
        return "upper"
    initials = [w[0] for w in re.findall(r"[^\W\d_]+", text)]
    if len(initials) > 1 and all(c.isupper() for c in initials):
        return "title"
    return "sentence" if letters[0].isupper() else "mixed"


def _ending(text: str) -> str:
    last = text.rstrip()[-1:]
    if last == ".":
        return "full_stop"
    return "none" if not last or last.isalnum() else "other_punctuation"
