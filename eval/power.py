"""What a design finds: its power, the smallest difference it detects, the fewest prompts it needs.

Power is that of the very intervals that the report prints. Given the expected mean squares, an
interval's half-width is a function of chi-square variables, and the mean difference is normal and
independent of them; so power is a mean over fixed, evenly spread chi-squares of a normal tail.
From `MIN_SEEDS` training seeds on the interval is that over prompts and seeds. Below, it is that
over prompts, and power is to find a difference between the models as trained.

K sets of components, Q nodes
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.stats import qmc

from eval.components import Components
from eval.intervals import LEVEL, POWER, Array
from eval.stats import MIN_SEEDS
from eval.two_way import TINY, MeanSquares, half_width

NODES = 10
"""Binary logarithm of the number of chi-squares that stand for all: power is right to 0.1%."""


class Design(NamedTuple):
    """How much is drawn and trained for each arm."""

    prompts: int
    images: int
    """Pictures of a prompt from one model."""

    seeds: int
    """Training seeds, each a model."""

    @property
    def has_seeds(self) -> bool:
        """True if its interval includes training seeds."""
        return self.seeds >= MIN_SEEDS

    def models(self, *, arms: int) -> int:
        """Return how many models are trained."""
        return arms * self.seeds

    def pictures(self, *, arms: int) -> int:
        """Return how many pictures are drawn."""
        return arms * self.seeds * self.prompts * self.images


def power_of(
    components: Components,
    design: Design,
    difference: float | Float[np.ndarray, "*K"],
    *,
    level: float = LEVEL,
    nodes: int = NODES,
) -> Float[np.ndarray, "*K"]:
    """Return how often the interval of such a study leaves out zero.

    Args:
        components: Variances of a paired difference.
        design: What is drawn.
        difference: True difference; of new models if the design has enough seeds, else of those
            that are trained.
        level: Level of the interval.
        nodes: Binary logarithm of the number of chi-squares.
    """
    half, error = _half_and_error(components, design, level=level, nodes=nodes)  # [*K, Q], [*K, 1]
    shift = np.asarray(difference)[..., None]
    found = special.ndtr((shift - half) / error) + special.ndtr((-shift - half) / error)
    return np.asarray(found.mean(axis=-1))


def detectable(
    components: Components,
    design: Design,
    *,
    power: float = POWER,
    level: float = LEVEL,
    nodes: int = NODES,
) -> Float[np.ndarray, "*K"]:
    """Return the smallest true difference that the design finds with this power.

    Args:
        components: Variances of a paired difference.
        design: What is drawn.
        power: Share of studies that are to find it.
        level: Level of the interval.
        nodes: Binary logarithm of the number of chi-squares.
    """
    half, error = _half_and_error(components, design, level=level, nodes=nodes)
    low = np.zeros(half.shape[:-1])
    high = half.max(axis=-1) + 8 * error[..., 0]
    for _ in range(30):
        middle = (low + high) / 2
        found = special.ndtr((middle[..., None] - half) / error)
        found += special.ndtr((-middle[..., None] - half) / error)
        is_enough = found.mean(axis=-1) >= power
        low, high = np.where(is_enough, low, middle), np.where(is_enough, middle, high)
    return np.asarray(high)


def fewest_prompts(
    components: Components,
    difference: float,
    *,
    images: int,
    seeds: int,
    most: int,
    power: float = POWER,
    level: float = LEVEL,
) -> int | None:
    """Return the fewest prompts with which so many images and seeds find a difference.

    Args:
        components: Variances of a paired difference.
        difference: True difference.
        images: Pictures of a prompt from one model.
        seeds: Training seeds.
        most: Prompts that there are.
        power: Share of studies that are to find it.
        level: Level of the interval.

    Returns:
        None if all of them are too few.
    """

    def is_enough(prompts: int) -> bool:
        design = Design(prompts, images, seeds)
        return bool(power_of(components, design, difference, level=level) >= power)

    low, high = 2, most
    if most < 2 or not is_enough(most):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return high


def expected_squares(components: Components, design: Design) -> MeanSquares:
    """Return the mean squares that such a study would have on average."""
    rest = components.prompt_by_seed + components.rest / design.images
    return MeanSquares(
        seeds=np.asarray(rest + design.prompts * components.seed),
        prompts=np.asarray(
            rest + design.seeds * (components.prompt + components.noise / design.images)
        ),
        rest=np.asarray(rest),
    )


def _half_and_error(
    components: Components, design: Design, *, level: float, nodes: int
) -> tuple[Array, Array]:
    """Return half-widths at every node, [*K, Q], and the error of the mean, [*K, 1]."""
    squares = MeanSquares(*(s[..., None] for s in expected_squares(components, design)))
    shape = {"num_seeds": design.seeds, "num_prompts": design.prompts}
    size = design.seeds * design.prompts
    seeds, prompts, rest = _chi_squares(design.seeds, design.prompts, nodes)
    if design.has_seeds:
        at_node = MeanSquares(squares.seeds * seeds, squares.prompts * prompts, squares.rest * rest)
        half = half_width(at_node, level=level, **shape)
        variance = (squares.seeds + squares.prompts - squares.rest) / size
    else:
        quantile = special.stdtrit(design.prompts - 1, (1 + level) / 2)
        half = quantile * np.sqrt(squares.prompts * prompts / size)
        variance = squares.prompts / size
    return half, np.sqrt(np.maximum(variance, TINY))


@functools.cache
def _chi_squares(num_seeds: int, num_prompts: int, nodes: int) -> tuple[Array, Array, Array]:
    """Return chi-squares over their degrees of freedom for seeds, prompts and rest, [Q] each."""
    uniform = qmc.Sobol(3, scramble=False).random_base2(nodes) + 0.5 / 2**nodes
    df_seeds, df_prompts = max(num_seeds - 1, 1), num_prompts - 1
    made = [
        2 * special.gammaincinv(df / 2, uniform[:, i]) / df
        for i, df in enumerate((df_seeds, df_prompts, df_seeds * df_prompts))
    ]
    return made[0], made[1], made[2]
