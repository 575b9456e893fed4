"""Proof that a study is what it says: complete, unchanged, without lost rows, with paired arms.

Everything is read again from the disk: the bytes of every part, every manifest, every row of every
ledger. Tables are read by their columns' names, without the stages that wrote them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.arms import CAPTION_FOLDERS
from launch.errors import ArtifactError
from launch.manifest import Manifest, digest_file, read_manifest
from launch.progress import Progress
from launch.trace import Step, locate, printable, read_steps, shown_rows

LEDGER = "ledger.parquet"
"""Table of a model's folder with one row per training step."""

CAPTION_SETTINGS = frozenset({"arm", "caption_mix"})
"""Settings in which arms of a study may differ."""

SHARED_COLUMNS = ("step", "samples_seen", "epoch", "shared_hash", "num_dropped", "tensor_hash")
"""Columns of a ledger that must agree in every row between arms of one seed."""

MAX_DEVIATION = 5.0
"""Standard deviations by which a realised share may miss the configured one; chance passes this
once in two million."""

NUM_SHOWN = 20
"""Failures that are printed; the rest are counted."""


@dataclass
class Findings:
    """What was looked at, and what was wrong."""

    failures: list[str] = field(default_factory=list)
    """One message each: where, what was found, what was expected."""

    notes: list[str] = field(default_factory=list)
    """What could not be looked at."""

    def fail(self, where: Path | str, message: str) -> None:
        """Note a failure."""
        self.failures.append(f"{printable(str(where))}: {message}")


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What a model's training steps recorded, by column."""

    arm: str
    """Name of the arm."""

    made: Manifest
    """The model."""

    columns: dict[str, list[Any]]
    """Column -> value per step."""


def verify(folder: Path) -> int:
    """Check a study or one artifact, and print a short account.

    Args:
        folder: A study's folder (with `plan.json`) or an artifact's.

    Returns:
        0, or 1 when something is wrong; the first failures are named.

    Raises:
        ArtifactError: The folder is neither.
    """
    steps = read_steps(folder)
    if steps is None:
        read_manifest(folder)  # speaks for itself if this is no artifact at all
        steps = [Step(name=folder.resolve().name, folder=folder)]
    findings = Findings()
    manifests = _check_manifests(steps, findings)
    _check_parts(list(manifests.values()), findings)
    for made in manifests.values():
        _check_rows(made, findings)
        _check_inputs(made, findings)
    _print_artifacts(steps, manifests)
    ledgers = _read_ledgers(manifests, findings)
    _check_pairs(ledgers, findings)
    _print_mixes(ledgers, findings)
    return _conclude(findings, manifests=manifests, ledgers=ledgers)


def refuse_unpaired(models: Mapping[str, Path]) -> None:
    """Refuse models of one seed that did not see the same pictures, noise, timesteps and dropout.

    Args:
        models: Name of a step (`train[dsc,0]`) -> folder of its model; other artifacts are passed
            over.

    Raises:
        ArtifactError: Naming the first difference.
    """
    findings = Findings()
    manifests = {name: read_manifest(folder) for name, folder in models.items()}
    _check_pairs(_read_ledgers(manifests, findings), findings)
    if findings.failures:
        more = len(findings.failures) - 1
        raise ArtifactError(
            f"{findings.failures[0]}" + (f" (and {more:,} more)" if more else "") + ". Their "
            "difference is not one of captions alone; train the arms on the same pictures."
        )


def _check_manifests(steps: Sequence[Step], findings: Findings) -> dict[str, Manifest]:
    """Return step name -> manifest of the complete steps."""
    found = {}
    for step in steps:
        try:
            found[step.name] = read_manifest(step.folder)
        except ArtifactError as error:
            findings.failures.append(f"{step.name}: {error}")
    return found


def _check_parts(manifests: Sequence[Manifest], findings: Findings) -> None:
    """Compare every part's bytes with its digest."""
    total = sum(len(made.parts) for made in manifests)
    with Progress(total, label="verify", unit="part") as progress:
        for made in manifests:
            for part in made.parts:
                path = made.folder / part.name
                if not path.is_file():
                    findings.fail(path, "absent, but the manifest lists it")
                elif path.stat().st_size != part.num_bytes:
                    findings.fail(
                        path,
                        f"has {path.stat().st_size:,} bytes, the manifest says {part.num_bytes:,}",
                    )
                elif (present := digest_file(path)) != part.digest:
                    findings.fail(
                        path, f"its bytes have digest {present}, the manifest says {part.digest}"
                    )
                progress.advance(1)


