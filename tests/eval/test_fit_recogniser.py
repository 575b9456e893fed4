from __future__ import annotations

import torch

from eval.fit_recogniser import augment


def test_augmentation_without_strength_returns_original_or_copy() -> None:
    originals, copies = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    noise = torch.randn(4, 3, 8, 8)
    u = torch.tensor([[0.0, 0.0, 0.0, 0.3], [1.0, 0.0, 0.0, 0.9]])
    found = augment(originals, copies, noise=noise, u=u)
    torch.testing.assert_close(found, torch.stack([originals[0], copies[0]]))
