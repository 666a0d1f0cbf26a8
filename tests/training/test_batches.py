"""Feeding: the same samples for any number of ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ray_brats.recipes.config import TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training import batches
from ray_brats.training.batches import BatchStream
from ray_brats.training.data import PreparedCase

pytestmark = pytest.mark.tf


@pytest.mark.parametrize(("ranks", "batch", "accumulate"), [(1, 4, 1), (2, 2, 1), (2, 1, 2)])
def test_a_step_holds_the_same_samples_however_they_are_shared(
    cases: list[PreparedCase], ranks: int, batch: int, accumulate: int
) -> None:
    common = {"patch_vox": (8, 8, 8), "seed": 3}
    alone = BatchStream(cases, TrainConfig(batch_per_worker=4, **common), GLIOMA, rank=0, ranks=1)  # type: ignore[arg-type]
    train = TrainConfig(batch_per_worker=batch, accumulate=accumulate, **common)  # type: ignore[arg-type]
    for step in (0, 7):
        shared = [
            BatchStream(cases, train, GLIOMA, rank=rank, ranks=ranks).batch(step)
            for rank in range(ranks)
        ]
        images = np.concatenate([one.image for one in shared])
        np.testing.assert_array_equal(images, alone.batch(step).image)
        assert [*sum((one.case_ids for one in shared), ())] == [*alone.batch(step).case_ids]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_another_number_of_workers_goes_on_with_the_samples_that_come_next(
    cases: list[PreparedCase], ranks: int
) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), seed=3)
    alone = BatchStream(cases, train, GLIOMA, rank=0, ranks=1)
    two = BatchStream(cases, train, GLIOMA, rank=0, ranks=2)
    assert two.first_sample(5) == 10
    for rank in range(ranks):
        stream = BatchStream(cases, train, GLIOMA, rank=rank, ranks=ranks)
        stream.goes_on_at(5, two.first_sample(5))
        for step in (5, 6):
            found, expected = stream.batch(step), alone.batch(10 + (step - 5) * ranks + rank)
            np.testing.assert_array_equal(found.image, expected.image)
            np.testing.assert_array_equal(found.keys, expected.keys)
        assert stream.first_sample(6) == 10 + ranks


def test_the_cases_of_a_step_are_those_of_all_ranks(cases: list[PreparedCase]) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), accumulate=2)
    streams = [BatchStream(cases, train, GLIOMA, rank=rank, ranks=2) for rank in range(2)]
    seen = [name for stream in streams for name in stream.batch(3).case_ids]
    assert [stream.case_ids(3) for stream in streams] == [seen, seen]


def test_the_cases_of_a_step_include_those_that_gave_a_tumour(cases: list[PreparedCase]) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), batch_per_worker=4, carve_probability=1.0)
    stream = BatchStream(cases, train, GLIOMA, rank=0, ranks=1)
    names = stream.case_ids(3)
    assert tuple(names[::2]) == stream.batch(3).case_ids
    assert all(one != donor for one, donor in zip(names[::2], names[1::2], strict=True))


def test_a_stream_goes_on_from_any_step_and_hands_errors_over(
    cases: list[PreparedCase],
) -> None:
    stream = BatchStream(cases, TrainConfig(patch_vox=(8, 8, 8)), GLIOMA, rank=0, ranks=1)
    running = stream.from_step(5)
    np.testing.assert_array_equal(next(running).image, stream.batch(5).image)
    np.testing.assert_array_equal(next(running).image, stream.batch(6).image)
    running.close()
    gone = BatchStream(
        [PreparedCase(case_id="x", folder=Path("/nowhere"))],
        TrainConfig(patch_vox=(8, 8, 8)),
        GLIOMA,
        rank=0,
        ranks=1,
    )
    with pytest.raises(FileNotFoundError):
        next(gone.from_step(0))


def test_a_patch_that_may_be_zoomed_comes_with_what_lies_around_it(
    cases: list[PreparedCase],
) -> None:
    common = {"patch_vox": (8, 8, 8), "seed": 3}
    plain = BatchStream(cases, TrainConfig(**common), GLIOMA, rank=0, ranks=1).batch(2)  # type: ignore[arg-type]
    zoomed = TrainConfig(**common, zoom_probability=0.1)  # type: ignore[arg-type]
    wide = BatchStream(cases, zoomed, GLIOMA, rank=0, ranks=1).batch(2)
    assert wide.image.shape == (1, 10, 10, 10, 2)
    np.testing.assert_array_equal(wide.image[:, 1:-1, 1:-1, 1:-1], plain.image)
    np.testing.assert_array_equal(wide.label[:, 1:-1, 1:-1, 1:-1], plain.label)


def test_a_carved_patch_holds_voxels_of_two_cases(cases: list[PreparedCase]) -> None:
    def batch(probability: float) -> batches.Batch:
        train = TrainConfig(
            patch_vox=(16, 16, 16), batch_per_worker=8, seed=3, carve_probability=probability
        )
        return BatchStream(cases, train, GLIOMA, rank=0, ranks=1).batch(0)

    plain, carved = batch(0.0), batch(1.0)
    assert plain.case_ids == carved.case_ids
    values = {case.case_id: np.unique(case.image()).astype(np.float32) for case in cases}
    foreign = [
        ~np.isin(image, values[name])
        for image, name in zip(carved.image, carved.case_ids, strict=True)
    ]
    assert sum(one.any() for one in foreign) >= 3
    for one, image, before in zip(foreign, carved.image, plain.image, strict=True):
        np.testing.assert_array_equal(image[~one.any(-1)], before[~one.any(-1)])
