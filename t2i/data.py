"""The training set: which picture, caption, noise and time each step sees.

Everything random is a function of (seed, stream, epoch, sample_id). The sample stream belongs to
the global batch: a rank computes the whole draw, which is cheap, and gathers its slice of it.
A batch is a pure gather from index arrays; nothing loops over samples. `t2i.join` makes the arrays.

N pictures, K caption kinds, E latents artifacts, B batch, C latent channels, H latent height,
W latent width, L text tokens, D text width
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64, UInt64
from numpy.typing import NDArray

from launch import identities, keyed
from launch.training import EpochOrder
from t2i.artifacts import Latents
from t2i.ledger import AUGMENTATION
from t2i.mix import choose_kinds
from t2i.text_caches import TextCaches

TOKEN_MULTIPLE = 8
"""Padded text lengths are multiples of this."""

STEPS_AHEAD = 2
"""Steps that each thread may be ahead of the loop."""


class Draw(NamedTuple):
    """Everything random about one global batch but the Gaussian tensors, which are its function."""

    step: int
    """Counted from 1."""

    rows: Int64[np.ndarray, " B"]
    """Rows of the training set."""

    ids: UInt64[np.ndarray, " B"]
    """First 64 bits of each sample_id."""

    epochs: Int64[np.ndarray, " B"]
    """Epoch of each picture; a batch may span two."""

    uniform: Float64[np.ndarray, " B"]
    """Draw that becomes the timestep."""

    kinds: Int64[np.ndarray, " B"]
    """Kind of caption drawn, as a position in `TrainingSet.kinds`."""

    is_dropped: Bool[np.ndarray, " B"]
    """Trained without text."""

    text_digests: np.ndarray
    """Digest of the caption drawn, 16 bytes each."""

    entries: Int64[np.ndarray, " B"] | None = None
    """Which of its latents each picture has; None where there is one of each."""


class Latent(NamedTuple):
    """What the latents of some rows of a draw are corrupted from."""

    unscaled_latents: Float32[np.ndarray, "B C H W"]
    noise: Float32[np.ndarray, "B C H W"]


class Batch(NamedTuple):
    """The tensors of some rows of a draw, as numpy arrays."""

    unscaled_latents: Float32[np.ndarray, "B C H W"]
    noise: Float32[np.ndarray, "B C H W"]
    uniform: Float64[np.ndarray, " B"]
    text: Float[np.ndarray, "B L D"] | Int32[np.ndarray, "B L"]
    """States of the captions, or their token ids where those are cached."""

    text_mask: Bool[np.ndarray, "B L"]

    @property
    def num_pictures(self) -> int:
        """Count the pictures."""
        return len(self.noise)

    def split(self, size: int | None) -> list[Batch]:
        """Cut into parts of `size` pictures; None: one part."""
        size = size or self.num_pictures
        starts = range(0, self.num_pictures, size)
        return [Batch(*(array[start : start + size] for array in self)) for start in starts]


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The pictures trained on, with the state row of each of their captions."""

    packed_ids: NDArray[Any]
    """Identities of the pictures (`launch.identities`), ascending."""

    kinds: tuple[str, ...]
    """Kinds of the mix, alt last."""

    caption_mix: Mapping[str, float]
    """Kind -> probability."""

    missing: dict[str, int]
    """Pictures left out, by `missing_<kind>` of the first required kind that they lack."""

    stood_in: dict[str, int]
    """Pictures with a caption of another kind in place of one, by `<other>_for_<kind>`."""

    ids: UInt64[np.ndarray, " N"]
    latent_rows: Int64[np.ndarray, "E N"]
    state_rows: Int64[np.ndarray, "N K"]
    empty_row: int
    latents: tuple[Latents, ...]
    """One artifact, or several of the same pictures of which one is drawn for each."""

    text: TextCaches
    is_one_length: bool
    """Pad every batch to the longest text there is, so that all have one shape."""

    seed: int
    batch_size: int
    text_dropout: float
    order: EpochOrder

    def __len__(self) -> int:
        return len(self.packed_ids)

    def draw(self, step: int) -> Draw:
        """Give the global batch of a step, counted from 1."""
        rows, epochs = self.order.batch(step, batch_size=self.batch_size)
        ids = self.ids[rows]

        def uniform(stream: str) -> np.ndarray:
            return keyed.uniform(self.seed, stream, epoch=epochs, ids=ids)

        kinds = choose_kinds(uniform("caption"), self.caption_mix)
        return Draw(
            step=step,
            rows=rows,
            ids=ids,
            epochs=epochs,
            uniform=uniform("timestep"),
            kinds=kinds,
            is_dropped=uniform("dropout") < self.text_dropout,
            text_digests=self.text.digests[self.state_rows[rows, kinds]].view("V16"),
            entries=self._draw_entries(ids, epochs),
        )

    def _draw_entries(
        self, ids: UInt64[np.ndarray, " B"], epochs: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " B"] | None:
        if len(self.latents) == 1:
            return None
        return keyed.integers(
            self.seed, AUGMENTATION, epoch=epochs, ids=ids, high=len(self.latents)
        )

    def gather(self, draw: Draw, here: slice = slice(None)) -> Batch:
        """Give the tensors of a slice of the global batch."""
        state_rows = self.state_rows[draw.rows, draw.kinds]
        state_rows[draw.is_dropped] = self.empty_row
        # The padded length is the global batch's: it must not depend on the slice.
        longest = self.text.num_tokens if self.is_one_length else self.text.num_tokens[state_rows]
        length = padded_length(int(longest.max()))
        text, text_mask = self.text.gather(state_rows[here], length=length)
        return Batch(
            *self.gather_latents(draw, here),
            uniform=draw.uniform[here],
            text=text,
            text_mask=text_mask,
        )

    def gather_latents(self, draw: Draw, here: slice = slice(None)) -> Latent:
        """Give the latents and the noise of a slice of the global batch."""
        ids, epochs, shape = draw.ids[here], draw.epochs[here], self.latent_shape
        posterior_noise = keyed.normal(self.seed, "latent", epoch=epochs, ids=ids, shape=shape)
        return Latent(
            unscaled_latents=self._drawn_latents(draw, here, posterior_noise),
            noise=keyed.normal(self.seed, "noise", epoch=epochs, ids=ids, shape=shape),
        )

    def batches(
        self, steps: range, here: slice, *, num_workers: int
    ) -> Iterator[tuple[Draw, Batch]]:
        """Yield what each step sees, in order.

        Args:
            steps: Steps, counted from 1.
            here: Slice of the global batch that is gathered.
            num_workers: Threads that gather ahead; numpy copies and computes without Python's lock.
        """
        if not num_workers:
            for step in steps:
                draw = self.draw(step)
                yield draw, self.gather(draw, here)
            return
        ahead: deque[tuple[Draw, Future[Batch]]] = deque()
        with ThreadPoolExecutor(num_workers) as pool:
            try:
                for step in steps:
                    draw = self.draw(step)
                    ahead.append((draw, pool.submit(self.gather, draw, here)))
                    if len(ahead) > STEPS_AHEAD * num_workers:
                        draw, batch = ahead.popleft()
                        yield draw, batch.result()
                while ahead:
                    draw, batch = ahead.popleft()
                    yield draw, batch.result()
            finally:
                for _, batch in ahead:
                    batch.cancel()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture."""
        channels, height, width = self.latents[0].mean.shape[1:]
        return channels, height, width

    def _drawn_latents(
        self, draw: Draw, here: slice, posterior_noise: Float32[np.ndarray, "B C H W"]
    ) -> Float32[np.ndarray, "B C H W"]:
        """Draw latents of the posteriors of a slice of a batch."""
        rows = self.latent_rows[:, draw.rows[here]]  # E B
        if draw.entries is None:
            (latents,) = self.latents
            return latents.mean[rows[0]] + latents.std[rows[0]] * posterior_noise
        drawn = np.empty_like(posterior_noise)
        for entry, latents in enumerate(self.latents):
            mine = draw.entries[here] == entry
            row = rows[entry, mine]
            drawn[mine] = latents.mean[row] + latents.std[row] * posterior_noise[mine]
        return drawn

    def sample_ids_of(self, draw: Draw, here: slice = slice(None)) -> list[str]:
        """Name the pictures of a slice of a batch, for a message."""
        return identities.unpacked(self.packed_ids[draw.rows[here]])


def padded_length(num_tokens: int) -> int:
    """Round a number of tokens up to the padded length."""
    return max(1, -(-num_tokens // TOKEN_MULTIPLE)) * TOKEN_MULTIPLE
