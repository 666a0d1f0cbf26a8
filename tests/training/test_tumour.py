"""What is kept of a mask: every labelled voxel, and the distance to the border."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats.training import tumour
from ray_brats.training.tumour import FAR


def masks(seed: int) -> np.ndarray:
    """Some boxes of classes in a volume of another shape on each axis."""
    rng = np.random.default_rng(seed)
    label = np.zeros(rng.integers(4, 24, 3), np.uint8)
    for number in range(rng.integers(0, 4)):
        start = [int(rng.integers(side)) for side in label.shape]
        box = tuple(slice(at, at + int(rng.integers(1, 12))) for at in start)
        label[box] = 1 + number
    return label


@given(seed=st.integers(0, 9999))
def test_labelled_voxels_are_all_there_in_order_with_their_classes(seed: int) -> None:
    label = masks(seed)
    flat, classes = tumour.labelled_voxels(label)
    assert np.array_equal(flat, np.flatnonzero(label))
    assert np.array_equal(classes, label.reshape(-1)[flat])


@given(seed=st.integers(0, 9999))
def test_distances_are_exact_as_far_as_any_tumour_reaches(seed: int) -> None:
    label = masks(seed)
    found = tumour.signed_distance(label).astype(float) / tumour.STEPS_A_VOXEL
    inside = label > 0
    if not inside.any() or inside.all():
        assert np.array_equal(found, np.where(inside, -FAR, FAR) / tumour.STEPS_A_VOXEL)
        return
    outside_vox = ndimage.distance_transform_edt(~inside)
    exact = outside_vox - ndimage.distance_transform_edt(inside)
    near = exact <= -exact.min()
    assert np.abs(found - exact)[near].max() <= 0.25
    assert (found[~near] > -exact.min() - 0.5).all()


def test_a_deep_tumour_ends_at_the_largest_distance() -> None:
    label = np.zeros((150, 150, 150), np.uint8)
    label[2:-2, 2:-2, 2:-2] = 1
    found = tumour.signed_distance(label)
    assert found.min() == -FAR
    assert found[0, 75, 75] == pytest.approx(2 * 2, abs=1)
