"""An estimate of how much captions invent, fitted where the truth is known and tested there.

Two signals need no truth: `agreement` with further samples (`eval.agreement`), and `margin`, how
much better a sentence fits its own picture than other pictures under CLIP. A logistic regression
turns them into the share of a caption's claims that is invented. It is fitted on captions whose
claims can be checked one by one, and every figure about it comes from pictures that it was not
fitted on. Elsewhere the fitted estimate may be carried over, and is then an extrapolation.

N captions, one per picture; S sentences; D feature width; F signals; B resamples
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt64

from eval.intervals import LEVEL, Array, ratio_interval
from eval.resampling import generator_of
from launch import keyed

SIGNALS = ("agreement", "margin")
SIGNAL_SETS: tuple[tuple[str, ...], ...] = (("agreement",), ("margin",), SIGNALS)
"""What an estimate may rest on: each signal alone, and both."""

NUM_SHUFFLED = 64
"""Other pictures, drawn by key with replacement, that a sentence's own is compared with."""

NUM_FOLDS = 5
NUM_BINS = 10
MIN_CAPTIONS = 50
"""Captions with known truth below which nothing is fitted."""

PENALTY = 1.0
"""Weight of half the squared length of the slopes, beside a weight of 1 for each caption."""

Floats = Float[np.ndarray, " N"]


class Assessed(NamedTuple):
    """What an estimate is worth where the truth is known."""

    facts: dict[str, Any]
    estimates: Floats
    """Held-out estimates by the richest set of signals; NaN for captions that were left out."""


class CarriedOver(NamedTuple):
    """Estimates by a model that was fitted elsewhere."""

    name: str
    """The set of signals used, the richest that both sides have."""

    estimates: Floats
    """NaN where a caption lacks a signal."""


# --------------------------------------------------------------------------- signals


def shuffled_pictures(
    ids: UInt64[np.ndarray, " N"], *, num: int = NUM_SHUFFLED
) -> Int64[np.ndarray, "N num"]:
    """Draw, for each picture, the places of other pictures, with replacement.

    Args:
        ids: Keys of all pictures in ascending order, so that a draw depends on which pictures there
            are and on nothing else.
        num: How many for each.
    """
    if len(ids) < 2:
        raise ValueError(f"other pictures need at least two pictures, got {len(ids)}")
    drawn = keyed.integers(
        0, "captions.shuffled", epoch=0, ids=ids, high=len(ids) - 1, count=max(num, 2)
    )[:, :num]
    others: Int64[np.ndarray, "N num"] = drawn + (drawn >= np.arange(len(ids))[:, None])
    return others


def margins(
    sentences: Float32[np.ndarray, "S D"],
    pictures: Float32[np.ndarray, "N D"],
    *,
    own: Int64[np.ndarray, " S"],
    others: Int64[np.ndarray, "N K"],
) -> Float[np.ndarray, " S"]:
    """Return 100 x (cosine with the own picture - mean cosine with the others).

    Args:
        sentences: Features of length 1.
        pictures: Features of length 1.
        own: Place of each sentence's picture.
        others: Places of the pictures that each picture is compared with.
    """
    # The mean of cosines is the cosine's numerator with the mean: one product for all others.
    middle = np.empty(pictures.shape, np.float64)
    for start in range(0, len(pictures), 256):
        here = others[start : start + 256]
        middle[start : start + 256] = pictures[here].astype(np.float64).mean(axis=1)
    text = sentences.astype(np.float64)
    found: Float[np.ndarray, " S"] = 100 * (
        (text * pictures[own]).sum(axis=1) - (text * middle[own]).sum(axis=1)
    )
    return found


def by_caption(
    values: Float[np.ndarray, " S"],
    *,
    caption: Int64[np.ndarray, " S"],
    weights: Float[np.ndarray, " S"],
    num: int,
) -> Floats:
    """Return the weighted mean over each caption's sentences; NaN where none has a value."""
    known = np.isfinite(values) & (weights > 0)
    top = np.bincount(caption[known], (values * weights)[known], minlength=num)
    bottom = np.bincount(caption[known], weights[known], minlength=num)
    return np.divide(top, bottom, out=np.full(num, np.nan), where=bottom > 0)


