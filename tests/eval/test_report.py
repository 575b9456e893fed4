"""The report: what its first sentence says, what it withholds, and that a reader can trust the page."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eval import artifacts, distribution_artifact, geneval
from eval.config import PrimaryConfig, ReportConfig
from eval.intervals import t_interval
from eval.pairing import Rows, cluster_means
from eval.report_headline import doubt
from eval.report_pictures import DRAWN, GREATEST, LEAST, choose
from eval.report_rows import ScoreTable
from eval.summary import PAGE, SUMMARY, summarise
from eval.words import plus_minus
from launch.errors import ArtifactError, InputError
from launch.manifest import (
    digest_bytes,
    read_manifest,
    write_json,
    write_manifest,
)

sys.path.insert(0, str(Path(__file__).parent))
from made_up import (
    CONTROL,
    SCRIPT,
    Reader,
    Study,
    build,
    default_report,
    finish,
    headline_of,
    make_judge,
    make_report,
    records,
    write_report,
)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportConfig]:
    return default_report(tmp_path_factory.getbasetemp())


# ------------------------------------------------------------------ the first sentence


def test_the_first_sentence_is_the_primary_comparison(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    assert re.match(
        r"dsc is better than real by \d+\.\d \[\d+\.\d, \d+\.\d\] percentage points in prompt "
        r"following \(claims of human prompts that hold\); 95% interval over 24 prompts, given the "
        r"one trained model of each arm\.$",
        headline_of(folder),
    )


@pytest.mark.usefixtures("undrawn")
def test_a_worse_arm_is_called_worse(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, Study(effects={"real": 0.2, "dsc": 0.0}))
    assert re.match(r"dsc is worse than real by \d+\.\d \[\d", headline_of(folder))


@pytest.mark.usefixtures("undrawn")
def test_equal_arms_are_not_distinguishable(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, Study(effects={"real": 0.0, "dsc": 0.0}))
    assert headline_of(folder).startswith("dsc and real are not distinguishable")
    assert "Not distinguishable does not mean equal" in (folder / PAGE).read_text()


@pytest.mark.usefixtures("undrawn")
def test_four_training_seeds_are_part_of_the_interval(tmp_path: Path) -> None:
    study = Study(effects={"real": 0.0, "dsc": 0.2}, seeds=4, seed_spread=0.02, moments=(300,))
    folder, _ = make_report(tmp_path, study)
    assert "24 prompts and 4 training seeds" in headline_of(folder)
    row = records(folder, "primary")[0]
    assert float(row["with_seeds_low"]) < float(row["low"])


@pytest.mark.usefixtures("undrawn")
def test_two_training_seeds_stand_beside_the_interval(tmp_path: Path) -> None:
    study = Study(effects={"real": 0.0, "dsc": 0.2}, seeds=2, moments=(300,))
    folder, _ = make_report(tmp_path, study)
    assert "2 training seeds an arm are too few" in (folder / PAGE).read_text()
    assert records(folder, "primary")[0]["with_seeds_low"] == ""


@pytest.mark.usefixtures("undrawn")
def test_a_control_passes_when_truth_wins_in_both_measures(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, CONTROL)
    assert headline_of(folder).startswith("The instrument passes its control: truth is better")
    assert "in prompt following" in headline_of(folder)
    assert "CLIP similarity" in headline_of(folder)
    assert {r["outcome"] for r in records(folder, "primary")} == {"pass", ""}


@pytest.mark.usefixtures("undrawn")
def test_a_control_fails_when_truth_does_not_win(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, replace(CONTROL, effects={"truth": 0.0, "shuffled": 0.0}))
    assert headline_of(folder).startswith("The instrument fails its control")
    assert "no comparison made with this instrument means anything" in (folder / PAGE).read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_judge_at_chance_gives_no_ranking(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, Study(retrieval=0.03))
    assert headline_of(folder).startswith("No ranking is given: the judge cannot be told")
    page = (folder / PAGE).read_text()
    table = page[page.index('id="table-grid"') :]
    assert "▲" not in table[: table.index("</table>")]
    assert {r["verdict"] for r in records(folder, "grid")} == {"", "withheld"}
    summary = (folder / SUMMARY).read_text()
    assert "No ranking is given" in summary
    # What would stand beside a ranking speaks of one.
    for words in ("training seed an arm", "the interval", "Not distinguishable does not mean"):
        assert words not in summary


def test_differences_without_spread_are_told_without_an_interval(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, Study(is_alike=True, moments=(100, 300)))
    assert "dsc is better than real by 20.0 [no interval: 24 prompts without spread]" in (
        headline_of(folder)
    )
    (primary,) = (r for r in records(folder, "primary") if not r["training_seed"])
    assert (primary["low"], primary["high"], primary["bootstrap_low"]) == ("", "", "")
    assert float(primary["p"]) == 2**-23
    page = (folder / PAGE).read_text()
    assert "[−∞, ∞]" in page  # noqa: RUF001
    assert "nan" not in re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    for path in (folder / "tables").glob("*.csv"):
        assert not re.search(r"(?i)\b(inf|nan)\b", path.read_text()), path.name


def test_a_judge_of_unknown_quality_gives_no_ranking() -> None:
    assert doubt({}) is not None
    good = {"r_at_1": 0.5, "interval": [0.4, 0.6], "chance": 0.1}
    poor = {"r_at_1": 0.1, "interval": [0.05, 0.2], "chance": 0.1}
    both = {"num_pictures": 10, "image_to_text": good, "text_to_image": good}
    assert doubt({"retrieval": both}) is None
    assert doubt({"retrieval": both | {"text_to_image": poor}}) is not None


def test_photographs_without_claims_have_a_report(tmp_path: Path) -> None:
    primary = PrimaryConfig(better="dsc", than="real", style="human", metric="clip_similarity")
    folder, _ = make_report(tmp_path, Study(has_claims=False, primary=primary))
    assert "in CLIP similarity (cosine x 100" in headline_of(folder)
    page = (folder / PAGE).read_text()
    assert "no claims are known for these prompts" in page
    assert "Precision and recall are not measured" in page


@pytest.mark.usefixtures("undrawn")
def test_a_ranking_by_a_public_clip_says_that_nobody_checked_it(tmp_path: Path) -> None:
    unchecked = "whether this public CLIP finds the text that belongs to a picture was not checked"
    primary = PrimaryConfig(better="dsc", than="real", style="human", metric="clip_similarity")
    cfg = build(tmp_path, Study(has_claims=False, primary=primary, moments=(300,)))
    fitted = write_report(tmp_path / "fitted", cfg)
    public = write_report(tmp_path / "public", replace(cfg, judge=None))
    assert unchecked not in headline_of(fitted)
    told = headline_of(public)
    assert told.removesuffix(".").startswith(headline_of(fitted).removesuffix("."))
    assert f"{unchecked} on these pictures." in told
    assert unchecked in " ".join((public / SUMMARY).read_text().split())


@pytest.mark.usefixtures("undrawn")
def test_other_scores_than_a_public_clip_s_say_nothing_of_it(tmp_path: Path) -> None:
    cfg = build(tmp_path, Study(is_detected=True, moments=(300,)))
    assert "public CLIP" not in headline_of(write_report(tmp_path / "a", replace(cfg, judge=None)))


def test_a_small_training_set_is_called_small(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    assert "1 training pictures are few" in (folder / PAGE).read_text()


# ------------------------------------------------------------------ the numbers


def test_published_means_are_those_of_the_rows(default: tuple[Path, ReportConfig]) -> None:
    folder, cfg = default
    rows = artifacts.open_scores(cfg.scores).table.to_pylist()
    for record in records(folder, "following"):
        if record["than"]:
            continue
        values = [
            100 * r["value"]
            for r in rows
            if r["metric"] == "claims_held"
            and r["arm"] == record["arm"]
            and r["prompt_style"] == record["prompt_style"]
            and (r["axis"] or "") == record["axis"]
            and r["samples_seen"] in (0, 300)
        ]
        assert float(record["mean"]) == pytest.approx(np.mean(values), rel=1e-12)


def test_published_differences_are_paired_by_prompt(default: tuple[Path, ReportConfig]) -> None:
    folder, cfg = default
    rows = artifacts.open_scores(cfg.scores).table.to_pylist()
    value = {
        (r["arm"], r["prompt_style"], r["scoring"], r["pair_id"]): r["value"]
        for r in rows
        if r["metric"] == "clip_similarity" and r["samples_seen"] == 300
    }
    found = [r for r in records(folder, "grid") if r["than"]]
    assert len(found) == 8  # 2 styles, 2 scoring captions, 2 arms against the first
    for record in found:
        style = record["prompt_style"]
        scoring = "prompt" if record["scoring"] == style else record["scoring"]
        pairs = sorted({k[3] for k in value})
        differences = [
            value[record["arm"], style, scoring, p] - value[record["than"], style, scoring, p]
            for p in pairs
        ]
        expected = t_interval(np.array(differences))
        assert float(record["difference"]) == pytest.approx(expected.estimate)
        assert float(record["low"]) == pytest.approx(expected.low)


def test_curves_compare_the_same_prompts_at_every_moment(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    found = records(folder, "curves")
    assert {r["num_prompts"] for r in found} == {"12"}
    assert {r["samples_seen"] for r in found} == {"100", "200", "300"}


def test_secondary_comparisons_are_corrected_and_the_primary_is_not(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    primary = next(
        r
        for r in records(folder, "following")
        if (r["arm"], r["than"], r["prompt_style"], r["axis"]) == ("dsc", "real", "human", "")
    )
    assert primary["p_holm"] == primary["p"]
    others = [r for r in records(folder, "grid") if r["than"]]
    assert all(float(r["p_holm"]) >= float(r["p"]) for r in others)
    assert any(float(r["p_holm"]) > float(r["p"]) for r in others)


def test_an_axis_that_the_judge_cannot_read_is_not_measurable(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    assert "displayed words</span> <small>not measurable" in (folder / PAGE).read_text()
    assert "words" not in {r["axis"] for r in records(folder, "following")}


def test_three_arms_are_compared_in_every_pair(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    found = {(r["arm"], r["than"]) for r in records(folder, "pairs")}
    assert found == {("dsc", "real"), ("ssc", "real"), ("dsc", "ssc")}


def test_a_score_stored_under_both_names_of_the_prompt_counts_once() -> None:
    row = {
        "arm": "a", "model_seed": 0, "seed": 0, "samples_seen": 1, "pair_id": "p",
        "prompt_id": "q", "prompt_style": "human", "metric": "clip_similarity", "axis": None,
        "value": 30.0, "generation_id": "g",
    }  # fmt: skip
    both = [{**row, "scoring": s} for s in ("prompt", "human")]
    table = ScoreTable(pa.Table.from_pylist(both, schema=artifacts.SCORES_SCHEMA))
    (measure,) = table.measures
    rows = table.rows(measure, "a")
    assert rows is not None
    assert rows.value.tolist() == [30.0]


# ------------------------------------------------------------------ the page


def test_every_text_from_data_is_shown_as_text(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    page = (folder / PAGE).read_text()
    assert SCRIPT not in page
    reader = Reader(page)
    assert len(list(reader.all("script"))) == 1
    assert any(SCRIPT in text for text in reader.text)


def test_prompts_seen_in_training_are_told_before_any_score(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    page = (folder / PAGE).read_text()
    assert page.index('id="table-overlap"') < page.index('id="table-primary"')
    rows = (folder / "tables/overlap.csv").read_text().splitlines()
    assert len(rows) == 1 + 3  # equal, all and any


def test_the_page_asks_for_nothing(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    reader = Reader((folder / PAGE).read_text())
    assert not reader.stack
    links = [
        value
        for _, attributes in reader.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data") and value
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(m["content"] for m in reader.all("meta") if "http-equiv" in m)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "url(" not in re.sub(r"url\(#", "", (folder / PAGE).read_text())


def test_ids_are_unique_and_every_picture_has_words(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    reader = Reader((folder / PAGE).read_text())
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("alt") for a in reader.all("img") if a.get("src"))
    assert all(a.get("aria-label") for a in reader.all("svg"))
    anchors = {a["href"] for a in reader.all("a") if (a.get("href") or "").startswith("#")}
    assert {a[1:] for a in anchors if a} <= set(ids)


def test_the_allowed_script_is_the_one_of_the_page(default: tuple[Path, ReportConfig]) -> None:
    import base64
    import hashlib

    folder, _ = default
    page = (folder / PAGE).read_text()
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}" in page or f"'sha256-{digest}'" in page


def test_time_and_disk_of_every_stage_are_added_over_sessions(
    default: tuple[Path, ReportConfig],
) -> None:
    folder, _ = default
    with (folder / "cost.csv").open() as file:
        costs = list(csv.DictReader(file))
    assert {c["artifact"] for c in costs} >= {
        "images",
        "autoencoder",
        "captioner",
        "judge",
        "scores",
    }
    assert {float(c["seconds"]) for c in costs} == {30.0}
    assert all(c["sessions"] == "2" for c in costs)


@pytest.mark.usefixtures("undrawn")
def test_an_artifact_that_has_moved_away_costs_an_unknown_time(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=8))
    (tmp_path / "captioner/run.log.jsonl").unlink()
    folder = write_report(tmp_path / "report", replace(cfg, captioners=[]))
    assert "1 of them left no log" in (folder / PAGE).read_text()


def test_the_summary_has_headline_means_and_the_path(default: tuple[Path, ReportConfig]) -> None:
    folder, _ = default
    text = summarise(folder)
    assert text.startswith("made-up: dsc is better than real by")
    assert re.search(r"human prompts +\d+\.\d ±\d+\.\d", text)
    assert str(folder / PAGE) in text


def test_equal_inputs_give_equal_payload(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=8))
    first = read_manifest(write_report(tmp_path / "one", cfg))
    (tmp_path / "scores/run.log.jsonl").write_text('{"time": 5, "event": "started"}\n')
    second = read_manifest(write_report(tmp_path / "two", cfg))
    assert first.digest == second.digest
    assert "summary.txt" in {p.name for p in first.parts}


@pytest.mark.usefixtures("undrawn")
def test_the_payload_does_not_depend_on_where_folders_lie(tmp_path: Path) -> None:
    cfg = build(tmp_path / "here", replace(CONTROL, pairs=6))
    here = read_manifest(write_report(tmp_path / "here/report", cfg))
    (tmp_path / "here").rename(tmp_path / "there")

    def moved(path: Path) -> Path:
        return tmp_path / "there" / path.name

    paths = {
        name: [moved(p) for p in value] if isinstance(value, list) else moved(value)
        for name, value in vars(cfg).items()
        if isinstance(value, Path) or (isinstance(value, list) and value)
    }
    there = read_manifest(write_report(tmp_path / "another", replace(cfg, **paths)))
    assert there.digest == here.digest
    costs = (tmp_path / "another/cost.csv").read_text()
    assert "captioner" in costs


@pytest.mark.usefixtures("undrawn")
def test_a_report_begun_and_killed_is_written_anew(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=8))
    whole = read_manifest(write_report(tmp_path / "report", cfg)).digest
    (tmp_path / "report/manifest.json").unlink()
    write_json(
        tmp_path / "report/begun.json",
        {"recipe": read_recipe(cfg, tmp_path), "inputs": read_inputs(tmp_path)},
    )
    (tmp_path / "report/tables/stale.csv").write_text("half")
    assert read_manifest(write_report(tmp_path / "report", cfg)).digest == whole


def read_recipe(cfg: ReportConfig, root: Path) -> dict[str, Any]:
    return read_manifest(write_report(root / "again", cfg)).recipe


def read_inputs(root: Path) -> list[list[str]]:
    return [[i.role, i.digest] for i in read_manifest(root / "again").inputs]


# ------------------------------------------------------------------ choices and refusals


def test_the_pictures_shown_follow_the_stated_rule() -> None:
    pairs = [digest_bytes(str(i).encode()) for i in range(40)]
    differences = {p: float(i) for i, p in enumerate(pairs)}
    chosen = choose(differences, pair_ids=pairs, num_pictures=8, seed=0)
    assert [c.pair_id for c in chosen if c.reason == GREATEST] == [pairs[39], pairs[38]]
    assert [c.pair_id for c in chosen if c.reason == LEAST] == [pairs[0], pairs[1]]
    drawn = [c.pair_id for c in chosen if c.reason == DRAWN]
    assert len(drawn) == 4
    assert len({c.pair_id for c in chosen}) == 8
    again = choose(differences, pair_ids=pairs[::-1], num_pictures=8, seed=0)
    assert [c.pair_id for c in again] == [c.pair_id for c in chosen]
    other = choose(differences, pair_ids=pairs, num_pictures=8, seed=1)
    assert [c.pair_id for c in other][:4] != drawn


def test_few_prompts_are_all_shown_once() -> None:
    pairs = [digest_bytes(str(i).encode()) for i in range(3)]
    chosen = choose(dict.fromkeys(pairs, 0.0), pair_ids=pairs, num_pictures=12, seed=0)
    assert sorted(c.pair_id for c in chosen) == sorted(pairs)


@pytest.mark.usefixtures("undrawn")
def test_scores_of_another_judge_are_refused(tmp_path: Path) -> None:
    study = replace(CONTROL, pairs=6)
    cfg = build(tmp_path, study)
    other = make_judge(tmp_path / "other", replace(study, retrieval=0.9), [])
    with pytest.raises(ArtifactError, match="was not made with the judge"):
        write_report(tmp_path / "report", replace(cfg, judge=other.folder))
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("undrawn")
def test_scores_of_another_study_are_refused(tmp_path: Path) -> None:
    cfg = build(tmp_path / "one", replace(CONTROL, pairs=6))
    other = build(tmp_path / "other", replace(CONTROL, pairs=7))
    for name in ("generations", "prompts", "scores"):
        mixed = replace(cfg, **{name: getattr(other, name)})
        with pytest.raises(ArtifactError, match=r"was not made with the \w+ of"):
            write_report(tmp_path / "report", mixed)
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_judge_whose_files_have_changed_is_refused(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=6))
    (cfg.judge / "quality.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"quality.json: is not what the manifest names"):
        write_report(tmp_path / "report", cfg)
    (cfg.judge / "quality.json").unlink()
    with pytest.raises(ArtifactError, match=r"quality.json: is missing"):
        write_report(tmp_path / "report", cfg)
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("undrawn")
def test_scores_of_a_model_that_is_not_given_are_refused(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=6, seeds=2))
    few = replace(cfg, generations=[g for g in cfg.generations if g.name != "gen-truth-1"])
    with pytest.raises(ArtifactError, match="holds 12 pictures that are in none of the gener"):
        write_report(tmp_path / "report", few)
    none = replace(cfg, generations=[g for g in cfg.generations if "shuffled" in g.name])
    with pytest.raises(InputError, match="no arm is called 'truth'"):
        write_report(tmp_path / "report", none)


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_a_text_did_not_score_is_named(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=6))
    manifest = read_manifest(cfg.scores)
    table = artifacts.open_scores(cfg.scores).table
    first = read_first_generation(cfg)
    gone = [
        g == first and m == "clip_similarity" and s == "dsc"
        for g, m, s in zip(
            *(table[n].to_pylist() for n in ("generation_id", "metric", "scoring")), strict=True
        )
    ]
    assert sum(gone) == 1
    kept = table.filter(pa.array([not g for g in gone]))
    artifacts.write_scores(cfg.scores / "scores.parquet", kept)
    write_manifest(cfg.scores, manifest)
    with pytest.raises(ArtifactError, match=f"no CLIP score with text 'dsc', {first} first"):
        write_report(tmp_path / "report", cfg)


@pytest.mark.usefixtures("undrawn")
def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    from t2i.artifacts import open_generations

    cfg = build(tmp_path, replace(CONTROL, pairs=2))
    generations = open_generations(cfg.generations[1])
    shard = cfg.generations[1] / generations.table["shard"][0].as_py()
    whole = bytearray(shard.read_bytes())
    for offset, size in zip(
        *(generations.table[n].to_pylist() for n in ("offset", "num_bytes")), strict=True
    ):
        whole[offset : offset + size] = bytes(size)
    shard.write_bytes(bytes(whole))
    with pytest.raises(ArtifactError, match=r"generation [0-9a-f]{32} cannot be read as a picture"):
        write_report(tmp_path / "report", cfg)
    assert not (tmp_path / "report/manifest.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_generation_without_score_is_an_error(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=6))
    manifest = read_manifest(cfg.scores)
    table = artifacts.open_scores(cfg.scores).table
    first = read_first_generation(cfg)
    keep = [g != first for g in table["generation_id"].to_pylist()]
    artifacts.write_scores(cfg.scores / "scores.parquet", table.filter(pa.array(keep)))
    write_manifest(cfg.scores, manifest)
    with pytest.raises(ArtifactError, match=f"1 pictures of .* have no score, {first}"):
        write_report(tmp_path / "report", cfg)


def read_first_generation(cfg: ReportConfig) -> str:
    from t2i.artifacts import open_generations

    return str(open_generations(cfg.generations[0]).table["generation_id"][0].as_py())


@pytest.mark.usefixtures("undrawn")
def test_an_unknown_arm_in_the_primary_comparison_is_refused(tmp_path: Path) -> None:
    cfg = build(tmp_path, replace(CONTROL, pairs=6))
    wrong = replace(cfg, primary=replace(cfg.primary, better="dcs"))
    with pytest.raises(InputError, match="no arm is called 'dcs'"):
        write_report(tmp_path / "report", wrong)


@pytest.mark.usefixtures("undrawn")
def test_an_added_section_is_on_the_page_in_the_navigation_and_among_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import report_sections
    from eval.report_sections import Section, Sources
    from eval.table import Table, Value

    def about(of: Sources) -> Section:
        num, cfg = of.opened.scores.table.num_rows, of.cfg
        rows = Table(
            name="about", title="About", columns=["rows"], rows=[[Value(f"{num:,}")]],
            records=[{"rows": num}],
        )  # fmt: skip
        words = [f"Of {cfg.study}: {SCRIPT}"]
        return Section(id="about", name="About", title="About it", words=words, tables=[rows])

    monkeypatch.setattr(report_sections, "ADDED", (about, lambda *_: None))
    folder, cfg = make_report(tmp_path, replace(CONTROL, pairs=6))
    page = (folder / PAGE).read_text()
    assert '<a href="#about">About</a>' in page
    assert (
        page.index('id="caption-quality"') < page.index('id="about"') < page.index('id="quality"')
    )
    assert SCRIPT not in page
    num = artifacts.open_scores(cfg.scores).table.num_rows
    assert records(folder, "about") == [{"rows": str(num)}]
    assert "tables/about.csv" in {p.name for p in read_manifest(folder).parts}


@pytest.mark.usefixtures("undrawn")
def test_what_an_added_section_reads_is_an_input_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import report_sections

    @dataclass(frozen=True, kw_only=True)
    class More(ReportConfig):
        extra: Path | None = None

    monkeypatch.setattr(report_sections, "INPUTS", {"extra": ("autoencoder", 1)})
    cfg = build(tmp_path, replace(CONTROL, pairs=6))
    without = write_report(tmp_path / "without", More(**vars(cfg)))
    folder = write_report(tmp_path / "with", More(**vars(cfg), extra=cfg.autoencoder))
    assert "extra" not in {i.role for i in read_manifest(without).inputs}
    assert "extra" in {i.role for i in read_manifest(folder).inputs}


@pytest.mark.usefixtures("undrawn")
def test_what_people_prefer_has_its_section(tmp_path: Path) -> None:
    from eval.config import PreferenceConfig, VotesConfig
    from eval.preference import preference
    from eval.votes import votes
    from eval.votes_artifact import open_preference
    from launch.run import Run

    cfg = build(tmp_path / "study", Study())
    asked = PreferenceConfig(
        generations=cfg.generations, prompts=cfg.prompts, styles=["human"], num_prompts=4
    )
    preference(asked, Run(out=tmp_path / "page", verb="eval preference", config=asked))
    made = open_preference(tmp_path / "page")
    lines = [
        {"page": made.page_digest, "rater": SCRIPT, "trial": trial, "choice": choice}
        for trial, choice in zip(
            made.trials, ("left", "right", "tie") * len(made.trials), strict=False
        )
    ]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = VotesConfig(preference=tmp_path / "page", votes=[tmp_path / "votes.jsonl"])
    votes(read, Run(out=tmp_path / "votes", verb="eval votes", config=read))
    out = write_report(tmp_path / "report", replace(cfg, votes=tmp_path / "votes"))
    page = (out / PAGE).read_text()
    assert '<section id="people">' in page
    assert "over prompts alone" in page
    assert {row["question"] for row in records(out, "preference_pairs")} == {
        "style", "coherence", "prompt_following",
    }  # fmt: skip
    assert "votes" in {i.role for i in read_manifest(out).inputs}


def test_a_formula_in_a_caption_stays_text_in_a_spreadsheet() -> None:
    from eval.table import Table

    table = Table(name="t", title="", columns=[], rows=[], records=[{"prompt": "=1+1", "x": -1.5}])
    assert table.csv() == b"prompt,x\n'=1+1,-1.5\n"


def test_cluster_means_weigh_every_prompt_once() -> None:
    rows = Rows(
        np.array([0, 0, 1]), np.array([0, 0, 1]), np.zeros(3, int), np.array([0, 1, 0]),
        np.array([1.0, 3.0, 7.0]),
    )  # fmt: skip
    assert cluster_means(rows).tolist() == [2.0, 7.0]


def test_values_all_alike_are_said_to_be_so_and_get_no_width() -> None:
    assert plus_minus(t_interval(np.zeros(6)), 1) == "(all 6)"
    assert plus_minus(t_interval(np.array([0.0, 1.0])), 1).startswith("±")
    assert plus_minus(t_interval(np.array([1.0])), 1) == ""


@pytest.mark.usefixtures("undrawn")
def test_what_a_detector_and_ocr_find_is_told_by_task(tmp_path: Path) -> None:
    folder, _ = make_report(tmp_path, Study(is_detected=True, moments=(300,)))
    page = (folder / PAGE).read_text()
    assert "by GenEval's rules" in page
    assert "a recogniser finds true" not in page
    assert "colours of several: measured" in page
    assert "not measurable" not in page
    rows = [r for r in records(folder, "checks") if r["prompt_style"] == "human"]
    tasks = {r["axis"] for r in rows if r["metric"] == "geneval_correct"}
    assert tasks == {"", *geneval.TASKS}
    assert {r["metric"] for r in rows} == {"geneval_correct", "words_exact", "words_right"}
    means = {
        r["axis"]: float(r["mean"])
        for r in rows
        if (r["metric"], r["arm"], r["than"]) == ("geneval_correct", "dsc", "")
    }
    assert means[""] == pytest.approx(np.mean([means[task] for task in geneval.TASKS]))
    assert re.search(r"GenEval score</span> <small>mean of the 6 tasks", page)
    # Fewer mistakes are the better result, so what is printed is the share of what is right.
    of_words = [r for r in rows if r["metric"] == "words_right" and r["arm"] == "dsc"]
    assert float(of_words[1]["difference"]) > 0
    assert of_words[1]["verdict"] == "better"


@pytest.mark.usefixtures("undrawn")
def test_scores_by_sentences_stand_apart_from_the_grid(
    default: tuple[Path, ReportConfig], tmp_path: Path
) -> None:
    assert "By sentences" not in (default[0] / PAGE).read_text()
    assert not (default[0] / "tables/sentences.csv").exists()
    folder, _ = make_report(tmp_path, Study(is_long=True, pairs=8, moments=(300,)))
    assert "<summary>By sentences</summary>" in (folder / PAGE).read_text()
    assert {r["metric"] for r in records(folder, "grid")} == {"clip_similarity"}
    found = records(folder, "sentences")
    assert {r["metric"] for r in found} == {"clip_similarity_sentences"}
    means = {
        name: {
            (r["prompt_style"], r["scoring"], r["arm"]): float(r["mean"])
            for r in records(folder, name)
            if not r["than"]
        }
        for name in ("grid", "sentences")
    }
    assert means["sentences"] == pytest.approx({k: v - 3 for k, v in means["grid"].items()})
    differences = [r for r in found if r["than"]]
    assert differences
    assert all(float(r["p_holm"]) >= float(r["p"]) for r in differences)


@pytest.mark.usefixtures("undrawn")
def test_distances_between_distributions_have_a_section_where_they_are_given(
    default: tuple[Path, ReportConfig], tmp_path: Path
) -> None:
    folder, cfg = default
    assert 'id="distribution"' not in (folder / PAGE).read_text()
    row = {
        "model_seed": None, "style": "human", "metric": "fid", "n": 24, "n_reference": 12,
        "num_prompts": 24, "value": 7.5, "low": 7.0, "high": 8.0, "standard_error": 0.2,
        "method": "jackknife", "with_seeds_low": None, "with_seeds_high": None,
    }  # fmt: skip
    arms = ("real", "ssc", "dsc")
    rows = {name: [] for name in distribution_artifact.TABLES if name != "pictures"}
    distribution_artifact.write_tables(
        tmp_path / "distances",
        {**rows, "distances": [{"arm": arm, **row} for arm in arms]},
        pictures=distribution_artifact.PICTURES_SCHEMA.empty_table(),
    )
    finish(
        tmp_path / "distances", "distribution",
        inputs=[read_manifest(g) for g in cfg.generations],
        recipe={"scorer": {"features": {"architecture": {"embed_dim": 64}, "weights": "0" * 32}}},
    )  # fmt: skip
    page = write_report(tmp_path / "out", replace(cfg, distribution=tmp_path / "distances"))
    text = (page / PAGE).read_text()
    assert 'id="table-distribution"' in text
    assert distribution_artifact.SAYS_NOTHING in text
    assert [r["value"] for r in records(page, "distribution")] == ["7.5"] * 3


@pytest.mark.usefixtures("undrawn")
def test_a_public_clip_and_autoencoder_have_a_report_that_claims_nothing_of_them(
    tmp_path: Path,
) -> None:
    primary = PrimaryConfig(better="dsc", than="real", style="human", metric="clip_similarity")
    cfg = build(tmp_path, Study(has_claims=False, primary=primary))
    folder = write_report(tmp_path / "out", replace(cfg, judge=None, autoencoder=None))
    assert headline_of(folder).startswith("dsc is better than real")
    assert {i.role for i in read_manifest(folder).inputs}.isdisjoint({"judge", "autoencoder"})
    for name in ("retrieval", "recogniser"):
        assert not [r for r in records(folder, name) if any(r.values())]
