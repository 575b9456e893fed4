"""Votes read back: what is refused, what is counted once, and what comes out of simulated raters."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import artifacts
from eval.ballot_box import read_votes
from eval.config import PreferenceConfig, VotesConfig
from eval.preference import preference
from eval.stats import Verdict, holm
from eval.vote_answers import BETTER_IS, answer_votes
from eval.votes import source_digest, votes
from eval.votes_artifact import Preference, Trial, open_preference, open_votes
from eval.votes_tables import preference_tables
from launch.errors import ArtifactError, ConfigError, InputError
from launch.manifest import read_manifest
from launch.run import Run

STRENGTH = {"quokka": 1.2, "wombat": 0.0, "numbat": -1.2}
"""Log-odds of the simulated raters."""

Choose = Callable[[Trial, np.random.Generator], str]


@pytest.fixture(scope="module")
def made(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Preference:
    """A page of three arms and twelve prompts."""
    # The name of the folder shapes the ids, and these the draws.
    world = make.world(tmp_path_factory.mktemp("page of votes") / "zoo", num=48)
    prompts = make.prompts(world, {"human": ["two rings"] * 48})
    generations = [
        make.generations(world.root / arm, world, prompts, arm=arm, styles=["human"])
        for arm in STRENGTH
    ]
    cfg = PreferenceConfig(
        generations=generations, prompts=prompts, styles=["human"], num_prompts=12,
        questions=["style", "prompt_following"], repeats=0.25,
    )  # fmt: skip
    out = world.root / "page"
    preference(cfg, Run(out=out, verb="eval preference", config=cfg))
    return open_preference(out)


def line(made: Preference, trial: Trial, choice: str, rater: str = "Ada", **more: Any) -> str:
    said = {"page": made.page_digest, "rater": rater, "trial": trial.trial_id, "choice": choice}
    return json.dumps({**said, **more}) + "\n"


def by_strength(trial: Trial, draw: np.random.Generator) -> str:
    """Choose as strengths tell in one question, and by coin in the other."""
    gap = STRENGTH[trial.left_arm] - STRENGTH[trial.right_arm]
    p = 1 / (1 + np.exp(-gap)) if trial.question == "prompt_following" else 0.5
    tie = 0.8 * p * (1 - p)
    u = draw.random()
    return "left" if u < p - tie / 2 else "tie" if u < p + tie / 2 else "right"


def cast(made: Preference, path: Path, raters: Sequence[str], choose: Choose) -> list[Path]:
    """Write one file of votes for every rater."""
    draw = np.random.default_rng(7)
    files = []
    for rater in raters:
        files.append(path / f"{rater}.jsonl")
        files[-1].write_text(
            "".join(
                line(made, trial, choose(trial, draw), rater, milliseconds=1500)
                for trial in made.trials.values()
            )
        )
    return files


def run_votes(cfg: VotesConfig, out: Path) -> Path:
    votes(cfg, Run(out=out, verb="eval votes", config=cfg))
    return out


# ------------------------------------------------------------------ refusals


def test_what_is_no_vote_on_this_page_is_refused_with_its_line(
    made: Preference, tmp_path: Path
) -> None:
    one, other = list(made.trials.values())[:2]
    file = tmp_path / "ada.jsonl"

    def refused(words: str, text: str) -> None:
        file.write_text(line(made, one, "left") + text)
        with pytest.raises(InputError, match=words) as error:
            read_votes([file], made)
        assert f"{file}:2" in str(error.value)

    refused("is a vote on page 0000", line(made, other, "left").replace(made.page_digest, "0" * 32))
    refused("trial 'nothing' is not on page", line(made, other._replace(trial_id="nothing"), "tie"))
    refused("not a line of JSON", line(made, other, "left")[:50])
    refused("expected a JSON object, found list", "[1]\n")
    refused("`choice` is 'both', expected one of left, tie, right", line(made, other, "both"))
    refused("`rater` is None, expected text", line(made, other, "left", None))
    refused("`rater` has 0 characters", line(made, other, "left", "  "))
    refused("`milliseconds` is -1", line(made, other, "left", milliseconds=-1))
    refused("votes right on trial .*, but left at .*ada.jsonl:1", line(made, one, "right"))


def test_files_that_hold_nothing_are_refused(made: Preference, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file of votes"):
        read_votes([tmp_path / "absent.jsonl"], made)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="hold no vote"):
        read_votes([tmp_path / "empty.jsonl"], made)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        read_votes([tmp_path / "binary.jsonl"], made)
    with pytest.raises(ConfigError, match="at least one file"):
        VotesConfig(preference=tmp_path, votes=[])


def test_the_same_vote_twice_counts_once(made: Preference, tmp_path: Path) -> None:
    early, late = tmp_path / "early.jsonl", tmp_path / "late.jsonl"
    first, second, third = list(made.trials.values())[:3]
    early.write_text(line(made, first, "left") + line(made, second, "tie"))
    late.write_text(
        "\ufeff" + early.read_text() + line(made, third, "right") + line(made, third, "tie", "Bo")
    )
    box = read_votes([early, late], made)
    assert [(v.rater, v.choice) for v in box.votes] == [
        ("Ada", "left"), ("Ada", "tie"), ("Ada", "right"), ("Bo", "tie"),
    ]  # fmt: skip
    assert box.num_again == 2


# ------------------------------------------------------------------ answers


@pytest.fixture(scope="module")
def voted(made: Preference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five simulated raters' votes."""
    root = tmp_path_factory.mktemp("votes")
    files = cast(made, root, ["Ada", "Bo", "Cy", "Di", "Ed"], by_strength)
    cfg = VotesConfig(preference=made.manifest.folder, votes=files, anchor="wombat", resamples=200)
    return run_votes(cfg, root / "out")


