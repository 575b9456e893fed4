"""What a freshly trained captioner can do on pictures it was not trained on.

A first look that travels with the weights (`validation.json`); measuring captions properly is the
third stage's business.

B pictures, H height and width of a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from recap.captioner.coca import CoCa, group_by_length
from recap.captioner.decode import decode_batch
from recap.captioner.objective import captioning_loss_sum, retrieval_at_1
from recap.captioner.step import on_device
from recap.captioner.tokenizer import CaptionTokenizer
from recap.claims import AXES, Claim, Tally, compare, read
from recap.config import DecodeConfig
from recap.overlap import bleu, cider_d
from recap.words import words_of

NUM_EXAMPLES = 8
"""Captions kept to be read."""

BATCH_SIZE = 128
"""Pictures looked at together; their number changes no result beyond rounding."""


class HeldOut(NamedTuple):
    """Pictures that no captioner is trained on; all fields are of one length."""

    sample_ids: list[str]
    pixels: UInt8[Tensor, "B H H 3"]
    alt: list[str | None]
    """Alt text, None where it is empty."""

    captions: list[str | None] | None
    """Captions of the kind that is learned, where a picture has one; None when that is alt text."""

    claims: list[Sequence[Claim] | None]
    """What is true of each, where that is known."""


def measure(model: CoCa, tokenizer: CaptionTokenizer, held_out: HeldOut) -> dict[str, Any]:
    """Measure a captioner, which is in evaluation mode, on held-out pictures.

    Returns:
        `alt`: loss and retrieval on alt text; `captions`: the same on captions of the kind that is
        learned, where that is another; `written`: captions it writes, compared with held-out ones
        and, where it is known, with the truth.
    """
    if not held_out.sample_ids:
        return {"num_pictures": 0}
    found: dict[str, Any] = {"num_pictures": len(held_out.sample_ids), "split": "test"}
    found["alt"] = on_alt(model, tokenizer, held_out)
    if held_out.captions is not None:
        found["captions"] = _on_texts(model, tokenizer, held_out, held_out.captions)
    found["written"] = written_captions(
        model,
        tokenizer,
        held_out.pixels,
        sample_ids=held_out.sample_ids,
        claims=held_out.claims,
        references=held_out.captions or held_out.alt,
    )
    return found


def on_alt(model: CoCa, tokenizer: CaptionTokenizer, held_out: HeldOut) -> dict[str, Any]:
    """Return loss and retrieval on alt text, which a fine-tune is not trained on."""
    return _on_texts(model, tokenizer, held_out, held_out.alt)


def _on_texts(
    model: CoCa, tokenizer: CaptionTokenizer, held_out: HeldOut, texts: Sequence[str | None]
) -> dict[str, Any]:
    places = [place for place, text in enumerate(texts) if text is not None]
    chosen = [text for text in texts if text is not None]
    return loss_and_retrieval(model, tokenizer, held_out.pixels[places], chosen)


def figures(found: dict[str, Any]) -> dict[str, float]:
    """Pick what a curve over a training shows out of a measurement; what is unknown is left out.

    Retrieval is of captions by their picture. A fine-tune's has `alt_retrieval_at_1` beside it:
    what is left of the skill that its base learned on alt text.
    """
    alt = found.get("alt", {})
    said = found.get("captions", alt)
    written = found.get("written", {})
    claims = written.get("claims", {}).get("all", {})
    picked = {
        "captioning_loss": said.get("captioning_loss"),
        "retrieval_at_1": said.get("retrieval_at_1", {}).get("image_to_text"),
        "alt_retrieval_at_1": (
            alt.get("retrieval_at_1", {}).get("image_to_text") if said is not alt else None
        ),
        "cider_d": written.get("overlap", {}).get("cider_d"),
        "bleu_4": written.get("overlap", {}).get("bleu_4"),
        "claims_precision": claims.get("precision"),
        "claims_recall": claims.get("recall"),
    }
    return {name: value for name, value in picked.items() if value is not None}


def alt_retrieval(found: dict[str, Any]) -> str | None:
    """Say in one line what a fine-tune did to the contrastive towers; None if that is not known."""
    before, after = (found.get(name, {}).get("retrieval_at_1") for name in ("alt_before", "alt"))
    if before is None or after is None:
        return None
    return (
        "retrieval at 1 of held-out alt text  "
        f"by picture {before['image_to_text']:.3f} before -> {after['image_to_text']:.3f} after  "
        f"by text {before['text_to_image']:.3f} before -> {after['text_to_image']:.3f} after  "
        f"(chance {after['chance']:.3f}, {after['num_pictures']:,} pictures)"
    )


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
    device = model.logit_scale.device
    for begin in range(0, len(fits), BATCH_SIZE):
        rows = fits[begin : begin + BATCH_SIZE]
        groups = group_by_length(
            [captions[row] for row in rows],
            num_groups=1,
            pad=model.special.pad,
            longest=model.size.context_length,
        )
        output = model(pixels[rows].to(device), on_device(groups, device))
        losses += sum(captioning_loss_sum(group).item() for group in output.captions)
        num_tokens += sum(int(group.mask.sum()) for group in output.captions)
        image_features.append(output.image_features.cpu())
        text_features.append(output.text_features.cpu())
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
        model.encode_image(pixels[begin : begin + BATCH_SIZE].to(model.logit_scale.device)).tokens
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
        found["num_with_claims"] = num_known
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
