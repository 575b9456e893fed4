"""Captions that a gate has quarantined: how many per rule, and examples.

Read from the captions artifacts as a whole: what was gated has no text to be measured otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.intervals import wilson_interval
from launch import keyed
from launch.errors import ArtifactError
from recap.artifacts import open_captions


def gated(folders: Sequence[Path], *, num_examples: int) -> list[dict[str, Any]]:
    """Return one entry per artifact and kind: captions, gated ones, and each rule's count.

    Raises:
        ArtifactError: A manifest counts otherwise than its quarantine.
    """
    return [entry for folder in folders for entry in _gated(folder, num_examples=num_examples)]


def _gated(folder: Path, *, num_examples: int) -> list[dict[str, Any]]:
    opened = open_captions(folder)
    rows = sorted(opened.quarantined().to_pylist(), key=lambda r: (r["kind"], r["sample_id"]))
    by_rule = Counter(rule for row in rows for rule in row["flags"])
    stated = opened.manifest.recipe.get("gated_by_rule")
    if stated is not None and Counter(stated) != by_rule:
        raise ArtifactError(
            f"{folder}: quarantine/ holds {_listed(by_rule)} by rule, the manifest says "
            f"{_listed(stated)}; a caption was lost or added. Make the captions again."
        )
    accepted = Counter(opened.table["kind"].to_pylist())
    entries = []
    for kind in sorted(accepted.keys() | {row["kind"] for row in rows}):
        own = [row for row in rows if row["kind"] == kind]
        num = accepted[kind] + len(own)
        entries.append(
            {
                "kind": kind,
                "captions": opened.manifest.digest[:8],
                "num_captions": num,
                "num_gated": len(own),
                "interval": list(wilson_interval(len(own), num)),
                "rules": {
                    rule: {
                        "num": sum(rule in row["flags"] for row in own),
                        "examples": _examples(own, rule, num=num_examples),
                    }
                    for rule in by_rule
                    if any(rule in row["flags"] for row in own)
                },
            }
        )
    return entries


def _examples(rows: Sequence[dict[str, Any]], rule: str, *, num: int) -> list[dict[str, str]]:
    """Choose some by key, so that nobody chose them."""
    broken = [row for row in rows if rule in row["flags"]]
    ids = keyed.words([row["sample_id"] for row in broken])
    order = keyed.permutation(0, f"captions.gated {rule}", epoch=0, ids=ids)[:num]
    return [{"sample_id": broken[i]["sample_id"], "text": broken[i]["text"]} for i in order]


def _listed(counts: Any) -> str:
    return ", ".join(f"{rule} {count:,}" for rule, count in sorted(counts.items())) or "nothing"
