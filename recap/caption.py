"""A captioner over image shards: one part of captions per shard, bad ones quarantined by rule.

N pictures of a shard
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from launch import parts
from launch.errors import ConfigError, InputError
from launch.processes import device, set_threads, wait_for_everyone
from launch.run import Run
from recap import artifacts, teacher
from recap.artifacts import CaptionRow, Images
from recap.captioner.starting import size_of
from recap.captioner_settings import refuse_unread
from recap.captioner_source import TAGGERS, Source, find_captioner, note_captioner
from recap.captioners import Caption, open_captioner
from recap.config import CaptionConfig, DecodeConfig, TagsConfig, TeacherConfig, VlmConfig
from recap.gates import Written, broken_rules_of_part
from recap.quarantine import Finished, quarantine_of, store
from recap.tagger.net import read_saved_tags
from recap.taggers import check_tags
from recap.timing import Timing
from recap.timm_tagger import read_timm
from recap.vlm_inputs import try_inputs
from recap.vlm_source import open_processor, refuse_unaskable, refuse_unloadable

CODE = 3
"""Version of decoding and gates; raised whenever the same settings give other captions or flags, so
that captions of two versions are never mixed in one folder."""

STORING = "gates and files"
"""Name of the span after a caption is written."""


def caption(cfg: CaptionConfig, run: Run) -> None:
    """Caption every picture of the chosen splits."""
    run.input("images", cfg.images, artifact=artifacts.IMAGES)
    source = find_captioner(cfg.captioner)
    refuse_unfit(cfg, source)
    note_captioner(run, source)
    images = artifacts.open_images(cfg.images)
    rows_of = rows_by_part(images, cfg.splits)
    num_pictures = sum(len(rows) for rows in rows_of.values())
    if not num_pictures:
        raise InputError(
            f"{cfg.images}: no picture is in splits {', '.join(cfg.splits) or '(none)'}; it has "
            f"{', '.join(sorted(set(images.split)))}."
        )
    plan: dict[str, object] = {
        "kind": cfg.kind,
        "pictures": num_pictures,
        "parts": len(rows_of),
        "written by": plan_words(cfg, source),
    }
    if source.family == "endpoint":
        asked = as_teacher(cfg)
        teacher.refuse_processes()
        plan |= teacher.plan_of(asked, kinds=[cfg.kind], num_pictures=num_pictures)
        if run.start(plan, recipe={"code": CODE, "asking": teacher.CODE}):
            from_endpoint(asked, run, kind=cfg.kind, images=images, rows_of=rows_of)
        return
    plan["computing"] = f"on {device().type} in {cfg.precision}"
    if not run.start(plan, recipe={"device": device().type, "code": CODE}):
        return

    set_threads(cfg.threads)
    captioner = open_captioner(
        cfg.captioner,
        batch_size=cfg.batch_size,
        device=device(),
        precision=cfg.precision,
        tags=cfg.tags,
        vlm=cfg.vlm,
    )
    names, finished, timing = list(rows_of), Finished(run.out, cfg.gates), Timing()
    with run.progress(num_pictures, label=f"caption {cfg.kind}") as progress:
        left = parts.pending(run.out, names)
        progress.resume(num_pictures - sum(len(rows_of[name]) for name in left))
        for name in parts.take(run.out, names):
            rows = rows_of[name]
            groups = captioner.read(images, rows, num_workers=cfg.num_workers)
            groups = timing.waiting("waiting for pictures", progress.waiting(groups))
            written = {}
            with timing.span("writing words"):
                for sample_id, found in captioner.write(
                    groups, config=cfg.decode, seed=cfg.seed, timing=timing
                ):
                    written[sample_id] = found
                    progress.advance(1)
            with timing.span(STORING):
                in_order = {s: written[s] for s in (images.sample_ids[row] for row in rows)}
                store(run.out, name, gate(in_order, cfg=cfg))
                finished.look(names)
        run.log("timing", **timing.shares())
        if run.is_main:
            print(f"{run.verb}: {timing.line()}", flush=True)

    wait_for_everyone()
    finished.look(names, is_final=True)
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={"rows_in": num_pictures, "rows_out": finished.num_captions - finished.num_gated},
        rejected={"gated": finished.num_gated},
        parts=[path for name in names for path in (run.out / name, quarantine_of(run.out, name))],
        recipe={"gated_by_rule": dict(sorted(finished.rules.items()))},
    )


def as_teacher(cfg: CaptionConfig) -> TeacherConfig:
    """Return who is asked for captions, and how, in the words of `recap.teacher`."""
    assert cfg.endpoint is not None
    assert cfg.vlm.instruction is not None
    size = {} if cfg.vlm.picture_px is None else {"picture_px": cfg.vlm.picture_px}
    return TeacherConfig(
        endpoint=cfg.endpoint,
        instruction=cfg.vlm.instruction,
        ledger=cfg.vlm.ledger,
        gates=cfg.gates,
        **size,
    )


def from_endpoint(
    asked: TeacherConfig,
    run: Run,
    *,
    kind: str,
    images: Images,
    rows_of: Mapping[str, Int64[np.ndarray, "N"]],
) -> None:
    """Write what a model behind an endpoint says; what breaks a rule is quarantined."""
    found = teacher.write_parts(asked, run, kinds=[kind], images=images, shards=rows_of)
    run.finish(
        artifact=artifacts.CAPTIONS,
        version=artifacts.VERSION,
        counts={"rows_in": sum(map(len, rows_of.values())), "rows_out": found.rows_out},
        rejected={"gated": found.gated},
        parts=[path for name in rows_of for path in (run.out / name, quarantine_of(run.out, name))],
        recipe={"gated_by_rule": found.by_rule, "served_by": found.served_by},
    )


def plan_words(cfg: CaptionConfig, source: Source) -> str:
    """Say in a plan's words who writes, and how."""
    if source.family in TAGGERS:
        return "a tagger, by the confidence of each tag"
    if source.family == "endpoint":
        return f"a model behind an endpoint, told: {cfg.vlm.instruction}"
    told = f", told: {cfg.vlm.instruction}" if cfg.vlm.instruction else ""
    what = source.config.get("model_type", source.family)
    return f"{what}, {cfg.decode.method}{told}"


