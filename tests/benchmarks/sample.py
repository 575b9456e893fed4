"""Pictures per second of `t2i sample` and of diffusers' own pipeline over the same weights.

The `small` denoiser and components in the shapes of Stable Diffusion's autoencoder and T5-small
(`peers/shapes.py`), DDIM, guidance, 64 px, float32 on two threads. Other loading is not timed.

- `paint`: `t2i.painter` as `t2i sample` calls it: the states of distinct prompts once for a run
  (`encode`, which reads the encoder from its folder first), then pictures (`paint`).
- `theirs`: StableDiffusionPipeline as it comes, prompts padded to the 77 tokens of CLIP's
  tokenizer, which is what it is written for; arrays, which spares it the conversion to PIL.

`paint` is ours as it comes. `single_speedup` is one picture for each of some distinct prompts, encoding included.
`study_speedup` is three pictures (seeds of the noise) for each prompt from three models (arms):
ours encodes once per model, as `seeds_per_prompt=3` does, theirs in every call. Models that
differ by training seed share no encoding, so for nine of them the ratio is that of a single pass.
Both are put together from medians of the parts, each of which is timed in every repetition.

`study_speedup_compiled` is with `compile=true` of ours; compiling, `compile_s`, is left out of it,
and `compile_pays_after` says from how many pictures on it is worth its time.

With `_512` in its name, a figure is for models that read T5's own 512 tokens: theirs pads to them.
With `_channels_last`, theirs has been given that layout, which it does not choose by itself.

The pipeline gives the denoiser no mask of padding, so its pictures are others; ours are compared
with a plain loop over the same scheduler, with the same masks and no key or value kept.

Alternating repetitions, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peers.shapes import (
    CONTEXT,
    LATENT_CHANNELS,
    LATENT_SIDE,
    LONGEST,
    TEXT_WIDTH,
    THREADS,
    captions_of,
    make_world,
    print_ground,
    seconds_of,
)

from launch.processes import set_threads
from t2i.autoencoder import Autoencoder
from t2i.conditioning import TextEncoder
from t2i.denoiser import build, num_parameters
from t2i.objective import scheduler
from t2i.painter import Painter, PromptStates, noise_of, text_states
from t2i.pipeline import CaptionmixPipeline, set_steps, solver

SIZE = "small"
NUM_PROMPTS, BATCH = 16, 16
NUM_STEPS, GUIDANCE = 25, 7.5
REPETITIONS = 3
NUM_ARMS, NUM_SEEDS = 3, 3
CONTEXTS = {"": CONTEXT, "_512": LONGEST}


def main() -> None:
    set_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name), num_pictures=max(64, NUM_PROMPTS))
        prompts = sorted(set(captions_of(world, "dsc")))[:NUM_PROMPTS]
        encoder = TextEncoder.load(world.text_encoder)
        autoencoder = Autoencoder.load(world.autoencoder)
        sides = {
            suffix: Side(Path(name), suffix, encoder, autoencoder, prompts, max_tokens=max_tokens)
            for suffix, max_tokens in CONTEXTS.items()
        }
        for repetition in range(1 + REPETITIONS):
            for side in sides.values():
                side.take_turns(is_warm=repetition > 0)
        first = sides[""]
        print_ground(
            denoiser_parameters=num_parameters(first.painter.denoiser),
            prompts=len(prompts),
            batch_size=BATCH,
            solver_steps=NUM_STEPS,
            prompt_tokens_median=int(median(map(len, encoder.tokenize(prompts)[0]))),
        )
        for suffix, side in sides.items():
            side.report(suffix)
        print(f"pixel_difference={largest_pixel_difference(first)}")


class Side:
    """Both systems at one length of context.

    Args:
        folder: Where the model is written.
        suffix: Tells this length from others, in names.
        encoder: Text encoder and tokenizer.
        autoencoder: First stage.
        prompts: Distinct texts.
        max_tokens: Tokens that the model reads.
    """

    def __init__(
        self,
        folder: Path,
        suffix: str,
        encoder: TextEncoder,
        autoencoder: Autoencoder,
        prompts: list[str],
        *,
        max_tokens: int,
    ) -> None:
        self.prompts, self._scratch = prompts, folder / f"scratch{suffix}"
        self._scratch.mkdir()
        self._model = folder / f"model{suffix}"
        tokenizer = copy.deepcopy(encoder.tokenizer)
        tokenizer.model_max_length = max_tokens
        denoiser = build(
            SIZE,
            latent_channels=LATENT_CHANNELS,
            latent_side=LATENT_SIDE,
            text_width=TEXT_WIDTH,
            seed=0,
        ).eval()
        made = CaptionmixPipeline(
            denoiser=denoiser,
            vae=autoencoder.vae,
            text_encoder=encoder.model,
            tokenizer=tokenizer,
            scheduler=scheduler("noise"),
        )
        made.save_pretrained(self._model)
        self.painter = Painter(self._model, "ddim")
        self._painters = {"paint": self.painter}
        if not suffix:
            self._painters["paint_compiled"] = Painter(self._model, "ddim", is_compiled=True)
        shape = self.painter.latent_shape
        self.noise = noise_of(
            [f"{n:032x}" for n in range(len(prompts))], [0] * len(prompts), shape=shape
        )
        ready = StableDiffusionPipeline(
            vae=made.vae,
            text_encoder=made.text_encoder,
            tokenizer=tokenizer,
            unet=denoiser,
            scheduler=solver("ddim", made.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        ready.set_progress_bar_config(disable=True)
        self._theirs = {"theirs": ready}
        if not suffix:
            self._theirs["theirs_channels_last"] = channels_last(ready)
        names = ("encode", *self._painters, *self._theirs)
        self.times: dict[str, list[float]] = {name: [] for name in names}
        self.first_s: dict[str, float] = {}

    def take_turns(self, *, is_warm: bool) -> None:
        """Do everything once; the first time, which also prepares, is not noted."""
        turns = {
            "encode": self.encode,
            **{name: partial(self.paint, painter) for name, painter in self._painters.items()},
            **{name: partial(self.call, pipeline) for name, pipeline in self._theirs.items()},
        }
        for name, work in turns.items():
            took = seconds_of(work)
            if is_warm:
                self.times[name].append(took)
            else:
                self.first_s[name] = took

    def encode(self) -> None:
        """Encode every prompt and the empty one, as each sampling run does."""
        text_states.cache_clear()
        for left in self._scratch.iterdir():
            left.unlink()
        self.states: PromptStates = text_states(
            self._model,
            ("", *self.prompts),
            states=self._scratch / "states.npy",
            lengths=self._scratch / "lengths.json",
            batch_size=BATCH,
        )

    def paint(self, painter: Painter) -> list[np.ndarray]:
        """Draw one picture per prompt."""
        return painter.paint(
            self.prompts,
            noise=self.noise,
            states=self.states,
            batch_size=BATCH,
            num_steps=NUM_STEPS,
            guidance_scale=GUIDANCE,
        )

    def call(self, pipeline: StableDiffusionPipeline) -> None:
        """Draw one picture per prompt with the pipeline of diffusers."""
        for start in range(0, len(self.prompts), BATCH):
            pipeline(
                self.prompts[start : start + BATCH],
                latents=torch.from_numpy(self.noise[start : start + BATCH]),
                num_inference_steps=NUM_STEPS,
                guidance_scale=GUIDANCE,
                output_type="np",
            )

    def report(self, suffix: str) -> None:
        """Print every figure of this length."""
        num = len(self.prompts)
        took = {name: median(times) for name, times in self.times.items()}
        encode, theirs = took["encode"], took["theirs"]
        print(f"encode{suffix}_ms={1000 * encode:.1f}")
        for name, times in self.times.items():
            if name == "encode":
                continue
            before = self.times["encode"] if name in self._painters else [0.0] * len(times)
            rates = [num / (e + t) for e, t in zip(before, times, strict=True)]
            low, middle, high = quantiles(rates, n=4)
            print(f"{name}{suffix}_per_s={middle:.3f}")
            print(f"{name}{suffix}_per_s_quartiles={low:.3f},{high:.3f}")
        for kind in self._painters:
            ours, form = took[kind], kind.removeprefix("paint")
            study = NUM_ARMS * (encode + NUM_SEEDS * ours)
            print(f"single_speedup{suffix}{form}={theirs / (encode + ours):.3f}")
            print(f"study_speedup{suffix}{form}={NUM_ARMS * NUM_SEEDS * theirs / study:.3f}")
        if "theirs_channels_last" in took:
            study = NUM_ARMS * (encode + NUM_SEEDS * took["paint"])
            tuned = NUM_ARMS * NUM_SEEDS * took["theirs_channels_last"] / study
            print(f"study_speedup{suffix}_channels_last={tuned:.3f}")
        if "paint_compiled" in took:
            compile_s = self.first_s["paint_compiled"] - took["paint_compiled"]
            saved = (took["paint"] - took["paint_compiled"]) / num
            print(f"compile_s={compile_s:.1f}")
            print(f"compile_pays_after={compile_s / saved:.0f}" if saved > 0 else "compile_pays=no")


def channels_last(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Return a copy of a pipeline in the layout that `t2i sample` gives its own models."""
    other = copy.deepcopy(pipeline)
    other.set_progress_bar_config(disable=True)
    for part in (other.unet, other.vae):
        part.to(memory_format=torch.channels_last)
    return other


