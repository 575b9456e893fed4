from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from launch.config import build
from launch.errors import InputError
from launch.manifest import Manifest, describe_parts, write_manifest, write_parquet
from launch.run import Run
from recap.artifacts import (
    CAPTIONS,
    IMAGES,
    INDEX,
    INDEX_SCHEMA,
    CaptionRow,
    caption_part_name,
    write_caption_part,
)
from recap.claims import Claim, from_json, to_json
from t2i.artifacts import Prompts, open_prompts, prompt_id
from t2i.config import PromptsConfig
from t2i.prompts import prompts

TRUTH = to_json([Claim(object="circle", count=1, colour="red", size="large", position="top left")])


def sample_id(number: int) -> str:
    return blake2b(b"%d" % number, digest_size=16).hexdigest()


def complete(folder: Path, artifact: str, parts: list[str]) -> Path:
    manifest = Manifest(
        artifact=artifact,
        version=1,
        recipe={},
        inputs=[],
        counts={},
        rejected={},
        parts=describe_parts(folder, parts),
    )
    write_manifest(folder, manifest)
    return folder


def make_images(folder: Path, alt: Mapping[int, str], *, claims: str | None = TRUTH) -> Path:
    """Ten test pictures with these alt texts, and two of training."""
    rows = []
    for number in range(12):
        split = "test" if number < 10 else "train"
        text = alt.get(number, f"red circle {number}")
        place = ("shards/s.tar", f"{number}", 0, 1, 32, 32)
        rows.append((sample_id(number), *place, text, split, claims, None))
    columns = [list(column) for column in zip(*rows, strict=True)]
    write_parquet(folder / INDEX, pa.table(columns, schema=INDEX_SCHEMA))
    return complete(folder, IMAGES, [INDEX])


def make_captions(folder: Path, kind: str, texts: Mapping[int, str]) -> Path:
    rows = [CaptionRow(sample_id=sample_id(n), kind=kind, text=text) for n, text in texts.items()]
    write_caption_part(folder / caption_part_name(0), rows)
    return complete(folder, CAPTIONS, [caption_part_name(0)])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", {2: "", 3: "  "})


@pytest.fixture
def dsc(tmp_path: Path) -> Path:
    """Pictures 4 and 5 have none; 11 is a training picture."""
    texts = {n: f"two small blue rings, picture {n}" for n in (0, 1, 2, 3, 6, 7, 8, 9, 11)}
    return make_captions(tmp_path / "dsc", "dsc", texts)


def make(out: Path, images: Path, *captions: Path, **settings: Any) -> Prompts:
    tree = {"images": str(images), "captions": [str(c) for c in captions], **settings}
    cfg = build(PromptsConfig, tree, where="")
    run = Run(out=out, verb="t2i prompts", config=cfg)
    try:
        prompts(cfg, run)
    finally:
        run.close()
    return open_prompts(out)


def test_a_pair_has_one_row_in_every_style(tmp_path: Path, images: Path, dsc: Path) -> None:
    made = make(tmp_path / "out", images, dsc, styles=["dsc", "alt"])
    assert [row.style for row in made.rows] == ["dsc", "alt"] * 6
    assert len(made.pair_ids) == 6
    for row in made.rows:
        picture = next(n for n in range(10) if sample_id(n) == row.pair_id)
        assert row.prompt.endswith(str(picture))
        assert row.prompt_id == prompt_id(style=row.style, pair_id=row.pair_id, prompt=row.prompt)


def test_pictures_that_lack_a_style_are_counted_by_the_first_that_they_lack(
    tmp_path: Path, images: Path, dsc: Path
) -> None:
    made = make(tmp_path / "out", images, dsc, styles=["alt", "dsc"], num_pairs=4)
    manifest = made.manifest
    assert manifest.rejected == {"missing_alt": 2, "missing_dsc": 2, "not_chosen": 2}
    assert manifest.counts == {"rows_in": 10, "rows_out": 4, "prompts": 8}
    assert manifest.counts["rows_out"] + sum(manifest.rejected.values()) == 10


def test_smaller_choices_nest(tmp_path: Path, images: Path) -> None:
    few, many = (make(tmp_path / str(n), images, styles=["alt"], num_pairs=n).table for n in (3, 7))
    assert many.slice(0, 3).equals(few)


def test_another_seed_chooses_others(tmp_path: Path, images: Path) -> None:
    one, other = (
        make(tmp_path / str(seed), images, styles=["alt"], num_pairs=4, seed=seed).pair_ids
        for seed in (0, 1)
    )
    assert one != other


def test_claims_are_what_the_prompt_says_and_never_more(
    tmp_path: Path, images: Path, dsc: Path
) -> None:
    made = make(tmp_path / "out", images, dsc, styles=["alt", "dsc"])
    for row in made.rows:
        assert row.claims is not None
        (claim,) = from_json(row.claims)
        if row.style == "alt":
            assert (claim.object, claim.colour, claim.size, claim.position) == (
                "circle",
                "red",
                None,
                None,
            )
        else:
            assert (claim.object, claim.count, claim.colour) == ("ring", 2, "blue")


def test_pictures_without_claims_give_prompts_without_claims(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", {}, claims=None)
    made = make(tmp_path / "out", images, styles=["alt"])
    assert {row.claims for row in made.rows} == {None}


def test_the_same_text_in_two_artifacts_is_one(tmp_path: Path, images: Path, dsc: Path) -> None:
    again = make_captions(tmp_path / "again", "dsc", {0: "two small blue rings, picture 0"})
    assert len(make(tmp_path / "out", images, dsc, again, styles=["dsc"]).rows) == 8


def test_two_artifacts_that_disagree_are_refused(tmp_path: Path, images: Path, dsc: Path) -> None:
    other = make_captions(tmp_path / "other", "dsc", {0: "something else"})
    with pytest.raises(InputError, match="another dsc than an artifact before it"):
        make(tmp_path / "out", images, dsc, other, styles=["dsc"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"styles": ["alt", "haiku"]}, r"no captions artifact holds \['haiku'\]; .*'alt', 'dsc'"),
        ({"styles": []}, "styles must be distinct and at least one"),
        ({"styles": ["alt", "alt"]}, "styles must be distinct"),
        ({"styles": ["alt"], "num_pairs": 9}, r"8 of 10 pictures .* expected at least 9"),
        ({"styles": ["alt"], "num_pairs": 0}, "num_pairs must be at least 1"),
        ({"styles": ["alt"], "split": "judge"}, r"no picture of split 'judge'"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    tmp_path: Path, images: Path, dsc: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(tmp_path / "out", images, dsc, **settings)
    assert not (tmp_path / "out").exists()


def test_a_style_that_only_the_alt_text_lacks_needs_no_alt_text(
    tmp_path: Path, images: Path, dsc: Path
) -> None:
    assert len(make(tmp_path / "out", images, dsc, styles=["dsc"]).pair_ids) == 8
