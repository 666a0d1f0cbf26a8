"""Feeding: the same samples for any number of ranks, and copies of remote cases."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ray_brats.errors import ArtefactError, StageFailed
from ray_brats.files import storage
from ray_brats.recipes.config import TrainConfig
from ray_brats.training import batches, data
from ray_brats.training.batches import BatchStream
from ray_brats.training.data import PreparedCase

pytestmark = pytest.mark.tf


def write_case(uri: str, seed: int) -> None:
    import io

    rng = np.random.default_rng(seed)
    label = (rng.random((20, 22, 18)) < 0.05).astype(np.uint8)
    for name, array in (("image", rng.normal(size=(20, 22, 18, 2))), ("label", label)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        storage.write_bytes(storage.join(uri, f"{name}.npy"), buffer.getvalue())
    storage.write_bytes(storage.join(uri, "done.json"), str(seed).encode())


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    for number in range(3):
        write_case(str(tmp_path / f"c{number}"), number)
    return [
        PreparedCase(case_id=f"c{number}", folder=tmp_path / f"c{number}") for number in range(3)
    ]


@pytest.mark.parametrize(("ranks", "batch", "accumulate"), [(1, 4, 1), (2, 2, 1), (2, 1, 2)])
def test_a_step_holds_the_same_samples_however_they_are_shared(
    cases: list[PreparedCase], ranks: int, batch: int, accumulate: int
) -> None:
    common = {"patch_vox": (8, 8, 8), "seed": 3}
    alone = BatchStream(cases, TrainConfig(batch_per_worker=4, **common), rank=0, ranks=1)  # type: ignore[arg-type]
    train = TrainConfig(batch_per_worker=batch, accumulate=accumulate, **common)  # type: ignore[arg-type]
    for step in (0, 7):
        shared = [
            BatchStream(cases, train, rank=rank, ranks=ranks).batch(step) for rank in range(ranks)
        ]
        images = np.concatenate([one.image for one in shared])
        np.testing.assert_array_equal(images, alone.batch(step).image)
        assert [*sum((one.case_ids for one in shared), ())] == [*alone.batch(step).case_ids]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_another_number_of_workers_goes_on_with_the_samples_that_come_next(
    cases: list[PreparedCase], ranks: int
) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), seed=3)
    alone = BatchStream(cases, train, rank=0, ranks=1)
    two = BatchStream(cases, train, rank=0, ranks=2)
    assert two.first_sample(5) == 10
    for rank in range(ranks):
        stream = BatchStream(cases, train, rank=rank, ranks=ranks)
        stream.goes_on_at(5, two.first_sample(5))
        for step in (5, 6):
            found, expected = stream.batch(step), alone.batch(10 + (step - 5) * ranks + rank)
            np.testing.assert_array_equal(found.image, expected.image)
            np.testing.assert_array_equal(found.keys, expected.keys)
        assert stream.first_sample(6) == 10 + ranks


def test_the_cases_of_a_step_are_those_of_all_ranks(cases: list[PreparedCase]) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), accumulate=2)
    streams = [BatchStream(cases, train, rank=rank, ranks=2) for rank in range(2)]
    seen = [name for stream in streams for name in stream.batch(3).case_ids]
    assert [stream.case_ids(3) for stream in streams] == [seen, seen]


def test_the_cases_of_a_step_include_those_that_gave_a_tumour(cases: list[PreparedCase]) -> None:
    train = TrainConfig(patch_vox=(8, 8, 8), batch_per_worker=4, carve_probability=1.0)
    stream = BatchStream(cases, train, rank=0, ranks=1)
    names = stream.case_ids(3)
    assert tuple(names[::2]) == stream.batch(3).case_ids
    assert all(one != donor for one, donor in zip(names[::2], names[1::2], strict=True))


def test_a_stream_goes_on_from_any_step_and_hands_errors_over(
    cases: list[PreparedCase],
) -> None:
    stream = BatchStream(cases, TrainConfig(patch_vox=(8, 8, 8)), rank=0, ranks=1)
    running = stream.from_step(5)
    np.testing.assert_array_equal(next(running).image, stream.batch(5).image)
    np.testing.assert_array_equal(next(running).image, stream.batch(6).image)
    running.close()
    gone = BatchStream(
        [PreparedCase(case_id="x", folder=Path("/nowhere"))],
        TrainConfig(patch_vox=(8, 8, 8)),
        rank=0,
        ranks=1,
    )
    with pytest.raises(FileNotFoundError):
        next(gone.from_step(0))


def test_remote_cases_are_copied_once_and_forgotten(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tempfile, "gettempdir", lambda: str(tmp_path))
    write_case(f"{bucket}/dataset/cases/c0", 1)
    case = data.fetch(f"{bucket}/dataset", "c0", run_uri="r")
    assert case.image().shape == (20, 22, 18, 2)
    storage.delete(f"{bucket}/dataset/cases/c0/image.npy")
    again = data.fetch(f"{bucket}/dataset", "c0", run_uri="r")
    assert again == case
    # Another version of the case, by its sidecar, is copied anew.
    write_case(f"{bucket}/dataset/cases/c0", 2)
    before = case.label().copy()
    data.fetch(f"{bucket}/dataset", "c0", run_uri="r")
    assert (case.label() != before).any()
    data.forget(f"{bucket}/dataset", run_uri="r")
    assert not case.folder.exists()


def test_copies_that_nobody_holds_go_after_a_day_or_where_room_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.tempfile, "gettempdir", lambda: str(tmp_path))
    folders = {}
    for name in ("old", "new", "held"):
        folders[name] = data.cache_folder("s3://d", name)
        with data.held("s3://d", run_uri=name):
            (folders[name] / "c0").mkdir()
    for name in ("old", "held"):
        os.utime(folders[name] / data.HELD, (0, 0))

    def left() -> set[str]:
        return {name for name, folder in folders.items() if (folder / "c0").exists()}

    with data.held("s3://d", run_uri="held"), data.held("s3://d", run_uri="another"):
        assert left() == {"new", "held"}
        data.drop_abandoned(folders["held"].parent, older_than_seconds=0)
        assert left() == {"held"}


def test_a_full_disk_is_a_sentence(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(data.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(data.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    write_case(f"{bucket}/dataset/cases/c0", 1)
    with pytest.raises(StageFailed, match="TMPDIR"):
        data.fetch(f"{bucket}/dataset", "c0", run_uri="r")


def test_a_patch_that_may_be_zoomed_comes_with_what_lies_around_it(
    cases: list[PreparedCase],
) -> None:
    common = {"patch_vox": (8, 8, 8), "seed": 3}
    plain = BatchStream(cases, TrainConfig(**common), rank=0, ranks=1).batch(2)  # type: ignore[arg-type]
    zoomed = TrainConfig(**common, zoom_probability=0.1)  # type: ignore[arg-type]
    wide = BatchStream(cases, zoomed, rank=0, ranks=1).batch(2)
    assert wide.image.shape == (1, 10, 10, 10, 2)
    np.testing.assert_array_equal(wide.image[:, 1:-1, 1:-1, 1:-1], plain.image)
    np.testing.assert_array_equal(wide.label[:, 1:-1, 1:-1, 1:-1], plain.label)


def test_a_carved_patch_holds_voxels_of_two_cases(cases: list[PreparedCase]) -> None:
    def batch(probability: float) -> batches.Batch:
        train = TrainConfig(
            patch_vox=(16, 16, 16), batch_per_worker=8, seed=3, carve_probability=probability
        )
        return BatchStream(cases, train, rank=0, ranks=1).batch(0)

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


@pytest.mark.parametrize("kept_bytes", [0, 100, 1000])
def test_a_damaged_case_is_named(cases: list[PreparedCase], kept_bytes: int) -> None:
    file = cases[0].folder / "image.npy"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(ArtefactError, match=r"image\.npy is damaged .* preprocess the cohort"):
        cases[0].image()
