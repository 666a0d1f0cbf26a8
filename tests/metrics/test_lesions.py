"""Lesion-wise scores: the rules on paper, and against the rules step by step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats.arrays import Mask
from ray_brats.metrics import distances, lesions

from .masks import (
    QUICK,
    SMALL_MASKS,
    SPACINGS,
    UNIT_MM,
    box_mask,
    cube,
    hd95_mm,
    package_hd95_mm,
    score,
)

SHAPE = (60, 40, 40)
FIRST, SECOND = cube((5, 5, 5), 6), cube((35, 20, 20), 6)
EMPTY_LESIONS = np.zeros(SHAPE, bool)


def lesionwise(reference: Mask, prediction: Mask, spacing_mm=UNIT_MM) -> tuple[float, float]:
    return lesions.lesionwise_scores(reference, prediction, spacing_mm)


def test_a_missed_lesion_counts_as_much_as_a_found_one():
    truth = box_mask(SHAPE, FIRST, SECOND)
    assert lesionwise(truth, box_mask(SHAPE, FIRST)) == (0.5, 187.0)


def test_a_false_positive_counts_as_a_lesion():
    prediction = box_mask(SHAPE, FIRST, SECOND)
    assert lesionwise(box_mask(SHAPE, FIRST), prediction) == (0.5, 187.0)


def test_many_specks_of_one_voxel_are_all_false_positives():
    truth = box_mask(SHAPE, FIRST)
    specks = np.zeros(SHAPE, bool)
    specks[20::4, ::4, ::4] = True
    count = 10 * 10 * 10
    assert lesionwise(truth, truth | specks) == pytest.approx(
        (1 / (1 + count), 374.0 * count / (1 + count))
    )


def test_lesions_whose_dilations_touch_are_one():
    # Each dilation reaches 3 voxels: together they fill a gap of 6 and leave one voxel of 7.
    for gap, expected in ((6, 1), (7, 2)):
        truth = box_mask(SHAPE, cube((5, 5, 5), 6), cube((11 + gap, 5, 5), 6))
        # Only the first piece is found: one half-found lesion, or one found and one missed.
        dice, hd95 = lesionwise(truth, box_mask(SHAPE, cube((5, 5, 5), 6)))
        if expected == 1:
            assert dice == pytest.approx(2 * 216 / (216 + 432))
            assert 0 < hd95 < 20
        else:
            assert (dice, hd95) == (0.5, 187.0)


def test_one_component_may_serve_two_lesions():
    pieces = cube((5, 5, 5), 6), cube((20, 5, 5), 6)
    truth = box_mask(SHAPE, *pieces)
    bridge = box_mask(SHAPE, (slice(5, 26), slice(5, 11), slice(5, 11)))
    assert bridge.sum() == 756
    dice, _ = lesionwise(truth, bridge)
    assert dice == pytest.approx(2 * 216 / (216 + 756))


def test_several_components_of_one_lesion_are_scored_as_their_union():
    truth = box_mask(SHAPE, (slice(5, 17), slice(5, 11), slice(5, 11)))
    prediction = truth.copy()
    prediction[10:12] = False
    dice, hd95 = lesionwise(truth, prediction)
    assert dice == pytest.approx(2 * 360 / (432 + 360))
    assert hd95 == hd95_mm(truth, prediction)


def test_a_component_three_voxels_off_belongs_to_the_lesion_and_one_further_does_not():
    truth = box_mask(SHAPE, FIRST)
    near, far = (box_mask(SHAPE, cube((11 + gap, 5, 5), 6)) for gap in (2, 3))
    assert lesionwise(truth, near) == (0.0, hd95_mm(truth, near))
    assert lesionwise(truth, far) == (0.0, 374.0)


def test_small_lesions_are_left_out_and_forgive_what_touches_them():
    small = (slice(30, 35), slice(20, 25), slice(20, 22))
    assert box_mask(SHAPE, small).sum() == 50
    truth = box_mask(SHAPE, FIRST, small)
    assert lesionwise(truth, box_mask(SHAPE, FIRST)) == (1.0, 0.0)
    assert lesionwise(truth, box_mask(SHAPE, FIRST, cube((28, 20, 20), 9))) == (1.0, 0.0)
    assert lesionwise(box_mask(SHAPE, small), EMPTY_LESIONS) == (1.0, 0.0)
    # In mm³: the same voxels count once they are larger.
    assert lesionwise(truth, box_mask(SHAPE, FIRST), (1.0, 1.0, 1.1)) == (0.5, 187.0)


def test_a_line_one_voxel_thick_has_components():
    line = box_mask((1, 1, 3), (slice(0, 1), slice(0, 1), slice(0, 3, 2)))
    assert lesionwise(line, line, (4.0, 4.0, 4.0)) == (1.0, 0.0)


def test_false_positives_cost_no_distance_each(monkeypatch):
    measured = []
    between = distances.SurfaceDistances.between
    monkeypatch.setattr(
        lesions.SurfaceDistances,
        "between",
        lambda *pair: measured.append(pair) or between(*pair),
    )
    specks = np.zeros(SHAPE, bool)
    specks[30::4, ::4, ::4] = True
    truth = box_mask(SHAPE, FIRST, cube((5, 30, 30), 6))
    lesionwise(truth, truth | specks)
    assert len(measured) == 2, "one comparison a lesion"


@QUICK
@given(st.integers(1, 60), SPACINGS)
def test_the_smallest_lesions_are_judged_by_volume_in_mm3(size_vox, spacing_mm):
    """A bar of one voxel's cross-section, missed: it counts from 50 mm³ on, not before."""
    truth = np.zeros((64, 3, 3), bool)
    truth[:size_vox, 1, 1] = True
    counts = size_vox * math.prod(spacing_mm) > 50
    expected = (0.0, 374.0) if counts else (1.0, 0.0)
    assert lesionwise(truth, np.zeros_like(truth), spacing_mm) == expected


