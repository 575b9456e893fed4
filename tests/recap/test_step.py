"""The gradient of one global batch: in one pass or in parts, with or without kept activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recap.captioner.coca import CoCa, SpecialTokens
from recap.captioner.objective import Losses
from recap.captioner.step import Batch, gradients
from recap.config import CaptionerSizeConfig, CaptionerTrainConfig

VOCAB = 40
NUM = 32


def settings(**changes: Any) -> CaptionerTrainConfig:
    base: dict[str, Any] = {"images": Path(), "kind": "alt", "samples": NUM, "batch_size": NUM}
    return CaptionerTrainConfig(**{**base, "num_length_groups": 2, **changes})


def new_model(*, tower: str = "conv", dtype: torch.dtype = torch.float64) -> CoCa:
    size = CaptionerSizeConfig(
        tower=tower,
        image_size=16,
        patch_size=8,
        width=16,
        num_heads=2,
        image_layers=2,
        text_layers=2,
        multimodal_layers=2,
        context_length=16,
    )
    torch.manual_seed(0)
    return CoCa(size, vocab_size=VOCAB, special=SpecialTokens()).to(dtype).train()


def batch() -> Batch:
    """Captions of very different lengths, some of them equal."""
    generator = torch.Generator().manual_seed(1)
    lengths = [2 + n * 12 // NUM for n in range(NUM)]
    words = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    words[20] = words[3]
    text_ids = torch.arange(NUM)
    text_ids[20] = 3
    captions = [[1, *caption, 2] for caption in words]
    return Batch(
        pixels=torch.randint(0, 256, (NUM, 16, 16, 3), dtype=torch.uint8, generator=generator),
        captions=captions,
        first=0,
        text_ids=text_ids,
        num_tokens=sum(len(caption) - 1 for caption in captions),
    )


def found(model: CoCa, cfg: CaptionerTrainConfig, **context: Any) -> tuple[Losses, dict[str, Any]]:
    """Return losses and gradients of the batch, by parameter."""
    losses = gradients(model, batch(), cfg, **context)
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("microbatch", [8, 24])
@pytest.mark.parametrize("contrastive_weight", [0.0, 1.0])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    microbatch: int, contrastive_weight: float
) -> None:
    whole = found(new_model(), settings(contrastive_weight=contrastive_weight))
    cfg = settings(contrastive_weight=contrastive_weight, microbatch=microbatch)
    torch.testing.assert_close(found(new_model(), cfg), whole)


def test_every_parameter_that_both_losses_need_has_a_gradient() -> None:
    model = new_model()
    _, by_name = found(model, settings(microbatch=8))
    assert by_name.keys() == dict(model.named_parameters()).keys()


def test_a_microbatch_of_the_whole_batch_changes_no_bit() -> None:
    whole = found(new_model(), settings())
    again = found(new_model(), settings(microbatch=NUM))
    torch.testing.assert_close(again, whole, rtol=0, atol=0)


@pytest.mark.parametrize("tower", ["conv", "vit"])
def test_activations_computed_again_give_the_same_gradient(tower: str) -> None:
    kept = found(new_model(tower=tower), settings())
    model = new_model(tower=tower)
    model.checkpoint_activations()
    torch.testing.assert_close(found(model, settings()), kept)


def test_activations_computed_again_are_not_kept() -> None:
    def bytes_kept(model: CoCa) -> int:
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            gradients(model, batch(), settings())
        return kept

    model = new_model()
    before = bytes_kept(model)
    model.checkpoint_activations()
    assert bytes_kept(model) < 0.6 * before


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("microbatch", [None, 8])
def test_in_bfloat16_losses_and_gradients_stay_float32_and_near(microbatch: int | None) -> None:
    exact, exact_by_name = found(new_model(dtype=torch.float32), settings())
    model = new_model(dtype=torch.float32)
    losses, by_name = found(model, settings(microbatch=microbatch), autocast=bfloat16)
    assert {tensor.dtype for tensor in (*losses, *by_name.values())} == {torch.float32}
    torch.testing.assert_close(losses, exact, rtol=0.02, atol=0.02)
    mine = torch.cat([g.flatten() for g in by_name.values()])
    theirs = torch.cat([g.flatten() for g in exact_by_name.values()])
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.99
