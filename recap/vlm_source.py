"""A transformers model that writes about pictures: what its folder must hold, before it is loaded.

Any model that `AutoModelForImageTextToText` knows may write. Weights are safetensors, and no code
comes from a folder. A model that follows instructions is asked through its chat template; older
ones, in WITHOUT_CHAT, go on with a text or begin with nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from launch.errors import ArtifactError, ConfigError
from recap.config import DecodeConfig, VlmConfig

WITHOUT_CHAT: Final = frozenset(
    {
        "blip",
        "blip-2",
        "florence2",
        "git",
        "instructblip",
        "kosmos-2",
        "kosmos-2.5",
        "paligemma",
        "pix2struct",
    }
)
"""Model types that were made to go on with a text; every other one is asked in a chat."""


def refuse_unloadable(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a folder that could only be loaded by running code, or that is no writer at all.

    Args:
        folder: In the format of transformers.
        config: Its `config.json`.

    Raises:
        ArtifactError: It needs code of its own, has pickled weights alone, or none.
        ConfigError: transformers has no model of this type that writes about pictures.
    """
    from transformers import __version__
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    found = config.get("model_type")
    if found not in KNOWN:
        if "auto_map" in config:
            raise ArtifactError(
                f"{folder}: a model of type {found!r} that brings code of its own "
                f"({', '.join(map(str, config['auto_map'].values()))}), which is never run, and "
                f"transformers {__version__} has none for it. Take a version of the model that "
                "transformers supports itself (its name often ends in -hf)."
            )
        raise ConfigError(
            f"{folder}: config.json says model_type {found!r}; expected a model that writes about "
            f"pictures, one of {', '.join(sorted(KNOWN))}. A CLIP or an image classifier writes "
            "nothing."
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
        raise ArtifactError(
            f"{folder}: has {', '.join(pickled) or 'no weights'} and no *.safetensors; only "
            "safetensors are read, because a pickle can run code. Take a revision with "
            "safetensors, or convert the weights where you trust them: load the model there and "
            "call save_pretrained."
        )


def open_processor(folder: Path) -> Any:
    """Load a model's processor: its tokenizer and what makes tensors of pictures.

    Raises:
        ArtifactError: The folder has none.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    except ImportError as error:
        raise ConfigError(
            f"{folder}: its processor needs a package that is not installed: {str(error).strip()}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder}: its processor cannot be loaded ({error}); expected "
            "preprocessor_config.json (or processor_config.json) and the tokenizer's files beside "
            "config.json. Fetch the whole folder of the model."
        ) from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ArtifactError(
            f"{folder}: holds a {type(processor).__name__}, which does not read both pictures and "
            "words; expected preprocessor_config.json and the tokenizer's files. Fetch the whole "
            "folder of the model."
        )
    return processor


def chat_template(processor: Any) -> str | None:
    """Return the template by which a model is asked."""
    return getattr(processor, "chat_template", None) or processor.tokenizer.chat_template


def is_asked(model_type: str) -> bool:
    """Say whether a model is asked in a chat."""
    return model_type not in WITHOUT_CHAT


def refuse_unaskable(
    folder: Path,
    config: dict[str, Any],
    processor: Any,
    *,
    vlm: VlmConfig,
    decode: DecodeConfig,
) -> None:
    """Refuse settings that the model cannot follow.

    Raises:
        ConfigError: It has no chat template, is told nothing, or should search with beams.
    """
    if decode.method == "beam":
        raise ConfigError(
            "decode.method=beam is for captioners of ours and open_clip's; a transformers model "
            "writes with greedy or sample"
        )
    if not is_asked(config["model_type"]):
        return
    if chat_template(processor) is None:
        raise ConfigError(
            f"{folder}: a {config['model_type']} without a chat template, so nothing tells it "
            "where a question ends and its answer begins. Take the instruction-tuned version of "
            "the model, or put its chat_template.jinja into the folder."
        )
    if vlm.instruction is None:
        raise ConfigError(
            f"{folder}: a {config['model_type']} is asked in a chat; say what, for example "
            "vlm.instruction='Describe the picture in one sentence.'"
        )
    if vlm.keep_instruction:
        raise ConfigError(
            f"vlm.keep_instruction: a {config['model_type']} answers an instruction; it is no "
            "beginning of a caption. Leave it out."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's `config.json`.

    Raises:
        ArtifactError: It is absent or no JSON object.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error}); expected the settings of a captioner. Give the "
            "folder that holds config.json."
        ) from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path}: holds a {type(found).__name__}, expected a JSON object.")
    return found
