"""Twins: one modality of a case as `.nii` and as `.nii.gz` in one folder, as unpacking leaves it.

Where both hold the same voxels on the same grid, the compressed one is read; where they differ,
both stay, and their case is rejected by name.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ray_brats.cases import volume
from ray_brats.cases.geometry import same_grid
from ray_brats.cases.joining import Joined, Kinds
from ray_brats.errors import CaseError
from ray_brats.files import channels
from ray_brats.files.local import FileInfo

_Place = tuple[Kinds, str, tuple[FileInfo, FileInfo]]
SAME = "the same voxels as in the .nii.gz beside it, which is read"


def settle(joined: Joined) -> None:
    """Leave of each pair of twins with equal voxels the compressed one; both files are read.

    Of 4-D files all channels that are read must be equal.
    """
    places: dict[tuple[str, str], list[_Place]] = {}
    for place in joined.twins():
        one, other = (channels.file_of(file.uri) for file in place[2])
        places.setdefault((one, other), []).append(place)
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        equal = pool.map(_are_all_equal, places.values())
        settled = [pair for pair, is_equal in zip(places, equal, strict=True) if is_equal]
    for pair in settled:
        for kinds, kind, (packed, _) in places[pair]:
            kinds[kind] = [packed]
        _, _, (_, plain) = places[pair][0]
        joined.leave([dataclasses.replace(plain, uri=pair[1])], SAME)
    if settled:
        joined.notes.append(
            f"{len(settled)} file(s) are there as .nii and as .nii.gz with equal voxels: the "
            ".nii.gz is read"
        )


def _are_all_equal(places: Sequence[_Place]) -> bool:
    return all(_are_equal(pair) for _, _, pair in places)


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
