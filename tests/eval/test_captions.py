"""Caption measurements: hand-made captions with known truth, and photographs without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eval import artifacts
from eval.captions import axes_of, captions, compare_text
from eval.captions_page import CAPTIONS_PAGE, SECTIONS
from eval.captions_summary import summary_text
from eval.config import CaptionsConfig
from eval.hallucination_signals import Measured, asked_of, captioners_of, samples_by_kind
from eval.report_facts import caption_lengths
from launch.errors import ArtifactError, ConfigError
from launch.run import Run
from recap.artifacts import (
    CaptionRow,
    Captions,
    caption_part_name,
    open_captions,
    write_caption_part,
)
from recap.claims import Claim


def measure(out: Path, **settings: Any) -> artifacts.CaptionsReport:
    cfg = CaptionsConfig(**settings)
    run = Run(out=out, verb="eval captions", config=cfg)
    captions(cfg, run)
    run.close()
    return artifacts.open_captions_report(out)


def axis(report: artifacts.CaptionsReport, kind: str, name: str) -> dict[str, Any]:
    rows = [
        row
        for row in report.axes.to_pylist()
        if (row["kind"], row["axis"], row["annotated"]) == (kind, name, False)
    ]
    assert len(rows) == 1
    return rows[0]


@pytest.fixture(scope="module")
def report(small_world: Any, tmp_path_factory: pytest.TempPathFactory) -> artifacts.CaptionsReport:
    test = small_world.of_split("test")
    train = small_world.of_split("train")
    dsc, ssc = small_world.texts("dsc"), small_world.texts("ssc")
    measured = small_world.write_captions(
        "measured",
        {
            "dsc": {i: dsc[i] for i in [*test, *train]},
            "ssc": {i: ssc[i] for i in test[1:]},  # one was quarantined
            "wrong": dict.fromkeys(test, "five green dogs"),
        },
    )
    teacher = small_world.write_captions("teacher", {"dsc": {i: dsc[i] for i in train[:3]}})
    return measure(
        tmp_path_factory.mktemp("report") / "out",
        images=small_world.images,
        captions=[measured],
        annotated=[teacher],
        num_examples=2,
    )


def test_a_true_description_has_perfect_precision_and_recall(
    report: artifacts.CaptionsReport,
) -> None:
    for name in ("objects", "number_place", "colour_size", "all"):
        found = axis(report, "dsc", name)
        assert (found["precision"], found["recall"]) == (1.0, 1.0)
        assert found["num_pictures"] == 12


def test_a_short_caption_is_precise_and_omits(report: artifacts.CaptionsReport) -> None:
    found = axis(report, "ssc", "all")
    assert found["precision"] == 1.0
    assert found["recall"] < 0.7
    assert found["num_pictures"] == 11


def test_a_caption_that_says_nothing_has_no_precision(report: artifacts.CaptionsReport) -> None:
    found = axis(report, "wrong", "all")
    assert found["precision"] is None
    assert found["recall"] == 0.0


def test_annotated_pictures_are_reported_apart(report: artifacts.CaptionsReport) -> None:
    rows = [r for r in report.axes.to_pylist() if r["kind"] == "dsc" and r["annotated"]]
    assert {row["num_pictures"] for row in rows} == {3}
    apart = [r for r in report.lengths.to_pylist() if r["annotated"] and r["kind"] == "dsc"]
    assert len(apart) == 3


def test_alt_text_is_always_measured(report: artifacts.CaptionsReport) -> None:
    assert set(report.regularities) == {"alt", "dsc", "ssc", "wrong"}
    assert axis(report, "alt", "all")["recall"] < 0.5


def test_missing_captions_are_counted(report: artifacts.CaptionsReport) -> None:
    assert report.regularities["ssc"]["num_missing"] == 1
    assert report.manifest.rejected == {"missing": 1}
    assert report.manifest.counts["rows_in"] == report.manifest.counts["rows_out"] + 1


def test_axes_are_the_sums_of_the_rows_of_every_caption(report: artifacts.CaptionsReport) -> None:
    assert axes_of(report.claims).equals(report.axes)


def test_examples_show_the_same_pictures_in_every_kind(report: artifacts.CaptionsReport) -> None:
    shown = {kind: [e["sample_id"] for e in found] for kind, found in report.examples.items()}
    assert len(shown["dsc"]) == 2
    assert len({tuple(ids) for ids in shown.values()}) == 1


def test_photographs_have_no_axes_and_everything_else(make: Any, tmp_path: Path) -> None:
    made = make.world(tmp_path / "photos", num=8, has_claims=False)
    texts = made.write_captions("texts", {"human": dict(enumerate(made.texts("human")))})
    found = measure(tmp_path / "out", images=made.images, captions=[texts])
    assert found.axes.num_rows == found.claims.num_rows == 0
    assert found.regularities["human"]["num_captions"] == 2
    assert found.lengths.num_rows == 4
    assert found.examples["human"]


def test_where_claims_are_known_of_some_pictures_figures_are_of_those_and_say_so(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make.world(tmp_path / "mixed", num=24, unknown=[1, 9])  # two of six test pictures
    truth = made.texts("dsc")
    texts = made.write_captions("texts", {"dsc": {i: truth[i] for i in made.of_split("test")}})
    found = measure(tmp_path / "out", images=made.images, captions=[texts])
    assert "pictures whose claims are known: 4" in capsys.readouterr().out
    all_axes = axis(found, "dsc", "all")
    assert (all_axes["num_pictures"], all_axes["recall"]) == (4, 1.0)
    assert found.lengths.num_rows == 12
    head, dsc = (
        line for line in summary_text(found).splitlines() if line.startswith(("captions", "dsc"))
    )
    assert re.split(r"  +", head)[1:4] == ["pictures", "words", "truth known"]
    assert re.split(r"  +", dsc)[1::2][:2] == ["6", "4"]
    assert "dsc 4 of 6." in (tmp_path / "out" / CAPTIONS_PAGE).read_text()


@pytest.fixture(scope="module")
def hallucinating(make: Any, small_judge: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Captions of which a third invent a ring, samples that never do, and their report."""
    made = make.world(tmp_path_factory.mktemp("many"), num=208)
    test, truth = made.of_split("test"), made.texts("dsc")
    invented = {i: f"{truth[i]} There are five purple rings." for i in test[::3]}
    captioner, other = small_judge, made.images  # any two artifacts: only their digests matter
    measured = made.write_captions(
        "measured", {"dsc": {i: truth[i] for i in test} | invented}, captioner=captioner
    )
    again = {k: made.texts("dsc", seed=k) for k in (1, 2)}
    samples = [
        made.write_captions(
            f"sample{k}", {"again": {i: again[k][i] for i in test}}, captioner=captioner
        )
        for k in again
    ]
    foreign = made.write_captions("foreign", {"dsc": {test[0]: "a ring"}}, captioner=other)
    settings = {"images": made.images, "captions": [measured], "judge": small_judge}
    out = made.root / "report"
    found = measure(out, **settings, samples=samples, text_encoders=[Path("clip"), Path("clip:20")])
    return {
        "made": made, "report": found, "settings": settings, "samples": samples,
        "foreign": foreign, "out": out,
    }  # fmt: skip


