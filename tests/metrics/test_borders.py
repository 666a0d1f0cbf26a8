"""Distances between border voxels: on paper, laws, and against a slow version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from scipy import ndimage

from ray_brats.arrays import Mask
from ray_brats.metrics.borders import BorderDistances, border_of

from .masks import ANISOTROPIC_MM, CUBE, EMPTY, QUICK, SPACINGS, UNIT_MM, box_mask, cube, two_masks

TOLERANCES_MM = (0.5, 1.0, 2.0)


def between(reference: Mask, prediction: Mask, spacing_mm=UNIT_MM) -> BorderDistances:
    return BorderDistances.between(
        border_of(reference, spacing_mm), border_of(prediction, spacing_mm)
    )


def test_the_border_of_a_cube_is_all_but_its_inside():
    border = border_of(box_mask((9, 9, 9), cube((2, 2, 2), 5)), UNIT_MM)
    assert border.count == 5**3 - 3**3
    assert border.box == cube((2, 2, 2), 5)
    assert not border.border[1:-1, 1:-1, 1:-1].any()


def test_only_six_neighbours_make_a_border():
    notched = box_mask((9, 9, 9), cube((2, 2, 2), 5))
    notched[2, 2, 2] = False
    # The corner goes; the voxel that meets it in a corner only stays inside.
    assert border_of(notched, UNIT_MM).count == 5**3 - 3**3 - 1


def test_outside_of_the_volume_nothing_belongs_to_the_mask():
    assert border_of(np.ones((4, 4, 4), bool), UNIT_MM).count == 4**3 - 2**3


def test_two_voxels_two_mm_apart():
    distances = between(
        box_mask((8, 8, 8), cube((2, 4, 4), 1)), box_mask((8, 8, 8), cube((4, 4, 4), 1))
    )
    assert [distances.nsd(size_mm) for size_mm in TOLERANCES_MM] == [0.0, 0.0, 1.0]
    assert distances.hd95_mm == 2.0


def test_both_borders_weigh_the_same():
    # One voxel, and a bar of it and nine more: shares 1 and 2 / 10 within 1 mm.
    one = box_mask((16, 3, 3), (slice(2, 3), slice(1, 2), slice(1, 2)))
    bar = box_mask((16, 3, 3), (slice(2, 12), slice(1, 2), slice(1, 2)))
    distances = between(one, bar)
    assert distances.nsd(1.0) == pytest.approx((1 + 2 / 10) / 2)
    # Of 0, 0, 1 … 9 mm the 95th percentile lies between the last two.
    assert distances.hd95_mm == pytest.approx(8.5)


def test_a_distance_as_large_as_the_tolerance_is_within_it():
    """A step of 0.23 mm is three thirds of it, which floats make a little more."""
    spacing_mm = (0.23, 0.23 * 4 / 3, 0.46)
    reference = box_mask((6, 6, 6), cube((1, 1, 1), 2))
    distances = between(reference, np.roll(reference, 1, 0), spacing_mm)
    assert distances.reference_mm.max() > 0.23
    assert distances.nsd(0.23) == 1.0


def test_distance_to_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        between(CUBE, EMPTY)


def slow_numbers(reference: Mask, prediction: Mask, spacing_mm) -> list[float]:
    """NSD at each tolerance and HD95, by transforms of the whole volume."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)]
    away_mm = [
        ndimage.distance_transform_edt(~other, sampling=spacing_mm)[own]
        for own, other in (borders, borders[::-1])
    ]
    nsd = [
        sum((part <= size_mm + 1e-9).mean() for part in away_mm) / 2 for size_mm in TOLERANCES_MM
    ]
    return [*nsd, float(np.percentile(np.concatenate(away_mm), 95))]


@QUICK
@given(two_masks().filter(lambda masks: all(mask.any() for mask in masks)), SPACINGS)
def test_numbers_agree_with_transforms_of_the_whole_volume(masks, spacing_mm):
    distances = between(*masks, spacing_mm)
    found = [*(distances.nsd(size_mm) for size_mm in TOLERANCES_MM), distances.hd95_mm]
    assert found == pytest.approx(slow_numbers(*masks, spacing_mm), abs=1e-9)
    twin = between(*masks[::-1], spacing_mm)
    assert [*(twin.nsd(size_mm) for size_mm in TOLERANCES_MM), twin.hd95_mm] == found


def test_large_masks_agree_too():
    random = np.random.default_rng(3)
    fields = ndimage.gaussian_filter(random.normal(size=(2, 48, 40, 32)), (0, 2, 2, 2))
    masks = [fields[0] > 0.02, fields[0] + 0.4 * fields[1] > 0.02]
    distances = between(*masks, ANISOTROPIC_MM)
    found = [*(distances.nsd(size_mm) for size_mm in TOLERANCES_MM), distances.hd95_mm]
    assert found == pytest.approx(slow_numbers(*masks, ANISOTROPIC_MM), abs=1e-9)