# --------------------------------------------------------------------------- estimate


def fit(
    x: Float[np.ndarray, "N F"], *, false: Floats, claims: Floats, signals: Sequence[str]
) -> dict[str, Any]:
    """Fit the share of false claims by a logistic regression.

    Args:
        x: Signals of every caption.
        false: Claims of each that are not true.
        claims: Claims of each, its weight in the fit; 1 and a share as `false` weigh all equally.
        signals: Names of the columns.

    Returns:
        A model as plain data: centre and scale of each signal, intercept and slopes.
    """
    from scipy.optimize import minimize

    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    z = np.column_stack([np.ones(len(x)), (x - centre) / scale])

    def loss(beta: Floats) -> tuple[float, Floats]:
        logits = z @ beta
        # log(1 + e^l) without overflow
        value = (claims * np.logaddexp(0, logits) - false * logits).sum()
        gradient = z.T @ (claims / (1 + np.exp(-logits)) - false)
        gradient[1:] += PENALTY * beta[1:]
        return float(value + PENALTY / 2 * (beta[1:] ** 2).sum()), gradient

    start = np.zeros(z.shape[1])
    beta = minimize(loss, start, jac=True, method="BFGS").x
    return {
        "signals": list(signals),
        "centre": centre.tolist(),
        "scale": scale.tolist(),
        "intercept": float(beta[0]),
        "slopes": beta[1:].tolist(),
        "num_captions": len(x),
    }


def estimate(x: Float[np.ndarray, "N F"], model: Mapping[str, Any]) -> Floats:
    """Return the estimated share of false claims of each caption."""
    z = (x - np.array(model["centre"])) / np.array(model["scale"])
    logits = model["intercept"] + z @ np.array(model["slopes"])
    share: Floats = 1 / (1 + np.exp(-logits))
    return share


def held_out(
    x: Float[np.ndarray, "N F"],
    *,
    false: Floats,
    claims: Floats,
    ids: UInt64[np.ndarray, " N"],
) -> Floats:
    """Return each caption's estimate by a model fitted on the other folds' pictures.

    Folds are drawn by key, so they are the same for every set of signals.
    """
    fold = np.floor(NUM_FOLDS * keyed.uniform(0, "captions.folds", epoch=0, ids=ids)).astype(int)
    estimates = np.empty(len(x))
    for number in range(NUM_FOLDS):
        test = fold == number
        if test.any():
            model = fit(
                x[~test], false=false[~test], claims=claims[~test], signals=[""] * x.shape[1]
            )
            estimates[test] = estimate(x[test], model)
    return estimates


# --------------------------------------------------------------------------- how good it is


def correlations(
    estimates: Floats, truth: Floats, *, resamples: int = 1000
) -> dict[str, dict[str, Any] | None]:
    """Return Spearman's and Pearson's correlation, each with a bootstrap interval over pictures.

    None where estimates or truth do not vary.
    """
    from scipy.stats import rankdata

    generator = generator_of(0, "captions.correlation")
    drawn = {"spearman": np.empty(resamples), "pearson": np.empty(resamples)}
    for b in range(resamples):
        rows = generator.integers(0, len(truth), len(truth))
        e, t = estimates[rows], truth[rows]
        drawn["pearson"][b] = pearson(e, t)
        drawn["spearman"][b] = pearson(rankdata(e), rankdata(t))
    whole = {
        "spearman": pearson(rankdata(estimates), rankdata(truth)),
        "pearson": pearson(estimates, truth),
    }
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {
        name: None
        if np.isnan(value)
        else {
            "value": value,
            "interval": [float(q) for q in np.nanquantile(drawn[name], tails)],
        }
        for name, value in whole.items()
    }


