"""Prompt tables: held-out pictures described in several styles.

Rows of one picture share its `pair_id`, so that a comparison of styles is a comparison of texts
about the same pictures. Pictures that lack a style are left out and counted. What a prompt claims
is read from its text: a picture's truth that the prompt does not mention is never asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from launch.errors import ConfigError, InputError
from launch.keyed import permutation, words
from launch.run import Run
from recap import claims
from recap.artifacts import CAPTIONS, IMAGES, Images, open_captions, open_images
from t2i.artifacts import PROMPTS, VERSIONS, Prompt, prompt_id, write_prompts
from t2i.config import PromptsConfig

ALT = "alt"
"""The style that lies beside the pictures themselves."""


def prompts(cfg: PromptsConfig, run: Run) -> None:
    """Write the prompts of a split's pictures in every style."""
    if not cfg.styles or len(set(cfg.styles)) < len(cfg.styles):
        raise ConfigError(f"styles must be distinct and at least one, got {cfg.styles}")
    images = open_images(cfg.images)
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    rows = [int(row) for row in images.rows(cfg.split)]
    if not rows:
        raise InputError(
            f"{cfg.images}: no picture of split {cfg.split!r}; its splits are "
            f"{sorted(set(images.split))}. Choose another split, or ingest with a larger share."
        )
    texts = read_styles(images, rows=rows, captions=cfg.captions, styles=cfg.styles)

    # The order of the whole split: leaving pictures out or choosing fewer keeps it, so that a
    # smaller choice is the beginning of a larger one.
    ids = [images.sample_ids[row] for row in rows]
    order = permutation(cfg.seed, "prompts", epoch=0, ids=words(ids))
    rejected: dict[str, int] = {}
    pairs: list[int] = []
    for i in order:
        missing = next((style for style in cfg.styles if ids[i] not in texts[style]), None)
        if missing is not None:
            rejected[f"missing_{missing}"] = rejected.get(f"missing_{missing}", 0) + 1
        else:
            pairs.append(rows[i])
    num_complete = len(pairs)
    if cfg.num_pairs is not None:
        pairs = pairs[: cfg.num_pairs]
    if not pairs or len(pairs) < (cfg.num_pairs or 0):
        raise InputError(
            f"{cfg.images}: {num_complete:,} of {len(rows):,} pictures of split {cfg.split!r} have "
            f"every style of {cfg.styles}, expected at least {cfg.num_pairs or 1:,} (left out: "
            f"{rejected}). Ask for fewer pairs, or caption more pictures."
        )
    rejected["not_chosen"] = num_complete - len(pairs)

    plan = {"pairs": len(pairs), "styles": ", ".join(cfg.styles), "pictures": len(rows)}
    if not run.start({**plan, "left out": rejected}):
        return
    table = [
        prompt_row(
            texts[style][images.sample_ids[row]],
            style=style,
            pair_id=images.sample_ids[row],
            has_claims=images.claims[row] is not None,
        )
        for row in pairs
        for style in cfg.styles
    ]
    write_prompts(run.out / "prompts.parquet", table)
    run.finish(
        artifact=PROMPTS,
        version=VERSIONS[PROMPTS],
        counts={"rows_in": len(rows), "rows_out": len(pairs), "prompts": len(table)},
        rejected=rejected,
        parts=["prompts.parquet"],
    )


def read_styles(
    images: Images, *, rows: Sequence[int], captions: Sequence[Path], styles: Sequence[str]
) -> Mapping[str, dict[str, str]]:
    """Return the non-empty texts of each style by `sample_id`, for the pictures in `rows`.

    Raises:
        InputError: No artifact holds a style, or two give the same picture different texts.
    """
    wanted = {images.sample_ids[row] for row in rows}
    texts: dict[str, dict[str, str]] = {style: {} for style in styles}
    found = {ALT}
    if ALT in texts:
        texts[ALT] = {images.sample_ids[row]: images.alt[row] for row in rows}
    for folder in captions:
        artifact = open_captions(folder)
        found.update(artifact.kinds)
        for style, of_style in texts.items():
            if style == ALT or style not in artifact.kinds:
                continue
            for sample_id, text in artifact.texts(style).items():
                if sample_id in wanted and of_style.setdefault(sample_id, text) != text:
                    raise InputError(
                        f"{folder}: gives picture {sample_id} another {style} than an artifact "
                        "before it in `captions`; name only one artifact that holds this kind."
                    )
    absent = [style for style in styles if style not in found]
    if absent:
        raise ConfigError(
            f"styles: no captions artifact holds {absent}; those given hold {sorted(found)}. "
            "Correct `styles`, or add the artifact to `captions`."
        )
    # An empty prompt is no prompt: it would ask for any picture at all.
    return {
        style: {sample_id: text for sample_id, text in of.items() if text and text.strip()}
        for style, of in texts.items()
    }


def prompt_row(text: str, *, style: str, pair_id: str, has_claims: bool) -> Prompt:
    """Return one row; its claims are what the text says, where pictures have claims at all."""
    return Prompt(
        prompt_id=prompt_id(style=style, pair_id=pair_id, prompt=text),
        prompt=text,
        style=style,
        pair_id=pair_id,
        claims=claims.to_json(claims.read(text)) if has_claims else None,
    )
