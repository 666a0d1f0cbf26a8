"""The shared types of voxels, and boxes of them: joining, overlapping, cutting.

axes    HWD, the three axes of one volume; C its channels, N the volumes of a batch
vox     lengths and places in voxels
mm      lengths in millimetres
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Box = tuple[slice, ...]
"""A slice along each axis; may reach past the array whose voxels it counts."""


def box_at(start_vox: Sequence[int], shape_vox: Sequence[int]) -> Box:
    """The box of a first voxel and a shape."""
    pairs = zip(start_vox, shape_vox, strict=True)
    return tuple(slice(start, start + size) for start, size in pairs)


def shape_of(box: Box) -> tuple[int, ...]:
    """Length of a box along each axis."""
    return tuple(side.stop - side.start for side in box)


def bounding_box(array: Array) -> Box:
    """The smallest box that holds everything non-zero; empty along all axes where nothing is.

    It reads in the order of the memory: the slowest axis is searched from both ends, and what
    lies between is joined bit by bit into one slab, which tells the other axes.
    """
    slowest, *others = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    slabs = array.transpose(slowest, *others)
    first = next((number for number in range(len(slabs)) if slabs[number].any()), None)
    if first is None:
        return (slice(0, 0),) * array.ndim
    last = next(number for number in reversed(range(len(slabs))) if slabs[number].any())
    slabs = slabs[first : last + 1]
    slab = np.bitwise_or.reduce(slabs != 0 if slabs.dtype.kind == "f" else slabs, axis=0)
    sides = {slowest: slice(first, last + 1)}
    for place, axis in enumerate(others):
        rest = tuple(number for number in range(slab.ndim) if number != place)
        hits = np.flatnonzero(slab.any(axis=rest))
        sides[axis] = slice(int(hits[0]), int(hits[-1]) + 1)
    return tuple(sides[axis] for axis in range(array.ndim))


def ellipsoid(shape: Sequence[int]) -> Mask:
    """The largest ellipsoid in an array of this shape: it fills half of it, as a brain does."""
    axes = (((np.arange(side) + 0.5) * 2 / side - 1) ** 2 for side in shape)
    return np.asarray(sum(np.meshgrid(*axes, indexing="ij", sparse=True)) < 1)


def is_empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(side.start >= side.stop for side in box)


def joint(box: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def overlap(box: Box, other: Box) -> Box:
    """The box that two boxes share; of no length along an axis that keeps them apart."""
    starts = [max(a.start, b.start) for a, b in zip(box, other, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(box, other, strict=True)]
    return tuple(slice(a, max(a, b)) for a, b in zip(starts, stops, strict=True))


def within(box: Box, part: Box) -> Box:
    """The place of a part of a box in an array of the box."""
    pairs = zip(box, part, strict=True)
    return tuple(slice(b.start - a.start, b.stop - a.start) for a, b in pairs)


def grown(box: Box, margins_vox: Sequence[int]) -> Box:
    """A box with so many voxels more on both sides of each axis."""
    pairs = zip(box, margins_vox, strict=True)
    return tuple(slice(side.start - margin, side.stop + margin) for side, margin in pairs)


def clipped(box: Box, shape: Sequence[int]) -> Box:
    """The part of a box that lies in an array of this shape."""
    return overlap(box, box_at((0,) * len(box), shape))


def meeting(box: Box, shape: Sequence[int]) -> tuple[Box, Box]:
    """The voxels that a box shares with an array of this shape: in the box, and in the array."""
    outside = clipped(box, shape)
    return within(box, outside), outside


@dataclass(frozen=True)
class PatchLocation:
    """A patch's place in an array: first voxel and size; may reach past the array's border."""

    start_vox: Shape
    size_vox: Shape

    @property
    def box(self) -> Box:
        """The location as slices."""
        return box_at(self.start_vox, self.size_vox)

    def cut(self, array: Array) -> Array:
        """A copy of the box; zeros where it reaches past the array."""
        patch = np.zeros((*self.size_vox, *array.shape[3:]), array.dtype)
        self.copy_to(patch, array)
        return patch

    def copy_to(self, patch: Array, array: Array) -> None:
        """Copy what lies in the box to a patch of its size; the rest of the patch stays."""
        inside, outside = meeting(self.box, array.shape[:3])
        patch[inside] = array[outside]

    def add(self, array: Array, patch: Array) -> None:
        """Add a patch to the box in place; what reaches past the array is dropped."""
        inside, outside = meeting(self.box, array.shape[:3])
        array[outside] += patch[inside]

    def holds(self, mask_HWD: Mask) -> bool:
        """Whether any voxel of a mask lies in the box."""
        return bool(mask_HWD[clipped(self.box, mask_HWD.shape)].any())

    def wider(self, margin_vox: Shape) -> PatchLocation:
        """The location with so many voxels more on both sides of each axis."""
        box = grown(self.box, margin_vox)
        first, second, third = (side.start for side in box)
        height, width, depth = shape_of(box)
        return PatchLocation((first, second, third), (height, width, depth))


def sliding_windows(shape: Sequence[int], window_vox: Shape, overlap: float) -> list[PatchLocation]:
    """Windows that cover an array: evenly spaced, neighbours sharing at least `overlap`."""
    starts = []
    for limit, size in zip(shape, window_vox, strict=True):
        if limit <= size:
            starts.append([(limit - size) // 2])
            continue
        step = max(1, int(size * (1 - overlap)))
        count = -(-(limit - size) // step) + 1
        starts.append([round(i * (limit - size) / (count - 1)) for i in range(count)])
    return [PatchLocation((a, b, c), window_vox) for a, b, c in itertools.product(*starts)]
