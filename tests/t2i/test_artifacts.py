from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.errors import ArtifactError
from launch.identities import packed
from launch.manifest import Manifest, write_manifest
from t2i import artifacts
from t2i.artifacts import (
    GENERATIONS,
    LATENTS,
    MODEL,
    PROMPTS,
    TEXT_STATES,
    WEIGHTS_NAME,
    GenerationRow,
    Prompt,
    generation_id,
    open_generations,
    open_latents,
    open_model,
    open_prompts,
    open_text_states,
    prompt_id,
    read_shard_members,
    text_digest,
    text_digests,
    write_generation_shard,
    write_generations_index,
    write_latents_index,
    write_prompts,
    write_text_states_index,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
KEYS = [f"{i:032x}" for i in range(6)]


def complete(folder: Path, artifact: str, **of: object) -> Path:
    empty = {"recipe": {}, "inputs": [], "counts": {}, "rejected": {}, "parts": []}
    version = artifacts.VERSIONS[artifact]
    write_manifest(folder, Manifest(**{"artifact": artifact, "version": version, **empty, **of}))  # type: ignore[arg-type]
    return folder


def write_generations(folder: Path) -> Path:
    rows = []
    for number, name in enumerate(("shards/a.tar", "shards/b.tar")):
        keys = KEYS[3 * number : 3 * number + 3]
        write_generation_shard(folder / name, keys=keys, pixels=PIXELS[3 * number : 3 * number + 3])
        for member in read_shard_members(folder / name):
            where = (name, member.offset, member.num_bytes, member.key)
            rows.append(GenerationRow(member.key, "p", "q", "alt", 0, 100 + number, *where))
    write_generations_index(folder / "index.parquet", rows)
    return complete(folder, GENERATIONS, recipe={"arm": "real", "model_seed": 3})


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, t2i.artifacts; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_table_carries_its_contract() -> None:
    schemas = {
        PROMPTS: artifacts.PROMPTS_SCHEMA,
        GENERATIONS: artifacts.GENERATIONS_SCHEMA,
        LATENTS: artifacts.LATENTS_SCHEMA,
        TEXT_STATES: artifacts.TEXT_STATES_SCHEMA,
    }
    for name, schema in schemas.items():
        assert schema.metadata[b"captionmix.artifact"] == name.encode()
        assert schema.metadata[b"captionmix.version"] == str(artifacts.VERSIONS[name]).encode()


def test_a_prompt_id_depends_on_style_pair_and_text() -> None:
    ids = {
        prompt_id(style=style, pair_id=pair, prompt=text)
        for style, pair, text in [
            ("a", "b", "c"),
            ("ab", "", "c"),
            ("a", "bc", ""),
            ("a", "b", "d"),
        ]
    }
    assert len(ids) == 4
    assert all(len(found) == 32 for found in ids)
    assert prompt_id(style="alt", pair_id="0", prompt="é") == "b2d0d5f6b0568ce3e6e7507b90430a5b"


def test_a_generation_id_depends_on_everything_that_draws() -> None:
    base = {"model_digest": "m", "samples_seen": 1, "prompt_id": "p", "seed": 0, "recipe": "{}"}
    others = [
        {"samples_seen": 2},
        {"prompt_id": "q"},
        {"seed": 1},
        {"recipe": "[]"},
        {"model_digest": "n"},
    ]
    assert len({generation_id(**{**base, **other}) for other in [{}, *others]}) == 6  # type: ignore[arg-type]


def test_prompts_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        Prompt("1", "a red circle", "alt", "x", '[{"object":"circle"}]'),
        Prompt("2", "ein roter Kreis, groß", "dsc", "x", None),
        Prompt("3", "a ring", "alt", "y", None),
    ]
    write_prompts(tmp_path / "prompts.parquet", rows)
    found = open_prompts(complete(tmp_path, PROMPTS))
    assert found.rows == rows
    assert (found.styles, found.pair_ids) == (["alt", "dsc"], ["x", "y"])
    assert found.texts("alt") == {"x": "a red circle", "y": "a ring"}


def test_a_shard_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one.tar", "two.tar"):
        write_generation_shard(tmp_path / name, keys=KEYS, pixels=PIXELS)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_shard_is_an_ordinary_tar_of_png_files(tmp_path: Path) -> None:
    write_generation_shard(tmp_path / "a.tar", keys=KEYS, pixels=PIXELS)
    listed = subprocess.run(["tar", "-tf", tmp_path / "a.tar"], capture_output=True, text=True)
    assert listed.stdout.split() == [f"{key}.png" for key in KEYS]


def test_pixels_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    generations = open_generations(write_generations(tmp_path))
    assert len(generations) == 6
    for rows in ([5, 0, 3, 3], np.array([2, 1]), range(6)):
        np.testing.assert_array_equal(generations.pixels(rows), PIXELS[list(rows)])
    assert generations.pixels([]).shape[0] == 0


def test_generations_name_their_model_and_its_snapshots(tmp_path: Path) -> None:
    generations = open_generations(write_generations(tmp_path))
    assert (generations.arm, generations.model_seed) == ("real", 3)
    assert generations.samples_seen == [100, 101]


