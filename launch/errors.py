"""The exceptions that captionmix raises on purpose, and the exit code of each.

    CaptionmixError                 exit 1
    |-- InputError (ValueError)     exit 2   something the user gave is wrong
    |   `-- ConfigError             exit 2   a configuration key or value is wrong
    |-- ArtifactError               exit 2   a folder breaks its promise
    `-- StoppedError                exit 1   work stopped itself: limit passed, loss not finite

Every message says where, what was found, what was expected and what to do.
"""

from __future__ import annotations


class CaptionmixError(Exception):
    """Root of the tree; catches everything that captionmix raises on purpose."""

    exit_code: int = 1


class InputError(CaptionmixError, ValueError):
    """The user's input is wrong and no work was started, or none was lost."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is unknown, missing or out of range."""


class ArtifactError(CaptionmixError):
    """A folder is incomplete, of another kind or version, or its bytes have changed."""

    exit_code = 2


class StoppedError(CaptionmixError):
    """Work stopped itself rather than go on with bad data or numbers."""

    exit_code = 1
