"""Whether generations are exactly what they were to be: complete, and paired between arms.

A mean over whatever pictures happen to be there is another number, so a generation missing, one too
many or one given twice is an error that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.errors import ArtifactError, ConfigError
from t2i.artifacts import Generations, Prompts


def check_complete(generations: Generations, prompts: Prompts, *, where: str) -> None:
    """Check that each prompt of each style has one picture per seed and snapshot, and no other.

    Raises:
        ArtifactError: Naming the first generation that is missing, extra, double or misnamed.
    """
    table = generations.table
    twice = [i for i, num in Counter(table["generation_id"].to_pylist()).items() if num > 1]
    if twice:
        raise ArtifactError(
            f"{where}: generation {min(twice)} occurs more than once; each picture has an id of "
            "its own. Sample again into an empty folder."
        )
    known = {prompt.prompt_id: prompt for prompt in prompts.rows}
    columns = [table[n].to_pylist() for n in ("generation_id", "prompt_id", "pair_id", "style")]
    for generation_id, prompt_id, pair_id, style in zip(*columns, strict=True):
        prompt = known.get(prompt_id)
        if prompt is None or (prompt.pair_id, prompt.style) != (pair_id, style):
            raise ArtifactError(
                f"{where}: generation {generation_id} names prompt {prompt_id} of pair {pair_id}, "
                f"style {style}, which the prompts do not have. Sample again for these prompts."
            )
    found = Counter(
        zip(*(table[n].to_pylist() for n in ("samples_seen", "prompt_id", "seed")), strict=True)
    )
    expected = set(expected_pictures(generations, prompts))
    for missing in sorted(expected - found.keys())[:1]:
        raise ArtifactError(
            f"{where}: {len(expected - found.keys()):,} of {len(expected):,} generations are "
            f"missing, first that of prompt {missing[1]}, seed {missing[2]}, after {missing[0]:,} "
            "samples; a mean over the others would be another number. Sample again."
        )
    extra = sorted((found.keys() - expected) | {key for key, num in found.items() if num > 1})
    for samples_seen, prompt_id, seed in extra[:1]:
        raise ArtifactError(
            f"{where}: one generation too many: prompt {prompt_id}, seed {seed}, after "
            f"{samples_seen:,} samples, was not asked for or is there twice. Sample again."
        )


def expected_pictures(generations: Generations, prompts: Prompts) -> Iterator[tuple[int, str, int]]:
    """Yield (samples_seen, prompt_id, seed) of every picture that its recipe asks for."""
    recipe = generations.manifest.recipe
    seeds = range(recipe["seed"], recipe["seed"] + recipe["seeds_per_prompt"])
    styles = recipe["styles"] or prompts.styles
    curve_pairs = set(prompts.pair_ids[: recipe["curve_pairs"]])
    seen = generations.samples_seen
    for prompt in prompts.rows:
        for seed in seeds:
            if prompt.style in styles:
                yield seen[-1], prompt.prompt_id, seed
            if prompt.style in recipe["curve_styles"] and prompt.pair_id in curve_pairs:
                for earlier in seen[:-1]:
                    yield earlier, prompt.prompt_id, seed


def refuse_unpaired(
    models: Sequence[tuple[str, int]],
    drawn: Sequence[set[tuple[int, str, int]]],
    *,
    folders: Sequence[Path],
) -> None:
    """Refuse two folders of one model, and models that drew different prompts or seeds.

    Args:
        models: Arm and training seed of each folder.
        drawn: (samples_seen, prompt_id, seed) of the pictures in each.
        folders: Where they lie.

    Raises:
        ConfigError: There are none.
        ArtifactError: Naming the first picture that only one of two folders has.
    """
    if not models:
        raise ConfigError("generations: none given; name at least one generations artifact")
    seen: dict[tuple[str, int], Path] = {}
    for model, pictures, folder in zip(models, drawn, folders, strict=True):
        if model in seen:
            raise ArtifactError(
                f"{folder}: holds arm {model[0]!r}, seed {model[1]}, as {seen[model]} does; "
                "give each model once"
            )
        seen[model] = folder
        if pictures != drawn[0]:
            samples_seen, prompt_id, seed = min(pictures ^ drawn[0])
            raise ArtifactError(
                f"{folder} and {folders[0]} are not paired: only one of them has a picture "
                f"of prompt {prompt_id}, seed {seed}, after {samples_seen:,} samples. Sample both "
                "with the same settings."
            )