def records(folder: Path, name: str) -> list[dict[str, str]]:
    text = (folder / "tables" / f"{name}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def test_simulated_raters_strengths_are_recovered_within_their_intervals(voted: Path) -> None:
    """Of six 95% intervals two or more miss in about 3% of such studies."""
    held = []
    for row in records(voted, "preference_pairs"):
        apart = 400 / np.log(10) * (STRENGTH[row["arm"]] - STRENGTH[row["than"]])
        truth = apart if row["question"] == "prompt_following" else 0.0
        held.append(float(row["with_raters_low"]) < truth < float(row["with_raters_high"]))
        if row["question"] == "style":
            assert row["verdict"] == "not distinguishable"
        elif truth > 400:
            assert row["verdict"] == "better"
    assert sum(held) >= 5


def test_every_vote_is_kept_and_repeats_enter_no_rating(voted: Path, made: Preference) -> None:
    table = open_votes(voted).table
    assert table.num_rows == 5 * len(made.trials)
    again = sum(t.repeat_of is not None for t in made.trials.values())
    assert again == 2 * 9
    rated = sum(int(row["num_votes"]) for row in records(voted, "preference_pairs"))
    assert rated == 5 * (len(made.trials) - again)
    assert read_manifest(voted).counts == {
        "rows_in": table.num_rows, "rows_out": table.num_rows, "raters": 5,
    }  # fmt: skip


def test_p_is_corrected_over_all_pairs_and_questions(voted: Path) -> None:
    rows = records(voted, "preference_pairs")
    assert len(rows) == 6
    corrected = holm([float(row["p"]) for row in rows])
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(corrected.tolist())


def test_a_report_gets_the_same_tables_from_the_rows(voted: Path) -> None:
    rows = open_votes(voted).table
    sides = ("left_generation_id", "right_generation_id")
    pictures = {i for side in sides for i in rows[side].to_pylist()}
    with pytest.raises(ArtifactError, match="not among the report's generations"):
        preference_tables(voted, among=pictures - {min(pictures)})
    shown = preference_tables(voted, among=pictures)
    tables = {table.name: table for table in [*shown.shown, *shown.folded]}
    assert shown.notes
    assert list(tables) == ["preference_pairs", "preference_ratings", "preference_alpha"]
    for name, table in tables.items():
        assert table.csv() == (voted / "tables" / f"{name}.csv").read_bytes()


def test_the_summary_names_arms_verdicts_and_what_the_intervals_mean(voted: Path) -> None:
    text = (voted / "summary.txt").read_text()
    for words in ("quokka", "not distinguishable", "over prompts and raters", "Krippendorff"):
        assert words in text


def test_the_order_of_files_means_nothing(made: Preference, tmp_path: Path) -> None:
    trial, other = list(made.trials.values())[:2]
    files = [tmp_path / "a" / "early.jsonl", tmp_path / "b" / "late.jsonl"]
    for file, times in zip(files, [(None, 900), (700, 1200)], strict=True):
        file.parent.mkdir()
        file.write_text(
            line(made, trial, "left", milliseconds=times[0])
            + line(made, other, "tie", milliseconds=times[1])
        )
    outs = []
    for name, given in (("one", files), ("other", files[::-1])):
        cfg = VotesConfig(preference=made.manifest.folder, votes=given, resamples=50)
        outs.append(run_votes(cfg, tmp_path / name))
    tables = [open_votes(out).table for out in outs]
    assert tables[0].equals(tables[1])
    assert sorted(tables[0]["milliseconds"].to_pylist()) == [700, 900]
    assert len({read_manifest(out).digest for out in outs}) == 1


def test_a_line_separator_within_a_name_ends_no_line(made: Preference, tmp_path: Path) -> None:
    name = "Ada\u2028Lovelace"
    trial = next(iter(made.trials.values()))
    said = json.dumps(
        {"page": made.page_digest, "rater": name, "trial": trial.trial_id, "choice": "left"},
        ensure_ascii=False,
    )
    (tmp_path / "ada.jsonl").write_text(said + "\r\n", encoding="utf-8", newline="")
    (vote,) = read_votes([tmp_path / "ada.jsonl"], made).votes
    assert vote.rater == name


def test_the_same_command_is_complete_and_other_votes_are_refused(
    voted: Path, made: Preference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [voted.parent / f"{rater}.jsonl" for rater in ("Ada", "Bo", "Cy", "Di", "Ed")]
    cfg = VotesConfig(
        preference=made.manifest.folder, votes=files[::-1], anchor="wombat", resamples=200
    )
    before = read_manifest(voted).digest
    run_votes(cfg, voted)
    assert "is complete" in capsys.readouterr().out
    assert read_manifest(voted).digest == before
    fewer = VotesConfig(
        preference=made.manifest.folder, votes=files[:2], anchor="wombat", resamples=200
    )
    assert source_digest(fewer) != source_digest(cfg)
    with pytest.raises(ConfigError, match="other settings"):
        run_votes(fewer, voted)
    koala = VotesConfig(preference=made.manifest.folder, votes=files, anchor="koala")
    with pytest.raises(InputError, match="anchor: 'koala' is no arm"):
        run_votes(koala, tmp_path / "never")


def answers_of(made: Preference, path: Path, choose: Choose, raters: Sequence[str] = ("Ada",)):
    cfg = VotesConfig(
        preference=made.manifest.folder, votes=cast(made, path, raters, choose), resamples=50
    )
    opened = open_votes(run_votes(cfg, path / "out"))
    return answer_votes(opened.table, arms=opened.arms, anchor=None, resamples=50, seed=0)


def test_one_who_always_says_left_is_seen_by_the_repeats(made: Preference, tmp_path: Path) -> None:
    (rater,) = answers_of(made, tmp_path, lambda trial, draw: "left").raters
    assert rater.repeats.value == 0
    assert rater.repeats.num == 18
    assert rater.lefts.value == 1
    assert rater.median_seconds == 1.5


def test_one_who_looks_answers_repeats_alike_and_two_such_agree(
    made: Preference, tmp_path: Path
) -> None:
    found = answers_of(
        made, tmp_path, lambda trial, draw: "left" if trial.left_arm == "quokka" else
        "right" if trial.right_arm == "quokka" else "tie", raters=("Ada", "Bo"),
    )  # fmt: skip
    assert [rater.repeats.value for rater in found.raters] == [1, 1]
    assert all(a.estimate == 1 for kinds in found.alphas.values() for a in kinds.values())
    verdicts = {(f.question, f.pair.first, f.pair.second): f for f in found.findings}
    best = verdicts["style", "quokka", "wombat"]
    assert best.verdict is Verdict.BETTER
    assert best.pair.difference.deciding.estimate == np.inf
    even = verdicts["style", "wombat", "numbat"]
    assert even.verdict is Verdict.NOT_DISTINGUISHABLE
    assert even.pair.difference.deciding.estimate == 0
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "∞ stands where every vote between two arms went one way" in text
    assert "over prompts alone" in text


# ------------------------------------------------------------------ metrics


def scores_of(made: Preference, value: Callable[[str], float], leave_out: int = 0) -> Any:
    """Return scores of every picture of the page: prompt's own CLIP similarity by arm."""
    pictures = {}
    for trial in made.trials.values():
        pictures[trial.left_generation_id] = (trial, trial.left_arm)
        pictures[trial.right_generation_id] = (trial, trial.right_arm)
    rows = [
        {
            "generation_id": generation, "arm": arm, "model_seed": 0, "seed": 0,
            "samples_seen": 64, "pair_id": trial.pair_id, "prompt_id": trial.prompt_id,
            "prompt_style": "human", "metric": metric, "scoring": scoring, "axis": None,
            "value": value(arm),
        }
        for generation, (trial, arm) in sorted(pictures.items())
        for metric, scoring in (("clip_similarity", "prompt"), ("clip_distance", "prompt"))
    ][leave_out:]  # fmt: skip
    names = artifacts.SCORES_SCHEMA.names
    return artifacts.scores_table({name: [row[name] for row in rows] for name in names})


def test_every_metric_that_ranks_is_compared_with_votes_in_one_unit() -> None:
    assert set(BETTER_IS) == set(artifacts.METRICS) - {
        "clip_distance", "claims_total", "claims_abstained",
    }  # fmt: skip
    assert BETTER_IS["clip_similarity_sentences"] == 1
    assert BETTER_IS["words_error_rate"] == -1


def test_a_metric_that_ranks_as_raters_do_predicts_their_votes(
    voted: Path, made: Preference
) -> None:
    opened = open_votes(voted)

    def predicted(scores: Any) -> dict[str, Any]:
        found = answer_votes(
            opened.table, arms=opened.arms, anchor=None, resamples=10, seed=0, scores=scores
        ).predicted
        assert {p.metric for p in found} == {"clip_similarity"}
        return {p.question: p for p in found}

    good = predicted(scores_of(made, STRENGTH.__getitem__))
    assert good["prompt_following"].agreement.low > 0.6
    coin = good["style"].agreement
    assert coin.low < 0.5 < coin.high
    bad = predicted(scores_of(made, lambda arm: -STRENGTH[arm]))
    assert bad["prompt_following"].agreement.estimate == pytest.approx(
        1 - good["prompt_following"].agreement.estimate
    )
    blind = predicted(scores_of(made, lambda arm: 1.0))["style"]
    assert blind.agreement.estimate == 0.5
    assert blind.num_even == blind.num_votes
    with pytest.raises(ArtifactError, match="no score of a picture that"):
        predicted(scores_of(made, STRENGTH.__getitem__, leave_out=2))


def test_the_verb_reads_scores_and_writes_what_metrics_predict(
    make: Any, made: Preference, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"
    artifacts.write_scores(folder / "scores.parquet", scores_of(made, STRENGTH.__getitem__))
    make.finish(folder, "scores")
    cfg = VotesConfig(
        preference=made.manifest.folder, scores=folder, resamples=50,
        votes=cast(made, tmp_path, ["Ada"], by_strength),
    )  # fmt: skip
    out = run_votes(cfg, tmp_path / "out")
    rows = records(out, "preference_metrics")
    assert [row["question"] for row in rows] == ["style", "prompt_following"]
    assert {i.role for i in read_manifest(out).inputs} == {"preference", "scores", "source"}
