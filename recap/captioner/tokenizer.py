"""The captioner's vocabulary: byte-level BPE, trained on the captions themselves, or CLIP's.

Of a trained one, any text survives a round trip unchanged, letter case and leading spaces included,
since regularities of captions are measured later. CLIP's, which public weights need, knows small
letters and single spaces alone. Nothing is cut here: captions longer than the context are the
caller's to leave out and to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from recap.captioner.coca import SpecialTokens

PAD, START, END = "<pad>", "<start>", "<end>"
CLIP_PAD, CLIP_START, CLIP_END = "!", "<start_of_text>", "<end_of_text>"
"""CLIP pads with token 0, which is also an exclamation mark inside a word."""

FILE_NAME = "tokenizer.json"

BYTE_TOKENS = 256
"""Tokens for single bytes, which every vocabulary has; nothing is ever unknown."""

CLIP_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""What CLIP takes for a word, before it looks for parts of it."""

NO_SPACE_BEFORE = r" (?=[.,;:!?)](\s|$)|'(s|t|re|ve|m|ll|d)\b)"
"""Spaces that CLIP's vocabulary puts where no one writes them."""


class CaptionTokenizer:
    """Text to token ids and back, with start and end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # "<end>" inside somebody's alt text is six letters, not the end. This setting is not
        # stored in tokenizer.json.
        tokenizer.encode_special_tokens = True
        names = (PAD, START, END)
        if tokenizer.token_to_id(CLIP_START) is not None:
            names = (CLIP_PAD, CLIP_START, CLIP_END)
        pad, start, end = (_id_of(tokenizer, name) for name in names)
        self.special = SpecialTokens(pad=pad, start=start, end=end)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text as token ids between the start and the end token."""
        special = self.special
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[special.start, *encoding.ids, special.end] for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens say nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def for_transformers(self, *, max_tokens: int) -> Any:
        """Return the vocabulary as a tokenizer of transformers that gives the ids of `encode`.

        Args:
            max_tokens: Longer texts are cut before their end token.
        """
        from transformers import PreTrainedTokenizerFast

        made, special = Tokenizer.from_str(self.to_json()), self.special
        start, end = (made.id_to_token(id_) for id_ in (special.start, special.end))
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            special_tokens=[(start, special.start), (end, special.end)],
        )
        pad = made.id_to_token(special.pad)
        return PreTrainedTokenizerFast(
            tokenizer_object=made,
            bos_token=start,
            eos_token=end,
            # CLIP's padding is a word as well; as a special token it would no longer be one.
            pad_token=end if pad == CLIP_PAD else pad,
            model_max_length=max_tokens,
            padding_side="right",
            split_special_tokens=True,  # "<end>" inside a text is six letters, here too
            clean_up_tokenization_spaces=False,
        )

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`."""
        return str(self._tokenizer.to_str(pretty=True))


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> CaptionTokenizer:
    """Learn a vocabulary from texts.

    Args:
        texts: The corpus; its order does not matter, its repetitions do.
        vocab_size: Upper bound, special and byte tokens included.
    """
    smallest = BYTE_TOKENS + 3
    if vocab_size < smallest:
        raise ValueError(
            f"model.vocab_size must be at least {smallest} (256 bytes and 3 special tokens), "
            f"got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return CaptionTokenizer(tokenizer)


def clip_tokenizer() -> CaptionTokenizer:
    """Return CLIP's vocabulary of 49,408 tokens, from the copy that open_clip brings.

    Unlike open_clip it repairs no broken encodings and undoes no HTML escapes, and "<end_of_text>"
    in a text is a word.
    """
    from open_clip import SimpleTokenizer

    theirs = SimpleTokenizer()
    tokenizer = Tokenizer(
        models.BPE(
            vocab=theirs.encoder,
            merges=sorted(theirs.bpe_ranks, key=theirs.bpe_ranks.__getitem__),
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.add_special_tokens([CLIP_START, CLIP_END])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"[\u2018\u2019]"), "'"),
            normalizers.Replace(Regex(r"[\u201c\u201d]"), '"'),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Replace("</w>", " "),
            decoders.Replace(Regex(NO_SPACE_BEFORE), ""),
            decoders.Strip(" ", 0, 1),
        ]
    )
    return CaptionTokenizer(tokenizer)


def load_tokenizer(folder: Path) -> CaptionTokenizer:
    """Read `tokenizer.json` of a captioner."""
    return CaptionTokenizer(Tokenizer.from_file(str(folder / FILE_NAME)))


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token} token; captioner tokenizers have one each")
    return int(found)
