"""Parameters, arithmetic and memory of each size of the denoiser, for one picture.

Latents and text are those of configs/t2i/train.yaml for `tiny` (8x8 latents, a text encoder 96
wide) and of configs/t2i/paper.yaml for the others (32x32 latents, T5-XXL, 128 tokens). Beside them
`paper` whose finest level attends to nothing, and `base` with T5-large. Nothing is timed: the
figures are counts, the same everywhere.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

from dataclasses import replace

from launch.config import build, load_tree
from t2i.config import TrainConfig
from t2i.denoiser import SHAPES
from t2i.estimate import PASSES, expected_sizes, fake_pass


def main() -> None:
    cfg = build(TrainConfig, load_tree(["t2i/paper.yaml"], []), where="")
    assert cfg.expected is not None
    paper = expected_sizes(cfg.expected)
    SHAPES["paper_coarse_text"] = replace(SHAPES["paper"], text_from_level=1)
    SHAPES["base_t5_large"] = SHAPES["base"]
    own = {
        "tiny": paper._replace(latent_side=8, text_width=96, max_tokens=96),
        "base_t5_large": paper._replace(text_width=1024),
    }
    for size in SHAPES:
        sizes = own.get(size, paper)
        num_parameters, one = fake_pass(size, sizes, precision="bfloat16")
        print(f"{size}_parameters_millions={num_parameters / 1e6:.1f}")
        print(f"{size}_forward_gflop={one.flop / 1e9:.3g}")
        print(f"{size}_training_gflop={PASSES * one.flop / 1e9:.3g}")
        print(f"{size}_activations_mib={one.activation_bytes / 2**20:.3g}")
        print(f"{size}_checkpointed_mib={one.checkpointed_bytes / 2**20:.3g}")


if __name__ == "__main__":
    main()
