"""Samples: patches inside the array, replayable, and tumours carved out of one into another."""

from __future__ import annotations

from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ray_brats import labels
from ray_brats.recipes.tasks import GLIOMA, TREATED_GLIOMA
from ray_brats.training import samples
from ray_brats.training.samples import SampleStream, carve

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)
SIDE = 20
"""Side of the patches that are carved."""


@given(shape=SHAPES, size=SHAPES, seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_random_patches_lie_inside_where_the_array_is_large_enough(
    shape: tuple[int, int, int], size: tuple[int, int, int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, shape)
    location = samples.draw_location(label, size, foreground_share=share, rng=rng)
    assert location.cut(label).shape == size
    for start, limit, side in zip(location.start_vox, shape, size, strict=True):
        if limit >= side:
            assert 0 <= start <= limit - side
        else:
            assert location.cut(label).sum() <= label.sum()


def test_a_region_is_drawn_first_where_small_ones_shall_be_seen() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[2:30, 2:30, 2:30], label[35, 36, 37] = 2, 3
    rng = np.random.default_rng(0)

    def enhancing(foreground: Literal["tumour", "region"], label: np.ndarray = label) -> int:
        drawn = [
            samples.draw_location(
                label,
                (3, 3, 3),
                foreground_share=1.0,
                rng=rng,
                regions=GLIOMA if foreground == "region" else None,
            )
            for _ in range(300)
        ]
        assert all(location.holds(label > 0) for location in drawn)
        return sum(location.holds(label == 3) for location in drawn)

    assert enhancing("tumour") <= 3
    # Two of the three regions are that voxel alone.
    assert 170 <= enhancing("region") <= 230
    # Without enhancing tumour or core, whatever there is.
    assert enhancing("region", np.where(label == 3, 0, label)) == 0


def test_foreground_patches_hold_a_labelled_voxel() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[17, 2, 9] = 3
    for seed in range(20):
        rng = np.random.default_rng(seed)
        location = samples.draw_location(label, (8, 8, 8), foreground_share=1.0, rng=rng)
        assert location.cut(label).any()


def test_the_stream_is_a_function_of_seed_and_index_and_sees_each_case_once_a_pass() -> None:
    stream = SampleStream(case_count=7, seed=3)
    passes = [[stream.draw(7 * n + i)[0] for i in range(7)] for n in range(3)]
    assert all(sorted(numbers) == list(range(7)) for numbers in passes)
    assert passes[0] != passes[1]
    assert stream.draw(11)[1].random() == SampleStream(case_count=7, seed=3).draw(11)[1].random()


# --- carving ----------------------------------------------------------------------------


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


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_cavities_go_along_with_their_scan_and_lie_in_no_tumour(seed: int) -> None:
    image, label, donor, donor_label = patches(seed)
    # A cavity in the middle of the donor's tumour, and one of the receiver's own.
    donor_label = np.where(donor_label == 1, 4, donor_label)
    label[6:12, 6:12, 6:12] = 4
    mixed, mask = carve(image, label, donor, donor_label, np.random.default_rng(seed))
    taken = (mixed != image).any(axis=-1)
    np.testing.assert_array_equal(mask == 4, np.where(taken, donor_label, label) == 4)
    regions = region_masks(mask)
    assert not (regions["RC"] & regions["WT"]).any()
    # What shows the donor's cavity or the receiver's is called so, and nothing else is.
    seen = np.where(taken, donor_label == 4, label == 4)
    np.testing.assert_array_equal(regions["RC"], seen)


def region_masks(mask: np.ndarray) -> dict[str, np.ndarray]:
    return {region.name: labels.mask_of(mask, region.classes) for region in TREATED_GLIOMA.regions}


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
