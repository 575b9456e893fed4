from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from launch.config import build
from launch.errors import ArtifactError, ConfigError, StoppedError
from launch.run import Run, refuse_stale
from recap.claims import read, to_json
from t2i import upsample as verb
from t2i.artifacts import (
    PROMPTS,
    Prompt,
    Prompts,
    open_prompts,
    prompt_id,
    read_attempts,
    write_prompts,
)
from t2i.config import FitRewriterConfig, PromptsConfig, UpsampleConfig
from t2i.fit_rewriter import build as build_t5
from t2i.fit_text_encoder import train_tokenizer
from t2i.rewriter_source import find_rewriter, source_digest
from t2i.rewriters import ModelRewriter, choose, open_rewriter

sys.path.insert(0, str(Path(__file__).parent))
from chain import payload, run_verb

TEXT = "two small red rings at the top left of a grey picture and one large blue square below them"
LONG = "The picture shows {}. The background is a plain grey one."
WISHES = ("two red rings", "a blue square", "a red ring", "two small squares", "a blue square")
PAIRS = [f"{number:032x}" for number in range(len(WISHES))]
ENDS = [1, *range(3, 24)]  # </s> and sentinels: random texts end soon
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %} ###"


class Answers:
    """Rewrites by a rule that a test gives, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        self.answer = answer
        self.asked: list[tuple[int, list[str]]] = []

    def rewrite(self, texts: Sequence[str], attempt: int) -> list[str]:
        self.asked.append((attempt, list(texts)))
        return [self.answer(text, attempt) for text in texts]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs in two styles; the second wish comes twice."""
    out = tmp_path_factory.mktemp("prompts") / "prompts"
    run = Run(
        out=out,
        verb="t2i prompts",
        config=PromptsConfig(images=Path("i"), captions=[], styles=["a"]),
    )
    assert run.start({})
    rows = [
        Prompt(prompt_id(style=style, pair_id=pair, prompt=text), text, style, pair, to_json(read(text)), "rings", "[]")
        for pair, wish in zip(PAIRS, WISHES, strict=True)
        for style, text in (("human", wish), ("dsc", LONG.format(wish)))
    ]  # fmt: skip
    write_prompts(out / "prompts.parquet", rows)
    run.finish(artifact=PROMPTS, counts={"prompts": len(rows)}, parts=["prompts.parquet"])
    run.close()
    return out


def words() -> Any:
    return train_tokenizer([TEXT] * 4, vocab_size=96, max_tokens=512)


def save(model: Any, folder: Path, *, template: str | None) -> Path:
    tokenizer = words()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = ENDS
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seq2seq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = FitRewriterConfig(
        images=Path("i"),
        captions=[],
        sources=["ssc"],
        width=16,
        num_layers=1,
        num_heads=2,
        samples=8,
    )
    model = build_t5(cfg, vocab_size=len(words()))
    return save(model, tmp_path_factory.mktemp("t5"), template=None)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words()), num_attention_heads=2, initializer_range=0.3, **sizes)
    )
    return save(model, tmp_path_factory.mktemp("llama"), template=TEMPLATE)


def config(prompts: Path, rewriter: Path, **settings: Any) -> UpsampleConfig:
    small = {"batch_size": 8, "max_tokens": 24, "limits": {"min_words": 5}, "threads": 1}
    tree = {"prompts": str(prompts), "rewriter": str(rewriter), **small, **settings}
    return build(UpsampleConfig, tree, where="")


def make(
    out: Path,
    prompts: Path,
    rewriter: Path,
    answers: Any,
    patch: pytest.MonkeyPatch,
    **settings: Any,
) -> Prompts:
    """Rewrite with answers that a test gives, in place of those of the model in `rewriter`."""
    patch.setattr(verb, "open_rewriter", lambda cfg, *, device: answers)
    run_verb("t2i upsample", verb.upsample, config(prompts, rewriter, **settings), out)
    return open_prompts(out)


