"""CLIP features, and the similarity and distance of a picture and a text.

Any open_clip model serves: by name and tag, by name and a local safetensors file, or as a folder
such as `eval fit-judge` writes. A score means nothing without its scorer, so `describe` names all
that a number depends on: architecture, a digest of the weights, preprocessing, prefix, precision,
context and formula; `TextFeatures.truncation_rate` says how many texts were cut.

B batch, N pictures or texts, M distinct texts, D feature width, L tokens, H height, W width
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from eval.config import ClipSizeConfig
from launch.errors import ArtifactError, ConfigError
from launch.manifest import digest_bytes, write_bytes, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
TOKENIZER_NAME = "tokenizer.json"

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unk>"
PAD_ID, START_ID, END_ID, UNKNOWN_ID = range(4)

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
                encoded = self.model.encode_image(batch.to(device, self._dtype))
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
        device = next(self.model.parameters()).device
        features: Float32[np.ndarray, "M D"] | None = None
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded = np.resize(rows, batch_size)  # repeats rows, so every batch has one shape
            with torch.inference_mode():
                encoded = encode_text(self.model, tokens.ids[padded].to(device))
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
    """
    from open_clip.model import CLIP
    from open_clip.transformer import text_global_pool

    if not (
        isinstance(model, CLIP)
        and model.attn_mask is not None
        and model.text_pool_type in ("argmax", "eos")
    ):
        features: Tensor = model.encode_text(tokens)
        return features
    ends = tokens.argmax(-1)
    if model.text_pool_type == "eos":
        ends = (tokens == model.text_eos_id).int().argmax(-1)
    length = int(ends.max()) + 1
    tokens = tokens[:, :length]
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


# --------------------------------------------------------------------------- loading


def load_clip(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    prefix: str = "",
    precision: str = "float32",
) -> ClipScorer:
    """Load a CLIP by open_clip name, or from a folder in open_clip's own form.

    Args:
        model: Name in open_clip, `hf-hub:` id, or a folder with `open_clip_config.json`.
        weights: Tag in open_clip or a local safetensors file; none for a folder.
        prefix: Put before every text, for example "A photo depicts ".
        precision: `float32` or `bfloat16`.

    Raises:
        ConfigError: No such model, tag or precision, or weights that are a pickle.
        ArtifactError: The folder lacks a file.
    """
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"clip precision: got {precision!r}, expected float32 or bfloat16")
    folder = Path(str(model).removeprefix("local-dir:"))
    if folder.is_dir():
        scorer = _load_folder(folder, prefix=prefix, precision=precision)
    else:
        scorer = _load_named(str(model), weights=weights, prefix=prefix, precision=precision)
    scorer.model.eval().requires_grad_(False)
    if precision == "bfloat16":
        scorer.model.to(torch.bfloat16)
    return scorer


