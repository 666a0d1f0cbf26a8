"""Patches: inside the array, replayable, and windows that cover it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_brats import arrays
from ray_brats.arrays import PatchLocation
from ray_brats.model import windows
from ray_brats.training import samples
from ray_brats.training.samples import SampleStream

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


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
                label, (3, 3, 3), foreground_share=1.0, rng=rng, foreground=foreground
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


def test_a_patch_past_the_border_is_padded_with_zeros() -> None:
    array = np.ones((2, 2, 2, 3))
    patch = PatchLocation((-1, 0, 1), (3, 2, 2)).cut(array)
    assert patch.shape == (3, 2, 2, 3)
    assert patch.sum() == array[:, :, 1:].sum()