def refuse_unfit(cfg: CaptionConfig, source: Source) -> None:
    """Refuse what cannot be loaded or does not fit together, before anything is begun.

    Raises:
        ArtifactError: The captioner's folder lacks something.
        ConfigError: Settings ask for what this family does not do, or has no room for.
    """
    if source.family not in TAGGERS and cfg.tags != TagsConfig():
        raise ConfigError(
            f"tags: {cfg.captioner} is no tagger and writes sentences; leave these settings out"
        )
    if source.family not in {"transformers", "endpoint"} and cfg.vlm != VlmConfig():
        raise ConfigError(
            f"vlm: {cfg.captioner} takes no instruction; leave these settings out, or give a "
            "transformers model"
        )
    if source.family in {*TAGGERS, "endpoint"} and cfg.decode != DecodeConfig():
        where = (
            "tags has its thresholds" if source.family in TAGGERS else "endpoint its temperature"
        )
        raise ConfigError(
            f"decode: chooses the words of captioners that write on this machine, and "
            f"{cfg.captioner} does not; leave these settings out ({where})"
        )
    refuse_unread(cfg, source)
    match source.family:
        case "coca" | "open_clip":
            refuse_no_room(cfg)
        case "endpoint":
            if cfg.vlm.instruction is None or cfg.vlm.keep_instruction:
                raise ConfigError(
                    "vlm.instruction: say what the model behind the endpoint is asked, for example "
                    "'Describe the picture in one sentence.'; vlm.keep_instruction is not for it"
                )
        case "tagger":
            check_tags(read_saved_tags(source.spec), cfg.tags)
        case "timm":
            check_tags(read_timm(source.folder, source.config).tags, cfg.tags)
        case "transformers":
            refuse_unloadable(source.folder, source.config)
            processor = open_processor(source.folder)
            found = (source.folder, source.config, processor)
            refuse_unaskable(*found, vlm=cfg.vlm, decode=cfg.decode)
            try_inputs(*found, vlm=cfg.vlm, decode=cfg.decode)


def refuse_no_room(cfg: CaptionConfig) -> None:
    """Refuse a shortest caption that the captioner's context has no room for."""
    context_length = size_of(cfg.captioner).context_length
    longest = min(cfg.decode.max_tokens, context_length - 1)
    if cfg.decode.min_tokens >= longest:
        raise ConfigError(
            f"decode.min_tokens={cfg.decode.min_tokens} must be below {longest}, the longest "
            f"caption that decode.max_tokens={cfg.decode.max_tokens} and the context of "
            f"{cfg.captioner} ({context_length}) leave room for"
        )


def rows_by_part(images: Images, splits: Sequence[str]) -> dict[str, Int64[np.ndarray, "N"]]:
    """Return, for every image shard, its part's name and its rows in the chosen splits."""
    wanted = np.zeros(len(images), dtype=bool)
    for split in splits:
        wanted[images.rows(split)] = True
    rows_of = {}
    for number, shard in enumerate(images.shards):
        rows = images.shard_rows(shard)
        rows_of[artifacts.caption_part_name(number)] = rows[wanted[rows]]
    return rows_of


def gate(part: Mapping[str, Caption], *, cfg: CaptionConfig) -> list[CaptionRow]:
    """Return the captions of a part as they are stored, with the rules that each breaks as flags.

    Args:
        part: The caption of every picture of the part, by sample_id.
        cfg: Holds the kind and the limits of the rules.
    """
    flags = broken_rules_of_part(
        [Written(found.text, found.stop_reason) for found in part.values()], limits=cfg.gates
    )
    return [
        CaptionRow(
            sample_id=sample_id,
            kind=cfg.kind,
            text=found.text,
            num_tokens=found.num_tokens,
            stop_reason=found.stop_reason,
            mean_logprob=found.mean_logprob,
            flags=tuple(broken),
        )
        for (sample_id, found), broken in zip(part.items(), flags, strict=True)
    ]
