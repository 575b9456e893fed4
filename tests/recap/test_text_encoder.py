"""A captioner's text tower, written as a text encoder and read by the second stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextModel

from launch.components import locate
from launch.manifest import read_manifest
from launch.run import Run
from recap.captioner.coca import CoCa, initialise_decoder
from recap.captioner.folder import ARTIFACT, SavedCaptioner, save_captioner
from recap.captioner.starting import load_start
from recap.captioner.tokenizer import train_tokenizer
from recap.config import CaptionerSizeConfig, CaptionerTrainConfig, TextTowerConfig
from recap.text_encoder import text_encoder
from t2i.conditioning import TextEncoder

SIZE = CaptionerSizeConfig(
    image_size=16, patch_size=4, width=32, num_heads=4, image_layers=1, text_layers=2,
    multimodal_layers=1, context_length=24, mlp_ratio=3.0,
)  # fmt: skip
TEXTS = ["a red circle at the top left", "", "Two  small blue squares!", "a <end> sign, <pad> !"]
TEXT_TOWER = {"context_length": 20, "vocab_size": 49_408, "width": 16, "heads": 2}
TINY_COCA = {
    "embed_dim": 16,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8,
        "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True,
    },
    "text_cfg": {**TEXT_TOWER, "layers": 2, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT_TOWER, "layers": 1},
}  # fmt: skip


def ours(folder: Path) -> Path:
    """A captioner of `recap train`, with weights that are all random."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 4, vocab_size=300)
    model = CoCa(SIZE, vocab_size=tokenizer.vocab_size, special=tokenizer.special)
    for weights in model.text.parameters():  # norms and biases too, that no test passes by chance
        torch.nn.init.normal_(weights, std=0.3)
    cfg = CaptionerTrainConfig(images=Path("i"), kind="alt", samples=8)
    run = Run(out=folder, verb="recap train", config=cfg)
    assert run.start({})
    parts = save_captioner(
        folder, weights=model.state_dict(), size=SIZE, tokenizer=tokenizer, validation={}
    )
    run.finish(artifact=ARTIFACT, counts={}, parts=parts)
    return folder


def public(folder: Path) -> Path:
    """Random weights of a tiny CoCa in open_clip's layout, with CLIP's vocabulary."""
    folder.mkdir()
    (folder / "tiny_text_tower.json").write_text(json.dumps(TINY_COCA))
    open_clip.add_model_config(folder / "tiny_text_tower.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny_text_tower")
    initialise_decoder(model.text_decoder)
    for name, weights in model.named_parameters():
        if name.startswith("text."):
            torch.nn.init.normal_(weights, std=0.3)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "w.safetensors")
    return Path(f"open_clip:tiny_text_tower@{folder / 'w.safetensors'}")


def written(captioner: Path, out: Path) -> Path:
    run = Run(out=out, verb="recap text-encoder", config=TextTowerConfig(captioner=captioner))
    try:
        text_encoder(run.config, run)
    finally:
        run.close()
    return out


@pytest.fixture(scope="module", params=["ours", "public"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SavedCaptioner, Path]:
    """A captioner, and its text tower as a text encoder."""
    root = tmp_path_factory.mktemp(request.param)
    captioner = (ours if request.param == "ours" else public)(root / "captioner")
    return load_start(captioner), written(captioner, root / "out")


def own_states(captioner: SavedCaptioner, ids: Sequence[int]) -> torch.Tensor:
    """The captioner's own text tower, [CLS] appended as in its training."""
    model = captioner.model.eval()
    tokens = torch.tensor([list(ids)])
    with torch.no_grad():
        states = model.encode_text(tokens, torch.ones_like(tokens, dtype=torch.bool)).states
        return model.text.ln_final(states)[0]


def test_states_are_those_of_the_captioners_own_text_tower(
    pair: tuple[SavedCaptioner, Path],
) -> None:
    captioner, folder = pair
    encoder = TextEncoder.load(folder)
    tokens, _ = encoder.tokenize(TEXTS)
    found = encoder.encode(TEXTS).text_embeds
    for row, ids in enumerate(tokens):
        expected = own_states(captioner, ids)
        torch.testing.assert_close(found[row, : len(ids)], expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.1


def test_token_ids_are_the_captioners_and_long_texts_keep_their_end(
    pair: tuple[SavedCaptioner, Path],
) -> None:
    captioner, folder = pair
    encoder = TextEncoder.load(folder)
    assert encoder.tokenize(TEXTS)[0] == captioner.tokenizer.encode(TEXTS)
    assert encoder.max_tokens == captioner.model.size.context_length
    long = "red circle " * 40
    (ids,), is_cut = encoder.tokenize([long])
    assert is_cut == [True]
    assert len(ids) == encoder.max_tokens
    assert ids[:-1] == captioner.tokenizer.encode([long])[0][: len(ids) - 1]
    assert ids[-1] == captioner.tokenizer.special.end
    found = encoder.encode([long]).text_embeds[0, : len(ids)]
    torch.testing.assert_close(found, own_states(captioner, ids), atol=1e-5, rtol=1e-5)


def test_the_folder_is_an_artifact_that_loads_without_captionmix(
    pair: tuple[SavedCaptioner, Path],
) -> None:
    _, folder = pair
    manifest = read_manifest(folder, artifact="text_encoder", version=1)
    assert [i.role for i in manifest.inputs] == ["captioner"]
    assert locate(folder, artifact="text_encoder").digest == manifest.digest
    model, info = CLIPTextModel.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert model(**inputs).last_hidden_state.shape[:2] == inputs["input_ids"].shape


def test_writing_it_again_gives_the_same_bytes(tmp_path: Path) -> None:
    captioner = ours(tmp_path / "captioner")
    one, other = (read_manifest(written(captioner, tmp_path / name)) for name in "ab")
    assert one.digest == other.digest