def test_a_rewrite_has_the_pair_and_the_claims_of_its_original(
    tmp_path: Path, prompts: Path, seq2seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(lambda text, attempt: LONG.format(f"{text} and a large white cross"))
    made = make(tmp_path / "out", prompts, seq2seq, answers, monkeypatch)
    before = open_prompts(prompts)
    assert made.styles == ["human", "dsc", "upsampled"]
    assert made.pair_ids == before.pair_ids
    assert made.rows[: len(before.rows)] == before.rows
    claims = {row.pair_id: row.claims for row in before.rows if row.style == "human"}
    for row in (row for row in made.rows if row.style == "upsampled"):
        assert row.prompt == LONG.format(
            f"{WISHES[PAIRS.index(row.pair_id)]} and a large white cross"
        )
        assert row.claims == claims[row.pair_id]
        assert (row.category, row.questions) == ("rings", "[]")
        assert row.claims != to_json(read(row.prompt))
        assert row.prompt_id == prompt_id(style="upsampled", pair_id=row.pair_id, prompt=row.prompt)


def test_what_breaks_a_rule_is_tried_again_and_at_last_the_original_stands(
    tmp_path: Path, prompts: Path, seq2seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(text: str, attempt: int) -> str:
        if "square" in text:
            return LONG.format("a green ring")
        return LONG.format(text) if attempt == 2 or "two" in text else text

    answers = Answers(answer)
    made = make(
        tmp_path / "out", prompts, seq2seq, answers, monkeypatch, attempts=3, max_fallback_share=1.0
    )
    assert made.texts("upsampled") == {
        PAIRS[0]: LONG.format("two red rings"),
        PAIRS[1]: "a blue square",
        PAIRS[2]: LONG.format("a red ring"),
        PAIRS[3]: "two small squares",
        PAIRS[4]: "a blue square",
    }
    counts = made.manifest.counts
    assert counts["rows_added"] == counts["rewritten"] + counts["fallback"]
    assert counts["rows_out"] == counts["rows_in"] + counts["rows_added"] == 15
    assert (counts["rewritten"], counts["fallback"]) == (2, 3)
    assert (counts["attempt_1"], counts["attempt_2"]) == (1, 1)
    assert counts["fallback_lost_claims"] == 3
    # One question for each distinct prompt that is still open.
    assert [(attempt, len(texts)) for attempt, texts in answers.asked] == [(1, 4), (2, 3), (3, 2)]
    attempts = read_attempts(tmp_path / "out" / "rewrites.parquet")
    assert [a.rules for a in attempts if a.pair_id == PAIRS[2]] == [("too_short",), ()]
    assert [a.attempt for a in attempts if a.pair_id == PAIRS[1]] == [1, 2, 3]


def test_too_many_fallbacks_stop_the_job_by_rule(
    tmp_path: Path, prompts: Path, seq2seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoppedError, match=r"5 of 5 prompts .* 4 attempts \(empty 5\)"):
        make(tmp_path / "out", prompts, seq2seq, Answers(lambda text, n: ""), monkeypatch)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_run_that_was_stopped_ends_in_the_same_bytes_and_asks_only_for_the_rest(
    tmp_path: Path, prompts: Path, seq2seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many"
    run = Run(
        out=many,
        verb="t2i prompts",
        config=PromptsConfig(images=Path("i"), captions=[], styles=["a"]),
    )
    assert run.start({})
    rows = [
        Prompt(f"{n:032x}", f"a red ring, number {n}", "human", f"{n:032x}", None)
        for n in range(20)
    ]
    write_prompts(many / "prompts.parquet", rows)
    run.finish(artifact=PROMPTS, counts={}, parts=["prompts.parquet"])
    run.close()

    def answer(text: str, attempt: int) -> str:
        return LONG.format(text)

    def stops(text: str, attempt: int) -> str:
        if text.endswith("number 9"):
            raise KeyboardInterrupt
        return answer(text, attempt)

    settings = {"prompts_per_part": 3}  # rounded up to a batch
    make(tmp_path / "whole", many, seq2seq, Answers(answer), monkeypatch, **settings)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "stopped", many, seq2seq, Answers(stops), monkeypatch, **settings)
    rest = Answers(answer)
    make(tmp_path / "stopped", many, seq2seq, rest, monkeypatch, **settings)
    assert payload(tmp_path / "whole") == payload(tmp_path / "stopped")
    assert [len(texts) for _, texts in rest.asked] == [8, 4]


# --------------------------------------------------------------------------- models


def opened(prompts: Path, folder: Path, **settings: Any) -> ModelRewriter:
    made = open_rewriter(config(prompts, folder, **settings), device=torch.device("cpu"))
    assert isinstance(made, ModelRewriter)
    return made


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_a_rewrite_depends_on_its_prompt_and_attempt_and_on_no_neighbour(
    kind: str, prompts: Path, request: pytest.FixtureRequest
) -> None:
    rewriter = opened(
        prompts, request.getfixturevalue(kind), instruction="{prompt}", temperature=2.0
    )
    texts = [*WISHES, TEXT, "rings", "a grey square below", "of the picture", "a left one"]
    together = {attempt: rewriter.rewrite(texts, attempt) for attempt in (2, 3)}
    assert sum(map(bool, together[2])) > 4
    assert together[2] != together[3]
    assert rewriter.rewrite(texts[::-1], 2) == together[2][::-1]
    for place in (0, 6):
        assert rewriter.rewrite([texts[place]], 2) == [together[2][place]]


def test_another_seed_draws_other_words(prompts: Path, causal: Path) -> None:
    one, other = (
        opened(prompts, causal, instruction="{prompt}", temperature=2.0, seed=seed)
        for seed in (0, 1)
    )
    assert one.rewrite(WISHES, 2) != other.rewrite(WISHES, 2)
    assert one.rewrite(WISHES, 1) == other.rewrite(WISHES, 1)  # nothing is drawn


def test_the_first_attempt_writes_what_transformers_writes(prompts: Path, causal: Path) -> None:
    rewriter = opened(prompts, causal, instruction="Describe {prompt}")
    asked = [f"Describe {text} ###" for text in WISHES]
    found = []
    for text in asked:
        ids = rewriter.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        out = rewriter.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, pad_token_id=0
        )
        found.append(rewriter._text(out[0, ids.shape[1] :].tolist(), set(ENDS)))
    assert rewriter.rewrite(WISHES, 1) == found
    assert any(found)


def test_a_choice_has_the_frequencies_of_the_likeliest_words() -> None:
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(3000, 4)
    uniform = (torch.arange(3000) + 0.5) / 3000
    tokens = choose(scores, uniform=uniform, temperature=1.0, top_p=0.65)
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx([1714, 1286, 0, 0], abs=1)
    tokens = choose(scores, uniform=uniform, temperature=1.0, top_p=1.0)
    assert torch.bincount(tokens, minlength=4).tolist() == pytest.approx(
        [1200, 900, 600, 300], abs=1
    )
    assert set(choose(scores, uniform=uniform, temperature=1e-3, top_p=1.0).tolist()) == {0}


def test_the_instruction_states_the_window_and_a_prompt_may_hold_braces(
    prompts: Path, causal: Path
) -> None:
    rewriter = opened(prompts, causal, limits={"min_words": 7, "max_words": 9})
    assert rewriter.instruction is not None
    assert "7 to 9 words" in rewriter.instruction
    tokens = rewriter._tokens("{max_words} rings")
    assert tokens == rewriter.tokenizer(
        rewriter.instruction.replace("{prompt}", "{max_words} rings") + " ###", add_special_tokens=False
    )["input_ids"]  # fmt: skip


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "haiku"}, r"no prompts of style 'haiku'; its styles are human, dsc"),
        ({"name": "dsc"}, r"has a style 'dsc' already"),
        ({"name": "human"}, r"name must differ from style='human'"),
        ({"instruction": "Describe it."}, r"write \{prompt\} there"),
        ({"limits": {"min_words": 9, "max_words": 8}}, "1 <= min_words <= max_words"),
        ({"temperature": 0.0}, "temperature and top_p must be above 0"),
        ({"batch_size": 12}, "batch_size"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path: Path, prompts: Path, seq2seq: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_verb(
            "t2i upsample", verb.upsample, config(prompts, seq2seq, **settings), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_the_digest_of_a_rewriter_knows_its_chat_template(tmp_path: Path, causal: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(causal, again)
    assert find_rewriter(again).digest == find_rewriter(causal).digest
    (again / "chat_template.jinja").write_text("{{ messages }}")
    assert find_rewriter(again).digest != find_rewriter(causal).digest


def test_a_causal_model_without_a_chat_template_is_refused(
    tmp_path: Path, prompts: Path, causal: Path
) -> None:
    model = LlamaForCausalLM.from_pretrained(causal)
    folder = save(model, tmp_path / "base", template=None)
    with pytest.raises(ConfigError, match="no chat template"):
        opened(prompts, folder)


def test_a_changed_rewriter_makes_its_prompts_stale_and_an_unchanged_one_does_not(
    tmp_path: Path, prompts: Path, causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(causal, mine)
    cfg = config(prompts, mine, max_fallback_share=1.0)
    make(
        tmp_path / "out", prompts, mine, Answers(lambda text, attempt: ""), monkeypatch,
        max_fallback_share=1.0,
    )  # fmt: skip
    refuse_stale(tmp_path / "out", verb="t2i upsample", config=cfg, source=source_digest(cfg))
    (mine / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match=r"rewriter .*mine: \w+ -> "):
        refuse_stale(tmp_path / "out", verb="t2i upsample", config=cfg, source=source_digest(cfg))


def test_weights_that_a_folder_lacks_are_refused_and_not_drawn_at_random(
    tmp_path: Path, prompts: Path, causal: Path
) -> None:
    folder = save(
        LlamaForCausalLM.from_pretrained(causal).model, tmp_path / "body", template=TEMPLATE
    )
    with pytest.raises(ArtifactError, match=r"no weights for lm_head.weight"):
        opened(prompts, folder)


def test_penalties_of_the_models_own_do_not_count(
    tmp_path: Path, prompts: Path, causal: Path
) -> None:
    plain = opened(prompts, causal)
    penalised = opened(prompts, causal)
    penalised.model.generation_config.repetition_penalty = 5.0
    penalised.model.generation_config.no_repeat_ngram_size = 1
    wishes = ["a red ring", "two green squares"]
    assert penalised.rewrite(wishes, 1) == plain.rewrite(wishes, 1)
    assert penalised.model.generation_config.repetition_penalty == 5.0


def test_a_gguf_file_without_its_package_is_refused_by_name(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i import rewriters

    file = tmp_path / "model.gguf"
    with pytest.raises(ConfigError, match=r"model.gguf: no such file"):
        find_rewriter(file)
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(rewriters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package `gguf`.*captionmix\[gguf\]"):
        opened(prompts, file)


def test_a_gguf_file_is_asked_for_by_folder_and_name(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2i import rewriters

    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    asked: dict[str, Any] = {}

    def load(folder: str, settings: dict[str, Any], *, precision: str) -> None:
        asked.update(settings, folder=folder)
        raise OSError("not weights")

    monkeypatch.setattr(rewriters, "find_spec", lambda name: object())
    monkeypatch.setattr(rewriters, "_load", load)
    with pytest.raises(ArtifactError, match=r"model.gguf: not a language model"):
        opened(prompts, file)
    assert (asked["folder"], asked["gguf_file"]) == (str(tmp_path), "model.gguf")


def test_a_folder_that_is_no_language_model_is_refused(tmp_path: Path, prompts: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a language model that transformers can load"):
        opened(prompts, tmp_path)
