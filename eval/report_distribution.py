"""The report's tables of distances between distributions, from `eval distribution`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.distribution_artifact import METRICS, Distribution, open_distribution
from eval.distribution_summary import NAMES
from eval.table import Table, Value, shown_fact
from eval.words import MINUS, NOTHING
from launch.errors import ArtifactError
from t2i.artifacts import Generations


def open_distances(folder: Path, *, generations: Sequence[Generations]) -> Distribution:
    """Open distances, which must be those of exactly these generations.

    Raises:
        ArtifactError: They were measured on other pictures.
    """
    found = open_distribution(folder)
    measured = {i.digest: i.path for i in found.manifest.inputs if i.role == "generations"}
    given = {g.manifest.digest: str(g.manifest.folder) for g in generations}
    for digest in sorted(measured.keys() ^ given.keys()):
        path = measured.get(digest) or given[digest]
        other = "is not of this report" if digest in measured else "was not measured"
        raise ArtifactError(
            f"{folder}: does not belong to the generations of this report: {path} (digest "
            f"{digest[:12]}) {other}. Measure the distances of the same generations."
        )
    return found


def distribution_table(found: Distribution, *, arms: Sequence[str]) -> Table:
    """Make the table of FID, FID at infinite size and CMMD, and their differences to one arm.

    Args:
        found: Distances.
        arms: Arms in the report's order; differences are to the first.
    """
    first, *others = arms
    distances = [r for r in found.distances.to_pylist() if r["model_seed"] is None]
    differences = _both_ways(r for r in found.differences.to_pylist() if r["model_seed"] is None)
    rows = []
    for style in dict.fromkeys(r["style"] for r in distances):
        for metric in METRICS:
            of_arm = {
                r["arm"]: r for r in distances if (r["style"], r["metric"]) == (style, metric)
            }
            if not of_arm:
                continue
            n = next(iter(of_arm.values()))["n"]
            row = [Value(style), Value(NAMES[metric]), Value(f"{n:,}", n)]
            row += [_shown(of_arm.get(arm)) for arm in arms]
            row += [_shown(differences.get((arm, first, style, metric))) for arm in others]
            rows.append(row)
    columns = ["prompt style", "distance", "pictures", *arms]
    columns += [f"{arm} {MINUS} {first}" for arm in others]
    num_reference = distances[0]["n_reference"] if distances else 0
    return Table(
        name="distribution",
        title=f"Distance from {num_reference:,} real pictures on features of "
        f"{_features(found)}; less is nearer",
        columns=columns,
        rows=rows,
        numeric=frozenset(range(2, len(columns))),
        records=[
            *({"arm": r["arm"], "than": None, **r} for r in found.distances.to_pylist()),
            *found.differences.to_pylist(),
        ],
    )


def sizes_table(found: Distribution) -> Table:
    """Make the table of FID by the number of pictures."""
    records = found.sizes.to_pylist()
    return Table(
        name="distribution_sizes",
        title="FID by the number of pictures, a mean over parts of equal size",
        columns=["prompt style", "arm", "training seed", "parts", "pictures", "real", "FID"],
        rows=[
            [
                Value(r["style"]),
                Value(r["arm"]),
                Value(str(r["model_seed"]), r["model_seed"]),
                Value(str(r["num_parts"]), r["num_parts"]),
                Value(f"{r['n']:,.0f}", r["n"]),
                Value(f"{r['n_reference']:,.0f}", r["n_reference"]),
                Value(
                    shown_fact(r["fid"]),
                    r["fid"],
                    "" if r["is_fitted"] else "fewer pictures than features",
                ),
            ]
            for r in records
        ],
        numeric=frozenset(range(2, 7)),
        records=records,
    )


def _both_ways(rows: Any) -> dict[tuple[str, str, str, str], Mapping[str, Any]]:
    """Return differences by (arm, than, style, metric), each also the other way round."""
    found: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}
    for r in rows:
        found[r["arm"], r["than"], r["style"], r["metric"]] = r
        turned = {"value": -r["value"]}
        for low, high in (("low", "high"), ("with_seeds_low", "with_seeds_high")):
            turned[low] = None if r[high] is None else -r[high]
            turned[high] = None if r[low] is None else -r[low]
        found[r["than"], r["arm"], r["style"], r["metric"]] = turned
    return found


def _shown(row: Mapping[str, Any] | None) -> Value:
    """Show a number and the interval that decides: with training seeds, where there is one."""
    if row is None:
        return Value(NOTHING, float("-inf"))
    ends = [row["with_seeds_low"], row["with_seeds_high"]]
    low, high = ends if ends[0] is not None else (row["low"], row["high"])
    note = f"[{shown_fact(low)}, {shown_fact(high)}]"
    return Value(shown_fact(row["value"]), row["value"], note)


def _features(found: Distribution) -> str:
    """Name what gave the features: by name, or, of a folder, by its weights."""
    features = found.manifest.recipe["scorer"]["features"]
    if isinstance(features["architecture"], str):
        return str(features["architecture"])
    if any(i.role == "judge" for i in found.manifest.inputs):
        return "the judge's CLIP"
    return f"a CLIP in a folder, weights {features['weights'][:8]}"
