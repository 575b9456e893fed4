"""Where the variance of a paired difference comes from, estimated from matched pictures.

A difference between two arms on one picture is taken for

    mean + training seed + prompt + noise + prompt by seed + rest,

all random but the mean. A picture's noise belongs to its prompt and is the same for all training
seeds, so a part of its effect (`noise`) is common to them and the rest is not.

S training seeds, P prompt clusters, M pictures of one training seed, K draws
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy import special

from eval.intervals import LEVEL, Array
from eval.pairing import Matched
from eval.resampling import generator_of
from eval.two_way import mean_squares
from launch.errors import InputError


class Components(NamedTuple):
    """Variances of the parts of one picture's paired difference: numbers, or draws [K]."""

    seed: Any
    """Training the two models again with another seed."""

    prompt: Any
    """Another prompt: the arms differ more on some prompts than on others."""

    noise: Any
    """Another noise of the same prompt, alike for all training seeds."""

    prompt_by_seed: Any
    """A prompt that suits the models of one training seed better than those of another."""

    rest: Any
    """What is left of a single picture."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Components as scores tell them, and how well."""

    components: Components
    """Point estimates by the method of moments, none below zero."""

    draws: Components
    """[K] sets that the scores allow as well, for ranges."""

    num_seeds: int
    num_prompts: int
    num_images: float
    """Pictures of a prompt and model; the harmonic mean where prompts differ."""

    told_apart: frozenset[str]
    """Components that these scores can tell; the others are part of one that is told."""

    def interval(self, name: str, *, level: float = LEVEL) -> tuple[float, float]:
        """Return the range of one component's variance."""
        tails = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(getattr(self.draws, name), tails)
        return float(low), float(high)


def estimate_components(
    matched: Matched, *, num_draws: int = 1000, seed: int = 0, name: str = "scores"
) -> Estimate:
    """Estimate the components of matched pictures by the method of moments.

    Every mean square is set equal to its expectation. Ranges are those of generalised inference
    (Weerahandi 1993): each mean square is divided by a draw of chi-square over its degrees of
    freedom, and the components are computed again.

    With one picture per prompt the noise cannot be told from the prompt, with one training seed
    neither prompt by seed nor training seed can be told: what cannot be told is left in `prompt`
    (or `noise`, or `prompt_by_seed`), which a plan does not average away, and a training seed's
    variance is then unknown and taken as zero.

    Args:
        matched: Differences of all pictures, the same prompts and noises for every training seed.
        num_draws: Draws behind the ranges.
        seed: Seed of these draws.
        name: What the scores are called in messages.

    Raises:
        InputError: Fewer than two prompts, or training seeds with different pictures.
    """
    pictures, column = _by_seed(matched, name=name)  # [S, M], [M]
    num_seeds, num_pictures = pictures.shape
    num_prompts = len(matched.pairs)
    count = np.bincount(column, minlength=num_prompts)
    if num_prompts < 2:
        raise InputError(
            f"{name}: {num_prompts} prompt has no variance between prompts; expected at least 2. "
            "Score more prompts, or give the standard deviations by hand."
        )
    cells = np.stack([np.bincount(column, weights=d) / count for d in pictures])  # [S, P]
    harmonic = num_prompts / float((1 / count).sum())
    within = pictures - cells[:, column]  # [S, M]
    common = within.mean(axis=0)  # [M]
    df_noise = num_pictures - num_prompts

    squares: dict[str, tuple[float, int]] = {}  # mean square, degrees of freedom
    if num_seeds > 1:
        of_cells = mean_squares(cells)
        squares["seed"] = float(of_cells.seeds), num_seeds - 1
        squares["prompt"] = float(of_cells.prompts), num_prompts - 1
        squares["cell"] = float(of_cells.rest), (num_seeds - 1) * (num_prompts - 1)
    else:
        squares["prompt"] = float(cells[0].var(ddof=1)), num_prompts - 1
    if df_noise:
        squares["noise"] = num_seeds * float((common**2).sum()) / df_noise, df_noise
    if df_noise and num_seeds > 1:
        df = (num_seeds - 1) * df_noise
        squares["rest"] = float(((within - common) ** 2).sum()) / df, df

    generator = generator_of(seed, "variance components")
    drawn = {}
    for key, (square, df) in squares.items():
        spread = (generator.permutation(num_draws) + 0.5) / num_draws  # even: quantiles settle soon
        drawn[key] = square * df / (2 * special.gammaincinv(df / 2, spread))
    shape: dict[str, Any] = {"num_seeds": num_seeds, "num_prompts": num_prompts}
    return Estimate(
        components=_solve({k: square for k, (square, _) in squares.items()}, **shape,
                          num_images=harmonic),
        draws=_solve(drawn, **shape, num_images=harmonic),
        **shape,
        num_images=harmonic,
        told_apart=frozenset(
            ["prompt"]
            + ["noise"] * bool(df_noise)
            + ["seed", "prompt_by_seed"] * (num_seeds > 1)
            + ["rest"] * bool(df_noise and num_seeds > 1)
        ),
    )  # fmt: skip


def _by_seed(matched: Matched, *, name: str) -> tuple[Float[Array, "S M"], Int64[Array, " M"]]:
    """Return the differences with a row for every training seed, and their columns' clusters."""
    order = np.lexsort([matched.seed, matched.prompt, matched.row])
    num_seeds = len(matched.model_seeds)
    keys = [key[order] for key in (matched.prompt, matched.seed)]
    if len(order) % num_seeds or any(
        (key.reshape(num_seeds, -1) != key.reshape(num_seeds, -1)[0]).any() for key in keys
    ):
        raise InputError(
            f"{name}: training seeds were scored on different pictures; variance is told apart on "
            "the same prompts and noise for all of them. Sample and score what is missing."
        )
    difference = matched.difference[order].reshape(num_seeds, -1)
    return difference, matched.column[order][: difference.shape[1]]


def _solve(
    squares: dict[str, Any], *, num_seeds: int, num_prompts: int, num_images: float
) -> Components:
    """Turn mean squares into components.

    Their expectations, for cells that are means of G pictures (`num_images`):

        seed    prompt_by_seed + rest / G + P seed
        prompt  prompt_by_seed + rest / G + S (prompt + noise / G)
        cell    prompt_by_seed + rest / G
        noise   rest + S noise
        rest    rest
    """
    zero = np.zeros_like(squares["prompt"])
    cell, rest = squares.get("cell", zero), squares.get("rest", zero)
    noise = np.maximum((squares["noise"] - rest) / num_seeds, 0.0) if "noise" in squares else zero
    over_prompts = (squares["prompt"] - cell) / num_seeds
    return Components(
        seed=np.maximum((squares["seed"] - cell) / num_prompts, 0.0) if "seed" in squares else zero,
        prompt=np.maximum(over_prompts - noise / num_images, 0.0),
        noise=noise,
        prompt_by_seed=np.maximum(cell - rest / num_images, 0.0),
        rest=rest,
    )
