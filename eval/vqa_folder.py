"""Where a BLIP-VQA lies, and the digest of what it holds. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from launch.errors import ArtifactError, InputError
from launch.manifest import digest_bytes, digest_file

FILES: Final = (".json", ".safetensors", ".txt")
"""Files that make a model what it is: settings, weights, vocabulary."""


class Found(NamedTuple):
    """A model's folder and the digest of what it holds."""

    folder: Path
    digest: str


def find(source: Path) -> Found:
    """Find a model: a folder, or a hub id that is fetched through the hub's own cache.

    Raises:
        InputError: There is no such folder, and no such id can be fetched.
        ArtifactError: It holds no safetensors, which alone are read.
    """
    folder = source
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            wanted = [f"*{suffix}" for suffix in FILES]
            folder = Path(snapshot_download(str(source), allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise InputError(
                f"vqa.model: {source} is neither a folder nor a hub id that can be fetched "
                f"({str(error)[:300]}). Give a folder in the Hugging Face format, or an id such as "
                "Salesforce/blip-vqa-base where the hub can be reached."
            ) from error
    files = sorted(path for path in folder.iterdir() if path.suffix in FILES)
    if not any(path.suffix == ".safetensors" for path in files):
        raise ArtifactError(
            f"{folder}: holds no safetensors file, and others may be pickles, which can run code. "
            "Save the model once with `save_pretrained`."
        )
    lines = [f"{path.name} {digest_file(path)}" for path in files]
    return Found(folder, digest_bytes("\n".join(lines).encode()))
