"""Packages of the extra `[raw]`: asked for where they are used, missed in a sentence."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

from ray_brats.errors import UsageError

INSTALL: Final = "pip install 'ray-brats[raw]'"


def imported(package: str) -> Any:
    """A module of the extra.

    Raises:
        UsageError: it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(_missing(error.name or package)) from error


def found(package: str) -> None:
    """The same without the time that an import takes: `UsageError` where it is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(_missing(package))


def _missing(package: str) -> str:
    return f"raw scans need {package}, which is not installed: {INSTALL}"
