"""`eval report`: one self-contained page that answers the study's question, its tables and figures.

Reads scores, generations, caption measurements and what stands behind them, and writes

* `report.html`: the page, which opens from disk and asks for nothing else,
* `tables/*.csv` at full precision, `figures/*.svg` and `*.png`,
* `summary.txt`: the answer for a terminal.

Every number comes from `eval.report_answers`; this module decides what is said where. Tables,
figures and summary depend on the inputs alone and are the digested payload. The page also tells
time and disk of every stage, which no two runs share, so page and `cost.csv` stand outside the
digest, as `run.log.jsonl` does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval import report_facts as facts
from eval import report_figures as figures
from eval import report_tables as tables
from eval.artifacts import (
    CAPTIONS_REPORT,
    CAPTIONS_REPORT_VERSION,
    JUDGE,
    JUDGE_VERSION,
    SCORES,
    SCORES_VERSION,
    CaptionsReport,
    Judge,
    Scores,
    open_captions_report,
    open_judge,
    open_scores,
)
from eval.config import PrimaryConfig, ReportConfig
from eval.page import render
from eval.report_answers import (
    DIGITS,
    Answers,
    Measure,
    ScoreTable,
    answer,
    number,
    order_arms,
    primary_measure,
)
from eval.report_pictures import (
    DRAWN,
    GREATEST,
    PIXELATED_SIDE,
    Choice,
    Example,
    Row,
    Shot,
    caption_examples,
    choose,
    data_uri,
    picture_itself,
)
from eval.report_provenance import (
    Stage,
    conditions,
    samplers,
    walk,
)
from eval.report_tables import Table
from eval.summary import PAGE, SUMMARY, summary_text
from launch.errors import ArtifactError, InputError
from launch.manifest import write_bytes
from launch.run import Run
from recap.artifacts import CAPTIONER, IMAGES, Images, open_images
from recap.claims import AXES
from t2i.artifacts import (
    AUTOENCODER,
    GENERATIONS,
    PROMPTS,
    Generations,
    Prompts,
    open_generations,
    open_prompts,
)

REPORT = "report"
REPORT_VERSION = 1


@dataclass(frozen=True)
class Opened:
    """Everything that the report reads."""

    scores: Scores
    generations: list[Generations]
    prompts: Prompts
    images: Images
    captions: CaptionsReport
    judge: Judge
    stages: list[Stage]

    @cached_property
    def table(self) -> ScoreTable:
        """Return the score rows by what they measure."""
        return ScoreTable(self.scores.table)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template shows, beside the answers."""

    tables: dict[str, Table]
    drawings: dict[str, Any]
    pictures: list[Row]
    picture_rule: str
    examples: list[Example]
    is_pixelated: bool


def report(cfg: ReportConfig, run: Run) -> None:
    """Write the report of a study."""
    opened = _open(cfg, run)
    listed = [g.arm for g in opened.generations]
    arms = order_arms(cfg.primary, listed)
    primary_measure(cfg.primary)
    _refuse_other_scores(opened)
    plan = {
        "arms": ", ".join(arms),
        "score rows": opened.scores.table.num_rows,
        "artifacts behind it": len(opened.stages),
        "resamples": cfg.resamples,
    }
    if not run.start(plan, minutes=0.5, gib=0.02):
        return

    measurable = [a for a in AXES if opened.judge.measurable.get(a, False)]
    answers = answer(
        opened.table,
        arms=arms,
        primary=cfg.primary,
        axes=measurable,
        is_control=cfg.control,
        withheld=doubt(opened.judge.quality),
        resamples=cfg.resamples,
        seed=cfg.seed,
    )
    answers = replace(answers, caveats=answers.caveats + _scale(opened.images, answers))
    for stale in ("tables", "figures"):  # of a run that was stopped half-way
        shutil.rmtree(run.out / stale, ignore_errors=True)
    page = _make_page(opened, answers, cfg=cfg, folder=run.out)
    parts = [f"tables/{name}.csv" for name in page.tables]
    for name, table in page.tables.items():
        write_bytes(run.out / "tables" / f"{name}.csv", table.csv())
    for drawing in _drawings(page):
        parts += drawing.files
    write_bytes(run.out / SUMMARY, summary_text(answers, study=cfg.study).encode())
    write_bytes(run.out / PAGE, _render(opened, answers, page, cfg=cfg, folder=run.out))
    run.finish(
        artifact=REPORT,
        version=REPORT_VERSION,
        counts={
            "arms": len(arms),
            "score_rows": opened.scores.table.num_rows,
            "secondary_comparisons": answers.num_secondary,
        },
        parts=[*parts, SUMMARY],
    )


