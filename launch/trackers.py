"""Mirrors of a run's log in the trackers that accelerate knows (tensorboard, wandb, ...).

The JSON lines of `run.log` are always written and are what counts; trackers are shown the same
numbers. Their local files lie in `logs/` of the run's folder, outside every digest. Keys and tokens
are the tracker's own business: it finds them in its environment, and no setting here holds one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from launch.errors import ConfigError, InputError
from launch.run import Run

if TYPE_CHECKING:
    from accelerate import Accelerator

FOLDER = "logs"
"""Where trackers write, below the artifact's folder; a name that says log, as the run's own."""

PROJECT = "captionmix"
"""Under which every tracker files its runs."""

_PACKAGES = {"comet_ml": "comet-ml"}
"""Tracker -> package, where the two are not called the same."""


def refuse_absent(names: Sequence[str]) -> None:
    """Refuse trackers that accelerate does not know or whose package is not installed.

    Raises:
        ConfigError: A name is unknown; the known ones are listed.
        InputError: A package is absent; it says which to install.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    built_in, present = set(LoggerType.list()), {str(each) for each in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"trackers: {name!r} is unknown; accelerate knows "
                f"{', '.join(sorted(LOGGER_TYPE_TO_CLASS))}. The run's own log is always written."
            )
        if name in built_in and name not in present:
            raise InputError(
                f"trackers: the package of {name} is not installed. `pip install "
                f"{_PACKAGES.get(name, name)}` where this runs, or leave {name} out of trackers=."
            )


def mirrored_log(run: Run, accelerator: Accelerator) -> Callable[..., None]:
    """Begin the trackers that the accelerator was made with; return a log that they mirror.

    The log is called as `log(event, step=..., samples_seen=..., **fields)`. Every tracker gets the
    fields that are numbers as `event/name`, over `samples_seen`.
    """
    if accelerator.log_with:
        folder = run.out / FOLDER
        if run.is_main:
            folder.mkdir(exist_ok=True)
        # The recipe and not the configuration: where things lie is nobody else's business.
        settings = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in run.recipe.items()
        }
        # Left alone, wandb writes into the folder that the command was given in.
        own = {"wandb": {"name": run.out.name, "dir": str(folder)}}
        accelerator.init_trackers(PROJECT, config=settings, init_kwargs=own)

    def log(event: str, *, step: int, samples_seen: int, **fields: Any) -> None:
        run.log(event, step=step, samples_seen=samples_seen, **fields)
        numbers = {
            f"{event}/{name}": value
            for name, value in fields.items()
            if isinstance(value, int | float)
        }
        accelerator.log(numbers, step=samples_seen)

    return log