def _check_rows(made: Manifest, findings: Findings) -> None:
    """Rows in and rows added are rows out and rejected ones, where an artifact counts them."""
    counts, rejected = made.counts, sum(made.rejected.values())
    if any(count < 0 for count in [*counts.values(), *made.rejected.values()]):
        findings.fail(made.folder, "a count in the manifest is negative")
    if "rows_in" in counts and "rows_out" in counts:
        rows_in, rows_out = counts["rows_in"], counts["rows_out"]
        added = counts.get("rows_added", 0)
        if rows_in + added != rows_out + rejected:
            more = f", {added:,} were added" if added else ""
            findings.fail(
                made.folder,
                f"{rows_in:,} rows went in{more}, {rows_out:,} came out and {rejected:,} were "
                f"rejected; {abs(rows_in + added - rows_out - rejected):,} rows are not accounted "
                "for",
            )


def _check_inputs(made: Manifest, findings: Findings) -> None:
    """What an artifact was made from is still what lies there."""
    for source in made.inputs:
        place = locate(made, source)
        if place is None:
            continue  # not an artifact, or kept elsewhere: there is nothing to compare
        try:
            present = read_manifest(place).digest
        except ArtifactError as error:
            findings.failures.append(str(error))
            continue
        if present != source.digest:
            findings.fail(
                made.folder,
                f"was made from {source.role} {source.digest}, but {printable(str(place))} is "
                f"{present} now",
            )


def _read_ledgers(
    manifests: Mapping[str, Manifest], findings: Findings
) -> dict[tuple[str, object], list[Ledger]]:
    """Return (step, seed) -> ledgers of its arms."""
    groups: dict[tuple[str, object], list[Ledger]] = {}
    for name, made in manifests.items():
        if made.artifact != "model":
            continue
        columns = _read_ledger(made, findings)
        if columns is None:
            continue
        arm = str(made.config.get("arm", name))
        key = (name.partition("[")[0], made.config.get("seed"))
        groups.setdefault(key, []).append(Ledger(arm=arm, made=made, columns=columns))
    return groups


def _read_ledger(made: Manifest, findings: Findings) -> dict[str, list[Any]] | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = made.folder / LEDGER
    if LEDGER not in {part.name for part in made.parts}:
        findings.fail(path, "not among the model's parts, so its pairing cannot be proved")
        return None
    try:
        columns: dict[str, list[Any]] = pq.ParquetFile(path).read().to_pydict()
        steps, hashes = columns["step"], columns["shared_hash"]
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        findings.fail(path, f"cannot be read as a ledger ({error})")
        return None
    if not steps or steps != list(range(steps[0], steps[0] + len(steps))):
        findings.fail(path, "its steps are not consecutive; every step must have one row")
        return None
    if any(not value for value in hashes):
        findings.fail(path, "a step has no shared_hash")
        return None
    return columns


def _check_pairs(groups: Mapping[tuple[str, object], list[Ledger]], findings: Findings) -> None:
    """Arms of one seed saw the same pictures, noise, timesteps and dropout in every step."""
    for arms in groups.values():
        first = arms[0]
        for other in arms[1:]:
            _check_pair(first, other, findings)


