"""The files below a folder: which are NIfTI, which DICOM, and why others are neither.

No hidden folder is entered, and no link is followed out of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_brats.cases import naming
from ray_brats.cases.raw import elements
from ray_brats.cases.raw.series import Ignored, stem_of
from ray_brats.errors import UsageError
from ray_brats.files import local

MOST_FILES = 500_000
OTHER_FORMAT = "an image in another format than NIfTI and DICOM: convert it to .nii.gz"
LEADS_OUT = "a link that leads out of the folder: it is not followed"
LEADS_IN = "a link to a folder whose files are found where they lie"
CLOSED = "a file that cannot be opened"


@dataclass(frozen=True, kw_only=True)
class Files:
    """What lies below a folder, in order of paths."""

    nifti: tuple[Path, ...]
    dicom: tuple[Path, ...]
    ignored: tuple[Ignored, ...]
    """What is neither; no sidecars of the first."""


def files_below(root: Path, most_files: int = MOST_FILES) -> Files:
    """Sort the files below a folder, which is a path without links.

    Raises:
        UsageError: more files than may be.
    """
    nifti: list[Path] = []
    dicom: list[Path] = []
    ignored: dict[Path, str] = {}
    for number, path in enumerate(_walk(root)):
        if number >= most_files:
            raise UsageError(
                f"{root}: more than {most_files} files: pass a folder of fewer studies"
            )
        form = naming.image_format(path.name)
        if problem := _problem(path, root):
            ignored[path] = problem
        elif form == "nifti":
            nifti.append(path)
        elif elements.is_dicom(path):
            dicom.append(path)
        else:
            ignored[path] = elements.NOT_DICOM if form is None else OTHER_FORMAT
    for path in nifti:
        ignored.pop(sidecar_of(path), None)
    told = (
        Ignored(name=local.readable(path.name), reason=why, path=path)
        for path, why in ignored.items()
    )
    return Files(nifti=tuple(nifti), dicom=tuple(dicom), ignored=tuple(told))


def sidecar_of(nifti: Path) -> Path:
    """Where the sidecar of an image is, if it has one."""
    return nifti.with_name(f"{stem_of(nifti)}.json")


def _walk(root: Path) -> Iterator[Path]:
    """Files that are not hidden, folder by folder; a link to a folder is a file here."""
    for folder, below, names in os.walk(root):
        shown = {name for name in below if not naming.is_hidden(name)}
        links = {name for name in shown if Path(folder, name).is_symlink()}
        below[:] = sorted(shown - links)
        for name in sorted([*names, *links]):
            if not naming.is_hidden(name):
                yield Path(folder, name)


def _problem(path: Path, root: Path) -> str | None:
    """Why a file is not looked at, or None."""
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(root):
            return LEADS_OUT
        if path.is_dir():
            return LEADS_IN
        return None if path.is_file() and os.access(path, os.R_OK) else CLOSED
    except (OSError, RuntimeError):
        return CLOSED
