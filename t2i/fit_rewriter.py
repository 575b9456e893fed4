"""Fitting a small T5 that rewrites prompts as the captions that an image model trains on.

It learns from pairs of texts of one training picture: a short one in, the descriptive caption out.
A pair whose caption loses what the short text says is left out and counted, so that keeping is what
is learned; what is measured is measured on all pairs of the pictures held out. What is saved is a
model and a tokenizer in the standard format.

B batch, L tokens
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from launch import keyed
from launch.checkpoint import FOLDER, Checkpoints, restore, training_tensors
from launch.errors import InputError
from launch.finite import FiniteGuard, is_fused, not_finite
from launch.manifest import write_json
from launch.processes import device, noted_device, set_threads
from launch.run import Run
from launch.training import EpochOrder, initial_weights, is_due, learning_rate
from recap.artifacts import CAPTIONS, IMAGES, open_images
from recap.claims import Claim, read
from t2i.artifacts import REWRITER, VERSIONS, text_digest
from t2i.conditioning import pad
from t2i.config import FitRewriterConfig
from t2i.data import padded_length
from t2i.fit_text_encoder import (
    END,
    OUTPUT_SCALE,
    PAD,
    TOKENIZER_TEXTS,
    sent_batch,
    train_tokenizer,
)
from t2i.prompts import read_styles
from t2i.rewrite_rules import losses
from t2i.rewriters import ModelRewriter

SPLIT = "train"
"""Pictures whose texts are learned: a prompt of a test picture must be new to the rewriter."""

WARMUP_STEPS = 100
"""Steps over which the learning rate rises."""


class Pair(NamedTuple):
    """Two texts of one picture."""

    sample_id: str
    kind: str
    """Kind of the source."""

    source: str
    target: str
    has_claims: bool
    """The picture's claims are known, so that claims and not words tell what is lost."""

    @property
    def claims(self) -> list[Claim] | None:
        """Return what the source says, where claims are known."""
        return read(self.source) if self.has_claims else None


class Pairs(NamedTuple):
    """Pairs to learn from, and pairs of other training pictures to measure on."""

    train: list[Pair]
    held_out: list[Pair]
    rejected: dict[str, int]
    """Pairs to learn from that are left out, by rule."""


def fit(cfg: FitRewriterConfig, run: Run) -> None:
    """Fit a small T5 on pairs of texts and save it with its tokenizer."""
    candidates = read_pairs(cfg, run)
    num_steps = max(1, round(cfg.samples / cfg.batch_size))
    plan: dict[str, object] = {
        "pairs": f"{len(candidates):,}, less those whose {cfg.target} loses something",
        "kinds": f"{', '.join(cfg.sources)} -> {cfg.target}",
        "steps": num_steps,
        "width x layers": f"{cfg.width} x {cfg.num_layers}",
    }
    if not run.start(plan, gib=0.1, recipe=noted_device()):
        return
    set_threads(cfg.threads)

    pairs = choose_pairs(candidates, cfg)
    tokenizer = _tokenizer(pairs.train, cfg)
    train, num_long = _tokenize(pairs.train, tokenizer, cfg, what="pairs to learn from")
    measured, num_long_held = _tokenize(pairs.held_out, tokenizer, cfg, what="held-out pairs")
    model = build(cfg, vocab_size=len(tokenizer)).train().to(where := device())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0, fused=is_fused(where)
    )
    guard = FiniteGuard(optimizer, where)
    order = EpochOrder(cfg.seed, "rewriter.order", _ids(train))
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer)
        start = found.step

    with run.progress(num_steps * cfg.batch_size, label="rewriter", unit="pair") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            with progress.wait():
                rows = order.batch(step, batch_size=cfg.batch_size).rows.tolist()
                batch = pair_batch([train[row] for row in rows])
            loss = model(**sent_batch(batch, where)).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stop = partial(not_finite, run.out, step, loss, norm, lr=cfg.lr)
            guard.check(loss, norm, error=stop)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step, num_steps=num_steps, peak=cfg.lr, warmup_steps=WARMUP_STEPS
                )
            optimizer.step()
            progress.advance(cfg.batch_size, loss=loss.detach().item)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if (is_saved or checkpoints.is_late()) and step < num_steps:
                guard.settle()
                checkpoints.save(step, training_tensors(model=model, optimizer=optimizer), {})
        guard.settle()

    quality = measure(model.eval(), tokenizer, pairs.held_out, tokens=measured, cfg=cfg)
    model.save_pretrained(run.out)
    tokenizer.save_pretrained(run.out)
    write_json(run.out / "quality.json", {**quality, "vocab_size": len(tokenizer)})
    # Of a held-out pair that is too long only the loss is not measured: it is no rejected row.
    made = ["config.json", "generation_config.json", "model.safetensors"]
    rejected = {**pairs.rejected, "longer_than_max_tokens": num_long}
    run.finish(
        artifact=REWRITER,
        version=VERSIONS[REWRITER],
        counts={
            "samples_seen": num_steps * cfg.batch_size,
            "rows_in": len(candidates),
            "rows_out": len(train) + len(pairs.held_out),
            "held_out": len(pairs.held_out),
            "held_out_longer_than_max_tokens": num_long_held,
        },
        rejected=rejected,
        parts=[*made, "tokenizer.json", "tokenizer_config.json", "quality.json"],
    )


