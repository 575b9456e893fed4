"""The diffusers pipeline of a trained model: text in, pictures out.

A model folder loads anywhere, and each of its components also loads with its own class of
diffusers or transformers:

    from t2i.pipeline import CaptionmixPipeline

    pipeline = CaptionmixPipeline.from_pretrained("runs/real_vs_ssc_vs_dsc/train-dsc-0")
    image = pipeline("a small red circle above a striped blue square", guidance_scale=3.0).images[0]
    image.save("circle.png")

The same text and noise through two models shows what their captions taught them:

    import torch

    embeds = pipeline.encode_prompt(["two green rings at the bottom"])
    noise = torch.randn(1, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    for folder in ("runs/real_vs_ssc_vs_dsc/train-real-0", "runs/real_vs_ssc_vs_dsc/train-dsc-0"):
        pipeline = CaptionmixPipeline.from_pretrained(folder)
        pipeline(text_embeds=embeds.text_embeds, text_mask=embeds.text_mask, latents=noise)

Solvers are those of diffusers; convention: t = 0 is data, t = 1 is noise, and the denoiser is told
1000 t. Which prompts, seeds and batches are sampled is `t2i.sample`'s business.

B batch, C latent channels, H latent height, W latent width, L text tokens, D text width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from launch.errors import InputError
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder, Texts

Solver: TypeAlias = Literal["flow-euler", "ddim", "dpm-solver++"]


class CaptionmixPipeline(DiffusionPipeline):
    """Text-to-image by latent diffusion with classifier-free guidance.

    Components that a use does not need may be None: text alone, or pictures from encoded text.

    Args:
        denoiser: Predicts velocity or noise from noisy latents, timestep and text.
        vae: First stage; its own configuration holds scale and shift of the latents.
        text_encoder: Frozen encoder whose last hidden state the denoiser attends to.
        tokenizer: Its tokenizer; `model_max_length` is where prompts are cut.
        scheduler: Solver; flow matching, or any diffusers scheduler of noise or v-prediction.
    """

    model_cpu_offload_seq = "text_encoder->denoiser->vae"

    def __init__(
        self,
        denoiser: UNet2DConditionModel | None,
        vae: AutoencoderKL | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of one picture."""
        side = self.denoiser.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return self.denoiser.config.in_channels, height, width

    def encode_prompt(self, prompts: Sequence[str]) -> Texts:
        """Encode prompts, padded to one length; empty text is what guidance points away from."""
        return TextEncoder.wrap(self.text_encoder, self.tokenizer).encode(prompts)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        text_embeds: Float[Tensor, "B L D"] | None = None,
        text_mask: Bool[Tensor, "B L"] | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 3.0,
        latents: Float[Tensor, "B C H W"] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per prompt.

        Args:
            prompt: Texts, or texts.
            text_embeds: Encoded prompts in place of `prompt`, as `encode_prompt` gives them.
            text_mask: True where a token of `text_embeds` is real; None where all are.
            num_inference_steps: Solver steps, each one evaluation of the denoiser.
            guidance_scale: Classifier-free guidance weight, 1 means off.
            latents: Standard normal noise to start from.
            generator: Where noise comes from when `latents` is not given.
            output_type: `np` and `pt` are floats in [0, 1], `latent` scaled latents.
            return_dict: False returns a tuple of one.

        Raises:
            InputError: Both or neither of `prompt` and `text_embeds`, or shapes that differ.

        Source: guidance, Ho and Salimans 2022, arXiv:2207.12598, Eq. 6.
        """
        if (prompt is None) == (text_embeds is None):
            raise InputError("pipeline: give exactly one of `prompt` and `text_embeds`")
        if prompt is not None:
            text = self.encode_prompt([prompt] if isinstance(prompt, str) else prompt)
        else:
            assert text_embeds is not None
            whole = torch.ones(text_embeds.shape[:2], dtype=torch.bool)
            text = Texts(text_embeds, whole if text_mask is None else text_mask)
        text = Texts(
            text.text_embeds.to(self._execution_device, self.denoiser.dtype),
            text.text_mask.to(self._execution_device),
        )
        shape = (len(text.text_embeds), *self.latent_shape)
        if latents is None:
            latents = randn_tensor(
                shape, generator=generator, device=self._execution_device, dtype=self.denoiser.dtype
            )
        elif latents.shape != shape:
            raise InputError(
                f"pipeline: latents have the shape {tuple(latents.shape)}, {len(shape)} prompts of "
                f"this model need {shape}"
            )
        with self.progress_bar(total=num_inference_steps) as bar:
            drawn = solve(
                self.denoiser,
                self.scheduler,
                latents.to(self._execution_device, self.denoiser.dtype),
                text=text,
                empty_text=None if guidance_scale == 1 else self.encode_prompt([""]),
                num_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                on_step=bar.update,
            )
        images: Any = drawn
        if output_type != "latent":
            pixels = Autoencoder(self.vae).decode(drawn)
            match output_type:
                case "pil":
                    images = [Image.fromarray(picture) for picture in pixels]
                case "np":
                    images = pixels.astype(np.float32) / 255
                case "pt":
                    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def solve(
    denoiser: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    noise: Float[Tensor, "B C H W"],
    *,
    text: Texts,
    empty_text: Texts | None,
    num_steps: int,
    guidance_scale: float,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "B C H W"]:
    """Carry noise to scaled latents.

    Args:
        denoiser: The network; text with and without goes through it in one batch.
        scheduler: Solver; its state is not touched.
        noise: Standard normal.
        text: Encoded prompts.
        empty_text: The empty prompt encoded, one row; None turns guidance off.
        num_steps: Evaluations of the denoiser.
        guidance_scale: Weight of the difference that the text makes.
        on_step: Called after each step.
    """
    # A scheduler counts its own steps and keeps earlier outputs: each solution has a fresh one.
    scheduler = type(scheduler).from_config(scheduler.config)
    set_steps(scheduler, num_steps, device=noise.device)
    if empty_text is not None:
        text = _stack(empty_text, text)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    with text_projected_once(denoiser, text.text_embeds) as stand_in:
        for timestep in scheduler.timesteps:
            x_t = latents if is_flow else scheduler.scale_model_input(latents, timestep)
            prediction = denoiser(
                x_t if empty_text is None else torch.cat([x_t, x_t]),
                timestep,
                encoder_hidden_states=stand_in,
                encoder_attention_mask=text.text_mask,
                return_dict=False,
            )[0]
            if empty_text is not None:
                without, with_text = prediction.chunk(2)
                prediction = without + guidance_scale * (with_text - without)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
            on_step()
    return latents


def set_steps(scheduler: SchedulerMixin, num_steps: int, *, device: torch.device) -> None:
    """Place the steps of a solver; a flow's evenly from t = 1 to t = 0."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Its own default ends with a step from t = 0.001 to 0, an evaluation for nothing.
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps), device=device)
    else:
        scheduler.set_timesteps(num_steps, device=device)


