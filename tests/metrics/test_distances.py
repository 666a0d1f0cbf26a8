"""Distances between surfaces: on paper, against slow versions, and against the package."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats import arrays
from ray_brats.arrays import Mask
from ray_brats.metrics import distances, surfaces

from .masks import (
    ANISOTROPIC_MM,
    INTEGER_MM,
    QUICK,
    SPACINGS,
    UNIT_MM,
    box_mask,
    cube,
    hd95_mm,
    score,
    two_masks,
)


def test_two_voxels_two_mm_apart():
    reference = box_mask((8, 8, 8), cube((2, 4, 4), 1))
    prediction = box_mask((8, 8, 8), cube((4, 4, 4), 1))
    row = score(reference, prediction)
    # Corners 2, 3 against corners 4, 5: distances 2 and 1, of equal area.
    assert row["hd95_mm"] == 2.0
    assert row["surface_dice_1mm"] == pytest.approx(0.5)
    assert row["dice"] == 0.0


def test_distance_is_in_mm_along_each_axis():
    for axis, spacing in enumerate(ANISOTROPIC_MM):
        reference = box_mask((9, 9, 9), cube((3, 3, 3), 1))
        prediction = np.roll(reference, 3, axis)
        assert hd95_mm(reference, prediction, ANISOTROPIC_MM) == pytest.approx(3 * spacing)


def test_plate_against_shifted_plate():
    # Plates through the whole array: faces, edges and corners all move by 4 voxels of 1.5 mm.
    reference = box_mask((20, 6, 6), (slice(5, 6), slice(0, 6), slice(0, 6)))
    row = score(reference, np.roll(reference, 4, 0), (1.5, 1.0, 1.0))
    assert row["hd95_mm"] == 6.0
    assert row["surface_dice_1mm"] == 0.0


def test_distance_to_an_empty_mask_is_refused():
    empty = surfaces.surface_of(np.zeros((3, 3, 3), bool), UNIT_MM)
    with pytest.raises(ValueError, match="empty"):
        distances.SurfaceDistances.between(empty, empty)


def test_outliers_of_less_than_five_percent_do_not_count():
    reference = box_mask((40, 40, 40), cube((2, 2, 2), 20))
    prediction = reference.copy()
    prediction[38, 38, 38] = True
    assert score(reference, prediction)["hd95_mm"] == 0.0


def slow_surface(mask: Mask) -> tuple[npt.NDArray[np.int64], list[int]]:
    padded = np.pad(mask, 1)
    points, codes = [], []
    for corner in itertools.product(*(range(size + 1) for size in mask.shape)):
        bits = padded[tuple(slice(index, index + 2) for index in corner)].ravel()
        code = sum(int(bit) << (7 - place) for place, bit in enumerate(bits))
        if 0 < code < 255:
            points.append(corner)
            codes.append(code)
    return np.array(points), codes


def slow_scores(reference: Mask, prediction: Mask, spacing_mm) -> tuple[float, float, float]:
    """Bounds of HD95, and surface Dice, from the full table of distances.

    Where a sum of areas is 0.95 of the whole, rounding decides which element is the percentile:
    the bounds are the percentiles just below and just above.
    """
    (own, own_codes), (other, other_codes) = slow_surface(reference), slow_surface(prediction)
    gaps_mm = (own[:, None] - other[None]) * np.array(spacing_mm)
    table_mm = np.sqrt((gaps_mm**2).sum(axis=-1))
    areas_mm2 = surfaces.surfel_areas_mm2(spacing_mm)
    bounds_mm, near, whole = [], 0.0, 0.0
    for away_mm, codes in ((table_mm.min(axis=1), own_codes), (table_mm.min(axis=0), other_codes)):
        pairs = sorted(zip(away_mm.tolist(), areas_mm2[codes].tolist(), strict=True))
        total = sum(area for _, area in pairs)
        reached = list(itertools.accumulate(area / total for _, area in pairs))
        bounds_mm.append(
            [
                next(pairs[place][0] for place, part in enumerate(reached) if part >= fraction)
                for fraction in (0.95 - 1e-9, 0.95 + 1e-9)
            ]
        )
        near += sum(area for away, area in pairs if away <= 1.0)
        whole += total
    low_mm, high_mm = (max(pair) for pair in zip(*bounds_mm, strict=True))
    return low_mm, high_mm, near / whole


@QUICK
@given(two_masks(), SPACINGS)
def test_surface_scores_agree_with_the_full_table(masks, spacing_mm):
    reference, prediction = masks
    if not (reference.any() and prediction.any()):
        return
    row = score(reference, prediction, spacing_mm)
    low_mm, high_mm, surface_dice = slow_scores(reference, prediction, spacing_mm)
    assert low_mm - 1e-6 <= row["hd95_mm"] <= high_mm + 1e-6
    assert row["surface_dice_1mm"] == pytest.approx(surface_dice, abs=1e-6)


def test_a_tie_at_the_percentile_falls_as_in_the_surface_distance_package():
    reference = box_mask((3, 3, 3), cube((0, 0, 0), 1))
    corners = ((0, 0, 1), (0, 1, 0), (0, 1, 2), (0, 2, 1), (2, 0, 0))
    prediction = box_mask((3, 3, 3), *(cube(corner, 1) for corner in corners))
    # 38 of 40 equal elements reach exactly 0.95; that package's figures for the two spacings.
    assert hd95_mm(reference, prediction, UNIT_MM) == pytest.approx(math.sqrt(5))
    assert hd95_mm(reference, prediction, ANISOTROPIC_MM) == pytest.approx(4.729693436154187)


@QUICK
@given(two_masks(), SPACINGS)
def test_all_ways_to_find_distances_agree(masks, spacing_mm):
    own, other = (surfaces.surface_of(mask, spacing_mm) for mask in masks)
    if not (len(own.points) and len(other.points)):
        return
    expected_mm = distances._searched_mm(own.points, other, within_mm=math.inf)
    transformed_mm = distances._transformed_mm(own, other)
    np.testing.assert_allclose(transformed_mm, expected_mm, rtol=0, atol=1e-9)
    beside_mm = distances._beside_mm(own, other)
    known = np.isfinite(beside_mm)
    np.testing.assert_array_equal(beside_mm[known], expected_mm[known])
    np.testing.assert_allclose(distances.distances_mm(own, other), expected_mm, rtol=0, atol=1e-9)


def test_noise_against_noise_needs_no_transform(monkeypatch):
    """On whole volumes of noise the transforms took most of the time of a case."""
    monkeypatch.setattr(distances.Transform, "of", lambda *_: pytest.fail("transformed"))
    noise = np.random.default_rng(4).random((2, 40, 40, 40)) < 0.25
    own, other = (surfaces.surface_of(mask, UNIT_MM) for mask in noise)
    expected_mm = distances._searched_mm(own.points, other, within_mm=math.inf)
    np.testing.assert_array_equal(distances.distances_mm(own, other), expected_mm)


@QUICK
@given(two_masks(), st.sampled_from([UNIT_MM, INTEGER_MM, ANISOTROPIC_MM]))
def test_a_transform_near_a_surface_knows_what_it_cannot_see(masks, spacing_mm):
    own, other = (surfaces.surface_of(mask, spacing_mm) for mask in masks)
    if not (own.count and other.count):
        return
    far_mm = distances._searched_mm(own.points, other, within_mm=math.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_NEAR_MM", 1.5)
        near = arrays.overlap(
            arrays.joint(own.box, other.box), distances._grown(own.box, spacing_mm)
        )
        near_mm = distances._transformed_near_mm(own, other, near)
    expected_mm = np.where(far_mm <= 1.5, far_mm, math.inf)
    np.testing.assert_allclose(near_mm, expected_mm, rtol=0, atol=1e-9)


@pytest.mark.parametrize("spacing_mm", [UNIT_MM, ANISOTROPIC_MM, (0.7310585, 1.1, 2.3)])
@pytest.mark.parametrize("density", [0.002, 0.3])
def test_noise_around_a_small_lesion_agrees_with_a_transform_in_float64(spacing_mm, density):
    shape = (70, 60, 50)
    noise = np.random.default_rng(3).random(shape) < density
    own = surfaces.surface_of(box_mask(shape, cube((30, 20, 20), 5)), spacing_mm)
    other = surfaces.surface_of(noise, spacing_mm)
    for first, second in ((own, other), (other, own), (other, own)):
        away = np.ones(np.array(shape) + 1, bool)
        away[tuple(second.points.T)] = False
        expected_mm = ndimage.distance_transform_edt(away, sampling=spacing_mm)
        np.testing.assert_allclose(
            distances.distances_mm(first, second),
            expected_mm[tuple(first.points.T)],
            rtol=0,
            atol=1e-9,
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 5, 300]), st.integers(1, 5))
def test_the_percentile_of_many_elements_is_that_of_all_sorted(seed, steps, kinds):
    random = np.random.default_rng(seed)
    size = distances._SORTED_WHOLE + 1
    away_mm = np.sqrt(random.integers(0, steps, size, endpoint=True) ** 2 * 1.21)
    areas_mm2 = random.integers(1, kinds, size, endpoint=True) / 8
    expected_mm = distances._percentile_of_sorted_mm(away_mm, areas_mm2)
    assert distances._percentile_mm(away_mm, areas_mm2) == expected_mm


def test_a_tie_among_many_elements_falls_as_among_few():
    size = 2 * distances._SORTED_WHOLE // 40 * 40
    away_mm = np.repeat([1.0, 2.0], [size // 20 * 19, size // 20])
    areas_mm2 = np.full(size, 0.1)
    expected_mm = distances._percentile_of_sorted_mm(away_mm, areas_mm2)
    assert distances._percentile_mm(away_mm, areas_mm2) == expected_mm


@pytest.mark.parametrize("spacing_mm", [UNIT_MM, INTEGER_MM, ANISOTROPIC_MM])
def test_far_surfaces_agree_with_a_transform_in_float64(spacing_mm):
    grid = np.indices((90, 60, 50))
    mask = box_mask((90, 60, 50), cube((1, 2, 3), 6))
    ball = ((grid - np.array([65, 35, 25])[:, None, None, None]) ** 2).sum(axis=0) < 20**2
    own, other = surfaces.surface_of(mask, spacing_mm), surfaces.surface_of(ball, spacing_mm)
    for first, second in ((own, other), (other, own)):
        away = np.ones((91, 61, 51), bool)
        away[tuple(second.points.T)] = False
        expected_mm = ndimage.distance_transform_edt(away, sampling=spacing_mm)
        np.testing.assert_allclose(
            distances.distances_mm(first, second),
            expected_mm[tuple(first.points.T)],
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
@pytest.mark.parametrize("spacing_mm", [UNIT_MM, INTEGER_MM, ANISOTROPIC_MM, (0.9375, 0.9375, 1.2)])
def test_agrees_with_the_surface_distance_package(spacing_mm):
    random = np.random.default_rng(7)
    for density in (0.02, 0.3, 0.6):
        noise = random.random((2, 24, 20, 16)) < density
        smooth = ndimage.gaussian_filter(random.normal(size=(2, 24, 20, 16)), (0, 3, 3, 3)) > 0.02
        for reference, prediction in (noise, smooth):
            expected = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
            row = score(reference, prediction, spacing_mm)
            assert row["hd95_mm"] == pytest.approx(
                surface_distance.compute_robust_hausdorff(expected, 95), abs=1e-6
            )
            assert row["surface_dice_1mm"] == pytest.approx(
                surface_distance.compute_surface_dice_at_tolerance(expected, 1.0), abs=1e-6
            )
