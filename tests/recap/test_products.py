"""Products of a few rows with large weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recap.captioner import products
from recap.captioner.products import FEW_ROWS, RowProduct


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("num_rows", [8, 64, FEW_ROWS, FEW_ROWS + 8])
def test_a_product_is_that_of_torch(
    num_rows: int, has_bias: bool, is_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_packed:
        monkeypatch.setattr(products, "can_pack", lambda weight, num_rows: False)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 96, generator=generator)
    bias = torch.randn(40, generator=generator) if has_bias else None
    x = torch.randn(num_rows, 96, generator=generator)
    product = RowProduct(weight, bias, num_rows=num_rows)
    torch.testing.assert_close(product(x), functional.linear(x, weight, bias))


def test_weights_that_lie_transposed_serve_as_well() -> None:
    weight = torch.randn(96, 40, generator=torch.Generator().manual_seed(1)).t()
    x = torch.randn(8, 96, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(RowProduct(weight, None, num_rows=8)(x), x @ weight.t())


def test_a_row_is_the_same_to_the_bit_wherever_it_stands() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(128, 64, generator=generator), torch.randn(128, generator=generator)
    for num_rows in (8, 24, 48, 64, FEW_ROWS):
        product = RowProduct(weight, bias, num_rows=num_rows)
        x = torch.randn(num_rows, 64, generator=generator)
        order = torch.randperm(num_rows, generator=generator)
        assert torch.equal(product(x)[order], product(x[order]))


def test_other_precisions_and_many_rows_are_never_packed() -> None:
    weight = torch.zeros(8, 8)
    assert not products.can_pack(weight.bfloat16(), num_rows=8)
    assert not products.can_pack(weight, num_rows=FEW_ROWS + 1)