def solver(name: Solver | None, scheduler: SchedulerMixin) -> SchedulerMixin:
    """Return the named solver for what the model of `scheduler` learned; None keeps `scheduler`.

    Raises:
        InputError: The solver cannot solve that.
    """
    is_flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    match name:
        case None:
            return scheduler
        case "flow-euler" if is_flow:
            return scheduler
        case "ddim" if not is_flow:
            # From pure noise, where sampling starts, to no noise at all.
            # Lin et al. 2023, arXiv:2305.08891, table 2.
            return DDIMScheduler.from_config(
                scheduler.config,
                timestep_spacing="trailing",
                set_alpha_to_one=True,
                clip_sample=False,
            )
        case "dpm-solver++" if is_flow:
            return DPMSolverMultistepScheduler(
                num_train_timesteps=scheduler.config.num_train_timesteps,
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=scheduler.config.shift,
            )
        case "dpm-solver++":
            return DPMSolverMultistepScheduler.from_config(
                scheduler.config, timestep_spacing="trailing", final_sigmas_type="zero"
            )
        case "flow-euler" | "ddim":
            learned = "flow" if is_flow else scheduler.config.prediction_type
            fitting = "flow-euler" if is_flow else "ddim"
            raise InputError(
                f"solver {name} cannot sample a model that learned {learned}; "
                f"choose {fitting} or dpm-solver++"
            )
        case _:
            raise InputError(f"solver must be flow-euler, ddim or dpm-solver++, got {name!r}")