def doubt(quality: Mapping[str, Any]) -> str | None:
    """Say why a judge of this quality may rank nothing; None if it may.

    Its retrieval, in both directions, must lie above chance beyond its interval.
    """
    retrieval = quality.get("retrieval")
    directions = {
        "caption of a picture": "image_to_text",
        "picture of a caption": "text_to_image",
    }
    if not isinstance(retrieval, Mapping) or not any(d in retrieval for d in directions.values()):
        return "the judge does not say how often it finds the caption that belongs to a picture"
    for words, direction in directions.items():
        found = retrieval.get(direction)
        if found is None:
            continue
        low, high = found["interval"]
        if not low > found["chance"]:
            return (
                f"the judge cannot be told from chance: it finds the {words} in "
                f"{number(100 * found['r_at_1'], 1)}% [{number(100 * low, 1)}, "
                f"{number(100 * high, 1)}] of cases among {retrieval['num_pictures']:,}, and "
                f"chance is {number(100 * found['chance'], 1)}%"
            )
    return None


SMALL_SET = 10_000
"""Training pictures below which the report says what so few can show."""


def _scale(images: Images, answers: Answers) -> list[str]:
    """Say what a small training set can and cannot show."""
    num_train = images.split.count("train")
    if not 0 < num_train < SMALL_SET:
        return []
    return [
        f"{num_train:,} training pictures are few. They can show that the whole chain works on "
        f"them, and differences large enough to be seen at this size over "
        f"{answers.grid[0].num_prompts if answers.grid else 0:,} test prompts; they cannot show "
        "what these captions would do for a model trained on millions."
    ]


# --------------------------------------------------------------------------- inputs


def _open(cfg: ReportConfig, run: Run) -> Opened:
    run.input("scores", cfg.scores, artifact=SCORES, version=SCORES_VERSION)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    run.input("images", cfg.images, artifact=IMAGES)
    run.input("captions", cfg.captions, artifact=CAPTIONS_REPORT, version=CAPTIONS_REPORT_VERSION)
    run.input("judge", cfg.judge, artifact=JUDGE, version=JUDGE_VERSION)
    run.input("autoencoder", cfg.autoencoder, artifact=AUTOENCODER)
    for folder in cfg.captioners:
        run.input("captioner", folder, artifact=CAPTIONER)
    return Opened(
        scores=open_scores(cfg.scores),
        generations=[open_generations(folder) for folder in cfg.generations],
        prompts=open_prompts(cfg.prompts),
        images=open_images(cfg.images),
        captions=open_captions_report(cfg.captions),
        judge=open_judge(cfg.judge),
        stages=walk(run.inputs),
    )


def _refuse_other_scores(opened: Opened) -> None:
    """Refuse scores of other pictures, prompts or another judge than those given."""
    scores = opened.scores.manifest
    read = {i.digest for i in scores.inputs}
    given = [("judge", opened.judge.manifest), ("prompts", opened.prompts.manifest)]
    given += [("generations", g.manifest) for g in opened.generations]
    for role, manifest in given:
        if manifest.digest not in read:
            raise ArtifactError(
                f"{scores.folder}: was not made with the {role} of {manifest.folder} "
                f"(digest {manifest.digest[:12]}); scores of different inputs are never mixed. "
                "Score again, or name the inputs that these scores were made with."
            )
    table = opened.scores.table
    scored = set(table["generation_id"].unique().to_pylist())
    known: set[str] = set()
    for generations in opened.generations:
        ids = set(generations.table["generation_id"].to_pylist())
        absent = sorted(ids - scored)
        if absent:
            raise ArtifactError(
                f"{scores.folder}: {len(absent):,} pictures of {generations.manifest.folder} have "
                f"no score, {absent[0]} first; a mean over what happens to be there is no mean. "
                "Score them again."
            )
        known |= ids
    arms = set(opened.table.arms)
    unknown = sorted(arms - {g.arm for g in opened.generations})
    if unknown:
        raise InputError(
            f"{scores.folder}: holds arm {unknown[0]!r}, of which no generations are given; "
            "name the generations of every arm that was scored."
        )


