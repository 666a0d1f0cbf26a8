"""Windows that are stitched: the weights of their voxels."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.model import windows

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


@settings(deadline=None)
@given(shape=SHAPES, size=SHAPES, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_cover_every_voxel_and_stitching_a_constant_gives_it(
    shape: tuple[int, int, int], size: tuple[int, int, int], overlap: float
) -> None:
    weights = windows.gaussian_weights(size)
    total, weight_sum = np.zeros(shape), np.zeros(shape)
    for location in arrays.sliding_windows(shape, size, overlap):
        location.add(total, 0.7 * weights)
        location.add(weight_sum, weights)
    assert (weight_sum > 0).all()
    np.testing.assert_allclose(total / weight_sum, 0.7, rtol=1e-6)
