"""B-VQA by a tiny BLIP that the test makes: parity with transformers, batches, parts, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import artifacts, blip_vqa, vqa_folder, vqa_judge
from eval.config import JudgeConfig, VqaConfig
from eval.judge import judge, source_digest
from eval.judge_artifact import read_answers
from launch.errors import ArtifactError, CaptionmixError, ConfigError, StoppedError
from launch.run import Run

REPOSITORY = Path(__file__).parents[2]
QUESTIONS = ["a red square?", "two blue circles?", "a dog?"]


def make_blip(folder: Path, *, seed: int = 0) -> Path:
    """Save an untrained BLIP-VQA with a vocabulary of its own, as `save_pretrained` writes it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForQuestionAnswering,
        BlipImageProcessor,
    )

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special)
    words.train_from_iterator(["yes no " * 9, *QUESTIONS, "a large green triangle?"] * 9, trainer)
    cls, sep = (words.token_to_id(t) for t in ("[CLS]", "[SEP]"))
    words.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    tokenizer = BertTokenizerFast(tokenizer_object=words)
    size = len(tokenizer)
    shared = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shared, "vocab_size": size + 2, "intermediate_size": 32, "encoder_hidden_size": 16,
        "max_position_embeddings": 40, "bos_token_id": size, "sep_token_id": sep,
        "eos_token_id": sep, "pad_token_id": 0, "initializer_range": 0.5,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    vision = {**shared, "intermediate_size": 32, "image_size": 24, "patch_size": 8,
              "initializer_range": 0.5}  # fmt: skip
    torch.manual_seed(seed)
    config = BlipConfig(text_config=text, vision_config=vision)
    model = BlipForQuestionAnswering(config)
    # As they are initialised, every picture would look alike to it.
    for name, parameter in model.named_parameters():
        if "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=0.8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("blip") / "blip")


def loaded(folder: Path, **settings: Any) -> blip_vqa.BlipVqa:
    cfg = VqaConfig(model=folder, **{"batch_size": 8, **settings})
    return blip_vqa.load(cfg, vqa_folder.find(folder))


@pytest.fixture(scope="module")
def model(blip: Path) -> blip_vqa.BlipVqa:
    return loaded(blip)


def pictures(num: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(num)]


def probabilities(model: blip_vqa.BlipVqa, shown: list[Image.Image], asked: list[str]) -> Any:
    states = model.picture_states(shown)
    return model.yes_probability(states, about=range(len(shown)), questions=asked)


@pytest.mark.parametrize("start", ["enc", "cls"])
def test_the_probability_is_that_of_a_plain_forward_pass(blip: Path, start: Any) -> None:
    """transformers' own processor and forward, one question at a time, softmax over all words."""
    from transformers import AutoTokenizer, BlipForQuestionAnswering
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    ours = probabilities(loaded(blip, question_start=start), pictures(3), QUESTIONS)
    plain = BlipForQuestionAnswering.from_pretrained(blip).eval()
    tokenizer = AutoTokenizer.from_pretrained(blip)
    processor = BlipImageProcessorPil.from_pretrained(blip)
    bos = plain.config.text_config.bos_token_id
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    for picture, question, found in zip(pictures(3), QUESTIONS, ours, strict=True):
        words = tokenizer(question, return_tensors="pt")
        if start == "enc":
            words["input_ids"][:, 0] = bos + 1
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        logits: list[torch.Tensor] = []
        hook = plain.text_decoder.register_forward_hook(
            lambda module, given, out, logits=logits: logits.append(out.logits)
        )
        with torch.no_grad():
            plain(
                input_ids=words["input_ids"], attention_mask=words["attention_mask"],
                pixel_values=pixels, decoder_input_ids=torch.tensor([[bos]]),
            )  # fmt: skip
        hook.remove()
        share = torch.softmax(logits[0][0, 0].double(), dim=0)
        assert found == pytest.approx(float(share[yes] / (share[yes] + share[no])), abs=1e-5)
    assert np.ptp(ours) > 0.01


