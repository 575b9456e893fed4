"""Every distance of `eval distribution`, from features to the rows of its tables.

N pictures of one set, D feature width
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from eval import frechet, mmd
from eval.distribution_artifact import METRICS, PICTURES_SCHEMA
from eval.distribution_sets import PictureSet, drawn_styles
from eval.jackknife import Estimate, Intervals, intervals


@dataclass
class Found:
    """Estimates by (arm, training seed, prompt style, metric), and FID by size."""

    estimates: dict[tuple[str, int, str, str], Estimate] = field(default_factory=dict)
    sizes: list[dict[str, Any]] = field(default_factory=list)


def measure(
    generated: Sequence[PictureSet],
    reference: PictureSet,
    *,
    read: Callable[[PictureSet], Float32[np.ndarray, "_ D"]],
    groups: Mapping[str, int],
    with_cmmd: bool,
) -> Found:
    """Return every distance of every model and prompt style.

    Args:
        generated: Sets of generated pictures.
        reference: The reference.
        read: Gives the features of a set; those of the reference and of one model at a time are
            in memory.
        groups: Group of each prompt cluster and reference picture.
        with_cmmd: Whether the features are CLIP's.
    """
    number = {cluster: i for i, cluster in enumerate(groups)}
    num_groups = 1 + max(groups.values())

    def feature_set(pictures: PictureSet) -> mmd.FeatureSet:
        return mmd.FeatureSet(
            features=read(pictures),
            clusters=np.array([number[p] for p in pictures.pair_ids], np.int64),
            groups=np.array([groups[p] for p in pictures.pair_ids], np.int64),
        )

    found = Found()
    real = feature_set(reference)
    real_sums = mmd.kernel_sums(real, real, num_groups=num_groups) if with_cmmd else None
    for pictures in generated:
        # The set is handed over and not named, so that it is gone before the next one is read.
        _add_model(found, pictures, feature_set(pictures), real, real_sums, num_groups=num_groups)
    return found


def _add_model(
    found: Found,
    pictures: PictureSet,
    whole: mmd.FeatureSet,
    real: mmd.FeatureSet,
    real_sums: mmd.KernelSums | None,
    *,
    num_groups: int,
) -> None:
    assert pictures.arm is not None
    assert pictures.model_seed is not None
    for style in drawn_styles([pictures]):
        chosen = mmd.FeatureSet(*(column[pictures.of_style(style)] for column in whole))
        key = (pictures.arm, pictures.model_seed, style)
        distances = frechet.frechet(
            chosen.features,
            real.features,
            groups=chosen.groups,
            reference_groups=real.groups,
            num_groups=num_groups,
        )
        found.estimates[(*key, "fid")] = distances.whole
        if distances.infinity is not None:
            found.estimates[(*key, "fid_infinity")] = distances.infinity
        found.sizes += [_size_row(key, point) for point in distances.points]
        if real_sums is not None:
            found.estimates[(*key, "cmmd")] = mmd.discrepancy(
                mmd.kernel_sums(chosen, chosen, num_groups=num_groups),
                mmd.kernel_sums(chosen, real, num_groups=num_groups),
                real_sums,
            )


def _size_row(key: tuple[str, int, str], point: frechet.SizePoint) -> dict[str, Any]:
    return {
        **dict(zip(("arm", "model_seed", "style"), key, strict=True)),
        "num_parts": point.num_parts,
        "n": point.num,
        "n_reference": point.num_reference,
        "fid": point.value,
        "is_fitted": point.is_fitted,
    }


def number_rows(
    found: Found, generated: Sequence[PictureSet], reference: PictureSet
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the tables of numbers."""
    distances, differences = [], []
    arms = list(dict.fromkeys(str(s.arm) for s in generated))
    for style, metric in itertools.product(drawn_styles(generated), METRICS):
        first = generated[0]  # all have the same prompts
        what = {
            "style": style,
            "metric": metric,
            "n": int(first.of_style(style).sum()),
            "n_reference": len(reference),
            "num_prompts": first.num_prompts(style),
        }
        by_arm = {
            arm: {
                seed: estimate
                for (of, seed, where, which), estimate in found.estimates.items()
                if (of, where, which) == (arm, style, metric)
            }
            for arm in arms
        }
        for arm, by_seed in by_arm.items():
            for seed, interval in _by_seed_and_all(by_seed):
                distances.append({"arm": arm, "model_seed": seed, **what, **_numbers(interval)})
        for than, arm in itertools.combinations(arms, 2):
            shared = {
                seed: estimate.minus(by_arm[than][seed])
                for seed, estimate in by_arm[arm].items()
                if seed in by_arm[than]
            }
            for seed, interval in _by_seed_and_all(shared):
                row = {"arm": arm, "than": than, "model_seed": seed, **what, **_numbers(interval)}
                differences.append(row)
    left_out = [
        {
            **dict(zip(("arm", "model_seed", "style", "metric"), key, strict=True)),
            "group": group,
            "value": value,
        }
        for key, estimate in found.estimates.items()
        for group, value in enumerate(estimate.left_out.tolist())
    ]
    return {
        "distances": distances,
        "differences": differences,
        "sizes": found.sizes,
        "left_out": left_out,
    }


def _by_seed_and_all(by_seed: Mapping[int, Estimate]) -> list[tuple[int | None, Intervals]]:
    """Return the intervals of each training seed, then of the mean over them."""
    if not by_seed:
        return []
    each = [(seed, intervals([estimate])) for seed, estimate in by_seed.items()]
    return [*each, (None, intervals(list(by_seed.values())))]


def _numbers(found: Intervals) -> dict[str, Any]:
    given, with_seeds = found
    return {
        "value": given.estimate,
        "low": given.low,
        "high": given.high,
        "standard_error": given.standard_error,
        "method": given.method,
        "with_seeds_low": None if with_seeds is None else with_seeds.low,
        "with_seeds_high": None if with_seeds is None else with_seeds.high,
    }


def picture_table(
    sets: Sequence[PictureSet], files: Sequence[str], groups: Mapping[str, int]
) -> pa.Table:
    """Return the table that says whose feature each row of a file is."""
    return pa.concat_tables(
        pa.table(
            {
                "file": [file] * len(pictures),
                "row": np.arange(len(pictures)),
                "picture_id": pictures.picture_ids,
                "pair_id": pictures.pair_ids,
                "group": [groups[pair_id] for pair_id in pictures.pair_ids],
                "arm": [pictures.arm] * len(pictures),
                "model_seed": [pictures.model_seed] * len(pictures),
                "style": pictures.styles,
                "seed": pictures.seeds,
            },
            schema=PICTURES_SCHEMA,
        )
        for pictures, file in zip(sets, files, strict=True)
    )
