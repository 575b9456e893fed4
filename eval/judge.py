"""`eval judge`: yes-or-no questions about generated pictures, as scores like any others.

    asked   a vision-language model behind an endpoint: is all there that the prompt asks for; the
            questions that a prompt carries, gated by those that they depend on
    vqa     a local BLIP-VQA: is each noun phrase of the prompt there

Writes a scores artifact, and beside its rows the answers that they follow from. A report takes it
with `judged=[DIR]`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from eval import artifacts, asked_judge
from eval.config import JudgeConfig, VqaConfig
from eval.judge_artifact import ANSWERS_FILE, write_answers
from eval.judge_rows import asked_of, read_lists, score_rows
from eval.judged_pictures import Pictures, open_pictures
from eval.phrases import read_phrases
from eval.vqa_folder import Found, find
from launch.manifest import canonical_json, digest_bytes, digest_file, write_parquet
from launch.run import Run
from recap.artifacts import IMAGES
from t2i.artifacts import GENERATIONS, PROMPTS, open_prompts

VLM, VQA = "vlm", "vqa"
"""Names of the judges among the scorers of a recipe."""

SCORES_FILE = "scores.parquet"


def judge(cfg: JudgeConfig, run: Run) -> None:
    """Ask about every picture and write its scores."""
    run.input("prompts", cfg.prompts, artifact=PROMPTS)
    for folder in cfg.generations:
        run.input("generations", folder, artifact=GENERATIONS)
    if cfg.images is not None:
        run.input("images", cfg.images, artifact=IMAGES)
    pictures = open_pictures(cfg, open_prompts(cfg.prompts))
    if cfg.asked is not None:
        _ask_server(cfg, run, pictures)
    else:
        _ask_model(cfg, run, pictures)


def source_digest(cfg: JudgeConfig) -> str | None:
    """Return the digest of model and phrases as they are now; None where they are not at hand."""
    vqa = cfg.vqa
    if vqa is None or not vqa.model.is_dir() or (vqa.phrases and not vqa.phrases.is_file()):
        return None
    return _digest(vqa, find(vqa.model))


def _digest(cfg: VqaConfig, found: Found) -> str:
    phrases = None if cfg.phrases is None else digest_file(cfg.phrases)
    return digest_bytes(canonical_json([found.digest, phrases]))


def _plan_of(pictures: Pictures) -> dict[str, object]:
    others = {style: by for style, by in pictures.originals.items() if style != by}
    told = ", ".join(f"{style} by the text of {by}" for style, by in others.items())
    return {"pictures": len(pictures), "judged by": told or "their own prompts"}


def _ask_server(cfg: JudgeConfig, run: Run, pictures: Pictures) -> None:
    assert cfg.asked is not None
    asking = cfg.asked
    prompts = [prompt for prompt, _ in pictures.prompts.values()]
    lists = read_lists(prompts, asking) if "questions" in asking.ask else None
    asked = {
        prompt_id: asked_of(prompt, text, cfg=asking, lists=lists)
        for prompt_id, (prompt, text) in pictures.prompts.items()
    }
    num = sum(len(asked[picture.prompt.prompt_id]) for picture in pictures.judged)
    cost = asked_judge.expected(asking, asked=asked, num=num)
    usd = f"about {cost.usd:.2f} USD, at most {cost.most_usd:.2f} without retries"
    budget = asking.endpoint.budget_usd
    plan = {
        **_plan_of(pictures),
        "asked": f"{asking.endpoint.model} at {asking.endpoint.base_url}",
        "questions": num,
        "expected tokens": f"about {cost.input_tokens:,} in, {cost.output_tokens:,} out",
        "expected cost": usd if cost.most_usd else "no prices given",
        "budget": "none" if budget is None else f"{budget:.2f} USD",
    }
    if lists is not None and lists.num_in_circles:
        plan["prompts in circles"] = f"{lists.num_in_circles:,}, without questions_yes_ancestors"
    if not run.start(plan, gib=num * 300 / 2**30):
        return
    verdicts = asked_judge.ask(asking, run, pictures=pictures, asked=asked)
    scored = score_rows(pictures.judged, cfg=asking, lists=lists, truth=verdicts.truth)
    rows = asked_judge.answer_rows(pictures, asked=asked, verdicts=verdicts)
    write_answers(run.out / ANSWERS_FILE, rows)
    counts = Counter(f"answers_{row['verdict']}" for row in rows)
    _finish(
        run,
        pictures,
        scored.rows,
        rejected=scored.rejected,
        counts={
            "answers": len(rows),
            **dict(sorted(counts.items())),
            "answers_unused": scored.num_unused,
            "prompts_in_circles": lists.num_in_circles if lists else 0,
        },
        scorer={VLM: asked_judge.describe(asking, verdicts, originals=pictures.originals)},
    )


def _ask_model(cfg: JudgeConfig, run: Run, pictures: Pictures) -> None:
    from eval import blip_vqa, vqa_judge
    from launch.processes import noted_device, set_threads

    assert cfg.vqa is not None
    vqa = cfg.vqa
    given = None if vqa.phrases is None else read_phrases(vqa.phrases)
    phrases = vqa_judge.find_phrases(pictures.prompts, given=given, cfg=vqa)
    found = find(vqa.model)
    run.external_input("source", vqa.model, _digest(vqa, found))
    sources = Counter(of_prompt.source for of_prompt in phrases.values())
    num = sum(
        len(phrases[j.prompt.prompt_id].texts)
        for j in pictures.judged
        if j.prompt.prompt_id in phrases
    )
    plan = {
        **_plan_of(pictures),
        "questions": num,
        "phrases from": ", ".join(f"{name} {n:,}" for name, n in sources.items()),
        "prompts without a phrase": len(pictures.prompts) - len(phrases),
    }
    recipe = {"code": vqa_judge.CODE, **noted_device()}
    if not run.start(plan, gib=num * 200 / 2**30, recipe=recipe):
        return
    set_threads(vqa.threads)
    model = blip_vqa.load(vqa, found)
    table = vqa_judge.look(run, model=model, pictures=pictures, phrases=phrases)
    scored = vqa_judge.score_rows(pictures.judged, table)
    write_answers(run.out / ANSWERS_FILE, table.to_pylist())
    _finish(
        run,
        pictures,
        scored.rows,
        rejected=scored.rejected,
        counts={"answers": table.num_rows},
        scorer={
            VQA: vqa_judge.describe(
                model, weights=found.digest, phrases=phrases, originals=pictures.originals
            )
        },
    )


def _finish(
    run: Run,
    pictures: Pictures,
    rows: list[dict[str, Any]],
    *,
    rejected: Counter[str],
    counts: dict[str, int],
    scorer: dict[str, Any],
) -> None:
    columns = {name: [row[name] for row in rows] for name in artifacts.SCORES_SCHEMA.names}
    write_parquet(run.out / SCORES_FILE, artifacts.scores_table(columns))
    run.finish(
        artifact=artifacts.SCORES,
        version=artifacts.SCORES_VERSION,
        counts={
            "rows_in": len(pictures),
            "rows_out": len({row["generation_id"] for row in rows}),
            "scores": len(rows),
            **counts,
        },
        rejected=dict(sorted(rejected.items())),
        parts=[SCORES_FILE, ANSWERS_FILE],
        recipe={"scorers": scorer},
    )