@torch.no_grad()
def largest_pixel_difference(side: Side) -> int:
    """Return by how many of 255 levels any pixel differs from that of a plain loop."""
    ours = np.stack(side.paint(side.painter))
    denoiser, steps = side.painter.denoiser, copy.deepcopy(side.painter.scheduler)
    set_steps(steps, NUM_STEPS, device=torch.device("cpu"))
    pictures: list[Any] = []
    for start in range(0, len(side.prompts), BATCH):
        prompts = side.prompts[start : start + BATCH]
        length = int(side.states.padded_lengths(prompts).max())
        texts = [
            side.states.load(some, length=length, device=torch.device("cpu"))
            for some in (prompts, [""] * len(prompts))
        ]
        latents = torch.from_numpy(side.noise[start : start + BATCH])
        for timestep in steps.timesteps:
            with_text, without = (
                denoiser(
                    latents,
                    timestep,
                    encoder_hidden_states=text.text_embeds,
                    encoder_attention_mask=text.text_mask,
                ).sample
                for text in texts
            )
            prediction = without + GUIDANCE * (with_text - without)
            latents = steps.step(prediction, timestep, latents).prev_sample
        pictures.extend(Autoencoder(side.painter.vae).decode(latents))
    return int(np.abs(ours.astype(int) - np.stack(pictures)).max())


if __name__ == "__main__":
    main()
