"""The unbiased squared maximum mean discrepancy of two sets of features, in blocks.

The estimate is a U-statistic over prompts: no feature is compared with one of its own prompt.
Leaving out only a feature's comparison with itself, as is usual, would be unbiased for independent
pictures; pictures of one prompt over noise seeds are alike, and a reference picture is like those
drawn for the prompt that speaks of it. What is unbiased can fall below zero.

Sums of the kernel are kept by pair of groups, so that leaving out a group costs nothing, and no
memory grows with the square of the number of pictures.

N features of one set, M of the other, D feature width, K groups
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from eval.jackknife import Estimate

SIGMA = 10.0
"""Bandwidth of CMMD's kernel."""

SCALE = 1000.0
"""Factor of CMMD."""

FORMULA = (
    "1000 (E k(x, x') + E k(y, y') - 2 E k(x, y)), k(x, y) = exp(-|x - y|^2 / (2 * 10^2)) of "
    "features of length 1; U-statistic without pairs of one prompt"
)

BLOCK = 1024
"""Features compared at once with as many others."""


class FeatureSet(NamedTuple):
    """Features with what they belong to."""

    features: Float[np.ndarray, "N D"]
    clusters: Int64[np.ndarray, " N"]
    """Prompt, numbered over all sets alike."""

    groups: Int64[np.ndarray, " N"]


class KernelSums(NamedTuple):
    """Sums of kernel - 1 over pairs of different prompts, by the groups of both."""

    total: Float64[np.ndarray, "K K"]
    num: Int64[np.ndarray, "K K"]
    """Pairs summed."""

    def mean(self) -> Estimate:
        """Return the mean of kernel - 1, and that without each group."""
        total, num = _without(self.total), _without(self.num.astype(np.float64))
        return Estimate(float(self.total.sum() / self.num.sum()), total / num)


def _without(by_pair: Float64[np.ndarray, "K K"]) -> Float64[np.ndarray, " K"]:
    return by_pair.sum() - by_pair.sum(axis=0) - by_pair.sum(axis=1) + np.diag(by_pair)


def kernel_sums(
    one: FeatureSet, other: FeatureSet, *, num_groups: int, sigma: float = SIGMA
) -> KernelSums:
    """Sum the Gaussian kernel between two sets, or within one set given twice.

    The kernel less 1 is summed: CMMD's lies within 2% of 1, the 1 cancels in the discrepancy, and
    without it no digits are lost to it.
    """
    is_same = one.features is other.features
    total = np.zeros((num_groups, num_groups))
    membership = np.eye(num_groups)
    for a in range(0, len(one.features), BLOCK):
        rows = slice(a, a + BLOCK)
        x = np.asarray(one.features[rows], np.float64)
        for b in range(a if is_same else 0, len(other.features), BLOCK):
            columns = slice(b, b + BLOCK)
            y = np.asarray(other.features[columns], np.float64)
            kernel = _kernel_less_one(x, y, sigma=sigma)
            kernel[one.clusters[rows, None] == other.clusters[None, columns]] = 0
            block = membership[one.groups[rows]].T @ (kernel @ membership[other.groups[columns]])
            total += block + block.T if is_same and b > a else block
    return KernelSums(total, _num_pairs(one, other, num_groups=num_groups))


def _kernel_less_one(
    x: Float64[np.ndarray, "N D"], y: Float64[np.ndarray, "M D"], *, sigma: float
) -> Float64[np.ndarray, "N M"]:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * (x @ y.T)
    return np.asarray(np.expm1(-np.maximum(squares, 0) / (2 * sigma**2)))


def _num_pairs(one: FeatureSet, other: FeatureSet, *, num_groups: int) -> Int64[np.ndarray, "K K"]:
    """Count pairs of different prompts by the groups of both."""
    by_group = (np.bincount(s.groups, minlength=num_groups) for s in (one, other))
    num = np.multiply.outer(*by_group)
    size = 1 + max(int(one.clusters.max(initial=-1)), int(other.clusters.max(initial=-1)))
    by_cluster = [np.bincount(s.clusters, minlength=size) for s in (one, other)]
    group = np.zeros(size, np.int64)
    group[one.clusters], group[other.clusters] = one.groups, other.groups
    same = np.bincount(group, weights=np.prod(by_cluster, axis=0), minlength=num_groups)
    return np.asarray(num - np.diag(same.astype(np.int64)))


def discrepancy(
    within: KernelSums, between: KernelSums, reference: KernelSums, *, scale: float = SCALE
) -> Estimate:
    """Return the scaled squared discrepancy of generated and reference pictures.

    Args:
        within: Sums among the generated pictures.
        between: Sums between generated and reference pictures.
        reference: Sums among the reference pictures.
        scale: Factor.

    Source: Gretton et al. 2012, "A kernel two-sample test", Lemma 6; Jayasumana et al. 2024,
    arXiv:2401.09603, for kernel, bandwidth and factor.
    """
    xx, xy, yy = within.mean(), between.mean(), reference.mean()
    return Estimate(
        scale * (xx.value + yy.value - 2 * xy.value),
        scale * (xx.left_out + yy.left_out - 2 * xy.left_out),
    )
