from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from launch.errors import InputError
from t2i import objective
from t2i.pipeline import CaptionmixPipeline, solve, solver, text_projected_once

PROMPTS = ["a red circle", "two green ring at the top left of a blue square"]


def noise_for(pipeline: CaptionmixPipeline, num: int = 2) -> Tensor:
    return torch.randn(num, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))


def draw_latents(pipeline: CaptionmixPipeline, **settings: Any) -> Tensor:
    return pipeline(latents=noise_for(pipeline), output_type="latent", **settings).images


@torch.no_grad()
def hand_written_flow(pipeline: CaptionmixPipeline, *, num_steps: int, weight: float) -> Tensor:
    """Euler's method from t = 1 to t = 0, text and no text in passes of their own."""
    with_text, without = pipeline.encode_prompt(PROMPTS), pipeline.encode_prompt([""] * 2)
    x = noise_for(pipeline)
    for i in range(num_steps):
        t = 1 - i / num_steps
        velocity, empty = (
            pipeline.denoiser(x, 1000 * t, e, encoder_attention_mask=m).sample
            for e, m in (with_text, without)
        )
        x = x - (empty + weight * (velocity - empty)) / num_steps
    return x


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_flow_euler_loop_equals_a_hand_written_solver(
    components: CaptionmixPipeline, weight: float
) -> None:
    found = draw_latents(components, prompt=PROMPTS, num_inference_steps=5, guidance_scale=weight)
    expected = hand_written_flow(components, num_steps=5, weight=weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_text_and_guidance_change_the_picture(components: CaptionmixPipeline) -> None:
    one = draw_latents(components, prompt=PROMPTS, num_inference_steps=2)
    other = draw_latents(components, prompt=PROMPTS[::-1], num_inference_steps=2)
    unguided = draw_latents(components, prompt=PROMPTS, num_inference_steps=2, guidance_scale=1.0)
    assert (one - other).abs().max() > 0.01
    assert (one - unguided).abs().max() > 0.01


@pytest.mark.parametrize(("weight", "rows"), [(3.0, 4), (1.0, 2)])
def test_guidance_is_one_batched_pass_per_step(
    components: CaptionmixPipeline, weight: float, rows: int
) -> None:
    batches = []
    hook = components.denoiser.register_forward_pre_hook(
        lambda _, args: batches.append(len(args[0]))
    )
    try:
        draw_latents(components, prompt=PROMPTS, num_inference_steps=3, guidance_scale=weight)
    finally:
        hook.remove()
    assert batches == [rows] * 3


def test_projecting_text_once_changes_nothing(components: CaptionmixPipeline) -> None:
    text = components.encode_prompt(PROMPTS)
    denoiser, x = components.denoiser, noise_for(components)
    with torch.no_grad():
        expected = [
            denoiser(x, t, *text[:1], encoder_attention_mask=text[1]).sample for t in (9, 5)
        ]
        with text_projected_once(denoiser, text.text_embeds) as stand_in:
            found = [
                denoiser(x, t, stand_in, encoder_attention_mask=text[1]).sample for t in (9, 5)
            ]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_denoiser_is_left_as_it_was(components: CaptionmixPipeline) -> None:
    before = components.denoiser.attn_processors
    steps = components.scheduler.timesteps
    draw_latents(components, prompt=PROMPTS, num_inference_steps=1)
    assert components.denoiser.attn_processors == before
    assert components.scheduler.timesteps is steps


def test_padding_of_the_text_changes_nothing(components: CaptionmixPipeline) -> None:
    text = components.encode_prompt(PROMPTS)
    longer = torch.nn.functional.pad(text.text_embeds, (0, 0, 0, 16), value=7.0)
    mask = torch.nn.functional.pad(text.text_mask, (0, 16))
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0}
    torch.testing.assert_close(
        draw_latents(components, text_embeds=longer, text_mask=mask, **settings),
        draw_latents(components, prompt=PROMPTS, **settings),
    )


