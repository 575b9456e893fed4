"""A small network that reads what a scene shows.

It looks at each quadrant (empty, which object, or a sign; colour, size, texture; letters) and at
the background. What it is not sure of it leaves unread. It knows the embedded world and nothing
else; how well it reads is measured by `eval fit-judge`, what follows of a reading for a prompt is
decided in `eval/verdicts.py`.

B pictures, S pixels a side, Q = 4 quadrants, K classes of a head, Y layouts, H heads
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from eval.reading import EMPTY, SIGN, UNREAD, Cell, Reading, layouts
from launch.errors import ArtifactError
from launch.manifest import write_bytes, write_json
from launch.processes import sent
from recap.claims import (
    BACKGROUNDS,
    COLOURS,
    LETTERS,
    OBJECTS,
    QUADRANTS,
    SIZES,
    TEXTURES,
    Claim,
    to_json,
)

CONFIG_NAME = "config.json"

WEIGHTS_NAME = "model.safetensors"

CELL_HEADS: Final = {
    "object": (EMPTY, *OBJECTS, SIGN),
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
    "letter_1": LETTERS,
    "letter_2": (*LETTERS, ""),
}
"""What is read of each quadrant, and its classes."""

PICTURE_HEADS: Final = {"background": BACKGROUNDS}
"""What is read of the whole picture."""

IGNORED: Final = -1
"""Target of a head that has nothing to read."""

MAX_LAYOUTS: Final = 4
"""Pictures that one list of true claims may describe: a group of three has no stated place."""


@dataclass(frozen=True, kw_only=True)
class RecogniserConfig:
    """Shape of the network, kept beside its weights."""

    image_size: int = 32
    """Pixels a side; pictures of another size are resized."""

    channels: tuple[int, ...] = (32, 64)
    """Channels of each level; every level halves the side."""

    width: int = 128
    """Features of one quadrant, from which its heads read."""

    min_confidence: float = 0.5
    """Probability below which a head leaves its value unread."""

    heads: dict[str, list[str]] = field(
        default_factory=lambda: {k: list(v) for k, v in (CELL_HEADS | PICTURE_HEADS).items()}
    )
    """Classes of every head, in order."""


class Logits(NamedTuple):
    """Scores of every class."""

    cells: dict[str, Float[Tensor, "B Q K"]]
    picture: dict[str, Float[Tensor, "B K"]]


class Recogniser(nn.Module):
    """A small convolutional network whose heads read each quadrant's own patch of features."""

    def __init__(self, config: RecogniserConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        before = 3
        for channels in config.channels:
            layers += [nn.Conv2d(before, channels, 4, stride=2, padding=1), *_after(channels)]
            before = channels
        layers += [nn.Conv2d(before, before, 3, padding=1), *_after(before)]
        self.trunk = nn.Sequential(*layers)
        self.side = config.image_size // 2 ** len(config.channels) // 2
        self.patch = nn.Sequential(nn.Linear(before * self.side**2, config.width), nn.SiLU())
        self.cell_heads = nn.ModuleDict(
            {name: nn.Linear(config.width, len(classes)) for name, classes in CELL_HEADS.items()}
        )
        self.picture_heads = nn.ModuleDict(
            {name: nn.Linear(before, len(classes)) for name, classes in PICTURE_HEADS.items()}
        )

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Logits:
        """Return the scores of every class of every head, for pictures in [-1, 1]."""
        features = self.trunk(images)  # [B, C, 2 side, 2 side]
        num, channels = features.shape[:2]
        patches = features.reshape(num, channels, 2, self.side, 2, self.side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(num, len(QUADRANTS), -1)  # [B, Q, ...]
        hidden = self.patch(patches)
        whole = features.mean((2, 3))
        return Logits(
            cells={name: head(hidden) for name, head in self.cell_heads.items()},
            picture={name: head(whole) for name, head in self.picture_heads.items()},
        )


def _after(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels), nn.SiLU()]


class Targets(NamedTuple):
    """Classes of every head under every picture that the claims of one may describe.

    Pictures with fewer than `MAX_LAYOUTS` have their last one repeated.
    """

    cells: Int64[np.ndarray, "Y Q H"]
    background: int


def targets(claims: Sequence[Claim]) -> Targets:
    """Return what the heads should read of a picture with these claims.

    Raises:
        ArtifactError: No picture of the world fits the claims.
    """
    fitting = layouts(claims)
    if not 1 <= len(fitting) <= MAX_LAYOUTS:
        raise ArtifactError(
            f"claims {to_json(claims)}: {len(fitting)} arrangements of the quadrants fit them, "
            f"expected 1 to {MAX_LAYOUTS}; a recogniser is fitted on the embedded world alone."
        )
    padded = fitting + fitting[-1:] * (MAX_LAYOUTS - len(fitting))
    cells = [[_cell_targets(cell) for cell in reading.cells] for reading in padded]
    background = fitting[0].background
    return Targets(
        cells=np.array(cells, np.int64),
        background=BACKGROUNDS.index(background) if background in BACKGROUNDS else IGNORED,
    )


def _cell_targets(cell: Cell) -> list[int]:
    letters: list[str | None] = [None, None]
    if cell.object == SIGN and cell.text:
        letters = [cell.text[0], cell.text[1] if len(cell.text) > 1 else ""]
    values = (cell.object, cell.colour, cell.size, cell.texture, *letters)
    return [
        classes.index(value) if value in classes else IGNORED
        for value, classes in zip(values, CELL_HEADS.values(), strict=True)
    ]


def loss(
    logits: Logits, *, cells: Int64[Tensor, "B Y Q H"], background: Int64[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of a picture, summed over what there was to read.

    Where the claims leave open which quadrant stays empty, the arrangement that the network
    itself finds likeliest is taken for true.
    """
    num_layouts = cells.shape[1]
    by_layout = torch.zeros(cells.shape[:2], device=cells.device)  # [B, Y]
    for index, scores in enumerate(logits.cells.values()):
        target = cells[..., index]  # [B, Y, Q]
        log_p = scores.log_softmax(-1)[:, None].expand(-1, num_layouts, -1, -1)
        chosen = log_p.gather(-1, target.clamp(min=0)[..., None])[..., 0]
        by_layout = by_layout - (chosen * (target != IGNORED)).sum(-1)
    whole = functional.cross_entropy(
        logits.picture["background"], background, ignore_index=IGNORED, reduction="sum"
    )
    return (by_layout.amin(1).sum() + whole) / len(cells)


def to_input(pixels: UInt8[np.ndarray, "B H W 3"], *, image_size: int) -> Float[Tensor, "B 3 S S"]:
    """Bring pictures to the network's size and to [-1, 1]."""
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float()
    if images.shape[2:] != (image_size, image_size):
        images = functional.interpolate(
            images, size=(image_size, image_size), mode="bilinear", antialias=True
        )
    return images / 127.5 - 1


def read(
    model: Recogniser, pixels: UInt8[np.ndarray, "N H W 3"], *, batch_size: int = 256
) -> list[Reading]:
    """Read pictures; the last batch is padded, so a reading does not depend on its neighbours."""
    readings: list[Reading] = []
    device = next(model.parameters()).device
    for start in range(0, len(pixels), batch_size):
        images = to_input(pixels[start : start + batch_size], image_size=model.config.image_size)
        num_real = len(images)
        images = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, batch_size - num_real))
        with torch.inference_mode():
            logits = model(sent(images, device))
        readings += _readings(logits, min_confidence=model.config.min_confidence)[:num_real]
    return readings


def _readings(logits: Logits, *, min_confidence: float) -> list[Reading]:
    cells = {
        name: _names(scores, CELL_HEADS[name], min_confidence=min_confidence)
        for name, scores in logits.cells.items()
    }
    backgrounds = _names(
        logits.picture["background"][:, None], BACKGROUNDS, min_confidence=min_confidence
    )
    found = []
    for row, (background,) in enumerate(backgrounds):
        a, b, c, d = (
            _cell({name: values[row][quadrant] for name, values in cells.items()})
            for quadrant in range(len(QUADRANTS))
        )
        found.append(Reading(cells=(a, b, c, d), background=background))
    return found


def _names(
    scores: Float[Tensor, "B Q K"], classes: Sequence[str], *, min_confidence: float
) -> list[list[str]]:
    confidence, chosen = scores.softmax(-1).max(-1)
    return [
        [classes[k] if p >= min_confidence else UNREAD for k, p in zip(ks, ps, strict=True)]
        for ks, ps in zip(chosen.tolist(), confidence.tolist(), strict=True)
    ]


def _cell(values: dict[str, str]) -> Cell:
    """Keep what applies to the object that was read."""
    kind = values["object"]
    if kind == SIGN:
        letters = values["letter_1"], values["letter_2"]
        return Cell(object=SIGN, text=UNREAD if UNREAD in letters else "".join(letters))
    if kind in OBJECTS:
        return Cell(
            object=kind,
            colour=values["colour"],
            size=values["size"],
            texture=values["texture"],
        )
    return Cell(object=kind)


def save_recogniser(folder: Path, model: Recogniser) -> list[str]:
    """Write config and weights; return file names."""
    from safetensors.torch import save

    write_json(folder / CONFIG_NAME, asdict(model.config))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
    return [CONFIG_NAME, WEIGHTS_NAME]


def load_recogniser(folder: Path) -> Recogniser:
    """Load a recogniser, ready to read.

    Raises:
        ArtifactError: A file is missing, or it reads other classes than this world has.
    """
    from safetensors.torch import load_file

    try:
        raw = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config = RecogniserConfig(**{**raw, "channels": tuple(raw["channels"])})
        weights = load_file(folder / WEIGHTS_NAME)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{folder}: no readable recogniser ({error}); fit it again.") from error
    if config.heads != RecogniserConfig().heads:
        raise ArtifactError(
            f"{folder}: reads other classes than this version's world has; fit the judge again."
        )
    model = Recogniser(config)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
