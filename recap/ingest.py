"""Any source of pictures -> an images artifact, or an index of pictures where they lie.

Each chunk of the source is worked on alone: every row is either accepted or rejected by a named
rule, and the chunk's shard and tables are written whole. In the end the tables are joined.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch import keyed, manifest
from launch.errors import StoppedError
from launch.parts import map_parts, pending
from launch.run import Run
from recap import artifacts, pictures
from recap.artifacts import INDEX_SCHEMA, REJECTED_SCHEMA, SOURCES_SCHEMA
from recap.config import IngestConfig, SplitConfig
from recap.sources.source import (
    Chunk,
    Rejected,
    Row,
    RowError,
    Source,
    check_text,
    printable,
)

SPLIT_STREAM: Final = "split"
"""Splits are drawn with seed 0 in every run: a picture keeps its split wherever it turns up."""

_WORK: Final = f"{manifest.SCRATCH}/work"
"""Folder of the chunks' tables until they are joined."""


def ingest(cfg: IngestConfig, run: Run) -> None:
    """Read a source, check every row, and write index, shards and rejections."""
    source = open_source(cfg)
    run.external_input("source", source.path, source.digest)
    storage = "reference" if source.chunks[0].source_file is not None else "own"
    if not run.start(
        {**source.plan, "chunks": len(source.chunks)},
        recipe={"storage": storage},
        gib=source.num_bytes / 2**30,
    ):
        return

    if pending(run.out, [artifacts.INDEX, artifacts.REJECTED]):
        jobs = [_Job(out=run.out, index=i, chunk=c, cfg=cfg) for i, c in enumerate(source.chunks)]
        left = set(pending(run.out, [job.rows_name for job in jobs]))
        todo = [job for job in jobs if job.rows_name in left]
        with run.progress(len(jobs), label="ingest", unit="chunk") as progress:
            progress.resume(len(jobs) - len(todo))
            map_parts(_work, todo, num_workers=cfg.num_workers, progress=progress)
        _join(jobs, cfg)

    index = pq.read_table(run.out / artifacts.INDEX, columns=["shard", "split"])
    reasons = Counter(pq.read_table(run.out / artifacts.REJECTED)["reason"].to_pylist())
    splits = Counter(index["split"].to_pylist())
    parts = [artifacts.INDEX, artifacts.REJECTED]
    if storage == "own":
        parts += sorted(set(index["shard"].to_pylist()))
    else:
        parts.append(artifacts.SOURCES)
    run.finish(
        artifact=artifacts.IMAGES,
        version=artifacts.VERSION,
        counts={
            "rows_in": index.num_rows + reasons.total(),
            "rows_out": index.num_rows,
            **{split: splits[split] for split in artifacts.SPLITS},
        },
        rejected=dict(sorted(reasons.items())),
        parts=parts,
    )


def source_digest(cfg: IngestConfig) -> str | None:
    """Return the digest of the configured source as it is now; None where it is not at hand.

    Pictures that were copied do not need their source any more, and a hub is not asked.
    """
    if cfg.source != "scenes" and (cfg.root is None or not cfg.root.exists()):
        return None
    return open_source(cfg).digest


def open_source(cfg: IngestConfig) -> Source:
    """Open the configured source, refusing what the user can put right.

    Raises:
        InputError: Something is wrong with what was given; nothing has been written.
    """
    match cfg.source:
        case "scenes":
            from recap.sources.scenes.source import open_scenes

            return open_scenes(cfg)
        case "folder":
            from recap.sources.folder import open_folder

            return open_folder(cfg)
        case "webdataset":
            from recap.sources.webdataset import open_webdataset

            return open_webdataset(cfg)
        case "datasets":
            from recap.sources.hub import open_dataset

            return open_dataset(cfg)


def split_of(sample_ids: Sequence[str], cfg: SplitConfig) -> list[str]:
    """Give each picture its split, a function of its `sample_id` and the shares alone."""
    u = keyed.uniform(0, SPLIT_STREAM, epoch=0, ids=keyed.words(sample_ids))
    names = np.array(["test", "judge", "train"], dtype=object)
    return list(names[(u >= cfg.test).astype(int) + (u >= cfg.test + cfg.judge)])


# --- One chunk -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A chunk and where its results go."""

    out: Path
    index: int
    chunk: Chunk
    cfg: IngestConfig

    def __repr__(self) -> str:
        """Name the chunk without its rows."""
        return f"chunk {self.index} of {self.out}"

    @property
    def shard_name(self) -> str:
        return f"shards/shard-{self.index:05d}.tar"

    @property
    def rows_name(self) -> str:
        """The file whose presence says that the chunk is done; written last."""
        return f"{_WORK}/rows-{self.index:05d}.parquet"

    @property
    def rejected_path(self) -> Path:
        return self.out / _WORK / f"rejected-{self.index:05d}.parquet"

    @property
    def source_path(self) -> Path:
        return self.out / _WORK / f"source-{self.index:05d}.json"


