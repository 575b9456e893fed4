"""Names and version of the folders of stage 1, and tables that carry their contract."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from launch.errors import ArtifactError

IMAGES: Final = "images"
CAPTIONS: Final = "captions"
CAPTIONER: Final = "captioner"
TAGGER: Final = "tagger"
TEXT_ENCODER: Final = "text_encoder"
VERSION: Final = 1
"""Version of all five contracts."""
STRINGS: Final = pa.list_(pa.field("element", pa.string(), nullable=False))


def schema_of(name: str, fields: Iterable[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    """Make a schema that carries its contract; the third of each triple says "may be null"."""
    metadata = {"captionmix.artifact": name, "captionmix.version": str(VERSION)}
    return pa.schema([pa.field(n, t, nullable=null) for n, t, null in fields], metadata=metadata)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a parquet file that must have a schema of this module.

    Raises:
        ArtifactError: It is absent or has other columns or another version.
    """
    check_schema(path, schema)
    return pq.read_table(path)


def check_schema(path: Path, schema: pa.Schema) -> None:
    """Read the foot of a parquet file that must have a schema of this module.

    Raises:
        ArtifactError: It is absent or has other columns or another version.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; the folder is not complete. Make it again.")
    stored = pq.read_schema(path)
    found = stored.remove_metadata()
    metadata = {k: v for k, v in (stored.metadata or {}).items() if k in schema.metadata}
    if not found.equals(schema.remove_metadata()) or metadata != schema.metadata:
        raise ArtifactError(
            f"{path}: has columns {', '.join(found.names)} of {metadata or 'no contract'}, "
            f"expected {', '.join(schema.names)} of {schema.metadata}. Make the folder again."
        )
