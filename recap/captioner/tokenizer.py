"""The captioner's vocabulary: byte-level BPE, trained on the captions themselves.

Any text survives a round trip unchanged, letter case and leading spaces included, since
regularities of captions are measured later. Nothing is cut here: captions longer than the context
are the caller's to leave out and to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recap.captioner.coca import SpecialTokens

PAD, START, END = "<pad>", "<start>", "<end>"
FILE_NAME = "tokenizer.json"

BYTE_TOKENS = 256
"""Tokens for single bytes, which every vocabulary has; nothing is ever unknown."""


class CaptionTokenizer:
    """Text to token ids and back, with start and end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # "<end>" inside somebody's alt text is six letters, not the end. This setting is not
        # stored in tokenizer.json.
        tokenizer.encode_special_tokens = True
        self.special = SpecialTokens(
            pad=_id_of(tokenizer, PAD), start=_id_of(tokenizer, START), end=_id_of(tokenizer, END)
        )

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


def load_tokenizer(folder: Path) -> CaptionTokenizer:
    """Read `tokenizer.json` of a captioner."""
    return CaptionTokenizer(Tokenizer.from_file(str(folder / FILE_NAME)))


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token} token; captioner tokenizers have one each")
    return int(found)
