"""Artifacts of stage 2: names, versions, table schemas, readers and writers.

What lies in each folder is said at its reader. Free of torch, so that a plan, `--help` and stage 3
open these folders at once.

N rows, R rows of latents, M wanted rows, H height, W width, C latent channels, h latent height,
w latent width, T text tokens, D text width
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int32, Int64, UInt8
from numpy.typing import NDArray
from PIL import Image

from launch import identities
from launch.errors import ArtifactError
from launch.manifest import Manifest, read_manifest, write_parquet
from recap.artifacts import TEXT_ENCODER as TEXT_ENCODER
from recap.artifacts import write_shard

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

STATES_FILE, TOKENS_FILE = "states.bin", "tokens.bin"
TOKENS = "tokens"
"""What stands in place of a precision where token ids are kept instead of states."""

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
"""File name that diffusers gives to the weights of one component."""


def _schema(artifact: str, fields: Iterable[pa.Field]) -> pa.Schema:
    """Return a schema that carries its contract's name and version."""
    return pa.schema(
        list(fields),
        metadata={
            "captionmix.artifact": artifact,
            "captionmix.version": str(VERSIONS[artifact]),
        },
    )


PROMPTS_SCHEMA = _schema(
    PROMPTS,
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("claims", pa.string(), nullable=True),
        pa.field("category", pa.string(), nullable=True),
        pa.field("questions", pa.string(), nullable=True),
    ],
)

ITEMS_SCHEMA = _schema(
    PROMPTS,
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=True),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("rejected", pa.string(), nullable=True),
    ],
)
"""Where every item of a prompt list stood, and by which rule it became no prompt."""

NOTES_SCHEMA = _schema(
    PROMPTS,
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=True),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
)
"""What a prompt list holds that cannot be used as it is, though its prompt can."""

REWRITES_SCHEMA = _schema(
    PROMPTS,
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("original", pa.string(), nullable=False),
        pa.field("rewrite", pa.string(), nullable=False),
        pa.field("attempt", pa.int64(), nullable=False),
        pa.field(
            "rules", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False
        ),
    ],
)

GENERATIONS_SCHEMA = _schema(
    GENERATIONS,
    [
        pa.field("generation_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("style", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("samples_seen", pa.int64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
    ],
)

LATENTS_SCHEMA = _schema(
    LATENTS,
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ],
)

