"""Surfaces of masks, and how far every place of a box is from one.

The definitions are those of Nikolov et al. 2018 (arXiv 1809.04430) as google-deepmind's
`surface-distance` computes them, which is what the BraTS script of 2023 calls. A *surface
element* sits at each corner where eight voxels meet and some, but not all, of them belong to
the mask. Those eight bits are its neighbour code; the code gives its area.

    axes      HWD, the mask's own three axes
    points    indices of voxel corners: corner i lies between voxel i - 1 and voxel i

A `Boundary` is what distances are measured between: the elements of a `Surface` here, the border
voxels of `borders`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import compress, permutations, product
from typing import Final

import edt
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from ray_brats import arrays
from ray_brats.arrays import Array, Box, Floats, Mask, Spacing

Points = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

_FULL_CODE: Final = 255
_EXACT_FLOAT32: Final = 2**24

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


@dataclass(frozen=True, eq=False)
class Boundary:
    """Places of a grid that stand for the surface of one mask, in the order of the memory."""

    border: Mask
    """Which places of the box around the mask they are."""
    box: Box
    """Place of that box in the volume."""
    spacing_mm: Spacing
    transforms: list[Transform] = field(default_factory=list)
    """Distance transforms that reached over both masks: another comparison may use them."""

    @cached_property
    def count(self) -> int:
        """Number of places."""
        return int(np.count_nonzero(self.border))

    @cached_property
    def points(self) -> Points:
        """Index of each place; (n, 3)."""
        points: Points = np.argwhere(self.border) + np.array([part.start for part in self.box])
        return points

    @cached_property
    def tree_mm(self) -> KDTree:
        """Search tree over the points in mm."""
        # Splits at the middle instead of the median: on surfaces it builds and answers faster.
        return KDTree(
            self.points * np.array(self.spacing_mm), balanced_tree=False, compact_nodes=False
        )


@dataclass(frozen=True, eq=False)
class Surface(Boundary):
    """The surface elements of one mask, in the order of the voxel corners that carry them."""

    codes: Codes = field(kw_only=True)
    """Neighbour code of every corner of the box around the mask."""

    @cached_property
    def areas_mm2(self) -> Floats:
        """Area of each element; (n,)."""
        areas: Floats = surfel_areas_mm2(self.spacing_mm)[self.codes[self.border]]
        return areas


def surface_of(mask: Mask, spacing_mm: Spacing, origin: tuple[int, ...] = (0, 0, 0)) -> Surface:
    """Find the surface elements of a mask.

    Args:
        mask: bool, `(H, W, D)`; outside of the array counts as background.
        spacing_mm: size of a voxel along each axis.
        origin: index of the mask's first voxel in the volume it was cut from.
    """
    box = arrays.bounding_box(mask)
    codes = np.pad(mask[box], 1).view(np.uint8)
    codes = _joined(codes[:, :, :-1], codes[:, :, 1:], bits=1)
    codes = _joined(codes[:, :-1], codes[:, 1:], bits=2)
    codes = _joined(codes[:-1], codes[1:], bits=4)
    first = [start + side.start for start, side in zip(origin, box, strict=True)]
    corners = arrays.box_at(first, codes.shape)
    border = (codes != 0) & (codes != _FULL_CODE)
    return Surface(border, corners, spacing_mm, codes=codes)


def _joined(high: Codes, low: Codes, bits: int) -> Codes:
    codes: Codes = np.left_shift(high, np.uint8(bits))
    codes |= low
    return codes


@dataclass(frozen=True, eq=False)
class Transform:
    """Distance of every place of a box to the nearest one of a boundary inside it."""

    box: Box
    values: Array
    """In units of `unit_mm`, squared where `squared`."""
    unit_mm: float
    squared: bool

    @classmethod
    def of(cls, surface: Boundary, box: Box) -> Transform:
        """Transform a box that holds at least one place of the boundary."""
        away = np.ones(arrays.shape_of(box), np.uint8)
        seen = arrays.overlap(box, surface.box)
        away[arrays.within(box, seen)] = ~surface.border[arrays.within(surface.box, seen)]
        steps, unit_mm = whole_steps(surface.spacing_mm)
        if is_exact_with_edt(box, surface.spacing_mm):
            return cls(box, edt.edtsq(away, anisotropy=steps), unit_mm, squared=True)
        values: Floats = ndimage.distance_transform_edt(away, sampling=steps)
        return cls(box, values, unit_mm, squared=False)

    def at(self, surface: Boundary) -> Floats:
        """Distances in mm at the places of a boundary that lies in the box."""
        values = self.values[arrays.within(self.box, surface.box)][surface.border].astype(
            np.float64
        )
        return (np.sqrt(values) if self.squared else values) * self.unit_mm


def lengths_mm(steps: Points, spacing_mm: Spacing) -> Floats:
    """Lengths of so many steps along each axis, `(n, 3)`, to the bit those of a `Transform`.

    Whatever finds a distance, equal ones are equal: else the 95th percentile could depend on
    what else is in the volume.
    """
    sizes, unit_mm = whole_steps(spacing_mm)
    squares = (steps * np.array(sizes)) ** 2
    lengths: Floats = np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2]) * unit_mm
    return lengths


@lru_cache(maxsize=64)
def whole_steps(spacing_mm: Spacing) -> tuple[tuple[float, float, float], float]:
    """Voxel sizes as whole multiples of a unit in mm; the sizes and 1 mm where there is none."""
    for parts in range(1, 11):
        unit_mm = min(spacing_mm) / parts
        steps = np.array(spacing_mm) / unit_mm
        if np.allclose(steps, np.rint(steps), rtol=1e-14, atol=0):
            height, width, depth = np.rint(steps).tolist()
            return (height, width, depth), unit_mm
    return spacing_mm, 1.0


def is_exact_with_edt(box: Box, spacing_mm: Spacing) -> bool:
    """Whether edt, which squares in float32, is: squares must be whole and below 2 ** 24."""
    steps = np.array(whole_steps(spacing_mm)[0])
    return bool(
        (steps == np.rint(steps)).all()
        and ((steps * arrays.shape_of(box)) ** 2).sum() < _EXACT_FLOAT32
    )
