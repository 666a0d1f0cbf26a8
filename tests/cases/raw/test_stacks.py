"""Slices one behind the other: order, distance, gaps, and what is no stack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.cases.raw.stacks import Stack, stack

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def at(*heights_mm: float, orientation: tuple[float, ...] = AXIAL) -> np.ndarray:
    """Positions at heights along the normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([3.0, -7.0, 11.0]) + np.outer(heights_mm, normal)


def stacked(*heights_mm: float) -> Stack:
    found = stack(at(*heights_mm), AXIAL)
    assert isinstance(found, Stack), found
    return found


@given(st.permutations(range(9)), st.floats(0.4, 8), st.sampled_from([AXIAL, SAGITTAL]))
def test_whole_stacks_are_put_in_order(
    order: list[int], slice_mm: float, orientation: tuple[float, ...]
) -> None:
    positions = at(*(place * slice_mm for place in order), orientation=orientation)
    found = stack(positions, orientation)
    assert isinstance(found, Stack)
    assert [order[number] for number in found.order] == list(range(9))
    assert (found.places, found.notes) == ((), ())
    assert found.slice_mm == pytest.approx(slice_mm)


@given(st.sets(st.integers(1, 18), max_size=4), st.floats(1, 7))
def test_missing_slices_are_counted_and_the_others_keep_their_places(
    missing: set[int], slice_mm: float
) -> None:
    there = [place for place in range(20) if place not in missing]
    found = stacked(*(place * slice_mm for place in there))
    assert found.slice_mm == pytest.approx(slice_mm)
    assert found.places == (tuple(there) if missing else ())
    expected = (f"{len(missing)} of 20 slices are missing between others",) if missing else ()
    assert found.notes == expected


def test_one_slice_is_a_stack() -> None:
    assert stacked(5) == Stack(order=(0,))


def test_an_image_in_the_place_of_another_is_told() -> None:
    found = stacked(0, 5, 5, 10, 15)
    assert found.order == (0, 1, 3, 4)
    assert found.notes == ("1 of its images lie where another lies: one of each is taken",)


def test_echoes_stay_together_at_each_place() -> None:
    found = stacked(0, 5, 10, 0, 5, 10)
    assert found.order == (0, 3, 1, 4, 2, 5)
    assert found.notes == ("2 images at each place: several echoes or times",)


@pytest.mark.parametrize("heights_mm", [(0, 5, 10, 0, 5), (0, 5, 15, 20, 0, 5, 15, 20)])
def test_echoes_that_are_not_all_there_are_no_stack(heights_mm: tuple[float, ...]) -> None:
    found = stack(at(*heights_mm), AXIAL)
    assert isinstance(found, str)
    assert "some are missing" in found


def test_uneven_distances_are_told_and_wild_ones_refused() -> None:
    assert stacked(0, 5, 10, 17, 22).notes == (
        "the distances of its slices vary: their mean is taken",
    )
    assert stacked(0, 5, 10.04, 15, 19.98).notes == ()
    assert "irregular" in str(stack(at(0, 5, 11, 12, 19, 26, 27), AXIAL))


def test_a_stack_is_no_longer_than_its_slices_allow() -> None:
    assert stacked(0, 5, 10, 25, 30).places == (0, 1, 2, 5, 6)
    for far in (30, 1e6):
        assert "too many of its slices are missing" in str(stack(at(0, 5, 10, far), AXIAL))


def test_slices_that_are_shifted_along_their_planes_are_refused() -> None:
    positions = at(0, 5, 10, 15)
    positions[:, 1] += [0, 0.5, 1.0, 1.5]
    found = stack(positions, AXIAL)
    assert isinstance(found, str)
    assert "tilted" in found
    positions[:, 1] -= [0, 0.3, 0.6, 0.9]
    assert isinstance(stack(positions, AXIAL), Stack)


@pytest.mark.parametrize(
    "orientation", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (1, 0, 0, 0, 3, 0)]
)
def test_directions_that_are_none_are_refused(orientation: tuple[float, ...]) -> None:
    assert "damaged" in str(stack(at(0, 5), orientation))
