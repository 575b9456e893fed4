"""The Frechet distance of two sets of features, its dependence on their size, and that undone.

A set is held as moments in float64, which add up and can be taken away again: leaving out a few
pictures costs no more than reading those. No memory grows with the number of pictures.

The distance of finite sets is too large by c / n and more, since sampled means and covariances
differ even where the distributions do not. It is therefore stated with n, and beside it what it
would be at infinite n: the line through the distances of smaller sets, read at 1/n = 0.

With n pictures and D features a covariance has rank n - 1 at most. The distance still exists, as
nothing is inverted, but below about n = D it no longer follows that line; such sets are shown and
not extrapolated.

N features of one set, M of the other, D feature width, K groups
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from eval.jackknife import Estimate

FORMULA = "|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), covariances with n - 1"
INFINITY_FORMULA = (
    "intercept of the least-squares line of FID on 1/n through the whole sets, their halves and "
    "their quarters, generated and reference pictures cut alike; sets of fewer pictures than "
    "features left out"
)

NUM_PARTS = (1, 2, 4)
"""Both sets are cut into so many parts; each part is a smaller set of its own."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of a set of features."""

    num: int
    mean: Float64[np.ndarray, " D"]
    scatter: Float64[np.ndarray, "D D"]
    """Sum of the outer products of deviations from the mean."""

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"], *, block: int = 4096) -> Moments:
        """Return the moments of features, read in blocks."""
        total = cls.none(features.shape[1])
        for start in range(0, len(features), block):
            part = np.asarray(features[start : start + block], np.float64)
            mean = part.mean(axis=0)
            total = total + cls(len(part), mean, (part - mean).T @ (part - mean))
        return total

    @classmethod
    def none(cls, width: int) -> Moments:
        """Return the moments of no features."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """Sample covariance, with n - 1."""
        return self.scatter / (self.num - 1)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets together.

        Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for
        computing sample variances".
        """
        num = self.num + other.num
        if not num:
            return self
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.num * other.num / num)
        mean = self.mean + step * (other.num / num)
        return Moments(num, mean, self.scatter + other.scatter + between)

    def __sub__(self, other: Moments) -> Moments:
        """Return the moments without those of a part of the set."""
        num = self.num - other.num
        if not num:
            return Moments.none(len(self.mean))
        mean = self.mean + (self.mean - other.mean) * (other.num / num)
        step = other.mean - mean
        between = np.outer(step, step) * (num * other.num / self.num)
        return Moments(num, mean, self.scatter - other.scatter - between)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return the squared Frechet distance of the Gaussians with these moments.

    The trace of (C1 C2)^(1/2) is the sum of the singular values of F1^T F2 for any factors with
    C = F F^T. No root of an unsymmetric product is taken, and a covariance without full rank needs
    nothing added to it.

    Source: Heusel et al. 2017, arXiv:1706.08500, Eq. 6, after Dowson and Landau 1982.
    """
    c1, c2 = one.covariance, other.covariance
    product = covariance_factor(c1).T @ covariance_factor(c2)
    overlap = np.linalg.svd(product, compute_uv=False).sum()
    step = one.mean - other.mean
    return float(step @ step + np.trace(c1) + np.trace(c2) - 2 * overlap)


def covariance_factor(covariance: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """Return F with F F^T = C for a covariance of any rank.

    Cholesky's where every pivot stands clear of rounding; otherwise of the eigenvectors, where
    eigenvalues within rounding of zero count as zero.
    """
    rounding = len(covariance) * np.finfo(np.float64).eps * float(np.trace(covariance))
    try:
        lower = np.linalg.cholesky(covariance)
        if float(np.diag(lower).min()) ** 2 > rounding:
            return np.asarray(lower)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.where(values > rounding, values, 0.0)))


# --------------------------------------------------------------------------- dependence on size


class SizePoint(NamedTuple):
    """The distance of sets of one size, a mean over the parts that the whole was cut into."""

    num_parts: int
    num: float
    """Generated pictures of a part: the harmonic mean over parts, since bias goes with 1/n."""

    num_reference: float
    """Reference pictures of a part, likewise."""

    value: float
    is_fitted: bool
    """Whether the line goes through it: no part has fewer pictures than features."""


class Frechet(NamedTuple):
    """The distance of all pictures, that at infinite size, and those of smaller sets."""

    whole: Estimate
    infinity: Estimate | None
    """None where fewer than two sizes could be fitted."""

    points: list[SizePoint]


def frechet(
    features: Float[np.ndarray, "N D"],
    reference: Float[np.ndarray, "M D"],
    *,
    groups: Int64[np.ndarray, " N"],
    reference_groups: Int64[np.ndarray, " M"],
    num_groups: int,
) -> Frechet:
    """Return the distance at several sizes and at infinity, and all of it without each group.

    Parts are made of whole groups, and both sets are cut by the same groups. So a picture of a
    prompt and the reference picture that the prompt speaks of stay together, and the bias of both
    sets vanishes on one line; with the reference left whole, its own bias would stay.

    Args:
        features: Features of generated pictures.
        reference: Features of reference pictures.
        groups: Group of each generated picture, from 0.
        reference_groups: Group of each reference picture.
        num_groups: Groups in all.

    Source: Chong and Forsyth 2020, arXiv:1911.07023, for the line; there one fixed reference
    stands for the distribution, and subsamples are drawn at random.
    """
    width = features.shape[1]
    wholes = _Parts.of(num_groups, width)
    references = _Parts.of(num_groups, width)
    for group in range(num_groups):
        wholes.add(Moments.of(features[groups == group]), group)
        references.add(Moments.of(reference[reference_groups == group]), group)
    for p in list(wholes.by)[1:]:
        if min(m.num for m in (*wholes.by[p], *references.by[p])) < 2:
            del wholes.by[p]  # a part of one picture has no covariance
    fits = [min(m.num for m in (*wholes.by[p], *references.by[p])) >= width for p in wholes.by]
    is_fitted = dict(zip(wholes.by, fits, strict=True))
    distances = {
        p: [frechet_distance(a, b) for a, b in zip(wholes.by[p], references.by[p], strict=True)]
        for p in wholes.by
    }
    points = [
        SizePoint(p, wholes.size(p), references.size(p), float(np.mean(found)), is_fitted[p])
        for p, found in distances.items()
    ]
    is_extrapolated = sum(fits) > 1
    needed = [p for p in wholes.by if p == 1 or (is_extrapolated and is_fitted[p])]
    left_out, left_infinity = np.empty(num_groups), np.empty(num_groups)
    for group in range(num_groups):
        out = Moments.of(features[groups == group])
        reference_out = Moments.of(reference[reference_groups == group])
        sizes, values = [], []
        for p in needed:
            part = group % p
            rest = wholes.by[p][part] - out
            changed = frechet_distance(rest, references.by[p][part] - reference_out)
            values.append(np.mean([*distances[p][:part], changed, *distances[p][part + 1 :]]))
            sizes.append(wholes.size(p, part=part, num=rest.num))
        left_out[group] = values[0]
        left_infinity[group] = _intercept(sizes, values) if is_extrapolated else np.nan
    infinity = None
    if is_extrapolated:
        fitted = [point for point in points if point.is_fitted]
        at_infinity = _intercept([p.num for p in fitted], [p.value for p in fitted])
        infinity = Estimate(at_infinity, left_infinity)
    return Frechet(Estimate(points[0].value, left_out), infinity, points)


@dataclass(frozen=True)
class _Parts:
    """Moments of the parts of one set, by the number of parts."""

    by: dict[int, list[Moments]]

    @classmethod
    def of(cls, num_groups: int, width: int) -> _Parts:
        # Two groups a part: without one of them there is still a part.
        cuts = [p for p in NUM_PARTS if p == 1 or 2 * p <= num_groups]
        return cls({p: [Moments.none(width)] * p for p in cuts})

    def add(self, moments: Moments, group: int) -> None:
        for p, parts in self.by.items():
            parts[group % p] = parts[group % p] + moments

    def size(self, p: int, *, part: int | None = None, num: int = 0) -> float:
        """Return the harmonic mean of the parts' sizes, with one of them replaced."""
        sizes = [num if i == part else m.num for i, m in enumerate(self.by[p])]
        return float(len(sizes) / sum(1 / size for size in sizes))


def _intercept(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the value at 1/n = 0 of the least-squares line on 1/n."""
    design = np.stack([np.ones(len(sizes)), 1 / np.asarray(sizes, np.float64)], axis=1)
    return float(np.linalg.lstsq(design, np.asarray(values, np.float64), rcond=None)[0][0])