# --------------------------------------------------------------------------- pairs


def read_pairs(cfg: FitRewriterConfig, run: Run) -> list[Pair]:
    """Read the pairs of the chosen training pictures.

    Raises:
        InputError: There is none.
    """
    run.input("images", cfg.images, artifact=IMAGES)
    for folder in cfg.captions:
        run.input("captions", folder, artifact=CAPTIONS)
    images = open_images(cfg.images)
    rows = [int(row) for row in images.rows(SPLIT)]
    order = keyed.permutation(
        cfg.seed,
        "rewriter.pictures",
        epoch=0,
        ids=keyed.words([images.sample_ids[row] for row in rows]),
    )
    rows = sorted(rows[place] for place in order[: cfg.num_pictures].tolist())
    kinds = [*cfg.sources, cfg.target]
    texts = read_styles(images, rows=rows, captions=cfg.captions, styles=kinds)
    pairs = [
        Pair(
            sample_id=sample_id,
            kind=kind,
            source=texts[kind][sample_id],
            target=texts[cfg.target][sample_id],
            has_claims=images.claims[row] is not None,
        )
        for row, sample_id in ((row, images.sample_ids[row]) for row in rows)
        for kind in cfg.sources
        if sample_id in texts[kind] and sample_id in texts[cfg.target]
    ]
    if not pairs:
        raise InputError(
            f"{cfg.images}: none of {len(rows):,} training pictures has texts of {cfg.target} and "
            f"of one of {', '.join(cfg.sources)}. Caption training pictures, or choose other kinds."
        )
    return pairs