def _work(job: _Job) -> None:
    """Check every row of a chunk and write its shard and tables."""
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    members = _members(job, rows, rejected)
    source_file = job.chunk.source_file
    if source_file is None:
        places = artifacts.write_shard(job.out / job.shard_name, members)
        # Each picture is followed by its text.
        for row, place in zip(rows, places[::2], strict=True):
            row |= {"shard": job.shard_name, "offset": place.offset, "num_bytes": place.num_bytes}
        if not rows:
            (job.out / job.shard_name).unlink()
    else:
        for _ in members:
            pass
        manifest.write_json(
            job.source_path,
            {
                "shard": source_file.shard,
                "num_bytes": source_file.path.stat().st_size,
                "digest": manifest.digest_file(source_file.path),
            },
        )
    splits = split_of([row["sample_id"] for row in rows], job.cfg.split)
    for row, split in zip(rows, splits, strict=True):
        row["split"] = split
    manifest.write_parquet(job.rejected_path, _table(rejected, REJECTED_SCHEMA))
    manifest.write_parquet(job.out / job.rows_name, pa.Table.from_pylist(rows, INDEX_SCHEMA))


def _table(rejected: Sequence[Rejected], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([row._asdict() for row in rejected], schema)


def _members(
    job: _Job, rows: list[dict[str, Any]], rejected: list[Rejected]
) -> Iterator[tuple[str, bytes]]:
    """Check rows one by one, note each as accepted or rejected, and give what a shard holds."""
    seen: set[str] = set()
    for row in job.chunk.read():
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        try:
            if row.key in seen:
                raise RowError("duplicate_name", "an earlier row has the same name")
            data, size = _checked(row, job.cfg)
        except RowError as error:
            rejected.append(Rejected(printable(row.key), error.reason, error.detail))
            continue
        seen.add(row.key)  # a row that is rejected keeps no name from a good one
        sample_id = artifacts.make_sample_id(job.cfg.name, row.key)
        rows.append(
            {
                "sample_id": sample_id,
                "key": row.key,
                "width": size[0],
                "height": size[1],
                "alt": row.alt,
                "claims": row.claims,
                "texts": row.texts,
            }
        )
        if row.place is not None and job.chunk.source_file is not None:
            rows[-1] |= row.place._asdict()
            continue
        suffix = row.suffix if job.cfg.image_size is None else ".png"
        yield sample_id + suffix, data
        yield sample_id + ".txt", row.alt.encode()


def _checked(row: Row, cfg: IngestConfig) -> tuple[bytes, tuple[int, int]]:
    """Give the bytes to store and their width and height.

    Raises:
        RowError: The row is rejected; the error names the rule.
    """
    check_text(row.alt)
    if printable(row.key) != row.key:
        raise RowError("not_utf8", "the name of the row")
    try:
        picture = pictures.decode(row.data, max_pixels=cfg.max_pixels)
    except pictures.PictureError as error:
        raise RowError(error.rule, error.detail) from error
    side = cfg.image_size
    if side is None or (picture.size == (side, side) and picture.format == "PNG"):
        return row.data, picture.size
    return pictures.encode_png(pictures.centre_crop(picture, size=side)), (side, side)


# --- All chunks ----------------------------------------------------------------------------------


def _join(jobs: Sequence[_Job], cfg: IngestConfig) -> None:
    """Join the chunks' tables, with names that occur in two chunks rejected the second time.

    Raises:
        StoppedError: More was rejected than the configuration allows, or nothing is left.
    """
    out = jobs[0].out
    index = pa.concat_tables(
        artifacts.read_table(out / job.rows_name, INDEX_SCHEMA) for job in jobs
    )
    rejected = [
        Rejected(**row)
        for job in jobs
        for row in artifacts.read_table(job.rejected_path, REJECTED_SCHEMA).to_pylist()
    ]
    seen: set[str] = set()
    is_first = []
    for key, shard in zip(index["key"].to_pylist(), index["shard"].to_pylist(), strict=True):
        is_first.append(key not in seen)
        if key in seen:
            detail = f"{shard}: an earlier shard has the same name"
            rejected.append(Rejected(key, "duplicate_name", detail))
        seen.add(key)
    index = index.filter(pa.array(is_first, pa.bool_()))
    _refuse_loss(index.num_rows, rejected, out=out, limit=cfg.max_rejected_share)
    if jobs[0].chunk.source_file is not None:
        sources = [json.loads(job.source_path.read_text()) for job in jobs]
        manifest.write_parquet(
            out / artifacts.SOURCES, pa.Table.from_pylist(sources, SOURCES_SCHEMA)
        )
    manifest.write_parquet(out / artifacts.REJECTED, _table(rejected, REJECTED_SCHEMA))
    manifest.write_parquet(out / artifacts.INDEX, index)


def _refuse_loss(
    num_accepted: int, rejected: Sequence[Rejected], *, out: Path, limit: float
) -> None:
    num_rows = num_accepted + len(rejected)
    if num_accepted and len(rejected) <= limit * num_rows:
        return
    counts = Counter(row.reason for row in rejected)
    shown = ", ".join(f"{reason} {num:,}" for reason, num in counts.most_common())
    first = rejected[0] if rejected else None
    raise StoppedError(
        f"{out}: {len(rejected):,} of {num_rows:,} rows were rejected ({shown}), at most "
        f"{limit:.1%} are allowed. First: {first.key if first else '-'} "
        f"({first.detail if first else '-'}). Mend the source, or raise max_rejected_share; "
        f"{out / _WORK} lists every row."
    )
