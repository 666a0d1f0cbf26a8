"""Processes that make batches: the same ones, in order, and their ends are told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ray_brats.errors import StageFailed
from ray_brats.recipes.config import TrainConfig
from ray_brats.recipes.tasks import GLIOMA
from ray_brats.training.batches import Batch, BatchStream
from ray_brats.training.data import PreparedCase
from ray_brats.training.producers import Producers

TRAIN = TrainConfig(
    patch_vox=(16, 16, 16), batch_per_worker=2, carve_probability=0.5, zoom_probability=0.2
)


@pytest.fixture
def stream(cases: list[PreparedCase]) -> BatchStream:
    return BatchStream(cases, TRAIN, GLIOMA, rank=1, ranks=2)


@pytest.fixture
def alone() -> Iterator[None]:
    """No process of ours is left behind."""
    before = {one.pid for one in psutil.Process().children()}
    yield
    assert {one.pid for one in psutil.Process().children()} <= before


def as_it_is(batch: Batch) -> Batch:
    return batch


@pytest.mark.parametrize("processes", [1, 3])
def test_batches_are_those_of_the_stream_whoever_makes_them(
    stream: BatchStream, processes: int, alone: None
) -> None:
    running = stream.from_step(4, placed=as_it_is, processes=processes)
    made = [next(running) for _ in range(7)]
    running.close()
    for step, batch in enumerate(made, start=4):
        np.testing.assert_equal(batch.parts(2), stream.batch(step).parts(2))
        assert batch.case_ids == stream.batch(step).case_ids


def test_what_a_batch_may_hold_is_no_less_than_what_it_holds(stream: BatchStream) -> None:
    sizes = []
    for step in range(20):
        batch = stream.batch(step)
        assert batch.donors is not None
        fields = [batch.image, batch.label, batch.keys, *vars(batch.donors).values()]
        sizes.append(sum(array.nbytes for array in fields))
    assert max(sizes) <= stream.most_bytes() <= 1.1 * max(sizes)


def test_an_error_is_raised_where_the_batch_is_used(alone: None, tmp_path: Path) -> None:
    gone = [PreparedCase(case_id="x", folder=tmp_path / "gone")]
    stream = BatchStream(gone, TRAIN, GLIOMA, rank=0, ranks=1)
    with Producers(stream, 0, 1, batch_bytes=1 << 20) as producers:
        for _ in range(3):
            with pytest.raises(FileNotFoundError, match="gone"):
                producers.batch(0)


def test_a_process_that_is_killed_is_told(stream: BatchStream, alone: None) -> None:
    running = stream.from_step(0, placed=as_it_is, processes=2)
    next(running)
    for child in psutil.Process().children():
        child.kill()
    with pytest.raises(StageFailed, match=r"makes samples ended \(signal 9\): .* memory"):
        all(running)
    running.close()


def test_processes_end_with_the_one_that_started_them(
    cases: list[PreparedCase], tmp_path: Path
) -> None:
    number = os.fork()
    if number == 0:
        made = Producers(
            BatchStream(cases, TRAIN, GLIOMA, rank=0, ranks=1), 0, 2, batch_bytes=1 << 20
        )
        made.batch(0)
        pids = [str(one.pid) for one in psutil.Process().children()]
        (tmp_path / "pids").write_text(" ".join(pids))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(number, 0)
    left = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    assert len(left) == 2
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive
