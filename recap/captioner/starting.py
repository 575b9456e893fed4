"""Where a captioner starts from: public weights of open_clip, its own or only a CLIP image tower.

`open_clip:NAME/TAG` names weights that open_clip knows and fetches, `open_clip:NAME@FILE` a local
safetensors file in open_clip's layout (`NAME/TAG@FILE` where it holds a tag's weights). Everything
is loaded strictly: a weight that is missing or left over is an error. Only safetensors are read,
because a pickle can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from launch.errors import ConfigError, InputError
from launch.manifest import digest_file
from launch.run import Run
from recap.captioner.coca import CoCa, SpecialTokens
from recap.captioner.folder import ARTIFACT, SavedCaptioner, load_captioner, read_size
from recap.captioner.tokenizer import clip_tokenizer
from recap.captioner.towers import ClipTower, open_clip_config
from recap.config import CaptionerSizeConfig

PREFIX = "open_clip:"
FORMS = "open_clip:NAME/TAG, open_clip:NAME@FILE or open_clip:NAME/TAG@FILE"
CLIP_VOCAB_SIZE = 49_408


class PublicWeights(NamedTuple):
    """Weights of a model of open_clip, found on this machine."""

    name: str
    """Architecture."""

    file: Path
    """In safetensors."""

    quick_gelu: bool
    """OpenAI's approximate GELU."""

    pixel_mean: list[float]
    pixel_std: list[float]

    @property
    def digest(self) -> str:
        """Digest of the file's bytes."""
        return digest_file(self.file)


def is_public(path: Path) -> bool:
    """Say whether a setting names weights of open_clip, rather than a folder of ours."""
    return str(path).startswith(PREFIX)


