"""One run of one verb in one folder: create, lock, resume or refuse, record, finish.

A verb opens its inputs, refuses what is wrong, calls `start`, works, and calls `finish`. Nothing
is written before `start`, and the folder counts only after `finish`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import manifest as manifests
from launch.config import comparable, differences, recipe_of, to_plain
from launch.errors import ConfigError, InputError
from launch.manifest import RUN_LOG, SCRATCH, Input, Manifest
from launch.processes import rank, wait_for_everyone

if TYPE_CHECKING:
    from filelock import FileLock

    from launch.progress import Progress

PACKAGES = (
    "captionmix",
    "accelerate",
    "datasets",
    "diffusers",
    "numpy",
    "open_clip_torch",
    "pillow",
    "pyarrow",
    "timm",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose version can change a number."""


@dataclass
class Run:
    """The folder that a verb fills, and everything known about how."""

    out: Path
    """Folder of the artifact."""

    verb: str
    """Stage and verb, for example `recap ingest`."""

    config: Any
    """The verb's configuration, a frozen dataclass."""

    is_dry: bool = False
    """Stop after the plan."""

    command: str = ""
    """Command line, for the manifest."""

    inputs: list[Input] = field(default_factory=list)
    """Inputs so far, in the order they were opened."""

    input_manifests: dict[str, Manifest] = field(default_factory=dict)
    """Manifests of the inputs by role, the last one of a role."""

    recipe: dict[str, Any] = field(default_factory=dict)
    """Settings that shape the payload; set by `start`."""

    _lock: FileLock | None = None
    _began: float = field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone speaks and writes manifests."""
        return rank() == 0

    @property
    def name(self) -> str:
        """The verb alone, for progress lines."""
        return self.verb.split()[-1]

    def input(self, role: str, folder: Path, *, artifact: str, version: int = 1) -> Manifest:
        """Read and check an input artifact's manifest and note its digest."""
        found = manifests.read_manifest(folder, artifact=artifact, version=version)
        self.external_input(role, folder, found.digest)
        self.input_manifests[role] = found
        return found

    def external_input(self, role: str, path: Path | str, digest: str) -> None:
        """Note an input that is not an artifact, by the digest of what it held."""
        self.inputs.append(Input(role=role, path=str(path), digest=digest))

    def start(
        self,
        plan: dict[str, object],
        *,
        recipe: dict[str, Any] | None = None,
        minutes: float | None = None,
        gib: float | None = None,
    ) -> bool:
        """Print the plan, lock the folder, and say whether there is work to do.

        Args:
            plan: What will be done, in the reader's words: sizes, steps, counts.
            recipe: Settings beyond the configuration that shape the payload.
            minutes: Predicted time.
            gib: Predicted disk use; more than is free is refused.

        Returns:
            False after a dry run's plan, or when the folder is already complete.

        Raises:
            ConfigError: The folder was begun with other settings or inputs.
            InputError: Another process works in the folder, or the disk is too small.
        """
        self.recipe = {"verb": self.verb, **recipe_of(self.config), **(recipe or {})}
        if self.is_main:
            self._print_plan(plan, minutes=minutes, gib=gib)
        if self.is_dry:
            return False
        free = manifests.free_gib(self.out)
        if gib is not None and gib > free:
            raise InputError(
                f"{self.out}: needs about {gib:.2f} GiB and {free:.2f} GiB are free. "
                "Free some space or choose another --out."
            )
        if not self.is_main:
            wait_for_everyone()  # until rank 0 has looked at the folder and begun
        self._refuse_changes()
        if manifests.is_complete(self.out):
            if self.is_main:
                tidy(self.out)
                print(f"{self.verb}: {self.out} is complete")
                wait_for_everyone()
            return False
        if self.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            for left in self.out.rglob(".*.tmp"):  # a killed process's half-written files
                left.unlink(missing_ok=True)
            state = {"recipe": self.recipe, "inputs": [[i.role, i.digest] for i in self.inputs]}
            manifests.write_json(self.out / "begun.json", state)
            self._write_config()
            self.log(
                "started",
                command=self.command,
                host=platform.node(),
                cpus=os.cpu_count(),
                python=platform.python_version(),
            )
            wait_for_everyone()
        return True

    def progress(self, total: int, *, label: str | None = None, unit: str = "img") -> Progress:
        """Return a progress bar on a terminal, one line per interval elsewhere."""
        from launch.progress import Progress

        return Progress(
            total, label=label or self.name, unit=unit, log=self.log, is_quiet=not self.is_main
        )

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to `run.log.jsonl`, which lies outside every digest."""
        if not self.is_main:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=str)
        with (self.out / RUN_LOG).open("a") as file:
            file.write(line + "\n")

    def finish(
        self,
        *,
        artifact: str,
        version: int = 1,
        counts: dict[str, int],
        rejected: dict[str, int] | None = None,
        parts: Iterable[Path | str],
        recipe: dict[str, Any] | None = None,
    ) -> Manifest | None:
        """Digest the payload and write the manifest last; from here on the folder is complete."""
        if not self.is_main:
            return None
        names = [str(p.relative_to(self.out) if isinstance(p, Path) else p) for p in parts]
        commit, dirty = _commit()
        done = Manifest(
            artifact=artifact,
            version=version,
            recipe={**self.recipe, **(recipe or {})},
            inputs=self.inputs,
            counts=counts,
            rejected={k: v for k, v in (rejected or {}).items() if v},
            parts=manifests.describe_parts(self.out, names),
            command=self.command,
            commit=commit,
            dirty=dirty,
            packages=_packages(),
            config=to_plain(self.config),
            folder=self.out,
        )
        seconds = time.monotonic() - self._began
        self.log("finished", seconds=round(seconds, 1), bytes=done.num_bytes, peak_gib=_peak_gib())
        manifests.write_manifest(self.out, done)
        tidy(self.out)
        shown = ", ".join(f"{k} {v:,}" for k, v in counts.items())
        lost = ", ".join(f"{k} {v:,}" for k, v in done.rejected.items())
        print(
            f"{self.verb}: done in {seconds:.0f} s  {shown}"
            + (f"  rejected: {lost}" if lost else "")
            + f"  -> {self.out}",
            flush=True,
        )
        self.close()
        return done

    def close(self) -> None:
        """Let go of the lock, if it was taken."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _print_plan(
        self, plan: dict[str, object], *, minutes: float | None, gib: float | None
    ) -> None:
        lines = [f"{self.verb} -> {self.out}"]
        lines += [f"  {i.role}: {i.path} ({i.digest[:12]})" for i in self.inputs]
        lines += [f"  {k}: {v:,}" if isinstance(v, int) else f"  {k}: {v}" for k, v in plan.items()]
        if minutes is not None:
            lines.append(f"  predicted time: {minutes:.1f} min")
        if gib is not None:
            lines.append(f"  predicted disk: {gib:.2f} GiB")
        print("\n".join(lines), flush=True)

    def _refuse_changes(self) -> None:
        """Stop when the folder was begun or finished with other settings or inputs."""
        begun = self.out / "begun.json"
        if manifests.is_complete(self.out):
            done = manifests.read_manifest(self.out)
            # `finish` may have added to the recipe; what it added is not a change.
            extra = {k: v for k, v in done.recipe.items() if k in self.recipe}
            recipe = {**extra, **comparable(done.recipe, self.config)}
            old = {"recipe": recipe, "inputs": sorted([i.role, i.digest] for i in done.inputs)}
        elif begun.is_file():
            raw = json.loads(begun.read_text())
            old = {"recipe": raw["recipe"], "inputs": sorted(raw["inputs"])}
        elif self.out.is_dir() and any(
            p.name not in {".lock", RUN_LOG, "config.yaml"} and not p.match(".*.tmp")
            for p in self.out.iterdir()
        ):
            raise InputError(
                f"{self.out}: holds files that captionmix did not begin; expected an empty or new "
                "folder. Choose another --out."
            )
        else:
            return
        new = {
            "recipe": json.loads(json.dumps(self.recipe)),
            "inputs": sorted([i.role, i.digest] for i in self.inputs),
        }
        changed = differences(old, new)
        if changed:
            raise ConfigError(
                f"{self.out}: was begun with other settings; a folder holds one recipe.\n  "
                + "\n  ".join(changed)
                + "\nGive the old values, choose another --out, or delete the folder."
            )

    def _take_lock(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(self.out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.out}: another process is working in this folder. Wait for it, or stop it."
            ) from None
        self._lock = lock

    def _write_config(self) -> None:
        import yaml

        # Inputs relative to this folder: a tree of artifacts may move, or be compared with another.
        tree = _relative(self.config, self.out)
        text = yaml.safe_dump(tree, sort_keys=False)
        manifests.write_bytes(self.out / "config.yaml", text.encode())


