"""Small raw studies in NIfTI: phantom heads of some 50 voxels a side, each series moved for itself.

They are as large as heads are, so that what is known of heads holds of them, and coarse, so that
they are aligned in two seconds a series. T1CE lies as the mask of the brain does.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import dicoms
import nibabel as nib
import numpy as np

from ray_brats.arrays import Array, Floats
from ray_brats.cases import phantom, phantom_head
from ray_brats.cases.phantom_head import Head, grid_around, motion_about, scanned
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.placed import Grid

SPACING_MM = 3.2
SIZE_MM = (136, 160, 132)
SERIES: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]] = {
    "t1ce": ((2.5, 2.5, 3.5), (0, 0, 0), (0, 0, 0)),
    "t1": ((3.0, 3.0, 3.0), (2, 0, -3), (2, -3, 0)),
    "t2": ((2.5, 2.5, 5.0), (4, -3, 2), (3, 2, -4)),
    "flair": ((3.0, 3.0, 4.0), (-5, 3, 2), (0, 3, 5)),
}
"""Modality to the spacing of its voxels, and how its world is turned (degrees) and shifted (mm)."""


@functools.cache
def head(number: int) -> Head:
    """A head with a brain of about a litre."""
    drawn = phantom.make_phantom(number, shape_vox=(64, 64, 42), modalities=tuple(SERIES))
    affine = drawn.affine @ np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1])
    return phantom_head.head_of(dataclasses.replace(drawn, affine=affine))


def middle_mm(of: Head) -> Floats:
    """The middle of the box around a brain."""
    points = placed.moved(of.brain.grid.affine, np.argwhere(of.brain.voxels).astype(float))
    return (points.min(axis=0) + points.max(axis=0)) / 2


def grid_of(of: Head, modality: str) -> Grid:
    """The grid of a series."""
    return grid_around(middle_mm(of), SIZE_MM, SERIES[modality][0])


def motion_of(of: Head, modality: str) -> Floats:
    """The map from the world of a series to that of the head."""
    _, turns_deg, shift_mm = SERIES[modality]
    return motion_about(middle_mm(of), turns_deg, shift_mm)


def voxels_of(of: Head, modality: str) -> Array:
    """A series with its skull, int16."""
    grid = grid_of(of, modality)
    values = scanned(of.images[modality], grid, motion_of(of, modality))
    return np.rint(values).astype(np.int16)


def write_study(folder: Path, number: int, modalities: Sequence[str]) -> None:
    """A file `<modality>.nii.gz` for each series."""
    of = head(number)
    for modality in modalities:
        _save(folder / f"{modality}.nii.gz", voxels_of(of, modality), grid_of(of, modality))


def write_dicom(folder: Path, number: int, modalities: Sequence[str]) -> None:
    """A folder of DICOM for each series, and a localiser beside them."""
    of = head(number)
    for modality in modalities:
        tags, grid = dicoms.STUDY[modality], grid_of(of, modality)
        voxels = np.clip(voxels_of(of, modality), 0, None)
        dicoms.write(folder / str(tags.number), voxels, dicoms.lps_of(grid.affine), tags)
    dicoms.localiser(folder / "1")


def archive_of(folder: Path) -> bytes:
    """The files below a folder, as a zip; equal folders give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = zipfile.ZipInfo(path.relative_to(folder.parent).as_posix())
                archive.writestr(name, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def write_mask(path: Path, number: int) -> None:
    """The brain of a head on the grid of its T1CE."""
    of, grid = head(number), grid_of(head(number), "t1ce")
    mask = placed.resampled(of.brain, grid, motion_of(of, "t1ce")) >= 0.5
    _save(path, mask.astype(np.uint8), grid)


def _save(path: Path, voxels: Array, grid: Grid) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, grid.affine), path)