def _load_folder(folder: Path, *, prefix: str, precision: str) -> ClipScorer:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    for name in (CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: {name} is missing; fit the judge again.")
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    model = build_clip(config["model_cfg"])
    model.load_state_dict(load_file(folder / WEIGHTS_NAME))
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    return scorer_of(
        model,
        config=config,
        tokenizer=tokenizer,
        prefix=prefix,
        precision=precision,
    )


def scorer_of(
    model: nn.Module,
    *,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    prefix: str = "",
    precision: str = "float32",
) -> ClipScorer:
    """Make a scorer of a model fitted here, from its config and its own vocabulary."""
    context_length = config["model_cfg"]["text_cfg"]["context_length"]
    preprocess = config["preprocess_cfg"]
    return ClipScorer(
        model=model,
        architecture=config["model_cfg"],
        tokenise=lambda texts: tokenise(tokenizer, texts, context_length=context_length),
        context_length=context_length,
        image_size=preprocess["size"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize_mode=preprocess["resize_mode"],
        weights_digest=weights_digest(model, tokenizer.to_str()),
        prefix=prefix,
        precision=precision,
    )


def _load_named(
    name: str, *, weights: str | Path | None, prefix: str, precision: str
) -> ClipScorer:
    import open_clip

    if not name.startswith("hf-hub:") and name not in open_clip.list_models():
        raise ConfigError(
            f"clip model {name!r}: not a folder and no model of open_clip; see "
            "`open_clip.list_models()`, or give a folder with open_clip_config.json"
        )
    if weights is not None and Path(weights).is_file():
        if Path(weights).suffix != ".safetensors":
            raise ConfigError(
                f"clip weights {weights}: only safetensors are read, because a pickle can run "
                "code; save the weights as safetensors"
            )
    elif weights is not None and weights not in open_clip.list_pretrained_tags_by_model(name):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(f"clip weights {weights!r}: no file and no tag of {name}; tags: {tags}")
    elif weights is None and not name.startswith("hf-hub:"):
        raise ConfigError(f"clip model {name!r}: give its weights, a tag or a safetensors file")
    model = open_clip.create_model(name, pretrained=str(weights) if weights else None)
    tokenizer = open_clip.get_tokenizer(name)
    preprocess = model.visual.preprocess_cfg
    size = preprocess["size"]
    context_length = int(tokenizer.context_length)

    def tokenise_named(texts: Sequence[str]) -> Tokenised:
        return Tokenised(
            ids=tokenizer(list(texts)),
            num_tokens=np.array([_length(tokenizer, text) for text in texts], np.int64),
        )

    return ClipScorer(
        model=model,
        architecture=f"open_clip {name}",
        tokenise=tokenise_named,
        context_length=context_length,
        image_size=int(size if isinstance(size, int) else size[0]),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize_mode=preprocess["resize_mode"],
        weights_digest=weights_digest(model, type(tokenizer).__name__),
        prefix=prefix,
        precision=precision,
    )


def _length(tokenizer: Any, text: str) -> int:
    """Return the tokens of a text, start and end included, before any cut."""
    from open_clip.tokenizer import SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)


def weights_digest(model: nn.Module, *context: str) -> str:
    """Digest weights by name, shape and value, and what else decides a feature."""
    lines = [*context]
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        lines.append(f"{name} {list(values.shape)} {values.dtype} {digest_bytes(raw)}")
    return digest_bytes("\n".join(lines).encode())


# --------------------------------------------------------------------------- a CLIP from scratch


def clip_config(size: ClipSizeConfig, *, image_size: int, vocab_size: int) -> dict[str, Any]:
    """Return open_clip's own config of a small CLIP, with its preprocessing."""
    return {
        "model_cfg": {
            "embed_dim": size.embed_dim,
            "vision_cfg": {
                "image_size": image_size,
                "patch_size": size.patch_size,
                "width": size.width,
                "head_width": size.width // size.num_heads,
                "layers": size.image_layers,
                "mlp_ratio": 4.0,
            },
            "text_cfg": {
                "context_length": size.context_length,
                "vocab_size": vocab_size,
                "width": size.width,
                "heads": size.num_heads,
                "layers": size.text_layers,
                "pad_id": PAD_ID,
                "eos_id": END_ID,
                "pool_type": "eos",
                "hf_tokenizer_name": "tokenizer",
            },
        },
        "preprocess_cfg": {
            "size": image_size,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def build_clip(model_cfg: dict[str, Any]) -> nn.Module:
    """Build open_clip's CLIP from its own config."""
    from open_clip.model import CLIP

    return CLIP(**json.loads(json.dumps(model_cfg)))  # a copy: the constructor fills in fields


def train_tokenizer(texts: Sequence[str], *, vocab_size: int) -> Tokenizer:
    """Train a lower-case byte-pair vocabulary; a small corpus may need fewer words than allowed."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # Words are told from their middles by a mark before them. `end_of_word_suffix`, CLIP's way,
    # numbers the marked letters in an order that changes from run to run (tokenizers 0.23).
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, START_ID), (END, END_ID)]
    )
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], *, context_length: int) -> Tokenised:
    """Tokenise and pad; a text that is too long loses words before its end token, never that."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    ids = torch.full((len(encoded), context_length), PAD_ID)
    for row, tokens in enumerate(encoded):
        if len(tokens) > context_length:
            tokens = [*tokens[: context_length - 1], END_ID]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return Tokenised(ids=ids, num_tokens=np.array([len(tokens) for tokens in encoded], np.int64))


def save_clip(
    folder: Path, *, model: nn.Module, config: dict[str, Any], tokenizer: Tokenizer
) -> list[str]:
    """Write a CLIP so that `load_clip` and open_clip's `local-dir:` read it; return file names."""
    from safetensors.torch import save

    write_json(folder / CONFIG_NAME, config)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
    write_bytes(folder / TOKENIZER_NAME, tokenizer.to_str(pretty=True).encode())
    # open_clip reads the vocabulary through transformers, which wants to know its class.
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "bos_token": START,
            "eos_token": END,
            "unk_token": UNKNOWN,
            "model_max_length": config["model_cfg"]["text_cfg"]["context_length"],
        },
    )
    return [CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME, "tokenizer_config.json"]
