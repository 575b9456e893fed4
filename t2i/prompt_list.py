"""Public prompt lists -> a prompt table.

A list has one style or several: prompts as people wrote them, and what a language model made of
them. Rows with one key are one pair; where a list names no keys, the number of the row is the key,
so originals and rewritten prompts are paired line by line, and a blank line holds its place. What
lists say of a prompt besides its text (category, claims, questions) belongs to the pair: a picture
drawn for a rewritten prompt is judged by what the original asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from launch.errors import InputError
from launch.keyed import permutation, words
from launch.manifest import digest_bytes, write_parquet
from launch.run import Run
from recap import claims
from t2i import questions
from t2i.artifacts import (
    ITEMS_SCHEMA,
    NOTES_SCHEMA,
    PROMPTS,
    VERSIONS,
    Prompt,
    pair_id_of,
    prompt_id,
    write_prompts,
)
from t2i.config import ListConfig, PromptListConfig
from t2i.lists.asked import read_dpg, read_dsg
from t2i.lists.geneval import read_geneval
from t2i.lists.item import Item, PromptList, digest_of, text_files
from t2i.lists.t2i_compbench import read_t2i_compbench, validation_files
from t2i.lists.tables import read_lines, read_table

BLANK, NOT_CHOSEN = "blank", "not_chosen"


def prompt_list(cfg: PromptListConfig, run: Run) -> None:
    """Write the prompts of a list in every style."""
    lists = {style: read_list(of_style) for style, of_style in cfg.lists.items()}
    paths = ", ".join(str(of_style.path) for of_style in cfg.lists.values())
    run.external_input("source", paths, _digest(cfg))
    refuse_unequal(lists)
    pairs = pair(lists)
    complete = [key for key, rule in pairs.rejected.items() if rule is None]
    if not complete or len(complete) < (cfg.num_pairs or 0):
        reasons = ", ".join(f"{rule} {num:,}" for rule, num in pairs.counts.items())
        raise InputError(
            f"{paths}: {len(complete):,} items have a prompt in every style "
            f"({', '.join(lists)}), expected at least {cfg.num_pairs or 1:,} (left out: "
            f"{reasons or 'none'}). Ask for fewer pairs, or correct the lists and their keys."
        )
    ids = {key: pair_id_of(name=cfg.name, key=key) for key in pairs.rejected}
    # Lists stand in order of their categories; drawn by key, the first prompts are of all of them.
    order = permutation(cfg.seed, "prompts", epoch=0, ids=words([ids[key] for key in complete]))
    chosen = [complete[int(i)] for i in order][: cfg.num_pairs]
    rejected = dict(pairs.counts)
    rejected[NOT_CHOSEN] = (len(complete) - len(chosen)) * len(lists)

    notes = Counter(note.rule for found in lists.values() for note in found.notes)
    categories = {item.category for found in lists.values() for item in found.items}
    plan: dict[str, object] = {
        "list": cfg.name,
        "pairs": len(chosen),
        "styles": ", ".join(lists),
        "categories": len(categories - {None}) or "none",
        "left out": ", ".join(f"{k} {v:,}" for k, v in rejected.items() if v) or "none",
        "noted": ", ".join(f"{rule} {num:,}" for rule, num in notes.items()) or "nothing",
    }
    if not run.start(plan):
        return
    rows = [
        prompt_row(pairs.items[key], style=style, pair_id=ids[key])
        for key in chosen
        for style in lists
    ]
    write_prompts(run.out / "prompts.parquet", rows)
    reasons_of = {**pairs.rejected, **dict.fromkeys(set(complete) - set(chosen), NOT_CHOSEN)}
    write_parquet(run.out / "items.parquet", _items_table(lists, ids=ids, rejected=reasons_of))
    write_parquet(run.out / "notes.parquet", _notes_table(lists))
    first = next(iter(lists))
    run.finish(
        artifact=PROMPTS,
        version=VERSIONS[PROMPTS],
        counts={
            "rows_in": sum(len(found.items) for found in lists.values()),
            "rows_out": len(rows),
            "pairs": len(chosen),
            "prompts": len(rows),
            "questions": sum(len(pairs.items[key][first].questions or ()) for key in chosen),
            **dict(sorted(notes.items())),
        },
        rejected=rejected,
        parts=["prompts.parquet", "items.parquet", "notes.parquet"],
    )


def source_digest(cfg: PromptListConfig) -> str | None:
    """Return the digest of the lists as they are now; None where one is not at hand."""
    paths = [path for found in cfg.lists.values() for path in (found.path, found.questions)]
    return _digest(cfg) if all(path is None or path.exists() for path in paths) else None


def _digest(cfg: PromptListConfig) -> str:
    digests = [[style, digest_of(files_of(found))] for style, found in cfg.lists.items()]
    return digest_bytes(json.dumps(digests).encode())


def files_of(cfg: ListConfig) -> list[Path]:
    """Return the files that a list is read from."""
    match cfg.format:
        case "t2i_compbench":
            return validation_files(cfg.path)
        case "dpg":
            return [*text_files(cfg.path), *([] if cfg.questions is None else [cfg.questions])]
        case _:
            return [cfg.path]


def read_list(cfg: ListConfig) -> PromptList:
    """Read a list in its format.

    Raises:
        InputError: It is absent, empty or malformed.
    """
    match cfg.format:
        case "lines":
            found = read_lines(cfg)
        case "csv" | "tsv" | "jsonl":
            found = read_table(cfg)
        case "geneval":
            found = read_geneval(cfg)
        case "t2i_compbench":
            found = read_t2i_compbench(cfg)
        case "dsg":
            found = read_dsg(cfg)
        case "dpg":
            found = read_dpg(cfg)
    if all(item.is_blank for item in found.items):
        raise InputError(
            f"{cfg.path}: {len(found.items):,} rows, none with a prompt; expected at least one. "
            "Correct the path, or the format."
        )
    return found


# --------------------------------------------------------------------------- pairs


class Pairs(NamedTuple):
    """Items of all styles by key, in the order of the lists."""

    items: dict[str, dict[str, Item]]
    """Key -> style -> item, with what the lists say of the pair in every one."""

    rejected: dict[str, str | None]
    """Key -> the rule by which its prompts are left out, None where they are not."""

    counts: dict[str, int]
    """Rows left out, by rule."""


def refuse_unequal(lists: Mapping[str, PromptList]) -> None:
    """Refuse lists that are paired row by row and have not equally many.

    Raises:
        InputError: Naming two of them.
    """
    numbered = {style: found for style, found in lists.items() if found.is_by_number}
    sizes = {style: len(found.items) for style, found in numbered.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(
            f"{style} {num:,} ({numbered[style].path})" for style, num in sizes.items()
        )
        raise InputError(
            f"lists paired row by row have different numbers of rows: {told}. A missing row pairs "
            "all behind it wrongly: put a blank line in its place, or name keys."
        )


def pair(lists: Mapping[str, PromptList]) -> Pairs:
    """Bring items with one key together; a blank or missing one leaves the others without a pair.

    The rule is that of the first style that lacks a prompt: `blank` where a row holds its place,
    `missing_STYLE` where there is none. It counts rows, so a blank line leaves a pair of two styles
    with two rows less: itself as `blank`, the other as `missing_STYLE`.
    """
    items: dict[str, dict[str, Item]] = {}
    for style, found in lists.items():
        for item in found.items:
            items.setdefault(item.key, {})[style] = item
    rejected: dict[str, str | None] = {}
    counts: Counter[str] = Counter()
    for key, of_key in items.items():
        blank = [style for style, item in of_key.items() if item.is_blank]
        lacking = [style for style in lists if style not in of_key or style in blank]
        rejected[key] = f"missing_{lacking[0]}" if lacking else None
        counts[BLANK] += len(blank)
        if lacking:
            counts[f"missing_{lacking[0]}"] += len(of_key) - len(blank)
        items[key] = _shared(of_key)
    return Pairs(items, rejected, {rule: num for rule, num in counts.items() if num})


def _shared(of_key: Mapping[str, Item]) -> dict[str, Item]:
    """Give every style what the first that has it says of the pair."""
    shared: dict[str, Any] = {
        name: next((v for i in of_key.values() if (v := getattr(i, name)) is not None), None)
        for name in ("category", "claims", "questions")
    }
    return {
        style: item._replace(**{n: v for n, v in shared.items() if getattr(item, n) is None})
        for style, item in of_key.items()
    }


def prompt_row(of_key: Mapping[str, Item], *, style: str, pair_id: str) -> Prompt:
    """Return one row of the table."""
    item = of_key[style]
    return Prompt(
        prompt_id=prompt_id(style=style, pair_id=pair_id, prompt=item.prompt),
        prompt=item.prompt,
        style=style,
        pair_id=pair_id,
        claims=None if item.claims is None else claims.to_json(item.claims),
        category=item.category,
        questions=None if item.questions is None else questions.to_json(item.questions),
    )


# --------------------------------------------------------------------------- what became of rows


def _items_table(
    lists: Mapping[str, PromptList], *, ids: Mapping[str, str], rejected: Mapping[str, str | None]
) -> pa.Table:
    rows: Sequence[dict[str, Any]] = [
        {
            "style": style,
            "key": item.key,
            "pair_id": ids[item.key],
            "file": item.file,
            "line": item.line,
            "rejected": BLANK if item.is_blank else rejected[item.key],
        }
        for style, found in lists.items()
        for item in found.items
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS_SCHEMA)


def _notes_table(lists: Mapping[str, PromptList]) -> pa.Table:
    rows = [
        {"style": style, **note._asdict()} for style, found in lists.items() for note in found.notes
    ]
    return pa.Table.from_pylist(rows, schema=NOTES_SCHEMA)
