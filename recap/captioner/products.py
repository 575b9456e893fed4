"""Products of a handful of rows with large weights, which is what a decoding step consists of.

BLAS is made for large products. Of 8 or 64 rows, torch's CPU builds compute x W^T at a fraction of
the speed at which the weights can be read, because the weights are packed anew for every product
(docs/experiment_log.md has the times). MKL can keep them packed; it is asked to where it is there,
the rows are few and the arithmetic is float32. Everything else goes through torch's own product.

R rows, K columns of a row, N of a result
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

FEW_ROWS = 128
"""Up to this many rows packing is asked for. It saved a third of a product's time at 64 rows and a
fifth at 128; beyond that too little for a second copy of the weights."""


class RowProduct:
    """x W^T + b for always as many rows.

    Args:
        weight: Weights; packed ones are a copy, so they must not change afterwards.
        bias: Added to every row, or nothing.
        num_rows: Rows of every x.
    """

    def __init__(
        self, weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None, *, num_rows: int
    ) -> None:
        self._weight, self._bias, self._num_rows = weight.detach(), bias, num_rows
        self._packed: Tensor | None = None
        if can_pack(weight, num_rows=num_rows):
            self._weight = self._weight.contiguous()
            self._packed = torch.ops.mkl._mkl_reorder_linear_weight(self._weight, num_rows)

    def __call__(self, x: Float[Tensor, "R K"]) -> Float[Tensor, "R N"]:
        """Compute the product."""
        if self._packed is None:
            return functional.linear(x, self._weight, self._bias)
        product: Tensor = torch.ops.mkl._mkl_linear(
            x, self._packed, self._weight, self._bias, self._num_rows
        )
        return product


def can_pack(weight: Tensor, *, num_rows: int) -> bool:
    """Say whether MKL is there to keep these weights packed, and whether that pays."""
    return (
        num_rows <= FEW_ROWS
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkl.is_available()
        and hasattr(torch.ops.mkl, "_mkl_linear")
    )
