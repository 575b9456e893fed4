"""Fitting a small T5 text encoder, for studies that download none.

It learns by T5's own objective, to fill in a masked span, on equal tokens of every kind of text;
where a picture has texts of two kinds, the span is the whole second text. What is saved is the
encoder and its tokenizer in the standard format: `t2i/conditioning.py` loads the folder as it loads
any other.

K uniform draws
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from launch import keyed
from launch.checkpoint import FOLDER, Checkpoints, restore, training_tensors
from launch.errors import ArtifactError, InputError
from launch.finite import FiniteGuard, is_fused, not_finite
from launch.manifest import write_json
from launch.processes import device, noted_device, sent, set_threads
from launch.run import Run
from launch.training import initial_weights, is_due, learning_rate
from recap.artifacts import CAPTIONS, open_captions
from t2i.artifacts import TEXT_ENCODER, VERSIONS
from t2i.conditioning import pad
from t2i.config import TextEncoderConfig
from t2i.data import padded_length

CORRUPTED_SHARE, MEAN_SPAN = 0.15, 3.0
"""Raffel et al. 2020, arXiv:1910.10683, section 3.3.4."""

NUM_SENTINELS = 32
"""Spans of one text that can be masked; `<extra_id_0>` and so on."""

HELD_OUT = 512
"""Texts kept for measuring, chosen by key."""

OUTPUT_SCALE = 0.1
"""Initial scale of the output layer, relative to the embeddings."""

DECODER_LAYERS = 1
"""Layers of the decoder, which is thrown away: what it cannot guess the encoder must say."""

TOKENIZER_TEXTS = 20_000
"""Texts, of all kinds together, that the vocabulary is made from."""

PAD, END, UNKNOWN = 0, 1, 2
"""Ids of T5's special tokens."""


