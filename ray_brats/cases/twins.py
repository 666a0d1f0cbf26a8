"""Twins: one modality of a case as `.nii` and as `.nii.gz` in one folder, as unpacking leaves it.

Where both hold the same voxels on the same grid, the compressed one is read; where they differ,
both stay, and their case is rejected by name.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ray_brats.cases import volume
from ray_brats.cases.geometry import same_grid
from ray_brats.cases.joining import Joined
from ray_brats.errors import CaseError
from ray_brats.files.local import FileInfo

SAME = "the same voxels as in the .nii.gz beside it, which is read"


def settle(joined: Joined) -> None:
    """Leave of each pair of twins with equal voxels the compressed one; both files are read."""
    places = list(joined.twins())
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        equal = list(pool.map(_are_equal, (pair for _, _, pair in places)))
    settled = [place for place, is_equal in zip(places, equal, strict=True) if is_equal]
    for kinds, kind, (packed, plain) in settled:
        kinds[kind] = [packed]
        joined.leave([plain], SAME)
    if settled:
        joined.notes.append(
            f"{len(settled)} file(s) are there as .nii and as .nii.gz with equal voxels: the "
            ".nii.gz is read"
        )


def _are_equal(pair: tuple[FileInfo, FileInfo]) -> bool:
    """Whether both files hold the same; what cannot be read is not known to."""
    try:
        one, other = (volume.read(file.uri) for file in pair)
    except CaseError:
        return False
    if same_grid(one.geometry, other.geometry):
        return False
    is_float = one.voxels_HWD.dtype.kind == other.voxels_HWD.dtype.kind == "f"
    return np.array_equal(one.voxels_HWD, other.voxels_HWD, equal_nan=is_float)
