"""Tumours carved out of one patch and put into another."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats.training.samples import carve

SIDE = 20


def patches(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A patch without tumour, and one with a ball of three nested classes."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(SIDE,) * 3 + (2,)).astype(np.float32)
    image[:5] = 0
    donor = rng.normal(10, 1, size=image.shape).astype(np.float32)
    donor[:, :4] = 0
    centre = rng.integers(8, 12, 3)
    distance = np.sqrt(
        sum((axis - c) ** 2 for axis, c in zip(np.indices((SIDE,) * 3), centre, strict=True))
    )
    label = np.select([distance < 2, distance < 3, distance < 6], [1, 3, 2]).astype(np.uint8)
    label[:, :4] = 0
    return image, np.zeros((SIDE,) * 3, np.uint8), donor, label


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_every_voxel_comes_whole_from_one_of_the_two(seed: int) -> None:
    image, label, donor, donor_label = patches(seed)
    mixed, mask = carve(image, label, donor, donor_label, np.random.default_rng(seed))
    taken = (mixed != image).any(axis=-1)
    np.testing.assert_array_equal(mixed, np.where(taken[..., None], donor, image))
    np.testing.assert_array_equal(mask, np.where(taken, donor_label, label))
    assert not taken[:5].any()
    assert not taken[:, :4].any()
    # The middle of the tumour always goes along, and nothing from farther away than its radius.
    assert taken[np.isin(donor_label, (1, 3)) & image.any(axis=-1)].any()
    assert ndimage.distance_transform_edt(donor_label == 0)[taken].max() <= 7


def test_a_donor_without_tumour_gives_nothing() -> None:
    image, label, donor, _ = patches(0)
    for seed in range(20):
        mixed, mask = carve(image, label, donor, label, np.random.default_rng(seed))
        np.testing.assert_array_equal(mixed, image)
        np.testing.assert_array_equal(mask, label)


def test_a_donor_that_is_tumour_throughout_gives_all_of_it() -> None:
    image, label, donor, _ = patches(0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixed, mask = carve(image, label, donor, np.ones_like(label), rng)
        taken = image.any(axis=-1) & donor.any(axis=-1)
        np.testing.assert_array_equal(mask, taken)
        np.testing.assert_array_equal(mixed, np.where(taken[..., None], donor, image))