def pearson(a: Array, b: Array) -> float:
    """Return Pearson's correlation; NaN where either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 1e-12 else float("nan")


def calibration(estimates: Floats, truth: Floats) -> list[dict[str, Any]]:
    """Return mean estimate and mean truth of equally many captions, by ascending estimate.

    The interval is of the mean truth, over pictures.
    """
    order = np.argsort(estimates, kind="stable")
    bins = []
    for rows in np.array_split(order, min(NUM_BINS, max(1, len(order) // 10))):
        interval = ratio_interval(truth[rows], np.ones(len(rows)))
        bins.append(
            {
                "num": len(rows),
                "mean_estimate": float(estimates[rows].mean()),
                "mean_truth": float(truth[rows].mean()),
                "interval": [interval.low, interval.high],
            }
        )
    return bins


def assess(
    signals: Mapping[str, Floats],
    *,
    false: Floats,
    claims: Floats,
    ids: UInt64[np.ndarray, " N"],
    resamples: int = 1000,
) -> Assessed | None:
    """Fit and test the estimate on captions of known truth, for every set of signals there is.

    Args:
        signals: `agreement`, `margin` or both; NaN where a caption has none.
        false: Claims of each caption that are not true.
        claims: Claims of each caption.
        ids: Keys of their pictures.
        resamples: Bootstrap resamples of a correlation.

    Returns:
        For each set of signals the model fitted on all, the held-out correlations and the held-out
        calibration, all on the captions that make a claim and have every signal; None if these
        are fewer than `MIN_CAPTIONS`.
    """
    use: Bool[np.ndarray, " N"] = claims > 0
    for values in signals.values():
        use &= np.isfinite(values)
    if use.sum() < MIN_CAPTIONS:
        return None
    truth = (false / np.maximum(claims, 1))[use]
    sets: dict[str, Any] = {}
    best = np.full(len(claims), np.nan)
    for names in SIGNAL_SETS:
        if not set(names) <= signals.keys():
            continue
        x = np.column_stack([signals[name][use] for name in names])
        # Captions weigh equally, as in every mean over captions.
        known = {"false": truth, "claims": np.ones(len(truth))}
        estimates = held_out(x, ids=ids[use], **known)
        best[use] = estimates  # the last set is the richest
        sets[" and ".join(names)] = {
            "model": fit(x, signals=names, **known),
            "correlation": correlations(estimates, truth, resamples=resamples),
            "calibration": calibration(estimates, truth),
            "mean_estimate": float(estimates.mean()),
        }
    facts = {
        "num_captions": int(use.sum()),
        "num_left_out": int((~use).sum()),
        "mean_truth": float(truth.mean()),
        "sets": sets,
    }
    return Assessed(facts=facts, estimates=best)


def best_set(sets: Mapping[str, Any]) -> str | None:
    """Return the name of the set with the most signals."""
    return max(sets, key=lambda name: len(name.split(" and "))) if sets else None


def tells_something(found: Mapping[str, Any]) -> bool:
    """Say whether an estimate ranked captions better than chance where it was fitted."""
    rank = found["correlation"]["spearman"]
    return rank is not None and rank["interval"][0] > 0


def carried_over(signals: Mapping[str, Floats], sets: Mapping[str, Any]) -> CarriedOver | None:
    """Estimate captions of unknown truth by what was fitted elsewhere.

    None without such a fit, or where no fit told anything even there: its rate would be the mean of
    that world and know nothing of these captions.
    """
    chosen = usable_set(signals, sets)
    if chosen is None:
        return None
    names = sets[chosen]["model"]["signals"]
    x = np.column_stack([signals[name] for name in names])
    return CarriedOver(chosen, estimate(x, sets[chosen]["model"]))


def usable_set(signals: Collection[str], sets: Mapping[str, Any]) -> str | None:
    """Return the richest set of these signals whose fit told anything, None without one."""
    return best_set(
        {
            name: found
            for name, found in sets.items()
            if set(found["model"]["signals"]) <= set(signals) and tells_something(found)
        }
    )


def why_none_usable(signals: Collection[str], sets: Mapping[str, Any]) -> str | None:
    """Say why no fit can be carried over to captions with these signals; None if one can be."""
    if usable_set(signals, sets) is not None:
        return None
    if not sets:
        return "the calibration has no fit of this kind"
    if not any(set(found["model"]["signals"]) <= set(signals) for found in sets.values()):
        return (
            f"the calibration's fit of this kind is from {', '.join(sets)}, and these captions "
            f"have {' and '.join(sorted(signals)) or 'no signal'}"
        )
    return (
        "the calibration's fit of this kind ranked captions no better than chance where it was made"
    )
