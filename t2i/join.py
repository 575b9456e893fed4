"""The join of pictures, captions and caches on `sample_id`, which makes a `TrainingSet`.

Whose captions are complete is decided here, and which text each picture has of each kind; who is
left out is counted by name. Texts are read block by block and kept as digests: for a picture there
stay 24 bytes, and 8 for each kind of caption and for each latents artifact, beside 32 for each
distinct text in `t2i.text_caches`.

N pictures, K caption kinds
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool
from numpy.typing import NDArray

from launch import identities
from launch.errors import InputError
from launch.training import EpochOrder
from recap.artifacts import Captions, Images
from t2i.artifacts import Latents, text_digests
from t2i.data import TrainingSet
from t2i.mix import ALT, kind_order
from t2i.text_caches import TextCaches


class KindDigests(NamedTuple):
    """The captions of one kind that some pictures have."""

    has_text: Bool[np.ndarray, " N"]
    """False where a picture has no accepted caption of the kind."""

    digests: NDArray[Any]
    """Digest of each caption, packed; zeros where there is none."""


def join(
    *,
    images: Images,
    captions: Sequence[Captions],
    latents: Sequence[Latents],
    text: TextCaches,
    caption_mix: Mapping[str, float],
    required_kinds: Sequence[str],
    fallback: Mapping[str, str],
    seed: int,
    batch_size: int,
    text_dropout: float,
    is_one_length: bool = False,
) -> TrainingSet:
    """Join on sample_id: the cached pictures that have an accepted caption of each kind needed.

    Raises:
        InputError: A kind is absent everywhere, or too few pictures are left for one batch.
        ArtifactError: A caption was never encoded, or a picture not in each of the latents.
    """
    first, *augmented = latents
    # By digest: in which order augmentations are named must not matter.
    latents = (first, *sorted(augmented, key=lambda entry: entry.manifest.digest))
    kinds = kind_order(caption_mix)
    needed = list(dict.fromkeys([*required_kinds, *kinds]))
    ids = np.sort(first.ids)
    own = {
        kind: kind_digests(images, captions, kind, ids=ids)
        for kind in dict.fromkeys([*needed, *fallback.values()])
    }
    # A stand-in is a picture's own caption of the other kind, never a stand-in itself.
    drawn = own | {kind: _stand_in(own[kind], own[other]) for kind, other in fallback.items()}
    is_kept = np.ones(len(ids), bool)
    missing = {}
    for kind in needed:
        lacks = is_kept & ~drawn[kind].has_text
        missing[f"missing_{kind}"] = int(lacks.sum())
        is_kept &= ~lacks
    num_kept = int(is_kept.sum())
    if num_kept < batch_size:
        raise InputError(
            f"{first.manifest.folder}: {num_kept:,} of {len(ids):,} pictures "
            f"have a caption of each kind needed ({', '.join(needed)}); expected at least one "
            f"batch of {batch_size:,}. Left out: {missing}."
        )
    stood_in = {
        f"{other}_for_{kind}": int((is_kept & ~own[kind].has_text).sum())
        for kind, other in fallback.items()
    }
    kept = ids[is_kept]
    keyed_ids = identities.heads_of(kept)
    (empty_row,) = text.rows(text_digests([""]))
    return TrainingSet(
        packed_ids=kept,
        kinds=kinds,
        caption_mix=dict(caption_mix),
        missing=missing,
        stood_in=stood_in,
        ids=keyed_ids,
        latent_rows=np.stack([entry.rows(kept) for entry in latents]),
        state_rows=np.stack([text.rows(drawn[kind].digests[is_kept]) for kind in kinds], axis=1),
        empty_row=int(empty_row),
        latents=latents,
        text=text,
        is_one_length=is_one_length,
        seed=seed,
        batch_size=batch_size,
        text_dropout=text_dropout,
        order=EpochOrder(seed, "order", keyed_ids),
    )


def kind_digests(
    images: Images, captions: Sequence[Captions], kind: str, *, ids: NDArray[Any]
) -> KindDigests:
    """Give the accepted captions of a kind that some pictures have.

    Args:
        images: Where alt texts lie.
        captions: Captions artifacts; one or several hold the kind.
        kind: Kind of caption.
        ids: Packed identities of the pictures, ascending.

    Raises:
        InputError: No captions artifact holds the kind, or a picture has two.
    """
    found = KindDigests(np.zeros(len(ids), bool), np.zeros(len(ids), identities.PACKED))
    if kind == ALT:
        _note(found, _alt_texts(images), ids=ids, where=images.manifest.folder)
        return found
    holders = [c for c in captions if kind in c.kinds]
    if not holders:
        present = sorted({k for c in captions for k in c.kinds} | {ALT})
        raise InputError(
            f"caption kind {kind!r} is in none of the {len(captions)} captions artifacts "
            f"given; they hold {', '.join(present)}. Add the folder that holds it to "
            "captions=, or change caption_mix and required_kinds."
        )
    for holder in holders:
        if num_twice := _note(found, holder.scan(kind), ids=ids, where=holder.manifest.folder):
            raise InputError(
                f"{num_twice:,} pictures have two captions of kind {kind!r}, one of them in "
                f"{holder.manifest.folder}; a picture has one caption of a kind. Leave out one "
                "of the captions artifacts."
            )
    return found


def _alt_texts(images: Images) -> Iterator[pa.RecordBatch]:
    for block in images.scan("sample_id", "alt"):
        # An empty alt text is no caption: it would train the picture without text.
        named = block.rename_columns(["sample_id", "text"])
        yield named.filter(pc.fill_null(pc.not_equal(named["text"], ""), False))


def _note(
    found: KindDigests, blocks: Iterator[pa.RecordBatch], *, ids: NDArray[Any], where: Path
) -> int:
    """Note the captions of blocks; give the number of pictures that had one already."""
    num_twice = 0
    for block in blocks:
        sample_ids = identities.packed(block["sample_id"], where=str(where))
        place = identities.find(sample_ids, among=ids)
        is_known = place >= 0
        here = place[is_known]
        num_twice += int(
            (found.has_text[here] | identities.is_repeated(sample_ids[is_known])).sum()
        )
        found.has_text[here] = True
        found.digests[here] = text_digests(block["text"].to_pylist())[is_known]
    return num_twice


def _stand_in(own: KindDigests, other: KindDigests) -> KindDigests:
    """Put a picture's caption of another kind where it has none of this."""
    return KindDigests(
        own.has_text | other.has_text, np.where(own.has_text, own.digests, other.digests)
    )
