"""Tiny model and prompt folders in the real formats, with weights that no one trained."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from launch.config import build
from launch.run import Run
from t2i import objective
from t2i.artifacts import (
    MODEL,
    PROMPTS,
    WEIGHTS_NAME,
    Prompt,
    prompt_id,
    write_prompts,
)
from t2i.config import PromptsConfig, SampleConfig, TrainConfig
from t2i.fit_text_encoder import train_tokenizer
from t2i.pipeline import CaptionmixPipeline

TEXT = "one two three red green blue circle square ring at the top left bottom right of a"
WORDS = TEXT.split()
MAX_TOKENS = 24


def pair_id(number: int) -> str:
    return blake2b(str(number).encode(), digest_size=16).hexdigest()


def make_components(scheduler: SchedulerMixin | None = None) -> CaptionmixPipeline:
    """A pipeline of 16 px pictures, 8 px latents and 16-wide text."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([TEXT] * 4, vocab_size=96, max_tokens=MAX_TOKENS)
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )
    # A new U-Net hardly listens; here text must be able to change a picture.
    torch.nn.init.normal_(unet.conv_out.weight, std=0.3)
    for name, weights in unet.named_parameters():
        if ".attn2.to_out.0.weight" in name:
            torch.nn.init.normal_(weights, std=1.0)
    return CaptionmixPipeline(
        denoiser=unet.eval(),
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        scheduler=scheduler or objective.scheduler("flow"),
    )


@pytest.fixture(scope="session")
def components() -> CaptionmixPipeline:
    return make_components()


@pytest.fixture(scope="session")
def model_folder(components: CaptionmixPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model artifact with two earlier snapshots."""
    out = tmp_path_factory.mktemp("models") / "model"
    cfg = build(
        TrainConfig,
        {
            "images": "i",
            "latents": "l",
            "text_states": ["t"],
            "arm": "dsc",
            "caption_mix": {"alt": 1.0},
            "required_kinds": [],
            "samples": 300,
            "seed": 7,
        },
        where="",
    )
    run = Run(out=out, verb="t2i train", config=cfg)
    assert run.start({})
    components.save_pretrained(out)
    weights = load_file(out / "denoiser" / WEIGHTS_NAME)
    for seen in (100, 200):
        path = out / "snapshots" / str(seen) / WEIGHTS_NAME
        path.parent.mkdir(parents=True)
        save_file({name: w * (1 - 50 / seen) for name, w in weights.items()}, path)
    parts = [p for p in out.rglob("*") if p.is_file() and p.suffix in {".safetensors", ".json"}]
    parts = [p for p in parts if p.name != "begun.json"]
    run.finish(artifact=MODEL, counts={"samples_seen": 300}, parts=parts)
    return out


@pytest.fixture(scope="session")
def make_prompts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A prompts artifact of some pairs in two styles, of several lengths."""

    def make(num_pairs: int) -> Path:
        out = tmp_path_factory.mktemp("prompts") / "prompts"
        cfg = PromptsConfig(images=Path("i"), captions=[], styles=["alt", "human"])
        run = Run(out=out, verb="t2i prompts", config=cfg)
        assert run.start({})
        rows = []
        for pair in range(num_pairs):
            for style, num_words in (("alt", 1 + pair % 3), ("human", 4 + pair % 9)):
                text = " ".join(WORDS[(pair + k) % len(WORDS)] for k in range(num_words))
                key = prompt_id(style=style, pair_id=pair_id(pair), prompt=text)
                rows.append(Prompt(key, text, style, pair_id(pair), None))
        write_prompts(out / "prompts.parquet", rows)
        run.finish(artifact=PROMPTS, counts={"prompts": len(rows)}, parts=["prompts.parquet"])
        return out

    return make


@pytest.fixture(scope="session")
def run_sample(model_folder: Path) -> Callable[..., Path]:
    """Sample into a folder with small settings."""
    from t2i.sample import sample

    def run(out: Path, prompts: Path, **settings: object) -> Path:
        small = {"num_steps": 2, "batch_size": 8, "images_per_shard": 8, "threads": 1}
        tree = {"model": str(model_folder), "prompts": str(prompts), **small, **settings}
        cfg = build(SampleConfig, tree, where="")
        verb = Run(out=out, verb="t2i sample", config=cfg)
        try:
            sample(cfg, verb)
        finally:
            verb.close()
        return out

    return run
