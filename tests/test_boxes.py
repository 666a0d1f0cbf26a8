"""Boxes of voxels: found, joined, overlapped and cut as sets of voxels are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ray_brats import arrays
from ray_brats.arrays import Box, PatchLocation

SHAPE = (7, 6, 5)
SIDES = st.tuples(st.integers(-4, 9), st.integers(1, 9))
BOXES = st.tuples(SIDES, SIDES, SIDES).map(lambda sides: arrays.box_at(*zip(*sides, strict=True)))
MASKS = hnp.arrays(np.bool_, st.tuples(*[st.integers(0, 6)] * 3))
QUICK = settings(deadline=None)


def voxels(box: Box) -> set[tuple[int, ...]]:
    """Every voxel of a box, one by one."""
    axes = (np.arange(side.start, side.stop) for side in box)
    return set(map(tuple, np.stack(np.meshgrid(*axes), -1).reshape(-1, 3).tolist()))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("order", ["F", "C"])
def test_the_box_around_non_zero_voxels(dtype: type, order: str) -> None:
    array = np.zeros((6, 7, 8), dtype, order=order)  # type: ignore[call-overload]
    assert arrays.is_empty(arrays.bounding_box(array))
    array[2, 3, 1] = array[4, 3, 5] = -1 if dtype in (np.int16, np.float32) else 1
    assert arrays.bounding_box(array) == (slice(2, 5), slice(3, 4), slice(1, 6))
    turned = array[::-1].transpose(2, 0, 1)
    assert arrays.bounding_box(turned) == (slice(1, 6), slice(1, 4), slice(3, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-320])
def test_whatever_is_not_zero_is_in_the_box(value: float) -> None:
    array = np.zeros((3, 3, 3))
    array[1, 2, 0] = value
    array[2, 2, 2] = -0.0
    assert arrays.bounding_box(array) == (slice(1, 2), slice(2, 3), slice(0, 1))


@QUICK
@given(MASKS, st.permutations(range(3)))
def test_the_bounding_box_is_that_of_the_indices(mask: np.ndarray, axes: list[int]) -> None:
    mask = mask.transpose(axes)
    box, hits = arrays.bounding_box(mask), np.argwhere(mask)
    assert arrays.is_empty(box) == (not hits.size)
    if hits.size:
        assert box == tuple(map(slice, hits.min(axis=0).tolist(), (hits.max(axis=0) + 1).tolist()))


@QUICK
@given(BOXES, BOXES)
def test_an_overlap_is_what_two_boxes_share_and_a_joint_box_holds_both(a: Box, b: Box) -> None:
    shared = arrays.overlap(a, b)
    assert voxels(shared) == voxels(a) & voxels(b)
    assert arrays.is_empty(shared) == (not voxels(shared))
    joint = arrays.joint(a, b)
    assert voxels(joint) >= voxels(a) | voxels(b)
    assert arrays.bounding_box(np.ones(arrays.shape_of(joint))) == arrays.within(joint, joint)
    assert arrays.overlap(joint, a) == a


@QUICK
@given(BOXES, st.tuples(*[st.integers(0, 3)] * 3))
def test_a_grown_box_reaches_further_on_every_side(box: Box, margins: tuple[int, ...]) -> None:
    grown = arrays.grown(box, margins)
    assert arrays.within(grown, box) == arrays.box_at(margins, arrays.shape_of(box))
    longer = zip(arrays.shape_of(box), margins, strict=True)
    assert arrays.shape_of(grown) == tuple(size + 2 * margin for size, margin in longer)


@QUICK
@given(BOXES)
def test_a_box_meets_an_array_in_the_voxels_that_both_have(box: Box) -> None:
    whole = arrays.box_at((0, 0, 0), SHAPE)
    inside, outside = arrays.meeting(box, SHAPE)
    assert voxels(outside) == voxels(box) & voxels(whole) == voxels(arrays.clipped(box, SHAPE))
    assert arrays.shape_of(inside) == arrays.shape_of(outside)
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE) + 1
    patch = np.zeros(arrays.shape_of(box), int)
    patch[inside] = array[outside]
    for place, value in np.ndenumerate(patch):
        index = tuple(side.start + at for side, at in zip(box, place, strict=True))
        assert value == (array[index] if index in voxels(whole) else 0)


def test_a_location_is_a_box() -> None:
    location = PatchLocation((-1, 0, 4), (3, 2, 2))
    assert location.box == (slice(-1, 2), slice(0, 2), slice(4, 6))
    assert location.wider((1, 0, 2)) == PatchLocation((-2, 0, 2), (5, 2, 6))
