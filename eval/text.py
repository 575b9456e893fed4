"""Displayed words: which words a prompt wants shown, what OCR reads, and how far apart they are.

A prompt's words are those in quotation marks and those of its claims' `text`. They are compared
without regard to case and blanks, because readers of lines lose blanks; accents and punctuation
count. Each of them is held against every line that was read and every run of neighbouring lines
in reading order, and the nearest one counts: a sign may break its words into lines, but words
added in the same line are mistakes.

OCR is rapidocr's (extra `ocr`) with the models that its package brings; nothing is downloaded.

H height, W width
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from launch.errors import ConfigError
from launch.manifest import digest_file
from recap.claims import Claim
from recap.words import quotations

if TYPE_CHECKING:
    from rapidocr import RapidOCR

FORMULA = (
    "words_exact: share of the prompt's words that are read exactly; words_error_rate: their mean "
    "of min(1, Levenshtein / length) to the nearest line or run of lines; NFKC, case and blanks "
    "aside"
)

MIN_CONFIDENCE: Final = 0.5
"""Lines that OCR is less sure of are not read."""


class Words(NamedTuple):
    """How well a picture shows the words of its prompt."""

    exact: float
    """Share of them that are read exactly."""

    error_rate: float
    """Mean character error rate, in [0, 1]."""


def displayed_words(prompt: str, claims: Iterable[Claim] = ()) -> list[str]:
    """Return the words that a prompt wants shown, normalised, each once, in order."""
    said = [claim.text for claim in claims if claim.text is not None]
    found = (normalise(words) for words in [*quotations(prompt), *said])
    return list(dict.fromkeys(words for words in found if words))


def normalise(text: str) -> str:
    """Return a text without case and blanks, its characters in their compatible form (NFKC)."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def compare(wanted: Sequence[str], lines: Sequence[str]) -> Words:
    """Hold a prompt's words against the lines that were read.

    Args:
        wanted: Normalised words, at least one.
        lines: Lines in reading order, as they were read.
    """
    read = [line for line in map(normalise, lines) if line]
    rates = [error_rate(words, read) for words in wanted]
    return Words(
        exact=sum(rate == 0 for rate in rates) / len(rates), error_rate=sum(rates) / len(rates)
    )


def error_rate(words: str, lines: Sequence[str]) -> float:
    """Return the character error rate of the nearest run of lines: 0 read exactly, 1 not at all."""
    best = len(words)  # nothing was read
    for start in range(len(lines)):
        run = ""
        for line in lines[start:]:
            run += line
            if len(run) - len(words) >= best:
                break  # a longer run is no nearer
            best = min(best, edit_distance(words, run))
    return best / len(words)


def edit_distance(a: str, b: str) -> int:
    """Return the least number of characters inserted, deleted or replaced to turn a into b.

    Source: Wagner and Fischer 1974, doi:10.1145/321796.321811, one row of the table at a time.
    """
    row = list(range(len(b) + 1))
    for i, mine in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(b, start=1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (mine != theirs)),
            )
    return row[-1]


@runtime_checkable
class Reader(Protocol):
    """Reads words in pictures."""

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        """Return the lines that were read with enough confidence, from top to bottom."""

    def describe(self) -> dict[str, Any]:
        """Return everything that a reading depends on, for a recipe."""


class RapidReader:
    """Reads the lines of a picture by rapidocr, in reading order."""

    def __init__(self, engine: RapidOCR, *, models: dict[str, Path], version: str) -> None:
        self.engine = engine
        self._models = models
        self._version = version

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        """Return the lines that were read with enough confidence, from top to bottom."""
        found = self.engine(np.ascontiguousarray(picture[..., ::-1]))  # it takes blue first
        return [] if found.txts is None else list(found.txts)

    def describe(self) -> dict[str, Any]:
        """Return everything that a reading depends on, for a recipe."""
        return {
            "architecture": f"rapidocr {self._version}, onnxruntime, CPU",
            "weights": {name: digest_file(path) for name, path in self._models.items()},
            "models": {name: path.name for name, path in self._models.items()},
            "min_confidence": MIN_CONFIDENCE,
            "precision": "as in the files",
            "formula": FORMULA,
        }


def load_reader(*, threads: int = 1) -> Reader:
    """Load rapidocr with the models that lie in its own package.

    Raises:
        ConfigError: rapidocr or onnxruntime is absent, or the package brings no models.
    """
    try:
        import onnxruntime  # noqa: F401  rapidocr would name it only when it reads
        import rapidocr
    except ImportError as error:
        raise ConfigError(f"ocr: needs {error.name}; install captionmix[ocr]") from error
    from importlib.metadata import version

    models = bundled_models(Path(rapidocr.__file__).parent / "models")
    engine = rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",  # it warns of every picture without words
            "Global.text_score": MIN_CONFIDENCE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            # Named, so that it downloads none.
            **{f"{name}.model_path": str(path) for name, path in models.items()},
        }
    )
    return RapidReader(engine, models=models, version=version("rapidocr"))


def bundled_models(folder: Path) -> dict[str, Path]:
    """Return the files that find lines, turn them and read them.

    Raises:
        ConfigError: One of the three is absent or there are several.
    """
    models = {}
    for name in ("Det", "Cls", "Rec"):
        files = sorted(folder.glob(f"*_{name.lower()}_*.onnx"))
        if len(files) != 1:
            raise ConfigError(
                f"ocr: {folder} holds {len(files)} models *_{name.lower()}_*.onnx, expected one; "
                "nothing is downloaded. Install a rapidocr whose package brings its models, such "
                "as 3.10"
            )
        models[name] = files[0]
    return models
