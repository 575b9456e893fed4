"""Captioners that start from weights of open_clip, whole or only their image tower."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from launch.errors import ConfigError, InputError
from launch.manifest import digest_file, read_manifest
from launch.run import Run
from recap.caption import caption
from recap.captioner.coca import CoCa, SpecialTokens, group_by_length, initialise_decoder
from recap.captioner.optimizer import LR_SCALE, build_optimizer, depths, set_rate
from recap.captioner.starting import (
    extend_context,
    find_public,
    load_clip_tower,
    load_public,
    load_start,
    size_of,
    with_clip_tower,
)
from recap.captioner.towers import ClipTower
from recap.config import (
    CaptionConfig,
    CaptionerSizeConfig,
    CaptionerTrainConfig,
    DecodeConfig,
    GateConfig,
    IngestConfig,
    ScenesConfig,
    SplitConfig,
)
from recap.ingest import ingest
from recap.train import train

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 16, "layers": 3, "width": 24, "head_width": 12, "patch_size": 8}
COCA = {
    "embed_dim": 16,
    "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 1},
    "custom_text": True,
}
CLIP = {"embed_dim": 20, "vision_cfg": VIT, "text_cfg": {**TEXT, "vocab_size": 64}}
RESNET = {**CLIP, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4}}
TIMM = {
    **CLIP,
    "vision_cfg": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Describe tiny architectures to open_clip and save random weights of each."""
    folder = tmp_path_factory.mktemp("open_clip")
    described = {"tiny_coca": COCA, "tiny_vit": CLIP, "tiny_resnet": RESNET, "tiny_timm": TIMM}
    dropping = {**TIMM, "vision_cfg": {**TIMM["vision_cfg"], "timm_drop_path": 0.5}}
    (folder / "tiny_dropping.json").write_text(json.dumps(dropping))
    open_clip.add_model_config(folder / "tiny_dropping.json")
    for name, config in described.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        model = open_clip.create_model(name)
        if name == "tiny_coca":  # whose vocabulary projection is memory that nobody set
            initialise_decoder(model.text_decoder)
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def spec(weights: Path, name: str) -> Path:
    return Path(f"open_clip:{name}@{weights / name}.safetensors")


def reference(weights: Path, name: str) -> Any:
    model = open_clip.create_model(name).eval()
    model.load_state_dict(load_file(weights / f"{name}.safetensors"), strict=True)
    return model


def pictures(num: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (num, size, size, 3), dtype=torch.uint8, generator=generator)


SHORT = [[49406, 320, 1125, 49407], [49406, 539, 49407], [49406, 320, 518, 1929, 2368, 49407]]
FULL = [[49406, *range(400, 410), 49407]]


@pytest.mark.parametrize("captions", [SHORT, FULL, SHORT + FULL])
def test_public_weights_give_the_features_and_scores_that_open_clip_gives(
    weights: Path, captions: list[list[int]]
) -> None:
    model = load_start(spec(weights, "tiny_coca")).model.eval()
    other = reference(weights, "tiny_coca")
    padded = torch.zeros(len(captions), 12, dtype=torch.long)
    for row, tokens in enumerate(captions):
        padded[row, : len(tokens)] = torch.tensor(tokens)
    pixels = pictures(len(captions), 16)
    groups = group_by_length(captions, num_groups=2, pad=0, longest=12)
    with torch.no_grad():
        mine = model(pixels, groups)
        theirs = other(model.scale_pixels(pixels), padded)
    torch.testing.assert_close(mine.image_features, theirs["image_features"])
    torch.testing.assert_close(mine.text_features, theirs["text_features"])
    for group, found in zip(groups, mine.captions, strict=True):
        expected = theirs["logits"][group.rows, : found.logits.shape[1]]
        torch.testing.assert_close(found.logits[found.mask], expected[found.mask])


