"""What a study may add to its report: changes of prompts, numbers along which arms lie, seeds."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from eval import artifacts
from eval.answers_again import scores_of
from eval.config import AlongConfig, PrimaryConfig, ReportConfig
from eval.intervals import Interval
from eval.pairing import Rows
from eval.published import ROWS, read_rows
from eval.recompute import check
from eval.report_rows import Measure, ScoreTable, change_of
from eval.seed_noise import seed_noise
from eval.summary import PAGE
from eval.words import number
from launch.errors import ConfigError, InputError

sys.path.insert(0, str(Path(__file__).parent))
from made_up import Study, build, headline_of, records, write_report

ALONG = AlongConfig(title="descriptive captions, %", arms={"real": 0, "ssc": 50, "dsc": 95})
CHANGED = PrimaryConfig(
    better="dsc", than="real", style="dsc", against="human", metric="prompt_following"
)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportConfig]:
    root = tmp_path_factory.mktemp("added")
    cfg = build(root, Study(pairs=10, seeds=4, seed_spread=0.03, moments=(300,)))
    cfg = replace(cfg, changes={"dsc": "human"}, along=[ALONG], primary=CHANGED)
    return write_report(root / "report", cfg), cfg


def values(cfg: ReportConfig, arm: str, style: str) -> dict[tuple[str, int], float]:
    return {
        (r["pair_id"], r["model_seed"]): 100 * r["value"]
        for r in artifacts.open_scores(cfg.scores).table.to_pylist()
        if (r["metric"], r["axis"], r["arm"], r["prompt_style"])
        == ("claims_held", None, arm, style)
    }


def test_a_change_is_told_picture_by_picture(added: tuple[Path, ReportConfig]) -> None:
    folder, cfg = added
    new, old = values(cfg, "ssc", "dsc"), values(cfg, "ssc", "human")
    found = next(
        r
        for r in records(folder, "changes")
        if (r["arm"], r["than"], r["metric"]) == ("ssc", "", "claims_held")
    )
    assert found["prompt_style"] == change_of("dsc", "human")
    of_pair: dict[str, list[float]] = {}
    for at, value in new.items():
        of_pair.setdefault(at[0], []).append(value - old[at])
    means = [np.mean(of) for of in of_pair.values()]
    assert float(found["mean"]) == pytest.approx(np.mean(means))
    low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    assert [float(found["low"]), float(found["high"])] == pytest.approx([low, high])


def test_a_study_may_compare_how_much_arms_change(added: tuple[Path, ReportConfig]) -> None:
    folder, cfg = added
    assert "in the change of prompt following" in headline_of(folder)
    assert "pictures of dsc prompts less those of human prompts" in headline_of(folder)
    gaps = {
        arm: np.mean(list(values(cfg, arm, "dsc").values()))
        - np.mean(list(values(cfg, arm, "human").values()))
        for arm in ("real", "dsc")
    }
    primary = next(r for r in records(folder, "primary") if not r["training_seed"])
    assert float(primary["difference"]) == pytest.approx(gaps["dsc"] - gaps["real"])
    for arm in ("real", "dsc"):  # how much each changes stands in the sentence too
        found = next(
            r
            for r in records(folder, "changes")
            if (r["arm"], r["than"], r["metric"]) == (arm, "", "claims_held")
        )
        assert f"{arm} {number(float(found['mean']), 1)} [" in headline_of(folder)


def test_changes_share_the_correction_with_all_other_comparisons(
    added: tuple[Path, ReportConfig],
) -> None:
    folder, cfg = added
    plain = write_report(folder.parent / "plain", replace(cfg, changes={}, along=[]))
    numbers = [
        int(re.search(r'"secondary_comparisons": (\d+)', (f / "manifest.json").read_text())[1])  # type: ignore[index]
        for f in (plain, folder)
    ]
    # Two arms by two measures, of which those in prompt following are pairs of the primary measure.
    assert numbers[1] - numbers[0] == 2
    assert not (plain / "tables/changes.csv").exists()
    assert 'id="along"' not in (plain / PAGE).read_text()


def test_arms_are_drawn_along_their_number(added: tuple[Path, ReportConfig]) -> None:
    folder, cfg = added
    found = [r for r in records(folder, "along-0") if r["metric"] == "claims_held"]
    assert [float(r["number"]) for r in found if r["prompt_style"] == "human"] == [0, 50, 95]
    for record in found:
        mean = np.mean(list(values(cfg, record["arm"], record["prompt_style"]).values()))
        assert float(record["mean"]) == pytest.approx(mean)
        assert float(record["with_seeds_low"]) < mean < float(record["with_seeds_high"])
        assert record["with_seeds_low"] != record["low"]
    page = (folder / PAGE).read_text()
    assert "95% intervals over prompts and training seeds" in page
    assert "against descriptive captions, %, a line for each prompt style" in page
    assert list((folder / "figures").glob("along-0-*.svg"))


def test_what_is_highest_is_told_with_what_cannot_be_told_from_it(
    added: tuple[Path, ReportConfig],
) -> None:
    folder, cfg = added
    page = (folder / PAGE).read_text()
    for style in ("human", "dsc"):
        means = {
            arm: np.mean(list(values(cfg, arm, style).values())) for arm in ("real", "ssc", "dsc")
        }
        best = max(means, key=lambda arm: means[arm])
        line = re.search(rf"{style} prompts: (\w+) is highest, (\S+) .*?from it: ([^;.]*)", page)
        assert line is not None
        assert (line[1], line[2]) == (best, number(float(means[best]), 1))
        assert best not in line[3]


def test_a_withheld_ranking_is_not_told_along_a_number(tmp_path: Path) -> None:
    cfg = build(tmp_path, Study(pairs=8, retrieval=0.03, moments=(300,)))
    folder = write_report(tmp_path / "report", replace(cfg, along=[ALONG]))
    page = (folder / PAGE).read_text()
    assert "No ranking is given" in page
    assert 'id="along"' in page
    assert "highest" not in page


def test_arms_of_one_number_are_joined_by_their_mean() -> None:
    import matplotlib.pyplot as plt

    from eval.report_along import Line, _draw_panel
    from eval.report_pooled import pooled

    interval = partial(Interval, standard_error=1.0, df=9.0, level=0.95, method="t")
    means = {
        arm: interval(estimate=at, low=at - 1, high=at + 1)
        for arm, at in {"a": 1.0, "b": 3.0, "c": 6.0, "d": 7.0}.items()
    }
    measure = Measure("claims_held", "human")
    x = {"a": 10.0, "b": 10.0, "c": 20.0, "d": 20.0}
    found = pooled(measure, {a: m.estimate for a, m in means.items()}, x, title="n")
    assert found is not None
    low, high = stats.ttest_ind([6, 7], [1, 3], equal_var=False).confidence_interval(0.95)
    assert [found.contrast.low, found.contrast.high] == pytest.approx([low, high])
    assert "20 and 10 are not distinguishable (difference 4.5" in found.sentence
    low, high = stats.t.interval(0.95, 1, 2, stats.sem([1, 3]))
    assert [found.means[10].low, found.means[10].high] == pytest.approx([low, high])
    line = Line(measure=measure, x=x, given=means, means=means, pooled=found)
    figure, panel = plt.subplots()
    _draw_panel(panel, [line], styles=["human"])
    joined = panel.lines[-1]
    assert (joined.get_xdata().tolist(), joined.get_ydata().tolist()) == ([10, 20], [2.0, 6.5])
    assert panel.collections[0].get_offsets().tolist() == [[10, 1], [10, 3], [20, 6], [20, 7]]
    plt.close(figure)


def test_numbers_may_come_from_the_measured_captions(
    added: tuple[Path, ReportConfig],
) -> None:
    from eval.report_along import with_numbers
    from eval.report_facts import caption_axes

    captions = artifacts.open_captions_report(added[1].captions)
    drawn, _ = caption_axes(captions)
    kinds = list(dict.fromkeys(row[0] for row in drawn))[:2]
    named = AlongConfig(title="precision, %", measured="precision", kinds=kinds)
    expected = {row[0]: 100 * row[2].estimate for row in drawn if row[1] == "all"}
    assert with_numbers(named, captions).arms == {kind: expected[kind] for kind in kinds}
    with pytest.raises(InputError, match=r"takes precision of 'nobody' .* Measure it"):
        with_numbers(replace(named, kinds=[*kinds, "nobody"]), captions)
    with pytest.raises(ConfigError, match="expected no arms and two kinds or more"):
        replace(named, arms={"real": 1.0})


def test_of_twelve_styles_no_two_have_one_marker() -> None:
    from eval.drawing import look_of

    styles = [f"style_{i}" for i in range(12)]
    assert len({look_of(style, styles)[1] for style in styles}) == len(styles)


def test_every_figure_of_the_added_sections_is_recomputed(
    added: tuple[Path, ReportConfig],
) -> None:
    folder, _ = added
    found = list(check(folder, scores_of(read_rows(folder / ROWS)), resamples=500))
    assert not [c for c in found if not c.is_equal]
    assert {"changes", "along-0", "seeds"} <= {c.table for c in found}


@pytest.mark.usefixtures("undrawn")
def test_one_arm_of_many_seeds_has_a_report_of_its_own(tmp_path: Path) -> None:
    primary = PrimaryConfig(better="dsc", than="dsc", style="human", metric="prompt_following")
    study = Study(
        effects={"dsc": 0.2}, seeds=5, pairs=8, seed_spread=0.05, moments=(300,), primary=primary
    )
    folder = write_report(tmp_path / "report", build(tmp_path, study))
    headline = headline_of(folder)
    assert headline.startswith("Training dsc again with another seed moves prompt following by")
    assert "of 10 pairs of such models different" in headline
    found = list(check(folder, scores_of(read_rows(folder / ROWS)), resamples=500))
    assert not [c for c in found if not c.is_equal]
    assert {"headline", "seeds"} <= {c.table for c in found}


@pytest.mark.usefixtures("undrawn")
def test_two_seeds_are_too_few_to_speak_of_their_spread(tmp_path: Path) -> None:
    primary = PrimaryConfig(better="dsc", than="dsc", style="human", metric="prompt_following")
    study = Study(effects={"dsc": 0.2}, seeds=2, pairs=8, moments=(300,), primary=primary)
    folder = write_report(tmp_path / "report", build(tmp_path, study))
    assert headline_of(folder).startswith("No ranking is given: dsc has fewer than 3 training")


def made_rows(means: np.ndarray) -> Rows:
    num_seeds, num_pairs = means.shape
    seeds, pairs = (a.ravel() for a in np.mgrid[:num_seeds, :num_pairs])
    return Rows(pairs, pairs, seeds, np.zeros_like(seeds), means.ravel())


def test_the_deviation_of_seeds_is_covered_by_its_interval() -> None:
    generator = np.random.default_rng(0)
    covered = called = 0
    for _ in range(300):
        luck = generator.normal(0, 2, (6, 1))
        noise = seed_noise(made_rows(luck + generator.normal(0, 0.1, (6, 20))), arm="a")
        assert noise is not None
        covered += noise.low < np.hypot(2, 0.1 / np.sqrt(20)) < noise.high
        called += noise.num_called_different
    assert covered / 300 == pytest.approx(0.95, abs=0.04)
    assert called / (300 * 15) > 0.9


def test_without_seed_noise_one_pair_in_twenty_is_called_different() -> None:
    generator = np.random.default_rng(1)
    found = [seed_noise(made_rows(generator.normal(0, 1, (4, 30))), arm="a") for _ in range(400)]
    called = sum(n.num_called_different for n in found if n is not None)
    assert called / (400 * 6) == pytest.approx(0.05, abs=0.02)


def test_a_seed_that_lacks_a_prompt_is_named() -> None:
    rows = made_rows(np.zeros((3, 4)))
    kept = Rows(*(column[:-1] for column in rows))
    with pytest.raises(InputError, match="arm a, training seed 2 lacks prompts"):
        seed_noise(kept, arm="a")


def test_a_change_needs_both_pictures(added: tuple[Path, ReportConfig]) -> None:
    _, cfg = added
    table = artifacts.open_scores(cfg.scores).table
    rows = table.to_pylist()
    place = next(
        i
        for i, r in enumerate(rows)
        if (r["arm"], r["prompt_style"], r["metric"], r["axis"])
        == ("dsc", "human", "claims_held", None)
    )
    cut = ScoreTable(table.take([i for i in range(len(rows)) if i != place]))
    with pytest.raises(InputError, match="rows have no partner"):
        cut.rows(Measure("claims_held", change_of("dsc", "human")), "dsc")


def test_a_number_needs_two_values() -> None:
    with pytest.raises(ConfigError, match="needs arms at two numbers or more"):
        AlongConfig(title="share", arms={"real": 0, "dsc": 0})


def test_two_further_models_differ_by_more_than_is_said_in_one_case_of_twenty() -> None:
    generator = np.random.default_rng(2)
    more = 0
    for _ in range(2000):
        luck = generator.normal(0, 1, (5, 1)) + np.zeros((1, 3))
        noise = seed_noise(made_rows(luck), arm="a")
        assert noise is not None
        more += abs(np.subtract(*generator.normal(0, 1, 2))) > noise.between_two
    assert more / 2000 == pytest.approx(0.05, abs=0.015)


def test_a_change_of_what_some_pictures_lack_cannot_be_primary() -> None:
    with pytest.raises(ConfigError, match=r"primary.against: .* got metric=judge_yes"):
        replace(CHANGED, metric="judge_yes")
