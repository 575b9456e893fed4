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


def real_in_group(num_slots: int) -> int:
    """Return how many of them are real where they are all there: as many as there is room for."""
    return min(num_slots, group_size(num_slots))


class Decoder:
    """Writes captions with one model, made ready once for as many pictures as there are.

    Args:
        text: Lower half of the text tower; its weights must not change afterwards.
        decoder: Upper half; the same.
        special: Ids of pad, start and end; neither pad nor start is ever written.
        config: How a token is chosen; its `max_tokens` counts text tokens and the end token.
        num_slots: Pictures written about at once.
    """

    def __init__(
        self,
        text: TextTransformer,
        decoder: MultimodalTransformer,
        *,
        special: SpecialTokens,
        config: DecodeConfig,
        num_slots: int,
    ) -> None:
        self._text, self._decoder = text, decoder
        self._special, self._config, self._num_slots = special, config, num_slots
        # The last position of the context can only be predicted, not seen.
        self._max_tokens = min(config.max_tokens, text.context_length - 1)
        self._cached: CachedText | None = None

    def write(self, groups: Iterable[Group], *, seed: int) -> Iterator[tuple[str, WrittenCaption]]:
        """Write a caption for every picture, yielding each when it is finished.

        A generator, so nothing here switches gradients off: whatever computes does so for itself.

        Args:
            groups: Encoded pictures, `group_size(num_slots)` each, of which at most
                `real_in_group(num_slots)` are real; taken when there is room.
            seed: Seed of sampling, which together with a sample_id determines its draws.
        """
        num_slots, start = self._num_slots, self._special.start
        device = self._text.positional_embedding.device
        chooser = make_chooser(
            self._config,
            num_slots=num_slots,
            max_tokens=self._max_tokens,
            vocab_size=self._decoder.text_projection.shape[1],
            special=self._special,
            seed=seed,
            device=device,
        )
        beams = chooser.num_beams
        supply = iter(groups)
        is_more = True
        ids: list[str | None] = [None] * num_slots
        ages = np.zeros(num_slots, np.int64)
        newest = torch.full((num_slots * beams,), start, dtype=torch.long, device=device)
        while True:
            free = [slot for slot, sample_id in enumerate(ids) if sample_id is None]
            while is_more and len(free) >= real_in_group(num_slots):
                group = next(supply, None)
                if group is None:
                    is_more = False
                    break
                cached = self._ready(num_image_tokens=group.image_tokens.shape[1], beams=beams)
                taken, free = free[: len(group.sample_ids)], free[len(group.sample_ids) :]
                slots = torch.tensor(taken, device=device)
                cached.admit(group.image_tokens, slots=slots)
                chooser.admit(slots, group.sample_ids)
                newest.view(num_slots, beams)[slots] = start
                ages[taken] = 0
                for slot, sample_id in zip(taken, group.sample_ids, strict=True):
                    ids[slot] = sample_id
            if all(sample_id is None for sample_id in ids):
                return

            ages_S = torch.from_numpy(ages).to(device)
            positions, longest = ages_S.repeat_interleave(beams), int(ages.max())
            logits = cached.step(newest, positions=positions, longest=longest).float()
            newest, parents, is_finished = chooser.choose(logits, ages=ages_S)
            if parents is not None:
                cached.reorder(parents, longest=longest)
            ages += 1

            # The one look at the device in a step: whose caption is finished.
            done = [
                slot for slot in np.flatnonzero(is_finished.cpu().numpy()) if ids[slot] is not None
            ]
            if done:
                written = chooser.captions(torch.tensor(done, device=device))
                for slot, caption in zip(done, written, strict=True):
                    sample_id, ids[slot] = ids[slot], None
                    assert sample_id is not None
                    yield sample_id, caption
            # A slot without a picture goes on at its beginning, for the sake of the shape.
            ages[[sample_id is None for sample_id in ids]] = 0

    def write_batch(
        self, image_tokens: Float[Tensor, "B Q W"], *, sample_ids: Sequence[str], seed: int
    ) -> list[WrittenCaption]:
        """Write captions of pictures that are encoded already, in their order."""
        size, num_real = group_size(self._num_slots), real_in_group(self._num_slots)

        def groups() -> Iterator[Group]:
            starts = range(0, len(image_tokens), num_real)
            for begin, end in pairwise([*starts, len(image_tokens)]):
                here = image_tokens[begin:end]
                filling = here[-1:].expand(size - len(here), -1, -1)
                yield Group(torch.cat([here, filling]), sample_ids[begin:end])

        found = dict(self.write(groups(), seed=seed))
        return [found[sample_id] for sample_id in sample_ids]

    def _ready(self, *, num_image_tokens: int, beams: int) -> CachedText:
        """Return the caches, made when the first picture says how many tokens it has."""
        if self._cached is None:
            self._cached = CachedText(
                self._text,
                self._decoder,
                num_slots=self._num_slots,
                num_beams=beams,
                num_image_tokens=num_image_tokens,
                max_tokens=self._max_tokens,
            )
        return self._cached


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
    ready = Decoder(text, decoder, special=special, config=config, num_slots=num_slots)
    return ready.write_batch(image_tokens, sample_ids=sample_ids, seed=seed)
