"""Caption measurements: hand-made captions with known truth, and photographs without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eval import artifacts
from eval.captions import axes_of, captions, compare_text, regularities, summary_text
from eval.config import CaptionsConfig
from launch.errors import ArtifactError, ConfigError
from launch.run import Run
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


def test_regularities_of_hand_made_captions() -> None:
    found = regularities(
        ["A red ring.", "A red ring.", "a red square", "TWO RINGS!", "An Old House", " ring"]
    )
    assert found["num_captions"] == 6
    assert found["distinct"] == 5 / 6
    assert found["starts_with_article"] == 4 / 6
    assert found["leading_space"] == 1 / 6
    assert found["ending"] == {
        "full_stop": 2 / 6, "none": 3 / 6, "other_punctuation": 1 / 6,
    }  # fmt: skip
    assert found["letter_case"] == {
        "lower": 2 / 6, "sentence": 2 / 6, "title": 1 / 6, "upper": 1 / 6,
    }  # fmt: skip
    assert found["openings"][0] == {"opening": "a red ring.", "share": 2 / 6}
    assert found["share_of_commonest_openings"] == 1.0
    assert found["words"]["mean"] == (3 + 3 + 3 + 2 + 3 + 1) / 6


def test_no_captions_have_no_regularities() -> None:
    assert regularities([]) == {"num_captions": 0}


def test_the_schemas_carry_their_contract() -> None:
    assert isinstance(artifacts.CLAIMS_SCHEMA, pa.Schema)
    assert artifacts.CLAIMS_SCHEMA.metadata[b"captionmix.artifact"] == b"captions_report"


def test_the_summary_tells_precision_and_recall_of_every_kind(
    report: artifacts.CaptionsReport,
) -> None:
    text = (report.manifest.folder / "summary.txt").read_text()
    lines = {line.split("  ")[0]: line for line in text.splitlines()[2:]}
    assert "100.0 [" in lines["dsc"]
    assert set(lines) >= {"captions of", "alt", "ssc", "dsc"}


def test_the_summary_without_truth_has_lengths_alone() -> None:
    lengths = pa.Table.from_pylist(
        [{"kind": "alt", "sample_id": "0" * 32, "annotated": False, "num_words": 3,
          "num_characters": 9}],
        schema=artifacts.LENGTHS_SCHEMA,
    )  # fmt: skip
    last = summary_text(artifacts.CLAIMS_SCHEMA.empty_table(), lengths).splitlines()[-1]
    assert last.split() == ["alt", "1", "3.0"]
