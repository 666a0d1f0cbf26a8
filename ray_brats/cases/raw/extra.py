"""Packages of the extra `[raw]`: asked for where they are used, missed in a sentence."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

from ray_brats.errors import UsageError

INSTALL: Final = "pip install 'ray-brats[raw]'"
PACKAGES: Final = (
    *("pydicom", "dcm2niix", "SimpleITK", "deepbet", "torch", "nilearn", "highdicom"),
)
"""What the extra brings."""


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
    if not _is_here(package):
        raise UsageError(_missing(package))


def missing() -> list[str]:
    """Packages of the extra that are not installed."""
    return [package for package in PACKAGES if not _is_here(package)]


def _is_here(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _missing(package: str) -> str:
    return f"raw scans need {package}, which is not installed: {INSTALL}"
