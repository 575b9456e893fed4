"""Prompts to generations, in shards that may be made in any order and by any process.

A generation is a function of (model, prompt_id, seed, recipe): not of which others were drawn with
it, of the process or of a resume. Its noise is keyed by seed and `pair_id`, so arms and styles
share it. This process plans, hands out shards and writes the index, without torch; `t2i.painter`
draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.errors import ArtifactError, ConfigError
from launch.manifest import SCRATCH, canonical_json, write_json
from launch.parts import map_parts, pending, take
from launch.processes import accelerator, set_threads, world_size
from launch.progress import Progress
from launch.run import Run
from t2i.artifacts import (
    GENERATIONS,
    MODEL,
    PROMPTS,
    VERSIONS,
    GenerationRow,
    Model,
    Prompt,
    Prompts,
    generation_id,
    open_model,
    open_prompts,
    read_shard_members,
    write_generation_shard,
    write_generations_index,
)
from t2i.config import SampleConfig

if TYPE_CHECKING:
    from t2i.painter import PromptStates

TEXTS, LENGTHS = "texts.json", "lengths.json"
"""In the scratch folder: the distinct texts, and how long each is."""


class Drawing(NamedTuple):
    """One picture to draw."""

    samples_seen: int
    """Snapshot of the model."""

    prompt: Prompt
    seed: int
    generation_id: str


def sample(cfg: SampleConfig, run: Run) -> None:
    """Write the pictures that a model, and its earlier snapshots, draw for a prompt table."""
    model, prompts = open_model(cfg.model), open_prompts(cfg.prompts)
    run.input("model", cfg.model, artifact=MODEL, version=VERSIONS[MODEL])
    run.input("prompts", cfg.prompts, artifact=PROMPTS, version=VERSIONS[PROMPTS])
    check_solver(cfg, model)
    drawings = plan_drawings(cfg, model=model, prompts=prompts)
    num_snapshots = len({drawing.samples_seen for drawing in drawings})
    plan: dict[str, object] = {
        "arm": f"{model.arm}, seed {model.model_seed}, {model.samples_seen:,} samples seen",
        "generations": len(drawings),
        "prompts": len({drawing.prompt.prompt_id for drawing in drawings}),
        "snapshots": num_snapshots,
        "solver": f"{cfg.solver or 'as saved'}, {cfg.num_steps} steps, "
        f"guidance {cfg.guidance_scale:g}",
    }
    recipe = {"arm": model.arm, "model_seed": model.model_seed}
    if not run.start(plan, recipe=recipe, gib=len(drawings) * picture_bytes(model) / 2**30):
        return

    prepare_scratch(run.out / SCRATCH, drawings)
    tasks = plan_tasks(cfg, out=run.out, model=model, drawings=drawings)
    draw_all(cfg, tasks, run)
    if not run.is_main:
        return
    num_truncated = count_truncated(tasks[0])
    write_generations_index(run.out / "index.parquet", index_rows(run.out, tasks))
    run.finish(
        artifact=GENERATIONS,
        version=VERSIONS[GENERATIONS],
        counts={
            "rows_in": len(drawings),
            "rows_out": len(drawings),
            "snapshots": num_snapshots,
            "prompts": len({drawing.prompt.prompt_id for drawing in drawings}),
            "prompts_truncated": num_truncated,
        },
        parts=["index.parquet", *(task.name for task in tasks)],
    )


def plan_drawings(cfg: SampleConfig, *, model: Model, prompts: Prompts) -> list[Drawing]:
    """List what is drawn, in the order of the index: by snapshot, prompt and seed.

    Raises:
        ConfigError: A style that the prompts do not have.
    """
    styles = cfg.styles or prompts.styles
    absent = sorted({*styles, *cfg.curve_styles} - set(prompts.styles))
    if absent:
        raise ConfigError(
            f"{cfg.prompts}: has no prompts of style {', '.join(absent)}; its styles are "
            f"{', '.join(prompts.styles)}. Correct `styles` and `curve_styles`."
        )
    solving = {
        "solver": cfg.solver,
        "num_steps": cfg.num_steps,
        "guidance_scale": cfg.guidance_scale,
        "batch_size": cfg.batch_size,
        "threads": cfg.threads,
        "compile": cfg.compile,
    }
    recipe, digest = canonical_json(solving).decode(), model.manifest.digest
    curve_pairs = set(prompts.pair_ids[: cfg.curve_pairs])
    curve = [p for p in prompts.rows if p.style in cfg.curve_styles and p.pair_id in curve_pairs]
    final = [p for p in prompts.rows if p.style in styles]
    chosen = [(seen, curve) for seen in model.snapshots] + [(model.samples_seen, final)]
    return [
        Drawing(
            samples_seen=seen,
            prompt=prompt,
            seed=seed,
            generation_id=generation_id(
                model_digest=digest,
                samples_seen=seen,
                prompt_id=prompt.prompt_id,
                seed=seed,
                recipe=recipe,
            ),
        )
        for seen, rows in chosen
        for prompt in rows
        for seed in range(cfg.seed, cfg.seed + cfg.seeds_per_prompt)
    ]


def check_solver(cfg: SampleConfig, model: Model) -> None:
    """Refuse a solver that cannot sample what the model learned."""
    is_flow = "FlowMatch" in str(read_config(model, "scheduler")["_class_name"])
    unfit = "ddim" if is_flow else "flow-euler"
    if cfg.solver == unfit:
        fitting = "flow-euler" if is_flow else "ddim"
        raise ConfigError(
            f"solver {unfit} cannot sample {model.folder}, which learned "
            f"{'a flow' if is_flow else 'noise or v-prediction'}; choose {fitting} or dpm-solver++"
        )


def picture_bytes(model: Model) -> int:
    """Return about how many bytes one picture takes, from the model's configuration files."""
    levels = len(read_config(model, "vae")["block_out_channels"])
    side = int(read_config(model, "denoiser")["sample_size"]) * 2 ** (levels - 1)
    # A generated picture hardly compresses; a tar rounds each member up to blocks of 512 bytes.
    return 3 * side * side + 1536


