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
"""A slice along each axis; may reach past the array it is cut from."""


@dataclass(frozen=True)
class PatchLocation:
    """A box in an array: first voxel and size; may reach past the array's border."""

    start_vox: Shape
    size_vox: Shape

    def cut(self, array: Array) -> Array:
        """A copy of the box; zeros where it reaches past the array."""
        patch = np.zeros((*self.size_vox, *array.shape[3:]), array.dtype)
        self.copy_to(patch, array)
        return patch

    def copy_to(self, patch: Array, array: Array) -> None:
        """Copy what lies in the box to a patch of its size; the rest of the patch stays."""
        inside, outside = self._overlap(array.shape)
        patch[inside] = array[outside]

    def add(self, array: Array, patch: Array) -> None:
        """Add a patch to the box in place; what reaches past the array is dropped."""
        inside, outside = self._overlap(array.shape)
        array[outside] += patch[inside]

    def holds(self, mask_HWD: npt.NDArray[np.bool_]) -> bool:
        """Whether any voxel of a mask lies in the box."""
        return bool(mask_HWD[self._overlap(mask_HWD.shape)[1]].any())

    def wider(self, margin_vox: Shape) -> PatchLocation:
        """The box with so many voxels more on both sides of each axis."""
        first, second, third = (
            start - margin for start, margin in zip(self.start_vox, margin_vox, strict=True)
        )
        sides = zip(self.size_vox, margin_vox, strict=True)
        height, width, depth = (size + 2 * margin for size, margin in sides)
        return PatchLocation((first, second, third), (height, width, depth))

    def _overlap(self, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        inside, outside = [], []
        for start, size, limit in zip(self.start_vox, self.size_vox, shape[:3], strict=True):
            first = max(start, 0)
            last = max(min(start + size, limit), first)
            outside.append(slice(first, last))
            inside.append(slice(first - start, last - start))
        return tuple(inside), tuple(outside)


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


def joint(box: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    pairs = zip(box, other, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def overlap(box: Box, other: Box) -> Box:
    """What two boxes share; of no length along an axis that keeps them apart."""
    starts = [max(a.start, b.start) for a, b in zip(box, other, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(box, other, strict=True)]
    return tuple(slice(a, max(a, b)) for a, b in zip(starts, stops, strict=True))


def within(box: Box, part: Box) -> Box:
    """Where a part of a box lies in an array of the box."""
    pairs = zip(box, part, strict=True)
    return tuple(slice(b.start - a.start, b.stop - a.start) for a, b in pairs)
