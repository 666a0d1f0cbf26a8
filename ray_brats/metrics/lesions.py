"""Lesion-wise Dice and HD95: each lesion of the truth counts the same, whatever its size.

The rules of BraTS 2023 for adult glioma: Saluja et al. 2023 (BraTS-2023-Metrics); Moawad et
al. 2023 (arXiv 2306.00838). A *lesion* is what truth voxels form once dilation has closed the
gaps between them; a *component* is a 26-connected piece of the prediction.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ray_brats import arrays
from ray_brats.arrays import Array, Mask, Spacing
from ray_brats.metrics.components import Overlaps, Parts, numbered, overlaps
from ray_brats.metrics.distances import SurfaceDistances
from ray_brats.metrics.surfaces import Surface, surface_of

PENALTY_MM: Final = 374.0
"""HD95 of a missed lesion and of a false positive."""
DILATIONS: Final = 3
"""Number of times that the truth is dilated with the 18-neighbour structure."""
SMALLEST_MM3: Final = 50.0
"""Lesions up to this volume are left out of the score."""


class LesionwiseScores(NamedTuple):
    """Means over the lesions kept and the false positives."""

    dice: float
    hd95_mm: float


NOTHING_TO_FIND: Final = LesionwiseScores(1.0, 0.0)
"""Score where there is neither a lesion to keep nor a false positive."""


def dilate_18(mask: Mask, times: int) -> Mask:
    """Dilate with the 18-neighbour structure, `generate_binary_structure(3, 2)`.

    That structure is the union of a 3 × 3 square in each of the three planes, and a square is
    a line along one axis, dilated along another: whole-array shifts, no loop over voxels.
    """
    for _ in range(times):
        lines = [_dilate_along(mask, axis) for axis in range(3)]
        mask = _dilate_along(lines[0], 1)
        mask |= _dilate_along(lines[1], 2)
        mask |= _dilate_along(lines[2], 0)
    return mask


def _dilate_along(mask: Mask, axis: int) -> Mask:
    grown = mask.copy()
    source, target = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)
    target[1:] |= source[:-1]
    target[:-1] |= source[1:]
    return grown


def lesionwise_scores(
    reference: Mask,
    prediction: Mask,
    spacing_mm: Spacing,
    *,
    whole: SurfaceDistances | None = None,
) -> LesionwiseScores:
    """Score a prediction lesion by lesion.

    Truth voxels inside one 26-connected component of the truth, dilated three times, are one
    lesion. Every predicted component that touches a lesion's dilation belongs to it (one may
    serve several); their union is scored against the undilated lesion. A missed lesion and
    every component that touches no dilation count with Dice 0 and 374 mm. Lesions up to
    50 mm³ are left out, and what touches them is no false positive.

    Args:
        reference: truth; bool, `(H, W, D)`.
        prediction: bool of the same shape.
        spacing_mm: size of a voxel along each axis.
        whole: distances between the whole masks if known; saves measuring again where they
            are one lesion and what belongs to it.

    Returns:
        The two means; 1 and 0 mm where there is no lesion to keep and no false positive.
    """
    components, component_count = numbered(prediction)
    reach = arrays.grown(arrays.bounding_box(reference), (DILATIONS,) * 3)
    box = arrays.clipped(reach, reference.shape)
    truth = reference[box]
    # Each ball that dilation adds is connected, so a component of the dilated truth is also
    # exactly the dilation of the lesion inside it.
    dilations, lesion_count = numbered(dilate_18(truth, DILATIONS))
    lesions = np.where(truth, dilations, np.zeros((), dilations.dtype))
    touching = _by_lesion(overlaps(dilations, components[box], lesion_count))
    served = {component for matched in touching.values() for component in matched}
    false_positives = component_count - len(served)

    truths = _Parts(lesions, [part.start for part in box], whole.reference if whole else None)
    pieces = _Parts(components, [0, 0, 0], whole.prediction if whole else None)
    kept = np.flatnonzero(truths.voxels[1:] * math.prod(spacing_mm) > SMALLEST_MM3) + 1
    shared = _by_lesion(overlaps(lesions, components[box], lesion_count))
    dice_sum, hd95_sum_mm = 0.0, PENALTY_MM * false_positives
    for lesion in kept.tolist():
        matched = tuple(touching[lesion])
        if not matched:
            hd95_sum_mm += PENALTY_MM
            continue
        voxels = int(truths.voxels[lesion]) + int(pieces.voxels[list(matched)].sum())
        dice_sum += 2 * sum(shared[lesion].values()) / voxels
        if whole and len(matched) == component_count and lesion_count == 1:
            hd95_sum_mm += whole.hd95_mm
            continue
        pair = truths.surface((lesion,), spacing_mm), pieces.surface(matched, spacing_mm)
        hd95_sum_mm += SurfaceDistances.between(*pair).hd95_mm
    count = len(kept) + false_positives
    return LesionwiseScores(dice_sum / count, hd95_sum_mm / count) if count else NOTHING_TO_FIND


def _by_lesion(shared: Overlaps) -> dict[int, dict[int, int]]:
    """Voxels that each lesion shares with each component it meets: lesion to {component: n}."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    for lesion, component, voxels in zip(*(part.tolist() for part in shared), strict=True):
        found[lesion][component] = voxels
    return found


class _Parts(Parts):
    """Parts of a mask, and surfaces of unions of them; each union is built once.

    Args:
        labels: number of the part of each voxel, from 1.
        origin: index of the first voxel in the volume.
        whole: surface of all parts together, if known.
    """

    def __init__(self, labels: Array, origin: Sequence[int], whole: Surface | None) -> None:
        super().__init__(labels)
        self._origin = tuple(origin)
        everything = tuple(range(1, len(self.voxels)))
        self._surfaces = {everything: whole} if whole else {}

    def surface(self, numbers: tuple[int, ...], spacing_mm: Spacing) -> Surface:
        """Surface of the union of some parts."""
        if numbers not in self._surfaces:
            box = self.box(numbers)
            origin = tuple(
                side.start + start for side, start in zip(box, self._origin, strict=True)
            )
            self._surfaces[numbers] = surface_of(self.mask(numbers, box), spacing_mm, origin)
        return self._surfaces[numbers]
