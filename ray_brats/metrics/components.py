"""26-connected components of masks: numbered, counted, and what two sets of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cc3d
import numpy as np
import numpy.typing as npt

from ray_brats.arrays import Array, Box, Mask

Counts = npt.NDArray[np.int64]


def numbered(mask: Mask) -> tuple[Array, int]:
    """Components of a mask, numbered from 1 in the order of the memory, and how many there are."""
    if not mask.any():
        return np.zeros(mask.shape, np.uint16), 0
    # As uint8: for bool, cc3d 4.1 takes a short cut that fails on lines one voxel thick.
    whole = np.ascontiguousarray(mask).view(np.uint8)
    labels, count = cc3d.connected_components(whole, connectivity=26, return_N=True)
    return np.asarray(labels), int(count)


class Overlaps(NamedTuple):
    """Pairs of parts that share voxels, by the number of the second, then of the first."""

    own: Counts
    """Number of a part of the one mask, from 1; (n,)."""
    other: Counts
    """Number of the part of the other that it meets; (n,)."""
    voxels: Counts
    """How many voxels they share; (n,)."""


def overlaps(own: Array, other: Array, own_count: int) -> Overlaps:
    """What parts share, of two arrays of their numbers with one shape; 0 is no part."""
    both = (own > 0) & (other > 0)
    pairs = other[both].astype(np.int64) * (own_count + 1) + own[both]
    codes, voxels = np.unique(pairs, return_counts=True)
    others, owns = np.divmod(codes, own_count + 1)
    return Overlaps(owns, others, voxels)


class Parts:
    """Numbered parts of a mask: how large they are, and where.

    Args:
        labels: number of the part of each voxel, from 1.
    """

    def __init__(self, labels: Array) -> None:
        self.labels = labels
        # cc3d counts nothing in an array without voxels, not even its background.
        parts = cc3d.statistics(labels, no_slice_conversion=True) if labels.size else None
        self.voxels: Counts = np.array(parts["voxel_counts"] if parts else [0], np.int64)
        """Voxels of each part; the background's count stands first."""
        bounds = parts["bounding_boxes"] if parts else np.zeros((1, 6))
        self._bounds = np.array(bounds, np.int64)

    def box(self, numbers: Sequence[int]) -> Box:
        """The smallest box that holds some parts, in the array of their numbers."""
        bounds = self._bounds[list(numbers)]
        starts, stops = bounds[:, ::2].min(axis=0), bounds[:, 1::2].max(axis=0) + 1
        return tuple(map(slice, starts.tolist(), stops.tolist()))

    def mask(self, numbers: Sequence[int], box: Box) -> Mask:
        """Voxels of some parts, in a box."""
        wanted = np.zeros(len(self.voxels), bool)
        wanted[list(numbers)] = True
        mask: Mask = wanted[self.labels[box]]
        return mask
