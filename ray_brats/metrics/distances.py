"""Distances between the surfaces of two masks: HD95 and surface Dice.

The definitions are those of Nikolov et al. 2018 (arXiv 1809.04430), as in `surfaces`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Box, Floats, Spacing, joint, overlap, within
from ray_brats.metrics.surfaces import (
    Boundary,
    Points,
    Surface,
    Transform,
    is_exact_with_edt,
    lengths_mm,
)

_HD_FRACTION: Final = 0.95

# What finds distances fastest, measured in voxels of edt's transform: a search tree pays per
# element, a transform per voxel of its box. Most elements lie near the other surface: a tree
# that looks no further than `_NEAR_MM`, or a transform of the box so far around them, finds
# those, and only what is left has to look further.
_TRANSFORM_WORK: Final = {"edt": 1, "scipy": 4}
_QUERY_WORK: Final = 40
_BUILD_WORK: Final = 10
_FAR_WORK: Final = 0.1
_NEAR_MM: Final = 10.0

# Noise against noise: nearly every corner carries an element, so a look at the corners beside
# finds what a transform of the whole volume would. Worth a try from one corner in `_SPARSE` on.
_SPARSE: Final = 5
_REACH: Final = 2
_FIRST_STEPS: Final = 6


def distances_mm(own: Boundary, other: Boundary) -> Floats:
    """Distance from each place of one boundary to the nearest of another, in mm; (n,)."""
    for transform in other.transforms:
        if overlap(own.box, transform.box) == own.box:
            return transform.at(own)
    if other.count * _SPARSE > other.border.size:
        away_mm = _beside_mm(own, other)
        if np.isfinite(away_mm).all():
            return away_mm
    whole = joint(own.box, other.box)
    near = overlap(whole, _grown(own.box, own.spacing_mm))
    search = own.count * _QUERY_WORK + other.count * _BUILD_WORK
    if _work(whole, own.spacing_mm) <= min(search, 2 * _work(near, own.spacing_mm)):
        return _transformed_mm(own, other)
    if search <= _work(near, own.spacing_mm):
        away_mm = _searched_mm(own.points, other, within_mm=_NEAR_MM)
    else:
        away_mm = _transformed_near_mm(own, other, near)
    far = np.flatnonzero(np.isinf(away_mm))
    if far.size * other.count * _FAR_WORK <= _work(whole, own.spacing_mm):
        away_mm[far] = _searched_mm(own.points[far], other, within_mm=math.inf)
    else:
        away_mm[far] = _transformed_mm(own, other)[far]
    return away_mm


def _work(box: Box, spacing_mm: Spacing) -> int:
    library = "edt" if is_exact_with_edt(box, spacing_mm) else "scipy"
    return _TRANSFORM_WORK[library] * math.prod(arrays.shape_of(box))


def _searched_mm(points: Points, other: Boundary, within_mm: float) -> Floats:
    """Distances by search tree; infinite where nothing is nearer than `within_mm`."""
    if not len(points):
        return np.empty(0)
    result = other.tree_mm.query(
        points * np.array(other.spacing_mm), distance_upper_bound=within_mm
    )
    away_mm, nearest = map(np.array, result)
    near = np.isfinite(away_mm)
    away_mm[near] = lengths_mm(points[near] - other.points[nearest[near]], other.spacing_mm)
    return away_mm


def _beside_mm(own: Boundary, other: Boundary) -> Floats:
    """Distances up to `_REACH` corners away; infinite beyond, or where too few are so near."""
    steps = np.argwhere(np.ones((2 * _REACH + 1,) * 3)) - _REACH
    steps_mm = lengths_mm(steps, own.spacing_mm)
    complete = steps_mm < (_REACH + 1) * min(own.spacing_mm)  # no corner outside of reach is nearer
    order = np.argsort(np.where(complete, steps_mm, math.inf))[: np.count_nonzero(complete)]
    box = joint(arrays.grown(own.box, (_REACH,) * 3), other.box)
    seen, placed = (np.zeros(arrays.shape_of(box), bool) for _ in range(2))
    seen[within(box, other.box)] = other.border
    placed[within(box, own.box)] = own.border
    strides, border, left = np.array(seen.strides), seen.ravel(), np.flatnonzero(placed)
    which, away_mm = np.arange(own.count), np.full(own.count, math.inf)
    for tried, step in enumerate(order.tolist()):
        hit = border[left + int(steps[step] @ strides)]
        away_mm[which[hit]] = steps_mm[step]
        left, which = left[~hit], which[~hit]
        if not left.size or (tried == _FIRST_STEPS and left.size * 2 > own.count):
            break
    return away_mm


def _transformed_mm(own: Boundary, other: Boundary) -> Floats:
    """Distances by a transform of the box that holds both; kept for the next comparison."""
    other.transforms[:] = [Transform.of(other, joint(own.box, other.box))]
    return other.transforms[0].at(own)


def _transformed_near_mm(own: Boundary, other: Boundary, near: Box) -> Floats:
    """Distances by a transform of the box near `own`; infinite beyond `_NEAR_MM`."""
    seen = within(other.box, overlap(near, other.box))
    if not other.border[seen].any():
        return np.full(own.count, math.inf)
    away_mm = Transform.of(other, near).at(own)
    away_mm[away_mm > _NEAR_MM] = math.inf  # outside the box something may be nearer
    return away_mm


def _grown(box: Box, spacing_mm: Spacing) -> Box:
    """A box widened by `_NEAR_MM` on every side."""
    return arrays.grown(box, [math.ceil(_NEAR_MM / size) for size in spacing_mm])


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between two surfaces, both ways."""

    reference: Surface
    reference_mm: Floats
    """Distance of each of its elements from the other surface."""
    prediction: Surface
    prediction_mm: Floats

    @classmethod
    def between(cls, reference: Surface, prediction: Surface) -> SurfaceDistances:
        """Measure both ways.

        Raises:
            ValueError: a surface without elements has no distance to another.
        """
        if not reference.count or not prediction.count:
            raise ValueError("the distance to an empty mask does not exist: treat it apart")
        return cls(
            reference,
            distances_mm(reference, prediction),
            prediction,
            distances_mm(prediction, reference),
        )

    @cached_property
    def hd95_mm(self) -> float:
        """Robust Hausdorff distance: the larger of the two 95th percentiles by area, in mm."""
        return max(
            _percentile_mm(self.reference_mm, self.reference.areas_mm2),
            _percentile_mm(self.prediction_mm, self.prediction.areas_mm2),
        )

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces' area that lies within the tolerance of the other; 0 to 1."""
        near_mm2 = np.sum(self.reference.areas_mm2[self.reference_mm <= tolerance_mm]) + np.sum(
            self.prediction.areas_mm2[self.prediction_mm <= tolerance_mm]
        )
        whole_mm2 = np.sum(self.reference.areas_mm2) + np.sum(self.prediction.areas_mm2)
        return float(near_mm2 / whole_mm2)


