"""How long captions are for a text encoder, and how many it would cut.

Only the tokenizer is loaded. A text is as long as the encoder would read it, start and end tokens
included, before any cut.

N texts
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from launch.errors import ArtifactError, ConfigError
from launch.manifest import digest_bytes, is_complete, read_manifest
from t2i.artifacts import TEXT_ENCODER, VERSIONS

CLIP = "clip"
"""Name of CLIP's own vocabulary, which comes with open_clip."""

CLIP_TOKENS = 77
"""Longest text of every public CLIP."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder, as far as lengths go."""

    name: str
    """What it is called in tables; says nothing of where it lies."""

    max_tokens: int
    """Longer texts are cut."""

    digest: str
    """Of the artifact, or of all that decides a length."""

    count: Callable[[Sequence[str]], Int64[np.ndarray, " N"]]
    """Tokens of each text."""


def split_limit(spec: str) -> tuple[str, int | None]:
    """Take `FOLDER_OR_HUB_ID[:MAX_TOKENS]` apart.

    Raises:
        ConfigError: The limit is no whole number above 0.
    """
    source, colon, limit = spec.rpartition(":")
    if not colon:
        return spec, None
    if not limit.isdecimal() or not int(limit) or not source:
        raise ConfigError(
            f"text_encoders: {spec!r} ends in {limit!r}; expected FOLDER_OR_HUB_ID[:MAX_TOKENS], "
            "such as google/t5-v1_1-small:77"
        )
    return source, int(limit)


def open_encoder(spec: str) -> Encoder:
    """Open the tokenizer of a text encoder.

    Args:
        spec: Text encoder artifact, folder in the Hugging Face format, hub id, or `clip`; behind a
            colon the longest text in tokens, without which the tokenizer's own limit holds.

    Raises:
        ConfigError: No limit is given and the tokenizer knows none.
        ArtifactError: There is no such tokenizer.
    """
    source, max_tokens = split_limit(spec)
    if source == CLIP:
        return _clip_encoder(max_tokens or CLIP_TOKENS)
    tokenizer = _load(source)
    limit = max_tokens or int(tokenizer.model_max_length)
    if limit > 1 << 20:
        raise ConfigError(
            f"text_encoders: {spec!r}: its tokenizer states no longest text; write {source}:77, "
            "say, for 77 tokens"
        )
    if is_complete(Path(source)):
        found = read_manifest(Path(source), artifact=TEXT_ENCODER, version=VERSIONS[TEXT_ENCODER])
        name, digest = f"text encoder {found.digest[:8]}", found.digest
    else:
        digest = digest_bytes(_described(tokenizer).encode())
        name = f"tokenizer {digest[:8]}" if Path(source).is_dir() else source
    return Encoder(name=name, max_tokens=limit, digest=digest, count=_counter(tokenizer))


def _load(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            source, local_files_only=Path(source).is_dir(), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"text_encoders: {source}: no tokenizer that transformers can load ({error}). Give a "
            "text encoder artifact, a folder in the Hugging Face format, a hub id, or `clip`."
        ) from error


def _described(tokenizer: Any) -> str:
    if tokenizer.is_fast:
        return str(tokenizer.backend_tokenizer.to_str())
    return repr(sorted(tokenizer.get_vocab().items()))


def _counter(tokenizer: Any) -> Callable[[Sequence[str]], Int64[np.ndarray, " N"]]:
    def count(texts: Sequence[str]) -> Int64[np.ndarray, " N"]:
        if not texts:
            return np.zeros(0, np.int64)
        ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return np.array([len(row) for row in ids], np.int64)

    return count


def _clip_encoder(max_tokens: int) -> Encoder:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()

    def count(texts: Sequence[str]) -> Int64[np.ndarray, " N"]:
        return np.array([len(tokenizer.encode(text)) + 2 for text in texts], np.int64)

    words = repr(sorted(tokenizer.encoder.items()))
    return Encoder(
        name=CLIP, max_tokens=max_tokens, digest=digest_bytes(words.encode()), count=count
    )
