"""Names and versions of the artifacts of stage 2, identities, and how a table is opened.

N texts or rows
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from launch import identities
from launch.errors import ArtifactError
from recap.artifacts import TEXT_ENCODER

AUTOENCODER = "autoencoder"
LATENTS = "latents"
TEXT_STATES = "text_states"
MODEL = "model"
PROMPTS = "prompts"
REWRITER = "rewriter"
GENERATIONS = "generations"

VERSIONS: dict[str, int] = {
    AUTOENCODER: 1,
    TEXT_ENCODER: 1,
    LATENTS: 1,
    TEXT_STATES: 2,
    MODEL: 1,
    PROMPTS: 1,
    REWRITER: 1,
    GENERATIONS: 1,
}
"""Version of each artifact that this code writes and reads."""


def schema_of(artifact: str, fields: Iterable[pa.Field]) -> pa.Schema:
    """Return a schema that carries its contract's name and version."""
    return pa.schema(
        list(fields),
        metadata={
            "captionmix.artifact": artifact,
            "captionmix.version": str(VERSIONS[artifact]),
        },
    )


def text_digests(texts: Iterable[str]) -> NDArray[Any]:
    """Return the digests of some texts, packed (`launch.identities`)."""
    found = b"".join(blake2b(text.encode("utf-8"), digest_size=16).digest() for text in texts)
    return np.frombuffer(found, identities.PACKED)


def text_digest(text: str) -> str:
    """Return the 32 hexadecimal digits by which a text is known (BLAKE2b-128 of its UTF-8)."""
    return blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def _identity(*words: object) -> str:
    # JSON of a list: no two different lists of words have the same text.
    return text_digest(json.dumps(words, ensure_ascii=False))


def pair_id_of(*, name: str, key: str) -> str:
    """Return the identity of a prompt list's item: BLAKE2b-128 of the list's name and its key."""
    return _identity(name, key)


def prompt_id(*, style: str, pair_id: str, prompt: str) -> str:
    """Return the identity of a prompt: BLAKE2b-128 of its style, pair and text."""
    return _identity(style, pair_id, prompt)


def generation_id(
    *, model_digest: str, samples_seen: int, prompt_id: str, seed: int, recipe: str
) -> str:
    """Return the identity of a generation: of the model, prompt, noise and solver that made it."""
    return _identity(model_digest, samples_seen, prompt_id, seed, recipe)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of the contract `schema`, refusing another one by name."""
    table = open_table(path, schema).read()
    for field in schema:
        if field.name not in table.column_names:  # younger than the file
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def open_table(path: Path, schema: pa.Schema) -> pq.ParquetFile:
    """Open a table of the contract `schema`, refusing another one by name."""
    try:
        # Not `read_table`: it takes a folder name like `style=alt` above for a partition.
        file = pq.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: the manifest is there, this table is not; make it again"
        ) from (None)
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path}: not a readable parquet file ({error})") from error
    stored = file.schema_arrow
    found = {field.name: field.type for field in stored}
    metadata = stored.metadata or {}
    contract = {key: metadata.get(key) for key in (b"captionmix.artifact", b"captionmix.version")}
    # Further columns are welcome: a nullable one may be added without a new version.
    if contract != {key: schema.metadata[key] for key in contract} or any(
        found.get(field.name, field.type if field.nullable else None) != field.type
        for field in schema
    ):
        raise ArtifactError(
            f"{path}: has the columns {', '.join(found)} of {contract}, expected "
            f"{', '.join(schema.names)} of {schema.metadata}; make it again with this version"
        )
    return file


def read_arrays(
    file: pq.ParquetFile, identity: str, *numbers: str, where: Path
) -> list[NDArray[Any]]:
    """Read a column of identities, packed, and columns of whole numbers, block by block."""
    num_rows = file.metadata.num_rows
    arrays: list[NDArray[Any]] = [np.empty(num_rows, identities.PACKED)]
    arrays += [np.empty(num_rows, np.int64) for _ in numbers]
    start = 0
    for block in file.iter_batches(columns=[identity, *numbers]):
        here = slice(start, start + len(block))
        arrays[0][here] = identities.packed(block[identity], where=str(where))
        for array, name in zip(arrays[1:], numbers, strict=True):
            array[here] = block[name].to_numpy()
        start = here.stop
    return arrays