def train_tokenizer(texts: Sequence[str], *, vocab_size: int, max_tokens: int) -> Any:
    """Make T5's kind of tokenizer: pieces of words, an end token, sentinels for masked spans."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    sentinels = [f"<extra_id_{i}>" for i in range(NUM_SENTINELS)]
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    )
    made.decoder = decoders.Metaspace()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>", "<unk>", *sentinels],
        limit_alphabet=max(64, vocab_size // 4),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=sentinels,
        model_max_length=max_tokens,
        padding_side="right",
    )


class Spans(NamedTuple):
    """A text with spans replaced by sentinels, and the spans."""

    inputs: list[int]
    targets: list[int]


def corrupt_spans(tokens: Sequence[int], uniform: Float[np.ndarray, " K"], *, first: int) -> Spans:
    """Mask about 15% of a text in spans of about three tokens.

    Args:
        tokens: Token ids, end token included, which is never masked.
        uniform: Draws in [0, 1), at least two for each token.
        first: Id of the first sentinel; the others follow.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4. Span lengths and gaps are cut at
    random points, as in their released `random_spans_noise_mask`.
    """
    body, end = list(tokens[:-1]), tokens[-1]
    if not body:
        return Spans([end], [first, end])
    num_masked = min(max(1, round(len(body) * CORRUPTED_SHARE)), max(1, len(body) - 1))
    num_spans = max(1, round(num_masked / MEAN_SPAN))
    num_spans = min(num_spans, len(body) - num_masked + 1, NUM_SENTINELS - 1)
    half = len(uniform) // 2
    spans = _cut(num_masked, num_spans, uniform[:half])
    # The gaps at both ends may be empty: the first and last words are masked as often as others.
    gaps = _cut(len(body) - num_masked + 2, num_spans + 1, uniform[half:])
    inputs, targets, place = [], [], 0
    for index, span in enumerate(spans):
        gap = gaps[index] - (1 if index == 0 else 0)
        inputs += [*body[place : place + gap], first + index]
        place += gap
        targets += [first + index, *body[place : place + span]]
        place += span
    return Spans([*inputs, *body[place:], end], [*targets, first + len(spans), end])


def _cut(total: int, pieces: int, uniform: np.ndarray) -> list[int]:
    """Cut a length into pieces of at least one at random points."""
    assert 1 <= pieces <= total <= len(uniform) + 1
    order = np.argsort(uniform[: total - 1], kind="stable")[: pieces - 1]
    bounds = [0, *sorted(int(i) + 1 for i in order), total]
    return [b - a for a, b in pairwise(bounds)]


class Document(NamedTuple):
    """Two texts of one picture, by different writers; `other` is None where there is only one."""

    text: list[int]
    other: list[int] | None


@dataclass(frozen=True)
class Corpus:
    """Tokenised texts, from which documents with equal tokens of every kind are drawn."""

    tokens: list[dict[str, list[int]]]
    """Per kind, token ids by sample_id."""

    @cached_property
    def _sample_ids(self) -> list[list[str]]:
        return [sorted(texts) for texts in self.tokens]

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        # A kind is drawn as often as its texts are short.
        lengths = [np.mean([len(ids) for ids in texts.values()]) for texts in self.tokens]
        weights = 1 / np.array(lengths)
        return np.cumsum(weights / weights.sum())[:-1]

    def draw(self, step: int, *, batch_size: int, seed: int) -> list[Document]:
        """Give the documents of one step, drawn with replacement."""
        slots = np.arange(batch_size, dtype=np.uint64)
        draws = keyed.uniform(seed, "text_encoder.texts", epoch=step, ids=slots, count=3)
        kinds = np.searchsorted(self._bounds, draws[:, 0], side="right").tolist()
        return [
            self.document(kind, self._sample_ids[kind][int(u * len(self._sample_ids[kind]))], v)
            for kind, (u, v) in zip(kinds, draws[:, 1:].tolist(), strict=True)
        ]

    def document(self, kind: int, sample_id: str, uniform: float) -> Document:
        """Give a text and, if there is one, another kind's text of the same picture."""
        others = [
            texts[sample_id]
            for other, texts in enumerate(self.tokens)
            if other != kind and sample_id in texts
        ]
        other = others[int(uniform * len(others))] if others else None
        return Document(self.tokens[kind][sample_id], other)


def mask_other(document: Document, *, first: int) -> Spans:
    """Mask the whole second text: the encoder must say of the first all that the second tells.

    One span at the end of the document, the sequential denoising of Tay et al. 2022,
    arXiv:2205.05131, section 3.1. Scattered short spans alone teach a small encoder nothing in the
    time there is: its states collapse, since most masked words can be guessed from their
    neighbours. A second text in other words cannot, and gives ten times the words to learn from.
    """
    assert document.other is not None
    inputs = [*document.text[:-1], first, END]
    return Spans(inputs, [first, *document.other[:-1], first + 1, END])


def span_batch(
    documents: Sequence[Document], *, seed: int, stream: str, epoch: int, first: int
) -> dict[str, Tensor]:
    """Give the inputs and labels of some documents, padded; single texts lose short spans."""
    slots = np.arange(len(documents), dtype=np.uint64)
    count = 2 * max(len(document.text) for document in documents)
    draws = keyed.uniform(seed, stream, epoch=epoch, ids=slots, count=count)
    spans = [
        mask_other(document, first=first)
        if document.other is not None
        else corrupt_spans(document.text, uniform, first=first)
        for document, uniform in zip(documents, draws, strict=True)
    ]
    inputs, mask = pad(
        [s.inputs for s in spans],
        length=padded_length(max(len(s.inputs) for s in spans)),
        pad_id=PAD,
    )
    labels, is_label = pad(
        [s.targets for s in spans],
        length=padded_length(max(len(s.targets) for s in spans)),
        pad_id=PAD,
    )
    labels[~is_label] = -100  # ignored by the loss
    return {
        "input_ids": torch.from_numpy(inputs),
        "attention_mask": torch.from_numpy(mask).long(),
        "labels": torch.from_numpy(labels),
    }


