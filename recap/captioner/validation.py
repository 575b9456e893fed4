"""What a freshly trained captioner can do on pictures it was not trained on.

A first look that travels with the weights (`validation.json`); measuring captions properly is the
third stage's business.

B pictures, H height and width of a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from recap.captioner.coca import CoCa, group_by_length
from recap.captioner.decode import decode_batch
from recap.captioner.objective import captioning_loss_sum, retrieval_at_1
from recap.captioner.tokenizer import CaptionTokenizer
from recap.claims import AXES, Claim, Tally, compare, read
from recap.config import DecodeConfig
from recap.overlap import bleu, cider_d, words_of

NUM_EXAMPLES = 8
"""Captions kept to be read."""

BATCH_SIZE = 128
"""Pictures looked at together; their number changes no result beyond rounding."""


@torch.inference_mode()
def loss_and_retrieval(
    model: CoCa,
    tokenizer: CaptionTokenizer,
    pixels: UInt8[Tensor, "B H H 3"],
    texts: Sequence[str],
) -> dict[str, Any]:
    """Return how well held-out captions are predicted, and told from one another.

    Captions longer than the context are left out, and counted.
    """
    captions = tokenizer.encode(texts)
    fits = [n for n, tokens in enumerate(captions) if len(tokens) <= model.size.context_length]
    losses, num_tokens, image_features, text_features = 0.0, 0, [], []
    for begin in range(0, len(fits), BATCH_SIZE):
        rows = fits[begin : begin + BATCH_SIZE]
        groups = group_by_length(
            [captions[row] for row in rows],
            num_groups=1,
            pad=model.special.pad,
            longest=model.size.context_length,
        )
        output = model(pixels[rows], groups)
        losses += sum(captioning_loss_sum(group).item() for group in output.captions)
        num_tokens += sum(int(group.mask.sum()) for group in output.captions)
        image_features.append(output.image_features)
        text_features.append(output.text_features)
    found: dict[str, Any] = {"num_texts": len(fits), "num_too_long": len(texts) - len(fits)}
    if fits:
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        found["captioning_loss"] = losses / num_tokens
        found["retrieval_at_1"] = retrieval_at_1(
            torch.cat(image_features),
            torch.cat(text_features),
            text_ids=torch.tensor([numbers[texts[row]] for row in fits]),
        )._asdict()
    return found


@torch.inference_mode()
def written_captions(
    model: CoCa,
    tokenizer: CaptionTokenizer,
    pixels: UInt8[Tensor, "B H H 3"],
    *,
    sample_ids: Sequence[str],
    claims: Sequence[Sequence[Claim] | None],
    references: Sequence[str | None],
) -> dict[str, Any]:
    """Write captions greedily; compare them with what is known of the pictures; keep a few to read.

    Args:
        model: The captioner.
        tokenizer: Its vocabulary.
        pixels: Pictures.
        sample_ids: Of the pictures.
        claims: What is true of each, where that is known: claims are counted.
        references: A held-out caption of each, where there is one: n-grams are counted.
    """
    texts: list[str] = []
    num_unfinished = 0
    image_tokens = [
        model.encode_image(pixels[begin : begin + BATCH_SIZE]).tokens
        for begin in range(0, len(pixels), BATCH_SIZE)
    ]
    for caption in decode_batch(
        model.text,
        model.text_decoder,
        torch.cat(image_tokens),
        special=model.special,
        config=DecodeConfig(max_tokens=model.size.context_length - 1),
        sample_ids=sample_ids,
        seed=0,
        num_slots=BATCH_SIZE,
    ):
        texts.append(tokenizer.decode(caption.tokens))
        num_unfinished += caption.stop_reason != "end"
    found: dict[str, Any] = {
        "num_captions": len(texts),
        "num_unfinished": num_unfinished,
        "examples": [
            {"sample_id": sample_id, "text": text}
            for sample_id, text in zip(sample_ids[:NUM_EXAMPLES], texts, strict=False)
        ],
    }
    pairs = [(words_of(t), words_of(r)) for t, r in zip(texts, references, strict=True) if r]
    pairs = [pair for pair in pairs if pair[1]]
    if pairs:
        said, held_out = [mine for mine, _ in pairs], [[theirs] for _, theirs in pairs]
        found["overlap"] = {
            "num_references": len(pairs),
            "cider_d": cider_d(said, held_out).mean,
            **{f"bleu_{n}": score for n, score in enumerate(bleu(said, held_out), start=1)},
        }
    tallies = {axis: Tally() for axis in AXES}
    num_known = 0
    for text, truth in zip(texts, claims, strict=True):
        if truth is not None:
            num_known += 1
            for axis, tally in compare(read(text), truth).items():
                tallies[axis] += tally
    if num_known:
        tallies["all"] = sum(tallies.values(), Tally())
        found["claims"] = {axis: _shares(tally) for axis, tally in tallies.items()}
    return found


def _shares(tally: Tally) -> dict[str, float | int | None]:
    """Return a tally with its precision and recall; None where nothing was said or is true."""
    said = tally.true_positive + tally.false_positive
    true = tally.true_positive + tally.false_negative
    return {
        **tally._asdict(),
        "precision": tally.precision if said else None,
        "recall": tally.recall if true else None,
    }