def test_the_estimate_finds_what_samples_do_not_repeat(hallucinating: Any) -> None:
    facts = hallucinating["report"].hallucination["kinds"]["dsc"]
    assert facts["num_samples"] == 2
    sets = facts["known"]["sets"]
    assert sets["agreement"]["correlation"]["spearman"]["interval"][0] > 0
    assert set(sets) == {"agreement", "margin", "agreement and margin"}
    assert facts["known"]["num_captions"] == 52
    text = (hallucinating["out"] / "summary.txt").read_text()
    assert "agreement and margin" in text
    assert "Spearman" in text


def test_every_estimate_can_be_computed_again_from_its_sentences(hallucinating: Any) -> None:
    report = hallucinating["report"]
    rows = {r["sample_id"]: r for r in report.estimates.to_pylist() if r["kind"] == "dsc"}
    sums: dict[str, list[float]] = {}
    for r in report.sentences.to_pylist():
        if r["kind"] == "dsc" and r["agreement"] is not None:
            total = sums.setdefault(r["sample_id"], [0.0, 0.0])
            total[0] += r["agreement"] * r["num_content_words"]
            total[1] += r["num_content_words"]
    for sample_id, (top, bottom) in sums.items():
        assert rows[sample_id]["agreement"] == pytest.approx(top / bottom)
    assert len(sums) == len(rows) == 52


