"""What this machine has, what stands in our way, and what would have to be installed for more."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "captionmix"
NAMES = ("configs", "eval", "launch", "recap", "t2i")
"""Our top-level packages; some of the names are common."""

_ROOT = Path(__file__).resolve().parents[1]


def doctor() -> int:
    """Print what there is and what is missing.

    Returns:
        0, or 1 when another distribution stands in the way of our packages.
    """
    for name, value in [*_machine(), *_torch()]:
        print(f"{name:<10} {value}")
    print()
    faults = shadows()
    for fault in faults:
        print(f"FAULT: {fault}")
    if not faults:
        print(f"{', '.join(NAMES)}: nothing else installed has these names")
    print()
    for extra in extras():
        print(extra.line())
    return 1 if faults else 0


def _machine() -> list[tuple[str, str]]:
    total, available = _memory_gib()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        ("captionmix", f"{_version(DISTRIBUTION) or 'not installed'}, in {_ROOT}"),
        ("python", f"{platform.python_version()}, {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("cores", _cores()),
        ("memory", f"{total:.1f} GiB, {available:.1f} GiB of it available"),
        ("disk", f"{free:.1f} GiB free in {Path.cwd()}"),
    ]


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota()
    words = f"{usable} usable"
    # A container may be allowed less time than the cores it sees; more threads then only wait.
    return words if quota is None else f"{words}, but only the time of {quota:g} (container limit)"


def _quota() -> float | None:
    """Return the cores' worth of time that a container may use, if limited (cgroup 2)."""
    path = Path("/sys/fs/cgroup/cpu.max")
    if not path.is_file():
        return None
    limit, _, period = path.read_text().strip().partition(" ")
    return None if limit == "max" or not period else int(limit) / int(period)


def _memory_gib() -> tuple[float, float]:
    """Return total and available memory, the container's where it is smaller."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    available = os.sysconf("SC_AVPHYS_PAGES") * page
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        # Pages that only cache files are given up when needed; Linux counts them here.
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        available = int(found.group(1)) * 1024 if found else available
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        most = int(limit.read_text())
        total, available = min(total, most), min(available, most - used)
    return total / 2**30, available / 2**30


def _torch() -> list[tuple[str, str]]:
    try:
        import torch
    except ImportError as error:
        return [("torch", f"cannot be imported ({error}); {_pip('')}")]
    found = [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads by default")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            size = device.total_memory / 2**30
            found.append(("device", f"cuda:{index} {device.name}, {size:.0f} GiB"))
        bf16 = "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    elif torch.backends.mps.is_available():
        found.append(("device", "mps (Apple); results are not compared with those of CUDA"))
        bf16 = "yes"
    else:
        found.append(("device", "cpu"))
        bf16 = "yes, in hardware" if _cpu_has_bf16() else "emulated, slower than float32"
    return [*found, ("bf16", bf16)]


def _cpu_has_bf16() -> bool:
    """Say whether the processor multiplies bfloat16 itself, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(path.read_text().split()))


def shadows(distributions: Mapping[str, Iterable[str]] | None = None) -> list[str]:
    """Return what is installed under our names, or found in place of our packages.

    Args:
        distributions: Top-level package -> distributions that bring it; by default, those here.
    """
    if distributions is None:
        distributions = metadata.packages_distributions()
    faults = []
    for name in NAMES:
        others = sorted(set(distributions.get(name, ())) - {DISTRIBUTION})
        for other in others:
            faults.append(
                f"the distribution {other!r} also installs a package {name!r}; use an environment "
                f"of its own for captionmix, or: {_python()} -m pip uninstall {other}"
            )
        place = _found_in(name)
        if place is None or place.resolve() != _ROOT / name:
            faults.append(
                f"`import {name}` finds {place or 'nothing'} and not {_ROOT / name}; start Python "
                "in an environment, and a folder, without another package of this name"
            )
    return faults


def _found_in(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    if places:
        return Path(places[0])
    return Path(spec.origin) if spec.origin else None


@dataclass(frozen=True, kw_only=True)
class Extra:
    """One optional set of dependencies."""

    name: str
    """What pip calls it."""

    present: list[str]
    """Distributions of it that are installed, with versions."""

    absent: list[str]
    """Distributions of it that are not."""

    def line(self) -> str:
        """Return one line: there, or how to install it."""
        start = f"extra {self.name:<9}"
        if not self.absent:
            return f"{start} {', '.join(self.present)}"
        return f"{start} absent: {', '.join(self.absent)}; {_pip(self.name)}"


def extras() -> list[Extra]:
    """Return the extras of this distribution and what is there of each."""
    found = []
    for name, needed in _requirements().items():
        versions = {package: _version(package) for package in needed}
        found.append(
            Extra(
                name=name,
                present=[f"{p} {v}" for p, v in versions.items() if v is not None],
                absent=[p for p, v in versions.items() if v is None],
            )
        )
    return found


def _requirements() -> dict[str, list[str]]:
    """Return extra -> names of its distributions, from what pip knows or from pyproject.toml."""
    project = _ROOT / "pyproject.toml"
    if project.is_file():
        import tomllib

        table = tomllib.loads(project.read_text())["project"].get("optional-dependencies", {})
        return {name: [_name(line) for line in lines] for name, lines in table.items()}
    found: dict[str, list[str]] = {}
    for line in metadata.requires(DISTRIBUTION) or []:
        match = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        if match:
            found.setdefault(match.group(1), []).append(_name(line))
    return found


def _name(requirement: str) -> str:
    """Return the distribution's name in `name[extra]>=1.0; marker`."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement.strip())
    return found.group(0) if found else requirement


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _pip(extra: str) -> str:
    bracket = f"[{extra}]" if extra else ""
    if (_ROOT / "pyproject.toml").is_file():
        what = f"-e {shlex.quote(f'{_ROOT}{bracket}')}"
    else:
        what = shlex.quote(f"{DISTRIBUTION}{bracket}")
    return f"install it with: {_python()} -m pip install {what}"


def _python() -> str:
    return shlex.quote(os.path.relpath(sys.executable) if _is_below() else sys.executable)


def _is_below() -> bool:
    return Path(sys.executable).is_relative_to(Path.cwd())