def test_a_batch_answers_as_each_question_alone_does(model: blip_vqa.BlipVqa) -> None:
    shown = pictures(7)
    asked = (QUESTIONS * 3)[:7]
    together = probabilities(model, shown, asked)
    alone = [probabilities(model, [p], [q])[0] for p, q in zip(shown, asked, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    assert len(set(np.round(together, 6))) == 7


def test_the_start_token_of_questions_matters(blip: Path, model: blip_vqa.BlipVqa) -> None:
    other = loaded(blip, question_start="cls")
    found = [probabilities(m, pictures(1), QUESTIONS[:1])[0] for m in (model, other)]
    assert abs(found[0] - found[1]) > 1e-4


def test_a_question_that_is_too_long_is_cut_and_counted(blip: Path) -> None:
    short = loaded(blip, max_tokens=5)
    asked = short.read(["a dog?", "a large green triangle?"])
    assert [len(ids) for ids in asked.ids] == [5, 5]
    assert asked.num_cut == 1


# --------------------------------------------------------------------------- the verb


class Given:
    """Settings of a judge."""

    def __init__(self, make: Any, root: Path, blip: Path) -> None:
        made = make.world(root / "world", num=48)
        texts = made.texts("human")
        prompts = make.prompts(made, {"human": texts})
        negative = replace(made, pixels=255 - made.pixels)
        self.texts = [texts[i] for i in made.of_split("test")]
        self.settings: dict[str, Any] = {
            "prompts": prompts,
            "generations": [
                make.generations(root / arm, of, prompts, arm=arm, styles=["human"])
                for arm, of in (("one", made), ("other", negative))
            ],
        }
        self.vqa = VqaConfig(model=blip, batch_size=8)

    def config(self, **vqa: Any) -> JudgeConfig:
        return JudgeConfig(**self.settings, vqa=replace(self.vqa, **vqa))


@pytest.fixture(scope="module")
def given(make: Any, blip: Path, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return Given(make, tmp_path_factory.mktemp("given"), blip)


def judged(cfg: JudgeConfig, out: Path) -> artifacts.Scores:
    run = Run(out=out, verb="eval judge", config=cfg)
    try:
        judge(cfg, run)
    finally:
        run.close()
    return artifacts.open_scores(out)


@pytest.fixture(scope="module")
def scores(given: Given, tmp_path_factory: pytest.TempPathFactory) -> artifacts.Scores:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vqa_judge, "PART", 5)
        return judged(given.config(), tmp_path_factory.mktemp("scores") / "out")


def test_a_score_is_the_product_over_the_phrases_of_the_claims(scores: artifacts.Scores) -> None:
    answers = read_answers(scores.manifest.folder / "answers.parquet").to_pylist()
    products: dict[str, float] = {}
    for row in answers:
        assert row["question"].endswith("?")
        assert 0 < row["probability"] < 1
        name = row["generation_id"]
        products[name] = products.get(name, 1.0) * row["probability"]
    rows = scores.table.to_pylist()
    assert len(rows) == 24
    assert {row["metric"] for row in rows} == {"phrases_yes"}
    for row in rows:
        assert row["value"] == pytest.approx(products[row["generation_id"]])
    assert len(answers) > len(rows)
    assert scores.manifest.recipe["scorers"]["vqa"]["phrases_from"] == {"claims": 12}


def test_the_recipe_names_weights_formula_start_and_picture_size(
    scores: artifacts.Scores, blip: Path
) -> None:
    scorer = scores.manifest.recipe["scorers"]["vqa"]
    assert scorer["weights"] == vqa_folder.find(blip).digest
    assert scorer["architecture"]["text"]["hidden_size"] == 16
    assert "24 x 24" in scorer["picture"]
    assert (scorer["question_start"], scorer["truncation_rate"]) == ("enc", 0.0)
    assert scorer["formula"] == blip_vqa.FORMULA


def test_parts_that_are_written_are_not_looked_at_again(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: artifacts.Scores
) -> None:
    monkeypatch.setattr(vqa_judge, "PART", 5)
    looked: list[int] = []
    batch = vqa_judge._batch
    is_stopped = True

    def counted(model: Any, source: Any, places: Any, **more: Any) -> Any:
        if is_stopped and len(looked) >= 12:
            raise KeyboardInterrupt
        looked.extend(places)
        return batch(model, source, places, **more)

    monkeypatch.setattr(vqa_judge, "_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        judged(given.config(), tmp_path / "out")
    parts = list((tmp_path / "out").glob("scratch/vqa/*.parquet"))
    assert len(parts) == 3  # of five, five and two pictures
    is_stopped = False
    again = judged(given.config(), tmp_path / "out")
    assert len(looked) == 24
    assert again.manifest.digest == scores.manifest.digest
    assert again.table.equals(scores.table)


def test_phrases_may_be_given_in_a_file(given: Given, tmp_path: Path) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({text: ["a dog", "a red square"] for text in given.texts}))
    found = judged(given.config(phrases=path), tmp_path / "out")
    questions = read_answers(tmp_path / "out/answers.parquet")["question"].to_pylist()
    assert set(questions) == {"a dog?", "a red square?"}
    assert len(questions) == 48
    assert found.manifest.recipe["scorers"]["vqa"]["phrases_from"] == {"file": 12}


def test_a_complete_judge_is_stale_where_its_model_or_phrases_have_changed(
    given: Given, tmp_path: Path
) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({text: ["a dog"] for text in given.texts}))
    cfg = given.config(phrases=path)
    done = judged(cfg, tmp_path / "out").manifest
    (noted,) = [i.digest for i in done.inputs if i.role == "source"]
    assert source_digest(cfg) == noted
    path.write_text(json.dumps({text: ["a cat"] for text in given.texts}))
    assert source_digest(cfg) != noted
    other = make_blip(tmp_path / "blip", seed=1)
    assert source_digest(given.config(model=other)) != source_digest(given.config())
    assert source_digest(given.config(model=Path("Salesforce/blip-vqa-base"))) is None


def test_prompts_without_a_phrase_are_counted_and_too_many_are_refused(
    given: Given, tmp_path: Path
) -> None:
    path = tmp_path / "phrases.json"
    path.write_text(json.dumps({t: ["a dog"] for t in given.texts} | {given.texts[0]: []}))
    with pytest.raises(ConfigError, match="prompts have no noun phrase, first"):
        judged(given.config(phrases=path), tmp_path / "out")
    found = judged(given.config(phrases=path, max_rejected_share=0.5), tmp_path / "out")
    num = 2 * given.texts.count(given.texts[0])
    assert found.manifest.rejected == {"no_phrase": num}
    assert found.manifest.counts["rows_out"] == 24 - num


def test_a_model_that_gives_no_number_stops_the_job(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        blip_vqa.BlipVqa, "_batch", lambda self, states, ids: np.full(len(ids), np.nan)
    )
    with pytest.raises(StoppedError, match="probability is nan"):
        judged(given.config(), tmp_path / "out")


def refuse(name: str, folder: Path) -> Path:
    match name:
        case "a pickle":
            (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        case "another model":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
        case "no processor":
            (folder / "preprocessor_config.json").unlink()
        case "lacking weights":
            from safetensors.torch import load_file, save_file

            tensors = load_file(folder / "model.safetensors")
            kept = {n: t for n, t in tensors.items() if not n.startswith("text_decoder")}
            save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a pickle", "holds no safetensors file"),
        ("another model", "is a 'bert', expected BLIP"),
        ("no processor", "cannot be loaded"),
        ("lacking weights", "has no weights for text_decoder"),
    ],
)
def test_what_is_no_blip_for_questions_is_refused(
    blip: Path, tmp_path: Path, name: str, told: str
) -> None:
    import shutil

    folder = refuse(name, Path(shutil.copytree(blip, tmp_path / "blip")))
    with pytest.raises(CaptionmixError, match=told) as error:
        loaded(folder)
    assert isinstance(error.value, ConfigError | ArtifactError)


