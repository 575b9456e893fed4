"""What `rewriter=` names, and the digest of what it is; weights are not loaded. Torch-free."""

from __future__ import annotations

from pathlib import Path

from launch.components import Component, locate
from launch.errors import ConfigError
from launch.manifest import digest_bytes, digest_file, is_complete
from t2i.artifacts import REWRITER
from t2i.config import UpsampleConfig

GGUF = ".gguf"


def find_rewriter(source: Path) -> Component:
    """Find a rewriter and digest it: an artifact of ours, a folder, a GGUF file or a hub id."""
    if source.suffix == GGUF:
        if not source.is_file():
            raise ConfigError(f"{source}: no such file; give the GGUF file's own path")
        beside = sorted(p for p in source.parent.iterdir() if p.suffix in {".json", ".jinja"})
        lines = [f"{path.name} {digest_file(path)}" for path in (source, *beside)]
        return Component(str(source), digest_bytes("\n".join(lines).encode()))
    return locate(source, artifact=REWRITER)


def source_digest(cfg: UpsampleConfig) -> str | None:
    """Return the digest of a rewriter that is no artifact of ours, as it lies here now.

    None for an artifact, a server and a hub id: no hub is asked.
    """
    source = cfg.rewriter
    if source is None or not source.exists() or is_complete(source):
        return None
    return find_rewriter(source).digest