# --------------------------------------------------------------------------- content


def _make_page(opened: Opened, answers: Answers, *, cfg: ReportConfig, folder: Path) -> Page:
    """Make every table, drawing and picture; the drawings are written as they are made."""
    measure = primary_measure(cfg.primary)
    of_style = [c for c in answers.following if c.measure.style == cfg.primary.style]
    unmeasured = [a for a, is_read in opened.judge.measurable.items() if not is_read]
    axes_rows, caption_axes = facts.caption_axes(opened.captions)
    made: dict[str, Table | None] = {
        "primary": tables.tests_table(answers),
        "pairs": tables.pairs_table(answers, measure),
        "curves": tables.curves_table(answers),
        "grid": tables.cells_table(
            answers.grid, answers, name="grid", title="CLIP similarity × 100",  # noqa: RUF001
            first=("prompt style", "scored with"),
        ),
        "distances": tables.cells_table(
            answers.distances, answers, name="distances", title="CLIP cosine distance",
            first=("prompt style", "scored with"),
        ),
        "following": tables.cells_table(
            answers.following, answers, name="following", title="Claims that hold, %",
            first=("prompt style", "axis"), unmeasured=unmeasured,
        ),
        "captions": caption_axes,
        "lengths": facts.caption_lengths(opened.captions),
        "regularities": facts.regularities(opened.captions),
        "retrieval": facts.retrieval(opened.judge),
        "recogniser": facts.recogniser(opened.judge),
        "quality": facts.quality(opened.stages, autoencoder=cfg.autoencoder),
        "scorer": facts.scorer(opened.scores.manifest),
    }  # fmt: skip
    labels = [_grid_label(c.measure) for c in answers.grid]
    drawings = {
        "pairs": figures.draw_pairs(answers, measure, folder),
        "curves": figures.draw_curves(answers.curves, answers.arms, folder),
        "grid": figures.draw_differences(
            answers.grid, answers, folder, name="grid", labels=labels
        ),
        "axes": figures.draw_axes(of_style, answers, folder, unmeasured=unmeasured),
        "captions": figures.draw_captions(axes_rows, folder),
    }  # fmt: skip
    pictures, side = _pictures(opened, answers, cfg=cfg)
    made["pictures"] = _pictures_table(pictures, measure=measure, primary=cfg.primary)
    return Page(
        tables={name: table for name, table in made.items() if table is not None},
        drawings=drawings,
        pictures=pictures,
        picture_rule=_picture_rule(pictures, cfg.primary),
        examples=caption_examples(opened.captions.examples, opened.images, side=side),
        is_pixelated=side <= PIXELATED_SIDE,
    )


def _drawings(page: Page) -> list[figures.Drawing]:
    found = []
    for drawing in page.drawings.values():
        found += drawing if isinstance(drawing, list) else [drawing]
    return [d for d in found if d is not None]


def _grid_label(measure: Measure) -> str:
    own = measure.scoring == measure.style
    return f"{measure.style} prompt, {'itself' if own else f'{measure.scoring} caption'}"


# --------------------------------------------------------------------------- pictures


