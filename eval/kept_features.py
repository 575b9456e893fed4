"""CLIP features kept between runs of `eval score`, so that a picture is encoded once.

A file is named after everything that its bytes depend on: which pictures or texts, the model with a
digest of its weights, preprocessing, precision, batch size, threads, the processor's instructions
and the versions of the packages that compute. What it was named after is written into it and
compared when it is read, so that other weights, prompts or settings never find it. Nothing is ever
thrown away; delete the folder when it has served.

N pictures or texts, D feature width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float32

from eval.clip import ClipScorer
from launch.errors import ArtifactError
from launch.manifest import canonical_json, digest_bytes, write_bytes

FORM: Final = 2
"""Raised when our own code computes a feature otherwise, be it by a rounding."""

PACKAGES: Final = (
    "diffusers",
    "open_clip_torch",
    "pillow",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
"""Distributions that decode, reconstruct, resize, cut into tokens or multiply."""

NAME: Final = "features"
"""Tensor in a file, and key of its metadata."""

OF_PICTURES: Final = ("architecture", "weights", "preprocessing", "precision")
"""What of a scorer the feature of a picture depends on; the others shape texts and formulas."""

OF_TEXTS: Final = ("architecture", "weights", "prefix", "context_length", "truncation", "precision")


def made_by() -> list[str]:
    """Return what computes a feature here: versions of packages, and the processor."""
    return [*(version(name) for name in PACKAGES), torch.backends.cpu.get_cpu_capability()]


@dataclass(frozen=True)
class KeptFeatures:
    """A folder of features, or none at all, in which case nothing is found and nothing kept."""

    folder: Path | None
    clip: ClipScorer
    batch_size: int
    threads: int

    def pictures(self, source: Sequence[str], *, num: int) -> Float32[np.ndarray, "N D"] | None:
        """Return the features of pictures if an earlier run kept them.

        Args:
            source: What says which pictures these are: digests and choices.
            num: How many they are.
        """
        return self._read(self._key(OF_PICTURES, source), num=num)

    def keep_pictures(self, source: Sequence[str], features: Float32[np.ndarray, "N D"]) -> None:
        """Keep the features of pictures."""
        self._write(self._key(OF_PICTURES, source), features)

    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "N D"]:
        """Return the features of texts, encoded unless an earlier run kept those of all of them."""
        key = self._key(OF_TEXTS, texts)
        found = self._read(key, num=len(texts))
        if found is None:
            found = self.clip.text_features(texts, batch_size=self.batch_size).features
            self._write(key, found)
        return found

    def _key(self, names: Sequence[str], what: Sequence[str]) -> bytes:
        if self.folder is None:
            return b""
        described = self.clip.describe()
        scorer: dict[str, Any] = {name: described[name] for name in names}
        of = digest_bytes(canonical_json(list(what)))
        return canonical_json([FORM, of, scorer, self.batch_size, self.threads, made_by()])

    def _path(self, key: bytes) -> Path:
        assert self.folder is not None
        return self.folder / f"{digest_bytes(key)}.safetensors"

    def _read(self, key: bytes, *, num: int) -> Float32[np.ndarray, "N D"] | None:
        from safetensors import SafetensorError, safe_open

        if self.folder is None or not (path := self._path(key)).is_file():
            return None
        try:
            with safe_open(path, "np") as file:
                metadata, features = file.metadata() or {}, file.get_tensor(NAME)
        except SafetensorError as error:
            raise ArtifactError(
                f"{path}: cannot be read as features ({error}); expected a safetensors file that "
                "`eval score` kept. Delete it, and score again."
            ) from error
        if metadata.get(NAME) != key.decode() or len(features) != num:
            raise ArtifactError(
                f"{path}: holds {len(features):,} features that do not belong to its name; "
                f"expected {num:,}. Delete it, and score again."
            )
        found: Float32[np.ndarray, "N D"] = features
        return found

    def _write(self, key: bytes, features: Float32[np.ndarray, "N D"]) -> None:
        from safetensors.numpy import save

        if self.folder is not None:
            data = save({NAME: np.ascontiguousarray(features)}, metadata={NAME: key.decode()})
            write_bytes(self._path(key), data)