def tidy(folder: Path) -> None:
    """Remove what only unfinished work needs from a complete folder."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    (folder / "begun.json").unlink(missing_ok=True)


SOURCES = frozenset({"source", "captioner", "rewriter"})
"""Roles of inputs that may be no artifact; the verb says what they hold now."""


def refuse_stale(folder: Path, *, verb: str, config: Any, source: str | None = None) -> None:
    """Refuse a complete folder that the same command would fill otherwise now.

    Args:
        folder: Folder of an artifact, complete or not.
        verb: Stage and verb.
        config: The verb's configuration as it is now.
        source: Digest, as it is now, of an input that is no artifact.

    Raises:
        ConfigError: Settings, defaults included, or inputs have changed; each is shown.
    """
    if not manifests.is_complete(folder):
        return
    done = manifests.read_manifest(folder)
    new = json.loads(json.dumps({"verb": verb, **recipe_of(config)}))
    changed = differences(comparable(done.recipe, config), new)
    for was in done.inputs:
        path, now = Path(was.path), None
        if manifests.is_complete(path) and was.role != "source":
            now = manifests.read_manifest(path).digest
        elif was.role in SOURCES:
            now = source
        if now is not None and now != was.digest:
            changed.append(f"{was.role} {was.path}: {was.digest[:12]} -> {now[:12]}")
    if changed:
        raise ConfigError(
            f"{folder}: is complete, but was made from other settings or inputs than this command "
            "has now.\n  " + "\n  ".join(changed) + "\nDelete the folder to make it anew, or "
            "give the study another --out to keep both."
        )


def _relative(value: Any, folder: Path) -> Any:
    """Return a dataclass tree as plain data, with paths written relative to `folder`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        return {name: _relative(getattr(value, name), folder) for name in names}
    if isinstance(value, list):
        return [_relative(v, folder) for v in value]
    if isinstance(value, dict):
        return {str(name): _relative(v, folder) for name, v in value.items()}
    if isinstance(value, Path):
        # What lies nowhere is a name, such as that of public weights.
        return os.path.relpath(value, folder) if value.exists() else str(value)
    return to_plain(value)


def _commit() -> tuple[str | None, bool | None]:
    """Return commit and dirty flag of the checkout that this code lies in, if any."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return None, None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(home), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _packages() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _peak_gib() -> float:
    import resource

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(max(kib, below) / 2**20, 3)