def _pictures(opened: Opened, answers: Answers, *, cfg: ReportConfig) -> tuple[list[Row], int]:
    """Return the rows of pictures, and the side of one."""
    texts = opened.prompts.texts(cfg.primary.style)
    shown = _first_seed(opened.generations, answers.arms)
    places = {arm: _places(g, cfg.primary.style) for arm, g in shown.items()}
    drawn = set.intersection(*(set(p) for p in places.values())) if places else set()
    pair_ids = sorted(p for p in drawn if p in texts)
    if not pair_ids:
        return [], PIXELATED_SIDE
    side = shown[answers.arms[0]].pixels([next(iter(places[answers.arms[0]].values()))]).shape[1]
    measure = primary_measure(cfg.primary)
    values = {arm: _values(opened.table, measure, arm, shown[arm]) for arm in shown}
    better, than = (values.get(a, {}) for a in (cfg.primary.better, cfg.primary.than))
    differences = {p: better[p] - than[p] for p in pair_ids if p in better and p in than}
    choices = choose(differences, pair_ids=pair_ids, num_pictures=cfg.num_pictures, seed=cfg.seed)
    digits = DIGITS[measure.metric]
    rows = []
    for choice in choices:
        shots = picture_itself(opened.images, choice.pair_id, side=side)
        for arm, generations in shown.items():
            pixels = generations.pixels([places[arm][choice.pair_id]])[0]
            value = values[arm].get(choice.pair_id)
            score = "" if value is None else number(value, digits)
            shots.append(Shot(label=arm, uri=data_uri(pixels), score=score))
        rows.append(Row(choice=choice, prompt=texts[choice.pair_id], shots=shots))
    return rows, side


def _first_seed(generations: Sequence[Generations], arms: Sequence[str]) -> dict[str, Generations]:
    """Return, for every arm, the generations of the lowest training seed that all arms have."""
    seeds = [{g.model_seed for g in generations if g.arm == arm} for arm in arms]
    shared = set.intersection(*seeds) if seeds else set()
    if not shared:
        return {}
    seed = min(shared)
    return {
        arm: next(g for g in generations if g.arm == arm and g.model_seed == seed) for arm in arms
    }


def _places(generations: Generations, style: str) -> dict[str, int]:
    """Return the row of every pair at the last snapshot and the lowest noise seed."""
    table = generations.table
    columns = [table[n].to_pylist() for n in ("pair_id", "style", "seed", "samples_seen")]
    last, first = generations.samples_seen[-1], min(columns[2], default=0)
    return {
        pair: row
        for row, (pair, of, seed, seen) in enumerate(zip(*columns, strict=True))
        if of == style and seed == first and seen == last
    }


def _values(
    table: ScoreTable, measure: Measure, arm: str, generations: Generations
) -> dict[str, float]:
    """Return the score of every pair's shown picture."""
    rows = table.rows(measure, arm)
    if rows is None:
        return {}
    first = min(generations.table["seed"].to_pylist(), default=0)
    where = (rows.model_seed == generations.model_seed) & (rows.seed == first)
    pairs, values = rows.pair[where].tolist(), rows.value[where].tolist()
    return {table.pair_name(p): v for p, v in zip(pairs, values, strict=True)}


def _picture_rule(rows: Sequence[Row], primary: PrimaryConfig) -> str:
    drawn = sum(r.choice.reason == DRAWN for r in rows)
    extreme = sum(r.choice.reason == GREATEST for r in rows)
    if not rows:
        return "None."
    rule = (
        f"Prompts in {primary.style} style, chosen by rule: {drawn} drawn by key from the seed of "
        "the report"
    )
    if extreme:
        rule += (
            f", and the {extreme} with the greatest and the {extreme} with the least difference "
            f"{primary.better} \N{MINUS SIGN} {primary.than} on the primary measure, so that "
            "failures are seen beside successes"
        )
    return rule + ". Within a row only the captions of training differ."


def _pictures_table(rows: Sequence[Row], *, measure: Measure, primary: PrimaryConfig) -> Table:
    return Table(
        name="pictures",
        title="Prompts shown",
        columns=[],
        rows=[],
        records=[
            {
                "pair_id": r.choice.pair_id, "prompt": r.prompt, "reason": r.choice.reason,
                "metric": measure.metric, "arm": primary.better, "than": primary.than,
                "difference": r.choice.difference,
            }
            for r in rows
        ],
    )  # fmt: skip


# --------------------------------------------------------------------------- the page


