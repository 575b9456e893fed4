"""Features kept in files, so that a picture is encoded once.

`eval score` keeps them between runs where it is asked to; `eval distribution` keeps them in its
artifact and takes them from an earlier one.

A file is named after everything that its bytes depend on: which pictures or texts, the model with a
digest of its weights, preprocessing, precision, batch size, threads, the device, the processor's
instructions and the versions of the packages that compute. What it was named after is written into
it, with a digest of the features, and compared when it is read, so that other weights, prompts or
settings never find it and damage is never taken for features. Nothing is ever thrown away; delete
the folder when it has served.

N pictures or texts, D feature width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from eval.clip import ClipScorer
from launch.errors import ArtifactError
from launch.manifest import canonical_json, digest_bytes, write_bytes
from launch.processes import device

FORM: Final = 3
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

DIGEST: Final = "digest"
"""Key of the digest of the features in the metadata."""

OF_PICTURES: Final = ("architecture", "weights", "preprocessing", "precision")
"""What of a scorer the feature of a picture depends on; the others shape texts and formulas."""

OF_TEXTS: Final = ("architecture", "weights", "prefix", "context_length", "truncation", "precision")


@runtime_checkable
class FeatureModel(Protocol):
    """What turns pictures into features, and says how."""

    def picture_features(
        self, pixels: UInt8[np.ndarray, "N H W 3"], *, batch_size: int
    ) -> Float32[np.ndarray, "N D"]:
        """Return one feature per picture."""

    def describe(self) -> dict[str, Any]:
        """Return everything that a feature depends on."""


@dataclass(frozen=True)
class KeptFeatures:
    """A folder of features, or none at all, in which case nothing is found and nothing kept."""

    folder: Path | None
    model: FeatureModel
    batch_size: int
    threads: int

    @property
    def clip(self) -> ClipScorer:
        """The model where it is a CLIP; no other reads texts."""
        assert isinstance(self.model, ClipScorer)
        return self.model

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

    def file_of_pictures(self, source: Sequence[str]) -> str:
        """Return the name of the file that keeps the features of pictures."""
        return _name(self._key(OF_PICTURES, source))

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
        described = self.model.describe()
        scorer: dict[str, Any] = {name: described[name] for name in names}
        of = digest_bytes(canonical_json(list(what)))
        return canonical_json([FORM, of, scorer, self.batch_size, self.threads, _made_by()])

    def _read(self, key: bytes, *, num: int) -> Float32[np.ndarray, "N D"] | None:
        from safetensors import SafetensorError, safe_open

        if self.folder is None or not (path := self.folder / _name(key)).is_file():
            return None
        try:
            with safe_open(path, "np") as file:
                metadata, features = file.metadata() or {}, file.get_tensor(NAME)
        except SafetensorError as error:
            raise ArtifactError(
                f"{path}: cannot be read as features ({error}); expected a safetensors file that "
                f"captionmix kept. {_AGAIN}"
            ) from error
        if metadata.get(NAME) != key.decode() or len(features) != num:
            raise ArtifactError(
                f"{path}: holds {len(features):,} features that do not belong to its name; "
                f"expected {num:,}. {_AGAIN}"
            )
        if metadata.get(DIGEST) != (found := digest_bytes(features.tobytes())):
            raise ArtifactError(
                f"{path}: its features have digest {found}, expected {metadata.get(DIGEST)}, with "
                f"which they were kept; the file has changed. {_AGAIN}"
            )
        whole: Float32[np.ndarray, "N D"] = features
        return whole

    def _write(self, key: bytes, features: Float32[np.ndarray, "N D"]) -> None:
        from safetensors.numpy import save

        if self.folder is not None:
            features = np.ascontiguousarray(features)
            said = {NAME: key.decode(), DIGEST: digest_bytes(features.tobytes())}
            write_bytes(self.folder / _name(key), save({NAME: features}, metadata=said))


_AGAIN: Final = "Delete the file and run the command again; its features are computed anew."


def _name(key: bytes) -> str:
    return f"{digest_bytes(key)}.safetensors"


def _made_by() -> list[str]:
    """Return what computes a feature here: packages by version, processor and device."""
    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    versions = [version(package) for package in PACKAGES]
    return [*versions, torch.backends.cpu.get_cpu_capability(), name]
