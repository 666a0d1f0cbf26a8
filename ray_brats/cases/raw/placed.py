"""Images with their place in the world, and the one interpolation between two grids.

Points of the world are mm towards the patient's right, front and top (RAS+), as in NIfTI. A
*motion* is a 4 × 4 map from the world of one image to that of another; motions are composed
first and applied once, since every interpolation blurs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from ray_brats.arrays import Array, Floats, Mask, Shape, Spacing

Order = Literal[0, 1, 3]
"""Of a spline: the nearest value, a line, a cubic."""

_FWHM_PER_SD = 2 * math.sqrt(2 * math.log(2))
_ROUNDING_VOX = 1e-6
"""What products of matrices may miss the border of a grid by that lies on another's."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where voxels lie."""

    shape_vox: Shape
    affine: Floats
    """Map of voxel indices to the world in mm, 4 × 4."""

    @property
    def spacing_mm(self) -> Spacing:
        """Distance of neighbouring voxels along each axis."""
        first, second, third = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(first), float(second), float(third)

    @property
    def centre_mm(self) -> Floats:
        """The middle of the box, in the world."""
        middle = (np.array(self.shape_vox) - 1) / 2
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])

    @property
    def corners_mm(self) -> Floats:
        """The centres of the eight voxels at its corners, `(8, 3)`."""
        ends = itertools.product(*((0, side - 1) for side in self.shape_vox))
        return moved(self.affine, np.array(list(ends), np.float64))


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An image in its world."""

    voxels: Array
    """In the axes of its grid."""
    grid: Grid


def moved(motion: Floats, points_mm: Floats) -> Floats:
    """Points `(N, 3)` after a motion."""
    return np.asarray(points_mm @ motion[:3, :3].T + motion[:3, 3])


def resampled(image: Placed, grid: Grid, motion: Floats, *, order: Order = 1) -> Array:
    """The image on another grid, float32; 0 where the image does not reach.

    Args:
        image: of any type and spacing.
        grid: where values are wanted.
        motion: from the world of the grid to that of the image.
        order: of the spline. Values never leave the range of the image's own.
    """
    voxels = _smoothed(image, grid) if order else image.voxels.astype(np.float32)
    to_index = np.linalg.inv(image.grid.affine) @ motion @ grid.affine
    values = ndimage.affine_transform(
        voxels, to_index[:3, :3], to_index[:3, 3], grid.shape_vox, order=order, mode="reflect"
    )
    if order > 1 and voxels.size:
        np.clip(values, voxels.min(), voxels.max(), out=values)
    values[~shown(image.grid, grid, motion)] = 0
    return np.asarray(values, np.float32)


def shown(image: Grid, grid: Grid, motion: Floats) -> Mask:
    """The voxels of a grid that an image reaches: those whose middle is in one of its voxels.

    A slice shows what lies within half of its thickness, the outermost ones too.
    """
    to_index = np.linalg.inv(image.affine) @ motion @ grid.affine
    places = np.ogrid[tuple(slice(0, side) for side in grid.shape_vox)]
    inside = np.ones(grid.shape_vox, bool)
    for row, side in zip(to_index, image.shape_vox, strict=False):
        index = sum((x * place for x, place in zip(row, places, strict=False)), row[3])
        inside &= (index > -0.5 - _ROUNDING_VOX) & (index < side - 0.5 + _ROUNDING_VOX)
    return inside


def _smoothed(image: Placed, grid: Grid) -> Array:
    """The image in float32, as blurred as a coarser grid needs it (Cardoso et al. 2015, MICCAI:
    a voxel's point spread is a Gaussian whose full width at half maximum is its side)."""
    coarse = min(grid.spacing_mm)
    sd_vox = [
        math.sqrt(max(0.0, coarse**2 - side**2)) / _FWHM_PER_SD / side
        for side in image.grid.spacing_mm
    ]
    voxels = image.voxels.astype(np.float32)
    if max(sd_vox) > 0:
        ndimage.gaussian_filter(voxels, sd_vox, output=voxels, truncate=2.5, mode="nearest")
    return voxels


def rotation_deg(motion: Floats) -> float:
    """The angle that a motion turns by, its scales aside (Higham 1986: the nearest rotation)."""
    u, _, vt = np.linalg.svd(motion[:3, :3])
    return math.degrees(math.acos(max(-1.0, min(1.0, (float(np.trace(u @ vt)) - 1) / 2))))