def _render(
    opened: Opened, answers: Answers, page: Page, *, cfg: ReportConfig, folder: Path
) -> bytes:
    costs = facts.costs_of(opened.stages)
    cost = facts.cost_table(costs)
    write_bytes(folder / "cost.csv", cost.csv())
    curve_styles = list(dict.fromkeys(c.measure.style for c in answers.curves))
    empty = Table(name="none", title="", columns=[], rows=[])
    model_seeds = max((t.comparison.num_seeds for t in answers.tests), default=1)
    return render(
        "report.html.j2",
        study=cfg.study,
        question=cfg.question,
        is_control=cfg.control,
        answers=answers,
        sections=SECTIONS,
        tests=page.tables["primary"],
        pairs=page.tables.get("pairs"),
        curves=page.tables.get("curves", empty),
        grid=page.tables["grid"],
        distances=page.tables["distances"],
        following=page.tables["following"],
        figures=page.drawings,
        curve_prompts=_range([c.num_prompts for c in answers.curves]),
        curve_styles=curve_styles,
        model_seeds=model_seeds,
        measurable=_axes_state(opened, answers),
        pictures=_shown_rows(page.pictures, answers),
        picture_rule=page.picture_rule,
        picture_class="pixelated" if page.is_pixelated else "smooth",
        examples=page.examples,
        caption_axes=page.tables["captions"],
        caption_lengths=page.tables["lengths"],
        regularities=page.tables["regularities"],
        retrieval=page.tables["retrieval"],
        recogniser=page.tables["recogniser"],
        quality=page.tables["quality"],
        scorer=page.tables["scorer"],
        conditions=_conditions(opened, answers),
        cost=cost,
        cost_words=facts.cost_words(costs),
        provenance=facts.provenance(opened.stages),
    )


SECTIONS = (
    ("answer", "Answer"),
    ("training", "Training"),
    ("grid", "Grid"),
    ("following", "Prompt following"),
    ("pictures", "Pictures"),
    ("captions", "Captions"),
    ("caption-quality", "Caption quality"),
    ("quality", "Instrument"),
    ("conditional", "Conditions"),
    ("scorer", "Scorer"),
    ("cost", "Cost"),
    ("provenance", "Provenance"),
)
"""Sections of the page in order: id, name."""


def _range(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    low, high = min(numbers), max(numbers)
    return f"{low:,} prompts" if low == high else f"{low:,} to {high:,} prompts"


def _axes_state(opened: Opened, answers: Answers) -> list[tuple[str, str]]:
    """Say for every axis whether it can be measured, and how well the recogniser reads it."""
    spoken = {c.measure.axis for c in answers.following}
    read = opened.judge.quality.get("recogniser", {}).get("reconstructions", {})
    states = []
    for axis in AXES if opened.judge.measurable else ():
        accuracy = read.get(axis, {}).get("accuracy")
        how = (
            "" if accuracy is None else f" (read right in {100 * accuracy:.1f}% of reconstructions)"
        )
        if not opened.judge.measurable.get(axis, False):
            limit = opened.judge.quality.get("min_accuracy")
            below = "" if limit is None else f"; the limit is {100 * limit:.0f}%"
            states.append((tables.name_of_axis(axis), f"not measurable{how}{below}"))
        elif axis not in spoken:
            states.append((tables.name_of_axis(axis), f"no prompt speaks of it{how}"))
        else:
            states.append((tables.name_of_axis(axis), f"measured{how}"))
    return states


def _shown_rows(rows: Sequence[Row], answers: Answers) -> list[dict[str, Any]]:
    digits = DIGITS[primary_measure(answers.primary).metric]
    return [
        {
            "prompt": row.prompt,
            "shots": row.shots,
            "choice": {
                "reason": row.choice.reason,
                "difference": row.choice.difference,
                "difference_text": _difference_text(row.choice, digits),
            },
        }
        for row in rows
    ]


def _difference_text(choice: Choice, digits: int) -> str:
    return "" if choice.difference is None else number(choice.difference, digits)


def _conditions(opened: Opened, answers: Answers) -> list[str]:
    model_seeds = max((t.comparison.num_seeds for t in answers.tests), default=1)
    noise = {s for g in opened.generations for s in g.table["seed"].unique().to_pylist()}
    found = conditions(opened.stages, model_seeds=model_seeds, noise_seeds=len(noise))
    prompts = len(opened.prompts.pair_ids)
    lines = [*found.lines, f"{prompts:,} test pictures that the prompts speak of"]
    return lines + [f"pictures drawn with: {way}" for way in samplers(opened.stages)]