def test_pictures_are_scaled_as_the_weights_were_trained(weights: Path) -> None:
    found = find_public(spec(weights, "tiny_coca"))
    assert found.pixel_mean == list(open_clip.OPENAI_DATASET_MEAN)
    model = load_public(found).model
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(found.pixel_mean)) / torch.tensor(found.pixel_std)
    torch.testing.assert_close(model.scale_pixels(white)[0, :, 0, 0], expected)


def test_the_size_is_known_without_the_weights(weights: Path) -> None:
    path = spec(weights, "tiny_coca")
    assert size_of(path) == load_start(path).model.size


def test_a_longer_context_changes_nothing_about_captions_that_fitted_before(weights: Path) -> None:
    model = load_start(spec(weights, "tiny_coca")).model.eval()
    longer = extend_context(model, 20).eval()
    pixels = pictures(4, 16)
    groups = group_by_length(SHORT + FULL, num_groups=1, pad=0, longest=12)
    with torch.no_grad():
        before, after = model(pixels, groups), longer(pixels, groups)
    torch.testing.assert_close(after.captions[0].logits, before.captions[0].logits)
    assert longer.text.context_length == 20
    long = [[49406, *range(400, 418), 49407]]
    with torch.no_grad():
        found = longer(pixels[:1], group_by_length(long, num_groups=1, pad=0, longest=20))
    assert found.captions[0].logits.shape == (1, 19, 49408)
    assert torch.isfinite(found.captions[0].logits).all()


def test_with_an_exact_mask_features_of_short_captions_stay_the_same_too() -> None:
    size = CaptionerSizeConfig(image_size=16, width=16, num_heads=2, context_length=12)
    torch.manual_seed(0)
    model = CoCa(size, vocab_size=64, special=SpecialTokens()).eval()
    longer = extend_context(model, 30).eval()
    groups = group_by_length([[1, 9, 8, 2], [1, 7, 2]], num_groups=1, pad=0)
    before, after = model(pictures(2, 16), groups), longer(pictures(2, 16), groups)
    assert torch.equal(before.text_features, after.text_features)


def test_a_shorter_context_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="shorter than the 12 tokens"):
        extend_context(load_start(spec(weights, "tiny_coca")).model, 8)


