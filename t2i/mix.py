"""Which caption a picture gets in an epoch.

One uniform number per (picture, epoch) is thresholded. The kinds lie on [0, 1) in the order of the
configuration, but `alt` always last: a mix with more of a synthetic kind gives that kind to every
picture that a mix with less gave it to. Draws of different mixing ratios therefore nest, and an
arm's name or a kind's name cannot change a draw.

B batch
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int64

from launch.errors import ConfigError

ALT = "alt"
"""The kind that came with the picture; everything else is synthetic."""


def kind_order(caption_mix: Mapping[str, float]) -> tuple[str, ...]:
    """Give the kinds in the order in which they lie on [0, 1): as configured, alt last."""
    return (*(k for k in caption_mix if k != ALT), *(k for k in caption_mix if k == ALT))


def choose_kinds(
    uniform: Float[np.ndarray, " B"], caption_mix: Mapping[str, float]
) -> Int64[np.ndarray, " B"]:
    """Give for each uniform number the position of its kind in `kind_order`."""
    shares = np.array([caption_mix[kind] for kind in kind_order(caption_mix)], dtype=np.float64)
    if not len(shares) or abs(shares.sum() - 1) > 1e-6 or (shares < 0).any():
        raise ConfigError(
            f"caption_mix must hold probabilities that sum to 1, got {dict(caption_mix)}"
        )
    # The last bound is left out: rounding in the sum must not leave a gap below 1.
    bounds = np.cumsum(shares)[:-1]
    chosen = np.searchsorted(bounds, uniform, side="right")
    # A kind of share zero at the end would otherwise catch what rounding pushed past its bound.
    return np.minimum(chosen, np.flatnonzero(shares).max()).astype(np.int64)
