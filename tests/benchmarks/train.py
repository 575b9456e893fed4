"""What a step of `t2i train` costs beside the recipe of diffusers and beside the bare network.

Pictures of 64 px in batches of 16, float32 on two CPU threads, Stable Diffusion's autoencoder and
T5-small in shape (`peers/shapes.py`), the `small` denoiser, noise prediction. One step each of:

- `plain`: diffusers' examples/text_to_image/train_text_to_image.py: the batch's pictures and texts
  are encoded in every step; texts are padded to the 77 tokens of CLIP's tokenizer. Pictures are
  decoded and texts tokenized beforehand, which the example does in its data loader.
- `cached`: the same with latents (mean and deviation) and text states in memory, texts padded to
  the longest of the batch.
- `cached_tuned`: `cached` with torch's fused AdamW and the average in one call, which the example
  does not use.
- `bare`: denoiser, loss, backward, clipping, fused AdamW and average over tensors that are there
  already: those of the very steps of `ours`, at its rates, so that the losses must agree.
- `ours`: the verb itself, from folders, with its draws, ledger, averages and a log line a step;
  from one `progress.advance` to the next. The others take their turns inside that call, while the
  verb's clock stands still. The first step, and those after a checkpoint and a snapshot, are
  counted apart.

`study_overhead`: three arms by three seeds of STUDY_STEPS steps with everything that a run does
once, over as many bare steps; encoding once (no more pictures than here) is in both.

Alternating turns of TURN steps, medians; figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from peers.shapes import (
    CONTEXT,
    IMAGE_SIZE,
    THREADS,
    World,
    make_world,
    print_ground,
    print_times,
    run_verb,
    seconds_of,
)
from peers.training import Peers

from launch.config import build
from launch.manifest import RUN_LOG
from launch.processes import set_threads
from launch.progress import Progress
from launch.run import Run
from t2i.cache import encode
from t2i.config import EncodeConfig, TrainConfig
from t2i.train import train

SIZE = "small"
NUM_PICTURES, BATCH = 256, 16
TURN, NUM_TURNS = 4, 8
NUM_STEPS = 1 + TURN * NUM_TURNS
NUM_ARMS, NUM_SEEDS, STUDY_STEPS = 3, 3, 2000


def main() -> None:
    set_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name), num_pictures=NUM_PICTURES)
        latents, states = Path(name, "latents"), Path(name, "text_states")
        cfg = training(world, latents=latents, states=states)
        encoding = seconds_of(partial(encode_once, world, latents=latents, states=states))
        peers = Peers(world, cfg, num_steps=NUM_STEPS, turn=TURN, unused=Path(name, "unused"))
        ours = Ours(cfg, Path(name, "model"), between=peers.take_turns)
        ours.run()
        report(ours, peers, encoding=encoding)


def training(world: World, *, latents: Path, states: Path) -> TrainConfig:
    """Return the settings of one training with one checkpoint and one snapshot."""
    tree = {
        "images": world.images,
        "captions": [world.captions],
        "latents": latents,
        "text_states": [states],
        "arm": "dsc",
        "caption_mix": {"dsc": 0.95, "alt": 0.05},
        "required_kinds": ["alt", "dsc"],
        "size": SIZE,
        "objective": "noise",
        "samples": NUM_STEPS * BATCH,
        "batch_size": BATCH,
        "lr": 1e-4,
        "snapshots": 2,
        "checkpoint_samples": (3 * NUM_STEPS // 4) * BATCH,
        "log_samples": BATCH,
        "threads": THREADS,
    }
    return build(TrainConfig, tree, where="")


def encode_once(world: World, *, latents: Path, states: Path) -> None:
    """Cache latents and text states, as a study does once for all its arms and seeds."""
    both = {"images": world.images, "batch_size": BATCH, "threads": THREADS}
    cfg = EncodeConfig(**both, autoencoder=world.autoencoder, image_size=IMAGE_SIZE)
    run_verb("t2i encode", encode, cfg, latents)
    cfg = EncodeConfig(**both, text_encoder=world.text_encoder, captions=[world.captions])
    run_verb("t2i encode", encode, cfg, states)


# --------------------------------------------------------------------------- ours


class Ours:
    """One training by the verb, interrupted after every step."""

    def __init__(self, cfg: TrainConfig, out: Path, *, between: Callable[[int], None]) -> None:
        self.out = out
        self.steps: list[float] = []
        self._cfg, self._between = cfg, between
        self._run = Run(out=out, verb="t2i train", config=cfg)
        # In place of the method: the clock of the progress is the only thing that differs.
        self._run.progress = self._progress  # type: ignore[method-assign]
        self._paused = 0.0

    def clock(self) -> float:
        """Return seconds of the verb's own."""
        return time.perf_counter() - self._paused

    def run(self) -> None:
        """Train; `steps` are the seconds of each, `end` of what follows the last."""
        self._last = self.clock()
        try:
            train(self._cfg, self._run)
        finally:
            self._run.close()
        self.end = self.clock() - self._last

    def _progress(self, total: int, *, label: str | None = None, unit: str = "img") -> Progress:
        made = Progress(
            total, label=label or "train", unit=unit, log=self._run.log, clock=self.clock
        )
        advance = made.advance

        def advance_and_wait(num: int = 1, **fields: float | str) -> None:
            advance(num, **fields)
            self.steps.append(self.clock() - self._last)
            began = time.perf_counter()
            self._between(len(self.steps))
            self._paused += time.perf_counter() - began
            self._last = self.clock()

        made.advance = advance_and_wait  # type: ignore[method-assign]
        return made

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return what the verb logged."""
        lines = (json.loads(line) for line in (self.out / RUN_LOG).read_text().splitlines())
        return [line for line in lines if line["event"] == event]


# --------------------------------------------------------------------------- figures


def report(ours: Ours, peers: Peers, *, encoding: float) -> None:
    """Print every figure."""
    # Work after a step's last line falls into the next one's time.
    snapshot, checkpoint = round(NUM_STEPS / 2), 3 * NUM_STEPS // 4
    apart = {0, snapshot, checkpoint}
    steps = [took for index, took in enumerate(ours.steps) if index not in apart]
    times = {**peers.times, "ours": steps}
    plain, cached, tuned, bare, mine = (median(taken) for taken in times.values())
    beginning, snapshotting, saving = (max(0.0, ours.steps[n] - mine) for n in sorted(apart))
    checkpoints = (STUDY_STEPS - 1) * BATCH // TrainConfig.checkpoint_samples
    fixed = beginning + ours.end + checkpoints * saving
    fixed += (TrainConfig.snapshots - 1) * snapshotting
    num_runs = NUM_ARMS * NUM_SEEDS
    study = encoding + num_runs * (STUDY_STEPS * mine + fixed)
    floor = encoding + num_runs * STUDY_STEPS * bare
    losses = [line["loss"] for line in ours.events("step")]
    tokens = [int(peers.data.gather(draw).text_mask.shape[1]) for draw in peers.draws]

    print_ground(
        denoiser_parameters=peers.num_parameters,
        pictures=len(peers.data),
        batch_size=BATCH,
        steps_measured=len(steps),
        padded_tokens_median=int(median(tokens)),
        plain_tokens=CONTEXT,
        study_steps=STUDY_STEPS,
    )
    for name, taken in times.items():
        print_times(name, taken)
    print_times("bare_average", peers.averaging[1:])
    print(f"bare_loss_difference={largest_difference(losses, peers.losses):.2e}")
    print(f"encode_seconds={encoding:.1f}")
    print(f"run_start_seconds={beginning:.2f}")
    print(f"run_end_seconds={ours.end:.2f}")
    print(f"checkpoint_seconds={saving:.2f}")
    print(f"snapshot_seconds={snapshotting:.2f}")
    print(f"speedup_over_plain={plain / mine:.3f}")
    print(f"ceiling={plain / bare:.3f}")
    print(f"share_of_ceiling={bare / mine:.3f}")
    print(f"share_of_ceiling_without_average={(bare - median(peers.averaging)) / mine:.3f}")
    print(f"speedup_over_cached={cached / mine:.3f}")
    print(f"speedup_over_cached_tuned={tuned / mine:.3f}")
    print(f"data_wait_share={ours.events('progress')[-1]['data']:.4f}")
    print(f"study_overhead={study / floor:.3f}")


def largest_difference(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """Return the largest relative difference of two curves."""
    return max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