def _stack(empty_text: Texts, text: Texts) -> Texts:
    """Put as many copies of the empty prompt before the prompts, padded to one length."""
    num_prompts = len(text.text_embeds)
    num_empty = int(empty_text.text_mask.sum())
    length = max(num_empty, text.text_embeds.shape[1])
    embeds = text.text_embeds.new_zeros(2 * num_prompts, length, text.text_embeds.shape[2])
    mask = text.text_mask.new_zeros(2 * num_prompts, length)
    embeds[:num_prompts, :num_empty] = empty_text.text_embeds[:, :num_empty].to(embeds)
    mask[:num_prompts, :num_empty] = True
    embeds[num_prompts:, : text.text_embeds.shape[1]] = text.text_embeds
    mask[num_prompts:, : text.text_embeds.shape[1]] = text.text_mask
    return Texts(embeds, mask)


@contextmanager
def text_projected_once(
    denoiser: UNet2DConditionModel, text_embeds: Float[Tensor, "B L D"]
) -> Iterator[Float[Tensor, "B 1 D"]]:
    """Within, attend to keys and values of a text that were made at the start: it never changes.

    Yields what the denoiser is given in place of the text; it no longer looks at it. At 32 px on a
    CPU this saves about a sixth of a step, and makes long prompts as cheap as short.
    """
    before = denoiser.attn_processors
    states = text_embeds
    if denoiser.encoder_hid_proj is not None:
        states = denoiser.encoder_hid_proj(text_embeds)
    # `attn2` is diffusers' name of the attention to text; others keep their processor.
    during = {
        name: _ProjectedText.of(denoiser.get_submodule(name.removesuffix(".processor")), states)
        if ".attn2." in name
        else processor
        for name, processor in before.items()
    }
    denoiser.set_attn_processor(during)
    try:
        yield text_embeds[:, :1]
    finally:
        denoiser.set_attn_processor(before)


class _ProjectedText:
    """Attention of one layer to a text that stays the same between calls."""

    def __init__(
        self, keys: Float[Tensor, "B heads L _"], values: Float[Tensor, "B heads L _"]
    ) -> None:
        self.keys, self.values = keys, values

    @classmethod
    def of(cls, attn: Attention, text_embeds: Float[Tensor, "B L D"]) -> _ProjectedText:
        """Project a text for one layer."""
        projected = (attn.to_k(text_embeds), attn.to_v(text_embeds))
        return cls(*(_by_head(states, attn).contiguous() for states in projected))

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Float[Tensor, "B 1 L"] | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "B N C"]:
        """Return what each place of the picture reads from the text."""
        mask = None if attention_mask is None else attention_mask[:, :, None, :]  # [B, 1, 1, L]
        read = functional.scaled_dot_product_attention(
            _by_head(attn.to_q(hidden_states), attn), self.keys, self.values, attn_mask=mask
        )
        read = attn.to_out[0](read.transpose(1, 2).flatten(2))  # [B, N, C]
        return read / attn.rescale_output_factor


def _by_head(states: Float[Tensor, "B N C"], attn: Attention) -> Float[Tensor, "B heads N _"]:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
