"""Masks one can check on paper, random ones, and how the tests of this room score them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import surface_distance
from classes import ENHANCING, REGIONS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from ray_brats import arrays
from ray_brats.arrays import Mask
from ray_brats.labels import BACKGROUND, LabelMap
from ray_brats.metrics import distances, scores, surfaces

UNIT_MM = (1.0, 1.0, 1.0)
ANISOTROPIC_MM = (0.7, 1.1, 2.3)
INTEGER_MM = (1.0, 2.0, 3.0)
SPACINGS = st.sampled_from([UNIT_MM, ANISOTROPIC_MM, INTEGER_MM, (0.5, 0.5, 1.0)])
SMALL_MASKS = hnp.arrays(np.bool_, st.tuples(*[st.integers(1, 6)] * 3))
QUICK = settings(max_examples=60, deadline=None)


def two_masks(count: int = 2) -> st.SearchStrategy[tuple[Mask, ...]]:
    shapes = st.tuples(*[st.integers(1, 6)] * 3)
    return shapes.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape)] * count))


def box_mask(shape: tuple[int, int, int], *boxes: tuple[slice, slice, slice]) -> Mask:
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box] = True
    return mask


def cube(start: tuple[int, int, int], size: int) -> tuple[slice, slice, slice]:
    first, second, third = (slice(corner, corner + size) for corner in start)
    return first, second, third


def as_label_map(mask: Mask) -> LabelMap:
    """A mask as enhancing tumour, which all three regions share."""
    return np.where(mask, np.uint8(ENHANCING), np.uint8(BACKGROUND))


def score(reference: Mask, prediction: Mask, spacing_mm=UNIT_MM, **options: Any) -> dict[str, Any]:
    rows = scores.case_metrics(
        as_label_map(reference), as_label_map(prediction), spacing_mm, **options
    )
    assert [row["region"] for row in rows] == list(REGIONS)
    first = rows[0]
    assert all({**row, "region": "WT"} == first for row in rows), "all regions hold the same mask"
    return first


def hd95_mm(reference: Mask, prediction: Mask, spacing_mm=UNIT_MM) -> float:
    return distances.SurfaceDistances.between(
        surfaces.surface_of(reference, spacing_mm), surfaces.surface_of(prediction, spacing_mm)
    ).hd95_mm


def package_hd95_mm(reference: Mask, prediction: Mask, spacing_mm) -> float:
    """HD95 by the package that the challenge's own script calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses old names of scipy's
        package = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    return float(surface_distance.compute_robust_hausdorff(package, 95))


def perturbed(label: LabelMap, seed: int) -> LabelMap:
    """A label map bent by up to 4 voxels, with a few specks: much like a good prediction."""
    random = np.random.default_rng(seed)
    box = arrays.clipped(arrays.grown(arrays.bounding_box(label), (12,) * 3), label.shape)
    part = label[box]
    places = np.indices(part.shape).astype(np.float64)
    for axis in range(3):
        bend = ndimage.gaussian_filter(random.standard_normal(part.shape), 6)
        places[axis] += bend / np.abs(bend).max() * 4
    bent = ndimage.map_coordinates(part, places, order=0, mode="nearest")
    for _ in range(random.integers(2, 12)):
        start, size = random.integers(0, part.shape), random.integers(1, 6)
        bent[arrays.box_at(start.tolist(), (size,) * 3)] = random.integers(0, part.max() + 1)
    prediction = np.zeros_like(label)
    prediction[box] = bent
    return prediction


EMPTY = np.zeros((10, 10, 10), bool)
CUBE = box_mask((10, 10, 10), cube((3, 3, 3), 4))
