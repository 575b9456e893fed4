"""CLIP: the same numbers as open_clip, texts cut before their end token, honest formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from eval import clip, clip_folder, clip_load
from eval.config import ClipSizeConfig
from launch.errors import ArtifactError, ConfigError

TEXTS = [
    "a red circle at the top left",
    "two blue rings on a grey background",
    "three small striped purple triangles and a large plain white square",
]
CONTEXT = 12


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = clip_folder.train_tokenizer(TEXTS * 3, vocab_size=300)
    size = ClipSizeConfig(
        width=16, image_layers=1, text_layers=2, num_heads=2, embed_dim=8, context_length=CONTEXT
    )
    config = clip_folder.clip_config(size, image_size=16, vocab_size=tokenizer.get_vocab_size())
    torch.manual_seed(0)
    model = clip_folder.build_clip(config["model_cfg"])
    clip_folder.save_clip(folder, model=model, config=config, tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module")
def scorer(saved: Path) -> clip.ClipScorer:
    return clip_load.load_clip(saved)


@pytest.fixture(scope="module")
def tokenizer(saved: Path) -> Tokenizer:
    return Tokenizer.from_file(str(saved / clip_folder.TOKENIZER_NAME))


def pictures(num: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, side, side, 3), np.uint8)


def test_a_truncated_text_keeps_its_end_token(tokenizer: Tokenizer) -> None:
    long = " and ".join(TEXTS)
    tokens = clip_folder.tokenise(tokenizer, [long], context_length=CONTEXT)
    assert tokens.num_tokens[0] > CONTEXT
    assert tokens.ids[0, 0] == clip_folder.START_ID
    assert tokens.ids[0, -1] == clip_folder.END_ID
    whole = tokenizer.encode(long).ids
    assert tokens.ids[0, :-1].tolist() == whole[: CONTEXT - 1]


def test_a_short_text_is_not_cut(tokenizer: Tokenizer) -> None:
    tokens = clip_folder.tokenise(tokenizer, ["a red circle"], context_length=CONTEXT)
    ids = tokens.ids[0].tolist()
    assert ids.index(clip_folder.END_ID) == tokens.num_tokens[0] - 1
    assert set(ids[int(tokens.num_tokens[0]) :]) == {clip_folder.PAD_ID}


def test_the_truncation_rate_counts_distinct_texts(scorer: clip.ClipScorer) -> None:
    long = " and ".join(TEXTS)
    found = scorer.text_features(["a red circle", long, long, long])
    assert (found.num_distinct, found.num_truncated) == (2, 1)
    assert found.truncation_rate == 0.5


def test_reading_no_further_than_the_end_token_changes_nothing(scorer: clip.ClipScorer) -> None:
    ids = scorer.tokenise(TEXTS[:2]).ids
    with torch.inference_mode():
        expected = scorer.model.encode_text(ids)
        found = clip.encode_text(scorer.model, ids)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_cosines_are_those_of_open_clips_own_forward(saved: Path, scorer: clip.ClipScorer) -> None:
    texts = [TEXTS[0], TEXTS[1], "a plain ring"]
    images = pictures(3)
    untouched = open_clip.create_model(f"local-dir:{saved}").eval()
    with torch.inference_mode():
        image_features, text_features, _ = untouched(
            scorer.preprocess(images), scorer.tokenise(texts).ids
        )
    expected = (image_features * text_features).sum(-1).numpy() * 100
    found = clip.similarity(scorer.picture_features(images), scorer.text_features(texts).features)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_features_depend_neither_on_order_nor_on_neighbours(scorer: clip.ClipScorer) -> None:
    whole = scorer.text_features(TEXTS, batch_size=8).features
    mixed = scorer.text_features([TEXTS[2], TEXTS[0], TEXTS[2]], batch_size=8).features
    np.testing.assert_allclose(mixed, whole[[2, 0, 2]], atol=1e-6)
    images = pictures(5)
    np.testing.assert_array_equal(
        scorer.picture_features(images, batch_size=8)[3],
        scorer.picture_features(images[3:4], batch_size=8)[0],
    )


def test_open_clip_itself_loads_what_was_saved(saved: Path, scorer: clip.ClipScorer) -> None:
    model = open_clip.create_model(f"local-dir:{saved}")
    ids = scorer.tokenise(TEXTS[:1]).ids
    own = open_clip.get_tokenizer(f"local-dir:{saved}")(TEXTS[:1])
    assert own.tolist() == ids.tolist()
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_text(ids), scorer.model.encode_text(ids))


def test_other_sizes_are_resized_as_open_clip_does(saved: Path, scorer: clip.ClipScorer) -> None:
    from PIL import Image

    image = pictures(1, side=40)[0]
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{saved}"), None
    preprocess = open_clip.image_transform(
        16, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic"
    )
    torch.testing.assert_close(
        scorer.preprocess(image[None])[0], preprocess(Image.fromarray(image))
    )


def test_distance_is_one_minus_the_cosine_and_stays_in_its_range() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [1 + 1e-7, 0]], np.float32)
    b = np.array([[1.0, 0.0], [-1.0, 0.0], [0.8, 0.6], [1.0, 0]], np.float32)
    np.testing.assert_allclose(clip.similarity(a, b), [100, -100, 96, 100], atol=1e-4)
    distance = clip.distance(a, b)
    np.testing.assert_allclose(distance, [0, 2, 0.04, 0], atol=1e-6)
    assert distance.min() >= 0
    assert distance.max() <= 2


def test_other_weights_have_another_digest(scorer: clip.ClipScorer) -> None:
    before = clip_load.weights_digest(scorer.model)
    changed = nn.Module()
    changed.load_state_dict({}, strict=False)
    assert clip_load.weights_digest(changed) != before
    assert clip_load.weights_digest(scorer.model) == before


def test_a_score_names_its_scorer(saved: Path) -> None:
    scorer = clip_load.load_clip(saved, prefix="A photo depicts ")
    named = scorer.describe()
    assert named["prefix"] == "A photo depicts "
    assert named["precision"] == "float32"
    assert named["context_length"] == CONTEXT
    assert len(named["weights"]) == 32
    assert named["preprocessing"]["size_px"] == 16
    assert "clip(1 - cos" in named["formula"]["clip_distance"]


def test_a_prefix_changes_the_score(saved: Path, scorer: clip.ClipScorer) -> None:
    plain = scorer.text_features(TEXTS[:1]).features
    prefixed = clip_load.load_clip(saved, prefix="two ").text_features(TEXTS[:1]).features
    assert not np.allclose(plain, prefixed)


def test_the_vocabulary_does_not_depend_on_the_order_of_texts() -> None:
    a = clip_folder.train_tokenizer(TEXTS, vocab_size=120).to_str()
    b = clip_folder.train_tokenizer(TEXTS[::-1], vocab_size=120).to_str()
    assert a == b


def test_an_unknown_letter_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    assert clip_folder.UNKNOWN_ID in tokenizer.encode("ж").ids


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"x")
    with pytest.raises(ConfigError, match="only safetensors"):
        clip_load.load_clip("ViT-B-32", weights=weights)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigError, match="'ViT-Z-1'"):
        clip_load.load_clip("ViT-Z-1")
    with pytest.raises(ConfigError, match="no file and no tag"):
        clip_load.load_clip("ViT-B-32", weights="nobody")


def test_weights_trained_with_another_activation_are_refused() -> None:
    """open_clip itself only warns, and every score is then wrong."""
    with pytest.raises(ConfigError, match="give clip_model=ViT-B-32-quickgelu"):
        clip_load.load_clip("ViT-B-32", weights="openai")


def test_a_folder_without_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / clip_folder.CONFIG_NAME).write_bytes((saved / clip_folder.CONFIG_NAME).read_bytes())
    with pytest.raises(ArtifactError, match=clip_folder.WEIGHTS_NAME):
        clip_load.load_clip(tmp_path)