def sent_batch(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy the tensors of a batch to a device without the host's waiting for it."""
    return {name: sent(tensor, device) for name, tensor in batch.items()}


def build(cfg: TextEncoderConfig, *, vocab_size: int) -> Any:
    """Make an untrained T5 with initial weights of its seed."""
    from transformers import T5Config, T5ForConditionalGeneration

    with initial_weights(cfg.seed, "text_encoder.init"):
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocab_size,
                d_model=cfg.width,
                d_kv=cfg.width // cfg.num_heads,
                d_ff=4 * cfg.width,
                num_layers=cfg.num_layers,
                num_decoder_layers=DECODER_LAYERS,
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


def _texts_by_kind(cfg: TextEncoderConfig, run: Run) -> list[dict[str, str]]:
    """Read the texts of each kind by sample_id.

    Raises:
        ArtifactError: Two folders hold a text of the same kind for one picture.
        InputError: A kind is in none of the folders.
    """
    found: dict[str, dict[str, str]] = {kind: {} for kind in cfg.kinds}
    for folder in cfg.texts:
        run.input("texts", folder, artifact=CAPTIONS)
        captions = open_captions(folder)
        for kind in cfg.kinds:
            if kind not in captions.kinds:
                continue
            texts = captions.texts(kind)
            if twice := found[kind].keys() & texts.keys():
                raise ArtifactError(
                    f"{folder}: {len(twice):,} pictures, {min(twice)} first, have a text of kind "
                    f"{kind!r} in another of texts= too; expected one text of a kind for each "
                    "picture. Leave one of the folders out of texts=."
                )
            found[kind].update(texts)
    for kind, texts in found.items():
        if not texts:
            raise InputError(
                f"kind {kind!r} is in none of {', '.join(map(str, cfg.texts))}; a text encoder "
                "needs texts of every kind it is to learn. Change kinds= or texts=."
            )
    return list(found.values())


def fit(cfg: TextEncoderConfig, run: Run) -> None:
    """Fit a small T5 on filling in masked text and save its encoder and tokenizer."""
    from transformers import T5EncoderModel

    by_kind = _texts_by_kind(cfg, run)
    num_steps = max(1, round(cfg.samples / cfg.batch_size))
    num_texts = sum(map(len, by_kind))
    plan: dict[str, object] = {
        "texts": num_texts,
        "kinds": ", ".join(cfg.kinds),
        "steps": num_steps,
        "width x layers": f"{cfg.width} x {cfg.num_layers}",
    }
    if not run.start(plan, gib=0.1, recipe=noted_device()):
        return
    set_threads(cfg.threads)

    tokenizer = train_tokenizer(
        [text for kind in by_kind for text in _some(kind, TOKENIZER_TEXTS // len(by_kind))],
        vocab_size=cfg.vocab_size,
        max_tokens=cfg.max_tokens,
    )
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    train, held_out = _split_and_tokenize(by_kind, tokenizer, cfg)
    model = build(cfg, vocab_size=len(tokenizer)).train().to(where := device())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0, fused=is_fused(where)
    )
    guard = FiniteGuard(optimizer, where)
    checkpoints = Checkpoints(run.out / FOLDER)
    start = 0
    if (found := checkpoints.latest()) is not None:
        restore(found, model=model, optimizer=optimizer)
        start = found.step

    with run.progress(num_steps * cfg.batch_size, label="text encoder", unit="text") as progress:
        progress.resume(start * cfg.batch_size)
        for step in range(start + 1, num_steps + 1):
            with progress.wait():
                texts = train.draw(step, batch_size=cfg.batch_size, seed=cfg.seed)
                batch = span_batch(
                    texts, seed=cfg.seed, stream="text_encoder.spans", epoch=step, first=first
                )
            loss = model(**sent_batch(batch, where)).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stop = partial(not_finite, run.out, step, loss, norm, lr=cfg.lr)
            guard.check(loss, norm, error=stop)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    step,
                    num_steps=num_steps,
                    peak=cfg.lr,
                    warmup_steps=40,
                )
            optimizer.step()
            progress.advance(cfg.batch_size, loss=loss.detach().item)
            is_saved = is_due(step, cfg.checkpoint_samples, batch_size=cfg.batch_size)
            if (is_saved or checkpoints.is_late()) and step < num_steps:
                guard.settle()
                tensors = training_tensors(model=model, optimizer=optimizer)
                checkpoints.save(step, tensors, {})
        guard.settle()

    quality = _measure(model.eval(), held_out, cfg=cfg, first=first)
    encoder = T5EncoderModel(model.config)
    encoder.load_state_dict(model.state_dict(), strict=False)
    encoder.save_pretrained(run.out)
    tokenizer.save_pretrained(run.out)
    write_json(run.out / "quality.json", {**quality, "vocab_size": len(tokenizer)})
    made = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    run.finish(
        artifact=TEXT_ENCODER,
        version=VERSIONS[TEXT_ENCODER],
        counts={"samples_seen": num_steps * cfg.batch_size, "texts": num_texts},
        parts=[*made, "quality.json"],
    )


def _some(texts: dict[str, str], num: int) -> list[str]:
    """Take evenly spaced texts, sorted so that their order is nobody's accident."""
    return sorted(set(texts.values()))[:: max(1, len(texts) // max(1, num))]


def _split_and_tokenize(
    by_kind: list[dict[str, str]], tokenizer: Any, cfg: TextEncoderConfig
) -> tuple[Corpus, list[Document]]:
    """Tokenize all texts; keep the documents of some pictures for measuring."""
    sample_ids = sorted({sample_id for texts in by_kind for sample_id in texts})
    order = keyed.permutation(
        cfg.seed, "text_encoder.held_out", epoch=0, ids=keyed.words(sample_ids)
    )
    num_held = min(HELD_OUT, len(sample_ids) // 10)
    held = {sample_ids[row] for row in order[:num_held].tolist()}
    tokens = []
    for texts in by_kind:
        ids = tokenizer(list(texts.values()), truncation=True, max_length=cfg.max_tokens)
        tokens.append(dict(zip(texts, ids["input_ids"], strict=True)))
    whole = Corpus(tokens)
    held_out = [
        whole.document(kind, sample_id, 0.0)
        for kind, texts in enumerate(tokens)
        for sample_id in sorted(held & texts.keys())
    ]
    kept = [{k: v for k, v in texts.items() if k not in held} for texts in tokens]
    return Corpus(kept), held_out


@torch.no_grad()
def _measure(
    model: Any, texts: list[Document], *, cfg: TextEncoderConfig, first: int
) -> dict[str, float | int]:
    """Measure how well masked tokens of held-out texts are guessed."""
    num_tokens, num_right, loss_sum = 0, 0, 0.0
    for index, start in enumerate(range(0, len(texts), cfg.batch_size)):
        batch = span_batch(
            texts[start : start + cfg.batch_size],
            seed=cfg.seed,
            stream="text_encoder.held_out_spans",
            epoch=index,
            first=first,
        )
        batch = sent_batch(batch, model.device)
        logits = model(**batch).logits
        labels = batch["labels"]
        is_word = (labels > UNKNOWN) & ((labels < first) | (labels >= first + NUM_SENTINELS))
        scores = torch.log_softmax(logits.float(), dim=-1)[is_word]
        loss_sum -= scores.gather(1, labels[is_word][:, None]).sum().item()
        num_right += int((scores.argmax(dim=-1) == labels[is_word]).sum())
        num_tokens += int(is_word.sum())
    return {
        "num_texts": len(texts),
        "num_masked_tokens": num_tokens,
        "masked_token_accuracy": round(num_right / max(1, num_tokens), 4),
        "masked_token_loss": round(loss_sum / max(1, num_tokens), 4),
    }