def find_public(spec: Path) -> PublicWeights:
    """Find weights of open_clip, fetching a tag's if they are not here yet.

    Args:
        spec: `open_clip:NAME/TAG`, `open_clip:NAME@FILE`, or `open_clip:NAME/TAG@FILE` for a local
            copy of a tag's weights, which keeps what is known of the tag: how it scales pictures,
            and its activation.

    Raises:
        ConfigError: There is no such architecture, tag or file, or the weights are pickled.
        InputError: The tag's weights cannot be fetched.
    """
    model, is_file, file = str(spec).removeprefix(PREFIX).partition("@")
    name, _, tag = model.partition("/")
    config = open_clip_config(name)
    known = open_clip.list_pretrained_tags_by_model(name)
    if tag not in known and (tag or not is_file):
        raise ConfigError(
            f"{spec}: expected {FORMS}; the tags of {name} are {', '.join(known) or 'none'}"
        )
    description: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag) if tag else {}
    if is_file:
        found = Path(file)
        if not found.is_file():
            raise ConfigError(f"{spec}: there is no file {file}; give the path of its weights")
    else:
        try:
            found = Path(open_clip.download_pretrained(description))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{spec}: its weights are not on this machine and cannot be fetched ({error}). "
                "Fetch them where there is a network, and give open_clip:NAME/TAG@FILE."
            ) from error
    if found.suffix != ".safetensors":
        raise ConfigError(
            f"{found}: only safetensors are read, because a pickle can run code; save the weights "
            "as safetensors and give open_clip:NAME/TAG@FILE"
        )
    return PublicWeights(
        name=name,
        file=found,
        quick_gelu=bool(description.get("quick_gelu", config.get("quick_gelu", False))),
        pixel_mean=list(description.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        pixel_std=list(description.get("std") or open_clip.OPENAI_DATASET_STD),
    )


def load_start(path: Path) -> SavedCaptioner:
    """Load a captioner: a folder of ours, or public weights.

    Args:
        path: The folder, or `open_clip:NAME/TAG` or `open_clip:NAME@FILE`.
    """
    return load_public(find_public(path)) if is_public(path) else load_captioner(path)


def size_of(path: Path) -> CaptionerSizeConfig:
    """Return the size of what `load_start` would load, without its weights."""
    return public_size(find_public(path)) if is_public(path) else read_size(path)


def note_start(run: Run, role: str, path: Path) -> None:
    """Note where a captioner comes from as an input of a run, by digest."""
    if is_public(path):
        run.external_input(role, path, find_public(path).digest)
    else:
        run.input(role, path, artifact=ARTIFACT)


def load_public(weights: PublicWeights) -> SavedCaptioner:
    """Load a whole CoCa with CLIP's vocabulary.

    Raises:
        ConfigError: The architecture is no CoCa, or one whose text towers differ from ours.
    """
    tokenizer = clip_tokenizer()
    size = public_size(weights)
    model = build_empty(size, vocab_size=tokenizer.vocab_size, special=tokenizer.special)
    load_strictly(model, read_weights(weights.file), file=weights.file)
    return SavedCaptioner(model=model, tokenizer=tokenizer)


def public_size(weights: PublicWeights) -> CaptionerSizeConfig:
    """Return the size of a CoCa of open_clip in our words.

    Raises:
        ConfigError: The architecture is no CoCa that this decoder runs.
    """
    config = open_clip_config(weights.name)
    text, upper = config.get("text_cfg", {}), config.get("multimodal_cfg")
    expected = {key: text.get(key) for key in ("width", "heads", "context_length", "vocab_size")}
    if upper is None or "hf_model_name" in text:
        raise ConfigError(
            f"{weights.name}: is no CoCa with a text tower of open_clip's own; give a CoCa, or a "
            "CLIP as image_init"
        )
    if text.get("vocab_size") != CLIP_VOCAB_SIZE:
        raise ConfigError(
            f"{weights.name}: has {text.get('vocab_size')} tokens and open_clip brings no "
            f"vocabulary of that size; CLIP's has {CLIP_VOCAB_SIZE}"
        )
    if any(upper.get(key) != value for key, value in expected.items()) or weights.quick_gelu:
        raise ConfigError(
            f"{weights.name}: the halves of its text tower differ in width, heads, context or "
            "vocabulary, or have OpenAI's approximate GELU, which this decoder does not run"
        )
    return CaptionerSizeConfig(
        tower="coca",
        image_model=weights.name,
        image_size=config["vision_cfg"]["image_size"],
        pixel_mean=weights.pixel_mean,
        pixel_std=weights.pixel_std,
        width=text["width"],
        embed_dim=config["embed_dim"],
        num_heads=text["heads"],
        image_layers=config["vision_cfg"]["layers"],
        text_layers=text["layers"],
        multimodal_layers=upper["layers"],
        mlp_ratio=text.get("mlp_ratio", 4.0),
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        cls_mask="shifted",
    )


def with_clip_tower(size: CaptionerSizeConfig, weights: PublicWeights) -> CaptionerSizeConfig:
    """Return a size whose image tower is that of a CLIP, the rest being as it was."""
    config = open_clip_config(weights.name)
    side = config["vision_cfg"].get("image_size", 224)
    return replace(
        size,
        tower="clip",
        image_model=weights.name,
        image_quick_gelu=weights.quick_gelu,
        image_size=side if isinstance(side, int) else side[0],
        pixel_mean=weights.pixel_mean,
        pixel_std=weights.pixel_std,
        embed_dim=config["embed_dim"],
    )


def load_clip_tower(model: CoCa, weights: PublicWeights) -> None:
    """Put a CLIP's image tower into a model whose size `with_clip_tower` gave."""
    assert isinstance(model.visual, ClipTower)
    everything = read_weights(weights.file)
    theirs = {
        name.removeprefix("visual."): tensor
        for name, tensor in everything.items()
        if name.startswith("visual.")
    }
    load_strictly(model.visual.clip, theirs, file=weights.file)
    with torch.no_grad():
        if "logit_scale" in everything:
            model.logit_scale.copy_(everything["logit_scale"].reshape(()))


def extend_context(model: CoCa, context_length: int) -> CoCa:
    """Return the model with room for longer captions; shorter ones mean to it what they meant.

    The new positions begin as copies of the last old one, and [CLS] keeps its own, which stands
    behind them.

    Raises:
        ConfigError: The model has room for more already; cutting would lose what it learned.
    """
    old = model.size.context_length
    if context_length < old:
        raise ConfigError(
            f"context_length={context_length} is shorter than the {old} tokens that the captioner "
            "started from has; leave it out, or give a larger one"
        )
    size = replace(model.size, context_length=context_length)
    vocab_size = model.text.vocab_size
    longer = build_empty(size, vocab_size=vocab_size, special=model.special)
    tensors = model.state_dict()
    positions = tensors["text.positional_embedding"]
    new = positions[old - 1 : old].expand(context_length - old, -1)
    tensors["text.positional_embedding"] = torch.cat([positions[:old], new, positions[old:]])
    longer.load_state_dict(tensors, strict=True)
    return longer


def build_empty(size: CaptionerSizeConfig, *, vocab_size: int, special: SpecialTokens) -> CoCa:
    """Return a model whose weights are about to be loaded; no draw of it shapes a result."""
    with torch.random.fork_rng(devices=[]):
        return CoCa(size, vocab_size=vocab_size, special=special)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file as float32.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        return {name: tensor.float() for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ConfigError(f"{file}: is no whole safetensors file ({error})") from error


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], *, file: Path) -> None:
    """Load weights, none missing and none left over.

    Raises:
        ConfigError: They do not fit; it names those that do not.
    """
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ConfigError(f"{file}: these weights are not of this architecture: {error}") from error
