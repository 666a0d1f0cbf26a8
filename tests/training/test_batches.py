"""Feeding: the same samples for any number of ranks."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from ray_brats.recipes.config import TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training import batches, data
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
    running = stream.from_step(5, placed=lambda batch: batch)
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
        next(gone.from_step(0, placed=lambda batch: batch))


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


def test_a_sample_that_is_given_a_tumour_comes_with_the_patch_of_another_case(
    cases: list[PreparedCase],
) -> None:
    def batch(probability: float) -> batches.Batch:
        train = TrainConfig(
            patch_vox=(16, 16, 16), batch_per_worker=8, seed=3, carve_probability=probability
        )
        return BatchStream(cases, train, GLIOMA, rank=0, ranks=1).batch(0)

    plain, some, carved = batch(0.0), batch(0.5), batch(1.0)
    assert plain.donors is None
    assert some.donors is not None
    assert carved.donors is not None
    np.testing.assert_array_equal(carved.image, plain.image)
    assert carved.donors.receiver.tolist() == [*range(8)]
    assert 1 <= len(some.donors.receiver) <= 7
    values = {case.case_id: np.unique(case.image()) for case in cases}
    for image, name in zip(carved.donors.image, carved.case_ids, strict=True):
        assert not np.isin(image, values[name]).all()
    # A voxel of tumour is in the middle: it is no farther outside than its border.
    assert (carved.donors.distance.min(axis=(1, 2, 3)) < 0).all()
    np.testing.assert_array_equal(carved.donors.label > 0, carved.donors.distance < 0)


def test_parts_that_are_accumulated_take_their_donors_along(cases: list[PreparedCase]) -> None:
    train = TrainConfig(patch_vox=(16, 16, 16), batch_per_worker=8, carve_probability=0.5)
    batch = BatchStream(cases, train, GLIOMA, rank=0, ranks=1).batch(0)
    assert batch.donors is not None
    parts = batch.parts(2)
    assert [len(part["image"]) for part in parts] == [2] * 4
    receivers = [2 * n + part["donors"]["receiver"] for n, part in enumerate(parts)]
    np.testing.assert_array_equal(np.concatenate(receivers), batch.donors.receiver)
    images = np.concatenate([part["donors"]["image"] for part in parts])
    np.testing.assert_array_equal(images, batch.donors.image)


def test_a_dataset_of_before_gives_the_same_batches(
    cases: list[PreparedCase], tmp_path: Path
) -> None:
    train = TrainConfig(patch_vox=(16, 16, 16), batch_per_worker=8, carve_probability=0.5)
    for case in cases:
        folder = tmp_path / "before" / case.case_id
        folder.mkdir(parents=True)
        for name in (data.IMAGE, data.LABEL):
            (folder / name).write_bytes((case.folder / name).read_bytes())
        assert (case.folder / data.LABELLED).exists()
    before = [
        PreparedCase(case_id=one.case_id, folder=tmp_path / "before" / one.case_id) for one in cases
    ]
    new, old = (
        BatchStream(those, train, GLIOMA, rank=0, ranks=1).batch(0).parts(8)[0]
        for those in (cases, before)
    )
    np.testing.assert_equal(old, new)


def test_a_batch_that_is_waited_for_is_told_from_time_to_time(
    cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TOLD_SECONDS", 0.05)
    told: list[float] = []
    stream = BatchStream(cases, TrainConfig(patch_vox=(8, 8, 8)), GLIOMA, rank=0, ranks=1)

    def slowly(batch: batches.Batch) -> batches.Batch:
        time.sleep(0.4)
        return batch

    running = stream.from_step(0, placed=slowly, waits=lambda: told.append(time.monotonic()))
    next(running)
    running.close()
    assert 2 <= len(told) <= 8