def _check_pair(first: Ledger, other: Ledger, findings: Findings) -> None:
    pair = f"{other.made.folder} against {first.made.folder}"
    for name in sorted(first.made.recipe.keys() | other.made.recipe.keys()):
        ours, theirs = first.made.recipe.get(name), other.made.recipe.get(name)
        if name not in CAPTION_SETTINGS and ours != theirs:
            findings.fail(
                pair, f"arms may differ in captions alone, but {name} is {theirs!r} and {ours!r}"
            )
    ours, theirs = _shared_inputs(first.made), _shared_inputs(other.made)
    if ours != theirs:
        roles = sorted({role for role, _ in ours ^ theirs})
        findings.fail(pair, f"arms may differ in captions alone, but read other {', '.join(roles)}")
    for name in SHARED_COLUMNS:
        if (name in first.columns) != (name in other.columns):
            findings.fail(pair, f"only one of the ledgers has a column {name}")
            continue
        ours, theirs = first.columns.get(name, []), other.columns.get(name, [])
        if ours == theirs:
            continue
        if len(ours) != len(theirs):
            findings.fail(pair, f"{len(theirs):,} steps and {len(ours):,}; arms must have as many")
            return
        rows = [row for row, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        step = first.columns["step"][rows[0]]
        findings.fail(
            pair,
            f"not paired: {name} differs in {len(rows):,} of {len(ours):,} steps, first in step "
            f"{step}; the arms did not train on the same draws",
        )


def _shared_inputs(made: Manifest) -> set[tuple[str, str]]:
    return {(i.role, i.digest) for i in made.inputs if i.role not in CAPTION_FOLDERS}


def _print_artifacts(steps: Sequence[Step], manifests: Mapping[str, Manifest]) -> None:
    rows = [["step", "artifact", "digest", "parts", "MiB", "rows", "rejected"]]
    for step in steps:
        made = manifests.get(step.name)
        if made is None:
            rows.append([step.name, "INCOMPLETE", "", "", "", "", ""])
            continue
        rows.append(
            [
                step.name,
                made.artifact,
                made.digest[:12],
                f"{len(made.parts):,}",
                f"{made.num_bytes / 2**20:,.1f}",
                shown_rows(made),
                f"{sum(made.rejected.values()):,}",
            ]
        )
    print_table(rows)


def _print_mixes(groups: Mapping[tuple[str, object], list[Ledger]], findings: Findings) -> None:
    """Print realised shares beside configured ones, and refuse what chance cannot explain."""
    rows = [["arm", "seed", "kind", "configured", "realised", "captions", "deviation"]]
    for (_, seed), arms in groups.items():
        for ledger in arms:
            drawn = _drawn(ledger, findings)
            mix = ledger.made.config.get("caption_mix")
            if drawn is None or not isinstance(mix, Mapping):
                continue
            total = drawn.total()
            for kind in dict.fromkeys([*mix, *drawn]):
                share = float(mix.get(kind, 0.0))
                found = drawn[kind] / total if total else 0.0
                sigmas = _deviation(found, share, total)
                rows.append(
                    [
                        ledger.arm,
                        str(seed),
                        kind,
                        f"{share:.2%}",
                        f"{found:.2%}",
                        f"{drawn[kind]:,}",
                        f"{sigmas:+.1f} sd",
                    ]
                )
                if abs(sigmas) > MAX_DEVIATION:
                    findings.fail(
                        ledger.made.folder / LEDGER,
                        f"{found:.2%} of the captions are {kind}, configured are {share:.2%}; "
                        "chance does not explain it",
                    )
    if len(rows) > 1:
        print()
        print_table(rows)


def _drawn(ledger: Ledger, findings: Findings) -> Counter[str] | None:
    """Return kind -> captions drawn in all steps."""
    if "kinds" not in ledger.columns:
        findings.notes.append(f"{ledger.made.folder}: the ledger does not count kinds")
        return None
    drawn: Counter[str] = Counter()
    for step, text in zip(ledger.columns["step"], ledger.columns["kinds"], strict=True):
        try:
            drawn.update({kind: int(num) for kind, num in json.loads(text).items()})
        except (ValueError, TypeError, AttributeError):
            findings.fail(
                ledger.made.folder / LEDGER,
                f"step {step}: kinds is {text!r}, expected JSON of kind -> captions",
            )
            return None
    return drawn


def _deviation(found: float, share: float, total: int) -> float:
    """Return the distance of a realised share from its expectation, in standard deviations."""
    if found == share or not total:
        return 0.0
    spread = math.sqrt(share * (1 - share) / total)
    return (found - share) / spread if spread > 0 else math.copysign(math.inf, found - share)


def _conclude(
    findings: Findings,
    *,
    manifests: Mapping[str, Manifest],
    ledgers: Mapping[tuple[str, object], list[Ledger]],
) -> int:
    print()
    for note in findings.notes:
        print(f"note: {note}")
    if findings.failures:
        print(f"verify: {len(findings.failures):,} failures")
        for failure in findings.failures[:NUM_SHOWN]:
            print(f"  {failure}")
        if len(findings.failures) > NUM_SHOWN:
            print(f"  and {len(findings.failures) - NUM_SHOWN:,} more")
        return 1
    num_parts = sum(len(made.parts) for made in manifests.values())
    print(
        f"verify: {len(manifests):,} artifacts complete, {num_parts:,} parts equal their digests, "
        "rows conserved"
    )
    pairs = [(seed, arms) for (_, seed), arms in ledgers.items() if len(arms) > 1]
    for seed, arms in pairs:
        num_steps = len(arms[0].columns["step"])
        names = ", ".join(ledger.arm for ledger in arms)
        print(f"verify: seed {seed}: {names} are paired in all {num_steps:,} steps")
    return 0


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows as aligned columns of plain text, the first row being the head."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())
