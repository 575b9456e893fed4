"""The pictures that a judge is asked about, and by which text each is judged.

A picture drawn from a rewritten prompt is judged by the prompt that was rewritten: a judge that is
shown the rewrite would ask for what nobody asked for. Claims and questions are the pair's already;
the text is found here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from eval.artifacts import PICTURES_ARM
from eval.complete import check_complete, refuse_unpaired
from eval.config import JudgeConfig
from launch.errors import ArtifactError, ConfigError
from recap.artifacts import open_images
from t2i.artifacts import Prompt, Prompts, open_generations


class Judged(NamedTuple):
    """One picture that is judged, with what a row of scores says of it."""

    generation_id: str
    arm: str
    model_seed: int
    seed: int
    samples_seen: int
    prompt: Prompt
    text: str
    """What it is judged by: its prompt, or the prompt that was rewritten."""

    @property
    def cell(self) -> tuple[int, str, int]:
        """Return what pictures of different models share when they are compared."""
        return self.samples_seen, self.prompt.prompt_id, self.seed

    @property
    def columns(self) -> dict[str, Any]:
        """Return the columns that every row about it has."""
        return {
            "generation_id": self.generation_id,
            "arm": self.arm,
            "model_seed": self.model_seed,
            "seed": self.seed,
            "samples_seen": self.samples_seen,
            "pair_id": self.prompt.pair_id,
            "prompt_id": self.prompt.prompt_id,
            "prompt_style": self.prompt.style,
        }


@dataclass(frozen=True)
class Source:
    """Pictures of one artifact."""

    name: str
    """Digest of the artifact."""

    judged: list[Judged]
    read: Callable[[int], bytes]
    """Reads the file of a picture by its place in `judged`."""


@dataclass(frozen=True)
class Pictures:
    """Everything that is judged."""

    sources: list[Source]
    originals: dict[str, str]
    """Style -> style whose text judges its pictures."""

    def __len__(self) -> int:
        return sum(len(source.judged) for source in self.sources)

    @cached_property
    def judged(self) -> list[Judged]:
        """Return all of them, source by source."""
        return [judged for source in self.sources for judged in source.judged]

    @cached_property
    def prompts(self) -> dict[str, tuple[Prompt, str]]:
        """Return the prompts that are judged with their texts, by `prompt_id`."""
        return {j.prompt.prompt_id: (j.prompt, j.text) for j in self.judged}


def open_pictures(cfg: JudgeConfig, prompts: Prompts) -> Pictures:
    """Open generations and refuse any that are not exactly those that were to be drawn.

    Raises:
        ArtifactError: A picture is missing, extra, or of other prompts; or arms are not paired.
        ConfigError: A style is unknown.
    """
    originals = originals_of(prompts, named=cfg.originals)
    if unknown := sorted(set(cfg.styles) - set(prompts.styles)):
        raise ConfigError(
            f"styles: {cfg.prompts} has no prompts of style {unknown[0]!r}; its styles are "
            f"{', '.join(prompts.styles)}"
        )
    texts = _texts(prompts, originals)
    sources, drawn, models = [], [], []
    for folder in cfg.generations:
        generations = open_generations(folder)
        made_from = [i.digest for i in generations.manifest.inputs if i.role == "prompts"]
        if made_from != [prompts.manifest.digest]:
            raise ArtifactError(
                f"{folder}: was drawn for other prompts ({', '.join(made_from) or 'unknown'}) than "
                f"{cfg.prompts} ({prompts.manifest.digest}). Judge it with its own prompts."
            )
        check_complete(generations, prompts, where=str(folder))
        by_id = {prompt.prompt_id: prompt for prompt in prompts.rows}
        names = ("generation_id", "prompt_id", "seed", "samples_seen")
        columns = (generations.table[name].to_pylist() for name in names)
        last = max(generations.samples_seen, default=0)
        judged, rows = [], []
        for row, (generation_id, prompt_id, seed, seen) in enumerate(zip(*columns, strict=True)):
            prompt = by_id[prompt_id]
            if (cfg.moments == "last" and seen != last) or (
                cfg.styles and prompt.style not in cfg.styles
            ):
                continue
            judged.append(
                Judged(
                    generation_id, generations.arm, generations.model_seed, seed, seen, prompt,
                    texts[prompt_id],
                )
            )  # fmt: skip
            rows.append(row)
        models.append((generations.arm, generations.model_seed))
        drawn.append({picture.cell for picture in judged})
        # Defaults bind what this folder has; a closure would read the last one's.
        sources.append(
            Source(
                generations.manifest.digest,
                judged,
                lambda place, of=generations, rows=rows: of.encoded([rows[place]])[0],
            )
        )
    refuse_unpaired(models, drawn, folders=cfg.generations)
    if not any(drawn):
        raise ConfigError(
            f"styles: no picture of {', '.join(cfg.styles)} was drawn; name styles that were"
        )
    if cfg.images is not None:
        sources.append(
            _ceiling(cfg, prompts, texts, styles={j.prompt.style for j in sources[0].judged})
        )
    return Pictures(sources, originals)


def originals_of(prompts: Prompts, *, named: Mapping[str, str]) -> dict[str, str]:
    """Return the style whose text judges the pictures of each style.

    Raises:
        ConfigError: A style that is named does not exist.
    """
    styles = prompts.styles
    found = {style: prompts.original_of(style) for style in styles}
    for style, original in named.items():
        for name in (style, original):
            if name not in found:
                raise ConfigError(
                    f"originals: {prompts.manifest.folder} has no style {name!r}; its styles are "
                    f"{', '.join(styles)}"
                )
        found[style] = original
    return found


def _texts(prompts: Prompts, originals: Mapping[str, str]) -> dict[str, str]:
    """Return the text that judges pictures of each prompt, by `prompt_id`."""
    by_style = {style: prompts.texts(style) for style in prompts.styles}
    texts = {}
    for prompt in prompts.rows:
        found = by_style[originals[prompt.style]].get(prompt.pair_id)
        if found is None:
            raise ArtifactError(
                f"{prompts.manifest.folder}: pair {prompt.pair_id} has a prompt of style "
                f"{prompt.style} and none of {originals[prompt.style]}, by which it is judged. "
                "Correct originals=."
            )
        texts[prompt.prompt_id] = found
    return texts


def _ceiling(
    cfg: JudgeConfig, prompts: Prompts, texts: Mapping[str, str], *, styles: set[str]
) -> Source:
    """Return the prompts' own pictures as an arm."""
    assert cfg.images is not None
    images = open_images(cfg.images)
    chosen = [prompt for prompt in prompts.rows if prompt.style in styles]
    known = set(images.sample_ids)
    if absent := [prompt.pair_id for prompt in chosen if prompt.pair_id not in known]:
        raise ArtifactError(
            f"{cfg.images}: {len(absent):,} of {len(chosen):,} prompts of {cfg.prompts} speak of "
            f"no picture of it, {absent[0]} first; give the images that the prompts were made from"
        )
    rows: Sequence[int] = [images.row_of(prompt.pair_id) for prompt in chosen]
    judged = [
        Judged(f"{PICTURES_ARM}:{p.prompt_id}", PICTURES_ARM, -1, -1, 0, p, texts[p.prompt_id])
        for p in chosen
    ]
    return Source(images.manifest.digest, judged, lambda place: bytes(images.read(rows[place])))