_BINS: Final = 4096
_SORTED_WHOLE: Final = 1 << 15
_TIE: Final = 1e-7


def _percentile_mm(away_mm: Floats, areas_mm2: Floats) -> float:
    """The distance that 95 % of the area do not exceed.

    Of many elements only those of one bin of distances are sorted. Where the share is 0.95 but
    for rounding, the order of summation decides, and all are sorted as the package does it.
    """
    if away_mm.size <= _SORTED_WHOLE:
        return _percentile_of_sorted_mm(away_mm, areas_mm2)
    bins = (away_mm * ((_BINS - 1) / max(float(away_mm.max()), 1e-9))).astype(np.int32)
    shares = np.cumsum(np.bincount(bins, areas_mm2)) / np.sum(areas_mm2)
    chosen = int(np.searchsorted(shares, _HD_FRACTION))
    inside = np.flatnonzero(bins == chosen)
    values_mm, places = np.unique(away_mm[inside], return_inverse=True)
    before = shares[chosen - 1] if chosen else 0.0
    parts = np.cumsum(np.bincount(places, areas_mm2[inside])) / np.sum(areas_mm2)
    reached = np.concatenate([[before], before + parts])
    if np.abs(reached - _HD_FRACTION).min() < _TIE:
        return _percentile_of_sorted_mm(away_mm, areas_mm2)
    return float(values_mm[np.searchsorted(reached[1:], _HD_FRACTION)])


def _percentile_of_sorted_mm(away_mm: Floats, areas_mm2: Floats) -> float:
    order = np.lexsort((areas_mm2, away_mm))
    share = np.cumsum(areas_mm2[order]) / np.sum(areas_mm2[order])
    index = int(np.searchsorted(share, _HD_FRACTION))
    return float(away_mm[order][min(index, len(order) - 1)])