@pytest.mark.slow
def test_a_killed_judge_goes_on_and_ends_in_the_same_scores(given: Given, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    slow = (
        "import sys, time; from eval import vqa_judge as v; v.PART = 3; b = v._batch\n"
        "def slow(*a, **k): time.sleep(0.1); return b(*a, **k)\n"
        "v._batch = slow\n"
        "import runpy; sys.argv = ['eval', *sys.argv[1:]]; runpy.run_module('eval', run_name='__main__')"
    )
    settings = [
        f"prompts={given.settings['prompts']}",
        f"generations=[{','.join(map(str, given.settings['generations']))}]",
        f"vqa.model={given.vqa.model}",
        "vqa.batch_size=8",
    ]
    command = [sys.executable, "-c", slow, "judge", "--out", str(out), *settings]
    process = subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while len(list(out.glob("scratch/vqa/*.parquet"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    times = {p: p.stat().st_mtime_ns for p in out.glob("scratch/vqa/*.parquet")}
    assert 2 <= len(times) < 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vqa_judge, "PART", 3)
        kept: list[bool] = []
        finish = Run.finish

        def looked(self: Run, **more: Any) -> Any:
            if self.out == out:
                kept.extend(p.stat().st_mtime_ns == at for p, at in times.items())
            return finish(self, **more)

        patch.setattr(Run, "finish", looked)
        killed = judged(given.config(), out)
        whole = judged(given.config(), tmp_path / "whole")
    assert kept == [True] * len(times)
    assert killed.manifest.digest == whole.manifest.digest
