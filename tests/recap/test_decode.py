"""Cached decoding against the model's own forward pass over the growing caption."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa as OpenClipCoCa

from recap.captioner.choose import Limits, Shape, WrittenCaption, drawn_token
from recap.captioner.coca import CoCa, SpecialTokens, initialise_decoder
from recap.captioner.decode import decode_batch
from recap.config import CaptionerSizeConfig, DecodeConfig

VOCAB = 24
SPECIAL = SpecialTokens()
GREEDY = DecodeConfig(max_tokens=64)


def talkative_model(*, tower: str = "vit", context_length: int = 20) -> CoCa:
    """Random weights, scaled up so that captions differ in words and length."""
    torch.manual_seed(7 if tower == "conv" else 3)  # seeds whose captions are various
    size = CaptionerSizeConfig(
        tower=tower,
        image_size=16,
        patch_size=4,
        width=32,
        num_heads=2,
        image_layers=1,
        text_layers=2,
        multimodal_layers=2,
        num_image_tokens=4,
        context_length=context_length,
    )
    model = CoCa(size, vocab_size=VOCAB, special=SPECIAL).eval()
    with torch.no_grad():
        for block in model.text_decoder.cross_attn:
            block.attn.out_proj.weight.mul_(16)
        model.text_decoder.text_projection.mul_(3)
        model.text_decoder.text_projection[:, SPECIAL.end].mul_(2.5)  # so that some rows end
        model.text.positional_embedding.mul_(30)
        model.text.token_embedding.weight.mul_(10)
    return model


def lower_scores(model: CoCa, by: float) -> None:
    """Lower every token's score equally: the model's probabilities stay as they are."""
    decoder = model.text_decoder
    lowered = torch.full((VOCAB,), -by)
    with torch.no_grad():
        found = torch.linalg.lstsq(decoder.text_projection.T, lowered[:, None]).solution
        decoder.ln_final.bias.add_(found[:, 0])


def random_pixels(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 16, 16, 3), dtype=torch.uint8, generator=generator)


def ids(num: int) -> list[str]:
    return [f"{n:032x}" for n in range(1 << 70, (1 << 70) + (num << 66), 1 << 66)]


def write(
    model: CoCa,
    pixels: torch.Tensor,
    *,
    config: DecodeConfig = GREEDY,
    sample_ids: list[str] | None = None,
    seed: int = 0,
    num_slots: int = 32,
) -> list[WrittenCaption]:
    with torch.inference_mode():
        tokens = model.encode_image(pixels).tokens
    return decode_batch(
        model.text,
        model.text_decoder,
        tokens,
        special=SPECIAL,
        config=config,
        sample_ids=sample_ids if sample_ids is not None else ids(len(pixels)),
        seed=seed,
        num_slots=num_slots,
    )


def plain_limits(
    scores: list[float], written: list[int], *, config: DecodeConfig, special: SpecialTokens
) -> list[float]:
    """Make every token of `written` but the end less likely, and an end too soon impossible."""
    limited = list(scores)
    for token in set(written) - {special.end}:
        penalty = config.repetition_penalty
        limited[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
    if len(written) < config.min_tokens:
        limited[special.end] = float("-inf")
    return limited


def plain_log_softmax(scores: list[float]) -> list[float]:
    highest = max(scores)
    total = math.log(math.fsum(math.exp(score - highest) for score in scores))
    return [score - highest - total for score in scores]


@torch.inference_mode()
def write_uncached(
    model: CoCa, pixels: torch.Tensor, *, config: DecodeConfig = GREEDY
) -> list[list[int]]:
    """Choose the likeliest token by a whole forward pass over everything written so far."""
    rows = [[SPECIAL.start] for _ in pixels]
    image_tokens = model.encode_image(pixels).tokens
    for _ in range(min(config.max_tokens, model.size.context_length - 1)):
        tokens = torch.tensor(rows)
        states = model.encode_text(tokens, torch.ones_like(tokens, dtype=torch.bool)).states
        logits = model.caption_logits(states, image_tokens)[:, -1]
        logits[:, [SPECIAL.pad, SPECIAL.start]] = float("-inf")
        for row, scores in zip(rows, logits.tolist(), strict=True):
            limited = plain_limits(scores, row[1:], config=config, special=SPECIAL)
            row.append(limited.index(max(limited)))
    return [until_end(row[1:]) for row in rows]


def until_end(tokens: list[int], special: SpecialTokens = SPECIAL) -> list[int]:
    return tokens[: tokens.index(special.end)] if special.end in tokens else tokens


@pytest.mark.parametrize("tower", ["conv", "vit"])
def test_greedy_tokens_equal_those_of_an_uncached_loop(tower: str) -> None:
    model, pixels = talkative_model(tower=tower), random_pixels(64)
    written = write(model, pixels)
    assert [c.tokens for c in written] == write_uncached(model, pixels)
    assert len({tuple(c.tokens) for c in written}) > 4, "the model must say different things"
    assert len({len(c.tokens) for c in written}) > 3, "rows must finish at different times"


LIMITED = DecodeConfig(repetition_penalty=1.4, min_tokens=3, max_tokens=18)


# Repeated words are to be penalised where scores are positive and where they are negative.
LOWERED = pytest.mark.parametrize("lowered", [0.0, 10.0])


@LOWERED
def test_penalised_greedy_tokens_equal_those_of_an_uncached_loop(lowered: float) -> None:
    model, pixels = talkative_model(), random_pixels(64)
    lower_scores(model, lowered)
    expected = write_uncached(model, pixels, config=LIMITED)
    assert [c.tokens for c in write(model, pixels, config=LIMITED)] == expected
    for without in (replace(LIMITED, repetition_penalty=1.0), replace(LIMITED, min_tokens=0)):
        others = write(model, pixels, config=without)
        assert [c.tokens for c in others] != expected, "each must matter"


EVERY_WAY = [
    GREEDY,
    DecodeConfig(method="sample", max_tokens=18),
    DecodeConfig(method="beam", num_beams=3, max_tokens=18),
    LIMITED,
    replace(LIMITED, method="beam", num_beams=2),
]


@pytest.mark.parametrize(
    ("config", "dtype"),
    [*((config, torch.float32) for config in EVERY_WAY), (GREEDY, torch.bfloat16)],
)
def test_a_caption_is_the_same_to_the_bit_whatever_is_written_beside_it(
    config: DecodeConfig, dtype: torch.dtype
) -> None:
    model, pixels, sample_ids = talkative_model().to(dtype), random_pixels(48), ids(48)
    together = write(model, pixels, config=config, sample_ids=sample_ids)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = write(model, pixels[order], config=config, sample_ids=[sample_ids[n] for n in order])
    alone = [
        write(model, pixels[n : n + 1], config=config, sample_ids=sample_ids[n : n + 1])[0]
        for n in range(8)
    ]
    assert [together[n] for n in order] == shuffled
    assert together[:8] == alone


@pytest.mark.parametrize("config", EVERY_WAY)
def test_the_number_of_slots_changes_no_token(config: DecodeConfig) -> None:
    model, pixels = talkative_model(), random_pixels(64)
    few, many = (write(model, pixels, config=config, num_slots=n) for n in (8, 64))
    assert [c.tokens for c in few] == [c.tokens for c in many]


def plain_beams(
    next_scores: Callable[[list[int]], list[float]],
    *,
    config: DecodeConfig,
    special: SpecialTokens = SPECIAL,
) -> list[int]:
    """Search with lists, one picture alone, asking for every beam and step anew."""
    open_beams, finished = [(0.0, [special.start])], []
    for length in range(1, config.max_tokens + 1):
        found = []
        for score, tokens in open_beams:
            scores = next_scores(tokens)
            scores = plain_limits(scores, tokens[1:], config=config, special=special)
            steps = plain_log_softmax(scores)
            found += [(score + step, [*tokens, token]) for token, step in enumerate(steps)]
        found = sorted(found, reverse=True)[: 2 * config.num_beams]
        power = length**config.length_penalty
        is_last = length == config.max_tokens
        for rank, (score, tokens) in enumerate(found):
            is_end = tokens[-1] == special.end
            if (is_end and rank < config.num_beams) or (is_last and not is_end):
                finished.append((score / power, tokens))
        finished = sorted(finished, reverse=True)[: config.num_beams]
        open_beams = [f for f in found if f[1][-1] != special.end][: config.num_beams]
        longest = config.max_tokens if config.length_penalty > 0 else length
        attainable = open_beams[0][0] / longest**config.length_penalty
        if len(finished) == config.num_beams and finished[-1][0] >= attainable:
            break
    return until_end(finished[0][1][1:], special)


@torch.inference_mode()
def beams_uncached(model: CoCa, pixels: torch.Tensor, *, config: DecodeConfig) -> list[int]:
    """Search with a whole forward pass of our own model for every beam and step."""
    image_tokens = model.encode_image(pixels).tokens

    def next_scores(tokens: list[int]) -> list[float]:
        row = torch.tensor([tokens])
        states = model.encode_text(row, torch.ones_like(row, dtype=torch.bool)).states
        logits = model.caption_logits(states, image_tokens)[0, -1]
        logits[[SPECIAL.pad, SPECIAL.start]] = float("-inf")
        scores: list[float] = logits.tolist()
        return scores

    return plain_beams(next_scores, config=config)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beam_search_equals_a_plain_one_without_caches(length_penalty: float) -> None:
    model, pixels = talkative_model(), random_pixels(8)
    config = DecodeConfig(method="beam", num_beams=3, length_penalty=length_penalty, max_tokens=10)
    expected = [beams_uncached(model, pixels[n : n + 1], config=config) for n in range(8)]
    assert [c.tokens for c in write(model, pixels, config=config, num_slots=8)] == expected
    assert len({len(tokens) for tokens in expected}) > 1


@LOWERED
def test_penalised_beam_search_equals_a_plain_one_without_caches(lowered: float) -> None:
    model, pixels = talkative_model(), random_pixels(12)
    lower_scores(model, lowered)
    config = replace(LIMITED, method="beam", num_beams=3, max_tokens=10)
    expected = [beams_uncached(model, pixels[n : n + 1], config=config) for n in range(12)]
    written = write(model, pixels, config=config, num_slots=8)
    assert [c.tokens for c in written] == expected
    for without in (replace(config, repetition_penalty=1.0), replace(config, min_tokens=0)):
        others = write(model, pixels, config=without, num_slots=8)
        assert [c.tokens for c in others] != expected, "each must matter"


def test_one_beam_that_length_does_not_favour_is_greedy() -> None:
    model, pixels = talkative_model(), random_pixels(32)
    config = DecodeConfig(method="beam", num_beams=1, length_penalty=0.0, max_tokens=19)
    beams = [c.tokens for c in write(model, pixels, config=config)]
    assert beams == [c.tokens for c in write(model, pixels)]


def test_more_beams_find_captions_at_least_as_likely() -> None:
    model, pixels = talkative_model(), random_pixels(32)

    def mean_score(num_beams: int) -> float:
        config = DecodeConfig(method="beam", num_beams=num_beams, max_tokens=18)
        written = write(model, pixels, config=config)
        return sum(caption.mean_logprob for caption in written) / len(written)

    assert mean_score(6) > mean_score(1)


def test_no_caption_ends_before_its_shortest_length() -> None:
    model, pixels = talkative_model(), random_pixels(64)
    config = DecodeConfig(min_tokens=5, max_tokens=19)
    lengths = [len(caption.tokens) for caption in write(model, pixels, config=config)]
    assert min(lengths) >= 5
    assert min(len(caption.tokens) for caption in write(model, pixels)) < 5


def test_a_repetition_penalty_makes_words_rarer() -> None:
    model, pixels = talkative_model(), random_pixels(64)

    def repeats(penalty: float) -> int:
        config = DecodeConfig(repetition_penalty=penalty, max_tokens=19)
        written = write(model, pixels, config=config)
        return sum(len(c.tokens) - len(set(c.tokens)) for c in written)

    assert repeats(1.5) < repeats(1.0)


def test_a_repetition_penalty_lets_the_end_and_unwritten_words_be() -> None:
    config, cpu = DecodeConfig(repetition_penalty=2.0), torch.device("cpu")
    limits = Limits(config, Shape(2, 8, VOCAB, SPECIAL, cpu), num_rows=2)
    limits.note(torch.tensor([SPECIAL.end, 5]), None)
    limits.note(torch.tensor([6, SPECIAL.end]), None)
    scores = torch.linspace(-3, 3, VOCAB).expand(2, -1)
    changed = limits.apply(scores, ages=torch.full((2,), 2)) != scores
    assert [row.nonzero()[:, 0].tolist() for row in changed] == [[6], [5]]


@torch.inference_mode()
def test_greedy_tokens_equal_those_of_open_clip_over_the_same_weights() -> None:
    model, pixels = talkative_model(tower="vit"), random_pixels(16)
    size = model.size
    text = {
        "context_length": size.context_length,
        "vocab_size": VOCAB,
        "width": size.width,
        "heads": size.num_heads,
        "layers": 2,
    }
    vision = {
        "image_size": size.image_size,
        "patch_size": size.patch_size,
        "width": size.width,
        "head_width": size.width // size.num_heads,
        "layers": size.image_layers,
        "attentional_pool": True,
        "attn_pooler_queries": size.num_image_tokens + 1,
        "attn_pooler_heads": size.num_heads,
        "output_tokens": True,
    }
    other = OpenClipCoCa(
        embed_dim=size.width,
        multimodal_cfg=text,
        text_cfg={**text, "embed_cls": True, "output_tokens": True},
        vision_cfg=vision,
    ).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    images = model.scale_pixels(pixels)
    tokens = torch.full((len(pixels), 1), SPECIAL.start)
    for _ in range(size.context_length - 1):
        logits = other(images, tokens, output_labels=False)["logits"][:, -1]
        logits[:, [SPECIAL.pad, SPECIAL.start]] = float("-inf")
        tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
    expected = [until_end(row) for row in tokens[:, 1:].tolist()]
    assert [c.tokens for c in write(model, pixels)] == expected


def test_sampled_captions_are_functions_of_seed_and_sample_id() -> None:
    model, pixels = talkative_model(), random_pixels(32)
    config = DecodeConfig(method="sample", max_tokens=12)
    sample_ids = ids(32)
    first = [c.tokens for c in write(model, pixels, config=config)]
    backwards = write(model, pixels.flip(0), config=config, sample_ids=sample_ids[::-1])[::-1]
    assert first == [c.tokens for c in backwards]
    assert first != [c.tokens for c in write(model, pixels, config=config, seed=1)]
    same_picture = pixels[:1].expand(32, -1, -1, -1)
    assert len({tuple(c.tokens) for c in write(model, same_picture, config=config)}) > 8


def test_a_caption_that_finds_no_room_says_so() -> None:
    model, pixels = talkative_model(), random_pixels(32)
    written = write(model, pixels, config=DecodeConfig(max_tokens=4))
    reasons = {c.stop_reason for c in written}
    assert reasons == {"end", "length"}
    for caption in written:
        assert len(caption.tokens) == 4 if caption.stop_reason == "length" else True
        assert len(caption.tokens) <= 4


def test_the_context_bounds_a_caption_whatever_is_asked() -> None:
    model = talkative_model(context_length=6)
    written = write(model, random_pixels(16), config=DecodeConfig(max_tokens=1000))
    assert max(len(c.tokens) for c in written) == 5


def test_the_mean_log_probability_is_that_of_a_forward_pass() -> None:
    model, pixels = talkative_model(), random_pixels(8)
    for n, caption in enumerate(write(model, pixels)):
        tokens = [SPECIAL.start, *caption.tokens]
        tokens += [SPECIAL.end] if caption.stop_reason == "end" else []
        row = torch.tensor([tokens])
        with torch.inference_mode():
            states = model.encode_text(row, torch.ones_like(row, dtype=torch.bool)).states
            image_tokens = model.encode_image(pixels[n : n + 1]).tokens
            logits = model.caption_logits(states[:, :-1], image_tokens)
            logits[:, :, [SPECIAL.pad, SPECIAL.start]] = float("-inf")
            expected = logits.log_softmax(dim=-1).gather(2, row[:, 1:, None]).mean()
        assert caption.mean_logprob == pytest.approx(expected.item(), abs=1e-4)


def test_pad_and_start_are_never_written() -> None:
    model = talkative_model()
    with torch.no_grad():
        model.text_decoder.text_projection[:, SPECIAL.pad] = 100.0
        model.text_decoder.text_projection[:, SPECIAL.start] = -100.0
    config = DecodeConfig(method="sample", temperature=5.0, max_tokens=12)
    for caption in write(model, random_pixels(16), config=config):
        assert not {SPECIAL.pad, SPECIAL.start, SPECIAL.end} & set(caption.tokens)


def test_a_uniform_draw_chooses_tokens_in_proportion_to_their_probability() -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    draws = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    config = DecodeConfig(method="sample")
    chosen = drawn_token(probs.log().expand(1000, -1), config=config, draw=draws)
    assert (torch.bincount(chosen, minlength=4) - 1000 * probs).abs().max() <= 1


def test_the_nucleus_leaves_out_unlikely_tokens() -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    draws = torch.linspace(0, 1 - 2**-53, 1000, dtype=torch.float64)
    for top_p, kept in ((0.3, {3}), (0.5, {2, 3}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        config = DecodeConfig(method="sample", top_p=top_p)
        chosen = drawn_token(probs.log().expand(1000, -1), config=config, draw=draws)
        assert set(chosen.tolist()) == kept


def test_a_low_temperature_is_nearly_greedy() -> None:
    logits = torch.randn(64, VOCAB, generator=torch.Generator().manual_seed(0))
    config = DecodeConfig(method="sample", temperature=1e-4)
    chosen = drawn_token(logits, config=config, draw=torch.full((64,), 0.999, dtype=torch.float64))
    assert torch.equal(chosen, logits.argmax(dim=-1))


def test_only_the_likeliest_k_tokens_are_drawn() -> None:
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    draws = torch.linspace(0, 1 - 2**-53, 1000, dtype=torch.float64)
    for top_k, kept in ((1, {3}), (2, {2, 3}), (9, {0, 1, 2, 3})):
        config = DecodeConfig(method="sample", top_k=top_k)
        chosen = drawn_token(probs.log().expand(1000, -1), config=config, draw=draws)
        assert set(chosen.tolist()) == kept


PUBLIC = ("coca_ViT-B-32", "coca_ViT-L-14", "coca_base")


def public_model(architecture: str) -> OpenClipCoCa:
    """Give one of open_clip's architectures with fewer layers and words, and random weights."""
    config = open_clip.get_model_config(architecture)
    assert config is not None
    patch = config["vision_cfg"]["patch_size"]
    config["vision_cfg"] |= {"layers": 1, "image_size": 2 * patch}
    for part in ("text_cfg", "multimodal_cfg"):
        config[part] |= {"layers": 2, "vocab_size": 96, "context_length": 9}
    config.pop("custom_text", None)
    torch.manual_seed(1)
    model = OpenClipCoCa(**config).eval()
    initialise_decoder(model.text_decoder)
    with torch.no_grad():
        for block in model.text_decoder.cross_attn:
            block.attn.out_proj.weight.mul_(16)
        model.text.positional_embedding.mul_(30)
        model.text.token_embedding.weight.mul_(10)
    return model


