"""Distances between the surfaces of two masks: HD95 and surface Dice.

The definitions are those of Nikolov et al. 2018 (arXiv 1809.04430) as google-deepmind's
`surface-distance` computes them, which is what the BraTS script of 2023 calls. A *surface
element* sits at each corner where eight voxels meet and some, but not all, of them belong to
the mask. Those eight bits are its neighbour code; the code gives its area.

    axes      HWD, the mask's own three axes
    points    indices of voxel corners: corner i lies between voxel i - 1 and voxel i
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import compress, permutations, product
from typing import Any, Final

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Points = npt.NDArray[np.int64]
Spacing = tuple[float, float, float]
Box = tuple[slice, ...]

_FULL_CODE: Final = 255
_HD_FRACTION: Final = 0.95

# Factual data: the triangles that marching cubes puts into a cube of eight voxels, as unsigned
# normals in eighths of the unit area. One code stands for all that reflections, swaps of axes
# and the exchange of inside and outside turn it into; together they give every entry of the
# 256-row table in surface-distance's lookup_tables.py (Google Inc., Apache License 2.0).
# Bit 7 of a code is the corner (0, 0, 0), bit 0 the corner (1, 1, 1), the last axis runs fastest.
_TRIANGLES: Final[dict[int, tuple[tuple[int, int, int], ...]]] = {
    0b00000001: ((1, 1, 1),),
    0b00000011: ((2, 2, 0), (2, 2, 0)),
    0b00000110: ((1, 1, 1), (1, 1, 1)),
    0b00011000: ((1, 1, 1), (1, 1, 1)),
    0b00000111: ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    0b00001111: ((4, 0, 0), (4, 0, 0)),
    0b00011001: ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    0b00010110: ((1, 1, 1), (1, 1, 1), (1, 1, 1)),
    0b00010111: ((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    0b00011110: ((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    0b00011011: ((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    0b00111100: ((2, 2, 0), (2, 2, 0), (2, 2, 0), (2, 2, 0)),
    0b01101001: ((1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
}


@cache
def _normals() -> Floats:
    """Unsigned triangle normals of each code at unit spacing; (256, 4, 3), padded with zeros."""
    table = np.zeros((256, 4, 3))
    for code, triangles in _TRIANGLES.items():
        corners = np.unpackbits(np.array([code], np.uint8)).reshape(2, 2, 2)
        for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
            turned = np.flip(corners.transpose(axes), tuple(compress(range(3), flips)))
            twin = int(np.packbits(turned.ravel())[0])
            normals = np.array(triangles)[:, axes] / 8
            table[twin, : len(triangles)] = normals
            table[_FULL_CODE - twin, : len(triangles)] = normals
    return table


@lru_cache(maxsize=64)
def surfel_areas_mm2(spacing_mm: Spacing) -> Floats:
    """Area of the surface element of each of the 256 neighbour codes, in mm²; (256,)."""
    height, width, depth = spacing_mm
    faces_mm2 = np.array([width * depth, height * depth, height * width])
    areas: Floats = np.linalg.norm(_normals() * faces_mm2, axis=-1).sum(axis=-1)
    areas.flags.writeable = False  # the cache hands out this very array
    return areas


def bounding_box(array: npt.NDArray[Any]) -> Box:
    """Slices of the smallest box that holds everything non-zero; all empty where nothing is."""
    box: Box = ()
    for axis in range(array.ndim):
        others = tuple(other for other in range(array.ndim) if other != axis)
        inside = array[box]  # each axis that is done makes the next one cheaper
        hits = np.flatnonzero(inside.any(axis=others))
        if not hits.size:
            return (slice(0, 0),) * array.ndim
        box = (*box, slice(int(hits[0]), int(hits[-1]) + 1))
    return box


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface elements of one mask."""

    points: Points
    """Corner index of each element; (n, 3)."""
    areas_mm2: Floats
    """Area of each element; (n,)."""
    spacing_mm: Spacing

    @cached_property
    def tree_mm(self) -> KDTree:
        """Search tree over the points in mm."""
        # Splits at the middle instead of the median: on surfaces it builds and answers faster.
        return KDTree(
            self.points * np.array(self.spacing_mm), balanced_tree=False, compact_nodes=False
        )


def surface_of(mask: Mask, spacing_mm: Spacing, origin: tuple[int, ...] = (0, 0, 0)) -> Surface:
    """Find the surface elements of a mask.

    Args:
        mask: bool, `(H, W, D)`; outside of the array counts as background.
        spacing_mm: size of a voxel along each axis.
        origin: index of the mask's first voxel in the volume it was cut from.
    """
    box = bounding_box(mask)
    padded = np.pad(mask[box], 1).view(np.uint8)
    codes = padded[:, :, :-1] << 1 | padded[:, :, 1:]
    codes = codes[:, :-1] << 2 | codes[:, 1:]
    codes = codes[:-1] << 4 | codes[1:]
    border = (codes != 0) & (codes != _FULL_CODE)
    start = [first + part.start for first, part in zip(origin, box, strict=True)]
    areas_mm2 = surfel_areas_mm2(spacing_mm)[codes[border]]
    return Surface(np.argwhere(border) + np.array(start), areas_mm2, spacing_mm)