def test_a_shard_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    generations = open_generations(write_generations(tmp_path))
    shard = tmp_path / "shards" / "b.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ArtifactError, match=r"b\.tar: ends at row 3"):
        generations.pixels([0, 3])
    shard.unlink()
    with pytest.raises(ArtifactError, match="absent"):
        generations.pixels([4])


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    write_latents_index(tmp_path / "index.parquet", ["a" * 32])
    table = pq.ParquetFile(tmp_path / "index.parquet").read()
    metadata = {**table.schema.metadata, b"captionmix.version": b"2"}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "index.parquet")
    with pytest.raises(ArtifactError, match="expected sample_id, row"):
        open_latents(complete(tmp_path, LATENTS))


def test_a_further_column_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    write_prompts(path, [Prompt("1", "a", "alt", "x", None)])
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column("note", pa.array(["new"])), path)
    assert open_prompts(complete(tmp_path, PROMPTS)).rows[0].prompt == "a"


def test_prompts_from_before_categories_and_questions_open(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    rows = [Prompt("1", "a", "alt", "x", "[]", "colours", '[{"id":1,"question":"A?"}]')]
    write_prompts(path, rows)
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["category", "questions"]), path)
    (found,) = open_prompts(complete(tmp_path, PROMPTS)).rows
    assert found == rows[0]._replace(category=None, questions=None)


def test_prompts_without_a_required_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    write_prompts(path, [Prompt("1", "a", "alt", "x", None)])
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["pair_id"]), path)
    with pytest.raises(ArtifactError, match="expected prompt_id"):
        open_prompts(complete(tmp_path, PROMPTS))


def test_an_absent_table_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"prompts\.parquet"):
        open_prompts(complete(tmp_path, PROMPTS))


def test_a_model_lists_the_snapshots_before_the_last(tmp_path: Path) -> None:
    for seen in (1000, 200, 3000):
        path = tmp_path / "snapshots" / str(seen) / WEIGHTS_NAME
        path.parent.mkdir(parents=True)
        path.touch()
    config = {"arm": "dsc", "seed": 2}
    model = open_model(complete(tmp_path, MODEL, config=config, counts={"samples_seen": 3000}))
    assert list(model.snapshots) == [200, 1000]
    assert (model.arm, model.model_seed, model.samples_seen) == ("dsc", 2, 3000)


def test_latents_are_found_by_sample_id(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.zeros((2, 4, 2, 2), np.float32))
    np.save(tmp_path / "std.npy", np.ones((2, 4, 2, 2), np.float32))
    write_latents_index(tmp_path / "index.parquet", ["b" * 32, "a" * 32])
    latents = open_latents(complete(tmp_path, LATENTS))
    assert latents.rows(packed(["a" * 32, "b" * 32, "a" * 32])).tolist() == [1, 0, 1]
    assert isinstance(latents.mean, np.memmap)
    with pytest.raises(ArtifactError, match=r"1 of 2 pictures have no latents, c{32} first"):
        latents.rows(packed(["a" * 32, "c" * 32]))


def test_latents_that_do_not_fit_their_index_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.zeros((2, 4, 2, 2), np.float32))
    np.save(tmp_path / "std.npy", np.ones((2, 4, 2, 2), np.float32))
    write_latents_index(tmp_path / "index.parquet", ["a" * 32])
    with pytest.raises(ArtifactError, match="must agree"):
        open_latents(complete(tmp_path, LATENTS))


def write_text_states(folder: Path, *, num_states: int = 5) -> Path:
    states = np.arange(num_states * 3, dtype=np.float16).reshape(num_states, 3)
    (folder / "states.bin").write_bytes(states.tobytes())
    write_text_states_index(
        folder / "index.parquet",
        digests=[text_digest(text) for text in ("", "a ring", "a red ring")],
        offsets=[0, 1, 3],
        num_tokens=[1, 2, 2],
        width=3,
        dtype="float16",
    )
    return complete(folder, TEXT_STATES)


def test_text_states_are_found_by_the_digest_of_their_text(tmp_path: Path) -> None:
    found = open_text_states(write_text_states(tmp_path))
    for text, states in {"": [[0, 1, 2]], "a red ring": [[9, 10, 11], [12, 13, 14]]}.items():
        (row,) = found.find(text_digests([text]))
        offset, num_tokens = found.offsets[row], found.num_tokens[row]
        assert found.values[offset : offset + num_tokens].tolist() == states


@pytest.mark.parametrize("text", ["never seen", "~", " "])
def test_a_text_that_was_never_encoded_is_not_found(tmp_path: Path, text: str) -> None:
    found = open_text_states(write_text_states(tmp_path))
    assert found.find(text_digests([text, ""]))[0] == -1
    assert found.find(text_digests([""]))[0] >= 0


def test_token_ids_may_stand_in_place_of_states(tmp_path: Path) -> None:
    ids = np.arange(5, dtype=np.int32)
    (tmp_path / "tokens.bin").write_bytes(ids.tobytes())
    write_text_states_index(
        tmp_path / "index.parquet",
        digests=[text_digest(text) for text in ("", "a ring")],
        offsets=[0, 2],
        num_tokens=[2, 3],
        width=3,
        dtype="tokens",
    )
    found = open_text_states(complete(tmp_path, TEXT_STATES))
    assert found.holds_tokens
    assert found.width == 3
    assert isinstance(found.values, np.memmap)
    assert found.values.dtype == np.int32
    assert found.values.tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "tokens.bin").write_bytes(ids[:4].tobytes())
    with pytest.raises(ArtifactError, match=r"16 bytes, .* 5 token ids; encode again"):
        open_text_states(tmp_path)


def test_text_states_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="24 bytes"):
        open_text_states(write_text_states(tmp_path, num_states=4))
