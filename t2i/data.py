"""Cached latents joined with captions: which picture, caption, noise and time each step sees.

Everything random is a function of (seed, stream, epoch, sample_id). The sample stream belongs to
the global batch: a rank computes the whole draw, which is cheap, and gathers its slice of it.
A batch is a pure gather from index arrays; nothing loops over samples.

N pictures, K caption kinds, B batch, C latent channels, H latent height, W latent width, L text
tokens, D text width
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64

from launch import keyed
from launch.errors import InputError
from launch.training import EpochOrder
from recap.artifacts import Captions, Images
from t2i.artifacts import Latents, TextStates, text_digest
from t2i.mix import ALT, choose_kinds, kind_order

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


class Batch(NamedTuple):
    """The tensors of some rows of a draw, as numpy arrays."""

    unscaled_latents: Float32[np.ndarray, "B C H W"]
    noise: Float32[np.ndarray, "B C H W"]
    uniform: Float64[np.ndarray, " B"]
    text_embeds: Float[np.ndarray, "B L D"]
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

    sample_ids: list[str]
    """Sorted."""

    kinds: tuple[str, ...]
    """Kinds of the mix, alt last."""

    caption_mix: Mapping[str, float]
    """Kind -> probability."""

    missing: dict[str, int]
    """Pictures left out, by `missing_<kind>` of the first required kind that they lack."""

    stood_in: dict[str, int]
    """Pictures with a caption of another kind in place of one, by `<other>_for_<kind>`."""

    ids: UInt64[np.ndarray, " N"]
    latent_rows: Int64[np.ndarray, " N"]
    state_rows: Int64[np.ndarray, "N K"]
    empty_row: int
    latents: Latents
    text_states: TextStates
    digests: np.ndarray
    """Digest of every text of the cache, 16 bytes each."""

    seed: int
    batch_size: int
    text_dropout: float
    order: EpochOrder

    def __len__(self) -> int:
        return len(self.sample_ids)

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
            text_digests=self.digests[self.state_rows[rows, kinds]],
        )

    def gather(self, draw: Draw, here: slice = slice(None)) -> Batch:
        """Give the tensors of a slice of the global batch."""
        state_rows = self.state_rows[draw.rows, draw.kinds]
        state_rows[draw.is_dropped] = self.empty_row
        # The padded length is the global batch's: it must not depend on the slice.
        num_tokens = self.text_states.num_tokens[state_rows]
        length = padded_length(int(num_tokens.max()))
        embeds, mask = gather_states(self.text_states, state_rows[here], length=length)
        ids, epochs, rows = draw.ids[here], draw.epochs[here], self.latent_rows[draw.rows[here]]
        shape = self.latents.mean.shape[1:]
        posterior_noise = keyed.normal(self.seed, "latent", epoch=epochs, ids=ids, shape=shape)
        return Batch(
            unscaled_latents=self.latents.mean[rows] + self.latents.std[rows] * posterior_noise,
            noise=keyed.normal(self.seed, "noise", epoch=epochs, ids=ids, shape=shape),
            uniform=draw.uniform[here],
            text_embeds=embeds,
            text_mask=mask,
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

    def sample_ids_of(self, draw: Draw, here: slice = slice(None)) -> list[str]:
        """Name the pictures of a slice of a batch, for a message."""
        return [self.sample_ids[row] for row in draw.rows[here]]


def padded_length(num_tokens: int) -> int:
    """Round a number of tokens up to the padded length."""
    return max(1, -(-num_tokens // TOKEN_MULTIPLE)) * TOKEN_MULTIPLE


def gather_states(
    text_states: TextStates, rows: Int64[np.ndarray, " B"], *, length: int
) -> tuple[Float[np.ndarray, "B L D"], Bool[np.ndarray, "B L"]]:
    """Give the states of some texts padded with zeros, and which of them are real."""
    offsets, num_tokens = text_states.offsets[rows], text_states.num_tokens[rows]
    position = np.arange(length)[None, :]
    mask = position < num_tokens[:, None]
    token = np.where(mask, offsets[:, None] + position, offsets[:, None])
    embeds = text_states.states[token]
    embeds[~mask] = 0
    return embeds, mask


def texts_by_kind(
    images: Images, captions: Sequence[Captions], kinds: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Give the accepted texts of each kind by sample_id; a picture without one is absent.

    Raises:
        InputError: A kind is in none of the captions artifacts, or twice for one picture.
    """
    found: dict[str, dict[str, str]] = {}
    for kind in kinds:
        if kind == ALT:
            # An empty alt text is no caption: it would train the picture without text.
            pairs = zip(images.sample_ids, images.alt, strict=True)
            found[kind] = {sample_id: text for sample_id, text in pairs if text}
            continue
        holders = [c for c in captions if kind in c.kinds]
        if not holders:
            present = sorted({k for c in captions for k in c.kinds} | {ALT})
            raise InputError(
                f"caption kind {kind!r} is in none of the {len(captions)} captions artifacts "
                f"given; they hold {', '.join(present)}. Add the folder that holds it to "
                "captions=, or change caption_mix and required_kinds."
            )
        found[kind] = {}
        for holder in holders:
            texts = holder.texts(kind)
            if twice := found[kind].keys() & texts.keys():
                raise InputError(
                    f"{len(twice):,} pictures have two captions of kind {kind!r}, one of them in "
                    f"{holder.manifest.folder}; a picture has one caption of a kind. Leave out one "
                    "of the captions artifacts."
                )
            found[kind].update(texts)
    return found