class Oracle(UNet2DConditionModel):
    """Knows that there is one picture only, and answers in the terms of its scheduler."""

    def __init__(self, picture: Tensor, scheduler: Any) -> None:
        super().__init__(
            sample_size=8,
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
            norm_num_groups=4,
            layers_per_block=1,
        )
        self.picture, self.scheduler = picture, scheduler

    def forward(self, x_t: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:  # type: ignore[override]
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            t = timestep / 1000
            return ((x_t - (1 - t) * self.picture) / t - self.picture,)
        kept = self.scheduler.alphas_cumprod[int(timestep)]
        noise = (x_t - kept.sqrt() * self.picture) / (1 - kept).sqrt()
        if self.scheduler.config.prediction_type == "epsilon":
            return (noise,)
        return (kept.sqrt() * noise - (1 - kept).sqrt() * self.picture,)


# diffusers' DPM-Solver++ turns tensors into arrays in a way that numpy 2 frowns upon.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("learned", "name"),
    [
        ("flow", None),
        ("flow", "flow-euler"),
        ("flow", "dpm-solver++"),
        ("noise", None),
        ("noise", "ddim"),
        ("noise", "dpm-solver++"),
        ("velocity", "ddim"),
        ("velocity", "dpm-solver++"),
    ],
)
def test_every_solver_ends_at_the_only_picture_there_is(
    components: CaptionmixPipeline, learned: Any, name: Any
) -> None:
    picture = torch.linspace(-2, 2, 4 * 64).view(1, 4, 8, 8)
    scheduler = objective.scheduler(learned)
    found = solve(
        Oracle(picture, scheduler),
        solver(name, scheduler),
        noise_for(components),
        text=components.encode_prompt(PROMPTS),
        empty_text=components.encode_prompt([""]),
        num_steps=8,
        guidance_scale=3.0,
    )
    # As saved, DDIM ends at the first timestep of training, which still has a little noise.
    tolerance = 0.15 if (learned, name) == ("noise", None) else 0.02
    assert (found - picture).abs().max() < tolerance


@pytest.mark.parametrize(("learned", "name"), [("flow", "ddim"), ("noise", "flow-euler")])
def test_a_solver_that_does_not_fit_is_refused(learned: Any, name: Any) -> None:
    with pytest.raises(InputError, match="cannot sample a model that learned"):
        solver(name, objective.scheduler(learned))


def test_a_saved_pipeline_loads_and_draws_the_same(
    components: CaptionmixPipeline, model_folder: Path
) -> None:
    loaded = CaptionmixPipeline.from_pretrained(model_folder)
    settings = {"prompt": PROMPTS, "num_inference_steps": 2}
    assert torch.equal(draw_latents(loaded, **settings), draw_latents(components, **settings))


def test_every_component_loads_with_its_own_class(
    components: CaptionmixPipeline, model_folder: Path
) -> None:
    assert UNet2DConditionModel.from_pretrained(model_folder / "denoiser").config.in_channels == 4
    assert AutoencoderKL.from_pretrained(model_folder / "vae").config.shift_factor == 0.25
    assert T5EncoderModel.from_pretrained(model_folder / "text_encoder").config.d_model == 16
    tokenizer = AutoTokenizer.from_pretrained(model_folder / "tokenizer")
    assert tokenizer(PROMPTS)["input_ids"] == components.tokenizer(PROMPTS)["input_ids"]
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model_folder / "scheduler")
    assert scheduler.config.shift == 1.0


def test_pictures_come_in_every_form_asked_for(components: CaptionmixPipeline) -> None:
    def draw(output_type: str) -> Any:
        return components(
            PROMPTS, latents=noise_for(components), num_inference_steps=1, output_type=output_type
        ).images

    pixels = np.stack([np.asarray(picture) for picture in draw("pil")])
    assert pixels.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(draw("np"), pixels / 255, atol=1e-6)
    np.testing.assert_allclose(draw("pt").permute(0, 2, 3, 1), pixels / 255, atol=1e-6)
    (images,) = components(PROMPTS[0], num_inference_steps=1, return_dict=False)
    assert len(images) == 1


def test_the_same_generator_gives_the_same_picture(components: CaptionmixPipeline) -> None:
    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return components(
            PROMPTS[0], generator=generator, num_inference_steps=1, output_type="latent"
        ).images

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_prompt_and_embeds_together_or_neither_are_refused(components: CaptionmixPipeline) -> None:
    with pytest.raises(InputError, match="exactly one"):
        components()
    with pytest.raises(InputError, match="exactly one"):
        components("a", text_embeds=components.encode_prompt(["a"]).text_embeds)


def test_noise_of_another_shape_is_refused(components: CaptionmixPipeline) -> None:
    with pytest.raises(InputError, match=r"\(2, 4, 8, 8\)"):
        components(PROMPTS, latents=torch.zeros(1, 4, 8, 8))


def test_a_diffusers_scheduler_can_replace_the_saved_one(components: CaptionmixPipeline) -> None:
    other = CaptionmixPipeline(**{**components.components, "scheduler": DDIMScheduler()})
    assert torch.isfinite(draw_latents(other, prompt=PROMPTS, num_inference_steps=2)).all()
