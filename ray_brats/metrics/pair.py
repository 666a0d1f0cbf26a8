"""Two label maps of one case, and what regions and labels share of the work of comparing them.

A prediction of one class only has the same mask for WT, TC and ET; a surface, its distance
transform and the lesions of a mask are made once, whichever region or label asks first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ray_brats.arrays import Mask, Spacing
from ray_brats.labels import LabelMap, mask_of
from ray_brats.metrics.borders import BorderDistances, border_of
from ray_brats.metrics.distances import SurfaceDistances
from ray_brats.metrics.instances import Instances, InstanceScores, instance_scores
from ray_brats.metrics.lesions import lesionwise_scores
from ray_brats.metrics.surfaces import Boundary, Surface, surface_of


class _Side:
    """One of the two label maps, cropped, with its masks and surfaces so far."""

    def __init__(self, index: LabelMap, spacing_mm: Spacing) -> None:
        self._index, self._spacing_mm = index, spacing_mm
        counts = np.bincount(index.ravel())
        self.present = frozenset(np.flatnonzero(counts).tolist())
        self._surfaces: dict[frozenset[int], Surface] = {}
        self._masks: dict[frozenset[int], Mask] = {}
        self._borders: dict[frozenset[int], Boundary] = {}

    def mask(self, classes: frozenset[int]) -> Mask:
        """Voxels of some classes; bool, in the crop."""
        if classes not in self._masks:
            self._masks[classes] = mask_of(self._index, classes)
        return self._masks[classes]

    def surface(self, classes: frozenset[int]) -> Surface:
        """Surface of that mask; it keeps the transforms that other comparisons may use."""
        if classes not in self._surfaces:
            self._surfaces[classes] = surface_of(self.mask(classes), self._spacing_mm)
        return self._surfaces[classes]

    def border(self, classes: frozenset[int]) -> Boundary:
        """Border voxels of that mask, which keep transforms as a surface does."""
        if classes not in self._borders:
            self._borders[classes] = border_of(self.mask(classes), self._spacing_mm)
        return self._borders[classes]


class MapPair:
    """Two label maps cropped to what is in them, and what was measured between them."""

    def __init__(
        self,
        maps: Sequence[LabelMap],
        spacing_mm: Spacing,
        voxels: int,
        small_mm3: float | None = None,
    ) -> None:
        self.spacing_mm = spacing_mm
        self.small_mm3 = small_mm3
        """Below which instances are treated apart; see `instance_scores`."""
        self.voxels = voxels
        """Voxels of the whole volume, which cropping must not forget."""
        self._reference, self._prediction = (_Side(part, spacing_mm) for part in maps)
        self._distances: dict[tuple[frozenset[int], ...], SurfaceDistances | None] = {}
        self._lesionwise: dict[tuple[frozenset[int], ...], tuple[float, float]] = {}
        self._border_distances: dict[tuple[frozenset[int], ...], BorderDistances | None] = {}
        self._instances: dict[tuple[frozenset[int], ...], InstanceScores] = {}

    def masks(self, classes: Collection[int]) -> tuple[Mask, Mask]:
        """Reference and prediction of a region or label."""
        own, other = self._key(classes)
        return self._reference.mask(own), self._prediction.mask(other)

    def distances(self, classes: Collection[int]) -> SurfaceDistances | None:
        """Distances between the two surfaces; None where a mask is empty."""
        key = self._key(classes)
        if key not in self._distances:
            own, other = self._reference.surface(key[0]), self._prediction.surface(key[1])
            both = own.count and other.count
            self._distances[key] = SurfaceDistances.between(own, other) if both else None
        return self._distances[key]

    def border_distances(self, classes: Collection[int]) -> BorderDistances | None:
        """Distances between the border voxels of the two masks; None where one is empty."""
        key = self._key(classes)
        if key not in self._border_distances:
            own, other = self._reference.border(key[0]), self._prediction.border(key[1])
            both = own.count and other.count
            self._border_distances[key] = BorderDistances.between(own, other) if both else None
        return self._border_distances[key]

    def instances(self, classes: Collection[int]) -> InstanceScores:
        """Scores by instance."""
        key = self._key(classes)
        if key not in self._instances:
            own, other = (
                Instances.of(side.mask(part), side.border(part))
                for side, part in zip((self._reference, self._prediction), key, strict=True)
            )
            self._instances[key] = instance_scores(
                own, other, self.border_distances(classes), small_mm3=self.small_mm3
            )
        return self._instances[key]

    def lesionwise(self, classes: Collection[int]) -> tuple[float, float]:
        """Lesion-wise Dice and HD95."""
        key = self._key(classes)
        if key not in self._lesionwise:
            self._lesionwise[key] = lesionwise_scores(
                *self.masks(classes), self.spacing_mm, whole=self.distances(classes)
            )
        return self._lesionwise[key]

    def _key(self, classes: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
        """The classes that are there: two regions with the same of them are the same masks."""
        return self._reference.present & set(classes), self._prediction.present & set(classes)