@QUICK
@given(SMALL_MASKS.filter(lambda mask: mask.any()), st.integers(1, 3))
def test_dilation_is_scipys_with_18_neighbours(mask, times):
    structure = ndimage.generate_binary_structure(3, 2)
    padded = np.pad(mask, 2)
    before = padded.copy()
    expected = ndimage.binary_dilation(padded, structure, iterations=times)
    assert np.array_equal(lesions.dilate_18(padded, times), expected)
    assert np.array_equal(padded, before), "the argument is left as it was"


def slow_lesionwise(truth: Mask, prediction: Mask, spacing_mm) -> tuple[float, float]:
    """The rules of 2023, one whole-volume step after another."""
    structure = ndimage.generate_binary_structure(3, 2)
    neighbours_26 = np.ones((3, 3, 3))
    groups, count = ndimage.label(
        ndimage.binary_dilation(truth, structure, iterations=3), neighbours_26
    )
    components, component_count = ndimage.label(prediction, neighbours_26)
    scores, touched = [], set()
    for group in range(1, count + 1):
        lesion = truth & (groups == group)
        around = ndimage.binary_dilation(lesion, structure, iterations=3)
        found = set(np.unique(components[around]).tolist()) - {0}
        touched |= found
        if lesion.sum() * math.prod(spacing_mm) <= 50:
            continue
        union = np.isin(components, list(found)) & prediction
        if found:
            dice = 2 * (lesion & union).sum() / (lesion.sum() + union.sum())
            scores.append((dice, package_hd95_mm(lesion, union, spacing_mm)))
        else:
            scores.append((0.0, 374.0))
    scores += [(0.0, 374.0)] * (component_count - len(touched))
    if not scores:
        return 1.0, 0.0
    dices, hd95s = zip(*scores, strict=True)
    return sum(dices) / len(dices), sum(hd95s) / len(hd95s)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), SPACINGS, st.floats(1.0, 3.0))
def test_lesionwise_scores_agree_with_the_rules_step_by_step(seed, spacing_mm, threshold):
    random = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(random.normal(size=(3, 26, 20, 16)), (0, 1.5, 1.5, 1.5))
    fields /= fields.std()
    truth = fields[0] + 0.5 * fields[1] > threshold
    prediction = fields[0] + 0.5 * fields[2] > threshold
    expected = slow_lesionwise(truth, prediction, spacing_mm)
    assert lesionwise(truth, prediction, spacing_mm) == pytest.approx(expected, abs=1e-9)
    row = score(truth, prediction, spacing_mm)
    assert (row["lesionwise_dice"], row["lesionwise_hd95_mm"]) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), SPACINGS, st.integers(0, 4), st.integers(0, 6))
def test_lesionwise_scores_agree_where_lesions_are_tiny_or_share_a_component(
    seed, spacing_mm, bars, specks
):
    """Cubes of 1 to 5 voxels in the truth; bars that join some of them and specks beside."""
    random = np.random.default_rng(seed)
    shape = (30, 22, 18)
    truth, prediction = np.zeros(shape, bool), np.zeros(shape, bool)
    corners = [tuple(int(random.integers(0, side)) for side in shape) for _ in range(5)]
    for corner in corners[: int(random.integers(0, 6))]:
        truth[cube(corner, int(random.integers(1, 6)))] = True
    for start, end in itertools.pairwise(corners[: bars + 1]):
        low, high = np.minimum(start, end), np.maximum(start, end) + 1
        prediction[low[0] : high[0], start[1], start[2]] = True
        prediction[end[0], low[1] : high[1], start[2]] = True
        prediction[end[0], end[1], low[2] : high[2]] = True
    for _ in range(specks):
        prediction[tuple(random.integers(0, side) for side in shape)] = True
    expected = slow_lesionwise(truth, prediction, spacing_mm)
    assert lesionwise(truth, prediction, spacing_mm) == pytest.approx(expected, abs=1e-9)
    row = score(truth, prediction, spacing_mm)
    assert (row["lesionwise_dice"], row["lesionwise_hd95_mm"]) == pytest.approx(expected, abs=1e-9)