def test_only_the_captioners_own_samples_speak_for_a_kind(hallucinating: Any) -> None:
    report = hallucinating["report"]
    assert report.hallucination["kinds"]["alt"]["num_samples"] == 0
    assert set(report.hallucination["kinds"]["alt"]["signals"]) == {"margin"}
    settings = hallucinating["settings"]
    with pytest.raises(ArtifactError, match="captioner of none of the measured kinds"):
        measure(hallucinating["out"], **settings, samples=[hallucinating["foreign"]])
    with pytest.raises(ConfigError, match="always agrees with itself"):
        measure(hallucinating["out"], **settings, samples=settings["captions"])


@pytest.fixture(scope="module")
def asked_twice(small_world: Any, small_judge: Path) -> Any:
    """Write a kind of one captioner, asked in certain words."""
    test = small_world.of_split("test")
    texts = small_world.texts("dsc")

    def write(name: str, kind: str, instruction: str | None, seed: int = 0) -> Captions:
        folder = small_world.write_captions(
            name,
            {kind: {i: texts[i] for i in test}},
            captioner=small_judge,  # any artifact: only its digest matters
            recipe={
                "decode": {"method": "sample" if seed else "greedy"}, "seed": seed,
                **({} if instruction is None else {"vlm": {"instruction": instruction}}),
            },
        )  # fmt: skip
        return open_captions(folder)

    return write


def kind_of(opened: Captions) -> Measured:
    (name,) = opened.kinds
    return Measured(name, opened.texts(name), captioners_of(opened), frozenset({asked_of(opened)}))


def test_samples_of_a_captioner_asked_twice_speak_for_the_kind_of_their_own_name(
    asked_twice: Any,
) -> None:
    kinds = [
        kind_of(asked_twice("short", "ssc", "Be brief.")),
        kind_of(asked_twice("long", "dsc", "Tell all.")),
    ]
    samples = [
        asked_twice("short1", "ssc", "Be brief.", seed=1),
        asked_twice("long1", "dsc", "Tell all.", seed=1),
        asked_twice("long2", "dsc", "Tell all.", seed=2),
    ]
    found = samples_by_kind(samples, kinds, measured=[])
    assert {kind: len(texts) for kind, texts in found.items()} == {"ssc": 1, "dsc": 2}


def test_samples_of_another_name_speak_for_the_kind_that_was_asked_for_in_the_same_words(
    asked_twice: Any,
) -> None:
    kinds = [
        kind_of(asked_twice("brief", "ssc", "Be brief.")),
        kind_of(asked_twice("whole", "dsc", "Tell all.")),
    ]
    again = asked_twice("again1", "again", "Tell all.", seed=1)
    assert set(samples_by_kind([again], kinds, measured=[])) == {"dsc"}
    other = asked_twice("other1", "other", "Tell a story.", seed=1)
    with pytest.raises(ArtifactError, match=r"captioner of ssc, dsc, but it was asked otherwise"):
        samples_by_kind([other], kinds, measured=[])