# Whole architectures and more pictures: tests/benchmarks/decode_parity.py.
@pytest.mark.parametrize("architecture", PUBLIC)
@torch.inference_mode()
def test_tokens_equal_those_of_open_clips_forward_pass(architecture: str) -> None:
    model, special = public_model(architecture), SpecialTokens(pad=0, start=94, end=95)
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    images = torch.randn(24, 3, side, side, generator=torch.Generator().manual_seed(2))
    latent, image_tokens = model._encode_image(images)

    def log_probs(rows: slice, tokens: torch.Tensor) -> torch.Tensor:
        seen = {"image_latent": latent[rows], "image_embs": image_tokens[rows]}
        logits = model(None, tokens, **seen, output_labels=False)["logits"][:, -1]
        logits[:, [special.pad, special.start]] = float("-inf")
        steps: torch.Tensor = logits.log_softmax(dim=-1)
        return steps

    def written(num: int, config: DecodeConfig) -> list[list[int]]:
        found = decode_batch(
            model.text,
            model.text_decoder,
            image_tokens[:num],
            special=special,
            config=config,
            sample_ids=ids(num),
            seed=0,
            num_slots=16,
        )
        return [caption.tokens for caption in found]

    tokens = torch.full((24, 1), special.start)
    for _ in range(8):
        newest = log_probs(slice(None), tokens).argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, newest], dim=1)
    greedy = written(24, DecodeConfig(max_tokens=8))
    assert greedy == [until_end(row, special) for row in tokens[:, 1:].tolist()]
    assert len({tuple(caption) for caption in greedy}) > 8, "the model must say different things"

    config = DecodeConfig(method="beam", num_beams=2, max_tokens=6)
    assert written(3, config) == [
        plain_beams(
            lambda row, n=n: log_probs(slice(n, n + 1), torch.tensor([row]))[0].tolist(),
            config=config,
            special=special,
        )
        for n in range(3)
    ]
