"""Components of masks: numbered in the order of the memory, counted, and what two sets share."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from scipy import ndimage

from ray_brats.metrics import components

from .masks import QUICK, SMALL_MASKS, box_mask, cube, two_masks

SHAPE = (12, 12, 12)
TWO = box_mask(SHAPE, cube((1, 1, 1), 2), cube((6, 6, 6), 3))


def test_voxels_that_share_a_corner_are_one_component():
    corner = box_mask(SHAPE, cube((1, 1, 1), 2), cube((3, 3, 3), 2))
    assert components.numbered(corner)[1] == 1
    assert components.numbered(TWO)[1] == 2


@QUICK
@given(SMALL_MASKS)
def test_numbers_are_those_of_scipy(mask):
    numbers, count = components.numbered(mask)
    expected, expected_count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert count == expected_count
    assert np.array_equal(numbers, expected)


def test_parts_know_their_sizes_and_places():
    parts = components.Parts(components.numbered(TWO)[0])
    assert parts.voxels.tolist() == [12**3 - 8 - 27, 8, 27]
    box = parts.box([2])
    assert box == cube((6, 6, 6), 3)
    assert parts.mask([2], box).all()
    assert parts.box([1, 2]) == cube((1, 1, 1), 8)
    assert parts.mask([1], parts.box([1, 2])).sum() == 8
    assert components.Parts(np.zeros((0, 3, 3), np.uint16)).voxels.tolist() == [0]


@QUICK
@given(two_masks())
def test_overlaps_are_counted_pair_by_pair(masks):
    (own, own_count), (other, other_count) = map(components.numbered, masks)
    shared = components.overlaps(own, other, own_count)
    expected = {
        (i, j): int(np.count_nonzero((own == i) & (other == j)))
        for j in range(1, other_count + 1)
        for i in range(1, own_count + 1)
    }
    found = zip(shared.own.tolist(), shared.other.tolist(), shared.voxels.tolist(), strict=True)
    assert {(i, j): n for i, j, n in found} == {pair: n for pair, n in expected.items() if n}
