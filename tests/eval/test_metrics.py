"""Every metric that scores hold: printed, named as primary, compared; what a mean of tasks is."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from eval.answers_again import scores_of
from eval.config import PrimaryConfig
from eval.metrics import PRIMARY, PRINTED
from eval.published import ROWS, read_rows
from eval.recompute import check
from eval.summary import PAGE, SUMMARY
from launch.config import build
from launch.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent))
from made_up import Study, headline_of, make_report, records


@pytest.mark.usefixtures("undrawn")
def test_a_mean_over_fewer_tasks_is_not_called_the_score_and_says_which_are_missing(
    tmp_path: Path,
) -> None:
    primary = replace(Study().primary, metric="geneval")
    study = Study(
        is_detected=True, tasks=("single_object", "counting"), moments=(300,), primary=primary
    )
    folder, _ = make_report(tmp_path, study)
    page = (folder / PAGE).read_text()
    without = "without two_object, colors, position, color_attr"
    assert f"mean of 2 of 6 tasks</span> <small>{without}" in page
    assert "GenEval score" not in page
    summary = " ".join((folder / SUMMARY).read_text().split())
    assert "in prompts of which all holds (mean over the tasks of human prompts)" in summary
    assert f"The mean of 2 of 6 tasks, {without}, is not GenEval&#39;s score" in page
    # A picture is shown with its own score, not with its weight in the mean.
    assert set(re.findall(r"<figcaption>dsc <small>(.*?)</small>", page)) <= {"0.0%", "100.0%"}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "metric", ["clip_similarity", "clip_similarity_sentences", "words_exact", "words_right"]
)
def test_a_study_may_name_any_metric_that_is_scored(tmp_path: Path, metric: str) -> None:
    primary = replace(Study().primary, metric=metric)
    study = Study(is_detected=True, is_long=True, pairs=12, moments=(300,), primary=primary)
    folder, _ = make_report(tmp_path, study)
    (first, *_) = records(folder, "primary")
    assert first["metric"] == PRIMARY[metric]
    assert PRINTED[PRIMARY[metric]].title in headline_of(folder)
    assert all(c.is_equal for c in check(folder, scores_of(read_rows(folder / ROWS)),
                                         resamples=100))  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_a_metric_that_nothing_scored_is_told_beside_those_that_exist(tmp_path: Path) -> None:
    primary = replace(Study().primary, metric="words_exact")
    folder, _ = make_report(tmp_path, Study(pairs=6, moments=(300,), primary=primary))
    assert "the scores hold clip_similarity, prompt_following." in headline_of(folder)


def test_names_of_primary_metrics_are_those_of_the_settings() -> None:
    assert set(get_args(get_type_hints(PrimaryConfig)["metric"])) == set(PRIMARY)
    named = {"better": "dsc", "than": "real", "style": "human", "metric": "fid"}
    with pytest.raises(ConfigError, match=r"metric must be one of .*geneval, words_ex"):
        build(PrimaryConfig, named, where="primary.")
