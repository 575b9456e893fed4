"""Small artifacts, made without the stages that would make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch.manifest import (
    Input,
    Manifest,
    describe_parts,
    read_manifest,
    write_bytes,
    write_manifest,
    write_parquet,
)

MakeArtifact = Callable[..., Manifest]


@pytest.fixture
def make_artifact() -> MakeArtifact:
    """Give a function that writes a complete artifact and returns its manifest."""

    def make(
        folder: Path,
        artifact: str = "images",
        *,
        inputs: Mapping[str, Manifest | Input] | None = None,
        files: Mapping[str, bytes] | None = None,
        tables: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Manifest:
        for name, data in (files or {}).items():
            write_bytes(folder / name, data)
        for name, table in (tables or {}).items():
            write_parquet(folder / name, table)
        given = [
            Input(role=role, path=str(made.folder), digest=made.digest)
            if isinstance(made, Manifest)
            else made
            for role, made in (inputs or {}).items()
        ]
        made = Manifest(
            **{
                "artifact": artifact,
                "version": 1,
                "recipe": {},
                "inputs": given,
                "counts": {"rows_in": 3, "rows_out": 3},
                "rejected": {},
                "parts": describe_parts(folder, [*(files or {}), *(tables or {})]),
                "command": f"python -m recap {artifact}",
                **fields,
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, made)
        return read_manifest(folder)

    return make
