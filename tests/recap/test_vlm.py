"""Transformers models as captioners: tiny ones in their real format, made here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from launch.components import digest_folder
from launch.errors import ArtifactError, ConfigError, InputError
from launch.manifest import read_manifest
from launch.run import Run, refuse_stale
from recap.artifacts import open_captions
from recap.caption import caption
from recap.captioner_source import FILES, find_captioner, source_digest
from recap.config import (
    CaptionConfig,
    DecodeConfig,
    GateConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
    VlmConfig,
)
from recap.ingest import ingest
from recap.reading import PictureGroup
from recap.timing import Timing
from recap.vlm import VlmCaptioner, open_vlm
from recap.vlm_choice import Chosen
from recap.written import Caption
from tests.recap.tiny_vlm import (
    save_blip,
    save_blip2,
    save_git,
    save_idefics,
    save_llava,
    save_qwen,
)

CPU = torch.device("cpu")
FAMILIES: dict[str, tuple[Callable[[Path], Path], VlmConfig]] = {
    "blip": (save_blip, VlmConfig()),
    "blip2": (save_blip2, VlmConfig()),
    "git": (save_git, VlmConfig()),
    "llava": (save_llava, VlmConfig(instruction="describe the picture")),
    "qwen2_vl": (save_qwen, VlmConfig(instruction="describe the picture")),
    "idefics3": (save_idefics, VlmConfig(instruction="describe the picture in one sentence")),
}
BRIEF = DecodeConfig(max_tokens=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    home = tmp_path_factory.mktemp("models")
    return {name: save(home / name) for name, (save, _) in FAMILIES.items()}


def pictures() -> list[Image.Image]:
    """Return unlike pictures of unlike shapes."""
    rng = np.random.default_rng(0)
    found = []
    for height, width in [(32, 32), (32, 64), (64, 32), (40, 40), (20, 60), (32, 32)]:
        coarse = rng.integers(0, 2, (4, 4, 3)).astype(np.uint8) * 255
        found.append(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))
    return found


IDS = [f"{number + 1:016x}{0:016x}" for number in range(6)]


def opened(folders: dict[str, Path], name: str, *, batch_size: int, **told: Any) -> VlmCaptioner:
    vlm = replace(FAMILIES[name][1], **told)
    return open_vlm(folders[name], vlm=vlm, batch_size=batch_size, device=CPU, precision="float32")


def write(
    captioner: VlmCaptioner, decode: DecodeConfig = BRIEF, *, seed: int = 0
) -> dict[str, Caption]:
    group = PictureGroup(pictures(), IDS)
    return dict(captioner.write([group], config=decode, seed=seed, timing=Timing()))


def plainly(captioner: VlmCaptioner, name: str, picture: Image.Image) -> str:
    """Caption one picture as the documentation of transformers does."""
    model, processor = captioner.model, captioner.processor
    told = FAMILIES[name][1].instruction
    if told is None:
        inputs = processor(images=picture, return_tensors="pt")
        if name in {"blip", "git"}:
            inputs.pop("input_ids", None)
    else:
        content = [{"type": "image", "image": picture}, {"type": "text", "text": told}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
    out = model.generate(**inputs, max_new_tokens=BRIEF.max_tokens, do_sample=False)
    prompt = inputs["input_ids"].shape[1] if told is not None else 0
    return " ".join(processor.decode(out[0][prompt:], skip_special_tokens=True).split())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_gives_each_picture_what_plain_transformers_gives_it_alone(
    folders: dict[str, Path], name: str
) -> None:
    captioner = opened(folders, name, batch_size=8)
    together = write(captioner)
    alone = write(opened(folders, name, batch_size=1))
    plain = [plainly(captioner, name, picture) for picture in pictures()]
    assert [together[i].text for i in IDS] == plain
    assert [alone[i].text for i in IDS] == plain
    assert len(set(plain)) > 1


def test_a_neighbour_in_the_batch_changes_no_bit_of_a_caption(folders: dict[str, Path]) -> None:
    captioner = opened(folders, "git", batch_size=8)
    first = write(captioner)[IDS[0]]
    group = PictureGroup([pictures()[0], *pictures()[3:]], [IDS[0], *IDS[3:]])
    other = dict(captioner.write([group], config=BRIEF, seed=0, timing=Timing()))[IDS[0]]
    assert first == other


@pytest.mark.parametrize("name", ["blip", "idefics3"])
def test_sampled_words_belong_to_picture_and_seed(folders: dict[str, Path], name: str) -> None:
    decode = DecodeConfig(method="sample", temperature=2.0, top_k=20, max_tokens=10)
    captioner = opened(folders, name, batch_size=8)
    drawn = {i: c.text for i, c in write(captioner, decode, seed=3).items()}
    again = write(opened(folders, name, batch_size=2), decode, seed=3)
    other = {i: c.text for i, c in write(captioner, decode, seed=4).items()}
    assert {i: c.text for i, c in again.items()} == drawn
    assert all(other[i] != drawn[i] for i in IDS)
    assert len(set(drawn.values())) == len(IDS)


def test_a_caption_has_length_reason_and_log_probability(folders: dict[str, Path]) -> None:
    found = write(opened(folders, "git", batch_size=8), DecodeConfig(max_tokens=4))
    for written in found.values():
        assert written.num_tokens <= 4
        assert written.stop_reason in {"length", "end"}
        assert written.mean_logprob is not None
        assert written.mean_logprob < 0


def test_a_text_that_a_caption_begins_with_is_gone_on_with_and_may_be_kept(
    folders: dict[str, Path],
) -> None:
    for name in ("blip", "git"):
        left = write(opened(folders, name, batch_size=8, instruction="a small red"))
        kept = write(
            opened(folders, name, batch_size=8, instruction="a small red", keep_instruction=True)
        )
        assert [kept[i].text for i in IDS] == [f"a small red {left[i].text}" for i in IDS]
        assert [left[i].text for i in IDS] != [c.text for c in write(
            opened(folders, name, batch_size=8)).values()]  # fmt: skip


# Words.


def scores() -> torch.Tensor:
    return torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 3.0, 2.0, 1.0]])


def chosen(**decode: Any) -> Chosen:
    config = DecodeConfig(max_tokens=4, **decode)
    return Chosen(config, ends=[1], sample_ids=IDS[:2], seed=0, device=CPU)


def test_no_caption_ends_before_its_shortest_length() -> None:
    choice = chosen(min_tokens=1)
    asked = torch.zeros(2, 5, dtype=torch.long)
    assert choice(asked, scores()).argmax(-1).tolist() == [2, 2]
    longer = torch.cat([asked, torch.tensor([[2], [2]])], dim=1)
    assert choice(longer, scores()).argmax(-1).tolist() == [1, 1]
    assert choice.start == 5


def test_only_what_was_written_is_dearer_and_not_what_was_asked() -> None:
    choice = chosen(repetition_penalty=4.0, min_tokens=3)
    asked = torch.full((2, 3), 2)
    assert choice(asked, scores()).argmax(-1).tolist() == [2, 2]
    longer = torch.cat([asked, torch.tensor([[2], [3]])], dim=1)
    assert choice(longer, scores()).argmax(-1).tolist() == [3, 2]


def test_log_probability_is_the_models_own_and_ends_with_the_caption() -> None:
    choice = chosen()
    asked = torch.zeros(2, 1, dtype=torch.long)
    choice(asked, scores())
    once = choice.logprob.clone()
    assert torch.allclose(once, scores().log_softmax(-1)[:, 1])
    choice(torch.cat([asked, torch.ones(2, 1, dtype=torch.long)], dim=1), scores())
    assert torch.equal(choice.logprob, once)


# The verb.


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=40, image_size=32),
        split=SplitConfig(judge=0.1, test=0.3),
        pictures_per_shard=20,
        num_workers=1,
    )
    out = tmp_path_factory.mktemp("images") / "images"
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return out


def settings(images: Path, captioner: Path, **changes: Any) -> CaptionConfig:
    base = CaptionConfig(
        images=images,
        captioner=captioner,
        kind="theirs",
        splits=["test"],
        decode=BRIEF,
        gates=GateConfig(max_gated_share=1.0),
        batch_size=8,
    )
    return replace(base, **changes)


def start(cfg: CaptionConfig, out: Path) -> Path:
    run = Run(out=out, verb="recap caption", config=cfg)
    try:
        caption(cfg, run)
    finally:
        run.close()
    return out


def test_a_chat_model_captions_parts_with_its_digest_and_instruction_in_the_recipe(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    vlm = FAMILIES["idefics3"][1]
    out = start(settings(images, folders["idefics3"], vlm=vlm), tmp_path / "captions")
    made = read_manifest(out)
    digest = digest_folder(folders["idefics3"], what="captioner", suffixes=FILES)
    assert ("captioner", digest) in {(given.role, given.digest) for given in made.inputs}
    assert made.recipe["vlm"]["instruction"] == vlm.instruction
    accepted, gated = open_captions(out).table, open_captions(out).quarantined()
    assert accepted.num_rows + gated.num_rows == made.counts["rows_in"] > 0


def test_captions_of_a_model_that_changed_in_its_place_are_stale(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    mine = copied(folders["git"], tmp_path / "git")
    cfg = settings(images, mine)
    out = start(cfg, tmp_path / "captions")
    refuse_stale(out, verb="recap caption", config=cfg, source=source_digest(cfg))
    (mine / "added.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"captioner .*git: \w+ -> "):
        refuse_stale(out, verb="recap caption", config=cfg, source=source_digest(cfg))


def test_another_instruction_in_the_same_folder_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    cfg = settings(images, folders["git"])
    start(cfg, tmp_path / "captions")
    with pytest.raises(ConfigError, match="begun with other settings"):
        start(replace(cfg, vlm=VlmConfig(instruction="a small")), tmp_path / "captions")


# Refusals, all before anything is written.


def refused(cfg: CaptionConfig, out: Path, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        start(cfg, out)
    assert not out.exists()


def copied(folder: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(folder, to)
    if config:
        path = to / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def test_pickled_weights_are_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(folders["git"], tmp_path / "git")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    said = r"has pytorch_model.bin and no \*.safetensors.*convert the weights"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)


def test_weights_that_a_folder_lacks_are_refused_and_not_drawn_at_random(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["blip"], tmp_path / "blip")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "text_decoder" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    cpu = torch.device("cpu")
    with pytest.raises(ArtifactError, match=r"no weights for text_decoder"):
        open_vlm(folder, vlm=VlmConfig(), batch_size=8, device=cpu, precision="float32")


def test_a_model_with_code_of_its_own_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(
        folders["git"],
        tmp_path / "own",
        model_type="their_own",
        auto_map={"AutoModel": "modeling_own.Own"},
    )
    (folder / "modeling_own.py").write_text("raise SystemExit('was run')\n")
    said = r"brings code of its own \(modeling_own.Own\), which is never run"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)


def test_a_chat_model_without_a_template_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(folders["idefics3"], tmp_path / "silent")
    (folder / "chat_template.jinja").unlink()
    cfg = settings(images, folder, vlm=FAMILIES["idefics3"][1])
    refused(cfg, tmp_path / "out", ConfigError, r"without a chat template.*chat_template\.jinja")


def test_a_chat_model_that_is_told_nothing_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    cfg = settings(images, folders["idefics3"])
    refused(cfg, tmp_path / "out", ConfigError, r"asked in a chat; say what.*vlm\.instruction")


def test_a_model_that_writes_nothing_is_refused_with_those_that_do(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(folders["git"], tmp_path / "clip", model_type="clip")
    said = "model_type 'clip'; expected a model that writes about pictures, one of .*blip"
    refused(settings(images, folder), tmp_path / "out", ConfigError, said)


def test_a_folder_without_a_processor_is_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(folders["git"], tmp_path / "bare")
    (folder / "processor_config.json").unlink()
    said = "expected preprocessor_config.json"
    refused(settings(images, folder), tmp_path / "out", ArtifactError, said)


def test_beams_of_a_transformers_model_are_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    cfg = settings(images, folders["git"], decode=DecodeConfig(method="beam"))
    refused(cfg, tmp_path / "out", ConfigError, "decode.method=beam is for captioners of ours")


def test_a_folder_of_something_else_is_refused_with_what_is_supported(
    images: Path, tmp_path: Path
) -> None:
    refused(
        settings(images, images), tmp_path / "out", ArtifactError, "is a images artifact; expected"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    said = "_class_name and tells neither model_type .* nor architecture"
    refused(settings(images, other), tmp_path / "out", ArtifactError, said)


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody/nothing-here: no such folder, and no hub id"):
        find_captioner(Path("nobody/nothing-here"))
    with pytest.raises(ArtifactError, match="no such folder"):
        find_captioner(tmp_path / "absent")


def test_captions_that_the_context_has_no_room_for_are_refused(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    cfg = settings(images, folders["blip"], decode=DecodeConfig(max_tokens=48))
    refused(cfg, tmp_path / "out", ConfigError, "has room for 48 tokens.*Lower decode.max_tokens")


def test_a_template_that_refuses_the_instruction_is_heard_before_work(
    folders: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    folder = copied(folders["llava"], tmp_path / "strict")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only strings, please') }}")
    cfg = settings(images, folder, vlm=FAMILIES["llava"][1])
    refused(cfg, tmp_path / "out", ConfigError, "makes nothing of a picture .*only strings")
