"""Are cached captions those of an uncached loop? Whole architectures, random weights, float32.

For every architecture of open_clip's CoCa that the decoder serves, and for ours, 64 random pictures
are captioned greedily and by beam search, by the decoder and by a loop over open_clip's own forward
pass (ours: our own forward pass) that computes the whole prefix for every beam and step. Weights
that say how much the picture matters are scaled up, or a random model would say the same of all.
Then one model captions 1,024 pictures with 8 and with 64 slots.

Figures are printed at the end, one `name=value` a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import open_clip
import torch
from torch import Tensor, nn

from recap.captioner.coca import CoCa, SpecialTokens, initialise_decoder
from recap.captioner.decode import decode_batch
from recap.config import CaptionerSizeConfig, DecodeConfig

ARCHITECTURES = ("coca_ViT-B-32", "coca_ViT-L-14", "coca_base")
NUM_PICTURES = 64
GREEDY = DecodeConfig(max_tokens=12)
BEAM = DecodeConfig(method="beam", num_beams=3, max_tokens=6)
ENCODED_TOGETHER = 8

LogProbs = Callable[[Tensor, Tensor], Tensor]
"""Takes tokens [R L] and, for each row, its picture [R]; gives log-probabilities [R V]."""


@dataclass
class Subject:
    """One model, its pictures encoded, and the forward pass that it is compared with."""

    text: nn.Module
    decoder: nn.Module
    image_tokens: Tensor
    special: SpecialTokens
    log_probs: LogProbs


@torch.inference_mode()
def main() -> None:
    found: dict[str, float] = {}
    for name, make in (*((n, open_clip_subject) for n in ARCHITECTURES), ("ours", our_subject)):
        subject = make(name)
        greedy = decoded(subject, GREEDY, num_slots=64)
        key = name.replace("coca_", "").replace("-", "_").lower()
        found[f"{key}_greedy_equal"] = share(greedy, list(greedy_loop(subject)))
        found[f"{key}_beam_equal"] = share(
            decoded(subject, BEAM, num_slots=8), list(beam_loop(subject))
        )
        found[f"{key}_distinct_captions"] = len({tuple(caption) for caption in greedy})
        print(f"{name}: done", flush=True)
    many = our_subject("ours", num_pictures=1024)
    found["slots_8_and_64_equal"] = share(
        *(decoded(many, DecodeConfig(max_tokens=64), num_slots=num) for num in (8, 64))
    )
    for name, value in found.items():
        print(f"{name}={value:.4f}" if isinstance(value, float) else f"{name}={value}")


def share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    assert len(ours) == len(theirs)
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def open_clip_subject(name: str) -> Subject:
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    initialise_decoder(model.text_decoder)
    make_talkative(model)
    vocab_size = model.text.vocab_size
    side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    pictures = torch.randn(NUM_PICTURES, 3, side, side)
    encoded = [model._encode_image(some) for some in pictures.split(ENCODED_TOGETHER)]
    latents, tokens = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    special = SpecialTokens(pad=0, start=vocab_size - 2, end=vocab_size - 1)

    def log_probs(written: Tensor, pictures_of: Tensor) -> Tensor:
        seen = {"image_latent": latents[pictures_of], "image_embs": tokens[pictures_of]}
        logits = model(None, written, **seen, output_labels=False)["logits"][:, -1]
        return possible(logits, special)

    return Subject(model.text, model.text_decoder, tokens, special, log_probs)


def our_subject(name: str, *, num_pictures: int = NUM_PICTURES) -> Subject:
    torch.manual_seed(0)
    special = SpecialTokens()
    size = CaptionerSizeConfig(context_length=96)
    model = CoCa(size, vocab_size=512, special=special).eval()
    make_talkative(model)
    pixels = torch.randint(0, 256, (num_pictures, 32, 32, 3), dtype=torch.uint8)
    tokens = model.encode_image(pixels).tokens

    def log_probs(written: Tensor, pictures_of: Tensor) -> Tensor:
        states = model.encode_text(written, torch.ones_like(written, dtype=torch.bool)).states
        return possible(model.caption_logits(states, tokens[pictures_of])[:, -1], special)

    return Subject(model.text, model.text_decoder, tokens, special, log_probs)


def make_talkative(model: nn.Module) -> None:
    for block in model.text_decoder.cross_attn:
        block.attn.out_proj.weight.mul_(16)
    model.text.positional_embedding.mul_(30)
    model.text.token_embedding.weight.mul_(10)


def possible(logits: Tensor, special: SpecialTokens) -> Tensor:
    logits = logits.clone()
    logits[:, [special.pad, special.start]] = float("-inf")
    return logits.log_softmax(dim=-1)


def decoded(subject: Subject, config: DecodeConfig, *, num_slots: int) -> list[list[int]]:
    num = len(subject.image_tokens)
    written = decode_batch(
        subject.text,
        subject.decoder,
        subject.image_tokens,
        special=subject.special,
        config=config,
        sample_ids=[f"{n:032x}" for n in range(num)],
        seed=0,
        num_slots=num_slots,
    )
    return [caption.tokens for caption in written]


def greedy_loop(subject: Subject) -> Iterator[list[int]]:
    tokens = torch.full((NUM_PICTURES, 1), subject.special.start)
    for _ in range(GREEDY.max_tokens):
        newest = subject.log_probs(tokens, torch.arange(NUM_PICTURES)).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, newest], dim=1)
    yield from (until_end(row, subject.special.end) for row in tokens[:, 1:].tolist())


def beam_loop(subject: Subject) -> Iterator[list[int]]:
    """Search with lists, one picture alone, as the decoder's documentation says it is done."""
    end = subject.special.end
    for picture in range(NUM_PICTURES):
        beams: list[tuple[float, list[int]]] = [(0.0, [subject.special.start])]
        finished: list[tuple[float, list[int]]] = []
        for length in range(1, BEAM.max_tokens + 1):
            rows = torch.tensor([tokens for _, tokens in beams])
            steps = subject.log_probs(rows, torch.full((len(beams),), picture))
            totals = steps + torch.tensor([score for score, _ in beams])[:, None]
            best, places = totals.flatten().topk(2 * BEAM.num_beams)
            parents, newest = places // totals.shape[1], places % totals.shape[1]
            found = [
                (score, [*beams[parent][1], token])
                for score, parent, token in zip(
                    best.tolist(), parents.tolist(), newest.tolist(), strict=True
                )
            ]
            is_last = length == BEAM.max_tokens
            finished += [
                (score / length**BEAM.length_penalty, tokens)
                for rank, (score, tokens) in enumerate(found)
                if (tokens[-1] == end and rank < BEAM.num_beams) or (is_last and tokens[-1] != end)
            ]
            finished = sorted(finished, reverse=True)[: BEAM.num_beams]
            beams = [row for row in found if row[1][-1] != end][: BEAM.num_beams]
            attainable = beams[0][0] / BEAM.max_tokens**BEAM.length_penalty
            if len(finished) == BEAM.num_beams and finished[-1][0] >= attainable:
                break
        yield until_end(finished[0][1][1:], end)


def until_end(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


if __name__ == "__main__":
    main()