def test_samples_that_could_be_of_several_kinds_are_refused(asked_twice: Any) -> None:
    kinds = [kind_of(asked_twice(name, name, None)) for name in ("greedy", "beam")]
    with pytest.raises(ConfigError, match=r"wrote greedy, beam too .*recap caption kind=greedy"):
        samples_by_kind([asked_twice("any1", "any", None, seed=1)], kinds, measured=[])


def test_photographs_take_the_estimate_of_the_world_and_say_so(
    hallucinating: Any, make: Any, tmp_path: Path
) -> None:
    made = make.world(tmp_path / "photos", num=32, has_claims=False)
    test = made.of_split("test")
    written = [made.texts("dsc", seed=k) for k in (0, 1)]
    measured, sample = (
        made.write_captions(f"texts{k}", {"dsc": {i: texts[i] for i in test}})
        for k, texts in enumerate(written)
    )
    settings: dict[str, Any] = {"images": made.images, "captions": [measured], "samples": [sample]}
    carried = measure(tmp_path / "out", **settings, calibration=hallucinating["out"])
    facts = carried.hallucination["kinds"]["dsc"]
    assert facts["known"] is None
    assert facts["carried_over"]["signals"] == "agreement"
    assert 0 < facts["carried_over"]["estimate"]["mean"] < 1
    assert "carried over to this one unchecked" in " ".join(
        (tmp_path / "out" / "summary.txt").read_text().split()
    )
    bare = measure(tmp_path / "bare", **settings)
    assert bare.hallucination["kinds"]["dsc"]["carried_over"] is None
    assert set(bare.estimates["estimate"].to_pylist()) == {None}
    with pytest.raises(ConfigError, match="holds no fitted estimate"):
        measure(tmp_path / "no", **settings, calibration=tmp_path / "bare")