@pytest.mark.parametrize("change", ["missing", "left over", "of another shape"])
def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path, change: str) -> None:
    tensors = load_file(weights / "tiny_coca.safetensors")
    if change == "missing":
        del tensors["text.cls_emb"]
    elif change == "left over":
        tensors["text.something"] = torch.zeros(2)
    else:
        tensors["text.cls_emb"] = torch.zeros(3)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ConfigError, match="not of this architecture"):
        load_start(Path(f"open_clip:tiny_coca@{tmp_path / 'odd.safetensors'}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("open_clip:no_such_model@x.safetensors", "no architecture"),
        ("open_clip:tiny_coca@nowhere.safetensors", "there is no file"),
        ("open_clip:tiny_coca/some_tag", "the tags of tiny_coca are none"),
        ("open_clip:coca_ViT-L-14/other", "laion2b_s13b_b90k"),
    ],
)
@pytest.mark.usefixtures("weights")
def test_a_wrong_name_is_refused_with_what_there_is(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_public(Path(text))


def test_pickled_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="only safetensors are read"):
        find_public(Path(f"open_clip:tiny_coca@{tmp_path / 'weights.pt'}"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = IngestConfig(
        source="scenes",
        name="tiny",
        scenes=ScenesConfig(num_pictures=64, image_size=16),
        split=SplitConfig(judge=0.1, test=0.2),
        num_workers=1,
    )
    out = tmp_path_factory.mktemp("images") / "images"
    ingest(cfg, Run(out=out, verb="recap ingest", config=cfg))
    return out


def captioned(images: Path, captioner: Path, out: Path) -> list[str]:
    cfg = CaptionConfig(
        images=images,
        captioner=captioner,
        kind="theirs",
        splits=["test"],
        decode=DecodeConfig(max_tokens=6),
        gates=GateConfig(max_gated_share=1.0),
        batch_size=8,
    )
    run = Run(out=out, verb="recap caption", config=cfg)
    caption(cfg, run)
    run.close()
    manifest = read_manifest(out, artifact="captions")
    return [given.role for given in manifest.inputs]


def test_public_weights_caption_at_once_and_are_noted_by_their_digest(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    path = spec(weights, "tiny_coca")
    assert captioned(images, path, tmp_path / "captions") == ["images", "captioner"]
    manifest = read_manifest(tmp_path / "captions")
    digest = next(given.digest for given in manifest.inputs if given.role == "captioner")
    assert digest == digest_file(weights / "tiny_coca.safetensors")
    noted = yaml.safe_load((tmp_path / "captions" / "config.yaml").read_text())
    assert noted["captioner"] == str(path), "a name is no path, and is kept as it was given"


def trained(images: Path, out: Path, **changes: Any) -> CoCa:
    settings: dict[str, Any] = {
        "images": images,
        "kind": "alt",
        "samples": 16,
        "batch_size": 8,
        "warmup_samples": 8,
        "max_left_out_share": 0.9,
        "validation_pictures": 8,
        "checkpoint_samples": 8,
        **changes,
    }
    cfg = CaptionerTrainConfig(**settings)
    run = Run(out=out, verb="recap train", config=cfg)
    train(cfg, run)
    run.close()
    return load_start(out).model


def test_a_fine_tune_of_public_weights_is_a_captioner_of_ours(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    path = spec(weights, "tiny_coca")
    model = trained(images, tmp_path / "tuned", init=path, context_length=24)
    assert model.size == replace(size_of(path), context_length=24)
    captioned(images, tmp_path / "tuned", tmp_path / "captions")


def test_a_captioner_is_trained_on_a_frozen_clip_tower(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    size = CaptionerSizeConfig(width=16, num_heads=2, text_layers=1, multimodal_layers=1)
    model = trained(
        images,
        tmp_path / "tuned",
        image_init=spec(weights, "tiny_vit"),
        image_lr_scale=0.0,
        model=size,
    )
    theirs = reference(weights, "tiny_vit").visual.state_dict()
    for name, tensor in model.visual.clip.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name])


def test_a_clip_is_no_captioner(weights: Path) -> None:
    with pytest.raises(ConfigError, match="is no CoCa"):
        load_start(spec(weights, "tiny_vit"))


# A CLIP's image tower under a fresh decoder.


def with_tower(weights: Path, name: str, **changes: Any) -> CoCa:
    found = find_public(spec(weights, name))
    new = {"width": 16, "num_heads": 2, "text_layers": 1, "multimodal_layers": 1, **changes}
    size = with_clip_tower(CaptionerSizeConfig(**new), found)
    torch.manual_seed(1)
    model = CoCa(size, vocab_size=64, special=SpecialTokens())
    load_clip_tower(model, found)
    return model


@pytest.mark.parametrize("num_image_tokens", [0, 3])
@pytest.mark.parametrize("name", ["tiny_vit", "tiny_resnet", "tiny_timm"])
def test_any_image_tower_gives_its_own_features_and_tokens_for_the_decoder(
    weights: Path, name: str, num_image_tokens: int
) -> None:
    model = with_tower(weights, name, num_image_tokens=num_image_tokens).eval()
    pixels = pictures(2, model.size.image_size)
    with torch.no_grad():
        image = model.encode_image(pixels)
        scaled = model.scale_pixels(pixels)
        expected = reference(weights, name).encode_image(scaled, normalize=True)
    torch.testing.assert_close(image.features, expected)
    assert image.tokens.shape[-1] == 16
    if num_image_tokens:
        assert image.tokens.shape[1] == num_image_tokens


def one_step(model: CoCa, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    captions = [[1, 9, 8, 2], [1, 7, 2]]
    groups = group_by_length(captions, num_groups=1, pad=0)
    output = model(pictures(2, model.size.image_size), groups)
    similarity = output.image_features @ output.text_features.T
    (output.captions[0].logits.square().mean() + similarity.trace()).backward()
    set_rate(optimizer, 1e-2)
    optimizer.step()


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_resnet"])
def test_a_frozen_tower_stays_as_it_was_while_its_pooler_learns(weights: Path, name: str) -> None:
    model = with_tower(weights, name, num_image_tokens=3)
    assert isinstance(model.visual, ClipTower)
    before = {key: value.clone() for key, value in model.visual.state_dict().items()}
    one_step(model, build_optimizer(model, weight_decay=0.1, image_lr_scale=0))
    after = model.visual.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"attn_pool"}


def test_rates_fall_from_layer_to_layer_towards_the_pixels(weights: Path) -> None:
    model = with_tower(weights, "tiny_vit")
    optimizer = build_optimizer(model, weight_decay=0.1, image_lr_scale=0.5, image_layer_decay=0.1)
    scales = {
        id(parameter): group[LR_SCALE]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(model.named_parameters())

    def scale(name: str) -> float:
        return scales[id(named[name])]

    assert scale("text.token_embedding.weight") == 1
    assert scale("visual.attn_pool.weight") == 1
    assert scale("visual.clip.proj") == pytest.approx(0.5)
    assert scale("visual.clip.transformer.resblocks.2.ln_1.weight") == pytest.approx(0.05)
    assert scale("visual.clip.transformer.resblocks.0.ln_1.weight") == pytest.approx(0.0005)
    assert scale("visual.clip.conv1.weight") == pytest.approx(0.00005)
    assert scale("visual.clip.positional_embedding") == pytest.approx(0.00005)


def test_in_a_resnet_the_stem_is_deeper_than_the_first_layer(weights: Path) -> None:
    tower = with_tower(weights, "tiny_resnet").visual.clip
    found, named = depths(tower), dict(tower.named_parameters())
    by_name = {name: found[id(parameter)] for name, parameter in named.items()}
    assert by_name["attnpool.q_proj.weight"] == 0
    assert by_name["layer4.0.conv1.weight"] == 1
    assert by_name["layer1.0.conv1.weight"] == 4
    assert by_name["conv1.weight"] == 5


def test_blocks_of_later_stages_are_nearer_to_the_end() -> None:
    class Stages(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Linear(1, 1, bias=False)
            self.stages = torch.nn.ModuleList(
                torch.nn.ModuleDict(
                    {
                        "blocks": torch.nn.ModuleList(
                            torch.nn.Linear(1, 1, bias=False) for _ in range(num)
                        )
                    }
                )
                for num in (3, 1)
            )
            self.head = torch.nn.Linear(1, 1, bias=False)

    tower = Stages()
    assert list(depths(tower).values()) == [5, 4, 3, 2, 1, 0]


def test_layers_without_numbers_cannot_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="are not numbered"):
        depths(torch.nn.Linear(2, 2))


@pytest.mark.usefixtures("weights")
def test_a_tower_in_training_drops_nothing_at_random() -> None:
    size = CaptionerSizeConfig(tower="clip", image_model="tiny_dropping", image_size=160)
    tower = ClipTower(size).train()
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(tower(pixels)[1], tower(pixels)[1])


def test_a_local_copy_of_a_tags_weights_is_used_as_the_tag_says(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "quick_gelu": True}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["some"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: told)
    file = weights / "tiny_vit.safetensors"
    found = find_public(Path(f"open_clip:tiny_vit/some@{file}"))
    assert (found.pixel_mean, found.quick_gelu, found.file) == ([0.1, 0.2, 0.3], True, file)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda description: str(file))
    assert find_public(Path("open_clip:tiny_vit/some")) == found


def test_weights_that_cannot_be_fetched_say_what_to_do(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(description: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["some"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {})
    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(InputError, match="cannot be fetched"):
        find_public(Path("open_clip:tiny_vit/some"))


def test_every_parameter_is_trained_once(weights: Path) -> None:
    model = with_tower(weights, "tiny_timm")
    optimizer = build_optimizer(model, weight_decay=0.1, image_layer_decay=0.7)
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(map(id, model.parameters()))