def choose_pairs(pairs: Sequence[Pair], cfg: FitRewriterConfig) -> Pairs:
    """Hold some pictures out with all their pairs; of the others, keep what loses nothing.

    Raises:
        InputError: Nothing is left to learn from, or to measure on.
    """
    ids = sorted({pair.sample_id for pair in pairs})
    order = keyed.permutation(cfg.seed, "rewriter.held_out", epoch=0, ids=keyed.words(ids))
    num_held = min(cfg.held_out_pictures, len(ids) // 10)
    held = {ids[i] for i in order[:num_held].tolist()}
    found = Pairs([], [], {})
    for pair in pairs:
        if pair.sample_id in held:
            found.held_out.append(pair)
        elif lost := losses(pair.target, original=pair.source, claims=pair.claims):
            found.rejected[lost[0]] = found.rejected.get(lost[0], 0) + 1
        else:
            found.train.append(pair)
    if not found.train or not found.held_out:
        raise InputError(
            f"{cfg.images}: {len(found.train):,} pairs to learn from and {len(found.held_out):,} "
            f"to measure on among {len(pairs):,} pairs of {len(ids):,} training pictures (left "
            f"out: {found.rejected}); expected some of both. Caption more training pictures, or "
            "choose other sources."
        )
    return found


def _tokenizer(pairs: Sequence[Pair], cfg: FitRewriterConfig) -> Any:
    """Make a vocabulary of evenly spaced texts, as many sources as targets."""
    texts = sorted({pair.source for pair in pairs}), sorted({pair.target for pair in pairs})
    some = [of[:: max(1, len(of) // (TOKENIZER_TEXTS // 2))] for of in texts]
    return train_tokenizer(
        [text for of in some for text in of], vocab_size=cfg.vocab_size, max_tokens=cfg.max_tokens
    )


class _Tokens(NamedTuple):
    key: str
    source: list[int]
    target: list[int]


def _tokenize(
    pairs: Sequence[Pair], tokenizer: Any, cfg: FitRewriterConfig, *, what: str
) -> tuple[list[_Tokens], int]:
    """Tokenize pairs; those with a text that does not fit are left out: half a text teaches less.

    Raises:
        InputError: None fits.
    """
    sources, targets = (
        tokenizer(list(of), verbose=False)["input_ids"]
        for of in ([pair.source for pair in pairs], [pair.target for pair in pairs])
    )
    tokens = [
        _Tokens(text_digest(f"{pair.kind}\0{pair.sample_id}"), source, target)
        for pair, source, target in zip(pairs, sources, targets, strict=True)
        if max(len(source), len(target)) <= cfg.max_tokens
    ]
    if not tokens:
        raise InputError(
            f"max_tokens={cfg.max_tokens}: each of {len(pairs):,} {what} has a longer text; "
            "raise it"
        )
    return tokens, len(pairs) - len(tokens)


def _ids(tokens: Sequence[_Tokens]) -> Any:
    return keyed.words([pair.key for pair in tokens])


def pair_batch(pairs: Sequence[_Tokens]) -> dict[str, Tensor]:
    """Give the inputs and labels of some pairs, padded."""
    inputs, mask = pad(
        [pair.source for pair in pairs],
        length=padded_length(max(len(pair.source) for pair in pairs)),
        pad_id=PAD,
    )
    labels, is_label = pad(
        [pair.target for pair in pairs],
        length=padded_length(max(len(pair.target) for pair in pairs)),
        pad_id=PAD,
    )
    labels[~is_label] = -100  # ignored by the loss
    return {
        "input_ids": torch.from_numpy(inputs),
        "attention_mask": torch.from_numpy(mask).long(),
        "labels": torch.from_numpy(labels),
    }


# --------------------------------------------------------------------------- model


def build(cfg: FitRewriterConfig, *, vocab_size: int) -> Any:
    """Make an untrained T5 with initial weights of its seed."""
    from transformers import T5Config, T5ForConditionalGeneration

    with initial_weights(cfg.seed, "rewriter.init"):
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocab_size,
                d_model=cfg.width,
                d_kv=cfg.width // cfg.num_heads,
                d_ff=4 * cfg.width,
                num_layers=cfg.num_layers,
                num_decoder_layers=cfg.num_layers,
                num_heads=cfg.num_heads,
                dropout_rate=0.0,
                feed_forward_proj="relu",
                tie_word_embeddings=False,  # as T5 1.1
                pad_token_id=PAD,
                eos_token_id=END,
                decoder_start_token_id=PAD,
            )
        )
        # An output of its own starts as wide as the embeddings, at a loss above that of guessing.
        model.lm_head.weight.data.mul_(OUTPUT_SCALE)
        return model


@torch.no_grad()
def measure(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    tokens: Sequence[_Tokens],
    cfg: FitRewriterConfig,
) -> dict[str, object]:
    """Measure how well captions of held-out pictures are guessed, and what rewrites keep.

    Args:
        model: Fitted model.
        tokenizer: Its tokenizer.
        pairs: All pairs of the held-out pictures, whatever their captions lose.
        tokens: Those of them that fit into `max_tokens`, of which the loss is told.
        cfg: Settings.

    Returns:
        The mean loss of a token, and by kind the share of rewrites, likeliest words first, that
        lose nothing of their source.
    """
    loss_sum, num_tokens = 0.0, 0
    for start in range(0, len(tokens), cfg.batch_size):
        batch = pair_batch(tokens[start : start + cfg.batch_size])
        num = int((batch["labels"] >= 0).sum())
        loss_sum += model(**sent_batch(batch, model.device)).loss.item() * num
        num_tokens += num
    rewriter = ModelRewriter(
        model=model,
        tokenizer=tokenizer,
        instruction=None,
        batch_size=cfg.batch_size,
        max_tokens=cfg.max_tokens,
    )
    kept: Counter[str] = Counter()
    for pair, text in zip(pairs, rewriter.rewrite([p.source for p in pairs], 1), strict=True):
        is_kept = bool(text) and not losses(text, original=pair.source, claims=pair.claims)
        kept[pair.kind] += is_kept
    of = Counter(pair.kind for pair in pairs)
    return {
        "num_pairs": len(pairs),
        "num_pairs_of_loss": len(tokens),
        "token_loss": round(loss_sum / max(1, num_tokens), 4),
        "kept": {kind: round(kept[kind] / num, 4) for kind, num in of.items()},
    }