@pytest.fixture(scope="module")
def photographs(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Captions of several kinds of pictures without truth, with a sample of each."""
    made = make.world(tmp_path_factory.mktemp("photographs"), num=32, has_claims=False)
    test = made.of_split("test")

    def settings(*kinds: str) -> dict[str, Any]:
        measured, sample = (
            made.write_captions(
                f"{'_'.join(kinds)}{seed}",
                {kind: {i: made.texts("dsc", seed=seed)[i] for i in test} for kind in kinds},
            )
            for seed in (0, 1)
        )
        return {"images": made.images, "captions": [measured], "samples": [sample]}

    return settings


def test_a_calibration_with_a_fit_of_no_measured_kind_is_refused_before_work_starts(
    hallucinating: Any, photographs: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"fits of the kinds dsc, and .* of coca, theirs\."):
        measure(tmp_path / "no", **photographs("coca", "theirs"), calibration=hallucinating["out"])
    assert not (tmp_path / "no" / "run.log.jsonl").exists()


def test_a_kind_without_a_fit_is_told_beside_one_that_has_it(
    hallucinating: Any, photographs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(
        tmp_path / "out", **photographs("coca", "dsc"), calibration=hallucinating["out"]
    )
    assert "coca: none, the calibration has no fit of this kind; dsc: a fit" in (
        capsys.readouterr().out
    )
    kinds = found.hallucination["kinds"]
    assert kinds["coca"]["carried_over"] is None
    assert "not_carried" not in kinds["dsc"]
    told = "no estimate was carried over: the calibration has no fit of this kind."
    assert f"coca: {told}" in (tmp_path / "out" / "summary.txt").read_text()
    assert f"<b>coca</b>: {told}" in (tmp_path / "out" / CAPTIONS_PAGE).read_text()


def test_the_page_shows_every_section_and_asks_for_nothing(hallucinating: Any) -> None:
    page = (hallucinating["out"] / CAPTIONS_PAGE).read_text()
    for id_, _ in SECTIONS:
        assert f'<section id="{id_}">' in page
    for table in ("side_by_side", "hallucination", "calibration", "truncation", "telling_apart"):
        assert f'id="table-{table}"' in page
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert str(hallucinating["out"]) not in page


def test_the_page_is_part_of_the_payload_and_the_same_each_time(
    hallucinating: Any, tmp_path: Path
) -> None:
    settings = hallucinating["settings"] | {"samples": hallucinating["samples"]}
    encoders = [Path("clip"), Path("clip:20")]
    again = measure(tmp_path / "elsewhere", **settings, text_encoders=encoders)
    parts = {part.name: part.digest for part in hallucinating["report"].manifest.parts}
    assert {part.name: part.digest for part in again.manifest.parts} == parts
    assert CAPTIONS_PAGE in parts


def test_text_of_captions_is_escaped_wherever_it_is_shown(
    make: Any, small_world: Any, tmp_path: Path
) -> None:
    bad = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    ids, folder = small_world.sample_ids, tmp_path / "bad"
    test = small_world.of_split("test")
    rows = [CaptionRow(sample_id=ids[i], kind="dsc", text=f"{bad} {i % 3}") for i in test]
    gated = CaptionRow(sample_id=ids[0], kind="dsc", text=bad, flags=("loop",))
    write_caption_part(folder / caption_part_name(0), rows)
    write_caption_part(folder / caption_part_name(0, is_quarantine=True), [gated])
    make.finish(folder, "captions")
    measure(tmp_path / "out", images=small_world.images, captions=[folder])
    page = (tmp_path / "out" / CAPTIONS_PAGE).read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3


def test_a_calibration_without_signals_is_refused() -> None:
    with pytest.raises(ConfigError, match="calibration needs signals"):
        CaptionsConfig(images=Path("i"), captions=[], calibration=Path("c"))


def test_tokens_are_counted_for_every_caption_and_encoder(hallucinating: Any) -> None:
    tokens = hallucinating["report"].tokens.to_pylist()
    assert {(r["encoder"], r["max_tokens"]) for r in tokens} == {("clip", 77), ("clip", 20)}
    assert len(tokens) == 2 * hallucinating["report"].lengths.num_rows


def test_gated_captions_are_counted_and_shown(make: Any, small_world: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gated"
    ids = small_world.sample_ids
    write_caption_part(
        folder / caption_part_name(0), [CaptionRow(sample_id=ids[1], kind="dsc", text="a ring")]
    )
    write_caption_part(
        folder / caption_part_name(0, is_quarantine=True),
        [CaptionRow(sample_id=i, kind="dsc", text="ring " * 9, flags=("loop",)) for i in ids[2:5]],
    )
    make.finish(folder, "captions", recipe={"gated_by_rule": {"loop": 3}})
    report = measure(tmp_path / "out", images=small_world.images, captions=[folder], num_examples=2)
    (entry,) = report.gates["captions"]
    assert (entry["num_captions"], entry["num_gated"]) == (4, 3)
    assert entry["rules"]["loop"]["num"] == 3
    assert len(entry["rules"]["loop"]["examples"]) == 2
    low, high = entry["interval"]
    assert low < 0.75 < high


def test_a_quarantine_that_differs_from_its_manifest_is_refused(
    make: Any, small_world: Any, tmp_path: Path
) -> None:
    folder = small_world.write_captions(f"lost-{tmp_path.name}", {"dsc": {1: "a ring"}})
    (folder / "manifest.json").unlink()
    make.finish(folder, "captions", recipe={"gated_by_rule": {"loop": 3}})
    with pytest.raises(ArtifactError, match="nothing by rule, the manifest says loop 3"):
        measure(tmp_path / "out", images=small_world.images, captions=[folder])


def test_running_again_changes_nothing(small_world: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"images": small_world.images, "captions": []}
    first = measure(tmp_path / "out", **settings)
    again = measure(tmp_path / "out", **settings)
    other = measure(tmp_path / "other", **settings)
    assert first.manifest.digest == again.manifest.digest == other.manifest.digest


def test_an_unknown_split_is_refused(small_world: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture of split 'tset'"):
        measure(tmp_path / "out", images=small_world.images, captions=[], split="tset")
    assert not (tmp_path / "out").exists()


def test_two_captions_of_one_kind_and_picture_are_refused(small_world: Any, tmp_path: Path) -> None:
    folders = [small_world.write_captions(f"twice{i}", {"dsc": {0: "a ring"}}) for i in (0, 1)]
    with pytest.raises(ArtifactError, match="in another of the captions given"):
        measure(tmp_path / "out", images=small_world.images, captions=folders)


def test_captions_of_other_pictures_are_refused(
    make: Any, small_world: Any, tmp_path: Path
) -> None:
    other = make.world(tmp_path / "elsewhere", num=4)
    texts = other.write_captions("texts", {"dsc": {0: "a ring"}})
    with pytest.raises(ArtifactError, match="speak of no picture"):
        measure(tmp_path / "out", images=small_world.images, captions=[texts])


def test_omission_and_invention_are_told_apart() -> None:
    true = [
        Claim(
            object="ring",
            count=1,
            colour="red",
            size="small",
            texture="striped",
            position="top left",
        ),
        Claim(object="background", colour="grey"),
    ]
    omits = compare_text("a red ring", true)
    assert omits["objects"] == (1, 0, 1)
    assert omits["colour_size"] == (1, 0, 2)
    invents = compare_text("a red ring and two blue squares on a grey background", true)
    assert invents["objects"] == (2, 1, 0)


def test_the_schemas_carry_their_contract() -> None:
    assert isinstance(artifacts.CLAIMS_SCHEMA, pa.Schema)
    assert artifacts.CLAIMS_SCHEMA.metadata[b"captionmix.artifact"] == b"captions_report"


def test_the_summary_tells_precision_and_recall_of_every_kind(
    report: artifacts.CaptionsReport,
) -> None:
    text = (report.manifest.folder / "summary.txt").read_text()
    assert "truth known" not in text
    lines = {line.split("  ")[0]: line for line in text.splitlines()[2:]}
    assert "100.0 [" in lines["dsc"]
    assert set(lines) >= {"captions of", "alt", "ssc", "dsc"}


def test_lengths_of_annotated_pictures_stand_in_where_a_kind_has_no_others_and_say_so() -> None:
    rows = [
        {"kind": kind, "sample_id": f"{i:032x}", "annotated": annotated, "num_words": words,
         "num_characters": 9}
        for i, (kind, annotated, words) in enumerate(
            [("dsc", True, 30), ("ssc", True, 30), ("ssc", False, 10)]
        )
    ]  # fmt: skip
    empty = artifacts.AXES_SCHEMA.empty_table()
    lengths = pa.Table.from_pylist(rows, schema=artifacts.LENGTHS_SCHEMA)
    table = caption_lengths(
        artifacts.CaptionsReport(
            axes=empty, claims=empty, lengths=lengths, regularities={}, examples={}
        )
    )
    told = {
        r["kind"]: (r["mean_words"], r["num"], r["of_annotated_pictures"]) for r in table.records
    }
    assert told == {"dsc": (30.0, 1, True), "ssc": (10.0, 1, False)}
    assert [bool(row[0].note) for row in table.rows] == [True, False]


def test_the_summary_without_truth_has_lengths_alone() -> None:
    lengths = pa.Table.from_pylist(
        [{"kind": "alt", "sample_id": "0" * 32, "annotated": False, "num_words": 3,
          "num_characters": 9}],
        schema=artifacts.LENGTHS_SCHEMA,
    )  # fmt: skip
    report = artifacts.CaptionsReport(
        axes=artifacts.AXES_SCHEMA.empty_table(),
        claims=artifacts.CLAIMS_SCHEMA.empty_table(),
        lengths=lengths,
        regularities={},
        examples={},
    )
    last = summary_text(report).splitlines()[-1]
    assert last.split() == ["alt", "1", "3.0"]
