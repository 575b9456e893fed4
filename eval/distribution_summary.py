"""Distances between distributions as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.distribution_artifact import METRICS, SAYS_NOTHING

NAMES = {"fid": "FID", "fid_infinity": "FID at infinite size", "cmmd": "CMMD, unbiased"}
"""Metrics in words."""

MISSING = (
    "FID at infinite size is left out where half of a set has fewer pictures than features: the "
    "line in 1/n does not reach that far."
)


def summary_text(rows: Mapping[str, Sequence[Mapping[str, Any]]], *, features: str) -> str:
    """Return the distances of every arm, the differences of arms, and FID by size."""
    distances = [r for r in rows["distances"] if r["model_seed"] is None]
    differences = [r for r in rows["differences"] if r["model_seed"] is None]
    lines = [f"Distances from the reference on features of {features}; less is nearer."]
    for style in dict.fromkeys(r["style"] for r in distances):
        of_style = [r for r in distances if r["style"] == style]
        n, n_reference = of_style[0]["n"], of_style[0]["n_reference"]
        lines += ["", f"{style} prompts: {n:,} pictures a model against {n_reference:,}"]
        for metric in METRICS:
            for row in of_style:
                if row["metric"] == metric:
                    lines.append(_line(NAMES[metric], str(row["arm"]), row))
            for row in differences:
                if (row["style"], row["metric"]) == (style, metric):
                    lines.append(_line("", f"{row['arm']} - {row['than']}", row))
        for row in rows["sizes"]:
            if row["style"] == style:
                lines.append(
                    f"  FID of {row['n']:,.0f} against {row['n_reference']:,.0f}: "
                    f"{row['fid']:.4g}  {row['arm']}, training seed {row['model_seed']}"
                    + ("" if row["is_fitted"] else "  (fewer pictures than features)")
                )
    if not any(r["metric"] == "fid_infinity" for r in distances):
        lines += ["", MISSING]
    method = distances[0]["method"] if distances else ""
    ends = "95% intervals, given the trained models" if method else ""
    return "\n".join([*lines, "", f"{ends}: {method}.", SAYS_NOTHING]) + "\n"


def _line(name: str, of: str, row: Mapping[str, Any]) -> str:
    text = f"  {name:<22}{of:<24}{row['value']:>9.4g} [{row['low']:.4g}, {row['high']:.4g}]"
    if row["with_seeds_low"] is not None:
        text += f"  with training seeds [{row['with_seeds_low']:.4g}, {row['with_seeds_high']:.4g}]"
    return text
