"""Captions from elsewhere, and for elsewhere.

`import_captions` joins a table of texts with the pictures that they speak of; `export_captions`
writes captions in the forms that other trainers read. Neither changes a text.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from launch.errors import InputError, StoppedError
from launch.manifest import digest_file, write_bytes
from launch.parts import pending
from launch.run import Run
from recap import artifacts
from recap.artifacts import CaptionRow, Images
from recap.caption_table import join, read_rows
from recap.config import ExportConfig, ImportConfig

EXPORT: Final = "export"
"""Kind of the artifact that an export is; version 1."""

# --------------------------------------------------------------------------- from elsewhere


def import_captions(cfg: ImportConfig, run: Run) -> None:
    """Write a captions artifact from a table of texts."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    if not cfg.file.is_file():
        raise InputError(f"{cfg.file}: no such file; expected .parquet, .csv, .tsv or .jsonl.")
    run.external_input("source", cfg.file, digest_file(cfg.file))
    images = artifacts.open_images(cfg.images)
    rows, first_bad = read_rows(cfg.file, cfg)
    joined = join(rows, images)
    lost = sum(joined.rejected.values())
    plan = {
        "rows": len(rows),
        "matched": ", ".join(f"{n:,} by {name}" for name, n in joined.matched_by.items()) or "none",
        "rejected": ", ".join(f"{n:,} {why}" for why, n in joined.rejected.items()) or "none",
        "pictures without a caption": len(images) - len(joined.texts),
    }
    if first_bad:
        plan["first bad row"] = first_bad
    if lost > cfg.max_rejected_share * len(rows):
        raise StoppedError(
            f"{cfg.file}: {lost:,} of {len(rows):,} rows cannot be used ({plan['rejected']}"
            f"{f'; {first_bad}' if first_bad else ''}); at "
            f"most max_rejected_share={cfg.max_rejected_share:g} may be. Look at name_column="
            f"{cfg.name_column} and text_column={cfg.text_column}, or raise the limit."
        )
    if not run.start(plan):
        return
    names = [artifacts.caption_part_name(index) for index in range(len(images.shards))]
    left = set(pending(run.out, names))
    for name, shard in zip(names, images.shards, strict=True):
        if name in left:
            ids = [images.sample_ids[row] for row in images.shard_rows(shard)]
            artifacts.write_caption_part(
                run.out / name,
                [
                    CaptionRow(sample_id=sample_id, kind=cfg.kind, text=joined.texts[sample_id])
                    for sample_id in ids
                    if sample_id in joined.texts
                ],
            )
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={
            "rows_in": len(rows),
            "rows_out": len(joined.texts),
            **{f"matched_by_{name}": n for name, n in sorted(joined.matched_by.items())},
        },
        rejected=dict(sorted(joined.rejected.items())),
        parts=names,
    )


def source_digest(cfg: ImportConfig) -> str | None:
    """Return the digest of the table as it is now; None where it is not at hand."""
    return digest_file(cfg.file) if cfg.file.is_file() else None


# --------------------------------------------------------------------------- for elsewhere