def join(
    *,
    images: Images,
    captions: Sequence[Captions],
    latents: Latents,
    text_states: TextStates,
    caption_mix: Mapping[str, float],
    required_kinds: Sequence[str],
    fallback: Mapping[str, str],
    seed: int,
    batch_size: int,
    text_dropout: float,
) -> TrainingSet:
    """Join on sample_id: the cached pictures that have an accepted caption of each kind needed.

    Raises:
        InputError: A kind is absent everywhere, or too few pictures are left for one batch.
        ArtifactError: A caption was never encoded.
    """
    kinds = kind_order(caption_mix)
    needed = list(dict.fromkeys([*required_kinds, *kinds]))
    texts = texts_by_kind(images, captions, list(dict.fromkeys([*needed, *fallback.values()])))
    stood_in = {}
    for kind, other in fallback.items():
        lacking = {s: text for s, text in texts[other].items() if s not in texts[kind]}
        stood_in[f"{other}_for_{kind}"] = sum(s in lacking for s in latents.sample_ids)
        texts[kind] = {**texts[kind], **lacking}
    missing = {f"missing_{kind}": 0 for kind in needed}
    kept: list[str] = []
    for sample_id in sorted(latents.sample_ids):
        lacks = next((kind for kind in needed if sample_id not in texts[kind]), None)
        if lacks is None:
            kept.append(sample_id)
        else:
            missing[f"missing_{lacks}"] += 1
    if len(kept) < batch_size:
        raise InputError(
            f"{latents.manifest.folder}: {len(kept):,} of {len(latents.sample_ids):,} pictures "
            f"have a caption of each kind needed ({', '.join(needed)}); expected at least one "
            f"batch of {batch_size:,}. Left out: {missing}."
        )
    drawn = [[text_digest(texts[kind][sample_id]) for kind in kinds] for sample_id in kept]
    flat = [digest for row in drawn for digest in row]
    ids = keyed.words(kept)
    (empty_row,) = text_states.rows([text_digest("")])
    return TrainingSet(
        sample_ids=kept,
        kinds=kinds,
        caption_mix=dict(caption_mix),
        missing=missing,
        stood_in=stood_in,
        ids=ids,
        latent_rows=latents.rows(kept),
        state_rows=text_states.rows(flat).reshape(len(kept), len(kinds)),
        empty_row=int(empty_row),
        latents=latents,
        text_states=text_states,
        digests=_raw_digests(text_states),
        seed=seed,
        batch_size=batch_size,
        text_dropout=text_dropout,
        order=EpochOrder(seed, "order", ids),
    )


def _raw_digests(text_states: TextStates) -> np.ndarray:
    """Give the digest of every text of a cache as 16 raw bytes."""
    joined = "".join(text_states.table["text_digest"].to_pylist())
    return np.frombuffer(bytes.fromhex(joined), dtype="V16")