def read_config(model: Model, component: str) -> dict[str, Any]:
    """Return the configuration file of a component.

    Raises:
        ArtifactError: It is absent or not JSON.
    """
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    path = model.folder / component / name
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); train the model again") from error
    return found


# --------------------------------------------------------------------------- shards


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process needs to draw one shard."""

    name: str
    """File of the shard, below `out`."""

    out: Path
    cfg: SampleConfig
    model: Model

    weights: Path | None
    """Denoiser weights of an earlier snapshot; None is the finished model."""

    drawings: list[Drawing]


def plan_tasks(
    cfg: SampleConfig, *, out: Path, model: Model, drawings: Sequence[Drawing]
) -> list[Task]:
    """Cut the drawings into shards of one snapshot each, in order."""
    snapshots: dict[int, list[Drawing]] = {}
    for drawing in drawings:
        snapshots.setdefault(drawing.samples_seen, []).append(drawing)
    size = -(-cfg.images_per_shard // cfg.batch_size) * cfg.batch_size
    return [
        Task(
            name=f"shards/seen-{seen:012d}-{start // size:05d}.tar",
            out=out,
            cfg=cfg,
            model=model,
            weights=model.snapshots.get(seen),
            drawings=group[start : start + size],
        )
        for seen, group in snapshots.items()
        for start in range(0, len(group), size)
    ]


def prepare_scratch(folder: Path, drawings: Sequence[Drawing]) -> None:
    """Write the distinct texts for whoever draws; the empty one is what guidance points from."""
    texts = dict.fromkeys(["", *(drawing.prompt.prompt for drawing in drawings)])
    write_json(folder / TEXTS, list(texts))


def draw_all(cfg: SampleConfig, tasks: Sequence[Task], run: Run) -> None:
    """Draw the shards that are absent: in this process, in several, or in all of a launch."""
    by_name = {task.name: task for task in tasks}
    left = pending(run.out, list(by_name))
    sizes = {name: len(task.drawings) for name, task in by_name.items()}
    with run.progress(sum(sizes.values())) as progress:
        progress.resume(sum(sizes.values()) - sum(sizes[name] for name in left))
        if world_size() > 1:
            together = accelerator()
            for name in take(run.out, left):
                draw(by_name[name], progress)
            together.wait_for_everyone()
        elif cfg.num_workers == 1:
            for name in left:
                draw(by_name[name], progress)
        else:
            counter = _FinishedShards(run.out, {name: sizes[name] for name in left}, progress)
            work = [by_name[name] for name in left]
            map_parts(draw, work, num_workers=cfg.num_workers, progress=counter)


class _FinishedShards:
    """Counts the pictures of the shards that worker processes have finished."""

    def __init__(self, out: Path, sizes: dict[str, int], progress: Progress) -> None:
        self._out, self._left, self._progress = out, sizes, progress

    def advance(self, num: int = 1) -> None:
        """Look which shards are there now."""
        still = set(pending(self._out, list(self._left)))
        for name in [name for name in self._left if name not in still]:
            self._progress.advance(self._left.pop(name))


def draw(task: Task, progress: Progress | None = None) -> None:
    """Draw one shard and write it."""
    from t2i.painter import load_painter, noise_of

    cfg, drawings = task.cfg, task.drawings
    set_threads(cfg.threads)
    states = encoded_texts(task)
    painter = load_painter(
        task.model.folder, task.model.manifest.digest, cfg.solver, is_compiled=cfg.compile
    )
    painter.use(task.weights)
    pixels = painter.paint(
        [drawing.prompt.prompt for drawing in drawings],
        noise=noise_of(
            [drawing.prompt.pair_id for drawing in drawings],
            [drawing.seed for drawing in drawings],
            shape=painter.latent_shape,
        ),
        states=states,
        batch_size=cfg.batch_size,
        num_steps=cfg.num_steps,
        guidance_scale=cfg.guidance_scale,
        on_batch=lambda num: None if progress is None else progress.advance(num),
    )
    keys = [drawing.generation_id for drawing in drawings]
    write_generation_shard(task.out / task.name, keys=keys, pixels=pixels)


def encoded_texts(task: Task) -> PromptStates:
    """Return the states of all prompts, encoding them if no process has."""
    from t2i.painter import text_states

    scratch = task.out / SCRATCH
    return text_states(
        task.model.folder,
        tuple(json.loads((scratch / TEXTS).read_text())),
        states=scratch / "states.npy",
        lengths=scratch / LENGTHS,
        batch_size=task.cfg.batch_size,
    )


def count_truncated(task: Task) -> int:
    """Return how many distinct prompts are longer than the model takes."""
    path = task.out / SCRATCH / LENGTHS
    if not path.is_file():  # a run killed when all was drawn and the scratch folder half removed
        return encoded_texts(task).num_truncated
    return int(json.loads(path.read_text())["num_truncated"])


def index_rows(out: Path, tasks: Sequence[Task]) -> Iterator[GenerationRow]:
    """Yield the index of finished shards.

    Raises:
        ArtifactError: A shard holds other pictures than were planned.
    """
    for task in tasks:
        members = list(read_shard_members(out / task.name))
        if [m.key for m in members] != [drawing.generation_id for drawing in task.drawings]:
            raise ArtifactError(
                f"{out / task.name}: does not hold the {len(task.drawings):,} pictures planned "
                "for it; delete it and give the command again"
            )
        for drawing, member in zip(task.drawings, members, strict=True):
            yield GenerationRow(
                generation_id=drawing.generation_id,
                prompt_id=drawing.prompt.prompt_id,
                pair_id=drawing.prompt.pair_id,
                style=drawing.prompt.style,
                seed=drawing.seed,
                samples_seen=drawing.samples_seen,
                shard=task.name,
                offset=member.offset,
                num_bytes=member.num_bytes,
                key=member.key,
            )