# What finds distances fastest, measured in voxels of edt's transform: a search tree pays per
# element, a transform per voxel of the box around both surfaces. Between large surfaces far
# apart a tree may look at every element, so it stops at `_NEAR_MM` unless few are left.
_TRANSFORM_WORK: Final = {"edt": 1, "scipy": 4}
_QUERY_WORK: Final = 40
_BUILD_WORK: Final = 10
_FAR_WORK: Final = 0.1
_NEAR_MM: Final = 10.0
_EXACT_FLOAT32: Final = 2**24


def distances_mm(own: Surface, other: Surface) -> Floats:
    """Distance from each element of one surface to the nearest of another, in mm; (n,)."""
    _, shape = _joint_box(own.points, other.points)
    transform = math.prod(shape) * _TRANSFORM_WORK[_transform_for(shape, own.spacing_mm)]
    if transform <= len(own.points) * _QUERY_WORK + len(other.points) * _BUILD_WORK:
        return _transformed_mm(own.points, other)
    away_mm = _searched_mm(own.points, other, within_mm=_NEAR_MM)
    far = np.flatnonzero(np.isinf(away_mm))
    if far.size * len(other.points) * _FAR_WORK <= transform:
        away_mm[far] = _searched_mm(own.points[far], other, within_mm=math.inf)
    else:
        away_mm[far] = _transformed_mm(own.points[far], other)
    return away_mm


def _transform_for(shape: tuple[int, ...], spacing_mm: Spacing) -> str:
    """`edt` where it is exact: it squares in float32, so squares must be whole and < 2 ** 24."""
    steps = np.array(spacing_mm) / min(spacing_mm)
    whole = np.array_equal(steps, np.rint(steps))
    return "edt" if whole and ((steps * shape) ** 2).sum() < _EXACT_FLOAT32 else "scipy"


def _searched_mm(points: Points, other: Surface, within_mm: float) -> Floats:
    """Distances by search tree; infinite where nothing is nearer than `within_mm`."""
    spacing_mm = np.array(other.spacing_mm)
    found_mm, index = other.tree_mm.query(points * spacing_mm, distance_upper_bound=within_mm)
    away_mm, nearest = np.array(found_mm), np.array(index)
    found = np.isfinite(away_mm)
    # From whole steps again, so that equal distances are equal to the last bit.
    squares = ((points[found] - other.points[nearest[found]]) * spacing_mm) ** 2
    away_mm[found] = np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2])
    return away_mm


def _transformed_mm(points: Points, other: Surface) -> Floats:
    """Distances by distance transform of the box that holds everything."""
    first, shape = _joint_box(points, other.points)
    away = np.ones(shape, bool)
    away[tuple((other.points - first).T)] = False
    at_points = tuple((points - first).T)
    if _transform_for(shape, other.spacing_mm) == "edt":
        unit_mm = min(other.spacing_mm)
        steps = [size / unit_mm for size in other.spacing_mm]
        squares: npt.NDArray[np.float32] = edt.edtsq(away, anisotropy=tuple(steps))
        return np.asarray(np.sqrt(squares[at_points].astype(np.float64)) * unit_mm)
    away_mm: Floats = ndimage.distance_transform_edt(away, sampling=other.spacing_mm)
    return np.asarray(away_mm[at_points])


def _joint_box(points: Points, others: Points) -> tuple[Points, tuple[int, ...]]:
    """First corner and shape of the box around two sets of points."""
    first = np.minimum(points.min(axis=0), others.min(axis=0))
    last = np.maximum(points.max(axis=0), others.max(axis=0))
    return first, tuple((last - first + 1).tolist())


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """How far two surfaces lie apart, both ways; each pair of arrays is sorted by distance."""

    reference_mm: Floats
    reference_areas_mm2: Floats
    prediction_mm: Floats
    prediction_areas_mm2: Floats

    @classmethod
    def between(cls, reference: Surface, prediction: Surface) -> SurfaceDistances:
        """Measure both ways.

        Raises:
            ValueError: a surface without elements has no distance to another.
        """
        if not len(reference.points) or not len(prediction.points):
            raise ValueError("the distance to an empty mask does not exist: treat it apart")
        return cls(*_sorted_from(reference, prediction), *_sorted_from(prediction, reference))

    def hd95_mm(self) -> float:
        """Robust Hausdorff distance: the larger of the two 95th percentiles by area, in mm."""
        return max(
            _percentile_mm(self.reference_mm, self.reference_areas_mm2),
            _percentile_mm(self.prediction_mm, self.prediction_areas_mm2),
        )

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces' area that lies within the tolerance of the other; 0 to 1."""
        near_mm2 = np.sum(self.reference_areas_mm2[self.reference_mm <= tolerance_mm]) + np.sum(
            self.prediction_areas_mm2[self.prediction_mm <= tolerance_mm]
        )
        whole_mm2 = np.sum(self.reference_areas_mm2) + np.sum(self.prediction_areas_mm2)
        return float(near_mm2 / whole_mm2)


def _sorted_from(own: Surface, other: Surface) -> tuple[Floats, Floats]:
    away_mm = distances_mm(own, other)
    order = np.lexsort((own.areas_mm2, away_mm))
    return away_mm[order], own.areas_mm2[order]


def _percentile_mm(sorted_mm: Floats, areas_mm2: Floats) -> float:
    share = np.cumsum(areas_mm2) / np.sum(areas_mm2)
    index = int(np.searchsorted(share, _HD_FRACTION))
    return float(sorted_mm[min(index, len(sorted_mm) - 1)])