TEXT_STATES_SCHEMA = _schema(
    TEXT_STATES,
    [
        pa.field("text_digest", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ],
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


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of the contract `schema`, refusing another one by name."""
    table = _open_table(path, schema).read()
    for field in schema:
        if field.name not in table.column_names:  # younger than the file
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def _open_table(path: Path, schema: pa.Schema) -> pq.ParquetFile:
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


def _read_arrays(
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


# --------------------------------------------------------------------------- prompts


class Prompt(NamedTuple):
    """One row of a prompt table."""

    prompt_id: str
    prompt: str
    style: str
    pair_id: str
    claims: str | None
    """JSON of what the prompt text says, never more; None where no claims are known. A rewritten
    prompt of a list has those of the original, which its pictures are judged by."""

    category: str | None = None
    """Part of its list that it belongs to, by the list's own name."""

    questions: str | None = None
    """JSON of the questions that a picture of it is asked (`t2i.questions`)."""


@dataclass(frozen=True)
class Prompts:
    """A prompts artifact: `prompts.parquet`.

    Rows with one `pair_id` speak of the same picture in different styles. Of a public list there
    are also `items.parquet` and `notes.parquet`: where each item stood, and what was wrong with it.
    """

    manifest: Manifest
    table: pa.Table

    @property
    def styles(self) -> list[str]:
        """Return the styles, in the order in which they first appear."""
        return list(dict.fromkeys(self.table["style"].to_pylist()))

    @property
    def pair_ids(self) -> list[str]:
        """Return the pairs, each once, in the order of the table: a shorter choice nests."""
        return list(dict.fromkeys(self.table["pair_id"].to_pylist()))

    @cached_property
    def rows(self) -> list[Prompt]:
        """Return every row."""
        columns = (self.table[name].to_pylist() for name in Prompt._fields)
        return [Prompt(*row) for row in zip(*columns, strict=True)]

    @property
    def rewritten_from(self) -> dict[str, str]:
        """Return, for each style that rewrites another, that other one."""
        recipe = self.manifest.recipe
        found = dict(recipe.get("rewritten_before", {}))
        if recipe.get("verb") == "t2i upsample":
            found[recipe["name"]] = recipe["style"]
        if recipe.get("verb") == "t2i prompt-list":
            first, *others = self.styles
            found |= dict.fromkeys(others, first)
        return {style: of for style, of in found.items() if {style, of} <= set(self.styles)}

    def original_of(self, style: str) -> str:
        """Return the style in which somebody asked for what `style` says in other words."""
        of = self.rewritten_from
        while style in of:
            style = of[style]
        return style

    def asked_for(self) -> dict[str, str]:
        """Return by `prompt_id` what somebody asked for: of a rewrite, the original's words."""
        texts = {(row.pair_id, row.style): row.prompt for row in self.rows}
        original = {style: self.original_of(style) for style in self.styles}
        return {
            row.prompt_id: texts.get((row.pair_id, original[row.style]), row.prompt)
            for row in self.rows
        }

    def texts(self, style: str) -> dict[str, str]:
        """Return the prompts of one style by `pair_id`."""
        return {row.pair_id: row.prompt for row in self.rows if row.style == style}


def open_prompts(folder: Path) -> Prompts:
    """Open a prompts artifact."""
    manifest = read_manifest(folder, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    return Prompts(manifest, _read_table(Path(folder) / "prompts.parquet", PROMPTS_SCHEMA))


def write_prompts(path: Path, rows: Sequence[Prompt]) -> None:
    """Write `prompts.parquet`."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Prompt._fields]
    write_parquet(path, pa.table(columns, schema=PROMPTS_SCHEMA))


class Attempt(NamedTuple):
    """One text that a rewriter gave for a prompt."""

    pair_id: str
    original: str
    rewrite: str
    attempt: int
    """Counted from 1."""

    rules: tuple[str, ...]
    """Rules that it breaks; none means that it was taken."""


def write_attempts(path: Path, rows: Sequence[Attempt]) -> None:
    """Write `rewrites.parquet`, which lies beside the prompts that `t2i upsample` makes."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in Attempt._fields]
    write_parquet(path, pa.table(columns, schema=REWRITES_SCHEMA))


def read_attempts(path: Path) -> list[Attempt]:
    """Read `rewrites.parquet`."""
    table = _read_table(path, REWRITES_SCHEMA)
    columns = (table[name].to_pylist() for name in Attempt._fields)
    return [
        Attempt(pair_id, original, rewrite, attempt, tuple(rules))
        for pair_id, original, rewrite, attempt, rules in zip(*columns, strict=True)
    ]


# --------------------------------------------------------------------------- generations


class Member(NamedTuple):
    """Where one picture lies in its shard."""

    key: str
    offset: int
    num_bytes: int


class GenerationRow(NamedTuple):
    """One row of the index of generations."""

    generation_id: str
    prompt_id: str
    pair_id: str
    style: str
    seed: int
    samples_seen: int
    shard: str
    offset: int
    num_bytes: int
    key: str


def _png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    # Level 1: a generated picture is noise to zlib, and level 6 saves little for twice the time.
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def write_generation_shard(
    path: Path, *, keys: Sequence[str], pixels: Iterable[UInt8[np.ndarray, "H W 3"]]
) -> None:
    """Write pictures as PNG members of an uncompressed tar, whole or not at all.

    The bytes depend on keys and pixels alone: no time, owner or host is recorded.
    """
    named = zip(keys, pixels, strict=True)
    write_shard(path, ((f"{key}.png", _png(picture)) for key, picture in named))


def read_shard_members(path: Path) -> Iterator[Member]:
    """Yield where every picture of a shard lies, from the tar's own headers."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            yield Member(member.name.removesuffix(".png"), member.offset_data, member.size)


def write_generations_index(path: Path, rows: Iterable[GenerationRow]) -> None:
    """Write `index.parquet` of a generations artifact."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns = columns or [[] for _ in GenerationRow._fields]
    write_parquet(path, pa.table(columns, schema=GENERATIONS_SCHEMA))


@dataclass(frozen=True)
class Generations:
    """A generations artifact: `shards/*.tar` of PNG pictures and `index.parquet`.

    `manifest.recipe` names the model's `arm` and `model_seed`.
    """

    manifest: Manifest
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def arm(self) -> str:
        """Return the name of the model's arm."""
        return str(self.manifest.recipe["arm"])

    @property
    def model_seed(self) -> int:
        """Return the seed that the model was trained with."""
        return int(self.manifest.recipe["model_seed"])

    @property
    def samples_seen(self) -> list[int]:
        """Return the snapshots of the model that drew, earliest first; the last is the model."""
        return sorted(set(self.table["samples_seen"].to_pylist()))

    @cached_property
    def _places(self) -> tuple[list[str], Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        return (
            self.table["shard"].to_pylist(),
            self.table["offset"].to_numpy(),
            self.table["num_bytes"].to_numpy(),
        )

    def encoded(self, rows: Sequence[int] | Int64[np.ndarray, " N"]) -> list[bytes]:
        """Return the PNG bytes of some rows, in the order asked for."""
        shards, offsets, num_bytes = self._places
        files: dict[str, int] = {}
        pictures: list[bytes] = []
        try:
            for row in map(int, rows):
                shard = shards[row]
                if shard not in files:
                    files[shard] = os.open(self.manifest.folder / shard, os.O_RDONLY)
                picture = os.pread(files[shard], int(num_bytes[row]), int(offsets[row]))
                if len(picture) != num_bytes[row]:
                    raise ArtifactError(
                        f"{self.manifest.folder / shard}: ends at row {row} of index.parquet; "
                        "the shard was cut short, sample it again"
                    )
                pictures.append(picture)
        except FileNotFoundError as error:
            raise ArtifactError(f"{error.filename}: named in index.parquet, but absent") from None
        finally:
            for descriptor in files.values():
                os.close(descriptor)
        return pictures

    def pixels(self, rows: Sequence[int] | Int64[np.ndarray, " N"]) -> UInt8[np.ndarray, "N H W 3"]:
        """Return the pictures of some rows, in the order asked for; all have one size."""
        pictures = []
        for row, png in zip(rows, self.encoded(rows), strict=True):
            try:
                pictures.append(np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])))
            except (OSError, SyntaxError, ValueError) as error:
                raise ArtifactError(
                    f"{self.manifest.folder}: generation {self.table['generation_id'][int(row)]} "
                    f"cannot be read as a picture ({error}); sample it again"
                ) from error
        return np.stack(pictures) if pictures else np.zeros((0, 0, 0, 3), np.uint8)


def open_generations(folder: Path) -> Generations:
    """Open a generations artifact."""
    manifest = read_manifest(folder, artifact=GENERATIONS, version=VERSIONS[GENERATIONS])
    return Generations(manifest, _read_table(Path(folder) / "index.parquet", GENERATIONS_SCHEMA))


# --------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Model:
    """A model artifact: a folder for `CaptionmixPipeline.from_pretrained`, snapshots and ledger.

    `model_index.json`, `denoiser/`, `vae/`, `text_encoder/`, `tokenizer/`, `scheduler/`;
    `snapshots/<samples_seen>/` with the averaged denoiser weights of earlier moments;
    `ledger.parquet`, what every step trained on.
    """

    manifest: Manifest

    @property
    def folder(self) -> Path:
        """Return the folder that the pipeline loads."""
        return self.manifest.folder

    @property
    def arm(self) -> str:
        """Return the name of the arm."""
        return str(self.manifest.config["arm"])

    @property
    def model_seed(self) -> int:
        """Return the seed that the model was trained with."""
        return int(self.manifest.config["seed"])

    @property
    def samples_seen(self) -> int:
        """Return the pictures seen by the finished model."""
        return int(self.manifest.counts["samples_seen"])

    @cached_property
    def snapshots(self) -> dict[int, Path]:
        """Return the weight files of the moments before the last, by pictures seen."""
        files = {
            int(path.parent.name): path for path in self.folder.glob(f"snapshots/*/{WEIGHTS_NAME}")
        }
        return {seen: files[seen] for seen in sorted(files) if seen < self.samples_seen}


def open_model(folder: Path) -> Model:
    """Open a model artifact."""
    return Model(read_manifest(folder, artifact=MODEL, version=VERSIONS[MODEL]))


# --------------------------------------------------------------------------- caches


@dataclass(frozen=True)
class Latents:
    """A latents artifact: `mean.npy` and `std.npy`, memory-mapped, and `index.parquet`.

    The autoencoder's posterior of every picture, unscaled; a draw is mean + std * noise.
    """

    manifest: Manifest
    ids: NDArray[Any]
    """The pictures that have latents, packed (`launch.identities`), in index order."""

    row_of_id: Int64[np.ndarray, " N"]
    """Row of each in `mean` and `std`."""

    mean: Float[np.ndarray, "R C h w"]
    std: Float[np.ndarray, "R C h w"]

    def rows(self, wanted: NDArray[Any]) -> Int64[np.ndarray, " M"]:
        """Return the rows of some pictures, given by their packed identities.

        Raises:
            ArtifactError: A picture has no latents.
        """
        place = identities.find(wanted, among=self.ids, order=np.argsort(self.ids, kind="stable"))
        if (is_absent := place < 0).any():
            (first,) = identities.unpacked(wanted[is_absent][:1])
            raise ArtifactError(
                f"{self.manifest.folder}: {int(is_absent.sum()):,} of {len(wanted):,} pictures "
                f"have no latents, {first} first; encode the images artifact that is trained on"
            )
        rows: Int64[np.ndarray, " M"] = self.row_of_id[place]
        return rows


def open_latents(folder: Path) -> Latents:
    """Open a latents artifact; nothing is read until it is used."""
    manifest = read_manifest(folder, artifact=LATENTS, version=VERSIONS[LATENTS])
    path = Path(folder) / "index.parquet"
    index = _open_table(path, LATENTS_SCHEMA)
    ids, rows = _read_arrays(index, "sample_id", "row", where=path)
    mean = np.load(Path(folder) / "mean.npy", mmap_mode="r", allow_pickle=False)
    std = np.load(Path(folder) / "std.npy", mmap_mode="r", allow_pickle=False)
    if mean.shape != std.shape or len(mean) != len(ids):
        raise ArtifactError(
            f"{folder}: index.parquet has {len(ids):,} rows, mean.npy the shape {mean.shape} "
            f"and std.npy {std.shape}; they must agree, encode again"
        )
    return Latents(manifest, ids, rows, mean, std)


def write_latents_index(path: Path, sample_ids: Sequence[str]) -> None:
    """Write `index.parquet` of a latents artifact: picture i of the list lies in row i."""
    columns = [list(sample_ids), list(range(len(sample_ids)))]
    write_parquet(path, pa.table(columns, schema=LATENTS_SCHEMA))


@dataclass(frozen=True)
class TextStates:
    """A text states artifact: `states.bin` or `tokens.bin`, memory-mapped, and `index.parquet`.

    One run of `num_tokens` states, or token ids, per distinct text, unpadded and found by the
    digest of the text. Token ids are kept where states would be too large.
    """

    manifest: Manifest
    digests: NDArray[Any]
    """Digest of every text, packed (`launch.identities`), ascending."""

    offsets: Int64[np.ndarray, " N"]
    """First token of every text."""

    num_tokens: Int64[np.ndarray, " N"]
    """Length of every text."""

    values: Float[np.ndarray, "T D"] | Int32[np.ndarray, " T"]
    """The states, or the token ids."""

    width: int
    """Width of a state."""

    @property
    def holds_tokens(self) -> bool:
        """Say whether token ids are kept instead of states."""
        return self.values.ndim == 1

    def find(self, wanted: NDArray[Any]) -> Int64[np.ndarray, " M"]:
        """Return the index rows of some texts, given by packed digest; -1 where there is none."""
        return identities.find(wanted, among=self.digests)


def open_text_states(folder: Path) -> TextStates:
    """Open a text states artifact; nothing is read until it is used."""
    manifest = read_manifest(folder, artifact=TEXT_STATES, version=VERSIONS[TEXT_STATES])
    path = Path(folder) / "index.parquet"
    index = _open_table(path, TEXT_STATES_SCHEMA)
    metadata = index.schema_arrow.metadata or {}
    try:
        kept, width = metadata[b"dtype"].decode(), int(metadata[b"width"])
        dtype = np.dtype(np.int32 if kept == TOKENS else kept)
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path}: its metadata lacks dtype and width of the states") from None
    file = Path(folder) / (TOKENS_FILE if kept == TOKENS else STATES_FILE)
    digests, offsets, lengths = _read_arrays(
        index, "text_digest", "offset", "num_tokens", where=path
    )
    num_tokens = int(lengths.sum())
    shape = (num_tokens,) if kept == TOKENS else (num_tokens, width)
    num_bytes = file.stat().st_size if file.is_file() else 0
    if num_bytes != int(np.prod(shape)) * dtype.itemsize:
        what = "token ids" if kept == TOKENS else f"states of {width} {dtype}"
        raise ArtifactError(
            f"{file}: {num_bytes:,} bytes, but index.parquet speaks of {num_tokens:,} {what}; "
            "encode again"
        )
    values = np.memmap(file, dtype, "r", shape=shape) if num_tokens else np.zeros(shape, dtype)
    return TextStates(manifest, digests, offsets, lengths, values, width)


def write_text_states_index(
    path: Path,
    *,
    digests: Sequence[str],
    offsets: Sequence[int],
    num_tokens: Sequence[int],
    width: int,
    dtype: str,
) -> None:
    """Write `index.parquet` of a text states artifact, sorted by digest.

    Args:
        path: The file.
        digests: Of each text.
        offsets: First token of each text.
        num_tokens: Length of each text.
        width: Width of a state.
        dtype: Of the states, or TOKENS where token ids are kept instead.
    """
    order = sorted(range(len(digests)), key=digests.__getitem__)
    columns = [
        [digests[i] for i in order],
        [int(offsets[i]) for i in order],
        [int(num_tokens[i]) for i in order],
    ]
    metadata = {
        **TEXT_STATES_SCHEMA.metadata,
        b"dtype": dtype.encode(),
        b"width": str(width).encode(),
    }
    write_parquet(path, pa.table(columns, schema=TEXT_STATES_SCHEMA.with_metadata(metadata)))
