"""Masks on the grid of the scanner's own series: probabilities go there, and are decided there.

Labels are never interpolated: between two classes there is no third, and thin parts would go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Box, Floats, Shape
from ray_brats.cases.geometry import Geometry
from ray_brats.cases.raw import placed
from ray_brats.cases.raw.placed import Grid, Placed
from ray_brats.cases.raw.record import Home, grid_of
from ray_brats.labels import LabelMap
from ray_brats.model.windows import Probabilities

Decode = Callable[[Probabilities, float], LabelMap]
"""Class indices of probabilities, and how many of their voxels one of the recipe's is."""

_LEAST: Final = 0.05
"""Where no class comes near to being decided: nothing is computed there."""
_MARGIN_VOX: Final = 3


def native_mask(
    probabilities: Probabilities, geometry: Geometry, home: Home, decode: Decode
) -> LabelMap:
    """Class indices on the series' own grid, in its file's axes.

    Args:
        probabilities: `(H, W, D, K)` on the crop of `geometry`, 0 where nothing is.
        geometry: of the case, not resampled.
        home: the series, and the way to it.
        decode: how they are decided.
    """
    crop = _part(grid_of(geometry), geometry.crop_box)
    series = grid_of(home.geometry)
    index = np.zeros(series.shape_vox, np.uint8)
    box = _box(probabilities, crop, series, home)
    if not arrays.is_empty(box):
        back: Floats = np.linalg.inv(home.motion).astype(np.float64)
        part = _part(series, box)
        values = np.stack(
            [
                placed.resampled(Placed(voxels=probabilities[..., k], grid=crop), part, back)
                for k in range(probabilities.shape[-1])
            ],
            axis=-1,
        )
        voxel_mm3 = math.prod(series.spacing_mm)
        index[box] = decode(values, math.prod(crop.spacing_mm) / voxel_mm3)
    return home.geometry.to_native(index)


def _box(probabilities: Probabilities, crop: Grid, series: Grid, home: Home) -> Box:
    """The part of the series where a tumour may be."""
    likely = arrays.bounding_box(np.any(probabilities >= _LEAST, axis=-1))
    if arrays.is_empty(likely):
        return likely
    corners = _part(crop, likely).corners_mm
    places = placed.moved(np.linalg.inv(series.affine) @ home.motion, corners)
    low = np.floor(places.min(axis=0)).astype(int) - _MARGIN_VOX
    high = np.ceil(places.max(axis=0)).astype(int) + 1 + _MARGIN_VOX
    whole = arrays.box_at((0, 0, 0), series.shape_vox)
    return arrays.overlap(
        tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), whole
    )


def _part(grid: Grid, box: Box) -> Grid:
    """The grid of a box of another."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([side.start for side in box], np.float64)
    first, second, third = arrays.shape_of(box)
    shape: Shape = (first, second, third)
    return Grid(shape_vox=shape, affine=affine)
