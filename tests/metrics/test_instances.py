"""Scores by instance: on paper, against every way to match, and the rule for metastases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats.arrays import Mask
from ray_brats.metrics import instances
from ray_brats.metrics.borders import BorderDistances, border_of
from ray_brats.metrics.components import Overlaps
from ray_brats.metrics.instances import Instances, InstanceScores

from .masks import CUBE, EMPTY, UNIT_MM, box_mask, cube

SHAPE = (30, 20, 20)
FIRST, SECOND = cube((2, 2, 2), 6), cube((16, 2, 2), 6)


def scored(
    reference: Mask, prediction: Mask, spacing_mm=UNIT_MM, small_mm3: float | None = None
) -> InstanceScores:
    borders = [border_of(mask, spacing_mm) for mask in (reference, prediction)]
    whole = BorderDistances.between(*borders) if all(part.count for part in borders) else None
    own, other = map(Instances.of, (reference, prediction), borders)
    return instances.instance_scores(own, other, whole, small_mm3=small_mm3)


def test_each_instance_found_counts_the_same():
    # The first is met exactly, of the second one half; 0 against 3 voxels away on one side.
    half = cube((16, 2, 2), 6)[0], slice(2, 5), slice(2, 8)
    found = scored(box_mask(SHAPE, FIRST, SECOND), box_mask(SHAPE, FIRST, half))
    assert found.dice == pytest.approx((1 + 2 / 3) / 2)
    assert (found.tp, found.fp, found.fn) == (2, 0, 0)
    assert (found.precision, found.recall, found.f1) == (1.0, 1.0, 1.0)
    alone = scored(box_mask(SHAPE, SECOND), box_mask(SHAPE, half))
    assert found.nsd_1mm == pytest.approx((1 + alone.nsd_1mm) / 2)
    assert found.hd95_mm == pytest.approx((0 + alone.hd95_mm) / 2)


def test_what_is_missed_or_made_up_changes_no_mean():
    speck = cube((26, 16, 16), 1)
    found = scored(box_mask(SHAPE, FIRST, SECOND), box_mask(SHAPE, FIRST, speck))
    assert (found.dice, found.nsd_1mm, found.hd95_mm) == (1.0, 1.0, 0.0)
    assert (found.tp, found.fp, found.fn) == (1, 1, 1)
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)


def test_one_that_spans_two_matches_the_better():
    bridge = slice(2, 22), slice(2, 8), slice(2, 8)
    found = scored(box_mask(SHAPE, cube((2, 2, 2), 4), SECOND), box_mask(SHAPE, bridge))
    assert (found.tp, found.fp, found.fn) == (1, 0, 1)
    assert found.dice == pytest.approx(2 * 6**3 / (6**3 + 20 * 36))


def test_the_sum_counts_and_not_the_best_pair():
    """Taken greedily, the pair with Dice 0.9 leaves the other two without a match."""
    voxels = np.array([0, 100, 100])
    shared = Overlaps(np.array([1, 2, 1]), np.array([1, 1, 2]), np.array([90, 80, 85]))
    found = instances.match(voxels, voxels, shared)
    assert (found.own.tolist(), found.other.tolist()) == ([1, 2], [2, 1])
    assert found.dice.tolist() == [0.85, 0.8]


def test_less_than_a_millionth_of_dice_is_no_match():
    shared = Overlaps(np.array([1]), np.array([1]), np.array([1]))
    most = 1_000_000
    assert len(instances.match(np.array([0, most]), np.array([0, most]), shared).own) == 1
    assert len(instances.match(np.array([0, most]), np.array([0, most + 1]), shared).own) == 0


def every_way(voxels, other_voxels, shared: Overlaps) -> float:
    """The largest sum of Dice, by trying all permutations."""
    count = max(len(voxels), len(other_voxels)) - 1
    table = np.zeros((count, count))
    for own, other, both in zip(*shared, strict=True):
        table[own - 1, other - 1] = 2 * both / (voxels[own] + other_voxels[other])
    rows = np.arange(count)
    return max(table[rows, list(order)].sum() for order in itertools.permutations(range(count)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_no_other_way_to_match_has_a_larger_sum(seed, own_count, other_count, many):
    random = np.random.default_rng(seed)
    table = random.integers(0, 9, (own_count, other_count)) * random.integers(
        0, 2, (own_count, other_count)
    )
    own, other = np.nonzero(table)
    shared = Overlaps(own + 1, other + 1, table[own, other])
    sizes = [
        np.concatenate([[0], table.sum(axis=axis) + random.integers(1, 5, size)])
        for axis, size in ((1, own_count), (0, other_count))
    ]
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(instances, "_MOST_DENSE", 0)
        found = instances.match(*sizes, shared)
    assert found.dice.sum() == pytest.approx(every_way(*sizes, shared))
    assert len(set(found.own)) == len(set(found.other)) == len(found.own)
    assert (table[found.own - 1, found.other - 1] > 0).all()
    assert found.own.tolist() == sorted(found.own)


def test_nothing_to_find_and_nothing_found_has_no_scores():
    found = scored(EMPTY, EMPTY)
    assert (found.dice, found.nsd_1mm, found.nsd_voxel, found.hd95_mm) == (None,) * 4
    assert (found.tp, found.fp, found.fn) == (0, 0, 0)
    assert (found.precision, found.recall, found.f1) == (None, None, None)


@pytest.mark.parametrize(("reference", "prediction"), [(CUBE, EMPTY), (EMPTY, CUBE)])
def test_where_nothing_matches_scores_are_0_and_the_distance_is_infinite(reference, prediction):
    found = scored(reference, prediction)
    assert (found.dice, found.nsd_1mm, found.nsd_voxel, found.hd95_mm) == (0.0, 0.0, 0.0, None)
    assert (found.tp, found.fp + found.fn, found.f1) == (0, 1, 0.0)
    assert found.precision == (0.0 if prediction.any() else None)
    assert found.recall == (0.0 if reference.any() else None)


def test_masks_that_only_touch_match_nothing():
    found = scored(box_mask(SHAPE, FIRST), box_mask(SHAPE, cube((8, 2, 2), 6)))
    assert (found.dice, found.nsd_1mm, found.hd95_mm) == (0.0, 0.0, None)
    assert (found.tp, found.fp, found.fn) == (0, 1, 1)


def test_the_tolerance_of_a_voxel_is_its_smallest_side():
    reference, spacing_mm = box_mask(SHAPE, FIRST), (0.4, 2.0, 2.0)
    once, twice = (scored(reference, np.roll(reference, by, 0), spacing_mm) for by in (1, 2))
    assert (once.nsd_voxel, once.nsd_1mm) == (1.0, 1.0)
    assert twice.nsd_1mm == 1.0, "0.8 mm away at most"
    assert 0 < twice.nsd_voxel < 1


# --- metastases --------------------------------------------------------------------------


def test_small_instances_count_by_detection_alone():
    """One large lesion met by half, two of 8 mm³, of which one is found, and a false positive."""
    small = cube((12, 12, 12), 2), cube((24, 12, 12), 2)
    reference = box_mask(SHAPE, FIRST, *small)
    prediction = box_mask(SHAPE, (FIRST[0], FIRST[1], slice(2, 5)), small[0], cube((2, 16, 16), 1))
    found = scored(reference, prediction, small_mm3=20.0)
    plain = scored(box_mask(SHAPE, FIRST), prediction & box_mask(SHAPE, FIRST))
    assert found.dice == pytest.approx((2 / 3 + 0) / 2), "the false positive counts with 0"
    assert found.nsd_1mm == pytest.approx(plain.nsd_1mm / 2)
    assert found.hd95_mm == pytest.approx((plain.hd95_mm + 373) / 2)
    assert found.small == instances.SmallScores(tp=1, fn=1, f1=2 / (2 + 1 + 1))
    assert (found.tp, found.fp, found.fn) == (2, 1, 1), "detection of all stays as it is"


def test_a_large_lesion_that_is_missed_counts_with_0():
    reference = box_mask(SHAPE, FIRST, SECOND)
    found = scored(reference, box_mask(SHAPE, FIRST), small_mm3=20.0)
    assert (found.dice, found.nsd_1mm, found.hd95_mm) == (0.5, 0.5, 373 / 2)
    assert found.small is None, "there is no small one"


def test_without_a_large_lesion_there_is_no_mean():
    small = box_mask(SHAPE, cube((12, 12, 12), 2))
    found = scored(small, small | box_mask(SHAPE, FIRST), small_mm3=20.0)
    assert (found.dice, found.nsd_1mm, found.hd95_mm) == (None, None, None)
    assert found.small == instances.SmallScores(tp=1, fn=0, f1=2 / 3)
    missed = scored(small, EMPTY_SHAPE, small_mm3=20.0)
    assert missed.small == instances.SmallScores(tp=0, fn=1, f1=0.0)
    assert scored(EMPTY_SHAPE, EMPTY_SHAPE, small_mm3=20.0).small is None


EMPTY_SHAPE = np.zeros(SHAPE, bool)


@pytest.mark.parametrize(("voxels", "spacing_mm"), [(20, UNIT_MM), (40, (1.0, 1.0, 0.5))])
def test_an_instance_of_20_mm3_is_large(voxels, spacing_mm):
    bar = np.zeros((60, 3, 3), bool)
    bar[:voxels, 1, 1] = True
    assert math.prod(spacing_mm) * voxels == 20.0
    assert scored(bar, bar, spacing_mm, small_mm3=20.0).small is None
    shorter = bar & (np.arange(60) < voxels - 1)[:, None, None]
    assert scored(shorter, shorter, spacing_mm, small_mm3=20.0).dice is None


@pytest.mark.parametrize(("length", "tp"), [(18, 1), (19, 0)])
def test_a_small_instance_is_found_from_a_dice_of_a_tenth_on(length, tp):
    """One voxel of two against a bar of 18 (Dice 2 / 20) or of 19 (2 / 21)."""
    reference, prediction = np.zeros((2, 40, 3, 3), bool)
    reference[:2, 1, 1] = True
    prediction[1 : 1 + length, 1, 1] = True
    found = scored(reference, prediction, small_mm3=20.0)
    assert found.small == instances.SmallScores(tp=tp, fn=1 - tp, f1=float(tp))
    assert found.tp == 1, "a match it is in any case"
