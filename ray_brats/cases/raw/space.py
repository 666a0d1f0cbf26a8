"""Spaces that cases are brought to: a grid, and what a head is turned towards.

`mni152`    upright in the world of MNI152, 240 × 240 × 155 voxels of 1 mm as in BraTS
`patient`   the reference series' own axes, ordered as LPS, at 1 mm
an atlas    somebody's own image and its grid
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from ray_brats.arrays import Floats
from ray_brats.cases import volume
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.extra import imported
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.errors import CaseError, UsageError

MNI152: Final = "mni152"
PATIENT: Final = "patient"
ATLAS: Final = "atlas"
NAMES: Final = (MNI152, PATIENT)
_MNI_GRID: Final = Grid(
    shape_vox=(240, 240, 155),
    affine=np.array(
        [[-1.0, 0, 0, 120], [0, -1.0, 0, 103], [0, 0, 1.0, -68], [0, 0, 0, 1]], np.float64
    ),
)
"""LPS. MNI152's brain reaches from 72 mm below to 82 mm above the commissures, and is larger than
most; turned heads keep their own size, and have their tops nearer to its top than their bottoms."""
_MNI_FILE: Final = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_STEP_MM: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where a case goes."""

    name: str
    template: Placed | None
    """A brain without skull that heads are turned towards; None: nothing is turned."""
    grid: Grid | None
    """None: around each case's own reference."""

    def grid_for(self, reference: Grid) -> Grid:
        """The grid of one case."""
        return self.grid or upright(reference)


@functools.cache
def space_of(name: str) -> Space:
    """A space by its name, or by the file of somebody's own stripped template, on whose grid it is.

    Raises:
        UsageError: the package that brings the template is not installed, or the file is no image
            of three axes.
    """
    if name == PATIENT:
        return Space(name=name, template=None, grid=None)
    if name == MNI152:
        # Its modules load half of scientific Python; the template is a file of the wheel.
        folder = Path(str(imported("nilearn").__file__)).parent / "datasets" / "data"
        return Space(name=name, template=_read(str(folder / _MNI_FILE)), grid=_MNI_GRID)
    try:
        template = _read(name)
    except CaseError as error:
        raise UsageError(f"--atlas {name}: {error.reason}") from error
    return Space(name=ATLAS, template=template, grid=template.grid)


def _read(uri: str) -> Placed:
    image = volume.read(uri)
    grid = Grid(shape_vox=image.geometry.canonical_shape, affine=image.geometry.canonical_affine)
    return Placed(voxels=image.voxels_HWD.astype(np.float32), grid=grid)


def upright(grid: Grid, step_mm: float = _STEP_MM) -> Grid:
    """The box of a grid in voxels of equal sides, its axes ordered as LPS; nothing is turned."""
    lps = ornt_transform(io_orientation(grid.affine), axcodes2ornt(("L", "P", "S")))
    ordered = grid.affine @ inv_ornt_aff(lps, grid.shape_vox)
    spacing = np.linalg.norm(ordered[:3, :3], axis=0)
    shape_vox = np.array(grid.shape_vox)[np.argsort(lps[:, 0])]
    shape = np.maximum(1, np.ceil(shape_vox * spacing / step_mm - 1e-6)).astype(int)
    affine: Floats = np.eye(4)
    affine[:3, :3] = ordered[:3, :3] / spacing * step_mm
    # The middle stays where it is.
    middle = placed.moved(ordered, ((shape_vox - 1) / 2)[None])[0]
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    height, width, depth = (int(side) for side in shape)
    return Grid(shape_vox=(height, width, depth), affine=affine)
