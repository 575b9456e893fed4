"""A made-up study: effects in, every artifact that a report reads out."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eval import artifacts, geneval
from eval.config import PrimaryConfig, ReportConfig
from eval.report import report
from eval.summary import PAGE
from launch.manifest import (
    Input,
    Manifest,
    describe_parts,
    digest_bytes,
    write_json,
    write_manifest,
    write_parquet,
)
from launch.run import Run
from recap.artifacts import INDEX_SCHEMA, write_shard
from recap.claims import AXES
from t2i.artifacts import (
    GenerationRow,
    Prompt,
    prompt_id,
    read_shard_members,
    write_generation_shard,
    write_generations_index,
    write_prompts,
)

SCRIPT = "<script>alert(1)</script>"
STYLES = ("human", "dsc")
SIDE = 8


@dataclass(frozen=True, kw_only=True)
class Study:
    """A made-up study: effects in, artifacts out."""

    effects: dict[str, float] = field(default_factory=lambda: {"real": 0.0, "ssc": 0.1, "dsc": 0.2})
    """Arm -> how far it lies above the first, in shares of claims."""

    seeds: int = 1
    pairs: int = 24
    moments: tuple[int, ...] = (100, 200, 300)
    has_claims: bool = True
    is_detected: bool = False
    tasks: tuple[str, ...] = geneval.TASKS
    """Tasks of its prompts, where they are detected."""

    is_long: bool = False
    """Texts are scored by their sentences too."""

    is_alike: bool = False
    """Every prompt scores what every other does, so that nothing is seen to vary."""

    retrieval: float = 0.6
    unmeasurable: tuple[str, ...] = ("words",)
    seed_spread: float = 0.0
    control: bool = False
    primary: PrimaryConfig = field(
        default_factory=lambda: PrimaryConfig(
            better="dsc", than="real", style="human", metric="prompt_following"
        )
    )
    draw: Callable[[int], np.ndarray] | None = None
    text: Callable[[str, int], str] | None = None


CONTROL = Study(
    effects={"truth": 0.3, "shuffled": 0.0},
    control=True,
    moments=(300,),
    primary=PrimaryConfig(
        better="truth", than="shuffled", style="human", metric="prompt_following"
    ),
)


def finish(
    folder: Path,
    artifact: str,
    *,
    inputs: list[Manifest] | None = None,
    recipe: dict[str, Any] | None = None,
    counts: dict[str, int] | None = None,
    log: bool = True,
    version: int = 1,
) -> Manifest:
    """Close an artifact folder as `Run.finish` would."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    manifest = Manifest(
        artifact=artifact,
        version=version,
        recipe=recipe or {},
        inputs=[Input(role=m.artifact, path=str(m.folder), digest=m.digest) for m in inputs or []],
        counts=counts or {"rows_in": 1, "rows_out": 1},
        rejected={},
        parts=describe_parts(folder, names),
        folder=folder,
    )
    write_manifest(folder, manifest)
    if log:
        lines = [
            {"time": 100.0, "event": "started", "host": "h", "cpus": 2},
            {"time": 110.0, "event": "progress"},
            {"time": 1000.0, "event": "started", "host": "h", "cpus": 2},
            {"time": 1020.0, "event": "finished", "seconds": 20.0, "peak_gib": 0.5},
        ]
        (folder / "run.log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest


def colours(number: int) -> np.ndarray:
    """Draw a flat picture."""
    return np.full((SIDE, SIDE, 3), [number * 7 % 256, number * 31 % 256, 128], np.uint8)


def said(style: str, number: int) -> str:
    """Write the text of a style."""
    if style == "human":
        return f"human {number} {SCRIPT}"
    return f"{style} {number} & more"


def build(root: Path, study: Study) -> ReportConfig:
    """Write every artifact that a report reads."""
    draw, text = study.draw or colours, study.text or said
    ids = [digest_bytes(f"picture {i}".encode()) for i in range(study.pairs)]
    images = make_images(root / "images", ids, draw, text)
    autoencoder = make_quality(root / "autoencoder", "autoencoder", {"psnr_db": 27.1234}, [images])
    quality = {"tokens_per_s": 900, "loss": {"test": 1.25}}
    captioner = make_quality(root / "captioner", "captioner", quality, [images])
    judge = make_judge(root / "judge", study, [images, autoencoder])
    captions = make_captions(root / "captions", study, ids, [images, captioner], text)
    prompts_rows = [
        Prompt(prompt_id(style=s, pair_id=p, prompt=text(s, i)), text(s, i), s, p, None)
        for s in STYLES
        for i, p in enumerate(ids)
    ]
    (root / "prompts").mkdir()
    write_prompts(root / "prompts/prompts.parquet", prompts_rows)
    prompts = finish(root / "prompts", "prompts", inputs=[images])
    generations = [
        make_generations(root / f"gen-{arm}-{seed}", study, arm, seed, prompts_rows, prompts, draw)
        for arm in study.effects
        for seed in range(study.seeds)
    ]
    scores = make_scores(root / "scores", study, generations, prompts_rows, [judge, prompts])
    return ReportConfig(
        study="made-up",
        question="Which captions are better?",
        scores=scores.folder,
        generations=[m.folder for m, *_ in generations],
        prompts=prompts.folder,
        images=images.folder,
        captions=captions.folder,
        judge=judge.folder,
        autoencoder=autoencoder.folder,
        captioners=[captioner.folder],
        primary=study.primary,
        control=study.control,
        resamples=100,
        num_pictures=8,
    )


def make_images(
    folder: Path, ids: list[str], draw: Callable[[int], np.ndarray], text: Callable[[str, int], str]
) -> Manifest:
    import io

    from PIL import Image

    def png(number: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(draw(number)).save(file, format="PNG")
        return file.getvalue()

    side = draw(0).shape[0]
    splits = ["test"] * len(ids) + ["train"]
    ids = [*ids, digest_bytes(b"a training picture")]
    places = write_shard(
        folder / "shards/shard-00000.tar", [(f"{s}.png", png(i)) for i, s in enumerate(ids)]
    )
    num = len(ids)
    columns = [
        ids, ["shards/shard-00000.tar"] * num, ids, [p.offset for p in places],
        [p.num_bytes for p in places], [side] * num, [side] * num,
        [text("alt", i) for i in range(num)], splits, [None] * num, [None] * num,
    ]  # fmt: skip
    write_parquet(folder / "index.parquet", pa.table(columns, schema=INDEX_SCHEMA))
    return finish(folder, "images", recipe={"verb": "recap ingest"}, counts={"rows_out": num})


def make_quality(folder: Path, kind: str, quality: dict, inputs: list[Manifest]) -> Manifest:
    folder.mkdir()
    write_json(folder / "quality.json", quality)
    return finish(folder, kind, inputs=inputs, recipe={"verb": f"make {kind}"})


def make_judge(folder: Path, study: Study, inputs: list[Manifest]) -> Manifest:
    found = {
        "r_at_1": study.retrieval,
        "interval": [max(study.retrieval - 0.05, 0.0), study.retrieval + 0.05],
        "chance": 0.01,
    }
    quality: dict[str, Any] = {
        "retrieval": {
            "kind": "judge", "num_pictures": 100, "text_to_image": found, "image_to_text": found,
        }
    }  # fmt: skip
    if study.has_claims:
        quality["measurable"] = {a: a not in study.unmeasurable for a in AXES}
        quality["min_accuracy"] = 0.7
        quality["recogniser"] = {"reconstructions": {a: {"accuracy": 0.9} for a in AXES}}
    folder.mkdir()
    write_json(folder / "quality.json", quality)
    return finish(folder, "judge", inputs=inputs)


def make_captions(
    folder: Path,
    study: Study,
    ids: list[str],
    inputs: list[Manifest],
    text: Callable[[str, int], str],
) -> Manifest:
    folder.mkdir()
    generator = np.random.default_rng(0)
    kinds = ("alt", "ssc", "dsc")
    claims = [
        {
            "kind": kind, "sample_id": s, "annotated": False, "axis": axis,
            "tp": int(generator.integers(0, 4)), "fp": int(generator.integers(0, 2)), "fn": 1,
        }
        for kind in kinds for s in ids for axis in AXES
    ] if study.has_claims else []  # fmt: skip
    lengths = [
        {"kind": k, "sample_id": s, "annotated": False, "num_words": 3 + i, "num_characters": 20}
        for k in kinds
        for i, s in enumerate(ids)
    ]
    report = artifacts.CaptionsReport(
        axes=pa.Table.from_pylist([], schema=artifacts.AXES_SCHEMA),
        claims=pa.Table.from_pylist(claims, schema=artifacts.CLAIMS_SCHEMA),
        lengths=pa.Table.from_pylist(lengths, schema=artifacts.LENGTHS_SCHEMA),
        regularities={k: {"ends_with_full_stop": 0.5, SCRIPT: 1} for k in kinds},
        examples={
            k: [{"sample_id": s, "text": text(k, i)} for i, s in enumerate(ids[:3])] for k in kinds
        },
        overlap=pa.Table.from_pylist(
            [
                {
                    "list": "",
                    "style": "human",
                    "prompt_id": s,
                    "kind": "alt",
                    "num_captions": 9,
                    "num_words": 3,
                    "num_runs": 1,
                    "num_found": i % 2,
                    "is_exact": False,
                }
                for i, s in enumerate(ids)
            ],
            schema=artifacts.OVERLAP_SCHEMA,
        ),
    )
    artifacts.write_captions_report(folder, report)
    version = artifacts.CAPTIONS_REPORT_VERSION
    return finish(folder, "captions_report", inputs=inputs, version=version)


def make_generations(
    folder: Path,
    study: Study,
    arm: str,
    model_seed: int,
    prompts: list[Prompt],
    manifest: Manifest,
    draw: Callable[[int], np.ndarray],
) -> tuple[Manifest, str, int, list[tuple[GenerationRow, int]]]:
    shard = "shards/shard-00000.tar"
    # Earlier moments draw fewer prompts, as `curve_pairs` has it.
    asked = [
        (p, seen, i % study.pairs)
        for seen in study.moments
        for i, p in enumerate(prompts)
        if seen == study.moments[-1] or i % study.pairs < study.pairs // 2
    ]
    keys = [digest_bytes(f"{arm}{model_seed}{p.prompt_id}{seen}".encode()) for p, seen, _ in asked]
    offset = 5 * list(study.effects).index(arm)
    write_generation_shard(
        folder / shard, keys=keys, pixels=[draw(number + offset) for *_, number in asked]
    )
    rows = [
        GenerationRow(
            key, p.prompt_id, p.pair_id, p.style, 0, seen, shard, place.offset,
            place.num_bytes, place.key,
        )
        for key, place, (p, seen, _) in zip(
            keys, read_shard_members(folder / shard), asked, strict=True
        )
    ]  # fmt: skip
    write_generations_index(folder / "index.parquet", rows)
    done = finish(
        folder,
        "generations",
        inputs=[manifest],
        recipe={"verb": "t2i sample", "arm": arm, "model_seed": model_seed, "guidance_scale": 3.0},
    )
    return done, arm, model_seed, [(r, n) for r, (*_, n) in zip(rows, asked, strict=True)]


def make_scores(
    folder: Path,
    study: Study,
    generations: list[tuple[Manifest, str, int, list[tuple[GenerationRow, int]]]],
    prompts: list[Prompt],
    inputs: list[Manifest],
) -> Manifest:
    generator = np.random.default_rng(7)
    spread = 0.0 if study.is_alike else 1.0
    easy = {p.pair_id: spread * generator.normal(0, 0.1) for p in prompts}
    table: list[dict[str, Any]] = []

    def add(row: dict[str, Any], level: float) -> None:
        def put(metric: str, value: float, **of: str) -> None:
            table.append(
                {"scoring": None, "axis": None, **row, **of, "metric": metric, "value": value}
            )

        for scoring in ("prompt", *(s for s in STYLES if s != row["prompt_style"])):
            cosine = 0.2 + 0.3 * level + spread * generator.normal(0, 0.01)
            put("clip_similarity", 100 * cosine, scoring=scoring)
            put("clip_distance", 1 - cosine, scoring=scoring)
            if study.is_long:
                put("clip_similarity_sentences", 100 * cosine - 3, scoring=scoring)
        if study.is_detected:
            task = study.tasks[int(row["pair_id"], 16) % len(study.tasks)]
            put("geneval_correct", float(generator.uniform() < level), axis=task)
            put("words_exact", float(generator.uniform() < level))
            put("words_error_rate", float(np.clip(1 - level, 0, 1)))
        if study.has_claims:
            readable = [a for a in AXES if a not in study.unmeasurable]
            axes = [None, *(geneval.AXES if study.is_detected else readable)]
            for axis in axes:
                share = float(np.clip(level + spread * generator.normal(0, 0.05), 0, 1))
                put("claims_held", share, **({"axis": axis} if axis else {}))
                put("claims_total", 4.0, **({"axis": axis} if axis else {}))

    for _, arm, model_seed, rows in generations:
        luck = study.seed_spread * generator.normal()
        for g, _ in rows:
            grown = g.samples_seen / study.moments[-1]
            level = 0.4 * grown + study.effects[arm] * grown + easy[g.pair_id] + luck
            add(
                {
                    "generation_id": g.generation_id, "arm": arm, "model_seed": model_seed,
                    "seed": 0, "samples_seen": g.samples_seen, "pair_id": g.pair_id,
                    "prompt_id": g.prompt_id, "prompt_style": g.style,
                },
                level,
            )  # fmt: skip
    for ceiling, level in (("(pictures)", 0.95), ("(reconstructions)", 0.85)):
        for p in prompts:
            add(
                {
                    "generation_id": digest_bytes((ceiling + p.prompt_id).encode()),
                    "arm": ceiling, "model_seed": -1, "seed": -1, "samples_seen": 0,
                    "pair_id": p.pair_id, "prompt_id": p.prompt_id, "prompt_style": p.style,
                },
                level,
            )  # fmt: skip
    folder.mkdir()
    columns = {name: [row[name] for row in table] for name in artifacts.SCORES_SCHEMA.names}
    artifacts.write_scores(folder / "scores.parquet", artifacts.scores_table(columns))
    return finish(
        folder,
        "scores",
        inputs=[*inputs, *(m for m, *_ in generations)],
        recipe={
            "verb": "eval score",
            "scorer": {"architecture": "tiny", "precision": "float32"},
            "scorers": {"detector": {"axes": list(geneval.AXES)}} if study.is_detected else {},
        },
    )


_MADE: dict[Path, tuple[Path, ReportConfig]] = {}


def make_report(root: Path, study: Study, *, name: str = "report") -> tuple[Path, ReportConfig]:
    cfg = build(root, study)
    return write_report(root / name, cfg), cfg


def write_report(out: Path, cfg: ReportConfig) -> Path:
    run = Run(out=out, verb="eval report", config=cfg, command="python -m eval report")
    try:
        report(cfg, run)
    finally:
        run.close()
    return out


def default_report(base: Path) -> tuple[Path, ReportConfig]:
    """Return the report of the plainest study, made once for every module that looks at it."""
    root = base / "made_up"
    if root not in _MADE:
        root.mkdir()
        _MADE[root] = make_report(root, Study())
    return _MADE[root]


def headline_of(folder: Path) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", (folder / PAGE).read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def records(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


class Reader(HTMLParser):
    """Collects what a browser would make of the page."""

    VOID = ("meta", "img", "br", "hr", "link", "input", "path", "use")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)