def export_captions(cfg: ExportConfig, run: Run) -> None:
    """Write captions, and where the form asks for it pictures, for another program."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=artifacts.CAPTIONS)
    images = artifacts.open_images(cfg.images)
    texts = gather(images, cfg)
    kinds = sorted({kind for of_picture in texts.values() for kind in of_picture})
    plan = {
        "form": cfg.form,
        "kinds": ", ".join(kinds),
        "pictures with a caption": len(texts),
        "pictures without": len(images) - len(texts),
    }
    rows = [row for row, sample_id in enumerate(images.sample_ids) if sample_id in texts]
    num_bytes = sum(len(text) for of_picture in texts.values() for text in of_picture.values())
    if cfg.form in ("webdataset", "datasets"):
        sizes = images.table["num_bytes"].to_pylist()
        num_bytes += sum(sizes[row] + 1024 for row in rows)
    if not run.start(plan, gib=num_bytes / 2**30):
        return
    with run.progress(len(rows), label="export") as progress:
        match cfg.form:
            case "jsonl" | "csv":
                parts = [write_table(run.out, images, rows, texts, kinds=kinds, form=cfg.form)]
                progress.advance(len(rows))
            case "txt":
                parts = []
                for row, stem in zip(rows, sidecar_stems(images, rows), strict=True):
                    of_picture = texts[images.sample_ids[row]]
                    parts += write_sidecars(run.out, stem, of_picture, is_one_kind=len(kinds) == 1)
                    progress.advance(1)
            case "webdataset":
                parts = []
                for number, shard in enumerate(images.shards):
                    here = [int(row) for row in images.shard_rows(shard)]
                    here = [row for row in here if images.sample_ids[row] in texts]
                    name = f"shard-{number:05d}.tar"
                    if here and pending(run.out, [name]):
                        artifacts.write_shard(run.out / name, members(images, here, texts))
                    parts += [name] if here else []
                    progress.advance(len(here))
            case "datasets":
                parts = []
                for row in rows:
                    name = f"train/{images.sample_ids[row]}{suffix_of(images, row)}"
                    if pending(run.out, [name]):
                        write_bytes(run.out / name, images.read(row))
                    parts.append(name)
                    progress.advance(1)
                parts.append(write_metadata(run.out, images, rows, texts, kinds=kinds))
    run.finish(
        artifact=EXPORT,
        counts={
            "rows_in": len(images),
            "rows_out": len(rows),
            "captions": sum(map(len, texts.values())),
        },
        rejected={"no_caption": len(images) - len(rows)},
        parts=parts,
    )


Texts = Mapping[str, Mapping[str, str]]
"""sample_id -> kind -> text."""


def gather(images: Images, cfg: ExportConfig) -> dict[str, dict[str, str]]:
    """Return the accepted captions of every picture, and its alt text if that is asked for.

    Raises:
        InputError: A picture has two captions of one kind, or a kind is asked for that is absent.
    """
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for folder in cfg.captions:
        opened = artifacts.open_captions(folder)
        for kind in opened.kinds:
            seen.add(kind)
            if cfg.kinds and kind not in cfg.kinds:
                continue
            for sample_id, text in opened.texts(kind).items():
                if kind in found.setdefault(sample_id, {}):
                    raise InputError(
                        f"{folder}: picture {sample_id} has a {kind} caption in another of the "
                        "artifacts given too; leave one of them out."
                    )
                found[sample_id][kind] = text
    if "alt" in cfg.kinds:
        seen.add("alt")
        for sample_id, text in zip(images.sample_ids, images.alt, strict=True):
            found.setdefault(sample_id, {})["alt"] = text
    if absent := sorted(set(cfg.kinds) - seen):
        raise InputError(
            f"kinds: no caption of kind {', '.join(absent)}; the artifacts have "
            f"{', '.join(sorted(seen)) or 'none'}, and `alt` is the pictures' own."
        )
    known = set(images.sample_ids)
    if foreign := sorted(found.keys() - known):
        raise InputError(
            f"{len(foreign):,} captions speak of no picture of {images.folder}, {foreign[0]} "
            "first; give the images that were captioned."
        )
    return found


def write_table(
    out: Path, images: Images, rows: Sequence[int], texts: Texts, *, kinds: list[str], form: str
) -> str:
    """Write one row a picture, one column a kind; what is absent is null, or empty in CSV."""
    keys = images.table["key"].to_pylist()
    head = ["sample_id", "key", *kinds]
    records = [
        [images.sample_ids[row], keys[row], *(texts[images.sample_ids[row]].get(k) for k in kinds)]
        for row in rows
    ]
    if form == "jsonl":
        lines = [json.dumps(dict(zip(head, r, strict=True)), ensure_ascii=False) for r in records]
        text = "".join(f"{line}\n" for line in lines)
    else:
        stream = io.StringIO(newline="")
        # Quoted, all of it: a carriage return alone would end a row for whoever reads it.
        writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(head)
        writer.writerows(records)
        text = stream.getvalue()
    name = f"captions.{form}"
    write_bytes(out / name, text.encode())
    return name


def sidecar_stems(images: Images, rows: Sequence[int]) -> list[str]:
    """Name the texts of each picture as the picture is named, without its ending.

    Where two pictures would share a name, or a name would lead elsewhere, it is the sample_id.
    """
    keys = images.table["key"].to_pylist()
    stems = [PurePosixPath(keys[row]).with_suffix("") for row in rows]
    often = Counter(stems)
    return [
        images.sample_ids[row]
        if often[stem] > 1 or stem.is_absolute() or ".." in stem.parts
        else str(stem)
        for row, stem in zip(rows, stems, strict=True)
    ]


def write_sidecars(
    out: Path, stem: str, of_picture: Mapping[str, str], *, is_one_kind: bool
) -> list[str]:
    """Write one text file a kind below `texts/` and return their names.

    Args:
        out: Folder of the export.
        stem: Name of the picture.
        of_picture: Its captions by kind.
        is_one_kind: The export has one kind, which then need not be in the file's name.
    """
    names = []
    for kind, text in sorted(of_picture.items()):
        name = f"texts/{stem}.txt" if is_one_kind else f"texts/{stem}.{kind}.txt"
        if pending(out, [name]):
            write_bytes(out / name, text.encode())
        names.append(name)
    return names


def members(images: Images, rows: Sequence[int], texts: Texts) -> Iterator[tuple[str, bytes]]:
    """Yield a shard's members: each picture with one text a kind under one key."""
    for row in rows:
        sample_id = images.sample_ids[row]
        yield f"{sample_id}{suffix_of(images, row)}", images.read(row)
        for kind, text in sorted(texts[sample_id].items()):
            yield f"{sample_id}.{kind}.txt", text.encode()


def write_metadata(
    out: Path, images: Images, rows: Sequence[int], texts: Texts, *, kinds: list[str]
) -> str:
    """Write the metadata file of the `datasets` imagefolder convention."""
    lines = []
    for row in rows:
        sample_id = images.sample_ids[row]
        record: dict[str, Any] = {"file_name": f"{sample_id}{suffix_of(images, row)}"}
        record |= {kind: texts[sample_id].get(kind) for kind in kinds}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_bytes(out / "train/metadata.jsonl", "".join(lines).encode())
    return "train/metadata.jsonl"


def suffix_of(images: Images, row: int) -> str:
    """Return the ending of a stored picture's format."""
    start = images.read(row)[:12]
    return next((ending for ending, is_it in _ENDINGS.items() if is_it(start)), ".jpg")


_ENDINGS: Final[dict[str, Callable[[bytes], bool]]] = {
    ".png": lambda start: start.startswith(b"\x89PNG"),
    ".webp": lambda start: start[:4] == b"RIFF" and start[8:] == b"WEBP",
    ".gif": lambda start: start.startswith(b"GIF8"),
    ".bmp": lambda start: start.startswith(b"BM"),
    ".tiff": lambda start: start[:4] in (b"II*\0", b"MM\0*"),
}
"""First bytes of the formats that ingestion takes; what is left is JPEG."""
