"""Samples: patches inside the array, and replayable."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_brats.arrays import PatchLocation
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training import samples
from ray_brats.training.samples import SampleStream
from ray_brats.training.tumour import labelled_voxels

SHAPES = st.tuples(*[st.integers(1, 12)] * 3)


def drawn(label: np.ndarray, size: tuple[int, int, int], **how: Any) -> PatchLocation:
    return samples.draw_location(labelled_voxels(label), label.shape, size, **how)


@given(shape=SHAPES, size=SHAPES, seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.5, 1.0]))
def test_random_patches_lie_inside_where_the_array_is_large_enough(
    shape: tuple[int, int, int], size: tuple[int, int, int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, shape)
    location = drawn(label, size, foreground_share=share, rng=rng)
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
        found = [
            drawn(
                label,
                (3, 3, 3),
                foreground_share=1.0,
                rng=rng,
                regions=GLIOMA if foreground == "region" else None,
            )
            for _ in range(300)
        ]
        assert all(location.holds(label > 0) for location in found)
        return sum(location.holds(label == 3) for location in found)

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
        location = drawn(label, (8, 8, 8), foreground_share=1.0, rng=rng)
        assert location.cut(label).any()


def test_the_stream_is_a_function_of_seed_and_index_and_sees_each_case_once_a_pass() -> None:
    stream = SampleStream(case_count=7, seed=3)
    passes = [[stream.draw(7 * n + i)[0] for i in range(7)] for n in range(3)]
    assert all(sorted(numbers) == list(range(7)) for numbers in passes)
    assert passes[0] != passes[1]
    assert stream.draw(11)[1].random() == SampleStream(case_count=7, seed=3).draw(11)[1].random()


@pytest.mark.parametrize("count", [samples.LONG - 1, samples.LONG, samples.LONG + 37])
def test_many_cases_are_dealt_so_that_a_rank_needs_its_share_alone(count: int) -> None:
    stream = SampleStream(case_count=count, seed=3)
    dealt = count >= samples.LONG
    assert stream.lanes == (64 if dealt else 1)
    # Two passes of the longest lane.
    length = 2 * -(-count // 64) * 64 if dealt else 2 * count
    seen = np.array([stream.draw(index)[0] for index in range(length)])
    per_case = np.bincount(seen, minlength=count)
    assert per_case.min() >= 1
    assert per_case.max() - per_case.min() <= 1
    if not dealt:
        assert sorted(seen[:count]) == list(range(count))
        return
    for ranks in (2, 8):
        needed = [
            {int(case) for case in seen[rank::ranks]}
            | {
                one
                for index in range(rank, 4096, ranks)
                if (one := stream.donor(index, 0.5)) is not None
            }
            for rank in range(ranks)
        ]
        assert all(len(one) <= count / ranks + 64 for one in needed)
        assert not needed[0] & needed[1]


def test_a_donor_is_another_case_and_as_frequent_as_asked_for() -> None:
    stream = SampleStream(case_count=5, seed=1)
    donors = [stream.donor(index, 0.5) for index in range(400)]
    assert 160 <= sum(one is not None for one in donors) <= 240
    assert {one for one in donors if one is not None} == set(range(5))
    assert all(one != stream.draw(index)[0] for index, one in enumerate(donors))
    assert {stream.donor(index, 0.0) for index in range(50)} == {None}
    assert SampleStream(case_count=1, seed=1).donor(0, 1.0) == 0


def test_a_tumour_reaches_inside_as_often_as_outside() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([samples.draw_reach(rng) for _ in range(1000)])
    assert shares.min() >= -0.5
    assert shares.max() < 1
    assert 450 <= (shares < 0).sum() <= 550
