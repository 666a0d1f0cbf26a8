"""Boxes of voxels: cut past the border, and windows that cover an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.arrays import PatchLocation

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


@settings(deadline=None)
@given(shape=SHAPES, size=SHAPES, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_cover_every_voxel_and_lie_inside_where_the_array_is_large_enough(
    shape: tuple[int, int, int], size: tuple[int, int, int], overlap: float
) -> None:
    covered = np.zeros(shape, int)
    for location in arrays.sliding_windows(shape, size, overlap):
        location.add(covered, np.ones(size, int))
        for start, limit, side in zip(location.start_vox, shape, size, strict=True):
            assert 0 <= start <= limit - side or limit < side
    assert (covered > 0).all()


def test_a_patch_past_the_border_is_padded_with_zeros() -> None:
    array = np.ones((2, 2, 2, 3))
    patch = PatchLocation((-1, 0, 1), (3, 2, 2)).cut(array)
    assert patch.shape == (3, 2, 2, 3)
    assert patch.sum() == array[:, :, 1:].sum()


@pytest.mark.parametrize("shape", [(8, 8, 8), (10, 12, 14), (33, 30, 25), (130, 150, 130)])
def test_an_ellipsoid_touches_all_sides_and_fills_half(shape: tuple[int, int, int]) -> None:
    inside = arrays.ellipsoid(shape)
    assert arrays.bounding_box(inside) == arrays.box_at((0, 0, 0), shape)
    assert 0.45 < inside.mean() < 0.55
