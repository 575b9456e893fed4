"""Cached decoding: pictures in, captions out, nothing computed twice.

Pictures enter in groups of one size and take free slots; a finished caption's slot goes to the next
picture at once. So the batch is always full and always of one shape, and a caption is a function of
its picture, weights and settings alone, whichever other pictures are written about beside it.

S slots, G pictures admitted together, B pictures, Q image tokens, W width
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from open_clip.transformer import MultimodalTransformer, TextTransformer
from torch import Tensor

from recap.captioner.cache import CachedText
from recap.captioner.choose import WrittenCaption, make_chooser
from recap.captioner.coca import SpecialTokens
from recap.config import DecodeConfig

GROUPS = 4
"""Groups that fill all slots: new pictures wait until a quarter of the slots is free."""


class Group(NamedTuple):
    """Encoded pictures that enter together."""

    image_tokens: Float[Tensor, "G Q W"]
    """Always as many; the last ones may be filling."""

    sample_ids: Sequence[str]
    """Of the real ones, which come first."""


def group_size(num_slots: int) -> int:
    """Return how many pictures are encoded together for this many slots: a multiple of 8."""
    return max(8, num_slots // GROUPS // 8 * 8)


def decode(
    text: TextTransformer,
    decoder: MultimodalTransformer,
    groups: Iterable[Group],
    *,
    special: SpecialTokens,
    config: DecodeConfig,
    seed: int,
    num_slots: int,
) -> Iterator[tuple[str, WrittenCaption]]:
    """Write a caption for every picture, yielding each when it is finished.

    A generator, so nothing here switches gradients off: whatever computes does so for itself.

    Args:
        text: Lower half of the text tower.
        decoder: Upper half.
        groups: Encoded pictures, of `group_size(num_slots)` each; taken when there is room.
        special: Ids of pad, start and end; neither pad nor start is ever written.
        config: How a token is chosen; its `max_tokens` counts text tokens and the end token.
        seed: Seed of sampling, which together with a sample_id determines its draws.
        num_slots: Pictures written about at once.
    """
    # The last position of the context can only be predicted, not seen.
    max_tokens = min(config.max_tokens, text.context_length - 1)
    device = text.positional_embedding.device
    chooser = make_chooser(
        config,
        num_slots=num_slots,
        max_tokens=max_tokens,
        vocab_size=decoder.text_projection.shape[1],
        special=special,
        seed=seed,
        device=device,
    )
    beams = chooser.num_beams
    cached: CachedText | None = None
    supply = iter(groups)
    is_more = True
    ids: list[str | None] = [None] * num_slots
    ages = np.zeros(num_slots, np.int64)
    newest = torch.full((num_slots * beams,), special.start, dtype=torch.long, device=device)
    while True:
        free = [slot for slot, sample_id in enumerate(ids) if sample_id is None]
        while is_more and len(free) >= group_size(num_slots):
            group = next(supply, None)
            if group is None:
                is_more = False
                break
            if cached is None:
                cached = CachedText(
                    text,
                    decoder,
                    num_slots=num_slots,
                    num_beams=beams,
                    num_image_tokens=group.image_tokens.shape[1],
                    max_tokens=max_tokens,
                )
            taken, free = free[: len(group.sample_ids)], free[len(group.sample_ids) :]
            slots = torch.tensor(taken, device=device)
            cached.admit(group.image_tokens, slots=slots)
            chooser.admit(slots, group.sample_ids)
            newest.view(num_slots, beams)[slots] = special.start
            ages[taken] = 0
            for slot, sample_id in zip(taken, group.sample_ids, strict=True):
                ids[slot] = sample_id
        if cached is None or all(sample_id is None for sample_id in ids):
            return

        ages_S = torch.from_numpy(ages).to(device)
        positions, longest = ages_S.repeat_interleave(beams), int(ages.max())
        logits = cached.step(newest, positions=positions, longest=longest).float()
        newest, parents, is_finished = chooser.choose(logits, ages=ages_S)
        if parents is not None:
            cached.reorder(parents, longest=longest)
        ages += 1

        # The one look at the device in a step: whose caption is finished.
        done = [slot for slot in np.flatnonzero(is_finished.cpu().numpy()) if ids[slot] is not None]
        if done:
            written = chooser.captions(torch.tensor(done, device=device))
            for slot, caption in zip(done, written, strict=True):
                sample_id, ids[slot] = ids[slot], None
                assert sample_id is not None
                yield sample_id, caption
        # A slot without a picture goes on at its beginning, for the sake of the shape.
        ages[[sample_id is None for sample_id in ids]] = 0


def decode_batch(
    text: TextTransformer,
    decoder: MultimodalTransformer,
    image_tokens: Float[Tensor, "B Q W"],
    *,
    special: SpecialTokens,
    config: DecodeConfig,
    sample_ids: Sequence[str],
    seed: int,
    num_slots: int,
) -> list[WrittenCaption]:
    """Write captions of pictures that are encoded already, in their order."""
    size = group_size(num_slots)

    def groups() -> Iterator[Group]:
        starts = range(0, len(image_tokens), size)
        for begin, end in pairwise([*starts, len(image_tokens)]):
            here = image_tokens[begin:end]
            filling = here[-1:].expand(size - len(here), -1, -1)
            yield Group(torch.cat([here, filling]), sample_ids[begin:end])

    found = dict(
        decode(
            text,
            decoder,
            groups(),
            special=special,
            config=config,
            seed=seed,
            num_slots=num_slots,
        )
    )
    return [found[sample_id] for sample_id in sample_ids]
