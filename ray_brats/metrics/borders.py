"""Distances between the border voxels of two masks: NSD and HD95 of the BraTS challenge of 2026.

The definitions are those of `panoptica` 2.1.7 (Kofler et al. 2023, arXiv 2312.02608), which the
challenge's evaluator calls. A *border voxel* belongs to the mask and has one of six neighbours
that does not; outside of the volume nothing does. Each counts the same, whatever area it stands
for: these are not the numbers of `distances`, whose surfaces lie between the voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Floats, Mask, Spacing
from ray_brats.metrics.distances import distances_mm
from ray_brats.metrics.surfaces import Boundary

_HD_PERCENT: Final = 95
_SLACK: Final = 1 + 1e-9
"""A distance as large as the tolerance is within it, also where rounding made it larger."""


def border_of(mask: Mask, spacing_mm: Spacing) -> Boundary:
    """Find the border voxels of a mask.

    Args:
        mask: bool, `(H, W, D)`; outside of the array counts as background.
        spacing_mm: size of a voxel along each axis.
    """
    box = arrays.bounding_box(mask)
    padded = np.pad(mask[box], 1)
    own = padded[1:-1, 1:-1, 1:-1]
    inner = padded[2:, 1:-1, 1:-1] & padded[:-2, 1:-1, 1:-1]
    inner &= padded[1:-1, 2:, 1:-1]
    inner &= padded[1:-1, :-2, 1:-1]
    inner &= padded[1:-1, 1:-1, 2:]
    inner &= padded[1:-1, 1:-1, :-2]
    border: Mask = own & ~inner
    return Boundary(border, box, spacing_mm)


@dataclass(frozen=True, eq=False)
class BorderDistances:
    """Distances between the border voxels of two masks, both ways."""

    reference_mm: Floats
    """Distance of each border voxel of the reference from the other border; (n,)."""
    prediction_mm: Floats

    @classmethod
    def between(cls, reference: Boundary, prediction: Boundary) -> BorderDistances:
        """Measure both ways.

        Raises:
            ValueError: a mask without voxels has no distance to another.
        """
        if not reference.count or not prediction.count:
            raise ValueError("the distance to an empty mask does not exist: treat it apart")
        return cls(distances_mm(reference, prediction), distances_mm(prediction, reference))

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: mean of the two borders' shares within the tolerance; 0 to 1.

        Both borders weigh the same, whichever has more voxels.
        """
        sides = (self.reference_mm, self.prediction_mm)
        shares = [float(np.mean(away_mm <= tolerance_mm * _SLACK)) for away_mm in sides]
        return sum(shares) / 2

    @cached_property
    def hd95_mm(self) -> float:
        """95th percentile of the distances of both borders in one, interpolated, in mm."""
        both_mm = np.concatenate([self.reference_mm, self.prediction_mm])
        return float(np.percentile(both_mm, _HD_PERCENT))
