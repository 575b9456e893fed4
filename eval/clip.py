"""CLIP features, and the similarity and distance of a picture and a text.

A score means nothing without its scorer, so `describe` names all that a number depends on:
architecture, a digest of the weights, preprocessing, prefix, precision, context and formula;
`TextFeatures.truncation_rate` says how many texts were cut. `eval/clip_load.py` opens models.

B batch, N pictures or texts, M distinct texts, D feature width, L tokens, H height, W width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from launch.processes import sent

SIMILARITY_FORMULA = "100 * cos(picture, text)"
DISTANCE_FORMULA = "clip(1 - cos(picture, text), 0, 2), clipped per pair"


class TextFeatures(NamedTuple):
    """Features of texts, one row per text asked for, and how many were cut."""

    features: Float32[np.ndarray, "N D"]
    num_distinct: int
    num_truncated: int
    """Distinct texts longer than the context, the end token kept."""

    @property
    def truncation_rate(self) -> float:
        """Share of the distinct texts that were cut."""
        return self.num_truncated / self.num_distinct if self.num_distinct else 0.0


class Tokenised(NamedTuple):
    """Token ids padded to the context, and the true length of each text before any cut."""

    ids: Int64[Tensor, "N L"]
    num_tokens: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP that scores, with everything that a score depends on."""

    model: nn.Module
    architecture: str | dict[str, Any]
    """Name in open_clip, or the config itself for a model fitted here."""

    tokenise: Callable[[Sequence[str]], Tokenised]
    context_length: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    weights_digest: str
    prefix: str = ""
    precision: str = "float32"

    def describe(self) -> dict[str, Any]:
        """Return everything that a score of this scorer depends on, for a recipe."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_digest,
            "preprocessing": {
                "size_px": self.image_size,
                "mean": list(self.mean),
                "std": list(self.std),
                "interpolation": self.interpolation,
                "resize_mode": self.resize_mode,
            },
            "prefix": self.prefix,
            "context_length": self.context_length,
            "truncation": "keeps the first tokens and the end token",
            "precision": self.precision,
            "formula": {
                "clip_similarity": SIMILARITY_FORMULA,
                "clip_distance": DISTANCE_FORMULA,
            },
        }

    def picture_features(
        self, pixels: UInt8[np.ndarray, "N H W 3"], *, batch_size: int = 64
    ) -> Float32[np.ndarray, "N D"]:
        """Return normalised features of pictures; the last batch is padded to full size."""
        device = next(self.model.parameters()).device
        features = []
        for start in range(0, len(pixels), batch_size):
            batch = self.preprocess(pixels[start : start + batch_size])
            num_real = len(batch)
            batch = functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, batch_size - num_real))
            with torch.inference_mode():
                encoded = self.model.encode_image(sent(batch, device).to(self._dtype))
            features.append(_normalised(encoded[:num_real]))
        return np.concatenate(features) if features else np.zeros((0, 1), np.float32)

    def text_features(self, texts: Sequence[str], *, batch_size: int = 64) -> TextFeatures:
        """Return normalised features of texts, each distinct text encoded once.

        Texts are encoded in order of length, so that batches are as short as they can be; what
        lies behind a text's end token cannot reach its feature.
        """
        distinct = sorted(set(texts))
        row_of = {text: row for row, text in enumerate(distinct)}
        if not distinct:
            return TextFeatures(np.zeros((0, 1), np.float32), 0, 0)
        tokens = self.tokenise([self.prefix + text for text in distinct])
        order = np.argsort(tokens.num_tokens, kind="stable")
        features: Float32[np.ndarray, "M D"] | None = None
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded = np.resize(rows, batch_size)  # repeats rows, so every batch has one shape
            with torch.inference_mode():
                encoded = encode_text(self.model, tokens.ids[padded])
            part = _normalised(encoded)[: len(rows)]
            if features is None:
                features = np.zeros((len(distinct), part.shape[1]), np.float32)
            features[rows] = part
        assert features is not None
        return TextFeatures(
            features=features[[row_of[text] for text in texts]],
            num_distinct=len(distinct),
            num_truncated=int((tokens.num_tokens > self.context_length).sum()),
        )

    def num_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the context, prefix included."""
        tokens = self.tokenise([self.prefix + text for text in texts])
        return int((tokens.num_tokens > self.context_length).sum())

    def preprocess(self, pixels: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 S S"]:
        """Resize and normalise pictures as open_clip's own transform does."""
        if pixels.shape[1:3] != (self.image_size, self.image_size):
            transform = self._transform()
            return torch.stack([transform(Image.fromarray(picture)) for picture in pixels])
        mean = torch.tensor(self.mean)[:, None, None]
        std = torch.tensor(self.std)[:, None, None]
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        return (images.float() / 255 - mean) / std

    def _transform(self) -> Callable[[Image.Image], Tensor]:
        from open_clip.transform import image_transform

        return image_transform(
            self.image_size,
            is_train=False,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "float32" else torch.bfloat16


def similarity(
    pictures: Float32[np.ndarray, "N D"], texts: Float32[np.ndarray, "N D"]
) -> Float64[np.ndarray, " N"]:
    """Return 100 x the cosine of each pair of features."""
    return 100 * _cosine(pictures, texts)


def distance(
    pictures: Float32[np.ndarray, "N D"], texts: Float32[np.ndarray, "N D"]
) -> Float64[np.ndarray, " N"]:
    """Return 1 - cosine of each pair, clipped to [0, 2]: rounding alone can leave that range."""
    return np.clip(1 - _cosine(pictures, texts), 0, 2)


def _cosine(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: Float64[np.ndarray, " N"] = (a * b).sum(axis=1) / norms
    return cosine


def _normalised(features: Float[Tensor, "B D"]) -> Float32[np.ndarray, "B D"]:
    result: Float32[np.ndarray, "B D"] = (
        functional.normalize(features.float(), dim=-1).cpu().numpy()
    )
    return result


def encode_text(model: nn.Module, tokens: Int64[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return what `model.encode_text` does, reading no further than the longest end token.

    A causal tower cannot look ahead, so the padding behind the end tokens only costs time. Models
    of another build are asked for their own `encode_text`.

    Args:
        model: The model, wherever it is.
        tokens: Token ids, on the CPU: where they end is looked at, and a device is not waited for.
    """
    from open_clip.model import CLIP
    from open_clip.transformer import text_global_pool

    device = next(model.parameters()).device
    if not (
        isinstance(model, CLIP)
        and model.attn_mask is not None
        and model.text_pool_type in ("argmax", "eos")
    ):
        features: Tensor = model.encode_text(sent(tokens, device))
        return features
    ends = tokens.argmax(-1)
    if model.text_pool_type == "eos":
        ends = (tokens == model.text_eos_id).int().argmax(-1)
    length = int(ends.max()) + 1
    tokens = sent(tokens[:, :length], device)
    dtype = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = text_global_pool(
        model.ln_final(x), tokens, model.text_pool_type, eos_token_id=model.text_eos_id
    )
    if model.text_projection is None:
        return x
    if isinstance(model.text_projection, nn.Linear):
        projected: Tensor = model.text_projection(x)
        return projected
    return x @ model.text_projection
